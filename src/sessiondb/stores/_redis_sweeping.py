"""Sweeping, and mending the lists: which sessions there are to look at, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_scripts as scripts
from sessiondb.stores._redis_nodes import Keyed, call
from sessiondb.stores._redis_users import end_all, glance, list_as_ended
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Swept

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore


async def sweep(store: RedisStore, cutoffs: Cutoffs, limit: int) -> Swept:
    """See ``Store.sweep``."""
    commands: list[Keyed] = [
        (key, ("ZRANGEBYSCORE", key, "-inf", cutoffs.now, "WITHSCORES", "LIMIT", 0, limit))
        for key in store.keys.due_lists
    ]
    if cutoffs.worker is not None:
        until = cutoffs.now + cutoffs.turn
        [mine] = await store.run([call(scripts.TURN, [store.keys.turn], cutoffs.worker, cutoffs.now, until)])
        if not mine:
            return Swept()
    due: list[tuple[float, Sid]] = []
    for flat in await store.run(commands):
        pairs = iter(flat)
        due += ((float(score), Sid(member.decode())) for member, score in zip(pairs, pairs, strict=True))
    sids = [sid for _, sid in sorted(due)[:limit]]
    records = await glance(store, sids)
    expired: list[Record] = []
    purges: list[Sid] = []
    later: list[tuple[Record, int]] = []
    unlisted = [sid for sid, record in zip(sids, records, strict=True) if record is None]
    tombstones: list[Record] = []
    for record in records:
        if record is None:
            continue
        deadline = cutoffs.caps.deadline(record)
        if record.ended_at is not None:
            if record.check_at <= cutoffs.now:
                purges.append(record.sid)
            else:
                tombstones.append(record)
        elif deadline + SWEEP_GRACE <= cutoffs.now:
            expired.append(record)
        else:
            later.append((record, deadline + SWEEP_GRACE))
    purge_at = cutoffs.now + cutoffs.keep_ended
    # The script judges again: what was touched meanwhile lives on.
    over = [record.sid for record in expired]
    ended = await end_all(store, over, "", cutoffs.now - SWEEP_GRACE, purge_at, cutoffs.caps)
    purged = await _purge(store, purges, cutoffs.now)
    times = {one.sid: purge_at for one in ended} | {record.sid: record.check_at for record in tombstones}
    await _reschedule(store, unlisted, later, times)
    await list_as_ended(store, [replace(record, check_at=purge_at) for record in expired if record.sid in times])
    return Swept(ended, purged, len(sids) == limit)


async def _purge(store: RedisStore, sids: Sequence[Sid], now: int) -> int:
    replies = await store.run([call(scripts.PURGE, [store.keys.session(sid)], now) for sid in sids], "unknown")
    commands: list[Keyed] = []
    purged = 0
    for sid, user in zip(sids, replies, strict=True):
        if user is None:
            continue
        purged += 1
        lists = [store.keys.due(sid)]
        if user:
            lists += (store.keys.user(user.decode()), store.keys.ended(user.decode()))
        commands += [(key, ("ZREM", key, sid)) for key in lists]
    await store.run(commands)
    return purged


async def _reschedule(
    store: RedisStore, unlisted: Sequence[Sid], later: Sequence[tuple[Record, int]], times: dict[Sid, int]
) -> None:
    commands: list[Keyed] = [(due := store.keys.due(sid), ("ZREM", due, sid)) for sid in unlisted]
    moved = await store.run(
        [call(scripts.LATER, [store.keys.session(record.sid)], record.check_at, check_at) for record, check_at in later]
    )
    times = times | {record.sid: check_at for (record, check_at), done in zip(later, moved, strict=True) if done}
    commands += [(due := store.keys.due(sid), ("ZADD", due, at, sid)) for sid, at in times.items()]
    # Every living session comes by here in its life, so a user's list that was lost heals.
    commands += [one for record, _ in later for one in _listings(store, record)]
    await store.run(commands)


def _listings(store: RedisStore, record: Record) -> list[Keyed]:
    """Adds ``record`` to its user's list. Moves nobody: a score only grows."""
    if record.user_id is None:
        return []
    key, score = store.keys.user(record.user_id), record.created_at + record.absolute
    if record.ended_at is not None:
        key, score = store.keys.ended(record.user_id), record.check_at
    return [(key, ("ZADD", key, "GT", score, record.sid))]


async def repair(store: RedisStore) -> int:
    """See ``RedisStore.repair``."""
    count = 0
    async for sids in store.all_sids():
        commands: list[Keyed] = []
        for record in await glance(store, sids):
            if record is None:
                continue
            count += 1
            due = store.keys.due(record.sid)
            # Somebody may have asked for an earlier look meanwhile.
            commands.append((due, ("ZADD", due, "LT", record.check_at, record.sid)))
            commands += _listings(store, record)
        await store.run(commands)
    return count
