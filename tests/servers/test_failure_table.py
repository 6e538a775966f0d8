"""What fails without a request to tell, on SQLite: revokes, limits, touches, closing, and rows that were spoilt."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest
from disks import locked

from sessiondb import EndReason, Policy, SessionDB, StoreUnavailable
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing import ManualClock

MINUTE = 60.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
async def db(clock: ManualClock, database: Path) -> AsyncIterator[SessionDB]:
    """It gives up on a lock at once, and writes touches when it is told to."""
    store = SQLiteStore(database, busy_timeout=0, clock=clock)
    with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
        async with SessionDB(store, policy=Policy(per_user=1), clock=clock, sweep_every=None, timeout=60) as db:
            yield db


def last_seen_at(database: Path) -> int:
    """What the row says."""
    connection = sqlite3.connect(database)
    [(seen,)] = connection.execute("SELECT last_seen_at FROM sessiondb_sessions").fetchall()
    connection.close()
    return int(seen)


async def test_a_revoke_that_cannot_be_written_raises_and_ends_nothing(db: SessionDB, database: Path) -> None:
    issued = await db.create("ann")
    with locked(database):
        for revoke in (lambda: db.revoke(issued.session.sid), lambda: db.revoke_all("ann"), lambda: db.sweep()):
            with pytest.raises(StoreUnavailable, match="locked"):
                await revoke()
        assert [one.sid for one in await db.sessions_of("ann")] == [issued.session.sid]
    assert await db.revoke_all("ann") == 1


async def test_a_limit_that_cannot_be_enforced_raises_and_admits_nobody(db: SessionDB, database: Path) -> None:
    first = await db.create("ann")
    # The session is written; then, before it is admitted, the file is somebody else's.
    admit = SQLiteStore.admit

    async def too_late(store: SQLiteStore, *arguments: object) -> object:
        with locked(database):
            return await admit(store, *arguments)  # type: ignore[arg-type]

    with mock.patch.object(SQLiteStore, "admit", too_late), pytest.raises(StoreUnavailable, match="locked"):
        await db.create("ann")
    # Nobody was given its token; its end was written down and lands with the next batch.
    await db.runtime.background.flush()
    assert [one.sid for one in await db.sessions_of("ann")] == [first.session.sid]


async def test_a_touch_that_cannot_be_written_is_written_with_the_next_batch(
    db: SessionDB, database: Path, clock: ManualClock
) -> None:
    issued = await db.create("ann")
    clock.advance(2 * MINUTE)
    with locked(database):
        async with db.session(issued.token) as session:
            assert session.user_id == "ann"
        await db.runtime.background.flush()
        assert db.counters["background_write_failures"] == 1
        assert last_seen_at(database) == issued.session.created_at
    await db.runtime.background.flush()
    assert last_seen_at(database) == clock.now


async def test_closing_writes_the_touches_that_wait(db: SessionDB, database: Path, clock: ManualClock) -> None:
    issued = await db.create("ann")
    clock.advance(2 * MINUTE)
    async with db.session(issued.token):
        pass
    assert last_seen_at(database) == issued.session.created_at
    await db.close()
    assert last_seen_at(database) == clock.now


@pytest.mark.parametrize("data", ["{broken", "[]", '{"a": NaN}', '{"a": 1e999}', b"\xff", ""])
async def test_a_row_that_somebody_has_spoilt_is_quarantined(db: SessionDB, database: Path, data: str | bytes) -> None:
    issued = await db.create("ann", {"cart": ["tea"]})
    connection = sqlite3.connect(database)
    connection.execute("UPDATE sessiondb_sessions SET data = ?", (data,))
    connection.commit()
    connection.close()
    async with db.session(issued.token) as session:
        assert (session.user_id, dict(session)) == (None, {})
    [event] = (await db.events(type="session_quarantined")).events
    assert event.sid == issued.session.sid
    # It is still its owner's, who may end it.
    assert [(one.sid, one.data) for one in await db.sessions_of("ann")] == [(issued.session.sid, {})]
    assert await db.revoke(issued.session.sid)
    ended = await db.get(issued.session.sid)
    assert ended is not None
    assert ended.end_reason == EndReason.REVOKED


@pytest.mark.parametrize("column", ["created_at", "last_seen_at", "idle", "absolute", "rev"])
async def test_a_row_without_a_deadline_cannot_be_made(db: SessionDB, database: Path, column: str) -> None:
    """It would stop the sweeper, and the lists and logins of its user."""
    await db.create("ann")
    connection = sqlite3.connect(database)
    with pytest.raises(sqlite3.IntegrityError, match="sessiondb_sessions_integers"):
        connection.execute(f"UPDATE sessiondb_sessions SET {column} = 'soon'")
    connection.close()
