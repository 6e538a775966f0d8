"""Events in SQLite: with their changes or not at all, found quickly, and purged without keeping others waiting."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiondb.core.change import Applied
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import Lane
from sessiondb.stores import _windows
from sessiondb.stores.base import EventQuery, NotTogether, Position
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import Builders
from sessiondb.testing.clock import ManualClock


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "x.db", synchronous="NORMAL", clock=ManualClock())
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def build() -> Builders:
    return Builders(ManualClock().now)


async def steps(store: SQLiteStore, call: Any) -> int:
    """How many instructions of its machine SQLite runs for ``call``, in hundreds."""
    ran = 0

    def count() -> int:
        nonlocal ran
        ran += 1
        return 0

    await store._reader.run(lambda connection: connection.set_progress_handler(count, 100))
    await call
    await store._reader.run(lambda connection: connection.set_progress_handler(None, 0))
    return ran


def many(count: int, stream: Lane | None = None) -> list[Event]:
    lane = stream or Lane(EventClass.LOGIN)
    return lane.seal([Event(type=EventType.LOGIN, at=n, details={"n": n}) for n in range(count)])


# -- all or nothing -------------------------------------------------------------------------------------------


async def test_a_call_that_is_refused_harms_nobody_in_its_transaction(store: SQLiteStore, build: Builders) -> None:
    good, bad, damaged = build.record("ann"), build.record("bob"), build.record("eve")
    await store.apply([build.create(damaged)])
    with sqlite3.connect(store.path) as other:
        other.execute("UPDATE sessiondb_sessions SET data = '{' WHERE sid = ?", (damaged.sid,))
    other.close()
    taken = build.event()
    await store.append([taken])
    groups = store.writer.groups
    busy = asyncio.ensure_future(store.remember("busy", "x"))  # what comes meanwhile is one transaction
    calls = [
        asyncio.ensure_future(store.apply([build.create(good)], [build.event(sid=good.sid)])),
        asyncio.ensure_future(store.apply([build.create(bad)], [build.event(), taken])),
        asyncio.ensure_future(store.apply([build.create(bad), build.touch(good)], [taken])),
        asyncio.ensure_future(store.apply([build.update(damaged, {"a": 1})], [build.event()])),
        asyncio.ensure_future(store.append([build.event(details={"n": 1})])),
    ]
    await busy
    first, second, third, fourth, fifth = await asyncio.gather(*calls, return_exceptions=True)
    assert first == [Applied(1)]
    assert isinstance(second, list)
    assert isinstance(second[0], StoreError)
    assert "has been tampered with" in str(second[0])
    assert second[0].outcome == "not_applied"
    assert isinstance(third, NotTogether)
    assert isinstance(fourth, list)
    assert isinstance(fourth[0], SessionDataError)
    assert fifth is None
    assert await store.load([bad.sid]) == [None]
    assert len((await store.events(EventQuery())).events) == 3
    assert store.writer.groups <= groups + 2


async def test_events_without_changes_are_all_or_nothing_too(store: SQLiteStore, build: Builders) -> None:
    taken = build.event()
    await store.append([taken])
    with pytest.raises(StoreError, match=f"Place 1 of stream {build.place(taken).stream} in the audit trail is taken"):
        await store.apply([], [build.event(), taken])
    assert list((await store.events(EventQuery())).events) == [taken]


async def test_the_place_that_is_taken_is_named(store: SQLiteStore) -> None:
    events = many(1200)
    await store.append([events[700], events[900]])
    for part, number in ((events[:800], 701), (events[800:], 901)):
        with pytest.raises(StoreError, match=f"Place {number} of stream"):
            await store.apply([], part)
    assert (await store.stats()).events == 2


@pytest.mark.parametrize("how", ["append", "apply"])
async def test_an_event_that_is_not_sealed_is_refused_before_anything_is_written(
    store: SQLiteStore, build: Builders, how: str
) -> None:
    events, record = [build.event(), Event(type=EventType.LOGIN, at=1)], build.record()
    with pytest.raises(ValueError, match="without its seal"):
        await (store.append(events) if how == "append" else store.apply([build.create(record)], events))
    assert await store.load([record.sid]) == [None]
    assert (await store.stats()).events == 0


# -- reading --------------------------------------------------------------------------------------------------


async def test_streams_are_found_without_reading_their_events(store: SQLiteStore) -> None:
    lanes = [Lane(EventClass.LOGIN) for _ in range(5)]
    for lane in lanes:
        await store.append(many(20, lane))
    few = await steps(store, store.streams())
    for lane in lanes:
        await store.append(many(2000, lane))
    assert await steps(store, store.streams()) <= few + 2
    assert [(one.name, one.first, one.last.details) for one in await store.streams()] == [
        (lane.stream, 1, {"n": 1999}) for lane in sorted(lanes, key=lambda lane: lane.stream)
    ]


@pytest.mark.parametrize(
    "query",
    [
        EventQuery(limit=10),
        EventQuery(since=0, limit=10),
        EventQuery(since=29_000, limit=10),
        EventQuery(since=29_995, limit=10),
        EventQuery(since=15_000, until=15_005, limit=10),
        EventQuery(since=15_000, until=15_005, after=20_000, limit=10),
        EventQuery(until=15_000, after=15_500, limit=10),
        EventQuery(until=29_000, limit=10),
        EventQuery(until=900, limit=10),
        EventQuery(until=900, type=EventType.LOGIN, limit=10),
        EventQuery(type=EventType.LOGIN, since=29_990, limit=20),
    ],
    ids=str,
)
async def test_events_of_a_time_are_found_without_reading_all(store: SQLiteStore, query: EventQuery) -> None:
    await store.append(many(30_000))
    # A walk over all of them takes more than two thousand.
    assert await steps(store, store.events(query)) < 500
    found = (await store.events(query)).events
    since, until = query.since or 0, min(30_000, query.until or 30_000, (query.after or 30_001) - 1)
    wanted = range(until - 1, since - 1, -1)[: query.limit]
    assert [one.details["n"] for one in found] == list(wanted)


queries = st.builds(
    EventQuery,
    user_id=st.none() | st.sampled_from(["ann", "bob"]),
    actor=st.none() | st.just("eve"),
    type=st.none() | st.sampled_from([EventType.LOGIN.value, EventType.SESSION_ENDED.value]),
    since=st.none() | st.integers(0, 30),
    until=st.none() | st.integers(0, 30),
    limit=st.integers(1, 12),
)
happened = st.tuples(
    st.integers(0, 30),
    st.sampled_from([EventType.LOGIN, EventType.SESSION_ENDED]),
    st.sampled_from(["ann", "bob", None]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(happened, max_size=40), st.lists(queries, min_size=1, max_size=12), st.sampled_from([1, 3, 10, 2000]))
def test_events_are_found_as_the_reference_finds_them(
    made: list[tuple[int, EventType, str | None]], asked: list[EventQuery], recent: int
) -> None:
    """In whatever order of their times they came, page by page."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store, reference = SQLiteStore(f"{folder}/x.db", synchronous="NORMAL"), MemoryStore()
            await store.open()
            await reference.open()
            build = Builders(0)
            events = [
                build.event(type_, at=at, user_id=user, actor=None if at % 3 else "eve", details={"n": n})
                for n, (at, type_, user) in enumerate(made)
            ]
            await store.append(events)
            await reference.append(events)
            for query in asked:
                page = EventQuery(**{name: getattr(query, name) for name in query.__struct_fields__})
                for _ in range(50):
                    found, expected = await store.events(page), await reference.events(page)
                    assert found == expected
                    if found.next is None:
                        break
                    page = EventQuery(
                        **{name: getattr(query, name) for name in query.__struct_fields__ if name != "after"},
                        after=found.next,
                    )
            await store.close()

    before, _windows.FIRST = _windows.FIRST, recent
    try:
        asyncio.run(run())
    finally:
        _windows.FIRST = before


