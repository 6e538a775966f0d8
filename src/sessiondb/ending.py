"""Ending sessions from outside them: one, a user's, those that have something in common, everybody's; and locks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from sessiondb.core.events import Event, EventType
from sessiondb.core.record import NO_USER, EndReason
from sessiondb.core.token import Sid
from sessiondb.listing import Moment, Selection, moment, walk
from sessiondb.runtime import Runtime
from sessiondb.stores.base import Ended, Query

LOCKED_FOR_GOOD = 253_370_764_800_000_000  # the year 9999

# What only the library itself can know of an end.
_NOT_GIVEN = frozenset(
    {
        EndReason.LOGIN,
        EndReason.EXPIRED_IDLE,
        EndReason.EXPIRED_ABSOLUTE,
        EndReason.LIMIT,
        EndReason.REFUSED,
        EndReason.REUSE,
        EndReason.UNDELIVERED,
        EndReason.IMPERSONATION_ENDED,
    }
)


def given_reason(reason: EndReason | str) -> EndReason:
    """``reason`` as somebody may give it who ends a session. Raises ``ValueError``."""
    known = sorted(one.value for one in EndReason if one not in _NOT_GIVEN)
    if reason not in known:
        raise ValueError(f"reason is {reason!r:.100}; use one of EndReason: {', '.join(known)}.")
    return EndReason(reason)


async def end_sids(runtime: Runtime, sids: Sequence[Sid], reason: EndReason, user_id: str | None = None) -> list[Ended]:
    """End those of ``sids`` that are living, and, with ``user_id``, that user's. Raises ``StoreError``."""
    now = runtime.now()
    query = Query(now=now, caps=runtime.caps, sids=sids, user_id=user_id, purge_at=now + runtime.policies.keep_ended)
    async with runtime.using_store() as store:
        ended = await store.end_where(query, reason)
    runtime.report_ended(ended)
    return ended


async def end_user(
    runtime: Runtime,
    user_id: str,
    reason: EndReason = EndReason.REVOKED,
    *,
    keep: Sid | None = None,
    not_before: int | None = None,
) -> int:
    """End every session of ``user_id`` but ``keep``, and their logins that began before ``not_before`` (now)."""
    now = runtime.now()
    query = Query(
        now=now,
        caps=runtime.caps,
        user_id=user_id,
        keep=keep,
        not_before=now if not_before is None else not_before,
        purge_at=now + runtime.policies.keep_ended,
    )
    async with runtime.using_store() as store:
        ended = await store.end_where(query, reason)
    runtime.report_ended(ended)
    return len(ended)


async def revoke_one(
    runtime: Runtime, sid: Sid, reason: EndReason, user_id: str | None = None, actor: str | None = None
) -> bool:
    """End one session; whether it was living. That somebody else than its user has done it is an event of its own."""
    if actor is None:
        return bool(await end_sids(runtime, [sid], reason, user_id))
    async with noted(runtime, EventType.SESSIONS_REVOKED, user_id, reason, actor=actor, sid=sid) as details:
        ended = details["ended"] = len(await end_sids(runtime, [sid], reason, user_id))
    return bool(ended)


async def revoke_all(
    runtime: Runtime, user_id: str, reason: EndReason, keep: Sid | None = None, actor: str | None = None
) -> int:
    """``end_user``, with its event."""
    async with noted(runtime, EventType.USER_REVOKED, user_id, reason, actor=actor) as details:
        ended = details["ended"] = await end_user(runtime, user_id, reason, keep=keep)
    return ended


async def revoke_where(
    runtime: Runtime, selection: Selection, reason: EndReason, *, dry_run: bool = False, actor: str | None = None
) -> int:
    """End the living sessions that are meant, page by page; how many. With ``dry_run`` they are only counted."""
    count = 0
    if dry_run:
        async for records in walk(runtime, selection):
            count += len(records)
        return count
    async with noted(runtime, EventType.SESSIONS_REVOKED, selection.user_id, reason, actor=actor) as details:
        async for records in walk(runtime, selection):
            if records:
                count += len(await end_sids(runtime, [record.sid for record in records], reason))
        details["ended"] = count
    return count


