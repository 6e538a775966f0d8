"""Real database servers for tests: started when first needed, shared by all tests, stopped at the end.

``SESSIONDB_TEST_POSTGRESQL_URL`` and the like name servers that run already. What cannot be had is skipped with the
way to get it; with ``CI=true`` that is a failure.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote, unquote, urlsplit

import pytest

from provision.mariadb import MariaDB
from provision.mongodb import MongoDB
from provision.pgbouncer import PgBouncer
from provision.postgresql import PostgreSQL
from provision.process import NotHere, ServerProcess
from provision.valkey import Valkey, ValkeyCluster
from sessiondb import open_store
from sessiondb.testing import Database, ManualClock, OpenHandle
from sessiondb.testing.kit import Kit


class Started(Protocol):
    """A server that was started here."""

    @property
    def url(self) -> str: ...
    def stop(self) -> None: ...


class Breakable(Started, Protocol):
    """One that is a single process, to be paused and killed."""

    process: ServerProcess


_STARTS: dict[str, Callable[[], Started]] = {
    # Nothing here outlives a power cut, so nothing has to reach the disk; a killed server loses nothing by it.
    "postgresql": lambda: PostgreSQL({"fsync": "off", "max_connections": "200"}),
    "pgbouncer": lambda: PgBouncer(url_of("postgresql"), size=4),
    "mysql": lambda: MariaDB("--innodb-flush-log-at-trx-commit=2", "--max-connections=300"),
    "redis": Valkey,
    "redis_cluster": ValkeyCluster,
    "mongodb": MongoDB,
}
_running: list[Started] = []
_used: list[tuple[str, str]] = []
_numbers = count()


@cache
def url_of(kind: str) -> str:
    """The URL of a server of that kind, for all tests together."""
    named = _named(kind)
    if named is not None:
        return named
    server = start(kind)
    _running.append(server)
    return server.url


def _named(kind: str) -> str | None:
    return os.environ.get(f"SESSIONDB_TEST_{kind.upper()}_URL") or None


def start(kind: str) -> Started:
    """A server of that kind, for one test, which must stop it."""
    return had(_STARTS[kind])


S = TypeVar("S", bound=Started)


def had(make: Callable[[], S]) -> S:
    """The server that ``make`` starts; where it cannot be had, the test is skipped."""
    try:
        return make()
    except NotHere as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def stop_all() -> None:
    """Stop the shared servers."""
    for kind, prefix in _used:
        if _named(kind):
            asyncio.run(drop(kind, prefix))
    _used.clear()
    while _running:
        _running.pop().stop()
    url_of.cache_clear()


atexit.register(stop_all)


def new_prefix() -> str:
    """A prefix that no other test of this run, or of another one, uses."""
    return f"t{os.getpid()}_{next(_numbers)}_"


def with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"


def with_database(url: str, name: str) -> str:
    """``url`` with another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def with_login(url: str, user: str | None = None, password: str | None = None) -> str:
    """``url`` for another user, or with another password."""
    parts = urlsplit(url)
    who = quote(unquote(parts.username or "") if user is None else user, safe="")
    secret = quote(unquote(parts.password or "") if password is None else password, safe="")
    return parts._replace(netloc=f"{who}:{secret}@{parts.netloc.rpartition('@')[2]}").geturl()


NETWORK = ("postgresql", "mysql", "redis", "mongodb")
KINDS = ("sqlite", *NETWORK, "redis_cluster")


def new_url(kind: str, folder: Path) -> str:
    """The URL of an empty database of that kind."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/sessions.db"
    prefix = new_prefix()
    _used.append((kind, prefix))
    return with_option(url_of(kind), f"prefix={prefix}")


TABLES = ("sessions", "links", "users", "events", "histories", "buckets", "counters", "sheets", "meta")


async def drop(kind: str, prefix: str) -> None:
    """Remove what the store with that prefix has made."""
    await _DROPS[kind](url_of(kind), prefix)


async def _drop_postgresql(url: str, prefix: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute(
        "".join(f"DROP TABLE IF EXISTS {prefix}{name} CASCADE;" for name in TABLES)
        + f"DROP FUNCTION IF EXISTS {prefix}sessions_changed"
    )
    await connection.close()


async def _drop_mysql(url: str, prefix: str) -> None:
    from sessiondb.stores._mysql_connection import connect
    from sessiondb.stores._mysql_url import parse

    connection = await connect(parse(url).arguments, 5)
    names = ", ".join(f"{prefix}{name}" for name in TABLES)
    await connection.run([f"DROP TABLE IF EXISTS {names}"])
    await connection.close()


async def _drop_redis(url: str, prefix: str) -> None:
    from sessiondb.stores.redis import RedisStore

    store = RedisStore(with_option(url, f"prefix={prefix}"))
    await store.open()
    async for keys in store._nodes.current().scan(f"{prefix}*".encode()):
        await store.run([(key, ("UNLINK", key)) for key in keys])
    await store.close()


async def _drop_mongodb(url: str, prefix: str) -> None:
    from sessiondb.stores._mongodb_url import parse

    collections = parse(with_option(url, f"prefix={prefix}")).connect()
    for collection in collections.every:
        await collection.drop()
    await collections.close()


_DROPS: dict[str, Callable[[str, str], Awaitable[None]]] = {
    "postgresql": _drop_postgresql,
    "pgbouncer": _drop_postgresql,
    "mysql": _drop_mysql,
    "redis": _drop_redis,
    "redis_cluster": _drop_redis,
    "mongodb": _drop_mongodb,
}


def database(kind: str, *options: str) -> Database:
    """Empty databases for the kit, on the shared server; ``options`` are the store's: ``"prefix=a"``."""

    @asynccontextmanager
    async def make(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        url, prefix = url_of(kind), new_prefix()
        try:
            yield lambda: open_store(with_option(url, "&".join((f"prefix={prefix}", *options))))
        finally:
            await drop(kind, prefix)

    return make


@asynccontextmanager
async def kit_on(kind: str, *options: str) -> AsyncIterator[Kit]:
    """A kit on an empty database, whose stores are closed afterwards."""
    async with database(kind, *options)(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        yield kit
        await kit.close_all()
