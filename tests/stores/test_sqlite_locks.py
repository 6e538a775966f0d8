"""A writer of SQLite waits for other processes: it looks again soon, for as long as the busy timeout, and no longer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreUnavailable
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import Builders
from sessiondb.testing.clock import ManualClock


@asynccontextmanager
async def locked(folder: Path, busy_timeout: float) -> AsyncIterator[tuple[SQLiteStore, Builders, sqlite3.Connection]]:
    """A store on a file, and a connection that writes to it for now."""
    clock = ManualClock()
    store = SQLiteStore(folder / "x.db", clock=clock, busy_timeout=busy_timeout)
    await store.open()
    other = sqlite3.connect(store.path, isolation_level=None)
    try:
        yield store, Builders(clock.now), other
    finally:
        other.close()
        await store.close()


@pytest.mark.parametrize("alone", [True, False])
async def test_who_waits_for_another_writer_looks_again_and_again(tmp_path: Path, alone: bool) -> None:
    """SQLite by itself looks ever less often, up to 100 ms apart, and sleeps while the others come and go."""
    async with locked(tmp_path, 60) as (store, build, other):
        record = build.record("ann", {"n": 1})
        assert isinstance((await store.apply([build.create(record)]))[0], Applied)
        begun: list[str] = []

        def look(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(lambda sql: begun.append(sql) if "BEGIN" in sql or "UPDATE" in sql else None)

        await store.writer.run(look)
        begun.clear()
        other.execute("BEGIN IMMEDIATE")
        # One ordinary delta is a statement by itself; anything else, and several, are a transaction.
        events = () if alone else (build.event(),)
        write = asyncio.ensure_future(store.apply([build.update(record, {"n": 2}, seen=True)], events))
        async with asyncio.timeout(30):
            while len(begun) < 6:
                await asyncio.sleep(0.001)
        assert not write.done()
        assert all(sql.startswith("UPDATE" if alone else "BEGIN") for sql in begun)
        other.execute("ROLLBACK")
        assert await write == [Applied(2)]
        [stored] = await store.load([record.sid])
        assert stored is not None
        assert (stored.rev, stored.data) == (2, b'{"n":2}')


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("busy_timeout", [0, 0.003, 0.05])
async def test_a_lock_that_lasts_ends_in_an_error_and_nothing_is_written(
    tmp_path: Path, busy_timeout: float, alone: bool
) -> None:
    async with locked(tmp_path, busy_timeout) as (store, build, other):
        record = build.record("ann", {"n": 1})
        await store.apply([build.create(record)])
        other.execute("BEGIN IMMEDIATE")
        events = () if alone else (build.event(),)
        with pytest.raises(StoreUnavailable, match="longer than the busy timeout") as found:
            await store.apply([build.update(record, {"n": 2}, seen=True)], events)
        assert found.value.outcome == "not_applied"
        other.execute("ROLLBACK")
        [stored] = await store.load([record.sid])
        assert stored is not None
        assert stored.rev == 1
        # And the store goes on.
        assert await store.apply([build.update(record, {"n": 3}, seen=True)], events) == [Applied(2)]
