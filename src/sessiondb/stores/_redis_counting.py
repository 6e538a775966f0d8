"""The audit stream, and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sessiondb.stores import _redis_rows as rows
from sessiondb.stores._redis_users import CHUNK, glance
from sessiondb.stores.base import EventPage, EventQuery, Stats

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

COUNT_EXACTLY = 5000
_EVENT_STEP = 1 << 20


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
