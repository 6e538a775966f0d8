"""What looks at many sessions at once: the limit per user, searching, ending by user, sweeping, events, counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from pymongo import DESCENDING, DeleteOne, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from sessiondb.core.change import new_change_id
from sessiondb.core.policy import SECOND, Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._limit import rivals_of
from sessiondb.stores._mongodb_rows import (
    ANY_SID,
    LIVING,
    NO_DATA,
    Document,
    deadline,
    end_update,
    readable,
    sid_of,
    sid_value,
    to_event,
)
from sessiondb.stores._mongodb_url import Collection, Collections
from sessiondb.stores.base import (
    SWEEP_GRACE,
    Admission,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Query,
    Stats,
    Swept,
)

log = logging.getLogger("sessiondb")

COUNT_EXACTLY = 1_000_000
_SAMPLE = 10_000
_PASSES = 3
_SPOILT_AGAIN = 3600 * SECOND  # when the sweeper speaks of it again
_PUSHED_OUT = 100  # more than can be under way at once for one user


async def _fetch(sessions: Collection, where: Document) -> list[Document]:
    # The whole answer at once: the default first batch is 101.
    return await sessions.find(where, dict(NO_DATA), batch_size=1000).to_list()


def _readable(documents: Iterable[Document]) -> list[Record]:
    return [record for record in map(readable, documents) if record is not None]


# -- ending -----------------------------------------------------------------------------------------------


class _Ending(msgspec.Struct, frozen=True):
    """How one session ends. ``if_unmoved``: only if it was neither seen nor written since it was read."""

    sid: Sid
    user_id: str | None
    reason: EndReason
    at: int
    if_unmoved: Record | None = None

    @property
    def report(self) -> Ended:
        return Ended(self.sid, self.user_id, self.reason.value, self.at)


def _expiry(record: Record, caps: Caps) -> _Ending:
    return _Ending(record.sid, record.user_id, caps.expiry_reason(record), caps.deadline(record), record)


async def _end(sessions: Collection, endings: Sequence[_Ending], purge_at: int) -> list[_Ending]:
    """Those of ``endings`` that this call has written; one round trip, two if somebody else was faster somewhere."""
    if not endings:
        return []
    # One id for all: it marks what was ended here.
    change_id = new_change_id()
    updates = []
    for one in endings:
        guard: Document = {}
        if one.if_unmoved is not None:
            # A touch leaves the revision, and signing in leaves last_seen_at: it gives another life.
            guard = {"last_seen_at": one.if_unmoved.last_seen_at, "rev": one.if_unmoved.rev}
        where = {"_id": sid_value(one.sid), **LIVING, **guard}
        updates.append(UpdateOne(where, end_update(change_id, one.reason, one.at, purge_at)))
    result = await sessions.bulk_write(updates, ordered=False)
    if result.matched_count == len(endings):
        return list(endings)
    where = {"_id": _any_of(one.sid for one in endings), "last_changes": change_id}
    ours = {sid_of(document) async for document in sessions.find(where, {"_id": True})}
    return [one for one in endings if one.sid in ours]


def _any_of(sids: Iterable[str]) -> Document:
    return {"$in": [sid_value(sid) for sid in sids]}


# -- the limit per user -----------------------------------------------------------------------------------


async def admit(collections: Collections, login: Login) -> Admission:
    """See ``Store.admit``. One round trip; at the limit two more, and one more for a user's first time there."""
    own_sid = sid_value(login.sid)
    forbidden, found = await asyncio.gather(
        collections.users.find_one({"_id": login.user_id}, {"not_before": True}),
        _fetch(collections.sessions, {"user_id": login.user_id, "$or": [dict(LIVING), {"_id": own_sid}]}),
    )
    records = _readable(found)
    own = next((record for record in records if record.sid == login.sid), None)
    if own is None or own.ended_at is not None:
        by_limit = own is not None and own.end_reason == EndReason.LIMIT
        return Admission("limit" if by_limit else "revoked")
    if forbidden is not None and forbidden.get("not_before", 0) > login.began_at:
        return Admission("revoked", await _leave(collections, login, [own], EndReason.REFUSED))
    if login.per_user is None:
        return Admission()
    rivals, most = rivals_of(login, login.per_user, records)
    if len(rivals) <= most:
        return Admission()
    out = await _push_out(collections.users, login, rivals, most, is_new=forbidden is None)
    # Not refusing: also those whom a login has pushed out that died before it could end them.
    refuses = login.on_limit == "refuse"
    leaving = [record for record in ([own] if refuses else rivals) if record.sid in out]
    ended = await _leave(collections, login, leaving, EndReason.REFUSED if refuses else EndReason.LIMIT)
    return Admission("limit" if own.sid in out else None, ended)


async def _leave(collections: Collections, login: Login, records: list[Record], reason: EndReason) -> list[Ended]:
    endings = [_Ending(record.sid, record.user_id, reason, login.now) for record in records]
    return [one.report for one in await _end(collections.sessions, endings, login.purge_at)]


