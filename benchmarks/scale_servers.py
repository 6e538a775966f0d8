"""The databases that are grown: started with the settings of one that loses nothing, relaxed while they are filled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from provision.mariadb import MariaDB
from provision.mongodb import MongoDB
from provision.postgresql import PostgreSQL
from provision.valkey import Valkey

GB = 1_000_000_000
LEFT_FREE = 3 * GB  # memory and disk that are not this program's to use


@dataclass(frozen=True)
class Used:
    """Bytes on the disk and, where all data is in memory, in memory."""

    disk: int
    memory: int | None = None


@dataclass(frozen=True)
class Target:
    """One kind of database.

    ``disk`` and ``memory``: bytes a session that are reckoned with before anything has been measured. ``filled`` and
    ``measured``: what is said about durability. ``relax(url, on)`` switches between the two, ``settle`` does what the
    server would do by itself in the minutes after a fill.
    """

    title: str
    disk: int
    memory: int
    filled: str
    measured: str
    start: Callable[[Path], Server]
    relax: Callable[[str, bool], Awaitable[None]]
    settle: Callable[[str], Awaitable[None]]
    used: Callable[[Server], Awaitable[Used]]


class Server:
    """A running database: ``url`` as it is measured, ``filling`` as it is filled, ``small`` the small one beside it."""

    def __init__(self, url: str, *, filling: str, small: str, running: Any = None, folder: Path) -> None:
        self.url = url
        self.filling = filling
        self.small = small
        self.folder = folder
        self._running = running

    def add(self, options: str) -> None:
        """Give the store these options in all URLs."""
        for name in ("url", "filling", "small"):
            url = getattr(self, name)
            if options:
                setattr(self, name, f"{url}{'&' if '?' in url else '?'}{options}")

    @property
    def pid(self) -> int | None:
        """The server's process; ``None`` where the database is in ours."""
        return None if self._running is None else int(self._running.process.pid)

    def stop(self) -> None:
        """Stop it, and remove all data."""
        if self._running is not None:
            self._running.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def missing_room(target: Target, size: int, disk: float, memory: float) -> str | None:
    """Why ``size`` sessions do not fit, as a sentence; ``disk`` and ``memory``: bytes a session."""
    for what, each, free in (
        ("disk space", disk, shutil.disk_usage(tempfile.gettempdir()).free),
        ("memory", memory, available_memory()),
    ):
        if each * size > free - LEFT_FREE:
            return (
                f"{target.title}: {size:,} sessions would take about {each * size / GB:.1f} GB of {what}, and "
                f"{free / GB:.1f} GB are free, of which {LEFT_FREE / GB:.0f} GB are left alone: they are left out."
            )
    return None


def available_memory() -> int:
    """Bytes that programs can still have without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo does not tell MemAvailable")


def _plain(url: str) -> str:
    """Without the options of the store, which no driver knows."""
    return url.partition("?")[0]


def bytes_in(folder: Path) -> int:
    """What the files in ``folder`` take on the disk."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # a server makes and removes files all the time
    return total


# -- SQLite --------------------------------------------------------------------------------------------------


def _sqlite(folder: Path) -> Server:
    url = f"sqlite:///{folder}/grown.db"
    return Server(url, filling=f"{url}?synchronous=normal", small=f"sqlite:///{folder}/small.db", folder=folder)


async def _nothing(url: str, on: bool = False) -> None:
    """It needs nothing."""


async def _sqlite_settle(url: str) -> None:
    import sqlite3

    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def _sqlite_used(server: Server) -> Used:
    return Used(sum(path.stat().st_size for path in server.folder.glob("grown.db*")))


# -- PostgreSQL ----------------------------------------------------------------------------------------------


def _postgresql(folder: Path) -> Server:
    settings = {"shared_buffers": "2GB", "max_wal_size": "4GB", "maintenance_work_mem": "256MB"}
    running = PostgreSQL(settings)
    url = running.url
    return Server(
        url, filling=f"{url}?synchronous_commit=off", small=f"{url}?prefix=small_", running=running, folder=folder
    )


