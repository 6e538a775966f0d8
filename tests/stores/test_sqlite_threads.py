"""The threads of the SQLite store: what is done together, on whose thread, for which loop, and what they leave."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreUnavailable
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores import _sqlite_threads
from sessiondb.stores._sqlite_threads import Worker
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import Builders
from sessiondb.testing.clock import ManualClock

OURS = ("sessiondb-sqlite-writer", "sessiondb-sqlite-reader")


def our_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name in OURS]


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[tuple[SQLiteStore, Builders]]:
    clock = ManualClock()
    store = SQLiteStore(folder / "x.db", clock=clock, **settings)
    await store.open()
    try:
        yield store, Builders(clock.now)
    finally:
        await store.close()


class Held:
    """Keeps a worker's thread busy until it is let go."""

    def __init__(self, worker: Worker) -> None:
        self._go_on = threading.Event()
        self._begun = threading.Event()
        self._work = asyncio.ensure_future(worker.run(self._wait))

    def _wait(self, connection: sqlite3.Connection) -> None:
        self._begun.set()
        assert self._go_on.wait(30)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 30)

    async def let_go(self) -> None:
        self._go_on.set()
        await self._work


# -- group commit ---------------------------------------------------------------------------------------------


async def test_what_waits_while_one_transaction_runs_is_the_next_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):
        held = Held(store.writer)
        await held.begun()
        groups = store.writer.groups
        records = [build.record("ann") for _ in range(200)]
        waiting = [asyncio.ensure_future(store.apply([build.create(one)])) for one in records]
        await asyncio.sleep(0)
        await held.let_go()
        assert await asyncio.gather(*waiting) == [[Applied(1)]] * 200
        assert store.writer.groups == groups + 1
        assert await store.load([one.sid for one in records]) == records


async def test_work_that_fails_outside_a_transaction_is_tried_in_one_and_ends_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):

        def fail(connection: sqlite3.Connection) -> int:
            raise TypeError("nobody has thought of this")

        assert await store.writer.run(lambda connection: 1, alone=fail) == 1
        with pytest.raises(TypeError, match="nobody has thought"):
            await store.writer.run(fail, alone=fail)
        # The thread goes on.
        assert await store.apply([build.create(build.record("ann"))]) == [Applied(1)]


async def test_one_bad_piece_of_work_fails_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):
        held = Held(store.writer)
        await held.begun()

        def bad(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO sessiondb_meta VALUES ('half', 'done')")
            raise ZeroDivisionError

        records = [build.record("ann") for _ in range(3)]
        good = [asyncio.ensure_future(store.apply([build.create(one)])) for one in records[:2]]
        broken = asyncio.ensure_future(store.writer.run(bad))
        good.append(asyncio.ensure_future(store.apply([build.create(records[2])])))
        await asyncio.sleep(0)
        await held.let_go()
        assert await asyncio.gather(*good) == [[Applied(1)]] * 3
        with pytest.raises(ZeroDivisionError):
            await broken
        left = await store.writer.run(
            lambda connection: connection.execute("SELECT count(*) FROM sessiondb_meta WHERE key = 'half'").fetchone()
        )
        assert left == (0,)


async def test_what_is_no_transaction_is_done_after_those_that_wait_and_fails_alone(tmp_path: Path) -> None:
    async with opened(tmp_path, busy_timeout=0.05) as (store, build):
        held = Held(store.writer)
        await held.begun()
        in_transaction: list[bool] = []
        sessions: list[int] = []

        def look(connection: sqlite3.Connection) -> int:
            in_transaction.append(connection.in_transaction)
            sessions.append(connection.execute("SELECT count(*) FROM sessiondb_sessions").fetchone()[0])
            return len(sessions)

        def bad(connection: sqlite3.Connection) -> None:
            raise ZeroDivisionError

        def locked(connection: sqlite3.Connection) -> None:
            error = sqlite3.OperationalError("busy")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error

        def lost(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT * FROM nowhere")

        works = (look, bad, locked, lost, look)
        outside = [asyncio.ensure_future(store.writer.run(work, outside=True)) for work in works]
        inside = [asyncio.ensure_future(store.apply([build.create(build.record("ann"))])) for _ in range(3)]
        await asyncio.sleep(0)
        await held.let_go()
        assert await asyncio.gather(*inside) == [[Applied(1)]] * 3
        assert await outside[0] == 1
        with pytest.raises(ZeroDivisionError):
            await outside[1]
        for failed, cure in ((outside[2], "longer than the busy timeout"), (outside[3], "has lost tables")):
            with pytest.raises(StoreUnavailable, match=cure) as caught:
                await failed
            assert caught.value.outcome == "unknown"
        assert await outside[4] == 2
        assert (in_transaction, sessions) == ([False, False], [3, 3])


async def test_hundreds_of_cancelled_callers_harm_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):
        held = Held(store.writer)
        await held.begun()
        records = [build.record("ann") for _ in range(600)]
        waiting = [asyncio.ensure_future(store.apply([build.create(one)])) for one in records]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        await asyncio.sleep(0)
        await held.let_go()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert results[1::2] == [[Applied(1)]] * 300
        assert all(isinstance(one, asyncio.CancelledError) for one in results[::2])
        # What nobody waited for any more was not begun.
        found = await store.load([one.sid for one in records])
        assert [one is not None for one in found] == [False, True] * 300


async def test_a_caller_that_is_cancelled_while_its_work_runs_leaves_it_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):
        begun, go_on = threading.Event(), threading.Event()
        record = build.record("ann")

        def work(connection: sqlite3.Connection) -> None:
            begun.set()
            assert go_on.wait(30)
            connection.execute("INSERT INTO sessiondb_meta VALUES ('whole', 'yes')")

        task = asyncio.ensure_future(store.writer.run(work))
        assert await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.apply([build.create(record)]) == [Applied(1)]
        rows = await store.writer.run(
            lambda connection: connection.execute("SELECT value FROM sessiondb_meta WHERE key = 'whole'").fetchall()
        )
        assert rows == [("yes",)]