async def _push_out(users: Collection, login: Login, rivals: Sequence[Record], most: int, *, is_new: bool) -> set[Sid]:
    """Who is out now, by the user's document.

    Concurrent logins see each other as surplus and would end each other. So who has to go is decided on one document,
    login after login: whoever is out already is no rival any more, and pushes nobody out.
    """
    own = sid_value(login.sid)
    candidates = [sid_value(record.sid) for record in rivals]
    living = {"$filter": {"input": candidates, "cond": {"$not": [{"$in": ["$$this", "$$out"]}]}}}
    over = {"$subtract": [{"$size": "$$living"}, most]}
    leave: Document = {"$slice": ["$$living", over]}
    if login.on_limit == "refuse":
        leave = {"$literal": [own]}
    grown = {"$slice": [{"$concatArrays": ["$$out", leave]}, -max(_PUSHED_OUT, len(candidates))]}
    is_full = {"$and": [{"$gt": [over, 0]}, {"$not": [{"$in": [own, "$$out"]}]}]}
    after = {
        "$let": {
            "vars": {"out": {"$ifNull": ["$pushed_out", []]}},
            "in": {"$let": {"vars": {"living": living}, "in": {"$cond": [is_full, grown, "$$out"]}}},
        }
    }
    user = {"_id": login.user_id}
    while True:
        if is_new:
            # Made by itself, once in a user's life: an upsert that meets another one does not always show the result.
            try:
                await users.insert_one(dict(user))
            except DuplicateKeyError:
                pass  # somebody else has just made it
        found = await users.find_one_and_update(
            user, [{"$set": {"pushed_out": after}}], {"pushed_out": True}, return_document=ReturnDocument.AFTER
        )
        if found is not None:
            break
        is_new = True  # removed since it was read
    known = {one: record.sid for one, record in zip(candidates, rivals, strict=True)}
    return {known[one] for one in found["pushed_out"] if one in known}


# -- searching, ending by user ----------------------------------------------------------------------------


def _condition(query: Query) -> Document:
    where: Document = {}
    if query.user_id is not None:
        where["user_id"] = query.user_id
    if query.sids is not None:
        where["_id"] = _any_of(query.sids)
    return where


async def find(collections: Collections, query: Query) -> Page:
    """See ``Store.find``."""
    conditions = [_condition(query), {"_id": dict(ANY_SID)}]
    if query.before is not None:
        conditions.append({"_id": {"$lt": sid_value(query.before)}})
    if query.state != "all":
        living = {"$expr": {"$gt": [deadline(query.caps), query.now]}}
        if query.state == "live":
            conditions.append({**LIVING, **living})
        else:
            conditions.append({"$or": [{"ended_at": {"$ne": None}}, {"$nor": [living]}]})
    cursor = collections.sessions.find({"$and": conditions}, batch_size=query.limit + 2)
    found = await cursor.sort("_id", DESCENDING).limit(query.limit + 1).to_list()
    shown = found[: query.limit]
    return Page(_readable(shown), sid_of(shown[-1]) if len(found) > len(shown) > 0 else None)


async def end_where(collections: Collections, query: Query, reason: EndReason) -> list[Ended]:
    """See ``Store.end_where``. Two round trips, more only where somebody comes or is seen meanwhile."""
    sessions = collections.sessions
    settled: set[str] = set() if query.keep is None else {query.keep}
    looks_again = False
    if query.not_before is not None and query.user_id is not None:
        looks_again = True
        _, living = await asyncio.gather(
            _forbid(collections.users, query.user_id, query.not_before), _living(sessions, query, settled)
        )
    else:
        living = await _living(sessions, query, settled)
    ended: list[Ended] = []
    passes_left = _PASSES
    while living or looks_again:
        endings = [_ending(document, query, reason, is_last=passes_left == 1) for document in living]
        settled.update(one.sid for one in endings)
        ending = _end(sessions, endings, query.purge_at)
        if looks_again:
            # A login that has not seen not_before had written its session by then: it is seen now.
            done, living = await asyncio.gather(ending, _living(sessions, query, settled))
            looks_again = False
        else:
            done, living = await ending, []
        ended += [one.report for one in done if one.if_unmoved is None]
        missed = {one.sid for one in endings if one.if_unmoved is not None} - {one.sid for one in done}
        if missed:
            # Somebody was there after the reading. Still so at the last look, they are ended for the reason given.
            passes_left -= 1
            settled -= missed
            living = await _living(sessions, query, settled)
    return sorted(ended, key=lambda one: one.sid)


async def _forbid(users: Collection, user_id: str, not_before: int) -> None:
    for attempt in range(2):
        try:
            await users.update_one({"_id": user_id}, {"$max": {"not_before": not_before}}, upsert=True)
        except DuplicateKeyError:
            if attempt:
                raise
        else:
            return  # else two made it at once: it is there now


async def _living(sessions: Collection, query: Query, but: set[str]) -> list[Document]:
    spared = {"_id": {"$nin": [sid_value(sid) for sid in but], **ANY_SID}}
    return await _fetch(sessions, {"$and": [{**_condition(query), **LIVING}, spared]})


