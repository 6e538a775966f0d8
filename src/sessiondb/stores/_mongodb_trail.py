"""The audit trail: events as documents, written once for each place, read newest first or along their stream."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection as AnyOf
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

from bson import encode
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, DeleteMany, UpdateMany
from pymongo.errors import BulkWriteError

from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, Seal
from sessiondb.core.sealing import GROUPS, Group
from sessiondb.stores._mongodb_errors import DUPLICATE
from sessiondb.stores._mongodb_rows import NOT_STORABLE, Document
from sessiondb.stores._mongodb_url import Collection
from sessiondb.stores._steps import Writes
from sessiondb.stores.base import EventPage, EventQuery, Position, Stream

TRIES = 3
_CHANCE_BITS = 11
_PLAIN = frozenset({str, int})
_TEXT = frozenset({str, type(None)})
_SALT = frozenset({bytes, type(None)})
# By group, what is erased with it. The commitments stay: digests are made of them.
_FIELDS: dict[Group, tuple[str, ...]] = {
    "who": ("user_id", "sid", "who_salt"),
    "actor": ("actor", "actor_salt"),
    "where": ("ip", "personal", "where_salt"),
}


# -- writing ----------------------------------------------------------------------------------------------


class Numbers:
    """The numbers by which events are listed. They grow with the time, as those of other processes do."""

    def __init__(self) -> None:
        self._last = 0

    def take(self, count: int) -> range:
        """The next ``count``: microseconds and chance, so that two processes seldom draw the same."""
        now = (time.time_ns() // 1000) << _CHANCE_BITS | secrets.randbelow(1 << _CHANCE_BITS)
        first = max(self._last + 1, now)
        self._last = first + count - 1
        return range(first, first + count)


def documents(numbers: Iterable[int], events: Iterable[Event]) -> list[RawBSONDocument]:
    """The documents of sealed ``events``. Raises ``StoreError`` for one that MongoDB cannot hold."""
    try:
        return [RawBSONDocument(encode(_document(*one))) for one in zip(numbers, events, strict=True)]
    except NOT_STORABLE as error:
        raise StoreError(
            f"An event cannot be stored in MongoDB ({type(error).__name__}): an integer beyond 64 bits, or text that "
            "is not valid Unicode. Give its details as other text."
        ) from error


def _document(number: int, event: Event) -> Document:
    seal = event.seal
    if seal is None:
        raise ValueError("an event without its seal cannot be stored; see sessiondb.core.sealing")
    fields: Document = {
        "_id": number,
        "at": event.at,
        "type": str(event.type),
        "sid": event.sid,
        "user_id": event.user_id,
        "actor": event.actor,
        "reason": event.reason,
        "ip": event.ip,
        "details": dict(event.details) or None,
        "personal": dict(event.personal) or None,
        "stream": seal.stream,
        "seq": seal.seq,
        "previous": seal.previous,
        "who_commitment": seal.who or None,
        "actor_commitment": seal.actor or None,
        "where_commitment": seal.where or None,
        "who_salt": seal.who_salt,
        "actor_salt": seal.actor_salt,
        "where_salt": seal.where_salt,
    }
    return {name: value for name, value in fields.items() if value is not None}


def takes_place(error: Mapping[str, Any]) -> bool:
    """Whether the server's ``error`` of one insert says that the event's place is taken, and not its number."""
    return error.get("code") == DUPLICATE and "_id" not in error.get("keyPattern", {})


async def append(collection: Collection, writes: Writes, numbers: Numbers, events: Sequence[Event]) -> None:
    """See ``Store.append``. The answer that a place is taken waits for the majority too, as every answer does."""
    for attempt in range(TRIES):
        if not events:
            return
        inserts = documents(numbers.take(len(events)), events)
        try:
            await writes(collection.insert_many(inserts, ordered=False))
            return
        except BulkWriteError as error:
            refused = [one for one in error.details["writeErrors"] if not takes_place(one)]
            is_other = any(one["code"] != DUPLICATE for one in refused) or error.details["writeConcernErrors"]
            if is_other or (refused and attempt == TRIES - 1):
                raise
            # Another process has drawn the same numbers.
            events = [events[one["index"]] for one in refused]


async def purge(collection: Collection, writes: Writes, through: Mapping[str, int]) -> int:
    """See ``Store.purge_events``."""
    purges = [DeleteMany({"stream": stream, "seq": {"$lte": seq}}) for stream, seq in through.items()]
    return (await writes(collection.bulk_write(purges, ordered=False))).deleted_count if purges else 0


async def blank(collection: Collection, writes: Writes, places: Iterable[Position], groups: AnyOf[Group]) -> int:
    """See ``Store.blank``."""
    by_stream: dict[str, set[int]] = {}
    for stream, seq in places:
        by_stream.setdefault(stream, set()).add(seq)
    fields = {field: "" for group in groups for field in _FIELDS[group]}
    if not by_stream or not fields:
        return 0
    blanks = [
        UpdateMany({"stream": stream, "seq": {"$in": sorted(seqs)}}, {"$unset": fields})
        for stream, seqs in by_stream.items()
    ]
    return (await writes(collection.bulk_write(blanks, ordered=False))).matched_count


# -- reading ----------------------------------------------------------------------------------------------


async def page(collection: Collection, query: EventQuery) -> EventPage:
    """See ``Store.events``."""
    where: Document = {}
    for name in ("user_id", "sid", "actor", "type"):
        if (value := getattr(query, name)) is not None:
            where[name] = value
    if query.after is not None:
        where["_id"] = {"$lt": query.after}
    between = {"$gte": query.since, "$lt": query.until}
    between = {name: at for name, at in between.items() if at is not None}
    if between:
        where["at"] = between
    cursor = collection.find(where, batch_size=query.limit + 2)
    found = await cursor.sort("_id", DESCENDING).limit(query.limit + 1).to_list()
    shown = found[: query.limit]
    following = int(shown[-1]["_id"]) if len(found) > len(shown) > 0 else None
    return EventPage([to_event(document) for document in shown], following)


async def trail(collection: Collection, stream: str, after: int, limit: int) -> list[Event]:
    """See ``Store.trail``."""
    where = {"stream": stream, "seq": {"$gt": after}}
    cursor = collection.find(where, batch_size=limit + 1)
    return [to_event(document) for document in await cursor.sort("seq", ASCENDING).limit(limit).to_list()]


async def streams(collection: Collection) -> list[Stream]:
    """See ``Store.streams``.

    Each command sorts as the index of places does and takes the first of each group, nothing else: then the server
    jumps from stream to stream in that index (a ``DISTINCT_SCAN``, whose direction may be either), see
    https://www.mongodb.com/docs/manual/reference/operator/aggregation/group/
    """
    firsts, lasts = await asyncio.gather(
        _first_of_each(collection, ASCENDING, "$seq"), _first_of_each(collection, DESCENDING, "$$ROOT")
    )
    begins = {one["_id"]: int(one["first"]) for one in firsts if isinstance(one["first"], int)}
    ends = {one["_id"]: one["first"] for one in lasts if isinstance(one["_id"], str)}
    # One that is in one answer only has begun, or was purged, meanwhile.
    return [Stream(name, begins[name], to_event(ends[name])) for name in sorted(ends.keys() & begins.keys())]


async def _first_of_each(collection: Collection, direction: int, what: str) -> list[dict[str, Any]]:
    stages: list[Document] = [
        {"$sort": {"stream": direction, "seq": direction}},
        {"$group": {"_id": "$stream", "first": {"$first": what}}},
    ]
    return await (await collection.aggregate(stages, allowDiskUse=True, batchSize=1000)).to_list()


def to_event(document: Mapping[str, Any]) -> Event:
    """The event in a document. One that somebody has spoilt is read too, and is found by who verifies it."""
    get = document.get
    try:
        type_, stream, previous = document["type"], document["stream"], document["previous"]
        sid, user_id, actor, reason, ip = get("sid"), get("user_id"), get("actor"), get("reason"), get("ip")
        whose, whoever, whence = get("who_commitment", b""), get("actor_commitment", b""), get("where_commitment", b"")
        who_salt, actor_salt, where_salt = get("who_salt"), get("actor_salt"), get("where_salt")
        if not (
            type(type_) is type(stream) is str
            and type(previous) is type(whose) is type(whoever) is type(whence) is bytes
            and _TEXT.issuperset(map(type, (sid, user_id, actor, reason, ip)))
            and _SALT.issuperset(map(type, (who_salt, actor_salt, where_salt)))
        ):
            return _mended(document)
        return Event(
            type=type_,
            at=index(document["at"]),
            sid=sid,
            user_id=user_id,
            actor=actor,
            reason=reason,
            ip=ip,
            details=_plain(document["details"]) if "details" in document else {},
            personal=_plain(document["personal"]) if "personal" in document else {},
            seal=Seal(
                stream,
                index(document["seq"]),
                previous,
                whose,
                whoever,
                whence,
                who_salt,
                actor_salt,
                where_salt,
            ),
        )
    except (AttributeError, KeyError, TypeError):
        return _mended(document)


def _plain(found: dict[str, str | int]) -> dict[str, str | int]:
    # BSON's 64-bit integers come as a type of their own, which must not get out of here.
    if _PLAIN.issuperset(map(type, found.values())):
        return found
    return {name: int(value) if isinstance(value, int) else _as(str, value, "", "") for name, value in found.items()}


def _as(kind: type, value: Any, otherwise: Any, spoilt: Any) -> Any:
    """``value``, ``otherwise`` if there is none, ``spoilt`` if it is of another kind."""
    return value if isinstance(value, kind) else otherwise if value is None else spoilt


def _mended(document: Mapping[str, Any]) -> Event:
    """The event in a document that has something of a wrong kind, in whose place is what nobody has sealed."""
    get = document.get
    seal = None
    if isinstance(stream := get("stream"), str):
        commitments = (_as(bytes, get(f"{group}_commitment"), b"", b"?") for group in GROUPS)
        salts = (_as(bytes, get(f"{group}_salt"), None, b"?") for group in GROUPS)
        seal = Seal(
            stream, int(_as(int, get("seq"), 0, 0)), _as(bytes, get("previous"), b"", b""), *commitments, *salts
        )
    return Event(
        type=_as(str, get("type"), "", ""),
        at=int(_as(int, get("at"), 0, 0)),
        details=_plain(_as(dict, get("details"), {}, {"": ""})),
        personal=_plain(_as(dict, get("personal"), {}, {"": ""})),
        seal=seal,
        **{name: _as(str, get(name), None, "") for name in ("sid", "user_id", "actor", "reason", "ip")},
    )
