"""What looks at many sessions at once: the limit per user, searching, ending by user."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import DESCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError

from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._limit import not_before_of, rivals_of, too_late
from sessiondb.stores._mongodb_ending import Ending, all_readable, any_of, end_all, expiry, fetch
from sessiondb.stores._mongodb_rows import ANY_SID, LIVING, Document, deadline, readable, sid_of, sid_value
from sessiondb.stores._mongodb_url import Collection, Collections
from sessiondb.stores._steps import Writes
from sessiondb.stores.base import Admission, Ended, Login, Page, Query

_PASSES = 3
_PUSHED_OUT = 100  # more than can be under way at once for one user


# -- the limit per user -----------------------------------------------------------------------------------


async def admit(collections: Collections, writes: Writes, login: Login) -> Admission:
    """See ``Store.admit``. One round trip; at the limit two more, and one more for a user's first time there."""
    own_sid = sid_value(login.sid)
    names = [login.user_id, *login.also]
    users, found = await asyncio.gather(
        collections.users.find({"_id": {"$in": names}}, {"not_before": True}).to_list(),
        fetch(collections.sessions, {"user_id": login.user_id, "$or": [dict(LIVING), {"_id": own_sid}]}),
    )
    records = all_readable(found)
    own = next((record for record in records if record.sid == login.sid), None)
    forbidden = not_before_of(login, (user.get("not_before") for user in users))
    if own is None or own.ended_at is not None:
        return too_late(own, forbidden)
    if forbidden is not None:
        return Admission("revoked", await _leave(collections, writes, login, [own], EndReason.REFUSED), forbidden)
    if login.per_user is None:
        return Admission()
    rivals, most = rivals_of(login, login.per_user, records)
    if len(rivals) <= most:
        return Admission()
    out = await _push_out(
        collections.users, writes, login, rivals, most, is_new=login.user_id not in {user["_id"] for user in users}
    )
    # Not refusing: also those whom a login has pushed out that died before it could end them.
    refuses = login.on_limit == "refuse"
    leaving = [record for record in ([own] if refuses else rivals) if record.sid in out]
    ended = await _leave(collections, writes, login, leaving, EndReason.REFUSED if refuses else EndReason.LIMIT)
    return Admission("limit" if own.sid in out else None, ended)


async def _leave(
    collections: Collections, writes: Writes, login: Login, records: list[Record], reason: EndReason
) -> list[Ended]:
    endings = [Ending(record.sid, record.user_id, reason, login.now) for record in records]
    return [one.report for one in await end_all(collections.sessions, writes, endings, login)]


async def _push_out(
    users: Collection, writes: Writes, login: Login, rivals: Sequence[Record], most: int, *, is_new: bool
) -> set[Sid]:
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
                await writes(users.insert_one(dict(user)))
            except DuplicateKeyError:
                pass  # somebody else has just made it
        found = await writes(
            users.find_one_and_update(
                user, [{"$set": {"pushed_out": after}}], {"pushed_out": True}, return_document=ReturnDocument.AFTER
            )
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
        where["_id"] = any_of(query.sids)
    if query.link is not None:
        where["links"] = query.link
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
    return Page(all_readable(shown), sid_of(shown[-1]) if len(found) > len(shown) > 0 else None)


async def end_where(collections: Collections, writes: Writes, query: Query, reason: EndReason) -> list[Ended]:
    """See ``Store.end_where``. Two round trips, more only where somebody comes or is seen meanwhile."""
    sessions = collections.sessions
    settled: set[str] = set() if query.keep is None else {query.keep}
    looks_again = False
    if query.not_before is not None and query.user_id is not None:
        looks_again = True
        _, living = await asyncio.gather(
            _forbid(collections.users, writes, query.user_id, query.not_before, lift=query.lift),
            _living(sessions, query, settled),
        )
    else:
        living = await _living(sessions, query, settled)
    ended: list[Ended] = []
    passes_left = _PASSES
    while living or looks_again:
        endings = [_ending(document, query, reason, is_last=passes_left == 1) for document in living]
        settled.update(one.sid for one in endings)
        ending = end_all(sessions, writes, endings, query)
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


async def _forbid(users: Collection, writes: Writes, user_id: str, not_before: int, *, lift: bool) -> None:
    latest = "$min" if lift else "$max"
    for attempt in range(2):
        try:
            await writes(users.update_one({"_id": user_id}, {latest: {"not_before": not_before}}, upsert=True))
        except DuplicateKeyError:
            if attempt:
                raise
        else:
            return  # else two made it at once: it is there now


async def _living(sessions: Collection, query: Query, but: set[str]) -> list[Document]:
    spared = {"_id": {"$nin": [sid_value(sid) for sid in but], **ANY_SID}}
    return await fetch(sessions, {"$and": [{**_condition(query), **LIVING}, spared]})


def _ending(document: Mapping[str, Any], query: Query, reason: EndReason, *, is_last: bool) -> Ending:
    record = readable(document)
    if record is not None and not is_last and query.caps.deadline(record) <= query.now:
        return expiry(record, query.caps)
    # One that somebody has spoilt too: whether it is over cannot be told.
    user_id = document.get("user_id")
    return Ending(sid_of(document), user_id if isinstance(user_id, str) else None, reason, query.now)
