"""Batching: nothing lost, nothing crossed, nothing late, and few calls."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import msgspec
import pytest
from held import DAY, NOW, HeldStore, end, put, record, rotate, touch, turns
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiondb.core import change as reference
from sessiondb.core.change import Applied, Change, Conflict, Create, Gone, Update
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Lane
from sessiondb.core.token import Sid
from sessiondb.stores import _runner
from sessiondb.stores.base import Batching, Cutoffs, EventQuery, Login, Query, Store
from sessiondb.stores.chaining import ChainingStore
from sessiondb.stores.coalescing import CoalescingStore

A, B, C = record(), record(), record()
CAPS = Caps(Lifetimes(DAY, DAY), Lifetimes(DAY, DAY))


@pytest.fixture
async def inner() -> HeldStore:
    store = HeldStore()
    await store.open()
    await store.add(A, B, C)
    return store


@pytest.fixture
async def store(inner: HeldStore) -> AsyncIterator[CoalescingStore]:
    store = CoalescingStore(inner, timeout=20)
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Any:
    """asyncio logs what nobody awaited, retrieved or caught."""
    yield
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name == "asyncio" and r.levelno >= logging.WARNING] == []


def start(store: Store, *changes: Change, events: Sequence[Event] = ()) -> asyncio.Task[Any]:
    return asyncio.ensure_future(store.apply(changes, events))


class Deaf:
    """A hook that does not let go when it is cancelled."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.cancels = 0

    async def __call__(self) -> None:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancels += 1


async def made(inner: HeldStore, number: int) -> list[Record]:
    """So many more sessions."""
    records = [record() for _ in range(number)]
    await inner.add(*records)
    return records


@asynccontextmanager
async def in_company(
    inner: HeldStore, *, writes: int
) -> AsyncIterator[tuple[CoalescingStore, list[asyncio.Task[Any]], list[asyncio.Task[Any]]]]:
    """A store where calls come in company, with ``writes`` under way and then two loads. In the end they are let go."""
    store = CoalescingStore(inner, timeout=20)
    await asyncio.gather(store.load([A.sid]), store.load([B.sid]))
    inner.loads.clear()
    inner.apply_reply.shut()
    writing = [start(store, put(one.sid, n=1)) for one in await made(inner, writes)]
    await turns()
    assert [len(changes) for changes in inner.applies] == [writes]
    loading = [asyncio.ensure_future(store.load([sid])) for sid in (A.sid, B.sid)]
    await turns(_runner._PATIENCE)
    yield store, writing, loading
    inner.apply_reply.open()
    await asyncio.gather(*writing)
    await store.close()


def event(reason: str, sid: Sid | None = None) -> Event:
    """The first event of a stream of its own."""
    [sealed] = Lane(EventClass.LOGIN).seal([Event(type=EventType.LOGIN, at=NOW, reason=reason, sid=sid)])
    return sealed


async def data(inner: HeldStore, sid: Sid) -> dict[str, Any]:
    found = await inner.peek(sid)
    assert found is not None
    return dict(json.loads(found.data))


async def test_it_is_a_store(store: CoalescingStore, inner: HeldStore) -> None:
    assert isinstance(store, Store)
    assert (store.name, store.batching) == (inner.name, inner.batching)


