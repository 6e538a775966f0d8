"""What becomes of sessions when their database server is killed, paused or drowned in cancelled calls."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest

from databases import NETWORK, Breakable, start, url_of, with_option
from sessiondb import SessionDB, open_store
from sessiondb.core.change import Applied, Create, Gone, Touch, Update, new_change_id
from sessiondb.core.errors import StoreError, StoreUnavailable
from sessiondb.core.record import EndReason
from sessiondb.core.token import Sid
from sessiondb.stores.base import Store
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


@pytest.fixture(params=NETWORK, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(params=(*NETWORK, "redis_cluster"), scope="module")
def any_kind(request: pytest.FixtureRequest) -> str:
    """A cluster too: what nobody breaks may be many processes."""
    kind: str = request.param
    return kind


@pytest.fixture
def own(kind: str) -> Iterator[Breakable]:
    """A server that this test may break."""
    server = cast("Breakable", start(kind))
    yield server
    server.stop()
    gc.collect()  # what a driver has dropped is found here, not by another test


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store("memory://"), ManualClock())
    yield kit
    await kit.close_all()
    gc.collect()  # what a driver has dropped is found here, not by another test


def wrapped(url: str, timeout: float = 2.0) -> CoalescingStore:
    return CoalescingStore(RecoveringStore(open_store(url)), timeout=timeout)


async def until_it_works(store: Store, sid: Sid, limit: float = 20) -> None:
    async with asyncio.timeout(limit):
        while True:
            try:
                assert (await store.load([sid]))[0] is not None
                return
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_what_was_answered_before_a_kill_of_the_server_is_there_afterwards(own: Breakable, kit: Kit) -> None:
    store = wrapped(own.url)
    await store.open()
    kit.now = await store.clock()
    records = [kit.record(f"user{n}") for n in range(10)]
    await kit.put_in(store, *records)
    landed: dict[Sid, set[str]] = {record.sid: set() for record in records}
    ended: set[Sid] = set()
    total = 0

    async def write(number: int) -> None:
        nonlocal total
        sid = records[number % 10].sid
        for n in range(100_000):
            key = f"{number}-{n}"
            try:
                [result] = await store.apply([Update(sid=sid, id=new_change_id(), put={key: b"1"})])
            except StoreError:
                return
            if isinstance(result, Applied):
                landed[sid].add(key)
                total += 1

    async def come_and_go() -> None:
        for _ in range(100_000):
            record = kit.record("guest")
            try:
                [created] = await store.apply([Create(record)])
                if not isinstance(created, Applied):
                    return
                [gone] = await store.apply([kit.end(record)])
            except StoreError:
                return
            if isinstance(gone, Applied):
                ended.add(record.sid)

    running = [asyncio.create_task(write(number)) for number in range(20)]
    running.append(asyncio.create_task(come_and_go()))
    while total < 600:
        await asyncio.sleep(0.001)
    own.process.kill()
    await asyncio.gather(*running)
    with pytest.raises(StoreUnavailable, match=r"cannot be reached|was lost|did not answer"):
        await store.load([records[0].sid])
    own.process.start()
    # The very same store works again by itself.
    await until_it_works(store, records[0].sid)
    for record in records:
        found = await kit.data_of(store, record.sid)
        assert landed[record.sid] <= found.keys()
    for sid in ended:
        tombstone = await kit.record_of(store, sid)
        assert tombstone.end_reason == EndReason.LOGOUT
    await store.close()


async def test_a_server_that_stands_still_fails_calls_in_time_and_is_used_again(own: Breakable, kit: Kit) -> None:
    store = wrapped(own.url, timeout=0.5)
    await store.open()
    kit.now = await store.clock()
    record = kit.record("ann")
    await kit.put_in(store, record)
    loop = asyncio.get_running_loop()
    own.process.pause()
    try:
        for _ in range(3):
            began = loop.time()
            results = await asyncio.gather(
                store.load([record.sid]),
                *(store.apply([kit.update(record, {f"k{n}": n})]) for n in range(20)),
                return_exceptions=True,
            )
            assert all(isinstance(result, StoreUnavailable) for result in results), results
            assert loop.time() - began < 2
    finally:
        own.process.resume()
    await until_it_works(store, record.sid)
    assert isinstance((await store.apply([kit.update(record, {"after": 1})]))[0], Applied)
    assert (await kit.data_of(store, record.sid))["after"] == 1
    await store.close()


@pytest.mark.security("S4")
async def test_cancelled_calls_never_cross_users(any_kind: str, kit: Kit) -> None:
    """500 callers of three users, cancelled at random, on the bare driver and through the coalescing."""
    url = with_option(url_of(any_kind), "prefix=storm_")
    choose = random.Random(7)
    for store in (open_store(url), wrapped(url)):
        await store.open()
        kit.now = await store.clock()
        records = [kit.record(f"user{n}", {"whose": n}) for n in range(3)]
        await kit.put_in(store, *records)
        seen = 0

        async def ask(number: int, store: Store = store, records: list = records) -> None:  # type: ignore[type-arg]
            nonlocal seen
            mine = records[number % 3]
            for _ in range(4):
                [found] = await store.load([mine.sid])
                assert found is not None and found.user_id == mine.user_id
                assert found.sid == mine.sid
                update = Update(sid=mine.sid, id=new_change_id(), put={f"k{number % 50}": str(number % 3).encode()})
                assert isinstance((await store.apply([update]))[0], Applied)
                seen += 1

        tasks = [asyncio.create_task(ask(number)) for number in range(500)]
        for task in choose.sample(tasks, 300):
            await asyncio.sleep(choose.random() * 0.004)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        odd = [one for one in results if one is not None and not isinstance(one, asyncio.CancelledError)]
        assert odd == []
        assert seen >= 200
        for number, record in enumerate(records):
            data = await kit.data_of(store, record.sid)
            assert data.pop("whose") == number
            assert set(data.values()) <= {number}
        await store.close()


async def test_writers_revokers_and_sweepers_never_deadlock(any_kind: str, kit: Kit) -> None:
    """16 batch writers, 6 revokers and 3 sweepers on the same sessions: every call is answered, with an outcome."""
    url = with_option(url_of(any_kind), "prefix=lock_")
    if any_kind in ("postgresql", "mysql"):
        url = with_option(url, "lock_timeout=30")  # a crowd on a slow machine is no deadlock
    stores = [open_store(url) for _ in range(4)]
    for store in stores:
        await store.open()
    kit.now = await stores[0].clock()
    records = [kit.record(f"user{n % 12}", {"n": 0}) for n in range(240)]
    await kit.put_in(stores[0], *records)
    loop = asyncio.get_running_loop()
    end = loop.time() + 4
    applied = 0
    refused: list[object] = []

    async def write(number: int) -> None:
        nonlocal applied
        choose = random.Random(number)
        store = stores[number % 4]
        while loop.time() < end:
            chosen = choose.sample(records, 32)
            changes = [
                Update(sid=one.sid, id=new_change_id(), put={f"w{number}": b"1"}, touch=Touch(kit.now))
                for one in chosen
            ]
            for result in await store.apply(changes):
                if isinstance(result, Applied):
                    applied += 1
                elif not isinstance(result, Gone):
                    refused.append(result)

    async def revoke(number: int) -> None:
        choose = random.Random(number)
        store = stores[number % 4]
        while loop.time() < end:
            user = f"user{choose.randrange(12)}"
            await store.end_where(kit.query(user, not_before=kit.now), EndReason.REVOKED)
            fresh = [kit.record(user, {"n": 0}) for _ in range(20)]
            await kit.put_in(store, *fresh)
            for one in fresh:
                records[choose.randrange(len(records))] = one
            await asyncio.sleep(0.05)

    async def sweep(number: int) -> None:
        store = stores[number % 4]
        while loop.time() < end:
            await store.sweep(kit.cutoffs(), 50)
            await asyncio.sleep(0.01)

    await asyncio.gather(
        *(write(number) for number in range(16)),
        *(revoke(number) for number in range(6)),
        *(sweep(number) for number in range(3)),
    )
    assert refused == []
    assert applied > 500
    for store in stores:
        await store.close()


async def test_a_database_that_comes_late_is_opened_when_it_is_there(own: Breakable) -> None:
    own.process.kill()
    db = SessionDB(own.url)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await db.open()
    own.process.start()
    async with asyncio.timeout(20):
        while True:
            try:
                issued = await db.create("ann")
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
    assert (await db.sessions_of("ann"))[0].sid == issued.session.sid
    await db.close()
