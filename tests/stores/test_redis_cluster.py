"""What is a cluster's own: nodes that die or stand still, slots that move, batches over several nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import pytest

from databases import had, new_prefix, url_of, with_option
from provision.valkey import ValkeyCluster, ask, wait_until
from sessiondb import ConfigurationError, SessionDB, StoreUnavailable
from sessiondb.core.change import Applied, Gone, Update, new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Lane
from sessiondb.core.token import Sid
from sessiondb.stores._redis_slots import slot_of
from sessiondb.stores.base import ChangeResult, EventQuery, Store
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


async def opened(url: str, timeout: float = 2.0) -> tuple[CoalescingStore, Kit]:
    store = CoalescingStore(RecoveringStore(RedisStore(url)), timeout=timeout)
    await store.open()
    return store, await kit_of(store)


async def kit_of(store: Store) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


@pytest.fixture
def three() -> Iterator[ValkeyCluster]:
    """Three nodes that this test may break; what one does not serve, the others still do."""
    servers = had(ValkeyCluster)
    for _, port in servers.nodes:
        ask(port, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    yield servers
    servers.stop()


@pytest.fixture
def six() -> Iterator[ValkeyCluster]:
    """Three nodes with a replica each, that this test may break."""
    servers = had(lambda: ValkeyCluster(replicas=True))
    yield servers
    servers.stop()


@pytest.fixture
async def shared() -> AsyncIterator[tuple[RedisStore, Kit]]:
    store = RedisStore(with_option(url_of("redis_cluster"), f"prefix={new_prefix()}"))
    await store.open()
    yield store, await kit_of(store)
    await store.close()


async def until_writes_work(store: CoalescingStore, records: list[Record], limit: float = 30) -> None:
    async with asyncio.timeout(limit):
        for record in records:
            while True:
                try:
                    [result] = await store.apply([Update(sid=record.sid, id=new_change_id(), put={"after": b"1"})])
                    if isinstance(result, Applied):
                        break
                except StoreError:
                    pass
                await asyncio.sleep(0.05)


# -- nodes that go ------------------------------------------------------------------------------------------


async def test_a_failover_under_load_is_followed_and_loses_no_session(six: ValkeyCluster) -> None:
    store, kit = await opened(six.url, timeout=1)
    records = [kit.record(f"user{n}") for n in range(24)]
    await kit.put_in(store, *records)
    stop = asyncio.Event()

    async def keep_writing() -> int:
        landed = 0
        while not stop.is_set():
            for record in records:
                try:
                    [result] = await store.apply([kit.update(record, {f"k{landed}": 1})])
                except StoreError:
                    await asyncio.sleep(0.02)
                    continue
                landed += isinstance(result, Applied)
                assert not isinstance(result, Gone)
            await asyncio.sleep(0)
        return landed

    writing = asyncio.create_task(keep_writing())
    await asyncio.sleep(0.3)
    six.nodes[0][0].kill()
    await asyncio.sleep(0.2)
    stop.set()
    assert await writing > 0
    await until_writes_work(store, records)
    for record in await store.load([one.sid for one in records]):
        assert record is not None
    assert len(await kit.living(store, "user3")) == 1
    await store.close()


async def test_a_node_that_stands_still_is_left_for_its_successor(six: ValkeyCluster) -> None:
    """It closes no connection and refuses none: only calls that were given up tell that it is away."""
    store, kit = await opened(six.url, timeout=0.5)
    records = [kit.record(f"user{n}") for n in range(24)]
    await kit.put_in(store, *records)
    still, port = six.nodes[0]
    still.pause()
    try:
        await until_writes_work(store, records)
        assert len(await kit.living(store, "user3")) == 1
    finally:
        still.resume()
    # Back as a replica, it sends whoever asks it to the new primary.
    await asyncio.to_thread(wait_until, lambda: "role:slave" in ask(port, "INFO", "replication"))
    await until_writes_work(store, records)
    await store.close()


async def test_the_others_answer_for_themselves_when_a_node_dies(three: ValkeyCluster) -> None:
    store = RedisStore(three.url)
    await store.open()
    kit = await kit_of(store)
    records = [kit.record(f"user{n}") for n in range(40)]
    await kit.put_in(store, *records)
    dead = {record.sid for record in records if 16384 // 3 < slot_of(store.keys.session(record.sid)) <= 10923}
    assert 0 < len(dead) < len(records)
    three.nodes[1][0].kill()

    async def write() -> dict[Sid, ChangeResult]:
        results = await store.apply([kit.update(record, {"n": 1}) for record in records])
        return {record.sid: result for record, result in zip(records, results, strict=True)}

    first = await write()
    assert all(isinstance(first[record.sid], Applied) for record in records if record.sid not in dead)
    # The connection was there and was lost with what was sent on it; from then on nothing is sent.
    assert {result.outcome for sid in dead if isinstance(result := first[sid], StoreError)} == {"unknown"}
    second = await write()
    assert all(isinstance(second[record.sid], Applied) for record in records if record.sid not in dead)
    assert {result.outcome for sid in dead if isinstance(result := second[sid], StoreError)} == {"not_applied"}
    # A new session whose list is on the dead node is not written; its neighbours in the batch are.
    fresh = [kit.record(f"new{n}") for n in range(40)]
    created = await store.apply([kit.create(record) for record in fresh])
    landed = [record for record, result in zip(fresh, created, strict=True) if isinstance(result, Applied)]
    refused = [result for result in created if isinstance(result, StoreError)]
    assert len(landed) + len(refused) == len(fresh)
    assert landed and refused
    assert {error.outcome for error in refused} == {"not_applied"}
    for record in landed:
        assert await kit.living(store, record.user_id or "") == [record.sid]
    await store.close()


async def test_each_node_waits_for_replicas_of_its_own(six: ValkeyCluster) -> None:
    store, kit = await opened(with_option(six.url, "wait_replicas=1&wait_timeout=0.3"))
    records = [kit.record(f"user{n}") for n in range(60)]
    await kit.put_in(store, *records)
    keys = RedisStore(six.url).keys
    without = {record.sid for record in records if slot_of(keys.session(record.sid)) < 5462}
    assert 0 < len(without) < len(records)
    six.nodes[3][0].kill()  # the replica of the first node
    results = await store.apply([kit.end(record) for record in records])
    for record, result in zip(records, results, strict=True):
        if record.sid in without:
            assert isinstance(result, StoreError)
            assert result.outcome == "unconfirmed"
        else:
            assert isinstance(result, Applied)
    assert all(record is not None and record.ended_at for record in await store.load([one.sid for one in records]))
    # A login needs its place in the lists confirmed too; where that is not, the session is not written.
    fresh = [kit.record(f"new{n}") for n in range(20)]
    created = await store.apply(list(map(kit.create, fresh)))
    for record, result in zip(fresh, created, strict=True):
        lists = keys.due(record.sid), keys.user(record.user_id or ""), keys.session(record.sid)
        if any(slot_of(key) < 5462 for key in lists):
            assert isinstance(result, StoreError)
            assert result.outcome == "unconfirmed"
        else:
            assert isinstance(result, Applied)
    await store.close()


# -- slots that move ----------------------------------------------------------------------------------------


def move(source: int, target: int, slots: list[int]) -> None:
    """Move ``slots`` as CLUSTER SETSLOT and MIGRATE do it."""
    target_id = ask(target, "CLUSTER", "MYID").split("\r\n")[1]
    for slot in slots:
        begin_move(source, target, slot)
        while not (keys := ask(source, "CLUSTER", "GETKEYSINSLOT", str(slot), "1")).startswith("*0"):
            move_key(source, target, keys.split("\r\n")[2])
        for port in (target, source):
            assert ask(port, "CLUSTER", "SETSLOT", str(slot), "NODE", target_id).startswith("+OK")


def begin_move(source: int, target: int, slot: int) -> None:
    source_id, target_id = (ask(port, "CLUSTER", "MYID").split("\r\n")[1] for port in (source, target))
    assert ask(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", source_id).startswith("+OK")
    assert ask(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", target_id).startswith("+OK")


def move_key(source: int, target: int, key: str) -> None:
    assert ask(source, "MIGRATE", "127.0.0.1", str(target), key, "0", "5000").startswith("+")


async def test_slots_may_move_while_sessions_are_written(three: ValkeyCluster) -> None:
    """All slots of one node go to another, key by key, under load: nothing fails, nothing is lost."""
    store, kit = await opened(three.url, timeout=5)
    records = [kit.record(f"user{n}") for n in range(30)]
    await kit.put_in(store, *records)
    inner = RedisStore(three.url)
    slots = {slot_of(inner.keys.session(record.sid)) for record in records}
    landed: dict[str, int] = {}
    failed: list[object] = []
    done = asyncio.Event()

    async def write(record: Record) -> None:
        number = 0
        while not done.is_set():
            [result] = await store.apply([kit.update(record, {f"k{number}": 1})])
            if isinstance(result, Applied):
                number += 1
            else:
                failed.append(result)
        landed[record.sid] = number

    writers = [asyncio.create_task(write(record)) for record in records]
    first, second = three.nodes[0][1], three.nodes[1][1]
    await asyncio.to_thread(move, first, second, [slot for slot in slots if slot < 5462])
    done.set()
    await asyncio.gather(*writers)
    assert failed == []
    for record in records:
        data = await kit.data_of(store, record.sid)
        assert len(data) == landed[record.sid]
    await store.close()


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_user_on_both_sides_of_a_move_can_be_revoked(three: ValkeyCluster, is_over: bool) -> None:
    """TRYAGAIN: the lists of one user are in one slot, and meanwhile not on one node, perhaps for long."""
    store = RedisStore(three.url)
    await store.open()
    kit = await kit_of(store)
    user = next(name for n in range(100) if slot_of(store.keys.user(name := f"user{n}")) < 5462)
    records = [kit.record(user) for _ in range(3)]
    await kit.put_in(store, *records)
    await kit.apply(store, kit.end(records[0]))
    assert len(await kit.living(store, user)) == 2  # which lists the one that has ended
    source, target = three.nodes[0][1], three.nodes[1][1]
    begin_move(source, target, slot_of(store.keys.user(user)))
    move_key(source, target, store.keys.user(user).decode())
    revoking = asyncio.create_task(store.end_where(kit.query(user, not_before=kit.now), EndReason.REVOKED))
    async with asyncio.timeout(5):
        while not re.search(r"cmdstat_evalsha:.*rejected_calls=[1-9]", ask(source, "INFO", "commandstats")):
            await asyncio.sleep(0.001)
    if is_over:
        await asyncio.to_thread(move, source, target, [slot_of(store.keys.user(user))])
    assert {one.sid for one in await revoking} == {records[1].sid, records[2].sid}
    # not_before came to be on the other side (ASK), and is found there.
    late = kit.record(user)
    await kit.put_in(store, late)
    assert (await store.admit(kit.login(late, began_at=kit.now - 1))).refused == "revoked"
    await store.close()


async def test_the_slot_of_the_trail_may_move_while_events_are_written(three: ValkeyCluster) -> None:
    """Key by key, under load: what is refused meanwhile is written later, and nothing comes twice or is misplaced."""
    store = RedisStore(three.url)
    await store.open()
    kit = await kit_of(store)
    slot = slot_of(store.keys.trail_state)
    nodes = [port for _, port in three.nodes]
    source = nodes.pop(slot // 5462)
    done = asyncio.Event()
    lanes = [Lane(EventClass.LOGIN) for _ in range(4)]
    written: list[list[Event]] = [[] for _ in lanes]
    made: list[Record] = []
    outcomes: set[str] = set()

    async def write(at: int) -> None:
        while not done.is_set() or len(written[at]) < 40:
            record = kit.record("ann")
            events = lanes[at].seal([Event(type=EventType.LOGIN, at=kit.now, user_id="ann", sid=record.sid)] * 3)
            try:
                if at % 2:
                    await store.append(events)
                else:
                    [result] = await store.apply([kit.create(record)], events)
                    if isinstance(result, StoreError):
                        raise result
                    made.append(record)
            except StoreError as error:
                outcomes.add(error.outcome)
                continue
            lanes[at].advance(events)
            written[at] += events

    writers = [asyncio.create_task(write(at)) for at in range(4)]
    while sum(map(len, written)) < 200:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(begin_move, source, nodes[0], slot)
    for key in (await asyncio.to_thread(ask, source, "CLUSTER", "GETKEYSINSLOT", str(slot), "30")).split("\r\n")[2::2]:
        await asyncio.to_thread(move_key, source, nodes[0], key)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(move, source, nodes[0], [slot])
    done.set()
    await asyncio.gather(*writers)
    assert outcomes <= {"not_applied"}
    for lane, events in zip(lanes, written, strict=True):
        assert [one.seal for one in await store.trail(lane.stream, 0, 10_000)] == [one.seal for one in events]
    total = sum(map(len, written))
    listed: list[Event] = []
    after = None
    while page := await store.events(EventQuery(user_id="ann", limit=500, after=after)):
        listed += page.events
        if (after := page.next) is None:
            break
    assert len(listed) == len({one.seal and (one.seal.stream, one.seal.seq) for one in listed}) == total
    assert (await store.stats()).events == total
    assert all(await store.load([record.sid for record in made]))
    await store.close()


# -- lists --------------------------------------------------------------------------------------------------


async def test_repair_finds_all_nodes_and_disturbs_no_write(shared: tuple[RedisStore, Kit]) -> None:
    """Lists are lost while sessions come and go: after a repair no living session is missing in its lists."""
    store, kit = shared
    users = [f"user{n}" for n in range(6)]
    records = [kit.record(users[n % 6]) for n in range(300)]
    await kit.put_in(store, *records)
    for key in (*map(store.keys.user, users), *store.keys.due_lists):
        await store.run([(key, ("UNLINK", key))])
    stop = asyncio.Event()
    living = {record.sid: record for record in records[100:]}

    async def come_and_go() -> None:
        for record in records[:100]:
            await kit.apply(store, kit.end(record))
            fresh = kit.record(record.user_id)
            await kit.put_in(store, fresh)
            living[fresh.sid] = fresh
            await asyncio.sleep(0)
        stop.set()

    coming = asyncio.create_task(come_and_go())
    rounds = 0
    while not stop.is_set():
        assert await store.repair() >= 200
        rounds += 1
    await coming
    assert rounds > 1
    for user in users:
        wanted = {sid for sid, record in living.items() if record.user_id == user}
        found = await store.find(kit.query(user, limit=1000))
        assert {record.sid for record in found.records} == wanted
    due = {sid for key in store.keys.due_lists for sid in (await store.run([(key, ("ZRANGE", key, 0, -1))]))[0]}
    assert due >= {sid.encode() for sid in living}


# -- settings -----------------------------------------------------------------------------------------------


async def test_a_cluster_taken_for_a_server_and_the_other_way_round_are_told() -> None:
    cluster, single = url_of("redis_cluster"), url_of("redis")
    node = cluster.partition("://")[2].partition(",")[0].partition("?")[0]
    # Some keys of the layout are on other nodes, whichever node that is.
    with pytest.raises(StoreUnavailable, match=r"redis\+cluster://"):
        async with SessionDB(f"redis://{node}?prefix={new_prefix()}") as db:
            for number in range(50):
                await db.create(f"user{number}")
    with pytest.raises(ConfigurationError, match="is no cluster"):
        await SessionDB(single.replace("redis://", "redis+cluster://").removesuffix("/0")).open()