class TestLoads:
    async def test_one_turn_is_one_batch(self, store: CoalescingStore, inner: HeldStore) -> None:
        sids = [A.sid, B.sid, A.sid, C.sid, A.sid]
        answers = await asyncio.gather(*(store.load([sid]) for sid in sids))
        assert [records[0].sid for records in answers if records[0]] == sids
        assert inner.loads == [[A.sid, B.sid, C.sid]]
        assert answers[0][0] is answers[2][0]  # immutable, so shared
        assert (store.loads.calls, store.loads.batches) == (5, 1)

    async def test_several_sids_of_one_call(self, store: CoalescingStore, inner: HeldStore) -> None:
        missing = record().sid
        assert await store.load([B.sid, missing, A.sid, B.sid]) == [B, None, A, B]
        assert await store.load([]) == []
        assert inner.loads == [[B.sid, missing, A.sid]]

    async def test_busy_slots_gather_the_next_batch(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.load_reply.shut()
        first = [asyncio.ensure_future(store.load([A.sid]))]
        for _ in range(inner.batching.in_flight - 1):
            await turns()
            first.append(asyncio.ensure_future(store.load([A.sid])))
        await turns()
        assert len(inner.loads) == inner.batching.in_flight
        late = []
        for _ in range(20):
            late += [asyncio.ensure_future(store.load([sid])) for sid in (A.sid, B.sid)]
            await turns(2)
        assert len(inner.loads) == inner.batching.in_flight
        inner.load_reply.open()
        await asyncio.gather(*first, *late)
        assert inner.loads[inner.batching.in_flight :] == [[A.sid, B.sid]]
        assert inner.most_at_once["load"] == inner.batching.in_flight

    async def test_batches_are_bounded(self) -> None:
        inner = HeldStore(loads=10, in_flight=2)
        await inner.open()
        records = [record() for _ in range(95)]
        await inner.add(*records)
        inner.load_reply = turns  # type: ignore[assignment]
        store = CoalescingStore(inner)
        answers = await asyncio.gather(*(store.load([one.sid]) for one in records))
        assert [answer[0] for answer in answers] == records
        assert [len(sids) for sids in inner.loads] == [10] * 9 + [5]
        assert inner.most_at_once["load"] == 2

    async def test_a_call_alone_goes_at_once_however_long_a_crowd_would_wait(
        self, store: CoalescingStore, inner: HeldStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_runner, "_PATIENCE", 10_000_000)
        monkeypatch.setattr(_runner, "_LONGEST_PATIENCE", 60.0)
        for number in range(20):
            await store.load([A.sid])
            assert len(inner.loads) == number + 1

    async def test_calls_in_company_wait_for_each_other(
        self, store: CoalescingStore, inner: HeldStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_runner, "_LONGEST_PATIENCE", 60.0)
        await asyncio.gather(store.load([A.sid]), store.load([B.sid]))
        waiting = []
        for sid in (A.sid, B.sid, C.sid):
            waiting.append(asyncio.ensure_future(store.load([sid])))
            await turns(_runner._PATIENCE - 5)
        await asyncio.gather(*waiting)
        assert inner.loads == [[A.sid, B.sid], [A.sid, B.sid, C.sid]]

    async def test_nobody_waits_for_company_that_has_gone(
        self, store: CoalescingStore, inner: HeldStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_runner, "_LONGEST_PATIENCE", 60.0)
        await asyncio.gather(store.load([A.sid]), store.load([B.sid]))
        for _ in range(_runner._MEMORY):
            await store.load([A.sid])
        monkeypatch.setattr(_runner, "_PATIENCE", 10_000_000)
        await store.load([A.sid])
        assert len(inner.loads) == 1 + _runner._MEMORY + 1

    async def test_a_crowd_that_never_ends_is_not_waited_for(
        self, store: CoalescingStore, inner: HeldStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_runner, "_PATIENCE", 10_000_000)
        await asyncio.gather(store.load([A.sid]), store.load([B.sid]))
        waiting = asyncio.ensure_future(store.load([A.sid]))
        others = []
        while not waiting.done():
            others.append(asyncio.ensure_future(store.load([B.sid])))
            await asyncio.sleep(0)
        await asyncio.gather(waiting, *others)
        assert len(inner.loads) >= 2

    async def test_in_company_they_wait_for_as_many_writes_and_who_comes_back_from_them(
        self, inner: HeldStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else two halves of the callers would take turns for ever, one loading while the other is written."""
        monkeypatch.setattr(_runner, "_LONGEST_PATIENCE", 60.0)
        async with in_company(inner, writes=4) as (store, writing, loading):
            await turns(100)
            assert inner.loads == []

            async def come_back(write: asyncio.Task[Any]) -> None:
                await write
                await store.load([C.sid])

            coming = [asyncio.ensure_future(come_back(write)) for write in writing]
            inner.apply_reply.open()
            await asyncio.gather(*loading, *coming)
            assert inner.loads == [[A.sid, B.sid, C.sid]]

    async def test_they_wait_for_no_fewer_writes(self, inner: HeldStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_runner, "_LONGEST_PATIENCE", 60.0)
        async with in_company(inner, writes=3) as (_, _, loading):
            await asyncio.gather(*loading)

    async def test_they_do_not_wait_long_for_writes_that_take_long(self, inner: HeldStore) -> None:
        async with in_company(inner, writes=4) as (_, writing, loading):
            await asyncio.gather(*loading)
            assert not any(write.done() for write in writing)

    async def test_they_wait_for_writes_once(self, inner: HeldStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many more writes come meanwhile."""
        monkeypatch.setattr(_runner, "_LONGEST_PATIENCE", 60.0)
        async with in_company(inner, writes=4) as (store, writing, loading):
            inner.apply_question.shut()
            more = [start(store, put(one.sid, more=1)) for one in await made(inner, 8)]
            await turns(50)
            assert [len(changes) for changes in inner.applies] == [4, 8]
            inner.apply_reply.open()
            await asyncio.gather(*writing, *loading)
            assert not any(write.done() for write in more)
            inner.apply_question.open()
            await asyncio.gather(*more)

    async def test_closing_does_not_wait_for_company(self, inner: HeldStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_runner, "_LONGEST_PATIENCE", 60.0)
        async with in_company(inner, writes=4) as (store, _, loading):
            closing = asyncio.ensure_future(store.close())
            for load in loading:
                with pytest.raises(StoreUnavailable):
                    await load
            inner.apply_reply.open()
            await closing

    async def test_joins_nothing_that_is_under_way(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.load_reply.shut()
        before = asyncio.ensure_future(store.load([A.sid]))
        await turns()  # it has read the old state, and its reply is on the way
        assert await store.apply([put(A.sid, seen=1)]) == [Applied(2)]
        after = asyncio.ensure_future(store.load([A.sid]))
        await turns()
        inner.load_reply.open()
        (old,), (new,) = await before, await after
        assert (old and old.rev, new and new.rev) == (1, 2)

    async def test_a_cancelled_waiter_harms_nobody(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.load_reply.shut()
        tasks = [asyncio.ensure_future(store.load([sid])) for sid in (A.sid, A.sid, B.sid)]
        await turns()
        tasks[0].cancel()
        inner.load_reply.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [[A], [B]]
        assert inner.cancelled == 0

    async def test_what_all_gave_up_is_not_sent(self, store: CoalescingStore, inner: HeldStore) -> None:
        tasks = [asyncio.ensure_future(store.load(sids)) for sids in ([A.sid], [A.sid], [B.sid, C.sid], [C.sid])]
        asyncio.get_running_loop().call_soon(lambda: [task.cancel() for task in tasks[:3]])
        await asyncio.sleep(0)
        assert await tasks[3] == [C]
        assert inner.loads in ([[C.sid]], [[A.sid, B.sid, C.sid]])

    async def test_what_all_gave_up_while_it_waited_is_not_sent(self, inner: HeldStore) -> None:
        store = CoalescingStore(inner)
        inner.load_reply.shut()
        busy = []
        for _ in range(inner.batching.in_flight):
            busy.append(asyncio.ensure_future(store.load([A.sid])))
            await turns()
        only = record()
        given_up = [asyncio.ensure_future(store.load(sids)) for sids in ([B.sid], [B.sid], [A.sid, only.sid])]
        kept = asyncio.ensure_future(store.load([C.sid]))
        await turns()
        for task in given_up:
            task.cancel()
        await turns()
        inner.load_reply.open()
        assert await kept == [C]
        await asyncio.gather(*busy)
        assert inner.loads[inner.batching.in_flight :] == [[C.sid]]

    async def test_one_unreadable_row_fails_its_reader_alone(self, store: CoalescingStore, inner: HeldStore) -> None:
        def unreadable(records: list[Record | None]) -> list[Record | None]:
            if B in records:
                raise ValueError("not a row")
            return records

        inner.on_load = unreadable
        results = await asyncio.gather(*(store.load([one.sid]) for one in (A, B, C)), return_exceptions=True)
        assert results[0] == [A] and results[2] == [C]
        assert isinstance(results[1], StoreUnavailable)
        assert "ValueError" in str(results[1]) and "not a row" not in str(results[1])
        alone = await asyncio.gather(store.load([B.sid]), return_exceptions=True)
        assert isinstance(alone[0], StoreUnavailable)

    @pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreError("odd"), SessionDataError("bad", key="k")])
    async def test_errors_reach_all_each_its_own(
        self, store: CoalescingStore, inner: HeldStore, error: Exception
    ) -> None:
        def fail(records: list[Record | None]) -> list[Record | None]:
            raise error

        inner.on_load = fail
        results = await asyncio.gather(
            store.load([A.sid]), store.load([A.sid]), store.load([B.sid, A.sid]), return_exceptions=True
        )
        assert len({id(result) for result in results}) == 3
        for result in results:
            assert type(result) is type(error) and str(result) == str(error)
            assert isinstance(result, Exception) and result.__cause__ is error
        assert getattr(results[0], "key", "k") == "k"
        inner.on_load = lambda records: records
        assert await store.load([A.sid]) == [A]

    async def test_an_unexpected_error_is_the_cause(self, store: CoalescingStore, inner: HeldStore) -> None:
        def fail(records: list[Record | None]) -> list[Record | None]:
            raise ConnectionResetError("secret host")

        inner.on_load = fail
        results = await asyncio.gather(store.load([A.sid]), store.load([B.sid]), return_exceptions=True)
        for result in results:
            assert isinstance(result, StoreUnavailable) and "secret host" not in str(result)
            assert isinstance(result.__cause__, ConnectionResetError)
        assert len(inner.loads) == 1

    async def test_too_few_answers_or_others_answer_nobody(self, store: CoalescingStore, inner: HeldStore) -> None:
        for wrong in (lambda records: records[:-1], lambda records: records[::-1]):
            inner.on_load = wrong
            results = await asyncio.gather(store.load([A.sid]), store.load([B.sid]), return_exceptions=True)
            assert [type(result) for result in results] == [StoreError, StoreError]

    async def test_the_inner_store_cancelling_itself_is_an_error(self) -> None:
        def fail(records: list[Record | None]) -> list[Record | None]:
            if A in records:
                raise asyncio.CancelledError
            return records

        inner = HeldStore(loads=1, in_flight=1)
        await inner.open()
        await inner.add(A, B)
        inner.on_load = fail
        store = CoalescingStore(inner)
        results = await asyncio.gather(store.load([A.sid]), store.load([B.sid]), return_exceptions=True)
        assert isinstance(results[0], StoreUnavailable) and "cancelled" in str(results[0])
        assert results[1] == [B]


class TestChanges:
    async def test_deltas_of_one_session_merge(self, store: CoalescingStore, inner: HeldStore) -> None:
        results = await asyncio.gather(*(store.apply([put(A.sid, **{f"k{n}": n})]) for n in range(50)))
        assert results == [[Applied(2)]] * 50
        assert await data(inner, A.sid) == {f"k{n}": n for n in range(50)}
        assert (store.changes.calls, store.changes.batches) == (50, 1)

    async def test_none_is_lost_while_another_is_under_way(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.apply_question = inner.apply_reply = turns  # type: ignore[assignment]
        tasks = []
        for n in range(50):
            tasks.append(start(store, put(A.sid, **{f"k{n}": n, "last": n})))
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks)
        assert await data(inner, A.sid) == {f"k{n}": n for n in range(50)} | {"last": 49}
        assert results[-1][0].rev == 1 + len(inner.applies) < 10

    async def test_results_are_the_callers_own(self, store: CoalescingStore) -> None:
        first, second = await asyncio.gather(store.apply([put(A.sid, a=1)]), store.apply([put(A.sid, b=1)]))
        assert first == second and first is not second

    async def test_guarded_changes_go_one_after_the_other(self, store: CoalescingStore, inner: HeldStore) -> None:
        changes = [
            put(A.sid, a=1),
            put(A.sid, b=1),
            put(A.sid, if_rev=2, c=1),
            put(A.sid, if_rev=2, d=1),
            put(A.sid, e=1),
            put(A.sid, f=1),
            end(A.sid),
            put(A.sid, g=1),
        ]
        results = await asyncio.gather(*(store.apply([change]) for change in changes))
        assert [type(result[0]) for result in results] == [Applied, Applied, Applied, Conflict, *[Applied] * 3, Gone]
        assert [len(changes) for changes in inner.applies] == [1] * 6

    async def test_the_order_of_the_calls_is_kept(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.apply_question.shut()
        tasks = [start(store, put(A.sid, k=0))]
        await turns()
        for n in range(1, 20):
            tasks.append(start(store, put(A.sid, k=n)))
            if n % 3 == 0:
                tasks.append(start(store, put(A.sid, if_rev=99, k=-1)))
            await turns(1)
        inner.apply_question.open()
        await asyncio.gather(*tasks)
        assert await data(inner, A.sid) == {"k": 19}

    async def test_the_changes_of_one_call_stay_together(self, store: CoalescingStore, inner: HeldStore) -> None:
        new = record()
        inner.apply_question.shut()
        writing = start(store, put(A.sid, a=1))
        await turns()
        login = start(store, Create(new), end(A.sid), events=[event("login")])
        onto_new = start(store, put(new.sid, b=1))
        onto_old = start(store, put(A.sid, b=1))
        other = start(store, put(B.sid, b=1), events=[event("other")])
        await turns()
        assert len(inner.applies) == 2 and inner.applies[1][0].sid == B.sid  # the pair waits for A, nobody else does
        inner.apply_question.open()
        assert await writing == [Applied(2)]
        assert await login == [Applied(1), Applied(3)]
        assert await onto_new == [Applied(2)]
        assert await onto_old == [Gone("logout")]
        await other
        assert [len(changes) for changes in inner.applies] == [1, 1, 2, 2]
        assert [one.reason for one in inner.written] == ["other", "login"]

    async def test_overlapping_calls_end(self, store: CoalescingStore, inner: HeldStore) -> None:
        rng = random.Random(1)
        records = [record() for _ in range(6)]
        await inner.add(*records)
        tasks = []
        for n in range(200):
            some = rng.sample(records, rng.randint(1, 4))
            tasks.append(start(store, *(put(one.sid, **{f"k{n}": n}) for one in some)))
            await turns(rng.randint(0, 2))
        assert all(isinstance(one, Applied) for result in await asyncio.gather(*tasks) for one in result)
        written = [await data(inner, one.sid) for one in records]
        assert {key for values in written for key in values} == {f"k{n}" for n in range(200)}

    async def test_calls_share_a_batch_with_their_events(self, store: CoalescingStore, inner: HeldStore) -> None:
        await asyncio.gather(
            store.apply([put(A.sid, a=1)], [event("1")]),
            store.apply([put(A.sid, b=1)], [event("2"), event("3")]),
            store.apply([put(B.sid, a=1), end(C.sid)], [event("4")]),
        )
        assert len(inner.applies) == 1
        assert [one.reason for one in inner.written] == ["1", "2", "3", "4"]

    async def test_batches_are_bounded(self) -> None:
        inner = HeldStore(changes=4, in_flight=2)
        await inner.open()
        inner.apply_reply = turns  # type: ignore[assignment]
        store = CoalescingStore(inner)
        groups = [[Create(record()) for _ in range(size)] for size in (1, 2, 3, 9, 1, 1, 1, 1, 1)]
        results = await asyncio.gather(*(store.apply(group) for group in groups))
        assert [len(result) for result in results] == [len(group) for group in groups]
        assert [len(changes) for changes in inner.applies] == [3, 3, 9, 4, 1]  # a call is never torn
        assert inner.most_at_once["apply"] == 2

    async def test_slow_writes_do_not_hold_up_reads(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.apply_question.shut()
        records = [record() for _ in range(200)]
        tasks = [start(store, Create(one)) for one in records]
        await turns()
        assert await store.load([A.sid]) == [A]
        inner.apply_question.open()
        await asyncio.gather(*tasks)

    async def test_a_cancelled_callers_write_is_carried_out(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.apply_question.shut()
        tasks = [start(store, put(A.sid, a=1))]
        await turns()
        tasks += [start(store, put(A.sid, b=1)), start(store, put(A.sid, c=1)), start(store, put(B.sid, d=1))]
        await turns()
        for task in tasks[:2] + tasks[3:]:
            task.cancel()
        await turns()
        inner.apply_question.open()
        assert await tasks[2] == [Applied(3)]
        await store.close()
        assert await data(inner, A.sid) == {"a": 1, "b": 1, "c": 1}
        assert await data(inner, B.sid) == {"d": 1}
        assert inner.cancelled == 0

    async def test_a_refused_merge_is_sent_one_by_one(self, store: CoalescingStore, inner: HeldStore) -> None:
        refusal = {"bad": SessionDataError("no", key="bad"), "locked": StoreError("locked")}

        def refuse(changes: Sequence[Change], results: list[Any]) -> list[Any]:
            return [
                next((refusal[k] for k in getattr(change, "put", {}) if k in refusal), result)
                for change, result in zip(changes, results, strict=True)
            ]

        inner.on_apply = refuse
        results = await asyncio.gather(
            store.apply([put(A.sid, a=1)]),
            store.apply([put(A.sid, bad=1)]),
            store.apply([put(A.sid, c=1)]),
            store.apply([put(B.sid, a=1)]),
            store.apply([put(B.sid, locked=1)]),
            store.apply([put(C.sid, a=1)]),
        )
        assert [result[0] if isinstance(result[0], Exception) else None for result in results] == [
            None,
            refusal["bad"],
            None,
            None,
            refusal["locked"],
            None,
        ]
        assert [len(changes) for changes in inner.applies] == [3, 1, 1, 1, 1, 1]

    @pytest.mark.parametrize("required", [False, True])
    async def test_whoever_is_sent_alone_brings_the_own_event(self, inner: HeldStore, required: bool) -> None:
        """What was refused as a whole has written no event, and no change lands without its own."""
        decide = inner._decide

        def refuse(change: Change, now: int, room: int) -> Any:
            if isinstance(change, Update) and "bad" in change.put:
                return None, SessionDataError("no", key="bad")
            return decide(change, now, room)

        inner._decide = refuse  # type: ignore[method-assign]
        chaining = ChainingStore(inner, later=lambda event: pytest.fail("it was put off"), required=required)
        store = CoalescingStore(chaining, timeout=20)
        first, second, third, fourth = await asyncio.gather(
            store.apply([put(A.sid, a=1)], [event("1", A.sid)]),
            store.apply([put(A.sid, bad=1)], [event("2", A.sid)]),
            store.apply([put(A.sid, c=1)], [event("3", A.sid)]),
            store.apply([put(B.sid, a=1)], [event("4", B.sid)]),
        )
        assert [type(result) for [result] in (first, third, fourth)] == [Applied] * 3
        assert isinstance(second[0], SessionDataError)
        assert sorted(str(one.reason) for one in (await inner.events(EventQuery())).events) == ["1", "3", "4"]
        assert await data(inner, A.sid) == {"a": 1, "c": 1}

    async def test_what_is_refused_alone_is_not_repeated(self, store: CoalescingStore, inner: HeldStore) -> None:
        refusal = StoreError("locked")
        inner.on_apply = lambda changes, results: [refusal for _ in results]
        assert await store.apply([put(A.sid, a=1), put(B.sid, a=1)]) == [refusal, refusal]
        assert await store.apply([put(A.sid, a=1)]) == [refusal]
        assert len(inner.applies) == 2

    async def test_an_error_in_the_repetition_is_its_own(self, store: CoalescingStore, inner: HeldStore) -> None:
        def refuse(changes: Sequence[Change], results: list[Any]) -> list[Any]:
            if len(inner.applies) == 1:
                return [StoreError("not together")]
            if len(inner.applies) == 2:
                raise ConnectionError
            return results

        inner.on_apply = refuse
        results = await asyncio.gather(
            *(store.apply([put(A.sid, **{key: 1})]) for key in "abc"), return_exceptions=True
        )
        assert isinstance(results[0], StoreUnavailable) and results[0].outcome == "unknown"
        assert isinstance(results[1][0], Applied) and isinstance(results[2][0], Applied)  # type: ignore[index]

    async def test_an_unknown_merge_is_not_repeated(self, store: CoalescingStore, inner: HeldStore) -> None:
        lost = StoreError("lost", outcome="unknown")
        inner.on_apply = lambda changes, results: [lost]
        results = await asyncio.gather(store.apply([put(A.sid, a=1)]), store.apply([put(A.sid, b=1)]))
        assert results == [[lost], [lost]]
        assert len(inner.applies) == 1

    async def test_errors_of_one_change_are_its_callers(self, store: CoalescingStore, inner: HeldStore) -> None:
        inner.on_apply = lambda changes, results: [
            StoreError("locked") if change.sid == B.sid else result
            for change, result in zip(changes, results, strict=True)
        ]
        results = await asyncio.gather(store.apply([put(A.sid, a=1), put(B.sid, a=1)]), store.apply([put(C.sid, a=1)]))
        assert isinstance(results[0][0], Applied) and isinstance(results[0][1], StoreError)
        assert results[1] == [Applied(2)]

    async def test_a_failed_call_fails_all_its_callers(self, store: CoalescingStore, inner: HeldStore) -> None:
        outcomes = {StoreUnavailable("away"): "not_applied", KeyError("bug"): "unknown"}
        for error, outcome in outcomes.items():

            def fail(changes: Sequence[Change], results: list[Any], error: Exception = error) -> list[Any]:
                raise error

            inner.on_apply = fail
            results = await asyncio.gather(
                store.apply([put(A.sid, a=1)]), store.apply([end(B.sid), put(C.sid, a=1)]), return_exceptions=True
            )
            for result in results:
                assert isinstance(result, StoreUnavailable) and result.outcome == outcome

        inner.on_apply = lambda changes, results: results[1:]
        with pytest.raises(StoreError, match="0 answers to 1") as caught:
            await store.apply([put(A.sid, a=1)])
        assert caught.value.outcome == "unknown"

    async def test_odd_calls(self, store: CoalescingStore, inner: HeldStore) -> None:
        with pytest.raises(ValueError, match="unique"):
            await store.apply([put(A.sid, a=1), end(A.sid)])
        assert await store.apply([]) == []
        assert inner.applies == []
        assert await store.apply([], [event("alone")]) == []
        assert [one.reason for one in inner.written] == ["alone"]

    async def test_a_callers_list_may_change_later(self, store: CoalescingStore, inner: HeldStore) -> None:
        changes: list[Change] = [put(A.sid, a=1), put(B.sid, a=1)]
        task = asyncio.ensure_future(store.apply(changes))
        asyncio.get_running_loop().call_soon(changes.clear)
        assert await task == [Applied(2), Applied(2)]


class TestTime:
    async def test_a_load_under_way_fails_in_time(self, inner: HeldStore) -> None:
        store = CoalescingStore(inner, timeout=0.02)
        inner.load_question.shut()
        results = await asyncio.gather(store.load([A.sid]), store.load([B.sid]), return_exceptions=True)
        for result in results:
            assert isinstance(result, StoreUnavailable)
            assert "did not answer within 0.02 s" in str(result) and result.__cause__ is None
        await turns()
        assert inner.cancelled == 1
        inner.load_question.open()
        assert await CoalescingStore(inner).load([A.sid]) == [A]
        assert await store.load([A.sid]) == [A]

    async def test_a_write_under_way_is_unknown(self, inner: HeldStore) -> None:
        store = CoalescingStore(inner, timeout=0.02)
        inner.apply_reply.shut()
        with pytest.raises(StoreUnavailable) as caught:
            await store.apply([put(A.sid, a=1)])
        assert caught.value.outcome == "unknown"
        inner.apply_reply.open()
        assert await store.apply([put(A.sid, b=1)]) == [Applied(3)]

    async def test_a_write_that_was_not_sent_never_is(self, inner: HeldStore) -> None:
        deaf = Deaf()
        inner.apply_question = deaf  # type: ignore[assignment]
        inner.batching = Batching(in_flight=1)
        store = CoalescingStore(inner, timeout=0.02)
        first = start(store, put(A.sid, a=1))
        await turns()
        queued = [start(store, put(A.sid, b=1)), start(store, put(A.sid, c=1))]
        queued += [start(store, end(A.sid), Create(record())), start(store, put(A.sid, if_rev=1, d=1))]
        queued += [start(store, put(B.sid, d=1))]
        results = await asyncio.gather(first, *queued, return_exceptions=True)
        assert [getattr(result, "outcome", result) for result in results] == ["unknown", *["not_applied"] * 5]
        # The slot and the session stay taken as long as the store has not let go of them.
        with pytest.raises(StoreUnavailable) as caught:
            await store.apply([put(A.sid, e=1)])
        assert caught.value.outcome == "not_applied"
        deaf.release.set()
        await turns()
        patient = CoalescingStore(inner)
        assert await patient.apply([put(A.sid, f=1)]) == [Applied(3)]
        assert await store.apply([put(A.sid, g=1)]) == [Applied(4)]
        assert await store.apply([put(B.sid, g=1)]) == [Applied(2)]
        assert await data(inner, A.sid) == {"a": 1, "f": 1, "g": 1}
        assert deaf.cancels == 1

    async def test_loads_that_wait_for_a_slot_fail_in_time(self) -> None:
        inner = HeldStore(in_flight=1)
        await inner.open()
        await inner.add(A, B)

        deaf = Deaf()
        inner.load_question = deaf  # type: ignore[assignment]
        store = CoalescingStore(inner, timeout=0.02)
        first = asyncio.ensure_future(store.load([A.sid]))
        await turns()
        results = await asyncio.gather(first, store.load([A.sid]), store.load([B.sid, A.sid]), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 3
        deaf.release.set()
        await turns()
        assert await store.load([B.sid]) == [B]
        assert inner.loads == [[A.sid], [B.sid]]

    @pytest.mark.parametrize("writing", [False, True])
    async def test_each_entry_has_its_own_deadline(self, inner: HeldStore, writing: bool) -> None:
        deaf = Deaf()
        inner.load_question = inner.apply_question = deaf  # type: ignore[assignment]
        inner.batching = Batching(in_flight=1)
        store = CoalescingStore(inner, timeout=0.4)

        def call(one: Record) -> asyncio.Task[Any]:
            return start(store, put(one.sid, a=1)) if writing else asyncio.ensure_future(store.load([one.sid]))

        first = call(A)
        await turns()
        second = call(B)
        await asyncio.sleep(0.2)
        third = call(C)
        await asyncio.wait([first, second])
        assert not third.done()
        await asyncio.wait([third])
        errors = [task.exception() for task in (first, second, third)]
        assert [getattr(error, "outcome", error) for error in errors] == ["unknown", "not_applied", "not_applied"]
        deaf.release.set()

    async def test_a_loop_that_stood_still_is_not_the_stores_fault(self, inner: HeldStore) -> None:
        async def reply() -> None:
            await arrived.wait()
            await turns(3)

        arrived = asyncio.Event()
        inner.load_reply = inner.apply_reply = reply  # type: ignore[assignment]
        store = CoalescingStore(inner, timeout=0.2)
        load, write = asyncio.ensure_future(store.load([A.sid])), start(store, put(B.sid, a=1))
        await turns()
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        arrived.set()
        assert await load == [A]
        assert await write == [Applied(2)]

    async def test_a_late_batch_does_not_take_the_next_one_with_it(self, inner: HeldStore) -> None:
        store = CoalescingStore(inner, timeout=0.05)
        inner.load_question.shut()
        late = asyncio.ensure_future(store.load([A.sid]))
        await asyncio.sleep(0.03)
        inner.load_question, held = type(inner.load_question)(), inner.load_question
        assert await store.load([B.sid]) == [B]
        with pytest.raises(StoreUnavailable):
            await late
        held.open()
        assert await store.load([A.sid]) == [A]

    @pytest.mark.parametrize(
        ("name", "arguments", "outcome"),
        [
            ("clock", (), "not_applied"),
            ("admit", (Login(sid=A.sid, user_id="u", began_at=0, now=0, caps=CAPS, purge_at=0),), "unknown"),
            ("find", (Query(now=NOW, caps=CAPS),), "not_applied"),
            ("end_where", (Query(now=NOW, caps=CAPS), EndReason.REVOKED), "unknown"),
            ("sweep", (Cutoffs(now=NOW, caps=CAPS, keep_ended=0), 10), "unknown"),
            ("append", ([event("1")],), "unknown"),
            ("events", (EventQuery(),), "not_applied"),
            ("stats", (), "not_applied"),
        ],
    )
    async def test_everything_else_has_a_deadline_too(
        self, inner: HeldStore, monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[Any, ...], outcome: str
    ) -> None:
        await getattr(CoalescingStore(inner), name)(*arguments)

        async def hang(*_: Any) -> None:
            await asyncio.Event().wait()

        async def fail(*_: Any) -> None:
            raise RuntimeError("bug")

        async def refuse(*_: Any) -> None:
            raise refusal

        refusal = StoreError("no")
        store = CoalescingStore(inner, timeout=0.002)
        for broken in (hang, fail):
            monkeypatch.setattr(inner, name, broken)
            with pytest.raises(StoreUnavailable) as caught:
                await getattr(store, name)(*arguments)
            assert caught.value.outcome == outcome and caught.value.__cause__ is not None
        monkeypatch.setattr(inner, name, refuse)
        with pytest.raises(StoreError) as caught_again:
            await getattr(store, name)(*arguments)
        assert caught_again.value is refusal

    async def test_a_timeout_must_be_positive(self, inner: HeldStore) -> None:
        for timeout in (0, -1, float("nan")):
            with pytest.raises(ConfigurationError, match="timeout"):
                CoalescingStore(inner, timeout=timeout)


class TestClosing:
    async def test_writes_are_carried_out_and_loads_fail(self) -> None:
        inner = HeldStore(in_flight=1)
        await inner.open()
        await inner.add(A, B)
        store = CoalescingStore(inner)
        inner.apply_question.shut()
        inner.load_reply.shut()
        under_way = asyncio.ensure_future(store.load([A.sid]))
        writes = [start(store, put(A.sid, a=1))]
        await turns()
        writes += [start(store, put(A.sid, if_rev=2, b=1)), start(store, put(A.sid, c=1))]
        await asyncio.sleep(0)
        queued = asyncio.ensure_future(store.load([B.sid]))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.close())
        await turns()
        assert not closing.done()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.load([A.sid])
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.apply([put(A.sid, d=1)])
        inner.apply_question.open()
        inner.load_reply.open()
        await closing
        assert await asyncio.gather(*writes) == [[Applied(2)], [Applied(3)], [Applied(4)]]
        assert await under_way == [A]
        with pytest.raises(StoreUnavailable, match="closed"):
            await queued
        await store.close()

        await store.open()
        assert (await store.load([A.sid]))[0] == await inner.peek(A.sid)
        assert store.loads.calls == 3

    async def test_it_closes_after_the_last_write(self, inner: HeldStore) -> None:
        store = CoalescingStore(inner)
        inner.apply_reply = turns  # type: ignore[assignment]
        writes = [start(store, put(A.sid, if_rev=n, n=n)) for n in range(1, 10)]
        await asyncio.sleep(0)
        await store.close()
        assert [await write for write in writes] == [[Applied(n)] for n in range(2, 11)]

    async def test_closing_leaves_what_does_not_let_go(self, inner: HeldStore) -> None:
        store = CoalescingStore(inner, timeout=0.02)
        deaf = inner.apply_question = Deaf()  # type: ignore[assignment]
        write = start(store, put(A.sid, a=1))
        await turns()
        await asyncio.wait_for(store.close(), 5)
        assert isinstance(write.exception(), StoreUnavailable)
        deaf.release.set()
        await turns()

    async def test_closing_is_bounded(self, inner: HeldStore) -> None:
        store = CoalescingStore(inner, timeout=0.02)
        inner.apply_question.shut()
        writes = [start(store, put(A.sid, a=1)), start(store, put(A.sid, if_rev=1, b=1))]
        await turns()
        await asyncio.wait_for(store.close(), 5)
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [getattr(result, "outcome", result) for result in results] == ["unknown", "not_applied"]

    async def test_whoever_waits_is_answered_though_the_timer_had_no_turn(self, inner: HeldStore) -> None:
        """As on a machine so busy that closing takes its time before the timer fires."""
        store = CoalescingStore(inner, timeout=0.05)
        inner.apply_question.shut()
        writes = [start(store, put(A.sid, a=1)), start(store, put(A.sid, if_rev=1, b=1))]
        await turns()
        runner = store._lines.write_runner  # type: ignore[union-attr]
        runner._timer.cancel()  # type: ignore[union-attr]
        await asyncio.wait_for(store.close(), 30)
        results = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 30)
        assert [getattr(result, "outcome", result) for result in results] == ["unknown", "not_applied"]

    @pytest.mark.parametrize("held", ["load_question", "load_reply", "apply_question", "apply_reply"])
    def test_a_loop_that_ends_leaves_no_warning(self, held: str) -> None:
        errors: list[dict[str, Any]] = []

        async def main() -> list[asyncio.Task[Any]]:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
            inner = HeldStore(in_flight=1)
            await inner.open()
            store = CoalescingStore(inner)
            getattr(inner, held).shut()
            tasks = [asyncio.ensure_future(store.load([A.sid])), start(store, put(A.sid, a=1))]
            await turns()
            tasks += [asyncio.ensure_future(store.load([A.sid])), start(store, put(A.sid, if_rev=1, a=1))]
            await turns()
            return tasks

        tasks = asyncio.run(main())
        gc.collect()
        assert all(task.done() for task in tasks)
        assert errors == []

    def test_an_interrupt_in_the_store_stops_the_loop(self) -> None:
        def interrupt(changes: Sequence[Change], results: list[Any]) -> list[Any]:
            raise KeyboardInterrupt

        async def main() -> None:
            inner = HeldStore()
            await inner.open()
            inner.on_apply = interrupt
            try:
                await CoalescingStore(inner).apply([put(A.sid, a=1)])
            except StoreError as error:
                outcomes.append(error.outcome)

        outcomes: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        gc.collect()
        assert outcomes in ([], ["unknown"])  # asyncio cancels who still waits

    def test_a_loop_that_is_thrown_away(self, caplog: pytest.LogCaptureFixture) -> None:
        async def begin() -> None:
            inner = HeldStore(in_flight=1)
            await inner.open()
            inner.load_question.shut()
            store = CoalescingStore(inner)
            for one in (A, B):
                waiting.append(asyncio.ensure_future(store.load([one.sid])))
                await turns()

        waiting: list[asyncio.Task[Any]] = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        loop.close()
        waiting.clear()
        del loop
        gc.collect()  # what is raised here is a warning, hence an error
        messages = {one.getMessage().split("\n")[0] for one in caplog.records}
        assert messages == {"Task was destroyed but it is pending!"}  # asyncio's own complaint
        caplog.clear()

    @pytest.mark.parametrize("call", ["load", "apply"])
    async def test_what_is_cancelled_before_it_begins_is_done_by_another(
        self, store: CoalescingStore, inner: HeldStore, call: str
    ) -> None:
        """As when a loop shuts down: whoever cleans up meanwhile is served."""
        before = asyncio.all_tasks()
        asked = start(store, put(A.sid, a=1)) if call == "apply" else asyncio.ensure_future(store.load([A.sid]))
        await asyncio.sleep(0)
        [batch] = asyncio.all_tasks() - before - {asked}
        batch.cancel()
        assert await asyncio.wait_for(asked, 5) == ([Applied(2)] if call == "apply" else [A])
        assert (len(inner.applies), len(inner.loads)) == ((1, 0) if call == "apply" else (0, 1))
        assert await store.apply([put(B.sid, b=1)]) == [Applied(2)]

    async def test_a_cancelled_batch_fails_its_callers(self, store: CoalescingStore, inner: HeldStore) -> None:
        before = asyncio.all_tasks()
        inner.apply_question.shut()
        writes = [start(store, put(A.sid, a=1))]
        await turns()
        writes.append(start(store, put(A.sid, b=1)))
        await turns()
        for task in asyncio.all_tasks() - before - set(writes):
            task.cancel()
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [getattr(result, "outcome", result) for result in results] == ["unknown", "not_applied"]
        inner.apply_question.open()
        assert await store.apply([put(A.sid, c=1)]) == [Applied(2)]


class TestTogether:
    async def test_no_reply_crosses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hundreds of callers of three users, some cancelled, some failing, on a store that is slow and unreliable."""
        monkeypatch.setattr(_runner, "_PATIENCE", 0)  # many small batches, so that many fail
        rng = random.Random(7)
        inner = HeldStore(loads=8, changes=4, in_flight=3)
        await inner.open()
        users = [record(user_id=f"user-{n}", data=b'{"owner":%d}' % n) for n in range(3)]
        await inner.add(*users)
        store = CoalescingStore(inner, timeout=20)

        async def wander() -> None:
            await turns(rng.randint(0, 6))

        def fail_loads(records: list[Record | None]) -> list[Record | None]:
            if rng.random() < 0.05:
                raise rng.choice([StoreUnavailable("away"), ValueError("row"), OSError("net")])
            return records

        def fail_changes(changes: Sequence[Change], results: list[Any]) -> list[Any]:
            if rng.random() < 0.05:
                raise StoreError("lost", outcome="unknown")
            return [StoreError("locked") if rng.random() < 0.1 else result for result in results]

        inner.load_question = inner.load_reply = wander  # type: ignore[assignment]
        inner.apply_question = inner.apply_reply = wander  # type: ignore[assignment]
        inner.on_load, inner.on_apply = fail_loads, fail_changes
        written: list[set[str]] = [set(), set(), set()]
        maybe: list[set[str]] = [set(), set(), set()]

        async def caller(n: int) -> str:
            await turns(rng.randint(0, 40))
            user = rng.randrange(3)
            sid = users[user].sid
            others = rng.sample(range(3), 2)
            try:
                if n % 3 == 0:
                    (found,) = await store.load([sid])
                    assert found is not None and found.user_id == f"user-{user}"
                    assert json.loads(found.data)["owner"] == user
                elif n % 3 == 1:
                    many = await store.load([users[o].sid for o in others])
                    assert [one and one.user_id for one in many] == [f"user-{o}" for o in others]
                else:
                    maybe[user].add(f"k{n}")
                    (result,) = await store.apply([put(sid, **{f"k{n}": n})])
                    if isinstance(result, Applied):
                        written[user].add(f"k{n}")
                        (found,) = await store.load([sid])  # reads its own write
                        assert found is not None and json.loads(found.data)[f"k{n}"] == n
                    else:
                        assert isinstance(result, StoreError)
            except StoreError:
                return "failed"
            return "answered"

        tasks = [asyncio.ensure_future(caller(n)) for n in range(500)]
        for task in rng.sample(tasks, 150):
            await turns(rng.randint(0, 1))
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = [result if isinstance(result, str) else type(result).__name__ for result in results]
        assert set(kinds) == {"answered", "failed", "CancelledError"}
        assert kinds.count("answered") > 200
        await store.close()
        for user, before in enumerate(users):
            assert written[user] <= (await data(inner, before.sid)).keys() <= maybe[user] | {"owner"}

    async def test_one_caller_alone_waits_for_no_timer(self, store: CoalescingStore) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        for _ in range(100):
            await store.load([A.sid])
            await store.apply([touch(A.sid)])
        assert store.loads.batches == store.changes.batches == 100
        assert loop.time() - before < 10

    async def test_a_batch_has_no_callers_context(self, store: CoalescingStore, inner: HeldStore) -> None:
        tenant = contextvars.ContextVar("tenant", default="nobody")
        seen = []

        def look(records: list[Record | None]) -> list[Record | None]:
            seen.append(tenant.get())
            return records

        inner.on_load = look
        tenant.set("first caller")
        await store.load([A.sid])
        assert seen == ["nobody"]

    async def test_a_store_may_use_threads(self, store: CoalescingStore, inner: HeldStore) -> None:
        async def in_a_thread() -> None:
            await anyio.to_thread.run_sync(time.sleep, 0)

        inner.load_question = in_a_thread  # type: ignore[assignment]
        assert await store.load([A.sid]) == [A]


_sessions = st.integers(0, 2)
_steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "remove", "touch", "rotate", "end", "create", "pair"]),
        _sessions,
        st.sampled_from("abc"),
        st.integers(0, 9),
        st.integers(0, 2),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(_steps, st.integers(1, 5), st.integers(1, 3))
def test_coalesced_is_as_one_after_the_other(steps: list[Any], changes: int, in_flight: int) -> None:
    """Every call is answered, and every session left, as if the calls had been applied singly in their order."""
    initial = [record() for _ in range(3)]
    spare = record()
    calls = [_call(step, initial, spare) for step in steps]

    async def coalesced() -> tuple[list[int], list[Any], dict[Sid, Any]]:
        inner = HeldStore(changes=changes, in_flight=in_flight)
        await inner.open()
        await inner.add(*initial)
        inner.apply_question = inner.apply_reply = turns  # type: ignore[assignment]
        store = CoalescingStore(inner, timeout=20)
        order: list[int] = []
        answers: list[Any] = [None] * len(calls)

        async def one(n: int) -> None:
            await turns(steps[n][4])
            order.append(n)
            answers[n] = await store.apply(calls[n])

        await asyncio.gather(*(one(n) for n in range(len(calls))))
        held = {one.sid: await inner.peek(one.sid) for one in [*initial, spare]}
        await store.close()
        return order, answers, held

    order, answers, held = asyncio.run(coalesced())
    expected: dict[Sid, Record | None] = {one.sid: one for one in initial} | {spare.sid: None}
    for n in order:
        for change, answer in zip(calls[n], answers[n], strict=True):
            written, outcome = reference.apply(expected[change.sid], change, NOW)
            expected[change.sid] = written or expected[change.sid]
            assert type(answer) is type(outcome)
            assert getattr(answer, "reason", None) == getattr(outcome, "reason", None)
    assert {sid: _essence(one) for sid, one in held.items()} == {sid: _essence(one) for sid, one in expected.items()}


def _call(step: Any, initial: list[Record], spare: Record) -> list[Change]:
    kind, at, key, value, _ = step
    sid = initial[at].sid
    match kind:
        case "put":
            return [put(sid, **{key: value})]
        case "remove":
            return [Update(sid=sid, id=reference.new_change_id(), remove=frozenset(key))]
        case "touch":
            return [touch(sid, NOW - value)]
        case "rotate":
            return [rotate(initial[at], **{key: value})]
        case "end":
            return [end(sid)]
        case "create":
            return [Create(spare)]
        case _:
            return [put(spare.sid, **{key: value}), end(sid)]


def _essence(one: Record | None) -> Any:
    """What does not count the number of writes."""
    if one is None:
        return None
    fields = msgspec.structs.asdict(one)
    del fields["rev"], fields["last_changes"]
    fields["data"] = json.loads(one.data)
    return fields
