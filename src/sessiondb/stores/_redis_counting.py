"""Counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessiondb.stores import _redis_rows as rows
from sessiondb.stores._redis_users import glance
from sessiondb.stores.base import Stats

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

COUNT_EXACTLY = 5000


async def stats(store: RedisStore) -> Stats:
    """See ``Store.stats``."""
    keys = store.keys
    state = keys.trail_state
    *sizes, events = await store.run(
        [*((key, ("ZCARD", key)) for key in keys.due_lists), (state, ("HGET", state, "count"))]
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
        events=int(events or 0),
    )
