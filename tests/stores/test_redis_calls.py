"""Calls with events in a Redis or Valkey Cluster: whoever is killed, and whenever, both are there or neither is.

Each burst of commands that a call sends is a moment in which it may die: before it, after it, or between two nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal

import pytest

from databases import had, new_prefix, url_of, with_option
from provision.valkey import ValkeyCluster, ask
from sessiondb.core.change import Applied, Change, Create, End, Gone, SignIn
from sessiondb.core.errors import StoreError, StoreUnavailable
from sessiondb.core.events import Event, EventType
from sessiondb.core.policy import Caps
from sessiondb.core.record import Record
from sessiondb.stores import _redis_call_scripts as scripts
from sessiondb.stores import _redis_calls as calling
from sessiondb.stores._redis_connection import ConnectionLost
from sessiondb.stores._redis_nodes import Keyed
from sessiondb.stores._redis_script import Script
from sessiondb.stores._redis_slots import slot_of
from sessiondb.stores.base import ChangeResult, EventQuery, NotTogether
from sessiondb.stores.chaining import ChainingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR, MINUTE
from sessiondb.testing.kit import Kit

Moment = Literal["before", "between", "after"]


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture
async def url() -> str:
    return with_option(url_of("redis_cluster"), f"prefix={new_prefix()}")


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[RedisStore]:
    """Another process's."""
    store = RedisStore(url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def kit(store: RedisStore) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


def die(store: RedisStore, burst: int, moment: Moment) -> None:
    """``store`` sends so many bursts, and then one before, after or in the middle of which it dies."""
    real, sent = store.try_all, 0

    async def try_all(commands: Sequence[Keyed], *arguments: Any, **named: Any) -> list[Any]:
        nonlocal sent
        sent += 1
        if sent < burst:
            return await real(commands, *arguments, **named)
        if sent == burst and moment != "before":
            await real(commands if moment == "after" else commands[::2], *arguments, **named)
        raise Killed

    store.try_all = try_all  # type: ignore[method-assign]


async def left_over(store: RedisStore) -> list[bytes]:
    """What calls have laid down, and their names."""
    keys = [key async for part in store.all_keys(store.keys.prefix.encode() + b"prepared:*") for key in part]
    for key in (store.keys.begun_calls, store.keys.counting_calls):
        [names] = await store.run([(key, ("ZRANGE", key, 0, -1))])
        keys += names
    return keys


async def settle(store: RedisStore, kit: Kit) -> None:
    """A sweep, some time later."""
    await store.sweep(kit.cutoffs(kit.now + 2 * MINUTE), 100)


async def events_in(store: RedisStore) -> list[Event]:
    return list((await store.events(EventQuery(limit=1000))).events)


# -- killed -------------------------------------------------------------------------------------------------


async def login(kit: Kit, store: RedisStore) -> tuple[list[Change], list[Event]]:
    record = kit.record("ann")
    return [kit.create(record)], [kit.event(sid=record.sid, user_id="ann")]


async def login_over_another(kit: Kit, store: RedisStore) -> tuple[list[Change], list[Event]]:
    old, new = kit.record(data={"cart": 1}), kit.record("ann", {"cart": 1})
    await kit.put_in(store, old)
    events = [kit.event(sid=new.sid), kit.event(EventType.SESSION_ENDED, sid=old.sid), kit.event(sid=new.sid)]
    return [kit.create(new), kit.end(old)], events


async def many(kit: Kit, store: RedisStore) -> tuple[list[Change], list[Event]]:
    old = [kit.record("ann", {"n": 0}) for _ in range(8)]
    await kit.put_in(store, *old)
    sign_in = SignIn(kit.now, b"{}", HOUR, DAY, "normal", (b"m" * 16,))
    changes: list[Change] = [kit.update(one, {"n": 1}) for one in old[:4]]
    changes += [kit.update(old[4], sign_in=sign_in), kit.end(old[5]), kit.create(kit.record("bob"), [b"l" * 16])]
    return changes, [kit.event(), kit.event(EventType.SESSION_ENDED), kit.event(EventType.POLICY_CHANGED)]


async def has_landed(kit: Kit, store: RedisStore, change: Change) -> bool:
    record = await kit.find_record(store, change.sid)
    if isinstance(change, Create):
        return record is not None
    assert record is not None
    return record.ended_at is not None if isinstance(change, End) else record.knows(change.id)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("calls", [login, login_over_another, many], ids=lambda one: str(one.__name__))
async def test_whenever_it_is_killed_all_is_there_or_nothing(
    store: RedisStore, other: RedisStore, kit: Kit, calls: Callable[[Kit, RedisStore], Awaitable[Any]], moment: Moment
) -> None:
    outcomes = []
    for burst in range(1, 10):
        changes, events = await calls(kit, store)
        die(store, burst, moment)
        killed = False
        try:
            results = await store.apply(changes, events)
            assert all(isinstance(result, Applied) for result in results)
        except Killed:
            killed = True
        del store.try_all  # type: ignore[method-assign]
        # Before its time nobody looks at it.
        await other.sweep(kit.cutoffs(kit.now + 1), 100)
        await settle(other, kit)
        landed = [await has_landed(kit, other, change) for change in changes]
        there = [event in await events_in(other) for event in events]
        assert len(set(landed + there)) == 1, f"killed {moment} burst {burst}: {landed}, {there}"
        if landed[0]:
            for event in events:
                stream, seq = kit.place(event)
                assert (await other.trail(stream, seq - 1, 1)) == [event]
        assert not killed or await left_over(other) == []
        outcomes.append((killed, landed[0]))
        if not killed:
            break
    # It is not there as long as nothing counts, and is there from then on.
    assert outcomes == sorted(outcomes, key=lambda one: (not one[0], one[1]))
    assert {(True, False), (True, True), (False, True)} == set(outcomes)
    for user in ("ann", "bob"):
        for sid in await kit.living(other, user):
            record = await kit.record_of(other, sid)
            assert await other.run([(key := other.keys.due(sid), ("ZSCORE", key, sid))]) != [None]
            assert record.ended_at is None


async def test_who_is_cancelled_leaves_no_half(store: RedisStore, other: RedisStore, kit: Kit) -> None:
    """At any moment of its time, as a deadline does it."""
    landed = 0
    for tenth in range(1, 60):
        record = kit.record("ann")
        event = kit.event(sid=record.sid)
        call = asyncio.ensure_future(store.apply([kit.create(record)], [event]))
        await asyncio.wait([call], timeout=tenth / 20_000)
        call.cancel()
        await asyncio.wait([call])
        await settle(other, kit)
        is_there = await kit.find_record(other, record.sid) is not None
        assert is_there == (event in await events_in(other))
        landed += is_there
    await store.apply([kit.create(kit.record())], [kit.event(EventType.SESSION_ENDED)])
    await settle(other, kit)
    assert await left_over(other) == []


# -- slow, and settled by others ----------------------------------------------------------------------------


def hold(store: RedisStore, script: Script) -> tuple[asyncio.Event, asyncio.Event]:
    """``store`` stops before it sends ``script``; the first event says when, the second lets it go on."""
    real, reached, goes_on = store.try_all, asyncio.Event(), asyncio.Event()

    async def try_all(commands: Sequence[Keyed], *arguments: Any, **named: Any) -> list[Any]:
        if any(command[:2] == ("EVALSHA", script.sha) for _, command in commands):
            reached.set()
            await goes_on.wait()
        return await real(commands, *arguments, **named)

    store.try_all = try_all  # type: ignore[method-assign]
    return reached, goes_on


async def held(
    store: RedisStore, other: RedisStore, kit: Kit, script: Script, change: Change, event: Event
) -> ChangeResult:
    """What a call is answered that others settle while it waits before ``script``."""
    reached, goes_on = hold(store, script)
    call = asyncio.ensure_future(store.apply([change], [event]))
    await reached.wait()
    await settle(other, kit)
    goes_on.set()
    [result] = await call
    return result


@pytest.mark.parametrize("script", [scripts.PREPARE, scripts.COMMIT], ids=["prepare", "commit"])
async def test_who_comes_too_late_writes_nothing(
    store: RedisStore, other: RedisStore, kit: Kit, script: Script
) -> None:
    """The sweeper has given the call up before it counted."""
    record = kit.record("ann")
    event = kit.event(sid=record.sid)
    result = await held(store, other, kit, script, kit.create(record), event)
    assert isinstance(result, StoreError) and result.outcome == "not_applied"
    assert "given it up" in str(result)
    assert await kit.find_record(store, record.sid) is None
    assert await events_in(store) == []
    assert await left_over(store) == []
    # The place is free for the next try.
    assert await store.apply([kit.create(record)], [event]) == [Applied(1)]


async def test_who_comes_after_the_sweeper_makes_no_change_twice(
    store: RedisStore, other: RedisStore, kit: Kit
) -> None:
    record = kit.record("ann", {"n": 0})
    await kit.put_in(store, record)
    result = await held(store, other, kit, scripts.FINISH, kit.update(record, {"n": 1}), kit.event())
    assert isinstance(result, StoreError) and result.outcome == "unknown"
    assert (await kit.record_of(store, record.sid)).rev == 2
    assert len(await events_in(store)) == 1
    assert await left_over(store) == []


async def test_many_sweepers_make_each_change_once(store: RedisStore, other: RedisStore, kit: Kit) -> None:
    records = [kit.record("ann", {"n": 0}) for _ in range(20)]
    await kit.put_in(store, *records)
    for record in records:
        die(store, 4, "before")
        with pytest.raises(Killed):
            await store.apply([kit.update(record, {"n": 1})], [kit.event()])
        del store.try_all  # type: ignore[method-assign]
    await asyncio.gather(*(calling.settle_due(one, kit.now + 2 * MINUTE) for one in (store, other, store, other)))
    assert [(await kit.record_of(store, record.sid)).rev for record in records] == [2] * 20
    assert await left_over(store) == []


async def test_a_change_that_cannot_be_made_yet_is_made_by_a_later_sweep(
    store: RedisStore, other: RedisStore, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has damaged the session meanwhile. Other calls are not held up, and neither is the sweep."""
    damaged, fine = kit.record("ann", {"n": 0}), kit.record("bob", {"n": 0})
    expired = kit.record("carol", age=2 * HOUR, idle=HOUR)
    await kit.put_in(store, damaged, fine, expired)
    for record in (damaged, fine):
        die(store, 4, "before")
        with pytest.raises(Killed):
            await store.apply([kit.update(record, {"n": 1})], [kit.event()])
        del store.try_all  # type: ignore[method-assign]
    key = store.keys.session(damaged.sid)
    await store.run([(key, ("HSET", key, "rev", "x"))])
    swept = await other.sweep(kit.cutoffs(kit.now + 2 * MINUTE), 100)
    assert [one.sid for one in swept.ended] == [expired.sid]
    assert "a later sweep does" in caplog.text
    assert await kit.data_of(other, fine.sid) == {"n": 1}
    await store.run([(key, ("HSET", key, "rev", "1"))])
    await settle(other, kit)
    assert await kit.data_of(other, damaged.sid) == {"n": 1}
    assert await left_over(other) == []


async def test_what_a_killed_process_has_signed_in_is_listed_by_the_sweeper(
    store: RedisStore, other: RedisStore, kit: Kit
) -> None:
    """Its new life is known only once it is made: its places in the lists are looked at then."""
    record = kit.record("ann", idle=HOUR, absolute=HOUR)
    await kit.put_in(store, record)
    sign_in = SignIn(kit.now, b"{}", 30 * DAY, 40 * DAY, "remembered", (b"n" * 16,))
    die(store, 4, "before")
    with pytest.raises(Killed):
        await store.apply([kit.update(record, sign_in=sign_in)], [kit.event()])
    caps = Caps(kit.caps.normal, kit.caps.normal)
    for _ in range(2):
        await other.sweep(kit.cutoffs(kit.now + 2 * MINUTE, caps=caps), 100)
    listed = other.keys.user("ann")
    [score] = await other.run([(listed, ("ZSCORE", listed, record.sid))])
    assert int(score) == record.created_at + 40 * DAY


# -- lost replies -------------------------------------------------------------------------------------------


def lose(store: RedisStore, script: Script, *, is_done: bool, times: int = 1) -> None:
    """The replies to the next ``times`` bursts with ``script`` are lost, whether the server has done it or not."""
    real, left = store.try_all, times

    async def try_all(commands: Sequence[Keyed], *arguments: Any, **named: Any) -> list[Any]:
        nonlocal left
        if left and any(command[:2] == ("EVALSHA", script.sha) for _, command in commands):
            left -= 1
            if is_done:
                await real(commands, *arguments, **named)
            return [ConnectionLost("the server closed the connection")] * len(commands)
        return await real(commands, *arguments, **named)

    store.try_all = try_all  # type: ignore[method-assign]


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_lost_reply_to_what_decides_is_found_out(store: RedisStore, kit: Kit, is_done: bool) -> None:
    record = kit.record("ann", {"n": 0})
    await kit.put_in(store, record)
    lose(store, scripts.COMMIT, is_done=is_done)
    [result] = await store.apply([kit.update(record, {"n": 1})], [kit.event()])
    assert result == Applied(2) if is_done else isinstance(result, StoreError) and result.outcome == "not_applied"
    assert len(await events_in(store)) == is_done
    assert (await kit.record_of(store, record.sid)).rev == 1 + is_done


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("script", [scripts.COMMIT, scripts.FINISH], ids=["commit", "finish"])
async def test_what_is_sent_again_is_made_once_however_much_comes_between(
    store: RedisStore, other: RedisStore, kit: Kit, script: Script, is_done: bool
) -> None:
    """More changes than a session remembers come before the sweeper does."""
    record = kit.record("ann", {"n": 0})
    await kit.put_in(store, record)
    lose(store, script, is_done=is_done)
    if script is scripts.COMMIT:
        lose(store, scripts.GIVE_UP, is_done=False)  # nor can it be found out at once
    recovering = RecoveringStore(store, pause=0.001)
    event = kit.event()
    [result] = await recovering.apply([kit.update(record, {"n": 1})], [event])
    assert result == Applied(2)
    for number in range(2, 14):
        assert await store.apply([kit.update(record, {"n": number})]) == [Applied(number + 1)]
    await settle(other, kit)
    assert await kit.data_of(store, record.sid) == {"n": 13}
    assert await events_in(store) == [event]
    await store.apply([kit.create(kit.record())], [kit.event()])
    await settle(other, kit)
    assert await left_over(store) == []


async def test_nothing_is_sent_again_before_it_is_known_what_became_of_it(store: RedisStore, kit: Kit) -> None:
    record = kit.record("ann", {"n": 0})
    await kit.put_in(store, record)
    update = kit.update(record, {"n": 1})
    lose(store, scripts.FINISH, is_done=False, times=2)
    [result] = await store.apply([update], [kit.event()])
    assert isinstance(result, StoreError) and result.outcome == "unknown"
    with pytest.raises(StoreError) as caught:
        await store.apply([update])
    assert caught.value.outcome == "unknown"
    assert (await kit.record_of(store, record.sid)).rev == 1
    assert await store.apply([update]) == [Applied(2)]
    assert await kit.apply(store, kit.update(record, {"n": 2})) == Applied(3)


# -- nodes --------------------------------------------------------------------------------------------------


@pytest.fixture
def three() -> Iterator[ValkeyCluster]:
    """Three nodes that this test may break; what one does not serve, the others still do."""
    servers = had(ValkeyCluster)
    for _, port in servers.nodes:
        ask(port, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    yield servers
    servers.stop()


async def test_a_dead_node_has_whole_calls_refused_and_others_go_on(three: ValkeyCluster) -> None:
    store = RedisStore(three.url)
    await store.open()
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    trail_node = slot_of(store.keys.trail_state) // (16384 // 3 + 1)
    dead_node = (trail_node + 1) % 3
    records = [kit.record() for _ in range(30)]
    await kit.put_in(store, *records)

    def is_lost(record: Record) -> bool:
        return slot_of(store.keys.session(record.sid)) // (16384 // 3 + 1) == dead_node

    lost = [record for record in records if is_lost(record)]
    alive = [record for record in records if not is_lost(record)]
    assert lost and alive
    three.nodes[dead_node][0].kill()
    with pytest.raises(NotTogether):
        await store.apply([kit.end(lost[0]), kit.end(alive[0])], [kit.event(), kit.event()])
    assert await events_in(store) == []
    chained = ChainingStore(RecoveringStore(store), later=lambda event: None, required=True)
    events = [Event(type=EventType.SESSION_ENDED, at=kit.now, sid=one.sid) for one in records]
    results = await chained.apply([kit.end(one) for one in records], events)
    by_sid = {record.sid: result for record, result in zip(records, results, strict=True)}
    assert all(isinstance(by_sid[one.sid], Applied) for one in alive)
    assert all(isinstance(by_sid[one.sid], StoreUnavailable) for one in lost)
    assert {event.sid for event in await events_in(store)} == {one.sid for one in alive}
    await store.close()


async def test_without_the_node_of_the_trail_no_required_event_is_forgotten(three: ValkeyCluster) -> None:
    store = RedisStore(three.url)
    await store.open()
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    node = slot_of(store.keys.trail_state) // (16384 // 3 + 1)
    elsewhere = [
        record
        for record in (kit.record() for _ in range(60))
        if all(slot_of(key) // 5462 != node for key in (store.keys.session(record.sid), store.keys.due(record.sid)))
    ]
    first, second = elsewhere[:2]
    await kit.put_in(store, first, second)
    three.nodes[node][0].kill()
    later: list[Event] = []
    event = Event(type=EventType.SESSION_ENDED, at=kit.now)
    required = ChainingStore(RecoveringStore(store), later=later.append, required=True)
    [result] = await required.apply([kit.end(first)], [event])
    assert isinstance(result, StoreError)
    assert (await kit.record_of(store, first.sid)).ended_at is None
    usual = ChainingStore(RecoveringStore(store), later=later.append)
    [result] = await usual.apply([kit.end(second)], [event])
    assert isinstance(result, Applied)
    assert later == [event]
    await store.close()


async def test_a_call_of_nobody_who_is_there_is_told_as_gone(store: RedisStore, kit: Kit) -> None:
    gone = kit.record()
    assert await store.apply([kit.end(gone)], [kit.event()]) == [Gone(None)]
    assert await kit.find_record(store, gone.sid) is None


async def test_a_call_takes_four_round_trips_and_its_name_goes_with_the_next(store: RedisStore, kit: Kit) -> None:
    real, bursts = store.try_all, 0

    async def try_all(commands: Sequence[Keyed], *arguments: Any, **named: Any) -> list[Any]:
        nonlocal bursts
        bursts += bool(commands)
        return await real(commands, *arguments, **named)

    for number in range(3):
        record = kit.record("ann")
        store.try_all, bursts = try_all, 0  # type: ignore[method-assign]
        assert await store.apply([kit.create(record)], [kit.event(sid=record.sid)]) == [Applied(1)]
        assert bursts == 4
        del store.try_all  # type: ignore[method-assign]
        [name] = await left_over(store)
        assert name.endswith(record.sid.encode()), number


@pytest.fixture
def six() -> Iterator[ValkeyCluster]:
    """Three nodes with a replica each, that this test may break."""
    servers = had(lambda: ValkeyCluster(replicas=True))
    yield servers
    servers.stop()


async def test_a_login_whose_event_no_replica_has_is_unconfirmed(six: ValkeyCluster) -> None:
    store = RedisStore(with_option(six.url, "wait_replicas=1&wait_timeout=3"))
    await store.open()
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    assert await store.apply([kit.create(kit.record("ann"))], [kit.event()]) == [Applied(1)]
    node = slot_of(store.keys.trail_state) // 5462

    user = next(name for n in range(100) if slot_of(store.keys.user(name := f"bob{n}")) // 5462 != node)

    def elsewhere() -> Record:
        """A new session that has nothing on that node."""
        while True:
            record = kit.record(user)
            if all(
                slot_of(key) // 5462 != node for key in (store.keys.session(record.sid), store.keys.due(record.sid))
            ):
                return record

    new, old = elsewhere(), elsewhere()
    await kit.put_in(store, old)
    six.nodes[3 + node][0].kill()  # the replica of the node that has the trail
    event = kit.event(sid=new.sid)
    created, updated = await store.apply([kit.create(new), kit.update(old, {"n": 1})], [event])
    assert isinstance(created, StoreUnavailable)
    assert created.outcome == "unconfirmed"
    assert updated == Applied(2)
    assert await kit.find_record(store, new.sid) is not None
    assert event in await events_in(store)
    await store.close()
