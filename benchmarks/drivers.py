"""What each database's plain driver takes for one row: the yardstick of the stores.

Each reads and writes a session's row by its primary key, with the pool that the driver comes with.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID


@dataclass(frozen=True)
class Driver:
    """``read(sid)`` is the row, or nothing; ``write(sid, data)`` replaces its data; ``pool`` says how it is asked."""

    read: Callable[[str], Awaitable[object]]
    write: Callable[[str, str], Awaitable[object]]
    pool: str


Opener = Callable[[str, int], AbstractAsyncContextManager[Driver]]
"""Opens the driver on the database of a URL, for so many callers at once."""


@asynccontextmanager
async def sqlite(url: str, callers: int) -> AsyncIterator[Driver]:
    """``sqlite3``: one caller on its own thread, several by a thread of the database's, as they must not block."""
    path = url.removeprefix("sqlite:///").partition("?")[0]
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    connection.execute("PRAGMA synchronous = FULL")
    loop = asyncio.get_running_loop()

    with ThreadPoolExecutor(1) as thread:

        def read_now(sid: str) -> object:
            return connection.execute("SELECT * FROM sessiondb_sessions WHERE sid = ?", (sid,)).fetchone()

        def write_now(sid: str, data: str) -> object:
            return connection.execute("UPDATE sessiondb_sessions SET data = ? WHERE sid = ?", (data, sid)).rowcount

        async def read(sid: str) -> object:
            return read_now(sid) if callers == 1 else await loop.run_in_executor(thread, read_now, sid)

        async def write(sid: str, data: str) -> object:
            return write_now(sid, data) if callers == 1 else await loop.run_in_executor(thread, write_now, sid, data)

        yield Driver(read, write, "sqlite3, one connection")
    connection.close()


@asynccontextmanager
async def postgresql(url: str, callers: int) -> AsyncIterator[Driver]:
    """asyncpg."""
    import asyncpg

    async with asyncpg.create_pool(url) as pool:

        async def read(sid: str) -> object:
            return await pool.fetchrow("SELECT * FROM sessiondb_sessions WHERE sid = $1", sid)

        async def write(sid: str, data: str) -> object:
            done = await pool.execute("UPDATE sessiondb_sessions SET data = $2::jsonb WHERE sid = $1", sid, data)
            return done == "UPDATE 1"

        yield Driver(read, write, "asyncpg, its pool of 10")


@asynccontextmanager
async def mysql(url: str, callers: int) -> AsyncIterator[Driver]:
    """asyncmy."""
    import asyncmy

    pool = await asyncmy.create_pool(**mysql_arguments(url), autocommit=True)

    async def read(sid: str) -> object:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT * FROM sessiondb_sessions WHERE sid = %s", (UUID(sid).bytes,))
            return await cursor.fetchone()

    async def write(sid: str, data: str) -> object:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            return await cursor.execute(
                "UPDATE sessiondb_sessions SET data = %s WHERE sid = %s", (data, UUID(sid).bytes)
            )

    yield Driver(read, write, "asyncmy, its pool of 10")
    pool.close()
    await pool.wait_closed()


def mysql_arguments(url: str) -> dict[str, Any]:
    """What asyncmy wants for ``url``."""
    parts = urlsplit(url)
    return {
        "host": parts.hostname,
        "port": parts.port,
        "user": parts.username,
        "password": parts.password,
        "db": parts.path[1:],
    }


@asynccontextmanager
async def redis(url: str, callers: int) -> AsyncIterator[Driver]:
    """redis-py with hiredis."""
    import redis.asyncio

    if url.startswith("redis+cluster://"):
        first = url.removeprefix("redis+cluster://").partition(",")[0]
        client: Any = redis.asyncio.RedisCluster.from_url(f"redis://{first}")
    else:
        client = redis.asyncio.Redis.from_url(url)

    async def read(sid: str) -> object:
        return await client.hgetall(f"sessiondb:session:{sid}")

    async def write(sid: str, data: str) -> object:
        await client.hset(f"sessiondb:session:{sid}", "d:seen", data)
        return True

    yield Driver(read, write, "redis-py, a connection for each call under way")
    await client.aclose()


@asynccontextmanager
async def mongodb(url: str, callers: int) -> AsyncIterator[Driver]:
    """PyMongo's asynchronous client."""
    from bson import Binary
    from pymongo import AsyncMongoClient

    client: Any = AsyncMongoClient(url)
    sessions = client.get_default_database()["sessiondb_sessions"]

    async def read(sid: str) -> object:
        return await sessions.find_one({"_id": Binary.from_uuid(UUID(sid))})

    async def write(sid: str, data: str) -> object:
        done = await sessions.update_one({"_id": Binary.from_uuid(UUID(sid))}, {"$set": {"data.raw": data}})
        return bool(done.matched_count)

    yield Driver(read, write, "PyMongo, its pool of 100")
    await client.close()
