"""PostgreSQL behind PgBouncer in transaction mode: each statement may run on another connection of the server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from databases import drop, new_prefix, url_of, with_database, with_option
from sessiondb import open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.stores.postgresql import PostgreSQLStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Forty clients share four connections to the server."""
    prefix = new_prefix()
    yield with_option(url_of("pgbouncer"), f"pooler=transaction&pool_size=40&prefix={prefix}")
    await drop("pgbouncer", prefix)


@pytest.fixture
async def kit(url: str) -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def sql() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url_of("postgresql"))
    yield connection
    await connection.close()


async def test_statements_of_many_clients_are_never_mixed_up(kit: Kit) -> None:
    """Nor by callers that are cancelled in the middle of an answer. All statements take one JSON text, so one that
    ran with the values of another would raise no error.
    """
    store = await kit.store()
    records = [kit.record(f"user{n}", {"whose": n}) for n in range(40)]
    await kit.put_in(store, *records)
    choose = random.Random(11)
    landed: list[int] = [0] * 40

    async def use(number: int) -> None:
        mine = records[number]
        for n in range(20):
            assert isinstance(await kit.apply(store, kit.update(mine, {f"k{n}": number})), Applied)
            landed[number] = n + 1
            found = await kit.record_of(store, mine.sid)
            assert (found.sid, found.user_id) == (mine.sid, mine.user_id)
            assert await kit.living(store, f"user{number}") == [mine.sid]
            await kit.put_in(store, kit.record("guest"))

    tasks = [asyncio.create_task(use(number)) for number in range(40)]
    await asyncio.sleep(0.2)
    for task in choose.sample(tasks, 15):
        task.cancel()
        await asyncio.sleep(0.01)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one for one in results if one is not None and not isinstance(one, asyncio.CancelledError)] == []
    assert results.count(None) >= 25
    for number, record in enumerate(records):
        data = await kit.data_of(store, record.sid)
        assert data.pop("whose") == number
        assert set(data.values()) <= {number}
        # The write of a cancelled call may have landed, too.
        assert len(data) in (landed[number], landed[number] + 1)


async def test_nothing_stays_on_the_connection(kit: Kit) -> None:
    store = await kit.store()
    record = kit.record("ann", {"a": 1.0})
    await kit.put_in(store, record)
    assert await kit.data_of(store, record.sid) == {"a": 1.0}
    assert isinstance(store, PostgreSQLStore)
    async with store._connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_the_lock_timeout_is_set_in_the_database(url: str, sql: Any) -> None:
    """As the guide has it: a pooler passes no settings on, so ``ALTER DATABASE`` (or ``ALTER ROLE``) gives them."""
    name = new_prefix()
    await sql.execute(f"CREATE DATABASE {name}")
    await sql.execute(f"ALTER DATABASE {name} SET lock_timeout = '200ms'")
    kit = Kit(lambda: open_store(with_database(url, name)), ManualClock())
    store = await kit.store()
    held, free = kit.record("ann"), kit.record("ann")
    await kit.put_in(store, held, free)
    other = await asyncpg.connect(with_database(url_of("postgresql"), name))
    table = url.rpartition("prefix=")[2] + "sessions"
    async with other.transaction():
        await other.execute(f"SELECT FROM {table} WHERE sid = $1 FOR UPDATE", held.sid)
        refused, applied = await store.apply([kit.update(held, {"n": 1}), kit.update(free, {"n": 1})])
    assert isinstance(applied, Applied)
    assert isinstance(refused, StoreError)
    assert "locked by another transaction" in str(refused)
    assert refused.outcome == "not_applied"
    await other.close()
    await kit.close_all()
    await sql.execute(f"DROP DATABASE {name} WITH (FORCE)")
