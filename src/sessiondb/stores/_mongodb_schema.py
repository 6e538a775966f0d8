"""The collections of the MongoDB store: their indexes made if absent, their version checked."""

from __future__ import annotations

import asyncio
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores._mongodb_url import Collection, Collections

SCHEMA_VERSION = 1
_OLDEST_WIRE_VERSION = 13  # MongoDB 5.0
_LEFT_OVER_SECONDS = 86_400


def indexes() -> dict[str, list[IndexModel]]:
    """By collection, the indexes. None holds a field that a touch writes.

    The sweeper removes what has had its time; the server's own removal, a day later, is for where nothing sweeps.
    """
    user = {"user_id": {"$gte": ""}}  # whoever has one; the planner takes it for any user that is asked for
    return {
        "sessions": [
            IndexModel([("user_id", ASCENDING), ("_id", ASCENDING)], name="user", partialFilterExpression=user),
            IndexModel([("check_at", ASCENDING)], name="check"),
            IndexModel(
                [("links", ASCENDING), ("_id", ASCENDING)],
                name="links",
                partialFilterExpression={"links": {"$gte": b""}},  # any link, as above
            ),
            IndexModel(
                [("purge_after", ASCENDING)],
                name="purge",
                expireAfterSeconds=_LEFT_OVER_SECONDS,
                partialFilterExpression={"purge_after": {"$exists": True}},
            ),
        ],
        "users": [
            IndexModel(
                [("not_before", ASCENDING)],
                name="not_before",
                partialFilterExpression={"not_before": {"$exists": True}},
            ),
        ],
        "events": [
            IndexModel([("stream", ASCENDING), ("seq", ASCENDING)], name="place", unique=True),
            IndexModel([("user_id", ASCENDING), ("_id", ASCENDING)], name="user", partialFilterExpression=user),
            IndexModel(
                [("sid", ASCENDING), ("_id", ASCENDING)], name="sid", partialFilterExpression={"sid": {"$gte": ""}}
            ),
            IndexModel(
                [("actor", ASCENDING), ("_id", ASCENDING)],
                name="actor",
                partialFilterExpression={"actor": {"$gte": ""}},
            ),
            IndexModel([("at", ASCENDING)], name="at"),
        ],
        "histories": [_expiry()],
        "counters": [
            # What a bucket holds is counted in it, and a bucket whose time has moved is found in it.
            IndexModel([("_id.bucket", ASCENDING), ("expires_at", ASCENDING)], name="bucket"),
            _expiry(),
        ],
        "sheets": [
            IndexModel([(f"_id.{name}", ASCENDING) for name in ("kind", "bucket", "writer")], name="place"),
            _expiry(),
        ],
    }


def _expiry() -> IndexModel:
    return IndexModel([("expires", ASCENDING)], name="expiry", expireAfterSeconds=_LEFT_OVER_SECONDS)


async def missing_indexes(collection: Collection, wanted: list[IndexModel]) -> list[IndexModel]:
    """Those of ``wanted`` that ``collection`` lacks, by their names."""
    there = await collection.index_information()
    return [index for index in wanted if index.document["name"] not in there]


async def prepare(collections: Collections) -> dict[str, Any]:
    """Make what is missing, and return what the server says of itself.

    Raises ``ConfigurationError`` for an old or lonely server, or a newer layout.
    """
    hello = await collections.hello()
    _check_server(hello)
    found = await collections.meta.find_one({"_id": "schema_version"})
    if found is not None and found.get("value") != SCHEMA_VERSION:
        raise ConfigurationError(
            f"The collections of {collections.meta.name.removesuffix('meta')}* have layout version "
            f"{found.get('value')}, and this sessiondb knows version {SCHEMA_VERSION}. Install the sessiondb that made "
            "them, or name another database or ?prefix=."
        )
    await asyncio.gather(*(_make(getattr(collections, name), wanted) for name, wanted in indexes().items()))
    if found is None:
        try:
            await collections.meta.insert_one({"_id": "schema_version", "value": SCHEMA_VERSION})
        except DuplicateKeyError:
            pass  # another worker starts at the same time
    return hello


async def _make(collection: Collection, wanted: list[IndexModel]) -> None:
    missing = await missing_indexes(collection, wanted)
    if missing:
        await collection.create_indexes(missing)


def is_sharded(hello: dict[str, Any]) -> bool:
    """Whether that was said by the router of a sharded cluster."""
    return hello.get("msg") == "isdbgrid"


def _check_server(hello: dict[str, Any]) -> None:
    if hello.get("maxWireVersion", 0) < _OLDEST_WIRE_VERSION:
        raise ConfigurationError("This MongoDB is older than 5.0, which sessiondb needs: upgrade the server.")
    if "setName" not in hello and not is_sharded(hello):
        raise ConfigurationError(
            "This MongoDB runs alone, and cannot tell a repeated write from a new one. Make it a replica set, one "
            "member is enough: start it with --replSet rs0, then rs.initiate() in mongosh."
        )
