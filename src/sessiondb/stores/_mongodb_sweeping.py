"""Sweeping: ending who is over, saying which ends nobody has announced, removing what has had its time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ASCENDING, DeleteOne, UpdateOne
from pymongo.errors import DuplicateKeyError

from sessiondb.core.change import new_change_id
from sessiondb.core.policy import SECOND, Caps
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores._mongodb_ending import Ending, any_of, end_all, expiry
from sessiondb.stores._mongodb_rows import ANY_SID, LIVING, NO_DATA, Document, deadline, readable, sid_of, sid_value
from sessiondb.stores._mongodb_url import Collection, Collections
from sessiondb.stores._steps import Writes
from sessiondb.stores._terms import FORGOTTEN_AT_ONCE, forgotten_before, next_announcement
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Ended, Swept

log = logging.getLogger("sessiondb")

_ENDED: Document = {"ended_at": {"$ne": None}}
_SPOILT_AGAIN = 3600 * SECOND  # when the sweeper speaks of it again


async def sweep(collections: Collections, writes: Writes, cutoffs: Cutoffs, limit: int) -> Swept:
    """See ``Store.sweep``. What it ends comes last, so that no error in between hides whom it has ended."""
    if not await _take_turn(collections.meta, cutoffs):
        return Swept()
    sessions = collections.sessions
    cursor = sessions.find({"check_at": {"$lte": cutoffs.now}}, dict(NO_DATA), batch_size=limit + 1)
    due, _ = await asyncio.gather(
        cursor.sort("check_at").limit(limit).to_list(), _forget(collections.users, writes, cutoffs)
    )
    endings: list[Ending] = []
    later: list[Any] = []
    purges: list[Any] = []
    unannounced: list[Record] = []
    for document in due:
        unmoved = {"_id": document["_id"], "check_at": document["check_at"]}
        record = readable(document)
        if document.get("ended_at") is not None:
            if (purge_at := _purge_of(document)) <= cutoffs.now:
                purges.append(DeleteOne({"_id": document["_id"], **_ENDED}))
            elif record is None:
                later.append(UpdateOne(unmoved, {"$set": {"check_at": purge_at}}))
            else:
                unannounced.append(record)
        elif record is None:
            log.warning(
                "MongoDB: the session with _id %r cannot be read; mend it, revoke it or remove it", document["_id"]
            )
            later.append(UpdateOne(unmoved, {"$set": {"check_at": cutoffs.now + _SPOILT_AGAIN}}))
        elif (over_at := cutoffs.caps.deadline(record)) + SWEEP_GRACE <= cutoffs.now:
            endings.append(expiry(record, cutoffs.caps))
        else:
            where = {**unmoved, **LIVING, "rev": record.rev}
            later.append(UpdateOne(where, {"$set": {"check_at": over_at + SWEEP_GRACE}}))
    purged, _, claimed = await asyncio.gather(
        _bulk(sessions, writes, purges),
        _bulk(sessions, writes, later),
        _claim(sessions, writes, unannounced, cutoffs),
    )
    done = await end_all(sessions, writes, endings, cutoffs)
    return Swept([one.report for one in done], purged, len(due) == limit, claimed)


async def _bulk(sessions: Collection, writes: Writes, changes: list[Any]) -> int:
    """Write all; how many were deleted."""
    return (await writes(sessions.bulk_write(changes, ordered=False))).deleted_count if changes else 0


def _purge_of(document: Mapping[str, Any]) -> int:
    """When a tombstone that is due has to go. Those of older versions have no other time, and go now."""
    purge_at = document.get("purge_at")
    return int(purge_at) if isinstance(purge_at, (int, float)) else 0


async def _claim(sessions: Collection, writes: Writes, tombstones: Sequence[Record], cutoffs: Cutoffs) -> list[Ended]:
    """Move ``tombstones`` on; those that this call has moved are to be announced by nobody else, if at all."""
    if not tombstones:
        return []
    mark = new_change_id()
    claims = [
        UpdateOne(
            {"_id": sid_value(record.sid), **_ENDED, "check_at": record.check_at},
            {"$set": {"check_at": next_announcement(record, cutoffs), "claim": mark}},
        )
        for record in tombstones
    ]
    result = await writes(sessions.bulk_write(claims, ordered=False))
    if cutoffs.announce_at is None:
        return []
    ours = {record.sid for record in tombstones}
    if result.matched_count < len(claims):
        where = {"_id": any_of(ours), "claim": mark}
        ours = {sid_of(document) async for document in sessions.find(where, {"_id": True})}
    return [
        Ended(record.sid, record.user_id, record.end_reason or "", record.ended_at or 0)
        for record in tombstones
        if record.sid in ours
    ]


async def announced(sessions: Collection, sids: Sequence[Sid]) -> None:
    """See ``Store.announced``."""
    if sids:
        where = {"_id": any_of(sids), **_ENDED, "$expr": {"$lt": ["$check_at", "$purge_at"]}}
        await sessions.update_many(where, [{"$set": {"check_at": "$purge_at"}}])


async def lower_checks(sessions: Collection, caps: Caps, after: str | None, limit: int) -> str | None:
    """See ``Store.lower_checks``. The server computes what is late; only sids are read."""
    rest = dict(ANY_SID) if after is None else {**ANY_SID, "$gt": sid_value(after)}
    cursor = sessions.find({"_id": rest}, {"_id": True}, batch_size=limit + 2).sort("_id", ASCENDING)
    found = await cursor.limit(limit + 1).to_list()
    if not found:
        return None
    last = found[min(limit, len(found)) - 1]
    latest = {"$add": [deadline(caps), SWEEP_GRACE]}
    where = {"_id": {**rest, "$lte": last["_id"]}, **LIVING, "$expr": {"$gt": ["$check_at", latest]}}
    await sessions.update_many(where, [{"$set": {"check_at": latest}}])
    return sid_of(last) if len(found) > limit else None


async def _forget(users: Collection, writes: Writes, cutoffs: Cutoffs) -> None:
    """Remove who was revoked long ago, some at a time. Who must go at the limit just now is decided anew."""
    old = {"not_before": {"$lt": forgotten_before(cutoffs)}}
    found = await users.find(old, {"_id": True}).limit(FORGOTTEN_AT_ONCE).to_list()
    if found:
        await writes(users.delete_many({"_id": {"$in": [user["_id"] for user in found]}, **old}))


async def _take_turn(meta: Collection, cutoffs: Cutoffs) -> bool:
    if cutoffs.worker is None:
        return True
    free = [{"worker": cutoffs.worker}, {"until": {"$lte": cutoffs.now}}]
    turn = {"$set": {"worker": cutoffs.worker, "until": cutoffs.now + cutoffs.turn}}
    try:
        await meta.update_one({"_id": "sweeper", "$or": free}, turn, upsert=True)
    except DuplicateKeyError:
        return False  # it is there, and is not free
    return True