async def _postgresql_settle(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def _postgresql_used(server: Server) -> Used:
    import asyncpg

    connection = await asyncpg.connect(_plain(server.url))
    size = await connection.fetchval("SELECT pg_database_size(current_database())")
    await connection.close()
    return Used(int(size))


# -- MariaDB -------------------------------------------------------------------------------------------------


def _mariadb(folder: Path) -> Server:
    running = MariaDB("--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G")
    url = running.url
    return Server(url, filling=url, small=f"{url}?prefix=small_", running=running, folder=folder)


async def _mysql(url: str, statement: str) -> None:
    import asyncmy

    parts = urlsplit(url)
    connection = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password=parts.password, db=parts.path[1:]
    )
    async with connection.cursor() as cursor:
        await cursor.execute(statement)
    connection.close()


async def _mariadb_relax(url: str, on: bool) -> None:
    await _mysql(url, f"SET GLOBAL innodb_flush_log_at_trx_commit = {0 if on else 1}")


async def _mariadb_settle(url: str) -> None:
    await _mysql(url, "ANALYZE TABLE sessiondb_sessions")


async def _mariadb_used(server: Server) -> Used:
    return Used(bytes_in(server._running.process.folder / "data" / "sessiondb"))


# -- Valkey --------------------------------------------------------------------------------------------------


def _valkey(folder: Path, *options: str) -> Server:
    # A rewrite of the log forks, which the figures of one round would show and those of the next would not.
    running = Valkey("--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", *options)
    url = running.url
    return Server(url, filling=url, small=f"{url}?prefix=small:", running=running, folder=folder)


def _valkey_packed(folder: Path) -> Server:
    # A hash with one value above this is no list of bytes any more, but a table of pointers.
    return _valkey(folder, "--hash-max-listpack-value", "1024")


async def _valkey_relax(url: str, on: bool) -> None:
    from provision.valkey import ask

    ask(urlsplit(url).port or 6379, "CONFIG", "SET", "appendfsync", "no" if on else "always")


async def _valkey_used(server: Server) -> Used:
    from provision.valkey import ask

    told = ask(urlsplit(server.url).port or 6379, "INFO", "memory")
    memory = int(told.partition("used_memory:")[2].split()[0])
    return Used(bytes_in(server._running.process.folder), memory)


# -- MongoDB -------------------------------------------------------------------------------------------------


def _mongodb(folder: Path) -> Server:
    running = MongoDB()
    url = running.url
    return Server(url, filling=url, small=f"{url}?prefix=small_", running=running, folder=folder)


async def _mongodb_used(server: Server) -> Used:
    return Used(bytes_in(server._running.folder / "data"))


TARGETS = {
    "sqlite": Target(
        "SQLite", 1200, 0, "synchronous=NORMAL", "synchronous=FULL", _sqlite, _nothing, _sqlite_settle, _sqlite_used
    ),
    "postgresql": Target(
        "PostgreSQL",
        2000,
        0,
        "synchronous_commit=off",
        "synchronous_commit=on, shared_buffers=2GB",
        _postgresql,
        _nothing,
        _postgresql_settle,
        _postgresql_used,
    ),
    "mysql": Target(
        "MariaDB",
        2000,
        0,
        "innodb_flush_log_at_trx_commit=0",
        "innodb_flush_log_at_trx_commit=1, buffer pool of 2 GB",
        _mariadb,
        _mariadb_relax,
        _mariadb_settle,
        _mariadb_used,
    ),
    "redis": Target(
        "Valkey",
        3000,
        2300,
        "appendfsync=no",
        "appendonly, appendfsync=always",
        _valkey,
        _valkey_relax,
        _nothing,
        _valkey_used,
    ),
    "redis-packed": Target(
        "Valkey, packed",
        3000,
        1400,
        "appendfsync=no",
        "appendonly, appendfsync=always, hash-max-listpack-value=1024",
        _valkey_packed,
        _valkey_relax,
        _nothing,
        _valkey_used,
    ),
    "mongodb": Target(
        "MongoDB", 3000, 0, "as it is measured", "w=majority", _mongodb, _nothing, _nothing, _mongodb_used
    ),
}
