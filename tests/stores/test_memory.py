"""What is the memory store's own: its bounds, its URL, and being shared. All else is in the conformance kit."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sessiondb.core.change import Applied, Conflict
from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.stores.base import EventQuery, Store, open_store
from sessiondb.stores.memory import MemoryStore, memory_from_url
from sessiondb.testing.builders import DAY, HOUR, Builders
from sessiondb.testing.clock import ManualClock


async def opened(**settings: int) -> tuple[MemoryStore, Builders]:
    clock = ManualClock()
    store = MemoryStore(clock=clock, **settings)
    await store.open()
    return store, Builders(clock.now)


def test_it_is_a_store() -> None:
    store: Store = MemoryStore()
    assert isinstance(store, Store)


async def test_it_is_bounded_and_says_what_to_do() -> None:
    store, build = await opened(max_sessions=2)
    first, second, third = build.record("alice"), build.record("alice"), build.record("alice")
    results = await store.apply([build.create(record) for record in (first, second, third)])
    assert results[:2] == [Applied(1), Applied(1)]
    full = results[2]
    assert isinstance(full, StoreUnavailable)
    assert full.outcome == "not_applied"
    for cure in ("max_sessions", "keep_ended", "sqlite://"):
        assert cure in str(full)
    # What needs no room goes on: repeated creates, updates, ends; and room that was made is used.
    assert await store.apply([build.create(first)]) == [Applied(1)]
    assert isinstance((await store.apply([build.create(build.record(sid=first.sid))]))[0], Conflict)
    assert await store.apply([build.update(first, {"a": 1}), build.end(second)]) == [Applied(2), Applied(2)]
    assert isinstance((await store.apply([build.create(third)]))[0], StoreUnavailable)
    await store.sweep(build.cutoffs(build.now + 7 * DAY), 10)
    assert await store.apply([build.create(third)]) == [Applied(1)]


async def test_only_the_newest_events_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.stores.memory.MAX_EVENTS", 3)
    store, build = await opened()
    await store.append([build.event(details={"n": number}) for number in range(5)])
    assert [event.details["n"] for event in (await store.events(EventQuery())).events] == [4, 3, 2]


async def test_its_data_survives_closing_and_its_users_are_counted() -> None:
    store, build = await opened()
    record = build.record("alice")
    await store.apply([build.create(record)])
    await store.open()
    await store.close()
    assert await store.load([record.sid]) == [record]
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.load([record.sid])
    await store.close()
    await store.open()
    assert await store.load([record.sid]) == [record]


async def test_logins_and_logouts_leave_no_leak_behind() -> None:
    store, build = await opened()
    for round_ in range(50):
        records = [build.record(f"user {round_}") for _ in range(100)]
        await store.apply([build.create(record) for record in records])
        await store.apply([build.end(record, purge_after=HOUR) for record in records])
        await store.sweep(build.cutoffs(build.now + HOUR), 1000)
    assert len(store._table.records) == 0
    assert len(store._table._users) == 0
    assert len(store._table._due) < 3000


async def test_it_is_shared_by_event_loops_in_threads() -> None:
    store, build = await opened()
    record = build.record("alice", {"n": 0})
    await store.apply([build.create(record)])

    def worker(number: int) -> None:
        async def write() -> None:
            await store.open()
            for step in range(200):
                await store.apply([build.update(record, {f"{number}": step}), build.create(build.record("bob"))])
                await store.find(build.query("bob", limit=5))
            await store.close()

        asyncio.run(write())

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert (await store.load([record.sid]))[0].rev == 801  # type: ignore[union-attr]
    assert (await store.stats()).live == 801


async def test_its_repr_shows_no_session() -> None:
    store, build = await opened()
    await store.apply([build.create(build.record("alice"))])
    assert repr(store) == "MemoryStore(max_sessions=1000000)"


@pytest.mark.parametrize("url", ["memory://", "memory:///", "memory://?max_sessions=5"])
def test_urls(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, MemoryStore)
    assert store._max_sessions == (5 if "5" in url else 1_000_000)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://?max_session=5", "'max_session'.*max_sessions"),
        ("memory://?max_sessions=0", "from 1"),
        ("memory://?max_sessions=", "from 1"),
        ("memory://?max_sessions=-1", "from 1"),
        ("memory://?max_sessions=many", "from 1"),
        ("memory://?max_sessions=1_0", "from 1"),
        ("memory://localhost", "neither host nor path"),
        ("memory:///file.db", "neither host nor path"),
    ],
)
def test_urls_that_cannot_work(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        memory_from_url(url)


@pytest.mark.parametrize("bound", [0, -1, True, 1.5, "5", None])
def test_bounds_that_cannot_work(bound: object) -> None:
    with pytest.raises(ConfigurationError, match="max_sessions"):
        MemoryStore(max_sessions=bound)  # type: ignore[arg-type]
