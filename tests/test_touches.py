"""Touches: one write a session and interval however often it is used, many in a call, and nobody waits for them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, cast
from unittest import mock

import pytest

from databases import KINDS, new_url
from harness import MINUTE, Shop, open_shop, put
from sessiondb import open_store
from sessiondb.background import Background, Waiting
from sessiondb.core.change import Applied, Change, Touch, Update, all_touch
from sessiondb.core.errors import StoreError, StoreUnavailable
from sessiondb.core.record import Record, decode_client
from sessiondb.stores.base import ChangeResult, Store
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import FaultyStore, LoseReply, ManualClock, StoreWrapper
from sessiondb.testing.builders import HOUR, SECOND, Builders

Answer = TypeVar("Answer")


class Late(StoreWrapper):
    """What it has read is on its way for a while, so that touches land before it arrives."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._random = random.Random(5)

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        answer = await call()
        if method == "load":
            await asyncio.sleep(self._random.choice((0, 0.002, 0.01)))
        return answer


@asynccontextmanager
async def shop_on(kind: str, folder: Path) -> AsyncIterator[Shop]:
    """A shop on that database, ten minutes ago: no touch of the test is in its server's future."""
    store = MemoryStore() if kind == "memory" else open_store(new_url(kind, folder))
    shop = Shop(ManualClock(), cast("MemoryStore", Late(store)))  # what the shop needs of it, every store has
    with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
        async with shop.http:
            await shop.db.open()
            shop.clock.advance(-10 * MINUTE)
            try:
                yield shop
            finally:
                await shop.db.close()


@pytest.mark.security("D4")
@pytest.mark.parametrize("kind", ["memory", *KINDS])
async def test_a_session_hit_a_thousand_times_a_second_is_written_once_an_interval(kind: str, tmp_path: Path) -> None:
    async with shop_on(kind, tmp_path) as shop:
        browser = await shop.with_cart()
        assert browser.token is not None

        async def hit() -> None:
            async with shop.db.session(browser.token) as session:
                assert session["cart"] == ["tea"]

        for interval in range(1, 4):
            shop.store.reset()
            shop.clock.advance(MINUTE - 1)
            for _ in range(10):
                # While some have the session as it was, others' touch is under way, or has landed.
                hits = [asyncio.ensure_future(hit()) for _ in range(50)]
                flushing = asyncio.ensure_future(shop.flush())
                await asyncio.sleep(0)
                hits += [asyncio.ensure_future(hit()) for _ in range(50)]
                await asyncio.gather(*hits, flushing)
                shop.clock.advance(0.1)
            await shop.flush()
            assert len(shop.store.updates) == (0 if interval == 1 else 1), f"minute {interval}"
        await shop.flush()
        info = await shop.db.get(browser.sid)
        assert info is not None
        assert shop.db.runtime.background.waiting == (0, 0, 0)
        record = (await shop.memory.load([browser.sid]))[0]
        assert record is not None
        assert record.last_seen_at == record.created_at + round((3 * MINUTE - 1) * SECOND)