async def revoke_everyone(
    runtime: Runtime, reason: EndReason, *, dry_run: bool = False, actor: str | None = None
) -> int:
    """End every session that there is; how many.

    A session that was being written while its page was read is found by the next pass.
    """
    await runtime.ready()  # its clock says what "now" is
    selection = Selection(created_before=runtime.now() + 1)
    if dry_run:
        return await _end_all(runtime, selection, reason, dry_run=True)
    async with noted(runtime, EventType.SESSIONS_REVOKED, None, reason, {"everyone": 1}, actor=actor) as details:
        ended = details["ended"] = await _end_all(runtime, selection, reason)
    return ended


async def _end_all(runtime: Runtime, selection: Selection, reason: EndReason, *, dry_run: bool = False) -> int:
    ended, found = 0, -1
    while found:
        found = 0
        async for records in walk(runtime, selection):
            found += len(records)
            if records and not dry_run:
                ended += len(await end_sids(runtime, [record.sid for record in records], reason))
        if dry_run:
            return found
    return ended


async def lock_user(
    runtime: Runtime, user_id: str, until: Moment | None, reason: EndReason, actor: str | None = None
) -> int:
    """End all sessions of ``user_id`` and refuse every login that begins before ``until``; how many were living."""
    await runtime.ready()  # its clock says what "now" is
    not_before = LOCKED_FOR_GOOD if until is None else moment("until", until)
    if not_before <= runtime.now():
        raise ValueError("until is past already, so it would lock nobody; use a later time, or None for good.")
    known = {} if until is None else {"until": not_before}
    async with noted(runtime, EventType.USER_LOCKED, user_id, reason, known, actor=actor) as details:
        ended = details["ended"] = await end_user(runtime, user_id, reason, not_before=not_before)
    return ended


async def unlock_user(runtime: Runtime, user_id: str, actor: str | None = None) -> None:
    """Let ``user_id`` log in again, by requests that begin from now on."""
    await runtime.ready()
    now = runtime.now()
    query = Query(now=now, caps=runtime.caps, user_id=user_id, sids=(), not_before=now, lift=True)
    async with noted(runtime, EventType.USER_UNLOCKED, user_id, None, actor=actor), runtime.using_store() as store:
        await store.end_where(query, EndReason.REVOKED)


def link_name(link: bytes) -> str:
    """The name (of ``Login.also``) whose ``not_before`` forbids logins with ``link``.

    A million names at most, however many logouts there are: what is kept of them counts only for logins under way. Two
    links of one name cost a login that began before somebody else's logout, in that second, another try.
    """
    return f"{NO_USER}idp:{link.hex()[:5]}"


async def end_links(runtime: Runtime, links: Sequence[bytes], reason: EndReason) -> int:
    """End the sessions that were created with one of ``links``, and refuse the logins under way with them.

    First all are forbidden: a login that does not know it yet has written a session that is found then.
    """
    await runtime.ready()
    now = runtime.now()
    purge_at = now + runtime.policies.keep_ended

    async with runtime.using_store() as store:
        await asyncio.gather(
            *(
                store.end_where(Query(now=now, caps=runtime.caps, user_id=name, sids=(), not_before=now), reason)
                for name in map(link_name, links)
            )
        )
        found = await asyncio.gather(
            *(
                store.end_where(Query(now=now, caps=runtime.caps, link=link, purge_at=purge_at), reason)
                for link in links
            )
        )
    ended = [one for part in found for one in part]
    runtime.report_ended(ended)
    return len(ended)


@asynccontextmanager
async def noted(
    runtime: Runtime,
    type_: EventType,
    user_id: str | None,
    reason: str | None,
    details: Mapping[str, str | int] | None = None,
    *,
    actor: str | None = None,
    sid: Sid | None = None,
) -> AsyncIterator[dict[str, str | int]]:
    """Around what somebody does to others' sessions: its event, to whose details the block may add what came of it.

    Where the audit is required the event is written first, without that, and what cannot be told is not done.
    """
    await runtime.ready()
    told = dict(details or {})
    event = Event(
        type=type_,
        at=runtime.now(),
        sid=sid,
        user_id=user_id,
        actor=actor,
        reason=reason and str(reason),
        details=told,
    )
    if runtime.audit_required:
        async with runtime.using_store() as store:
            await store.append([replace(event, details=dict(told))])
    yield told
    runtime.counters[type_.value] += 1
    if not runtime.audit_required:
        runtime.background.event(replace(event, at=runtime.now()))
