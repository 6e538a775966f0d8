"""What each database's plain driver takes for one row: the yardstick of the stores.

Each reads and writes a session's row by its primary key: one caller on a connection that it keeps, several with the
pool that the driver comes with.
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

import msgspec

from benchmarks.variants import PROFILE


@dataclass(frozen=True)
class Driver:
    """``read(sid)`` is the row, or nothing; ``write(sid, number)`` puts a number into its data; ``pool``: its pool.

    ``blocks``: the event loop stands still meanwhile.
    """

    read: Callable[[str], Awaitable[object]]
    write: Callable[[str, int], Awaitable[object]]
    pool: str
    blocks: bool = False


def _data(number: int) -> str:
    """What a session holds, as SQL databases keep it: whole."""
    return msgspec.json.encode({**PROFILE, "seen": number}).decode()


Opener = Callable[[str, int], AbstractAsyncContextManager[Driver]]
"""Opens the driver on the database of a URL, for so many callers at once."""


@asynccontextmanager
async def sqlite(url: str, callers: int) -> AsyncIterator[Driver]:
    """``sqlite3``: one caller blocks the loop, several ask a thread of the database's, as an app has to."""
    path = url.removeprefix("sqlite:///").partition("?")[0]
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
    connection.execute("PRAGMA synchronous = FULL")
    loop = asyncio.get_running_loop()

    with ThreadPoolExecutor(1) as thread:

        def read_now(sid: str) -> object:
            return connection.execute("SELECT * FROM sessiondb_sessions WHERE sid = ?", (sid,)).fetchone()

        def write_now(sid: str, number: int) -> object:
            return connection.execute(
                "UPDATE sessiondb_sessions SET data = ? WHERE sid = ?", (_data(number), sid)
            ).rowcount

        async def read(sid: str) -> object:
            return read_now(sid) if callers == 1 else await loop.run_in_executor(thread, read_now, sid)

        async def write(sid: str, number: int) -> object:
            return (
                write_now(sid, number) if callers == 1 else await loop.run_in_executor(thread, write_now, sid, number)
            )

        how = "which blocks the loop" if callers == 1 else "by a thread"
        yield Driver(read, write, f"sqlite3, one connection, {how}", blocks=callers == 1)
    connection.close()


@asynccontextmanager
async def postgresql(url: str, callers: int) -> AsyncIterator[Driver]:
    """asyncpg."""
    import asyncpg

    async def no_reset(connection: object) -> None:
        pass  # by default each call is followed by another flight, which puts the connection in order

    source = asyncpg.connect(url) if callers == 1 else asyncpg.create_pool(url, reset=no_reset)
    asked: Any = await source

    async def read(sid: str) -> object:
        return await asked.fetchrow("SELECT * FROM sessiondb_sessions WHERE sid = $1", sid)

    async def write(sid: str, number: int) -> object:
        done = await asked.execute("UPDATE sessiondb_sessions SET data = $2::jsonb WHERE sid = $1", sid, _data(number))
        return done == "UPDATE 1"

    yield Driver(read, write, "asyncpg, its pool of 10, without resets")
    await asked.close()


@asynccontextmanager
async def mysql(url: str, callers: int) -> AsyncIterator[Driver]:
    """asyncmy."""
    import asyncmy

    size = 1 if callers == 1 else 10
    pool = await asyncmy.create_pool(**mysql_arguments(url), autocommit=True, minsize=size, maxsize=size)

    async def read(sid: str) -> object:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT * FROM sessiondb_sessions WHERE sid = %s", (UUID(sid).bytes,))
            return await cursor.fetchone()

    async def write(sid: str, number: int) -> object:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            return await cursor.execute(
                "UPDATE sessiondb_sessions SET data = %s WHERE sid = %s", (_data(number), UUID(sid).bytes)
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
        # The default pool raises for the hundred-and-first.
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=100)
        client = redis.asyncio.Redis(connection_pool=pool, single_connection_client=callers == 1)

    async def read(sid: str) -> object:
        return await client.hgetall(f"sessiondb:session:{sid}")

    async def write(sid: str, number: int) -> object:
        await client.hset(f"sessiondb:session:{sid}", "d:seen", number)
        return True

    yield Driver(read, write, "redis-py, its pool of 100")
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

    async def write(sid: str, number: int) -> object:
        done = await sessions.update_one({"_id": Binary.from_uuid(UUID(sid))}, {"$set": {"data.seen": number}})
        return bool(done.matched_count)

    yield Driver(read, write, "PyMongo, its pool of 100")
    await client.close()
