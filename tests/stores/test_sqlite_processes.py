"""Several processes on one SQLite file: started together, writing together, killed, forked."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sessiondb.core import codec
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.sealing import GENESIS, digest, wrong_groups
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, Counter
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import Builders

PROCESS = Path(__file__).with_name("process.py")
LIMIT = 60


class Other:
    """A process that runs ``process.py``."""

    def __init__(self, command: str, database: Path, sid: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROCESS), command, str(database), sid],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill(self) -> str:
        """As ``kill -9``; what it still had said."""
        self.process.kill()
        assert self.process.stdout is not None
        rest = self.process.stdout.read()  # communicate() would not know of what has been read ahead
        self.process.communicate(timeout=LIMIT)
        return rest

    def ended_well(self) -> None:
        self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0


@contextmanager
def others(command: str, count: int, database: Path, sid: str = "") -> Iterator[list[Other]]:
    started = [Other(command, database, sid) for _ in range(count)]
    try:
        yield started
    finally:
        for one in started:
            if one.process.poll() is None:
                one.kill()


async def left_behind(database: Path) -> Record:
    """A session of a database that is closed again."""
    store = SQLiteStore(database)
    await store.open()
    record = Builders(time.time_ns() // 1000).record("ann")
    await store.apply([Builders(0).create(record)])
    await store.close()
    return record


async def data_of(database: Path, sid: str) -> dict[str, object]:
    store = SQLiteStore(database)
    await store.open()
    try:
        [record] = await store.load([sid])
        assert record is not None
        return codec.decode_data(record.data)
    finally:
        await store.close()


def test_ten_processes_that_start_at_once_on_no_file_at_all(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    with others("fresh", 10, database) as started:
        assert [one.line() for one in started] == ["ready"] * 10
        for one in started:
            one.go()
        sids = {one.line() for one in started}
        for one in started:
            one.ended_well()
    with sqlite3.connect(database) as connection:
        stored = {sid for (sid,) in connection.execute("SELECT sid FROM sessiondb_sessions")}
        assert connection.execute("SELECT count(*) FROM sessiondb_meta").fetchone() == (1,)
    connection.close()
    assert len(sids) == 10
    assert stored == sids


async def test_processes_that_write_one_session_lose_nothing_of_each_other(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    record = await left_behind(database)
    with others("some", 3, database, record.sid) as started:
        assert [one.line() for one in started] == ["ready"] * 3
        for one in started:
            one.go()
        assert [one.line() for one in started] == ["done"] * 3
        for one in started:
            one.ended_well()
        pids = [one.process.pid for one in started]
    assert (await data_of(database, record.sid)).keys() == {f"{pid}-{n}" for pid in pids for n in range(50)}


async def test_killed_in_the_middle_of_writing_all_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    record = await left_behind(database)
    acknowledged: set[str] = set()
    for lines in (1, 40, 200):
        with others("endless", 1, database, record.sid) as [other]:
            seen = [other.line() for _ in range(lines)]
            seen += other.kill().splitlines()
        acknowledged.update(seen)
        stored = await data_of(database, record.sid)
        assert acknowledged <= stored.keys()
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_killed_in_the_middle_of_logins_every_session_has_its_event_and_every_event_its_session(
    tmp_path: Path,
) -> None:
    database = tmp_path / "x.db"
    acknowledged: set[str] = set()
    for lines in (1, 30, random.randrange(300)):
        with others("log_in", 2, database) as killed:
            seen = [other.line() for _ in range(lines // 2) for other in killed]
            rest = [other.kill() for other in killed]
        acknowledged |= set(" ".join([*seen, *rest]).split())
    store = SQLiteStore(database)
    await store.open()
    events = await trail_of(store)
    with sqlite3.connect(database) as connection:
        sids = {sid for (sid,) in connection.execute("SELECT sid FROM sessiondb_sessions")}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    await store.close()
    assert acknowledged <= sids
    assert sorted(str(one.sid) for one in events) == sorted(sids)


async def trail_of(store: SQLiteStore) -> list[Event]:
    """All events; no stream has a gap, and each is the chain that was written."""
    found: list[Event] = []
    for stream in await store.streams():
        events = await store.trail(stream.name, 0, 100_000)
        head = GENESIS
        for seq, one in enumerate(events, 1):
            assert one.seal is not None
            assert (one.seal.seq, one.seal.previous, wrong_groups(one, one.seal)) == (seq, head, [])
            head = digest(one, one.seal)
        found += events
    return found


async def test_processes_that_count_the_same_keys_lose_nothing_of_each_other(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    with others("count", 3, database) as started:
        assert [one.line() for one in started] == ["ready"] * 3
        for one in started:
            one.go()
        assert [one.line() for one in started] == ["done"] * 3
        for one in started:
            one.ended_well()
        pids = [one.process.pid for one in started]
    store = SQLiteStore(database)
    await store.open()
    found = await store.profile("ann", [Counter("bucket", bytes([n])) for n in range(20)])
    await store.close()
    assert list(found.counts) == [150] * 20
    size = HISTORY_ENTRY_BYTES
    logins = [found.history[at : at + size] for at in range(0, len(found.history), size)]
    assert sorted(logins) == sorted([pid.to_bytes(8, "big") * 6 for pid in pids] * 3)


async def test_after_a_fork_the_child_opens_for_itself_and_the_parent_goes_on(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    store = SQLiteStore(database)
    await store.open()
    build = Builders(time.time_ns() // 1000)
    inherited, of_child, of_parent = (build.record("ann") for _ in range(3))
    await store.apply([build.create(inherited)])
    await store.load([inherited.sid])

    async def use_in_child() -> None:
        with pytest.raises(StoreUnavailable, match="not open in this process"):
            await store.load([inherited.sid])
        await store.open()
        assert await store.load([inherited.sid]) == [inherited]
        assert await store.apply([build.create(of_child)]) == [Applied(1)]
        await store.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: what servers with --preload do
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.set_event_loop(None)
            asyncio.events._set_running_loop(None)
            asyncio.run(use_in_child())
            code = 0
        finally:
            os._exit(code)
    assert await store.apply([build.create(of_parent)]) == [Applied(1)]
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await store.load([one.sid for one in (inherited, of_child, of_parent)]) == [inherited, of_child, of_parent]
    assert await store.apply([build.end(of_child)]) == [Applied(2)]
    await store.close()
