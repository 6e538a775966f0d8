"""Sweeping, and mending the lists: which sessions there are to look at, and whose they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from sessiondb.core.errors import StoreError
from sessiondb.core.policy import Caps
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_calls as calling
from sessiondb.stores import _redis_links as links
from sessiondb.stores import _redis_list_scripts as scripts
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores._redis_nodes import Keyed, call
from sessiondb.stores._redis_users import Ending, end_all, glance, glance_with_links, list_as_ended
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Ended, Swept

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

log = logging.getLogger("sessiondb")

_NEVER = -1
_SPARE = 8


async def sweep(store: RedisStore, cutoffs: Cutoffs, limit: int) -> Swept:
    """See ``Store.sweep``. What it ends comes last, so that no error in between hides whom it has ended."""
    if cutoffs.worker is not None:
        until = cutoffs.now + cutoffs.turn
        [mine] = await store.run([call(scripts.TURN, [store.keys.turn], cutoffs.worker, cutoffs.now, until)])
        if not mine:
            return Swept()
    if store.is_cluster:
        await calling.settle_due(store, cutoffs.now)
    sids = await _due(store, cutoffs.now, limit)
    expired: list[Record] = []
    purges: list[Sid] = []
    moves: list[_Move] = []
    times: dict[Sid, int] = {}
    for sid, (record, named) in zip(sids, await glance_with_links(store, sids), strict=True):
        if record is None:
            times[sid] = _NEVER
        elif record.ended_at is not None:
            purge_at = rows.purged_at(record)
            if record.check_at > cutoffs.now:
                times[sid] = record.check_at
            elif purge_at <= cutoffs.now:
                purges.append(sid)
            else:
                again_at = purge_at if cutoffs.announce_at is None else min(cutoffs.announce_at, purge_at)
                moves.append(_Move(record, again_at, named))
        elif (deadline := cutoffs.caps.deadline(record)) + SWEEP_GRACE <= cutoffs.now:
            expired.append(record)
        else:
            moves.append(_Move(record, deadline + SWEEP_GRACE, named))
    purged = await _purge(store, purges, cutoffs.now)
    claimed = [move.record for move in await _move(store, moves, times) if move.record.ended_at is not None]
    ended = await _end(store, expired, cutoffs)
    unannounced = [_report(record) for record in claimed] if cutoffs.announce_at is not None else []
    return Swept(ended, purged, len(sids) == limit, unannounced)


async def _due(store: RedisStore, now: int, limit: int) -> list[Sid]:
    """The ``limit`` that have been due longest."""
    # Sids are spread evenly: twice a list's share is almost always enough.
    most = min(limit, 2 * limit // len(store.keys.due_lists) + _SPARE)
    found = await _due_of(store, store.keys.due_lists, now, most)
    due = sorted(one for part in found.values() for one in part)[:limit]
    cut_off = [
        key
        for key, part in found.items()
        if most < limit and len(part) == most and (len(due) < limit or part[-1] < due[-1])
    ]
    if cut_off:
        found |= await _due_of(store, cut_off, now, limit)
        due = sorted(one for part in found.values() for one in part)[:limit]
    return [sid for _, sid in due]


async def _due_of(
    store: RedisStore, lists: Sequence[bytes], now: int, most: int
) -> dict[bytes, list[tuple[float, Sid]]]:
    commands: list[Keyed] = [
        (key, ("ZRANGEBYSCORE", key, "-inf", now, "WITHSCORES", "LIMIT", 0, most)) for key in lists
    ]
    found: dict[bytes, list[tuple[float, Sid]]] = {}
    for key, flat in zip(lists, await store.run(commands), strict=True):
        pairs = iter(flat)
        found[key] = [(float(score), Sid(member.decode())) for member, score in zip(pairs, pairs, strict=True)]
    return found


async def _purge(store: RedisStore, sids: Sequence[Sid], now: int) -> int:
    replies = await store.run([call(scripts.PURGE, [store.keys.session(sid)], now) for sid in sids], "unknown")
    commands: list[Keyed] = []
    purged = 0
    for sid, reply in zip(sids, replies, strict=True):
        if reply is None:
            continue
        purged += 1
        user, named = reply
        lists = [store.keys.due(sid)]
        if user:
            lists += (store.keys.user(user.decode()), store.keys.ended(user.decode()))
        commands += [(key, ("ZREM", key, sid)) for key in lists]
        commands += links.removed(store.keys, sid, named)
    await store.run(commands, "unknown")
    return purged


class _Move(NamedTuple):
    """A session as it was read, when to look at it next, and the field that has its links."""

    record: Record
    at: int
    links: bytes


async def _move(store: RedisStore, moves: Sequence[_Move], times: dict[Sid, int]) -> list[_Move]:
    """Those of ``moves`` that this call has made: nobody has asked for another look meanwhile.

    ``times`` are written as they are. The lists come first. If they came after the session, they could undo the
    earlier look that an end asks for which comes between.
    """
    commands = [_relisted(store, sid, at) for sid, at in times.items()]
    commands += [_relisted(store, move.record.sid, move.at) for move in moves]
    # Every living session comes by here in its life, so a user's list that was lost heals.
    for record, _, named in moves:
        if record.ended_at is None:
            commands += _listings(store, record, named)
    await store.run(commands, "unknown")
    calls = [
        call(scripts.LATER, [store.keys.session(record.sid)], record.check_at, at, 0 if record.ended_at is None else 1)
        for record, at, _ in moves
    ]
    answers = await store.run(calls, "unknown")
    others = [move.record for move, is_ours in zip(moves, answers, strict=True) if not is_ours]
    again = [(due := store.keys.due(record.sid), ("ZADD", due, "LT", record.check_at, record.sid)) for record in others]
    await store.run(again, "unknown")
    return [move for move, is_ours in zip(moves, answers, strict=True) if is_ours]


def _relisted(store: RedisStore, sid: Sid, at: int) -> Keyed:
    due = store.keys.due(sid)
    return due, ("ZREM", due, sid) if at == _NEVER else ("ZADD", due, at, sid)


async def _end(store: RedisStore, expired: Sequence[Record], cutoffs: Cutoffs) -> list[Ended]:
    """End those who are over, and say whom. What goes wrong is told only if nobody was ended: others find the rest."""
    purge_at = cutoffs.now + cutoffs.keep_ended
    check_at = purge_at if cutoffs.announce_at is None else min(cutoffs.announce_at, purge_at)
    # The script judges again: what was touched meanwhile lives on.
    how = Ending("", cutoffs.now - SWEEP_GRACE, purge_at, check_at, cutoffs.caps, is_due=True)
    ended, failed = await end_all(store, [record.sid for record in expired], how)
    if failed is not None and not ended:
        raise failed
    done = {one.sid for one in ended}
    try:
        await store.run([_relisted(store, sid, check_at) for sid in done], "unknown")
        await list_as_ended(store, [replace(record, purge_at=purge_at) for record in expired if record.sid in done])
    except StoreError as error:
        failed = failed or error
    if failed is not None:
        log.warning("redis: a sweep that has ended %d sessions was cut off. %s", len(ended), failed)
    return ended


def _report(record: Record) -> Ended:
    return Ended(record.sid, record.user_id, record.end_reason or "", record.ended_at or 0)


async def announced(store: RedisStore, sids: Sequence[Sid]) -> None:
    """See ``Store.announced``."""
    calls = [call(scripts.ANNOUNCED, [store.keys.session(sid)]) for sid in sids]
    times = await store.run(calls, "unknown")
    # Only those who are listed: a tombstone may have been purged meanwhile.
    commands = [
        (due := store.keys.due(sid), ("ZADD", due, "XX", purge_at, sid))
        for sid, purge_at in zip(sids, times, strict=True)
        if purge_at is not None
    ]
    await store.run(commands, "unknown")


def _listings(store: RedisStore, record: Record, named: bytes) -> list[Keyed]:
    """Adds ``record`` to the lists of its user and of its links. Moves nobody: a score only grows."""
    commands = links.healed(store.keys, record, named)
    if record.user_id is None:
        return commands
    key, score = store.keys.user(record.user_id), record.created_at + record.absolute
    if record.ended_at is not None:
        key, score = store.keys.ended(record.user_id), rows.purged_at(record)
    return [*commands, (key, ("ZADD", key, "GT", score, record.sid))]


async def lower_checks(store: RedisStore, caps: Caps, after: str | None, limit: int) -> str | None:
    """See ``Store.lower_checks``. It walks by the lists for sweeping: the number of one, and where ``ZSCAN`` stands."""
    number, cursor = (int(part) for part in (after or "0:0").split(":"))
    sids: list[Sid] = []
    while len(sids) < limit and number < len(store.keys.due_lists):
        due = store.keys.due_lists[number]
        [(next_cursor, flat)] = await store.run([(due, ("ZSCAN", due, cursor, "COUNT", limit - len(sids)))])
        sids += rows.sids_of(flat[::2])
        cursor = int(next_cursor)
        number += cursor == 0
    late: list[tuple[Sid, int]] = []
    for record in await glance(store, sids):
        if record is not None and record.ended_at is None:
            latest = caps.deadline(record) + SWEEP_GRACE
            if record.check_at > latest:
                late.append((record.sid, latest))
    calls = [call(scripts.SOONER, [store.keys.session(sid)], latest) for sid, latest in late]
    await store.run([*calls, *(_due_by(store, sid, latest) for sid, latest in late)], "unknown")
    return f"{number}:{cursor}" if number < len(store.keys.due_lists) else None


def _due_by(store: RedisStore, sid: Sid, at: int) -> Keyed:
    due = store.keys.due(sid)
    return due, ("ZADD", due, "LT", at, sid)


async def repair(store: RedisStore) -> int:
    """See ``RedisStore.repair``."""
    count = 0
    async for sids in store.all_sids():
        commands: list[Keyed] = []
        for record, named in await glance_with_links(store, sids):
            if record is None:
                continue
            count += 1
            due = store.keys.due(record.sid)
            # Somebody may have asked for an earlier look meanwhile.
            commands.append((due, ("ZADD", due, "LT", record.check_at, record.sid)))
            commands += _listings(store, record, named)
        await store.run(commands)
    return count
