"""Redis and Valkey, alone and as a cluster: changes and their events are all written, or none of them are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from databases import had, new_prefix, url_of, with_option
from provision.valkey import Valkey, ask
from sessiondb import StoreUnavailable, open_store
from sessiondb.core.change import Applied, Change, Conflict, Gone, SignIn
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.record import LINK_BYTES, Record
from sessiondb.core.sealing import Lane
from sessiondb.stores.base import EventQuery, NotTogether, Store
from sessiondb.stores.chaining import ChainingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit

LINK = b"l" * LINK_BYTES


@pytest.fixture(params=["redis", "redis_cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    store = RedisStore(with_option(url_of(request.param), f"prefix={new_prefix()}"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def kit(store: RedisStore) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


async def raw(store: RedisStore, name: str, key: bytes, *arguments: Any) -> Any:
    [reply] = await store.run([(key, (name, key, *arguments))])
    return reply


async def events_in(store: Store) -> list[Event]:
    return list((await store.events(EventQuery(limit=1000))).events)


async def left_over(store: RedisStore) -> list[bytes]:
    """What calls have laid down and not taken away."""
    return [key async for part in store.all_keys(store.keys.prefix.encode() + b"prepared:*") for key in part]


def test_in_a_cluster_events_go_beside_changes_where_they_may() -> None:
    assert open_store("redis://host").batching.together
    assert open_store("redis+sentinel://host/primary").batching.together
    assert not open_store("redis+cluster://host").batching.together


# -- as without events --------------------------------------------------------------------------------------

STATES = ("living", "moved", "guarded", "outrun", "rotated", "touched", "signed_in", "ended", "gone", "there", "new")
SETS = [(name,) for name in STATES] + [("living", "new"), ("gone", "outrun", "there"), STATES]


async def set_up(kit: Kit, store: Store, records: dict[str, Record]) -> None:
    await kit.put_in(store, *(one for name, one in records.items() if name not in ("gone", "new")))
    await store.apply([kit.update(records["moved"], {"a": 1}), kit.update(records["outrun"], {"a": 1})])
    await store.apply([kit.end(records["ended"])])


def changes_of(kit: Kit, records: dict[str, Record]) -> dict[str, Change]:
    rotate, _ = kit.rotation(records["rotated"])
    sign_in = SignIn(kit.now, b"{}", HOUR, DAY, "normal", (LINK,))
    return {
        "living": kit.update(records["living"], {"n": 1}, seen=True),
        "moved": kit.update(records["moved"], {"n": 1}, seen=True),
        "guarded": kit.update(records["guarded"], {"n": 1}, if_rev=records["guarded"].rev),
        "outrun": kit.update(records["outrun"], {"n": 1}, if_rev=records["outrun"].rev),
        "rotated": kit.update(records["rotated"], rotate=rotate),
        "touched": kit.touch(records["touched"], kit.now - 1),
        "signed_in": kit.update(records["signed_in"], {"n": 1}, sign_in=sign_in),
        "ended": kit.end(records["ended"]),
        "gone": kit.update(records["gone"], {"n": 1}),
        "there": kit.create(kit.record("ann", sid=records["there"].sid)),
        "new": kit.create(records["new"], [LINK]),
    }


@pytest.mark.parametrize("names", SETS, ids=lambda names: "-".join(names) if len(names) < len(STATES) else "all")
async def test_changes_with_events_are_answered_as_without(store: RedisStore, kit: Kit, names: Sequence[str]) -> None:
    reference = MemoryStore(clock=lambda: kit.now)
    await reference.open()
    records = {name: kit.record("ann", {"n": 0}, age=10**6) for name in STATES}
    changes = changes_of(kit, records)
    batch, events = [changes[name] for name in names], [kit.event(), kit.event(EventType.SESSION_ENDED)]
    answers = []
    for one in (store, reference):
        await set_up(kit, one, records)
        results = await one.apply(batch, events)
        told = [type(result) for result in results]
        found = [await kit.find_record(one, change.sid) for change in batch]
        living = {record.sid for record in (await one.find(kit.query("ann", limit=1000))).records}
        linked = {record.sid for record in (await one.find(kit.query(link=LINK, limit=1000))).records}
        answers.append(
            (told, [record and (record.rev, record.data, record.ended_at) for record in found], living, linked)
        )
        assert {kit.place(event) for event in await events_in(one)} == {kit.place(event) for event in events}
    assert answers[0] == answers[1]
    assert await left_over(store) == []


async def test_the_same_call_again_writes_nothing_twice(store: RedisStore, kit: Kit) -> None:
    """As after a lost reply: what has landed is known by its id and by its place."""
    old, new = kit.record("ann", {"n": 0}), kit.record("ann")
    await kit.put_in(store, old)
    changes: list[Change] = [kit.update(old, {"n": 1}), kit.create(new)]
    events = [kit.event(sid=new.sid), kit.event(EventType.SESSION_ENDED)]
    assert await store.apply(changes, events) == [Applied(2), Applied(1)]
    assert await store.apply(changes, events) == [Applied(2), Applied(1)]
    assert len(await events_in(store)) == 2
    assert (await kit.record_of(store, old.sid)).rev == 2


async def test_events_alone_are_all_there_or_none(store: RedisStore, kit: Kit) -> None:
    events = [kit.event(), kit.event()]
    assert await store.apply([], events) == []
    lane = Lane(EventClass.LOGIN)
    forged = Lane(EventClass.LOGIN)
    forged.stream = kit.place(events[0]).stream
    [fresh], [mine] = (one.seal([Event(type=EventType.LOGIN, at=7)]) for one in (lane, forged))
    with pytest.raises(StoreError, match="is taken by an event that this process has not written"):
        await store.apply([], [fresh, mine])
    assert await events_in(store) == events[::-1]


# -- none of them -------------------------------------------------------------------------------------------


async def test_a_damaged_session_has_nothing_of_its_call_written(store: RedisStore, kit: Kit) -> None:
    """It is found before the first write, wherever it is in the call."""
    fine, damaged, new = kit.record("ann", {"n": 0}), kit.record("ann"), kit.record("ann")
    await kit.put_in(store, fine, damaged)
    await raw(store, "HSET", store.keys.session(damaged.sid), "rev", "x")
    broken = kit.update(damaged, {"n": 1})
    for changes in ([kit.update(fine, {"n": 1}), broken, kit.create(new)], [broken, kit.end(fine)]):
        with pytest.raises(NotTogether):
            await store.apply(changes, [kit.event()])
    [result] = await store.apply([broken], [kit.event()])
    assert isinstance(result, StoreError) and result.outcome == "not_applied"
    assert await events_in(store) == []
    assert await kit.data_of(store, fine.sid) == {"n": 0}
    assert await kit.find_record(store, new.sid) is None
    assert await left_over(store) == []


async def test_data_that_is_no_object_is_answered_and_its_event_is_not_written(store: RedisStore, kit: Kit) -> None:
    odd, fine = kit.record("ann"), kit.record("ann")
    bad = kit.create(replace(odd, data=b"[]"))
    [result] = await store.apply([bad], [kit.event()])
    assert isinstance(result, SessionDataError)
    with pytest.raises(NotTogether):
        await store.apply([bad, kit.create(fine)], [kit.event()])
    assert await events_in(store) == []


@pytest.mark.parametrize("lost", ["user", "due", "link"])
async def test_a_session_that_cannot_be_listed_is_not_there_and_neither_is_its_event(
    store: RedisStore, kit: Kit, lost: str
) -> None:
    refused, fine = kit.record("ann"), kit.record("bob")
    key = {
        "user": store.keys.user("ann"),
        "due": store.keys.due(refused.sid),
        "link": store.keys.link(LINK.hex()),
    }[lost]
    await raw(store, "SET", key, "somebody else's")
    [result] = await store.apply([kit.create(refused, [LINK])], [kit.event()])
    assert isinstance(result, StoreError) and result.outcome == "not_applied"
    if lost != "due":
        with pytest.raises(NotTogether):
            await store.apply([kit.create(refused, [LINK]), kit.create(fine)], [kit.event()])
    assert await kit.find_record(store, refused.sid) is None
    assert await kit.find_record(store, fine.sid) is None
    assert await events_in(store) == []
    assert await left_over(store) == []


async def test_a_part_of_the_trail_that_is_missing_stops_the_change(store: RedisStore, kit: Kit) -> None:
    await store.append([kit.event()])
    await raw(store, "DEL", store.keys.streams)
    record = kit.record("ann")
    [result] = await store.apply([kit.create(record)], [kit.event()])
    assert isinstance(result, StoreError) and "sessiondb repair" in str(result)
    assert await kit.find_record(store, record.sid) is None


# -- a full memory ------------------------------------------------------------------------------------------


async def test_a_full_memory_takes_an_end_without_its_event_unless_it_is_required() -> None:
    own = had(lambda: Valkey("--maxmemory-policy", "noeviction"))
    try:
        store = RedisStore(own.url)
        await store.open()
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock()
        stored = [kit.record("ann", {"much": "x" * 20_000}) for _ in range(8)]
        await kit.put_in(store, *stored)
        await store.append([kit.event()])
        ask(own.port, "CONFIG", "SET", "maxmemory", "100kb")
        before = await events_in(store)
        first, second, third = stored[:3]
        [result] = await store.apply([kit.end(first)], [kit.event()])
        assert isinstance(result, StoreError) and not isinstance(result, StoreUnavailable)
        assert "is full" in str(result) and result.outcome == "not_applied"
        with pytest.raises(NotTogether):
            await store.apply([kit.end(first), kit.end(second)], [kit.event()])
        later: list[Event] = []
        required = ChainingStore(store, later=later.append, required=True)
        event = Event(type=EventType.SESSION_ENDED, at=kit.now)
        assert isinstance((await required.apply([kit.end(first)], [event]))[0], StoreError)
        assert (await kit.record_of(store, first.sid)).ended_at is None
        assert (await events_in(store), later) == (before, [])
        usual = ChainingStore(store, later=later.append)
        assert isinstance((await usual.apply([kit.end(first)], [event]))[0], Applied)
        ended = await usual.apply([kit.end(second), kit.end(third)], [event])
        assert [type(one) for one in ended] == [Applied, Applied]
        assert len(later) == 2
        # And once there is room, both.
        ask(own.port, "CONFIG", "SET", "maxmemory", "100mb")
        [result] = await usual.apply([kit.end(stored[3])], later)
        assert isinstance(result, Applied)
        assert len(await events_in(store)) == len(before) + 2
        await store.close()
    finally:
        own.stop()


async def test_what_is_answered_is_no_error(store: RedisStore, kit: Kit) -> None:
    """Gone, and Conflict with what is there: what was tried is told all the same."""
    moved, gone = kit.record("ann", {"n": 1}), kit.record("ann")
    await kit.put_in(store, moved)
    events = [kit.event(sid=moved.sid), kit.event(sid=gone.sid)]
    conflict, other = await store.apply([kit.end(moved, if_rev=9), kit.update(gone, {"a": 1})], events)
    assert isinstance(conflict, Conflict) and conflict.record.sid == moved.sid
    assert isinstance(other, Gone)
    assert {kit.place(event) for event in await events_in(store)} == {kit.place(event) for event in events}
