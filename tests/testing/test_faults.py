"""The fault harness does what it says, and nothing it was not told to."""

from __future__ import annotations

import asyncio

import pytest

from sessiondb.core.change import Applied, Update
from sessiondb.core.errors import StoreError, StoreUnavailable
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.stores.base import EventQuery, Store
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import Cancel, CountingStore, Delay, Fail, FaultyStore, Hang, LoseReply, ManualClock
from sessiondb.testing.builders import Builders


async def opened(clock: ManualClock | None = None) -> tuple[MemoryStore, Builders]:
    clock = clock or ManualClock()
    store = MemoryStore(clock=clock)
    await store.open()
    return store, Builders(clock.now)


async def test_wrappers_are_stores_and_pass_everything_through() -> None:
    inner, build = await opened()
    for store in (FaultyStore(inner), CountingStore(inner)):
        assert isinstance(store, Store)
        assert (store.name, store.batching) == (inner.name, inner.batching)
        record = build.record("alice")
        assert await store.apply([build.create(record)], [build.event()]) == [Applied(1)]
        assert await store.load([record.sid]) == [record]
        assert (await store.find(build.query("alice"))).records == [record]
        assert (await store.admit(build.login(record))).refused is None
        assert (await store.sweep(build.cutoffs(), 10)).ended == []
        await store.append([build.event()])
        assert len((await store.events(EventQuery())).events) == 2
        assert (await store.stats()).live == 1
        assert len(await store.end_where(build.query("alice"), EndReason.REVOKED)) == 1
        assert await store.clock() == build.now
        await inner.purge_events({stream.name: 100 for stream in await inner.streams()})
        inner._table.delete((await inner.load([record.sid]))[0])  # type: ignore[arg-type]


async def test_faults_come_in_their_order_and_then_stop() -> None:
    inner, build = await opened()
    store = FaultyStore(inner)
    record = build.record("alice")
    await store.apply([build.create(record)])
    store.next("apply", Fail(), None, LoseReply(), Delay())

    def change(number: int) -> Update:
        return build.update(record, {f"k{number}": number})

    with pytest.raises(StoreUnavailable) as failed:
        await store.apply([change(0)])
    assert failed.value.outcome == "not_applied"
    assert await store.apply([change(1)]) == [Applied(2)]
    with pytest.raises(StoreError) as lost:
        await store.apply([change(2)])
    assert lost.value.outcome == "unknown"
    assert await store.apply([change(3)]) == [Applied(4)]
    assert await store.apply([change(4)]) == [Applied(5)]
    stored = (await inner.load([record.sid]))[0]
    assert stored is not None
    assert stored.data == b'{"k1":1,"k2":2,"k3":3,"k4":4}'
    assert [method for method, _ in store.injected] == ["apply", "apply", "apply"]


async def test_faults_may_raise_what_an_app_wants_to_see() -> None:
    inner, _ = await opened()
    store = FaultyStore(inner)
    store.next("load", Fail(OSError("refused")), LoseReply(TimeoutError("late")))
    with pytest.raises(OSError, match="refused"):
        await store.load([])
    with pytest.raises(TimeoutError, match="late"):
        await store.load([])


@pytest.mark.parametrize("applied", [False, True])
async def test_hanging_ends_with_its_caller(applied: bool) -> None:
    inner, build = await opened()
    store = FaultyStore(inner)
    record = build.record()
    store.next("apply", Hang(applied=applied))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await store.apply([build.create(record)])
    assert (await inner.load([record.sid]) == [record]) is applied


@pytest.mark.parametrize("applied", [False, True])
async def test_a_caller_that_goes_away(applied: bool) -> None:
    inner, build = await opened()
    store = FaultyStore(inner)
    record = build.record()
    store.next("apply", Cancel(applied=applied))
    task = asyncio.create_task(store.apply([build.create(record)]))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert (await inner.load([record.sid]) == [record]) is applied


async def test_an_outage_begins_and_ends() -> None:
    inner, _ = await opened()
    store = FaultyStore(inner)
    store.down = True
    for call in (store.load([]), store.apply([]), store.stats(), store.clock(), store.open()):
        with pytest.raises(StoreUnavailable):
            await call
    store.down = False
    assert await store.load([]) == []
    store.down = True
    await store.close()


async def test_always_and_random_faults_are_repeatable() -> None:
    inner, _ = await opened()
    store = FaultyStore(inner)
    store.always["stats"] = Fail()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.stats()
    del store.always["stats"]
    assert (await store.stats()).live == 0

    async def failures(seed: int) -> list[bool]:
        shaky = FaultyStore(inner, rates={Fail(): 0.3, Delay(): 0.2}, seed=seed)
        found = []
        for _ in range(200):
            try:
                await shaky.load([])
                found.append(False)
            except StoreUnavailable:
                found.append(True)
        assert (await shaky.stats()).live == 0  # only what it was told to
        return found

    first = await failures(1)
    assert first == await failures(1)
    assert first != await failures(2)
    assert 30 < sum(first) < 90


async def test_a_skewed_clock() -> None:
    inner, build = await opened()
    store = FaultyStore(inner, skew=300)
    assert await store.clock() == build.now + 300 * SECOND
    store.skew = -0.5
    assert await store.clock() == build.now - SECOND // 2


def test_plans_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        FaultyStore(MemoryStore(), rates={Fail(): 0.7, Delay(): 0.7})
    with pytest.raises(ValueError, match="'lod' is no method"):
        FaultyStore(MemoryStore()).next("lod", Fail())


async def test_lost_replies_are_recovered_from() -> None:
    inner, build = await opened()
    faulty = FaultyStore(inner, rates={LoseReply(): 0.5}, seed=3)
    store = RecoveringStore(faulty, pause=0.0, tries=50)
    record = build.record("alice")
    await inner.apply([build.create(record)])
    for number in range(30):
        assert isinstance((await store.apply([build.update(record, {f"k{number}": number})]))[0], Applied)
    stored = (await inner.load([record.sid]))[0]
    assert stored is not None
    assert stored.rev == 31
    assert len(faulty.injected) > 10


async def test_calls_are_counted_by_method() -> None:
    inner, build = await opened()
    store = CountingStore(inner)
    await store.open()
    await store.clock()
    await store.load([])
    await store.load([])
    await store.append([build.event()])
    assert store.calls == {"open": 1, "clock": 1, "load": 2, "append": 1}
    assert store.total == 3
    store.reset()
    assert store.total == 0
