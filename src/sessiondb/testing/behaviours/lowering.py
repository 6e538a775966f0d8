"""Law 7: after a lifetime was lowered, a walk has every living session looked at in time."""

from __future__ import annotations

from msgspec.structs import replace

from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.stores.base import SWEEP_GRACE, Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.checks import BehaviourBroken, equal, is_applied, require, same_record
from sessiondb.testing.kit import Kit, together

_LONG, _SHORT = Lifetimes(900 * DAY, 900 * DAY), Lifetimes(HOUR, 2 * HOUR)
_MOST_STEPS = 100


async def a_walk_lowers_every_check_that_is_late(kit: Kit) -> None:
    """Whatever the steps: each living session is looked at 30 s after its new deadline, and swept then."""
    store = await kit.store()
    records = [kit.record("alice", {"a": 1}, age=number) for number in range(10)]
    await kit.put_in(store, *records)
    await _walk([store], Caps(_SHORT, _SHORT), 3)
    for record in records:
        found = await kit.record_of(store, record.sid)
        equal(found.check_at, record.last_seen_at + HOUR + SWEEP_GRACE, "the next look")
        same_record(replace(found, check_at=record.check_at), record, "the rest of it")
    caps = Caps(_SHORT, _SHORT)
    swept = await store.sweep(kit.cutoffs(kit.now + HOUR + SWEEP_GRACE, caps=caps), 100)
    equal(sorted(one.sid for one in swept.ended), sorted(record.sid for record in records), "ended in time")


async def a_walk_raises_nothing_and_spares_tombstones(kit: Kit) -> None:
    """What is to be looked at sooner stays so; ends keep the time of their purge or announcement."""
    store = await kit.store()
    sooner = kit.record("alice", check_at=kit.now + 1)
    shorter = kit.record("alice", idle=HOUR // 2)
    ended, unannounced = kit.record("alice"), kit.record("alice")
    await kit.put_in(store, sooner, shorter, ended, unannounced)
    is_applied(await kit.apply(store, kit.end(ended)), "an end")
    is_applied(await kit.apply(store, kit.end(unannounced, announce_at=kit.now + DAY)), "an end")
    before = await store.load([record.sid for record in (sooner, shorter, ended, unannounced)])
    await _walk([store], Caps(_SHORT, _SHORT), 100)
    await _walk([store], Caps(_LONG, _LONG), 1)
    for one in before:
        if one is None:
            raise BehaviourBroken("a session is missing")
        same_record(await kit.find_record(store, one.sid), one, "a session that needs no earlier look")


async def a_walk_goes_by_the_caps_of_each(kit: Kit) -> None:
    """Normal, remembered and named sessions each by their own cap, one whose name is gone by the normal one."""
    store = await kit.store()
    normal, remembered = kit.record("alice"), kit.record("alice", lifetime="remembered")
    staff, gone = kit.record("alice", lifetime="staff"), kit.record("alice", lifetime="gone")
    await kit.put_in(store, normal, remembered, staff, gone)
    await _walk([store], Caps(_LONG, _LONG, {"staff": _SHORT}), 2)
    checks = {one.sid: one.check_at for one in (await store.find(kit.query("alice"))).records}
    expected = {record.sid: record.check_at for record in (normal, remembered, gone)}
    equal(checks, {**expected, staff.sid: kit.now + HOUR + SWEEP_GRACE}, "looks after one name was lowered")
    await _walk([store], Caps(_SHORT, _LONG, {"staff": _LONG}), 2)
    checks = {one.sid: one.check_at for one in (await store.find(kit.query("alice"))).records}
    lowered = dict.fromkeys((normal.sid, staff.sid, gone.sid), kit.now + HOUR + SWEEP_GRACE)
    equal(checks, {remembered.sid: remembered.check_at, **lowered}, "looks after the normal one was lowered")


async def a_walk_goes_on_in_another_process(kit: Kit) -> None:
    """Each step by another handle, while sessions are used and ended: nobody who lives throughout is missed."""
    stores = await kit.stores(2)
    records = [kit.record("alice", {"a": 0}) for _ in range(12)]
    await kit.put_in(stores[0], *records)

    async def use() -> None:
        for record in records[::2]:
            is_applied(await kit.apply(stores[0], kit.update(record, {"a": 1})), "a write")
        for record in records[1::4]:
            is_applied(await kit.apply(stores[0], kit.end(record)), "an end")

    await together([use(), _walk(stores, Caps(_SHORT, _SHORT), 2)])
    for record in records:
        found = await kit.record_of(stores[0], record.sid)
        if found.ended_at is None:
            equal(found.check_at, kit.now + HOUR + SWEEP_GRACE, "the next look")
    equal([await kit.data_of(stores[0], one.sid) for one in records[::2]], [{"a": 1}] * 6, "what was written meanwhile")


async def a_walk_over_nothing_ends(kit: Kit) -> None:
    """Where there are no sessions, the first step is the last."""
    store = await kit.store()
    equal(await store.lower_checks(Caps(_SHORT, _SHORT), None, 10), None, "what the first step returns")


async def what_is_remembered_is_recalled(kit: Kit) -> None:
    """By every handle, as it was written last; and nothing where nothing was."""
    one, other = await kit.stores(2)
    equal(await other.recall("walk"), None, "what nobody has remembered")
    for text in ("", 'é "quoted" \\ \n 😀', "x" * 16_000, "0"):
        await one.remember("walk", text)
        equal(await other.recall("walk"), text, "what was remembered last")
    equal(await one.recall("walks"), None, "another name")
    swept = await one.sweep(kit.cutoffs(worker="one"), 10)
    equal((swept.more, await one.recall("walk")), (False, "0"), "after a sweep")


async def _walk(stores: list[Store], caps: Caps, limit: int) -> None:
    after: str | None = None
    for step in range(_MOST_STEPS):
        after = await stores[step % len(stores)].lower_checks(caps, after, limit)
        if after is None:
            return
    require(False, f"the walk has not ended after {_MOST_STEPS} steps of {limit}")


BEHAVIOURS = [
    Behaviour((7,), a_walk_lowers_every_check_that_is_late),
    Behaviour((7,), a_walk_raises_nothing_and_spares_tombstones),
    Behaviour((7,), a_walk_goes_by_the_caps_of_each),
    Behaviour((7,), a_walk_goes_on_in_another_process),
    Behaviour((7,), a_walk_over_nothing_ends),
    Behaviour((9,), what_is_remembered_is_recalled),
]
