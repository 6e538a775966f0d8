"""What looks at many sessions at once: the limit per user, searching, ending by user, sweeping, events, counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from sessiondb.core.change import new_change_id
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores import _redis_scripts as scripts
from sessiondb.stores._redis_nodes import Keyed, call
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

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

CHUNK = 256
COUNT_EXACTLY = 5000
_KEEP_NOT_BEFORE_MS = 7 * 86_400_000  # only logins under way ask for it
_FIELDS = tuple(name for name in Record.__struct_fields__ if name != "data")
_EVENT_STEP = 1 << 20


async def glance(store: RedisStore, sids: Sequence[Sid]) -> list[Record | None]:
    """The records of ``sids`` without their data."""
    found: list[Record | None] = []
    for start in range(0, len(sids), CHUNK):
        keys = [store.keys.session(sid) for sid in sids[start : start + CHUNK]]
        for values in await store.run([(key, ("HMGET", key, *_FIELDS)) for key in keys]):
            flat: list[bytes] = []
            for name, value in zip(_FIELDS, values, strict=True):
                if value is not None:
                    flat += (name.encode(), value)
            found.append(rows.to_record(flat))
    return found


# -- the limit per user -----------------------------------------------------------------------------------


async def admit(store: RedisStore, login: Login) -> Admission:
    """See ``Store.admit``."""
    keys = store.keys
    own, listed, not_before = keys.session(login.sid), keys.user(login.user_id), keys.not_before(login.user_id)
    oldest = login.now - scripts.GARBAGE_AFTER_MS * 1000
    (rev, ended_at, reason), forbidden, _, members = await store.run(
        [
            (own, ("HMGET", own, "rev", "ended_at", "end_reason")),
            (not_before, ("GET", not_before)),
            (listed, ("ZREMRANGEBYSCORE", listed, "-inf", oldest)),
            (listed, ("ZRANGE", listed, 0, -1) if login.per_user is not None else ("ZCARD", listed)),
        ]
    )
    if rev is None or ended_at is not None:
        return Admission("limit" if reason == b"limit" else "revoked")
    if forbidden is not None and int(forbidden) > login.began_at:
        return Admission("revoked", await _end(store, [login.sid], EndReason.REFUSED, login))
    if login.per_user is None or len(members) <= login.per_user:
        return Admission()
    records = [record for record in await glance(store, rows.sids_of(members)) if record is not None]
    await _list_as_ended(store, [record for record in records if record.ended_at is not None])
    rivals = [r for r in records if r.ended_at is None and login.caps.deadline(r) > login.now]
    if len(rivals) <= login.per_user:
        return Admission()
    # The one that asks counts as the newest: sids of one millisecond are in no order.
    rivals.sort(key=lambda record: (record.sid == login.sid, record.sid))
    refuses = login.on_limit == "refuse"
    order = [record.sid for record in (reversed(rivals) if refuses else rivals)]
    [(stays, *leave)] = await store.run(
        [
            call(
                scripts.LIMIT,
                [listed, keys.ended(login.user_id)],
                login.sid,
                login.per_user,
                int(refuses),
                login.purge_at,
                *order,
            )
        ],
        "unknown",
    )
    if not stays:
        return Admission("limit")  # a newer login has pushed this one out
    reason_ = EndReason.REFUSED if refuses else EndReason.LIMIT
    ended = await _end(store, rows.sids_of(leave), reason_, login)
    return Admission("limit" if refuses and leave else None, ended)


async def _end(store: RedisStore, sids: Iterable[Sid], reason: EndReason, login: Login) -> list[Ended]:
    return await _end_all(store, list(sids), str(reason), login.now, login.purge_at)


async def _end_all(
    store: RedisStore,
    sids: Sequence[Sid],
    reason: str,
    at: int,
    purge_at: int,
    caps: Caps | None = None,
    user_id: str | None = None,
) -> list[Ended]:
    """End ``sids``; those that were living, each with the reason and time that it was given."""
    limits: tuple[str | int, ...] = ()
    if caps is not None:
        limits = (user_id or "", *(v for c in (caps.normal, caps.remembered) for v in (c.idle, c.absolute)))
    ended: list[Ended] = []
    for start in range(0, len(sids), CHUNK):
        part = sids[start : start + CHUNK]
        commands = [
            call(scripts.END, [store.keys.session(sid)], new_change_id(), "", at, reason, purge_at, *limits)
            for sid in part
        ]
        commands += [(due := store.keys.due(sid), ("ZADD", due, "LT", purge_at, sid)) for sid in part]
        replies = await store.run(commands, "unknown")
        for sid, reply in zip(part, replies, strict=False):
            if reply[0] == 2 and reply[4]:
                _, _, _, user, why, when = reply
                ended.append(Ended(sid, user.decode() or None, why.decode(), int(when)))
    return ended


async def _list_as_ended(store: RedisStore, tombstones: Sequence[Record]) -> None:
    """Move what has ended out of the way of whoever lists the living."""
    commands: list[Keyed] = []
    for record in tombstones:
        if record.user_id is not None:
            ended, listed = store.keys.ended(record.user_id), store.keys.user(record.user_id)
            commands.append((ended, ("ZADD", ended, record.check_at, record.sid)))
            commands.append((listed, ("ZREM", listed, record.sid)))
    await store.run(commands)


# -- searching --------------------------------------------------------------------------------------------


async def find(store: RedisStore, query: Query) -> Page:
    """See ``Store.find``."""
    sids = await _listed(store, query, with_ended=query.state != "live")
    sids = [sid for sid in sorted(sids, reverse=True) if query.before is None or sid < query.before]
    found: list[Record] = []
    tombstones: list[Record] = []
    step = max(query.limit + 1, 32)
    for start in range(0, len(sids), step):
        for record in await store.load(sids[start : start + step]):
            if record is None or (query.user_id is not None and record.user_id != query.user_id):
                continue
            if record.ended_at is not None and query.state == "live":
                tombstones.append(record)
            is_live = record.ended_at is None and query.caps.deadline(record) > query.now
            if query.state == "all" or is_live == (query.state == "live"):
                found.append(record)
        if len(found) > query.limit:
            break
    await _list_as_ended(store, tombstones)
    shown = found[: query.limit]
    return Page(shown, shown[-1].sid if len(found) > len(shown) > 0 else None)


async def _listed(store: RedisStore, query: Query, *, with_ended: bool, first: Sequence[Keyed] = ()) -> list[Sid]:
    """The sids that ``query`` may mean, after ``first`` has been done."""
    commands = list(first)
    if query.sids is not None:
        await store.run(commands, "unknown")
        return list(dict.fromkeys(query.sids))
    if query.user_id is not None:
        lists = [store.keys.user(query.user_id)]
        if with_ended:
            lists.append(store.keys.ended(query.user_id))
    else:
        lists = store.keys.due_lists
    commands += [(key, ("ZRANGE", key, 0, -1)) for key in lists]
    replies = await store.run(commands, "unknown" if first else "not_applied")
    return list({sid for members in replies[len(first) :] for sid in rows.sids_of(members)})


async def end_where(store: RedisStore, query: Query, reason: EndReason) -> list[Ended]:
    """See ``Store.end_where``."""
    first: list[Keyed] = []
    if query.not_before is not None and query.user_id is not None:
        # In one slot with the list, so done before it is read.
        key = store.keys.not_before(query.user_id)
        first.append(call(scripts.NOT_BEFORE, [key], query.not_before, _KEEP_NOT_BEFORE_MS))
    # Also those that a login has pushed out of the list: it may have died before it ended them.
    sids = await _listed(store, query, with_ended=True, first=first)
    sids = sorted(sid for sid in sids if sid != query.keep)
    ended = await _end_all(store, sids, str(reason), query.now, query.purge_at, query.caps, query.user_id)
    return [one for one in ended if one.reason == reason]


# -- sweeping ---------------------------------------------------------------------------------------------


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
    ended = await _end_all(store, over, "", cutoffs.now - SWEEP_GRACE, purge_at, cutoffs.caps)
    purged = await _purge(store, purges, cutoffs.now)
    times = {one.sid: purge_at for one in ended} | {record.sid: record.check_at for record in tombstones}
    await _reschedule(store, unlisted, later, times)
    await _list_as_ended(store, [replace(record, check_at=purge_at) for record in expired if record.sid in times])
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
    await store.run(commands)


# -- events and counts ------------------------------------------------------------------------------------


async def events(store: RedisStore, query: EventQuery) -> EventPage:
    """See ``Store.events``."""
    found: list[tuple[int, Any]] = []
    newest = "+" if query.after is None else f"({query.after // _EVENT_STEP}-{query.after % _EVENT_STEP}"
    while len(found) <= query.limit:
        [entries] = await store.run(
            [(store.keys.events, ("XREVRANGE", store.keys.events, newest, "-", "COUNT", CHUNK * 2))]
        )
        for name, flat in entries:
            event = rows.to_event(flat)
            if (
                (query.user_id is None or event.user_id == query.user_id)
                and (query.sid is None or event.sid == query.sid)
                and (query.type is None or event.type == query.type)
                and (query.since is None or event.at >= query.since)
                and (query.until is None or event.at < query.until)
            ):
                milliseconds, _, number = name.decode().partition("-")
                found.append((int(milliseconds) * _EVENT_STEP + int(number), event))
        if len(entries) < CHUNK * 2:
            break
        newest = "(" + entries[-1][0].decode()
    shown = found[: query.limit]
    return EventPage([event for _, event in shown], shown[-1][0] if len(found) > len(shown) > 0 else None)


async def stats(store: RedisStore) -> Stats:
    """See ``Store.stats``."""
    keys = store.keys
    *sizes, events = await store.run(
        [*((key, ("ZCARD", key)) for key in keys.due_lists), (keys.events, ("XLEN", keys.events))]
    )
    total = sum(sizes)
    if total <= COUNT_EXACTLY:
        lists = await store.run([(key, ("ZRANGE", key, 0, -1)) for key in keys.due_lists])
    else:
        each = COUNT_EXACTLY // len(keys.due_lists)
        lists = await store.run([(key, ("ZRANDMEMBER", key, each)) for key in keys.due_lists])
    sids = [sid for members in lists for sid in rows.sids_of(members)]
    records = [record for record in await glance(store, sids) if record is not None]
    live = [record for record in records if record.ended_at is None]
    scale = total / len(sids) if total > COUNT_EXACTLY and sids else 1.0
    users = len({record.user_id for record in live if record.user_id is not None})
    return Stats(
        live=round(len(live) * scale),
        ended=round((len(records) - len(live)) * scale),
        users=round(users * scale),
        events=events,
    )


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
            commands.append((due, ("ZADD", due, record.check_at, record.sid)))
            if record.user_id is not None:
                listed = store.keys.user(record.user_id)
                score = record.created_at + record.absolute
                if record.ended_at is not None:
                    listed, score = store.keys.ended(record.user_id), record.check_at
                commands.append((listed, ("ZADD", listed, score, record.sid)))
        await store.run(commands)
    return count