async def test_events_and_changes_are_one_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
        with sqlite3.connect(tmp_path / "x.db") as other:
            other.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON sessiondb_events BEGIN SELECT raise(ABORT, 'no events'); END"
            )
        other.close()
        with pytest.raises(StoreUnavailable) as raised:
            await store.apply([build.update(record, {"a": 1}, seen=True)], [build.event()])
        assert raised.value.outcome == "not_applied"
        assert await store.load([record.sid]) == [record]


# -- reads on the spot ----------------------------------------------------------------------------------------


class Spy:
    """Which thread each load ran on."""

    def __init__(self, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[str] = []
        self.before: Callable[[], None] = lambda: None
        load = store._rows.load

        def spied(connection: sqlite3.Connection, sids: Any) -> dict[str, Record]:
            self.threads.append(threading.current_thread().name)
            self.before()
            return load(connection, sids)

        monkeypatch.setattr(store._rows, "load", spied)

    def seen(self) -> list[str]:
        seen, self.threads = self.threads, []
        return seen


MAIN, READER = "MainThread", "sessiondb-sqlite-reader"


async def read(store: SQLiteStore, sid: Sid) -> list[Record | None]:
    """``load`` when the thread is at rest: it answers a moment before it lets go of the connection."""
    while store._reader._in_use.locked():
        await asyncio.sleep(0)
    return await store.load([sid])


async def test_a_short_read_is_done_on_the_spot_once_the_file_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
        spy = Spy(store, monkeypatch)
        monkeypatch.setattr(_sqlite_threads, "SLOW", 60.0)
        monkeypatch.setattr(_sqlite_threads, "LOOK_AT_FILE_EVERY", 60.0)
        for expected in ([READER], [MAIN], [MAIN]):
            assert await read(store, record.sid) == [record]
            assert spy.seen() == expected
        monkeypatch.setattr(_sqlite_threads, "LOOK_AT_FILE_EVERY", 0.0)
        assert await read(store, record.sid) == [record]
        assert spy.seen() == [READER]


async def test_after_a_slow_read_the_thread_reads_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
        spy = Spy(store, monkeypatch)
        monkeypatch.setattr(_sqlite_threads, "SLOW", 60.0)
        monkeypatch.setattr(_sqlite_threads, "LOOK_AT_FILE_EVERY", 60.0)
        await read(store, record.sid)
        monkeypatch.setattr(_sqlite_threads, "SLOW", -1.0)  # any read is slow
        monkeypatch.setattr(_sqlite_threads, "PAUSE", 60.0)
        await read(store, record.sid)
        assert spy.seen() == [READER, MAIN]
        for _ in range(3):
            assert await read(store, record.sid) == [record]
        assert spy.seen() == [READER] * 3


async def test_a_read_goes_to_the_thread_while_that_is_at_work_and_when_sqlite_complains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
        monkeypatch.setattr(_sqlite_threads, "SLOW", 60.0)
        monkeypatch.setattr(_sqlite_threads, "LOOK_AT_FILE_EVERY", 60.0)
        await store.load([record.sid])
        spy = Spy(store, monkeypatch)
        held = Held(store._reader)
        await held.begun()
        waiting = asyncio.ensure_future(store.load([record.sid]))
        await asyncio.sleep(0)
        assert spy.seen() == []
        await held.let_go()
        assert await waiting == [record]
        assert spy.seen() == [READER]

        def once() -> None:
            spy.before = lambda: None
            raise sqlite3.OperationalError("something rare")

        spy.before = once
        assert await read(store, record.sid) == [record]
        assert spy.seen() == [MAIN, READER]


async def test_an_exclusive_lock_is_waited_for_by_the_thread_and_not_by_the_loop(tmp_path: Path) -> None:
    async with opened(tmp_path, busy_timeout=30) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
        assert await store.load([record.sid]) == [record]
    # Rollback-journal mode is where a writer shuts readers out; a database left in it is switched on opening.
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None, check_same_thread=False)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN EXCLUSIVE")
    store = SQLiteStore(tmp_path / "x.db", busy_timeout=30)
    opening = asyncio.ensure_future(store.open())
    turns = 0
    started = time.monotonic()
    while time.monotonic() < started + 0.2:
        await asyncio.sleep(0)
        turns += 1
    assert not opening.done()
    assert turns > 100
    other.execute("ROLLBACK")
    other.close()
    await opening
    assert await store.load([record.sid]) == [record]
    await store.close()


