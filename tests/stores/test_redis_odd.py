"""Sessions in Redis that somebody has damaged by hand: each harms itself alone."""

from __future__ import annotations

import pytest

from databases import database
from sessiondb.core.errors import SessionDataError
from sessiondb.core.record import EndReason
from sessiondb.stores.base import Cutoffs
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit


@pytest.mark.parametrize(
    "damage",
    [
        ("HDEL", "created_at"),
        ("HDEL", "series_hash"),
        ("HDEL", "secret_hash"),
        ("HDEL", "sid"),
        ("HSET", "last_seen_at", "yesterday"),
        ("HSET", "rev", "x"),
        ("HSET", "user_id", b"\xff"),
    ],
)
async def test_a_damaged_session_stops_nobody(damage: tuple[str | bytes, ...]) -> None:
    """Not the sweeper, not a login at the limit, not a list, not a revoke; only its own load fails."""
    async with database("redis")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        assert isinstance(store, RedisStore)
        damaged, expired, old, new = (kit.record("ann", age=age) for age in (31 * DAY, 31 * DAY, HOUR, 0))
        await kit.put_in(store, damaged, expired, old, new)
        key = store.keys.session(damaged.sid)
        await store.run([(key, (damage[0], key, *damage[1:]))])
        with pytest.raises(SessionDataError):
            await store.load([damaged.sid])
        assert await kit.living(store, "ann") == [new.sid, old.sid]
        swept = await store.sweep(Cutoffs(now=kit.now, caps=kit.caps, keep_ended=DAY), 100)
        assert [one.sid for one in swept.ended] == [expired.sid]
        swept = await store.sweep(Cutoffs(now=kit.now, caps=kit.caps, keep_ended=DAY), 1)
        assert not swept.more
        assert (await store.stats()).live == 2
        admission = await store.admit(kit.login(new, per_user=1))
        assert [one.sid for one in admission.ended] == [old.sid]
        await store.repair()
        ended = await store.end_where(kit.query("ann", not_before=kit.now), EndReason.REVOKED)
        assert new.sid in {one.sid for one in ended}
        await kit.close_all()