async def test_an_event_of_a_newer_version_is_read(store: SQLiteStore) -> None:
    [newer] = Lane(EventClass.SESSION).seal([Event(type="what_nobody_knows_yet", at=1)])
    await store.append([newer])
    assert list((await store.events(EventQuery(type="what_nobody_knows_yet"))).events) == [newer]


async def test_what_is_read_may_be_changed_by_its_reader(store: SQLiteStore) -> None:
    await store.append(many(2))
    first, second = (await store.events(EventQuery())).events
    assert isinstance(first.personal, dict)
    first.personal["x"] = 1
    assert second.personal == {}


# -- purging and blanking -------------------------------------------------------------------------------------


async def test_many_are_purged_in_steps(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, other = Lane(EventClass.LOGIN), Lane(EventClass.LOGIN)
    await store.append([*many(1700, lane), *many(10, other)])
    groups = store.writer.groups
    assert await store.purge_events({lane.stream: 1500, other.stream: 0}) == 1500
    assert store.writer.groups >= groups + 4
    assert {one.name: one.first for one in await store.streams()} == {lane.stream: 1501, other.stream: 1}


async def test_many_are_blanked_in_steps_and_each_counts_once(store: SQLiteStore) -> None:
    lane = Lane(EventClass.LOGIN)
    events = lane.seal([Event(type=EventType.LOGIN, at=n, user_id="ann", ip="192.0.2.1") for n in range(1200)])
    await store.append(events)
    places = [Position(lane.stream, n) for n in range(1, 1301)]
    assert await store.blank([*places, *places[:600]], {"who"}) == 1200
    assert list((await store.events(EventQuery(user_id="ann"))).events) == []
    assert {one.ip for one in await store.trail(lane.stream, 0, 2000)} == {"192.0.2.1"}
    assert await store.blank(places, set()) == 1200