# -- life -----------------------------------------------------------------------------------------------------


async def test_it_closes_when_as_often_closed_as_opened_and_leaves_no_thread(tmp_path: Path) -> None:
    before = len(our_threads())
    store = SQLiteStore(tmp_path / "x.db")
    build = Builders(time.time_ns() // 1000)
    record = build.record("ann")
    for _ in range(3):
        await store.open()
    await store.apply([build.create(record)])
    await store.load([record.sid])
    assert len(our_threads()) == before + 2
    for _ in range(2):
        await store.close()
        assert await store.load([record.sid]) == [record]
    await store.close()
    await store.close()
    assert len(our_threads()) == before
    for call in (
        store.load([record.sid]),
        store.apply([build.end(record)]),
        store.find(build.query()),
        store.append([]),
        store.clock(),
        store.stats(),
    ):
        with pytest.raises(StoreUnavailable, match="is not open"):
            await call
    await store.open()
    assert await store.load([record.sid]) == [record]
    await store.close()


async def test_making_a_store_touches_no_disk_and_starts_no_thread(tmp_path: Path) -> None:
    before = len(our_threads())
    SQLiteStore(tmp_path / "x.db")
    assert list(tmp_path.iterdir()) == []
    assert len(our_threads()) == before


async def test_what_waits_when_it_is_closed_is_done(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):
        records = [build.record("ann") for _ in range(50)]
        waiting = [asyncio.ensure_future(store.apply([build.create(one)])) for one in records]
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting) == [[Applied(1)]] * 50
    async with opened(tmp_path) as (store, _):
        assert await store.load([one.sid for one in records]) == records


async def test_event_loops_in_several_threads_use_one_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "x.db")
    build = Builders(time.time_ns() // 1000)
    shared = build.record("ann", {"n": 0})
    await store.open()
    await store.apply([build.create(shared)])

    async def work(number: int) -> list[Record | None]:
        await store.open()
        try:
            own = [build.record(f"user{number}") for _ in range(20)]
            results = await asyncio.gather(
                *(store.apply([build.create(one)]) for one in own),
                *(store.apply([build.update(shared, {f"{number}-{n}": n})]) for n in range(20)),
            )
            assert all(isinstance(one, Applied) for result in results for one in result)
            return await store.load([one.sid for one in own])
        finally:
            await store.close()

    found = await asyncio.gather(*(asyncio.to_thread(lambda n=n: asyncio.run(work(n))) for n in range(6)))
    assert all(one is not None for records in found for one in records)
    [after] = await store.load([shared.sid])
    assert after is not None
    assert after.rev == 121
    await store.close()


async def test_a_loop_that_is_gone_when_its_answer_comes_does_no_harm(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, build):
        record = build.record("ann")
        held = Held(store.writer)
        await held.begun()

        async def ask_and_leave() -> None:
            asyncio.ensure_future(store.apply([build.create(record)]))  # noqa: RUF006
            await asyncio.sleep(0)

        def elsewhere() -> None:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(ask_and_leave())
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()

        await asyncio.to_thread(elsewhere)
        await held.let_go()
        other = build.record("bob")
        assert await store.apply([build.create(other)]) == [Applied(1)]
        # The request was there in full: it was done, though nobody is left to hear of it.
        assert await store.load([record.sid, other.sid]) == [record, other]


async def test_a_store_and_its_callers_are_let_go(tmp_path: Path) -> None:
    class Marked:
        pass

    async with opened(tmp_path) as (store, _):
        marked = Marked()
        gone = weakref.ref(marked)

        async def caller(held: Marked) -> None:
            await store.writer.run(lambda connection: connection.execute("SELECT 1").fetchone())
            await store._reader.run(lambda connection: held and connection.execute("SELECT 1").fetchone())

        await caller(marked)
        # A second round, after which nothing of the first may be kept by the thread that waits for the third.
        await store._reader.run(lambda connection: None)
        del marked
        gc.collect()
        assert gone() is None


async def test_an_opening_that_is_given_up_leaves_nobody_at_work_on_the_file(tmp_path: Path) -> None:
    """Who removes the file then must not find it made again."""
    store = SQLiteStore(tmp_path / "sessions.db")
    begun, go_on, connect = threading.Event(), threading.Event(), SQLiteStore._connect

    def slowly(self: SQLiteStore) -> sqlite3.Connection:
        begun.set()
        assert go_on.wait(10)
        return connect(self)

    store.writer._connect = slowly.__get__(store)
    opening = asyncio.create_task(store.open())
    assert await asyncio.to_thread(begun.wait, 10)
    thread = store.writer._thread
    assert thread is not None
    threading.Timer(0.1, go_on.set).start()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for file in tmp_path.iterdir():
        file.unlink()
    assert not thread.is_alive()
    assert store.writer._thread is None
    await store.open()
    await store.close()
