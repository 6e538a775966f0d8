"""The audit trail in Redis and Valkey: what its lists hold, late and odd events, its bound, its mending."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from databases import new_prefix, url_of, with_option
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import GROUPS, Lane
from sessiondb.stores import _redis_trail_scripts as scripts
from sessiondb.stores._redis_slots import slot_of
from sessiondb.stores.base import EventQuery, Position, Store
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit, together

BLOCK = scripts.BLOCK


@pytest.fixture
async def store() -> AsyncIterator[RedisStore]:
    store = RedisStore(with_option(url_of("redis"), f"prefix={new_prefix()}"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def kit(store: RedisStore) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


async def raw(store: RedisStore, *command: Any) -> Any:
    [reply] = await store.run([(b"", command)])
    return reply


async def keys(store: RedisStore) -> dict[str, int]:
    """How many keys there are of each kind, but for sessions."""
    found: Counter[str] = Counter()
    async for part in store.all_keys(store.keys.prefix.encode() + b"*"):
        found.update(key.decode().partition("}:")[2].partition(":")[0] or key.decode() for key in part)
    return dict(found)


async def named(store: RedisStore) -> int:
    """How many places there are in the lists of names."""
    total = 0
    async for part in store.all_keys(store.keys.prefix.encode() + b"*:names:*"):
        total += sum(await store.run([(key, ("LLEN", key)) for key in part]))
    return total


def events_of(kit: Kit, count: int, **fields: Any) -> list[Event]:
    return [kit.event(details={"n": n}, **fields) for n in range(count)]


async def all_events(store: Store, query: EventQuery, size: int = 100) -> list[Event]:
    found: list[Event] = []
    after: int | None = None
    while True:
        page = await store.events(replace(query, after=after, limit=size))
        found += page.events
        if page.next is None:
            return found
        assert len(page.events) == size
        after = page.next


# -- as in memory -------------------------------------------------------------------------------------------

NAMES = ["ann", "Ann", "bob", "é", "a" * 40]
optional = st.one_of(st.none(), st.sampled_from(NAMES))
# A stream, a number in it, whom it is about, by whom, and of what type it is.
placed = st.tuples(st.integers(0, 2), st.integers(1, 12), optional, optional, st.sampled_from(["a", "b"]))
steps = st.one_of(
    st.tuples(st.just("append"), st.lists(placed, min_size=1, max_size=8)),
    st.tuples(st.just("purge"), st.dictionaries(st.integers(0, 3), st.integers(0, 12), max_size=3)),
    st.tuples(
        st.just("blank"),
        st.tuples(
            st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=6), st.sets(st.sampled_from(GROUPS))
        ),
    ),
)
STREAMS = ["l000000000000001", "s00000000000000a", "a" * 16, "l00000000000ffff"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=12))
def test_the_trail_is_a_twin_of_the_one_in_memory(steps: list[tuple[Any, ...]]) -> None:
    """Late events, gaps, taken places, purging and blanking in any order: each listing says the same."""
    asyncio.run(_compare(steps))


async def _compare(steps: list[tuple[Any, ...]]) -> None:
    store = RedisStore(with_option(url_of("redis"), f"prefix={new_prefix()}"))
    twin = MemoryStore()
    await store.open()
    await twin.open()
    try:
        await _do(steps, store, twin)
    finally:
        await store.close()


async def _do(steps: list[tuple[Any, ...]], store: RedisStore, twin: MemoryStore) -> None:
    moment = 10**15
    for what, given_ in steps:
        answers: list[Any] = []
        moment += 100
        events = [_event(moment + at, *one) for at, one in enumerate(given_)] if what == "append" else []
        for one in (store, twin):
            if what == "append":
                answers.append(await one.append(events))  # type: ignore[func-returns-value]
            elif what == "purge":
                answers.append(await one.purge_events({STREAMS[at]: seq for at, seq in given_.items()}))
            else:
                places, groups = given_
                answers.append(await one.blank([Position(STREAMS[at], seq) for at, seq in places], groups))
        assert answers[0] == answers[1]
        await _say_the_same(store, twin, moment)
    # Nothing is left of what was purged, in no list.
    await store.purge_events(dict.fromkeys(STREAMS, 100))
    assert (await named(store), await store.streams(), (await store.stats()).events) == (0, [], 0)


async def _say_the_same(store: RedisStore, twin: MemoryStore, moment: int) -> None:
    assert await store.streams() == await twin.streams()
    for name in STREAMS:
        for after, limit in ((0, 100), (0, 2), (3, 3)):
            mine, others = await store.trail(name, after, limit), await twin.trail(name, after, limit)
            assert (mine, [e.seal for e in mine]) == (others, [e.seal for e in others])
    for query in (
        EventQuery(),
        EventQuery(user_id="ann"),
        EventQuery(actor="ann"),
        EventQuery(user_id="bob", actor="Ann"),
        EventQuery(type="a"),
        EventQuery(type="b", user_id="é"),
        EventQuery(since=moment - 2),
        EventQuery(until=moment, type="a"),
    ):
        assert await all_events(store, query, 2) == await all_events(twin, query, 2)
    assert (await store.stats()).events == (await twin.stats()).events


def _event(at: int, stream: int, seq: int, user: str | None, actor: str | None, type_: str) -> Event:
    lane = Lane(EventClass.LOGIN)
    lane.stream, lane.seq = STREAMS[stream], seq - 1
    [event] = lane.seal([Event(type=type_, at=at, user_id=user, actor=actor, ip="192.0.2.1" if actor else None)])
    return event


# -- many ---------------------------------------------------------------------------------------------------


async def test_events_in_many_blocks_are_found_by_everything(store: RedisStore, kit: Kit) -> None:
    """More than one script looks through, of two streams that came in turns."""
    chance = random.Random(7)
    events: list[Event] = []
    for n in range(6000):
        kind = EventType.LOGIN if n % 3 else EventType.SESSION_ENDED
        user = None if n % 5 == 0 else f"user{chance.randrange(4)}"
        actor = "root" if n % 1000 == 0 else None
        events.append(kit.event(kind, at=kit.now + n, user_id=user, actor=actor, details={"n": n}))
    for start in range(0, 6000, 700):
        await store.append(events[start : start + 700])
    newest = events[::-1]
    for query, size in (
        (EventQuery(), 1000),
        (EventQuery(user_id="user2"), 333),
        (EventQuery(actor="root"), 2),
        (EventQuery(type="session_ended"), 1000),
        (EventQuery(type="nothing"), 5),
        (EventQuery(since=kit.now + 100, until=kit.now + 200), 30),
        (EventQuery(until=kit.now + 3), 2),
        (EventQuery(since=kit.now + 5990), 4),
    ):
        expected = [
            event
            for event in newest
            if (query.user_id is None or event.user_id == query.user_id)
            and (query.actor is None or event.actor == query.actor)
            and (query.type is None or event.type == query.type)
            and (query.since is None or event.at >= query.since)
            and (query.until is None or event.at < query.until)
        ]
        assert await all_events(store, query, size) == expected
    name = kit.place(events[1]).stream
    found: list[Event] = []
    while page := await store.trail(name, len(found), 999):
        found += page
    assert found == [event for event in events if kit.place(event).stream == name]


async def test_odd_values_come_back_as_they_were(store: RedisStore, kit: Kit) -> None:
    """Numbers of more than 64 bits, times before 1970 and before any that are usual, types that nobody knows."""
    events = [
        kit.event(details={"n": 2**70}, personal={"m": -(2**64)}),
        kit.event(at=5),
        kit.event(at=-5),
        kit.event(at=0),
    ]
    lane = Lane(EventClass.SESSION)
    events += lane.seal([Event(type="of_a_later_version", at=kit.now)])
    await store.append(events)
    assert (await store.events(EventQuery())).events == events[::-1]
    # A time that is spelt otherwise than usual is compared all the same.
    assert (await store.events(EventQuery(until=1))).events == [events[3], events[2]]
    assert (await store.events(EventQuery(since=1, until=kit.now))).events == [events[1]]
    assert (await store.events(EventQuery(type="of_a_later_version"))).events == [events[4]]


async def test_two_workers_with_the_same_events_write_each_once(store: RedisStore, kit: Kit) -> None:
    other = RedisStore(with_option(url_of("redis"), f"prefix={store.keys.prefix}"))
    await other.open()
    events = events_of(kit, 300, user_id="ann")
    parts = [events[start : start + 30] for start in range(0, 300, 30)]
    await together(one.append(part) for part in parts for one in (store, other, store))
    assert await store.trail(kit.place(events[0]).stream, 0, 1000) == events
    assert len(await all_events(other, EventQuery(user_id="ann"))) == 300
    assert (await store.stats()).events == 300
    await other.close()


# -- what is kept -------------------------------------------------------------------------------------------


async def test_all_keys_of_the_trail_are_in_one_slot(store: RedisStore, kit: Kit) -> None:
    """In a cluster a script takes no others."""
    await store.append([kit.event(sid=kit.record().sid, user_id="ann", actor="bob"), kit.event()])
    slots = set()
    async for part in store.all_keys(store.keys.prefix.encode() + b"{*"):
        slots |= {slot_of(key) for key in part}
    assert len(slots) == 1
    assert slots != {slot_of(store.keys.meta)}


async def test_an_event_takes_little_more_than_its_value(store: RedisStore, kit: Kit) -> None:
    events = [
        kit.event(sid=kit.record().sid, user_id=f"user{n % 700}", ip="192.0.2.1", personal={"user_agent": "x" * 110})
        for n in range(8000)
    ]
    await store.append(events[:2000])
    before = int((await raw(store, "INFO", "memory")).split(b"used_memory:")[1].split(b"\r")[0])
    await store.append(events[2000:])
    after = int((await raw(store, "INFO", "memory")).split(b"used_memory:")[1].split(b"\r")[0])
    assert (after - before) / 6000 < 480


async def test_nobody_is_named_by_a_key(store: RedisStore, kit: Kit) -> None:
    sid = kit.record().sid
    await store.append([kit.event(sid=sid, user_id="unmistakable", actor="unmistakable2")])
    async for part in store.all_keys(store.keys.prefix.encode() + b"*"):
        for key in part:
            assert b"unmistakable" not in key
            assert sid.encode() not in key


async def test_what_is_purged_leaves_no_keys(store: RedisStore, kit: Kit) -> None:
    """Whole blocks go; the one in which the next event comes stays, and holds nothing."""
    events = [kit.event(user_id=f"u{n}", actor="root", sid=f"s{n}") for n in range(BLOCK * 3 + 5)]
    ended = [kit.event(EventType.SESSION_ENDED, user_id="ann") for _ in range(3)]
    await store.append([*events[:200], *ended, *events[200:]])
    name, other = kit.place(events[0]).stream, kit.place(ended[0]).stream
    assert await store.purge_events({name: 10_000}) == len(events)
    # That of the three others, and the last one.
    assert await keys(store) == {"state": 1, "blocks": 1, "streams": 1, "stream": 1, "block": 2, "names": 1,
                                 f"{store.keys.prefix}meta": 1}  # fmt: skip
    assert await named(store) == 3
    assert await store.trail(other, 0, 10) == ended
    assert await store.purge_events({name: 10_000, other: 3}) == 3
    left = await keys(store)
    assert left == {"state": 1, "blocks": 1, "block": 1, f"{store.keys.prefix}meta": 1}
    [block] = [key async for part in store.all_keys(store.keys.block_prefix + b"*") for key in part]
    assert set(await raw(store, "LRANGE", block, 0, -1)) == {b""}
    # It goes on where it was.
    await store.append(more := events_of(kit, 3))
    assert await store.trail(name, 0, 10) == more


async def test_purging_and_appending_at_once_lose_nothing(store: RedisStore, kit: Kit) -> None:
    events = events_of(kit, 3000, user_id="ann")
    name = kit.place(events[0]).stream
    await store.append(events[:1000])

    async def append() -> None:
        for start in range(1000, 3000, 20):
            await store.append(events[start : start + 20])

    async def purge() -> int:
        purged = 0
        for last in range(0, 1001, 100):
            purged += await store.purge_events({name: last})
            await asyncio.sleep(0)
        return purged

    _, one, other = await together([append(), purge(), purge()])  # type: ignore[list-item]
    assert one + other == 1000
    assert [e.details["n"] for e in await store.trail(name, 0, 5000)] == list(range(1000, 3000))
    assert (await store.stats()).events == 2000
    assert len(await all_events(store, EventQuery(user_id="ann"), 500)) == 2000


# -- the bound ----------------------------------------------------------------------------------------------


async def test_above_the_bound_the_oldest_go_and_it_is_told(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    store = RedisStore(with_option(url_of("redis"), f"prefix={new_prefix()}&max_events=1000"))
    await store.open()
    early = kit.event(EventType.POLICY_CHANGED, actor="root")
    events = events_of(kit, 3000, user_id="ann")
    await store.append([early, *events[:900]])
    assert not caplog.records
    with caplog.at_level(logging.ERROR):
        for start in range(900, 3000, 70):
            await store.append(events[start : start + 70])
    [record] = caplog.records
    assert "has reached max_events=1000" in record.message
    total = (await store.stats()).events
    assert 1000 - 2 * BLOCK < total <= 1000
    assert store.bound.dropped == 3001 - total
    assert int(await raw(store, "HGET", store.keys.trail_state, "dropped")) == 3001 - total
    [stream] = await store.streams()
    assert stream.first == 3000 - total + 1
    assert await store.trail(stream.name, 0, 5000) == events[-total:]
    assert await named(store) == total
    assert (await store.events(EventQuery(actor="root"))).events == []
    # Also by a call with a change.
    [result] = await store.apply([kit.create(kit.record("bob"))], events_of(kit, 300))
    assert not isinstance(result, Exception)
    assert (await store.stats()).events <= 1000
    await store.close()


async def test_an_empty_block_at_the_beginning_does_not_stop_the_bound(kit: Kit) -> None:
    """It was emptied while the next event was to come there."""
    store = RedisStore(with_option(url_of("redis"), f"prefix={new_prefix()}&max_events=1000"))
    await store.open()
    events = events_of(kit, 3000)
    await store.append(events[:10])
    await store.purge_events({kit.place(events[0]).stream: 10})
    await store.append(events[10:])
    assert (await store.stats()).events <= 1000
    await store.close()


async def test_two_workers_above_the_bound_drop_each_event_once(kit: Kit) -> None:
    url = with_option(url_of("redis"), f"prefix={new_prefix()}&max_events=1000")
    stores = [RedisStore(url), RedisStore(url)]
    for store in stores:
        await store.open()
    lanes = [Lane(EventClass.LOGIN) for _ in range(8)]
    batches = [lane.seal([Event(type=EventType.LOGIN, at=kit.now) for _ in range(400)]) for lane in lanes]
    await together(
        stores[at % 2].append(batch[start : start + 50])
        for at, batch in enumerate(batches)
        for start in range(0, 400, 50)
    )
    total = (await stores[0].stats()).events
    assert total == len(await all_events(stores[0], EventQuery(), 500))
    assert 1000 - 3 * BLOCK < total <= 1000
    assert sum(store.bound.dropped for store in stores) == 3200 - total
    for store in stores:
        await store.close()


# -- what is odd --------------------------------------------------------------------------------------------


async def test_an_event_that_is_far_from_the_others_is_refused(store: RedisStore, kit: Kit) -> None:
    """What is between would fill the memory; and who counts by one is never there."""
    lane = Lane(EventClass.LOGIN)
    [first] = lane.seal([Event(type=EventType.LOGIN, at=kit.now)])
    await store.append([first])
    far = Lane(EventClass.LOGIN)
    far.stream, far.seq = lane.stream, 2**40
    [event] = far.seal([Event(type=EventType.LOGIN, at=kit.now)])
    for attempt in (store.append([event]), store.apply([], [event])):
        with pytest.raises(StoreError, match="more than 10,000 places from the others") as caught:
            await attempt
        assert caught.value.outcome == "not_applied"
    # Nor both at once in a new stream; but a stream may begin anywhere.
    new = Lane(EventClass.LOGIN)
    [one] = new.seal([Event(type=EventType.LOGIN, at=kit.now)])
    new.seq = 2**40
    [other] = new.seal([Event(type=EventType.LOGIN, at=kit.now)])
    with pytest.raises(StoreError, match="more than 10,000 places"):
        await store.append([one, other])
    await store.append([other])
    assert await store.trail(new.stream, 0, 10) == [other]
    assert (await store.stats()).events == 2


async def test_a_block_that_is_not_as_it_was_left_is_let_alone(store: RedisStore, kit: Kit) -> None:
    """Somebody has deleted it: others are not written to where its events are looked for."""
    events = events_of(kit, 30)
    await store.append(events[:10])
    await raw(store, "DEL", store.keys.block(1))
    await store.append(events[10:])
    assert await store.trail(kit.place(events[0]).stream, 0, 100) == events[10:]
    assert (await store.events(EventQuery())).events == events[:9:-1]


async def test_what_is_of_another_type_fails_alone_and_writes_nothing(store: RedisStore, kit: Kit) -> None:
    record = kit.record("ann")
    event, other = kit.event(user_id="ann"), kit.event(user_id="bob")
    await raw(store, "SET", store.keys.names("ann"), "somebody else's")
    for events in ([event], [other, event]):
        with pytest.raises(StoreError):
            await store.append(events)
        with pytest.raises(StoreError):
            await store.apply([kit.create(record)], events)
    assert await kit.find_record(store, record.sid) is None
    assert (await store.streams(), (await store.stats()).events) == ([], 0)
    await store.append([other])
    await store.append([event, kit.event()][1:])
    assert (await store.events(EventQuery(user_id="bob"))).events == [other]


@pytest.mark.parametrize("lost", ["streams", "state", "blocks", "stream"])
async def test_repair_mends_what_was_lost(store: RedisStore, kit: Kit, lost: str) -> None:
    events, ended = events_of(kit, 300), [kit.event(EventType.SESSION_ENDED) for _ in range(5)]
    await store.append([*events, *ended])
    name, other = kit.place(events[0]).stream, kit.place(ended[0]).stream
    await store.purge_events({name: 20})
    at = {
        "streams": store.keys.streams,
        "state": store.keys.trail_state,
        "blocks": store.keys.blocks,
        "stream": store.keys.stream(other),
    }
    await raw(store, "DEL", at[lost])
    more, rest = events_of(kit, 3), [kit.event(EventType.SESSION_ENDED)]
    if lost in ("streams", "stream"):
        with pytest.raises(StoreError, match="sessiondb repair"):
            await store.append([*more, *rest])
    await store.repair()
    await store.append([*more, *rest])
    assert await store.trail(name, 0, 1000) == [*events[20:], *more]
    assert await store.trail(other, 0, 1000) == ([] if lost == "stream" else ended) + rest
    listed = [event for event in await all_events(store, EventQuery()) if event.type == EventType.LOGIN]
    assert listed == [*events[20:], *more][::-1]
    assert (await store.stats()).events == 280 + 5 + 4
    # Nothing changes where nothing is missing.
    before = [await store.streams(), await store.stats()]
    await store.repair()
    assert [await store.streams(), await store.stats()] == before


def batches(values: Sequence[Event], size: int) -> list[Sequence[Event]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


async def test_scripts_that_are_forgotten_write_no_event_twice(store: RedisStore, kit: Kit) -> None:
    events = events_of(kit, 400)
    done = asyncio.Event()

    async def forget() -> None:
        while not done.is_set():
            await raw(store, "SCRIPT", "FLUSH")
            await asyncio.sleep(0.001)

    forgetting = asyncio.create_task(forget())
    for part in batches(events, 10):
        await store.append(part)
    done.set()
    await forgetting
    assert await store.trail(kit.place(events[0]).stream, 0, 1000) == events
    assert (await store.events(EventQuery(limit=1000))).events == events[::-1]
