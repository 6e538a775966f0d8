"""The limit per user in Redis: whom a login has met when it was listed is only a hint of who counts."""

from __future__ import annotations

import pytest

from databases import database
from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.core.record import EndReason
from sessiondb.stores import _redis_users as users
from sessiondb.stores.base import Cutoffs, Store
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR, MINUTE
from sessiondb.testing.kit import Kit

LONG = Caps(Lifetimes(90 * DAY, 90 * DAY), Lifetimes(90 * DAY, 90 * DAY))

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


async def test_a_login_that_died_before_it_ended_whom_it_pushed_out_hides_nobody(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that lives for months is found by a revoke and by the next login, also long after that."""
    async with database(kind)(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        old, new = (kit.record("ann", age=age, idle=90 * DAY, absolute=90 * DAY) for age in (HOUR, 0))
        await kit.put_in(store, old, new)

        async def dies(*_: object, **__: object) -> None:
            raise ConnectionError

        with monkeypatch.context() as patch:
            patch.setattr(users, "end_all", dies)
            with pytest.raises(ConnectionError):
                await store.admit(kit.login(new, per_user=1))
        assert (await kit.record_of(store, old.sid)).ended_at is None
        kit.now += 2 * MINUTE
        await store.sweep(Cutoffs(now=kit.now, caps=LONG, keep_ended=7 * DAY), 100)
        assert await living(kit, store) == [new.sid, old.sid]
        admission = await store.admit(kit.login(new, per_user=1, caps=LONG))
        assert [one.sid for one in admission.ended] == [old.sid]
        await kit.close_all()


async def test_whom_a_login_has_pushed_out_is_in_a_list_for_life(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody sweeps."""
    async with database(kind)(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        old, new = (kit.record("ann", age=age, idle=90 * DAY, absolute=90 * DAY) for age in (HOUR, 0))
        await kit.put_in(store, old, new)

        async def dies(*_: object, **__: object) -> None:
            raise ConnectionError

        with monkeypatch.context() as patch:
            patch.setattr(users, "end_all", dies)
            with pytest.raises(ConnectionError):
                await store.admit(kit.login(new, per_user=1))
        kit.now += 60 * DAY
        late = kit.record("ann")
        await kit.put_in(store, late)
        await store.admit(kit.login(late, caps=LONG))
        ended = await store.end_where(kit.query("ann", not_before=kit.now, caps=LONG), EndReason.REVOKED)
        assert {one.sid for one in ended} == {old.sid, new.sid, late.sid}
        await kit.close_all()


async def living(kit: Kit, store: Store) -> list[str]:
    return [record.sid for record in (await store.find(kit.query("ann", caps=LONG))).records]