class Sea(MemoryStore):
    """Many sessions, counted by call."""

    def __init__(self, sessions: int, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.build = Builders(clock.now)
        self.records = [self.build.record(age=HOUR) for _ in range(sessions)]
        for record in self.records:
            self._table.put(record)
        self.sizes: list[int] = []
        self.sent: list[Change] = []
        self.question: Callable[[Sequence[Change]], Awaitable[None]] | None = None

    async def apply(self, changes: Sequence[Change], events: object = ()) -> list[ChangeResult]:
        self.sizes.append(len(changes))
        self.sent += changes
        if self.question is not None:
            await self.question(changes)
        return await super().apply(changes, ())

    def seen(self, record: Record) -> int:
        return self._table.records[record.sid].last_seen_at


@asynccontextmanager
async def sea(sessions: int) -> AsyncIterator[tuple[Sea, Background, Counter[str]]]:
    clock, counters = ManualClock(), Counter[str]()
    store = Sea(sessions, clock)
    await store.open()
    coalescing = CoalescingStore(RecoveringStore(store), timeout=60)
    background = Background(coalescing, counters)
    with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
        yield store, background, counters
        await background.give_up()
        await coalescing.close()


def touch_all(store: Sea, background: Background, at: int | None = None) -> None:
    for record in store.records:
        background.touch(record.sid, Touch(store.build.now if at is None else at))


async def test_many_active_sessions_make_few_calls_a_tick_and_each_is_written_once() -> None:
    async with sea(10_000) as (store, background, counters):
        most = store.batching.most_touches
        for tick in range(3):
            store.sizes.clear()
            store.sent.clear()
            touch_all(store, background, store.build.now - 3 + tick)
            touch_all(store, background, store.build.now - 3 + tick)
            assert background.waiting.touches == 10_000
            await background.flush()
            assert len(store.sizes) == -(-10_000 // most)
            assert max(store.sizes) == most
            assert len({change.sid for change in store.sent}) == len(store.sent) == 10_000
        assert counters["touch_batches"] == 3 * -(-10_000 // most)
        assert {store.seen(record) for record in store.records} == {store.build.now - 1}


async def test_a_write_does_not_stand_behind_touches_and_touches_not_behind_it() -> None:
    async with sea(100) as (store, background, _):
        gates = {True: asyncio.Event(), False: asyncio.Event()}
        held = asyncio.Event()

        async def question(changes: Sequence[Change]) -> None:
            held.set()
            await gates[all_touch(changes)].wait()

        store.question = question
        coalescing = cast("CoalescingStore", background._store)
        touch_all(store, background)
        flushing = asyncio.ensure_future(background.flush())
        await held.wait()
        gates[False].set()
        for record in store.records[:20]:
            [result] = await coalescing.apply([store.build.update(record, {"n": 1})])
            assert result == Applied(record.rev + 1), "while the touches are under way"
        gates[True].set()
        await flushing
        gates[False].clear()
        held.clear()
        writing = asyncio.ensure_future(coalescing.apply([store.build.update(store.records[0], {"n": 2})]))
        await held.wait()
        touch_all(store, background, store.build.now + 1)
        await background.flush()
        assert background.waiting.touches == 0, "while a write of one of them is under way"
        gates[False].set()
        await writing


async def test_an_urgent_end_does_not_wait_for_touches() -> None:
    async with sea(10) as (store, background, _):
        never, ended = asyncio.Event(), asyncio.Event()

        async def question(changes: Sequence[Change]) -> None:
            if all_touch(changes):
                await never.wait()
            else:
                ended.set()

        store.question = question
        touch_all(store, background)
        background.hurry()
        await asyncio.sleep(0.01)
        background.end(store.build.end(store.records[0]))
        background.hurry()
        await asyncio.wait_for(ended.wait(), 30)
        never.set()


async def test_a_session_that_ends_is_not_touched_before() -> None:
    async with sea(3) as (store, background, _):
        touch_all(store, background)
        background.end(store.build.end(store.records[0]))
        assert background.waiting == (2, 1, 0)


async def test_while_the_database_is_away_it_is_asked_once_a_tick_and_nothing_is_lost() -> None:
    async with sea(1000) as (store, background, counters):

        async def away(changes: Sequence[Change]) -> None:
            raise StoreUnavailable("away")

        store.question = away
        touch_all(store, background)
        for tick in range(1, 4):
            await background.flush()
            assert len(store.sizes) == tick
            assert background.waiting.touches == 1000
        assert background._timer is not None
        assert store.sizes == [store.batching.most_touches // 2**tick for tick in range(3)]
        assert counters["background_write_failures"] == sum(store.sizes)
        store.question = None
        await background.flush()
        assert background.waiting == (0, 0, 0)
        assert {store.seen(record) for record in store.records} == {store.build.now}


async def test_a_call_that_always_fails_does_not_keep_the_others_from_landing() -> None:
    async with sea(1000) as (store, background, _):
        poison = store.records[0]

        async def refuse(changes: Sequence[Change]) -> None:
            if poison.sid in {change.sid for change in changes}:
                raise StoreUnavailable("too large")

        store.question = refuse
        touch_all(store, background)
        for _ in range(20):
            await background.flush()
        assert background.waiting.touches == 1
        assert {store.seen(record) for record in store.records if record is not poison} == {store.build.now}
        store.question = None
        await background.flush()
        assert store.seen(poison) == store.build.now
        touch_all(store, background, store.build.now - 1)
        store.sizes.clear()
        await background.flush()
        assert store.sizes[-2] == store.batching.most_touches, "and the calls are as large as before"


async def test_one_that_fails_alone_is_tried_again_alone() -> None:
    async with sea(100) as (store, background, counters):
        locked = store.records[7]
        apply = store.apply

        async def refuse_one(changes: Sequence[Change], events: object = ()) -> list[ChangeResult]:
            results = await apply(changes)
            error = StoreUnavailable("locked")
            return [error if one.sid == locked.sid else result for one, result in zip(changes, results, strict=True)]

        with mock.patch.object(store, "apply", refuse_one):
            touch_all(store, background)
            await background.flush()
        assert background.waiting.touches == 1
        assert counters["background_write_failures"] == 1
        store.sizes.clear()
        await background.flush()
        assert store.sizes == [1]
        assert background.waiting.touches == 0


async def test_where_all_of_a_call_fail_one_by_one_no_other_call_is_made() -> None:
    async with sea(1000) as (store, background, _):

        async def refuse(changes: Sequence[Change], events: object = ()) -> list[ChangeResult]:
            store.sizes.append(len(changes))
            return [StoreUnavailable("read-only") for _ in changes]

        with mock.patch.object(store, "apply", refuse):
            touch_all(store, background)
            await background.flush()
        assert len(store.sizes) == 1
        assert background.waiting.touches == 1000


async def test_what_waits_is_bounded_and_what_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.touches.MOST_TOUCHES", 60)
    async with sea(100) as (store, background, counters):
        touch_all(store, background)
        assert background.waiting.touches == 60
        assert counters["dropped_touches"] == 40
        touch_all(store, background, store.build.now - 1)
        assert counters["dropped_touches"] == 80, "those that wait take no more room"
        reached, goes_on = asyncio.Event(), asyncio.Event()

        async def question(changes: Sequence[Change]) -> None:
            reached.set()
            await goes_on.wait()

        store.question = question
        flushing = asyncio.ensure_future(background.flush())
        await reached.wait()
        touch_all(store, background, store.build.now + 1)
        assert background.waiting.touches == 60, "what is under way takes room too"
        goes_on.set()
        await flushing


async def test_what_was_written_is_remembered_in_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.touches.REMEMBERED", 50)
    async with sea(1000) as (store, background, _):
        for start in range(0, 1000, 40):
            for record in store.records[start : start + 40]:
                background.touch(record.sid, Touch(store.build.now))
            await background.flush()
            assert all(background.seen(record.sid) for record in store.records[start : start + 40])
        remembered = [record for record in store.records if background.seen(record.sid)]
        assert len(remembered) <= 2 * 90
        assert background.seen(store.records[0].sid) == 0


async def test_what_was_given_up_in_the_middle_waits_again() -> None:
    async with sea(1000) as (store, background, _):
        calls, reached = 0, asyncio.Event()

        async def question(changes: Sequence[Change]) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                reached.set()
                await asyncio.Event().wait()

        store.question = question
        touch_all(store, background)
        flushing = asyncio.ensure_future(background.flush())
        await reached.wait()
        lost = await background.give_up()
        assert lost == Waiting(1000 - store.batching.most_touches, 0, 0)
        await flushing_or_cancelled(flushing)


async def flushing_or_cancelled(flushing: asyncio.Future[None]) -> None:
    await asyncio.wait([flushing])


async def test_a_lost_reply_to_many_touches_is_settled_without_reading_their_sessions() -> None:
    async with sea(300) as (store, _, _):
        faults = FaultyStore(store)
        faults.next("apply", LoseReply(), LoseReply())
        loads = 0
        load = faults.load

        async def counted(sids: Sequence[object]) -> list[Record | None]:
            nonlocal loads
            loads += 1
            return await load(sids)  # type: ignore[arg-type]

        with mock.patch.object(faults, "load", counted):
            recovering = RecoveringStore(faults, pause=0.0)
            changes: list[Change] = [store.build.touch(record) for record in store.records]
            results = await recovering.apply(changes)
            assert all(isinstance(result, Applied) for result in results)
            assert loads == 0
            faults.next("apply", *[LoseReply()] * 4)
            results = await recovering.apply(changes)
            assert [one.outcome for one in results if isinstance(one, StoreError)] == ["unknown"] * 300
            faults.next("apply", LoseReply())
            other = store.build.update(store.records[0], {"n": 1})
            results = await recovering.apply([other, *changes[1:]])
            assert all(isinstance(result, Applied) for result in results)
            assert loads == 1


async def test_the_timer_writes_all_touches_though_it_rests_between_them() -> None:
    async with sea(2000) as (store, background, _):
        with mock.patch("sessiondb.background.FLUSH_EVERY", 0.05):
            touch_all(store, background)
            async with asyncio.timeout(30):
                while background.waiting.touches:
                    await asyncio.sleep(0.01)
        assert len(store.sizes) == -(-2000 // store.batching.most_touches)


async def test_a_flush_does_not_wait_for_the_rests_of_a_round() -> None:
    async with sea(2000) as (store, background, _):
        # By the clock it would take an hour: each rest is as long as the call before took, and those are slow.
        slept: list[float] = []
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await real(0)

        async def slow(changes: Sequence[Change]) -> None:
            await real(0.002)

        store.question = slow
        touch_all(store, background)
        with mock.patch("sessiondb.touches.asyncio.sleep", sleep):
            background.hurry()
            while not slept:
                await real(0)
            rests = len(slept)
            await background.flush()
        assert background.waiting.touches == 0
        assert len(slept) <= rests + 1


async def test_touches_go_on_beside_a_request_that_writes_with_its_own() -> None:
    """A write that is due for a touch brings it along; no other is queued."""
    async with open_shop() as shop:
        browser = await shop.with_cart()
        shop.clock.advance(2 * MINUTE)
        shop.store.reset()
        await browser.do(put(cart=["jug"]))
        await browser.do(dict)
        await shop.flush()
        [update] = shop.store.updates
        assert isinstance(update, Update)
        assert update.touch is not None
        assert update.touch.at == shop.clock.now
        assert decode_client(update.touch.client or b"").requests == 2
