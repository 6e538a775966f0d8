"""The limit per user in Redis: whom a login has met when it was listed is only a hint of who counts."""

from __future__ import annotations

import pytest

from databases import database
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import HOUR
from sessiondb.testing.kit import Kit

pytestmark = pytest.mark.parametrize("kind", ["redis", "redis_cluster"])


async def test_who_came_or_left_since_counts_as_it_is_now(kind: str) -> None:
    async with database(kind)(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        old = [kit.record("ann", age=hours * HOUR) for hours in (5, 4, 3)]
        new, late = kit.record("ann", age=HOUR), kit.record("ann")
        await kit.put_in(store, *old)
        await kit.put_in(store, new)
        await kit.put_in(store, late)
        await kit.apply(store, kit.end(old[0]))
        admission = await store.admit(kit.login(new, per_user=3))
        assert [one.sid for one in admission.ended] == [old[1].sid]
        assert set(await kit.living(store, "ann")) == {old[2].sid, new.sid, late.sid}
        await kit.close_all()


async def test_a_login_that_was_written_elsewhere_is_admitted_all_the_same(kind: str) -> None:
    async with database(kind)(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        one, other = await kit.stores(2)
        old = [kit.record("ann", age=hours * HOUR) for hours in (3, 2)]
        new = kit.record("ann")
        await kit.put_in(one, *old, new)
        admission = await other.admit(kit.login(new, per_user=2))
        assert [one.sid for one in admission.ended] == [old[0].sid]
        await kit.close_all()


async def test_what_is_never_asked_for_is_forgotten(kind: str) -> None:
    async with database(kind)(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        assert isinstance(store, RedisStore)
        first, second = kit.record("ann"), kit.record("ann")
        await kit.put_in(store, first)
        await kit.put_in(store, second)
        for number in range(1000):
            store.met.note(kit.record("bob").sid, [first.sid, second.sid] if number else [first.sid])
        assert store.met.take(second.sid) == sorted([first.sid, second.sid])
        store.met.note(second.sid, [first.sid, second.sid])
        for _ in range(1000):
            store.met.note(kit.record("bob").sid, [first.sid, second.sid])
        assert store.met.take(second.sid) == []
        await kit.close_all()
