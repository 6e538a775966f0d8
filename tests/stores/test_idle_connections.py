"""Connections that the server has closed while nobody used them: no request fails for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from databases import new_prefix, start, with_option
from sessiondb import open_store
from sessiondb.testing import ManualClock
from sessiondb.testing.checks import is_applied
from sessiondb.testing.kit import Kit


async def _postgresql(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sessiondb'"
    )
    await connection.close()


async def _mysql(url: str) -> None:
    from sessiondb.stores._mysql_connection import connect
    from sessiondb.stores._mysql_url import parse

    connection = await connect(parse(url).arguments, 5)
    [own], [others] = [
        found.rows
        for found in await connection.run(
            [
                "SELECT CONNECTION_ID()",
                "SELECT GROUP_CONCAT(id) FROM information_schema.processlist WHERE db = DATABASE()",
            ]
        )
    ]
    for number in others[0].decode().split(","):
        if int(number) != own[0]:
            await connection.run([f"KILL {number}"])
    await connection.close()


async def _redis(url: str) -> None:
    from sessiondb.stores.redis import RedisStore

    store = RedisStore(url)
    await store.open()
    await store.run([(b"", ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))])
    await store.close()


CLOSERS: dict[str, Callable[[str], Awaitable[None]]] = {"postgresql": _postgresql, "mysql": _mysql, "redis": _redis}


def idle_of(store: Any) -> list[Any]:
    if store.name == "redis":
        pool = store._nodes.current()._pool
    else:
        pool = store._pools.current() if store.name == "mysql" else store._pools.current().primary
    assert pool._idle
    return list(pool._idle)


@pytest.mark.parametrize("kind", CLOSERS)
async def test_idle_connections_that_the_server_has_closed_fail_nobody(kind: str) -> None:
    """As after wait_timeout, or where a firewall has forgotten them and says so."""
    server = start(kind)
    try:
        store = open_store(with_option(server.url, f"prefix={new_prefix()}"))
        await store.open()
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock()
        record = kit.record("ann")
        await kit.put_in(store, record)
        await asyncio.gather(*(store.load([record.sid]) for _ in range(4)))
        for number in range(2):
            await CLOSERS[kind](server.url)
            async with asyncio.timeout(10):
                while not all(connection.is_closed() for connection in idle_of(store)):
                    await asyncio.sleep(0.01)  # until the news is here
            if number:
                assert await kit.record_of(store, record.sid) == record
            else:
                is_applied(await kit.apply(store, kit.touch(record)), "a write")
                record = await kit.record_of(store, record.sid)
        await store.close()
    finally:
        server.stop()
