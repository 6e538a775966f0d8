"""The SQLite file: where it is, who may read it, what is refused, and what happens when it is swapped or old."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from sessiondb.core.change import Applied
from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.stores import _sqlite_threads
from sessiondb.stores._sqlite_schema import SCHEMA_VERSION
from sessiondb.stores.base import EventQuery, open_store
from sessiondb.stores.sqlite import SQLiteStore, sqlite_from_url
from sessiondb.testing.builders import Builders
from sessiondb.testing.clock import ManualClock

README = Path(__file__).parents[2] / "README.md"


@asynccontextmanager
async def opened(path: Path, **settings: Any) -> AsyncIterator[tuple[SQLiteStore, Builders]]:
    clock = ManualClock(time.time_ns() // 1000)
    store = SQLiteStore(path, clock=clock, **settings)
    await store.open()
    try:
        yield store, Builders(clock.now)
    finally:
        await store.close()


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# -- where and for whom ---------------------------------------------------------------------------------------


async def test_only_its_owner_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    with umask(0):
        async with opened(tmp_path / "sessions.db") as (store, build):
            await store.apply([build.create(build.record("ann"))])
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}


async def test_the_mode_that_its_owner_gave_it_is_kept(tmp_path: Path) -> None:
    database = tmp_path / "sessions.db"
    database.touch(0o640)
    database.chmod(0o640)
    async with opened(database):
        pass
    assert stat.S_IMODE(database.stat().st_mode) == 0o640


async def test_closing_leaves_one_file_that_can_be_copied(tmp_path: Path) -> None:
    async with opened(tmp_path / "sessions.db") as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
    assert [file.name for file in tmp_path.iterdir()] == ["sessions.db"]
    (tmp_path / "sessions.db").rename(tmp_path / "copy.db")
    async with opened(tmp_path / "copy.db") as (store, _):
        assert await store.load([record.sid]) == [record]


@pytest.mark.parametrize("name", ["with space.db", "ünï😀.db", "100%.db", "a?b.db", "a#b.db", "a'b\".db", "-x.db"])
async def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    store = sqlite_from_url(f"sqlite:///{quote(str(tmp_path / name))}")
    await store.open()
    await store.close()
    assert [file.name for file in tmp_path.iterdir()] == [name]


async def test_a_relative_path_is_that_of_the_start_not_of_a_later_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///sessions.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.open()
    await store.close()
    assert (tmp_path / "sessions.db").is_file()


async def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "disk" / "real.db")
    async with opened(tmp_path / "disk" / "real.db") as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
    async with opened(tmp_path / "link.db") as (store, _):
        assert await store.load([record.sid]) == [record]


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("sqlite://sessions.db", "sqlite:///sessions.db"),
        ("sqlite://host/sessions.db", "three slashes"),
        ("sqlite://", "not a path"),
        ("sqlite:///", "not a path"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///file:x?mode=ro", "option 'mode'"),
        ("sqlite:///file:x", "not a path"),
        ("sqlite:///a%00b", "not a path"),
        ("sqlite:///x.db?timeout=3", "busy_timeout"),
        ("sqlite:///x.db?busy_timeout=soon", "number of seconds"),
        ("sqlite:///x.db?busy_timeout=-1", "0 to 60"),
        ("sqlite:///x.db?busy_timeout=61", "0 to 60"),
        ("sqlite:///x.db?busy_timeout=nan", "0 to 60"),
        ("sqlite:///x.db?busy_timeout=", "number of seconds"),
        ("sqlite:///x.db?synchronous=off", "'full'"),
        ("sqlite:///x.db?synchronous=", "'full'"),
        ("sqlite:///x.db?prefix=", "letters"),
        ("sqlite:///x.db?prefix=1a", "letters"),
        ("sqlite:///x.db?prefix=a;drop", "letters"),
        ("sqlite:///x.db?prefix=a%0A", "letters"),
        ("sqlite:///x.db?prefix=" + "a" * 33, "32"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_cure(url: str, cure: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(cure)):
        sqlite_from_url(url)


def test_all_options_are_taken_from_the_url(tmp_path: Path) -> None:
    store = sqlite_from_url(f"sqlite:///{tmp_path}/x.db?synchronous=normal&prefix=app_&busy_timeout=0.5")
    assert store.path == f"{tmp_path}/x.db"


@pytest.mark.parametrize("synchronous", ["NORMAL", "full", "Extra"])
async def test_the_durability_that_was_asked_for_is_what_sqlite_does(tmp_path: Path, synchronous: str) -> None:
    levels = {"normal": 1, "full": 2, "extra": 3}
    async with opened(tmp_path / "x.db", synchronous=synchronous) as (store, _):
        level = await store.writer.run(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0])
        assert level == levels[synchronous.lower()]
        mode = await store.writer.run(lambda connection: connection.execute("PRAGMA journal_mode").fetchone()[0])
        assert mode == "wal"


async def test_what_was_acknowledged_is_synced_by_default(tmp_path: Path) -> None:
    async with opened(tmp_path / "x.db") as (store, _):
        assert await store.writer.run(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]) == 2


async def test_a_missing_folder_and_a_folder_are_refused_on_opening(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"mkdir -p {tmp_path}/missing"):
        await SQLiteStore(tmp_path / "missing" / "x.db").open()
    with pytest.raises(ConfigurationError, match="is a folder"):
        await SQLiteStore(tmp_path).open()


async def test_tables_of_a_newer_sessiondb_are_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    async with opened(database) as (store, build):
        await store.apply([build.create(build.record("ann"))])
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE sessiondb_meta SET value = ? WHERE key = 'schema_version'", (SCHEMA_VERSION + 1,))
    connection.close()
    before = database.read_bytes()
    with pytest.raises(ConfigurationError, match=f"version {SCHEMA_VERSION + 1}.*Install"):
        await SQLiteStore(database).open()
    assert database.read_bytes() == before


@pytest.mark.security("S2")
async def test_two_prefixes_in_one_file_do_not_meet_and_other_tables_are_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE sessions (mine TEXT)")
        connection.execute("INSERT INTO sessions VALUES ('still here')")
    connection.close()
    async with opened(database) as (first, build), opened(database, prefix="other_") as (second, _):
        record = build.record("ann")
        await first.apply([build.create(record)], [build.event()])
        assert await second.load([record.sid]) == [None]
        assert await second.apply([build.create(record)]) == [Applied(1)]
        await second.apply([build.end(record)])
        assert await first.load([record.sid]) == [record]
        assert (await second.events(EventQuery())).events == []
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT * FROM sessions").fetchall() == [("still here",)]
    connection.close()


async def test_a_table_without_a_column_stops_the_start(tmp_path: Path) -> None:
    """What is to be run is in the message, and helps."""
    database = tmp_path / "x.db"
    async with opened(database):
        pass
    repair = "ALTER TABLE sessiondb_sessions ADD COLUMN purge_at INTEGER;"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("ALTER TABLE sessiondb_sessions DROP COLUMN purge_at")
    told = re.escape(f"sessiondb_sessions.purge_at is missing. Run: {repair}")
    with pytest.raises(ConfigurationError, match=told):
        await SQLiteStore(database).open()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(repair)
    async with opened(database) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
        assert await store.apply([build.end(record)]) == [Applied(2)]


# -- swapped under way ----------------------------------------------------------------------------------------


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_threads, "LOOK_AT_FILE_EVERY", 0.0)


@pytest.mark.usefixtures("looks_always")
async def test_a_file_that_was_deleted_is_made_anew_so_nothing_is_written_into_the_void(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    async with opened(database) as (store, build):
        lost, kept = build.record("ann"), build.record("bob")
        await store.apply([build.create(lost)])
        assert await store.load([lost.sid]) == [lost]
        for file in tmp_path.iterdir():
            file.unlink()
        assert await store.apply([build.create(kept)]) == [Applied(1)]
        assert await store.load([lost.sid, kept.sid]) == [None, kept]
    async with opened(database) as (store, _):
        assert await store.load([kept.sid]) == [kept]


@pytest.mark.usefixtures("looks_always")
async def test_a_backup_that_was_put_in_its_place_is_used(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    async with opened(database) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
    backup = database.read_bytes()
    async with opened(database) as (store, build):
        await store.apply([build.end(record)])
        assert (await store.load([record.sid]))[0] != record
        for file in tmp_path.iterdir():
            file.unlink()
        (tmp_path / "restored").write_bytes(backup)
        (tmp_path / "restored").rename(database)
        assert await store.load([record.sid]) == [record]


@pytest.mark.parametrize("lost", ["sessions", "links", "users", "events", "meta"])
async def test_a_lost_table_is_told_and_made_anew(tmp_path: Path, lost: str) -> None:
    database = tmp_path / "x.db"
    async with opened(database) as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)], [build.event()])
        with sqlite3.connect(database) as connection:
            connection.execute(f"DROP TABLE sessiondb_{lost}")
        connection.close()

        async def use() -> None:
            await store.apply([build.create(build.record("ann"), [bytes(16)])], [build.event()])
            await store.admit(build.login(build.record("ann")))
            await store.sweep(build.cutoffs(worker="me"), 10)

        if lost == "users":
            with pytest.raises(StoreUnavailable, match="has lost tables"):
                await store.admit(build.login(record))
        else:
            with pytest.raises(StoreUnavailable, match="has lost tables"):
                await use()
        await use()


# -- for people -----------------------------------------------------------------------------------------------


def selects() -> list[str]:
    """The statements in the README."""
    blocks = re.findall(r"```sql\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    return [one.strip() for block in blocks for one in block.split(";") if "SELECT" in one]


async def test_the_selects_of_the_readme_find_what_they_say(tmp_path: Path) -> None:
    assert len(selects()) >= 3
    database = tmp_path / "x.db"
    async with opened(database) as (store, build):
        ann = build.record("ann", {"cart": ["tea", "jam"]}, client_last=b'{"ip":"192.0.2.1"}')
        old = build.record("ann", {"cart": []})
        await store.apply([build.create(ann), build.create(old), build.create(build.record(data={"cart": ["tea"]}))])
        await store.apply([build.end(old)], [build.event(sid=ann.sid, user_id="ann", ip="192.0.2.1")])
        await store.apply([build.update(ann, {"n": 1}, seen=True)])
        with sqlite3.connect(database) as connection:
            for statement in selects():
                rows = connection.execute(statement).fetchall()
                assert rows, statement
                assert old.sid not in str(rows)
        connection.close()


@pytest.mark.security("T3")
async def test_no_column_of_the_table_holds_what_opens_a_session(tmp_path: Path) -> None:
    async with opened(tmp_path / "x.db") as (store, build):
        record = build.record("ann")
        await store.apply([build.create(record)])
        rotate, fresh = build.rotation(record)
        assert await store.apply([build.update(record, rotate=rotate)]) == [Applied(2)]
        held = build.token(record.sid)
        stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    stored += (tmp_path / "x.db").read_bytes()
    assert record.sid.encode() in stored
    for secret in (held.secret, held.series, fresh.secret):
        assert secret not in stored
        assert secret.hex().encode() not in stored
    for issued in (held, fresh):
        for part in issued.encode().split(".")[1:]:
            assert part.encode() not in stored
