"""What is kept to judge logins and to see how the app is used: histories, counters, sheets; and forgetting a user.

A history is one document a user, a counter one a key, a sheet one a writer, and each is found by its ``_id`` alone, so
that ``{_id: "hashed"}`` shards them too. Each has the time after which it goes twice: exactly, and as the Date by which
the server removes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bson.datetime_ms import DatetimeMS
from pymongo import ASCENDING, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from sessiondb.stores._mongodb_errors import DUPLICATE
from sessiondb.stores._mongodb_rows import Document
from sessiondb.stores._mongodb_url import Collection, Collections
from sessiondb.stores._steps import Writes
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet

TRIES = 5


def _goes_after(expires_at: int) -> Document:
    return {"expires_at": expires_at, "expires": DatetimeMS(expires_at // 1000)}


async def _upsert(collection: Collection, writes: Writes, upserts: Sequence[Any]) -> None:
    """Write all, side by side. Two that make one document at once: the later one is told so, and finds it then."""
    for attempt in range(TRIES):
        if not upserts:
            return
        try:
            await writes(collection.bulk_write(upserts, ordered=False))
            return
        except BulkWriteError as error:
            refused = error.details["writeErrors"]
            is_other = any(one["code"] != DUPLICATE for one in refused) or error.details["writeConcernErrors"]
            if is_other or attempt == TRIES - 1:
                raise
            upserts = [upserts[one["index"]] for one in refused]


# -- users ------------------------------------------------------------------------------------------------


async def forget_user(collections: Collections, writes: Writes, user_id: str) -> int:
    """See ``Store.forget_user``. Who was barred by ``not_before`` loses the bar last, when no session is left."""
    deleted = await writes(collections.sessions.delete_many({"user_id": user_id}))
    await asyncio.gather(
        writes(collections.users.delete_one({"_id": user_id})),
        writes(collections.histories.delete_one({"_id": user_id})),
    )
    return deleted.deleted_count


async def profile(collections: Collections, user_id: str | None, counters: Sequence[Counter]) -> Profile:
    """See ``Store.profile``; two commands side by side."""
    history, counts = await asyncio.gather(
        _history(collections.histories, user_id), _counts(collections.counters, counters)
    )
    return Profile(history, counts)


async def _history(histories: Collection, user_id: str | None) -> bytes:
    if user_id is None:
        return b""
    found = await histories.find_one({"_id": user_id}, {"logins": True})
    # Somebody may have spoilt it by hand, which keeps nobody from logging in.
    logins = None if found is None else found.get("logins")
    return b"".join(filter(_is_entry, logins)) if isinstance(logins, list) else b""


def _is_entry(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HISTORY_ENTRY_BYTES


async def record_logins(
    histories: Collection, writes: Writes, logins: Iterable[tuple[str, bytes]], expires_at: int
) -> None:
    """See ``Store.record_logins``."""
    by_user: dict[str, list[bytes]] = {}
    for user_id, entry in logins:
        by_user.setdefault(user_id, []).append(entry)
    upserts = []
    for user_id, entries in by_user.items():
        newest = entries[: -HISTORY_ENTRIES - 1 : -1]
        push = {"logins": {"$each": newest, "$position": 0, "$slice": HISTORY_ENTRIES}}
        upserts.append(UpdateOne({"_id": user_id}, {"$push": push, "$set": _goes_after(expires_at)}, upsert=True))
    await _upsert(histories, writes, upserts)


async def drop_login(histories: Collection, user_id: str, entry: bytes) -> bool:
    """See ``Store.drop_login``. One of several that are equal, the newest: ``$pull`` would take all."""
    at = {"$indexOfArray": ["$logins", entry]}
    others = {"$filter": {"input": {"$range": [0, {"$size": "$logins"}]}, "cond": {"$ne": ["$$this", "$$at"]}}}
    left = {"$map": {"input": others, "in": {"$arrayElemAt": ["$logins", "$$this"]}}}
    pipeline = [{"$set": {"logins": {"$let": {"vars": {"at": at}, "in": left}}}}]
    return (await histories.update_one({"_id": user_id, "logins": entry}, pipeline)).matched_count > 0


# -- counters ---------------------------------------------------------------------------------------------


def _counter(bucket: str, key: bytes) -> Document:
    return {"bucket": bucket, "key": key}


async def _counts(counters: Collection, wanted: Sequence[Counter]) -> list[int]:
    if not wanted:
        return []
    where = {"_id": {"$in": [_counter(*one) for one in wanted]}}
    found = await counters.find(where, {"n": True}, batch_size=len(wanted) + 1).to_list()
    numbers = {Counter(one["_id"]["bucket"], one["_id"]["key"]): int(one["n"]) for one in found}
    return [numbers.get(one, 0) for one in wanted]


async def keys_to_count(
    counters: Collection, bucket: str, adds: Mapping[bytes, int], most: int, expires_at: int
) -> list[bytes]:
    """Those of ``adds`` that are there or for which there is room, which the server counts by an index.

    It moves the time of the bucket, which may be done twice: where this fails nothing has been counted.
    """
    moved = {"_id.bucket": bucket, "expires_at": {"$ne": expires_at}}
    where = {"_id": {"$in": [_counter(bucket, key) for key in adds]}}
    found, _ = await asyncio.gather(
        counters.find(where, {"_id": True}, batch_size=len(adds) + 1).to_list(),
        counters.update_many(moved, {"$set": _goes_after(expires_at)}),
    )
    there = {one["_id"]["key"] for one in found}
    new = [key for key in adds if key not in there]
    if new:
        taken = await counters.count_documents({"_id.bucket": bucket}, limit=max(1, most))
        new = new[: max(0, most - taken)]
    return sorted({*there, *new})


async def count(
    counters: Collection, writes: Writes, bucket: str, adds: Mapping[bytes, int], keys: Iterable[bytes], expires_at: int
) -> None:
    """Add to the counters of ``keys``, each of which is made if it is not there."""
    upserts = []
    for key in keys:
        change = {"$inc": {"n": adds[key]}, "$set": _goes_after(expires_at)}
        upserts.append(UpdateOne({"_id": _counter(bucket, key)}, change, upsert=True))
    await _upsert(counters, writes, upserts)


# -- sheets -----------------------------------------------------------------------------------------------


def _place(sheet: Sheet) -> Document:
    return {"kind": sheet.kind, "bucket": sheet.bucket, "writer": sheet.writer}


async def publish(collection: Collection, writes: Writes, new: Sequence[Sheet]) -> None:
    """See ``Store.publish``. Of several for one place the last one counts."""
    latest = {(sheet.kind, sheet.bucket, sheet.writer): sheet for sheet in new}
    upserts = [
        ReplaceOne({"_id": _place(sheet)}, {"data": sheet.data, **_goes_after(sheet.expires_at)}, upsert=True)
        for sheet in latest.values()
    ]
    await _upsert(collection, writes, upserts)


async def sheets(collection: Collection, kind: str, since: int, until: int) -> list[Sheet]:
    """See ``Store.sheets``."""
    where = {"_id.kind": kind, "_id.bucket": {"$gte": since, "$lt": until}}
    order = [("_id.bucket", ASCENDING), ("_id.writer", ASCENDING)]
    found = await collection.find(where, batch_size=1000).sort(order).to_list()
    return [
        Sheet(one["_id"]["kind"], int(one["_id"]["bucket"]), one["_id"]["writer"], one["data"], int(one["expires_at"]))
        for one in found
    ]


async def withdraw(collection: Collection, old: Sequence[Sheet]) -> None:
    """See ``Store.withdraw``."""
    if old:
        await collection.delete_many({"_id": {"$in": [_place(sheet) for sheet in old]}})


# -- expiry -----------------------------------------------------------------------------------------------


async def expire(collections: Collections, writes: Writes, now: int, limit: int) -> int:
    """See ``Store.expire``."""
    gone = await asyncio.gather(
        *(
            _expire(collection, writes, now, limit)
            for collection in (collections.histories, collections.counters, collections.sheets)
        )
    )
    return sum(gone)


async def _expire(collection: Collection, writes: Writes, now: int, limit: int) -> int:
    # The Date is by its index, and rounded down: nothing that is over is later than this.
    over = {"expires": {"$lte": DatetimeMS(now // 1000)}, "expires_at": {"$lte": now}}
    found = await collection.find(over, {"_id": True}, batch_size=limit + 1).limit(limit).to_list()
    if not found:
        return 0
    deleted = await writes(collection.delete_many({"_id": {"$in": [one["_id"] for one in found]}, **over}))
    return deleted.deleted_count
