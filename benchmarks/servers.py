"""The databases that are compared: each with the settings of a server that must not lose what it has answered."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cpu, drivers
from provision.mariadb import MariaDB
from provision.mongodb import MongoDB
from provision.postgresql import PostgreSQL
from provision.process import NotHere
from provision.valkey import Valkey, ValkeyCluster


@dataclass(frozen=True)
class Kind:
    """A kind of database: how to start it, its plain driver, how much room it takes, and what its settings promise."""

    name: str
    start: Callable[[], Any]
    driver: drivers.Opener
    size: Callable[[str], Awaitable[int | None]]
    durability: str
    is_stand_in: bool = False


@dataclass(frozen=True)
class Running:
    """A database of ``kind`` that runs; ``server`` is what was started for it, if anything."""

    kind: Kind
    url: str
    server: Any = None

    def cpu(self) -> float | None:
        """Seconds of CPU that its processes have used; ``None`` where it lives in its clients."""
        return None if self.server is None else cpu.of_family(self.server.process.pid)


@contextmanager
def running(kind: Kind, folder: Path) -> Iterator[Running | None]:
    """A database of ``kind``, stopped afterwards; ``None`` where it cannot be had, which is told."""
    if kind.name == "SQLite":
        yield Running(kind, f"sqlite:///{folder}/{kind.name.lower()}.db")
        return
    try:
        server = kind.start()
    except NotHere as error:
        print(f"{kind.name} is left out: {error}", file=sys.stderr)
        yield None
        return
    try:
        yield Running(kind, server.url, server)
    finally:
        server.stop()


@contextmanager
def started(kind: Kind, folder: Path) -> Iterator[str | None]:
    """The URL of what ``running`` has started."""
    with running(kind, folder) as database:
        yield None if database is None else database.url


# -- what they take ------------------------------------------------------------------------------------------


async def by_stats(url: str) -> int | None:
    """Tables and indexes, as the store counts them."""
    from sessiondb import SessionDB

    async with SessionDB(url, sweep_every=None) as db:
        return (await db.stats()).size_bytes


async def mysql_tables(url: str) -> int | None:
    """As above, counted anew: the server's own figures lag behind."""
    import asyncmy

    connection = await asyncmy.connect(**drivers.mysql_arguments(url))
    async with connection.cursor() as cursor:
        await cursor.execute("ANALYZE TABLE sessiondb_sessions, sessiondb_users, sessiondb_events")
        await cursor.fetchall()
    connection.close()
    return await by_stats(url)


async def redis_memory(url: str) -> int | None:
    """What the keys of that database take by ``MEMORY USAGE``, on all primaries.

    The server's own figure moves with the buffers of whoever is connected.
    """
    import redis.asyncio

    addresses = url.removeprefix("redis+cluster://").split(",") if url.startswith("redis+cluster://") else None
    total = 0
    for one in [url] if addresses is None else [f"redis://{address}" for address in addresses]:
        client: Any = redis.asyncio.Redis.from_url(one)
        keys = [key async for key in client.scan_iter(count=1000)]
        for start in range(0, len(keys), 1000):
            pipeline = client.pipeline(transaction=False)
            for key in keys[start : start + 1000]:
                pipeline.memory_usage(key, samples=0)
            total += sum(size or 0 for size in await pipeline.execute())
        await client.aclose()
    return total


# -- the databases -------------------------------------------------------------------------------------------


def mongodb() -> MongoDB:
    """A ``mongod`` from the PATH. Raises ``NotHere``: what the tests make do with says nothing about it."""
    if shutil.which("mongod") is None:
        raise NotHere("no mongod on the PATH, and the tests' stand-in says nothing about its speed and durability.")
    return MongoDB()


KINDS = [
    Kind("SQLite", lambda: None, drivers.sqlite, by_stats, "synchronous=FULL"),
    Kind(
        "PostgreSQL",
        lambda: PostgreSQL({"shared_buffers": "256MB", "fsync": "on", "synchronous_commit": "on"}),
        drivers.postgresql,
        by_stats,
        "fsync=on, synchronous_commit=on",
    ),
    Kind(
        "MariaDB",
        lambda: MariaDB("--innodb-flush-log-at-trx-commit=1"),
        drivers.mysql,
        mysql_tables,
        "innodb_flush_log_at_trx_commit=1",
    ),
    Kind(
        "Valkey",
        lambda: Valkey("--appendfsync", "always"),
        drivers.redis,
        redis_memory,
        "appendonly=yes, appendfsync=always",
    ),
    Kind("Valkey Cluster", ValkeyCluster, drivers.redis, redis_memory, "appendonly=yes, appendfsync=everysec"),
    Kind("MongoDB", mongodb, drivers.mongodb, by_stats, "w=majority, j=true"),
]
"""Answered is on the disk, but in the cluster."""

AS_DEPLOYED = {
    **{kind.name: kind for kind in KINDS[:3]},
    "Valkey": Kind(
        "Valkey",
        lambda: Valkey("--appendfsync", "everysec"),
        drivers.redis,
        redis_memory,
        "appendonly=yes, appendfsync=everysec (a power cut may lose a second)",
    ),
    "MongoDB": Kind(
        "MongoDB",
        MongoDB,
        drivers.mongodb,
        by_stats,
        "w=majority, j=true",
        is_stand_in=shutil.which("mongod") is None,
    ),
}
"""The same with the settings that they are mostly run with, and a stand-in where there is no ``mongod``."""
