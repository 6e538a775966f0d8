"""The databases that are compared: each with the settings of a server that must not lose what it has answered."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from provision.mariadb import MariaDB
from provision.mongodb import MongoDB
from provision.postgresql import PostgreSQL
from provision.process import NotHere
from provision.valkey import Valkey, ValkeyCluster

Read = Callable[[str], Awaitable[object]]  # one session by its sid, with the driver alone
Opener = Callable[[str], Any]


@dataclass(frozen=True)
class Kind:
    """A kind of database: how to start it, how its driver alone reads one row, how much room it takes."""

    name: str
    start: Callable[[], Any]
    reading: Opener
    size: Callable[[str], Awaitable[int | None]]


@contextmanager
def started(kind: Kind, folder: Path) -> Iterator[str | None]:
    """The URL of a server of ``kind``, stopped afterwards; ``None`` where it cannot be had, which is told."""
    if kind.name.startswith("SQLite"):
        yield f"sqlite:///{folder}/{kind.name.lower()}.db"
        return
    try:
        server = kind.start()
    except NotHere as error:
        print(f"{kind.name} is left out: {error}", file=sys.stderr)
        yield None
        return
    try:
        yield server.url
    finally:
        server.stop()


# -- the driver alone ----------------------------------------------------------------------------------------


@asynccontextmanager
async def sqlite_reading(url: str) -> AsyncIterator[Read]:
    """A row by primary key, on the caller's thread."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)

    async def read(sid: str) -> object:
        return connection.execute("SELECT * FROM sessiondb_sessions WHERE sid = ?", (sid,)).fetchone()

    yield read
    connection.close()


@asynccontextmanager
async def postgresql_reading(url: str) -> AsyncIterator[Read]:
    """A row by primary key, on a held connection."""
    import asyncpg

    connection = await asyncpg.connect(url)

    async def read(sid: str) -> object:
        return await connection.fetchrow("SELECT * FROM sessiondb_sessions WHERE sid = $1", sid)

    yield read
    await connection.close()


async def _mysql(url: str) -> Any:
    import asyncmy

    parts = urlsplit(url)
    return await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password=parts.password, db=parts.path[1:]
    )


@asynccontextmanager
async def mysql_reading(url: str) -> AsyncIterator[Read]:
    """A row by primary key, on a held connection."""
    connection = await _mysql(url)

    async def read(sid: str) -> object:
        async with connection.cursor() as cursor:
            await cursor.execute(f"SELECT * FROM sessiondb_sessions WHERE sid = x'{sid.replace('-', '')}'")
            return await cursor.fetchone()

    yield read
    connection.close()


@asynccontextmanager
async def redis_reading(url: str) -> AsyncIterator[Read]:
    """A hash, by redis-py with hiredis."""
    import redis.asyncio

    if url.startswith("redis+cluster://"):
        first = url.removeprefix("redis+cluster://").partition(",")[0]
        client: Any = redis.asyncio.RedisCluster.from_url(f"redis://{first}")
    else:
        client = redis.asyncio.Redis.from_url(url)

    async def read(sid: str) -> object:
        return await client.hgetall(f"sessiondb:session:{sid}")

    yield read
    await client.aclose()


@asynccontextmanager
async def mongodb_reading(url: str) -> AsyncIterator[Read]:
    """A document by ``_id``."""
    from bson import Binary
    from pymongo import AsyncMongoClient

    client: Any = AsyncMongoClient(url)
    sessions = client.get_default_database()["sessiondb_sessions"]

    async def read(sid: str) -> object:
        return await sessions.find_one({"_id": Binary.from_uuid(UUID(sid))})

    yield read
    await client.close()


# -- what they take ------------------------------------------------------------------------------------------


async def by_stats(url: str) -> int | None:
    """Tables and indexes, as the store counts them."""
    from sessiondb import SessionDB

    async with SessionDB(url, sweep_every=None) as db:
        return (await db.stats()).size_bytes


async def mysql_tables(url: str) -> int | None:
    """As above, counted anew: the server's own figures lag behind."""
    connection = await _mysql(url)
    async with connection.cursor() as cursor:
        await cursor.execute("ANALYZE TABLE sessiondb_sessions, sessiondb_users, sessiondb_events")
        await cursor.fetchall()
    connection.close()
    return await by_stats(url)


async def redis_memory(url: str) -> int | None:
    """``used_memory`` of the server, or of all primaries."""
    import redis.asyncio

    if not url.startswith("redis+cluster://"):
        client: Any = redis.asyncio.Redis.from_url(url)
        used = int((await client.info("memory"))["used_memory"])
        await client.aclose()
        return used
    total = 0
    for address in url.removeprefix("redis+cluster://").split(","):
        total += await redis_memory(f"redis://{address}") or 0
    return total


def mongodb() -> MongoDB:
    """A ``mongod`` from the PATH. Raises ``NotHere``: what the tests make do with says nothing about it."""
    if shutil.which("mongod") is None:
        raise NotHere("no mongod on the PATH, and the tests' stand-in says nothing about its speed and durability.")
    return MongoDB()


KINDS = [
    Kind("SQLite", lambda: None, sqlite_reading, by_stats),
    Kind("PostgreSQL", lambda: PostgreSQL({"shared_buffers": "256MB"}), postgresql_reading, by_stats),
    Kind("MariaDB", MariaDB, mysql_reading, mysql_tables),
    Kind("Valkey", lambda: Valkey("--appendfsync", "always"), redis_reading, redis_memory),
    Kind("Valkey Cluster", ValkeyCluster, redis_reading, redis_memory),
    Kind("MongoDB", mongodb, mongodb_reading, by_stats),
]