def _ending(document: Mapping[str, Any], query: Query, reason: EndReason, *, is_last: bool) -> _Ending:
    record = readable(document)
    if record is not None and not is_last and query.caps.deadline(record) <= query.now:
        return _expiry(record, query.caps)
    # One that somebody has spoilt too: whether it is over cannot be told.
    user_id = document.get("user_id")
    return _Ending(sid_of(document), user_id if isinstance(user_id, str) else None, reason, query.now)


# -- sweeping ---------------------------------------------------------------------------------------------


async def sweep(collections: Collections, cutoffs: Cutoffs, limit: int) -> Swept:
    """See ``Store.sweep``."""
    if not await _take_turn(collections.meta, cutoffs):
        return Swept()
    sessions = collections.sessions
    cursor = sessions.find({"check_at": {"$lte": cutoffs.now}}, dict(NO_DATA), batch_size=limit + 1)
    due = await cursor.sort("check_at").limit(limit).to_list()
    endings: list[_Ending] = []
    later: list[Any] = []
    purges: list[Any] = []
    for document in due:
        own = {"_id": document["_id"]}
        record = readable(document)
        if document.get("ended_at") is not None:
            purges.append(DeleteOne({**own, "ended_at": {"$ne": None}}))
        elif record is None:
            log.warning("MongoDB: the session with _id %r cannot be read; mend it, revoke it or remove it", own["_id"])
            unmoved = {"check_at": document["check_at"]}
            later.append(UpdateOne({**own, **unmoved}, {"$set": {"check_at": cutoffs.now + _SPOILT_AGAIN}}))
        elif (over_at := cutoffs.caps.deadline(record)) + SWEEP_GRACE <= cutoffs.now:
            endings.append(_expiry(record, cutoffs.caps))
        else:
            unmoved = {"check_at": record.check_at, "rev": record.rev}
            later.append(UpdateOne({**own, **LIVING, **unmoved}, {"$set": {"check_at": over_at + SWEEP_GRACE}}))
    done, purged, _ = await asyncio.gather(
        _end(sessions, endings, cutoffs.now + cutoffs.keep_ended), _bulk(sessions, purges), _bulk(sessions, later)
    )
    return Swept([one.report for one in done], purged, len(due) == limit)


async def _bulk(sessions: Collection, writes: list[Any]) -> int:
    """Write all; how many were deleted."""
    return (await sessions.bulk_write(writes, ordered=False)).deleted_count if writes else 0


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


# -- events and counts ------------------------------------------------------------------------------------


async def events(collections: Collections, query: EventQuery) -> EventPage:
    """See ``Store.events``."""
    where: Document = {}
    for name in ("user_id", "sid", "type"):
        if (value := getattr(query, name)) is not None:
            where[name] = value
    if query.after is not None:
        where["_id"] = {"$lt": query.after}
    between = {"$gte": query.since, "$lt": query.until}
    between = {name: at for name, at in between.items() if at is not None}
    if between:
        where["at"] = between
    cursor = collections.events.find(where, batch_size=query.limit + 2)
    found = await cursor.sort("_id", DESCENDING).limit(query.limit + 1).to_list()
    shown = found[: query.limit]
    following = int(shown[-1]["_id"]) if len(found) > len(shown) > 0 else None
    return EventPage([to_event(document) for document in shown], following)


async def stats(collections: Collections) -> Stats:
    """See ``Store.stats``; above a million sessions from a sample of ten thousand."""
    total, events, size = await asyncio.gather(
        collections.sessions.estimated_document_count(),
        collections.events.estimated_document_count(),
        collections.database.command("dbStats"),
    )
    sampled = total > COUNT_EXACTLY
    is_living = {"$eq": [{"$ifNull": ["$ended_at", None]}, None]}
    stages: list[Document] = [{"$sample": {"size": _SAMPLE}}] if sampled else []
    stages.append(
        {
            "$group": {
                "_id": "$user_id",
                "all": {"$sum": 1},
                "live": {"$sum": {"$cond": [is_living, 1, 0]}},
            }
        }
    )
    sums = {
        "$group": {
            "_id": None,
            "all": {"$sum": "$all"},
            "live": {"$sum": "$live"},
            "users": {
                "$sum": {
                    "$cond": [{"$and": [{"$gt": ["$live", 0]}, {"$ne": [{"$ifNull": ["$_id", None]}, None]}]}, 1, 0]
                }
            },
        }
    }
    found = await (await collections.sessions.aggregate([*stages, sums], allowDiskUse=True)).to_list()
    counts = found[0] if found else {"all": 0, "live": 0, "users": 0}
    scale = total / counts["all"] if sampled and counts["all"] else 1.0
    return Stats(
        live=round(counts["live"] * scale),
        ended=round((counts["all"] - counts["live"]) * scale),
        users=round(counts["users"] * scale),
        events=events,
        size_bytes=int(size["storageSize"] + size["indexSize"]),
    )
