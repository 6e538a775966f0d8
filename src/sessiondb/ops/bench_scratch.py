"""A throw-away part of somebody's database: made beside the app's, and removed whatever happens."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores.base import open_store

_URL = re.compile(r"(?P<scheme>[^:/?]+)://(?P<network>[^/?]*)(?P<path>[^?]*)\??(?P<query>.*)", re.DOTALL)
_TABLES = ("sessions", "links", "users", "events", "histories", "buckets", "counters", "sheets", "meta")
_LONGEST_OF_SQL = 32


@dataclass(frozen=True)
class Scratch:
    """``url`` is the part, ``name`` what everything in it begins with; ``remove`` removes it, and may be repeated."""

    name: str
    url: str = field(repr=False)
    remove: Callable[[], Awaitable[None]] = field(repr=False)


def scratch(url: str) -> Scratch:
    """A part of the database of ``url`` that nobody else uses. Connects to nothing. Raises ``ConfigurationError``."""
    kind = open_store(url).name
    mark = secrets.token_hex(4)
    if kind == "memory":
        return Scratch("memory", url, _nothing)
    if kind == "sqlite":
        return _beside_the_file(url, mark)
    make = {"postgresql": _of_postgresql, "mysql": _of_mysql, "redis": _of_redis, "mongodb": _of_mongodb}.get(kind)
    if make is None:
        raise ConfigurationError(f"bench: {kind}:// is not a database that it knows how to clean up.")
    return make(url, mark)


def is_local(url: str) -> bool:
    """Whether ``url`` names this machine alone, as far as it says."""
    match = _URL.fullmatch(url)
    if match is None:
        return False
    base = match["scheme"].partition("+")[0]
    if base in ("sqlite", "memory"):
        return True
    if match["scheme"].endswith("+srv"):
        return False
    options = dict(parse_qsl(match["query"]))
    hosts = match["network"].rpartition("@")[2].split(",")
    if base.startswith("postgres"):
        # The driver takes a host from there too.
        given = options.get("host") or os.environ.get("PGHOST", "")
        hosts = [part for host in hosts for part in ([host] if host else given.split(","))]
        if "replica" in options and not is_local(options["replica"]):
            return False
    return all(map(_is_loopback, hosts))


def _is_loopback(host: str) -> bool:
    name = unquote(host)
    if not name or name.startswith("/"):
        return True  # each driver's default is this machine; a path is a socket
    name = name[1:].partition("]")[0] if name.startswith("[") else name.rpartition(":")[0] or name
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _with_prefix(url: str, prefix: str) -> str:
    base, _, query = url.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("prefix=")]
    return f"{base}?{'&'.join([*kept, f'prefix={prefix}'])}"


def _sql_prefix(prefix: str, mark: str) -> str:
    name = f"{prefix}bench_{mark}_"
    return name if len(name) <= _LONGEST_OF_SQL else f"bench_{mark}_"


async def _nothing() -> None:
    pass


def _beside_the_file(url: str, mark: str) -> Scratch:
    """A file of its own in the same folder, so that it is on the same disk."""
    from sessiondb.stores.sqlite import sqlite_from_url

    there = Path(sqlite_from_url(url).path)
    path = there.with_name(f"{there.name}.bench-{mark}")
    query = url.partition("?")[2]

    async def remove() -> None:
        for file in path.parent.glob(f"*.bench-{mark}*"):
            file.unlink(missing_ok=True)

    return Scratch(path.name, f"sqlite:///{quote(str(path))}{'?' if query else ''}{query}", remove)


def _of_postgresql(url: str, mark: str) -> Scratch:
    from sessiondb.stores import _postgresql_url

    prefix = _sql_prefix(_postgresql_url.parse(url).prefix, mark)
    settings = _postgresql_url.parse(_with_prefix(url, prefix))

    async def remove() -> None:
        import asyncpg

        connection = await asyncpg.connect(**settings.arguments)
        try:
            for table in _TABLES:
                await connection.execute(f"DROP TABLE IF EXISTS {prefix}{table} CASCADE")
        finally:
            await connection.close()

    return Scratch(prefix, _with_prefix(url, prefix), remove)


def _of_mysql(url: str, mark: str) -> Scratch:
    from sessiondb.stores import _mysql_url

    prefix = _sql_prefix(_mysql_url.parse(url).prefix, mark)
    settings = _mysql_url.parse(_with_prefix(url, prefix))

    async def remove() -> None:
        from sessiondb.stores._mysql_connection import connect

        connection = await connect(settings.arguments, settings.lock_timeout)
        try:
            await connection.run([f"DROP TABLE IF EXISTS {', '.join(prefix + table for table in _TABLES)}"])
        finally:
            await connection.close()

    return Scratch(prefix, _with_prefix(url, prefix), remove)


def _of_redis(url: str, mark: str) -> Scratch:
    from sessiondb.stores import _redis_url

    # Under the app's prefix: its user may be allowed no other keys.
    prefix = f"{_redis_url.parse(url).prefix}bench:{mark}:"
    settings = _redis_url.parse(_with_prefix(url, prefix))

    async def remove() -> None:
        nodes = settings.make()
        try:
            async for keys in nodes.scan(f"{prefix}*".encode()):
                await nodes.run([(key, ("UNLINK", key)) for key in keys])
        finally:
            await nodes.close()

    return Scratch(prefix, _with_prefix(url, prefix), remove)


def _of_mongodb(url: str, mark: str) -> Scratch:
    from sessiondb.stores import _mongodb_url

    prefix = f"{_mongodb_url.parse(url).prefix}bench_{mark}_"
    settings = _mongodb_url.parse(_with_prefix(url, prefix))

    async def remove() -> None:
        collections = settings.connect()
        try:
            for one in collections.every:
                await one.drop()
        finally:
            await collections.close()

    return Scratch(prefix, _with_prefix(url, prefix), remove)
