"""What is PostgreSQL's own: other people's locks, lost tables and connections, what people ask in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from hypothesis import given

from databases import new_prefix, start, url_of, with_option
from provision.postgresql import PostgreSQL
from sessiondb import SessionDB, StoreUnavailable, open_store
from sessiondb.core import codec
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.stores import postgresql
from sessiondb.stores._numbers import positional
from sessiondb.stores.postgresql import PostgreSQLStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit
from strategies import values


@pytest.fixture
def url() -> str:
    return with_option(url_of("postgresql"), f"prefix={new_prefix()}")


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


def prefix_of(url: str) -> str:
    return url.rpartition("prefix=")[2].partition("&")[0]


async def test_lost_tables_are_made_anew(url: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    await sql.execute(f"DROP TABLE {prefix_of(url)}sessions, {prefix_of(url)}users")
    record = kit.record("ann")
    with pytest.raises(StoreUnavailable, match="has lost tables"):
        await kit.apply(store, kit.create(record))
    assert isinstance(await kit.apply(store, kit.create(record)), Applied)
    assert await kit.find_record(store, record.sid) is not None


async def test_a_row_that_somebody_else_holds_fails_alone(url: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    records = [kit.record("ann") for _ in range(5)]
    await kit.put_in(store, *records)
    async with sql.transaction():
        held = records[2]
        await sql.execute(f"SELECT FROM {prefix_of(url)}sessions WHERE sid = $1 FOR UPDATE", held.sid)
        results = await store.apply([kit.update(record, {"n": 1}) for record in records])
        assert [isinstance(result, Applied) for result in results] == [True, True, False, True, True]
        refused = results[2]
        assert isinstance(refused, StoreError)
        assert "locked by another transaction" in str(refused)
        assert refused.outcome == "not_applied"
    assert isinstance(await kit.apply(store, kit.update(held, {"n": 2})), Applied)


async def test_a_deadlock_with_another_program_is_tried_again(url: str, sql: Any, kit: Kit) -> None:
    store = open_store(f"{url}&lock_timeout=5")
    await store.open()
    kit.now = await store.clock()
    first, second = sorted((kit.record("ann"), kit.record("ann")), key=lambda record: record.sid)
    await kit.put_in(store, first, second)
    table = f"{prefix_of(url)}sessions"
    transaction = sql.transaction()
    await transaction.start()
    # The other way round, as no part of sessiondb does it.
    await sql.execute(f"SELECT FROM {table} WHERE sid = $1 FOR UPDATE", second.sid)
    batch = asyncio.create_task(store.apply([kit.update(first, {"n": 1}), kit.update(second, {"n": 1})]))
    await asyncio.sleep(0.1)
    try:
        await sql.execute(f"SELECT FROM {table} WHERE sid = $1 FOR UPDATE", first.sid)
    except asyncpg.DeadlockDetectedError:
        pass  # either of the two may be chosen
    await transaction.rollback()
    assert [isinstance(result, Applied) for result in await batch] == [True, True]
    await store.close()


async def test_a_server_that_takes_no_writes_is_told(url: str) -> None:
    async with SessionDB(url) as db:
        await db.create("ann")
    reading = SessionDB(with_option(url, "default_transaction_read_only=on"))
    async with reading:
        assert len(await reading.sessions_of("ann")) == 1
        with pytest.raises(StoreUnavailable, match=r"read-only: a replica.*Name the primary"):
            await reading.create("ann")


async def test_listing_asks_the_replica_and_requests_never_do(url: str) -> None:
    async with SessionDB(url) as db:
        issued = await db.create("ann")
        token = issued.token
    nowhere = quote("postgresql://127.0.0.1:1/nowhere", safe="")
    async with SessionDB(f"{url}&replica={nowhere}") as db:
        async with db.session(token) as session:
            assert session.user_id == "ann"
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await db.sessions_of("ann")
    async with SessionDB(f"{url}&replica={quote(url, safe='')}") as db:
        assert len(await db.sessions_of("ann")) == 1


@pytest.fixture
def small() -> Iterator[PostgreSQL]:
    server = PostgreSQL({"fsync": "off", "max_connections": "6", "superuser_reserved_connections": "0"})
    yield server
    server.stop()


async def test_what_landed_is_told_although_the_reason_of_another_cannot_be_read(
    small: PostgreSQL, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies between the statement that writes and the one that asks why one change did not land."""
    store = PostgreSQLStore(small.url)
    await store.open()
    kit.now = await store.clock()
    living, unknown = kit.record("ann"), kit.record("ann")
    await kit.put_in(store, living)
    load = store._load

    async def load_from_the_dead(sids: Any) -> Any:
        small.process.kill()
        return await load(sids)

    monkeypatch.setattr(store._applying, "_load", load_from_the_dead)
    applied, lost = await store.apply([kit.update(living, {"n": 1}), kit.update(unknown, {"n": 1})])
    monkeypatch.undo()
    assert isinstance(applied, Applied)
    assert isinstance(lost, StoreUnavailable)
    assert lost.outcome == "not_applied"
    small.process.start()
    assert await kit.data_of(store, living.sid) == {"n": 1}
    await store.close()


async def test_a_server_without_a_free_connection_is_told_and_recovers(small: PostgreSQL) -> None:
    start_of_all = [await asyncpg.connect(small.url) for _ in range(5)]
    db = SessionDB(with_option(small.url, "pool_size=4"), timeout=1)
    await db.open()
    others: list[Any] = []
    try:
        issued = await asyncio.gather(*(db.create(f"user{n}") for n in range(30)), return_exceptions=True)
        failed = [one for one in issued if isinstance(one, BaseException)]
        assert failed
        assert all(isinstance(one, StoreUnavailable) for one in failed)
        assert all("max_connections" in str(one) for one in failed)
    finally:
        for connection in (*start_of_all, *others):
            await connection.close()
    assert all(one.token for one in await asyncio.gather(*(db.create(f"user{n}") for n in range(30))))
    await db.close()


async def test_people_can_query_the_data(url: str, sql: Any) -> None:
    """The statements in the module's docstring, with other tables' names."""
    table = f"{prefix_of(url)}sessions"
    recipe = [line.strip() for line in str(postgresql.__doc__).splitlines() if line.startswith("    ")]
    index, question = (line.replace("sessiondb_sessions", table) for line in recipe)
    async with SessionDB(url) as db:
        await db.create("ann", {"cart": [{"id": 7}], "theme": "dark"})
        await db.create("bob", {"cart": [], "theme": "light"})
    # Enough of them that the planner would rather not read them all.
    names = await sql.fetchval(
        "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 1", table
    )
    await sql.execute(
        f"INSERT INTO {table} (sid, {names}) SELECT gen_random_uuid(), {names} FROM {table}, generate_series(1, 3000) "
        "WHERE user_id = 'bob'"
    )
    await sql.execute(index)
    await sql.execute(f"ANALYZE {table}")
    assert await sql.fetchval(question) == "ann"
    plan = "\n".join(row[0] for row in await sql.fetch(f"EXPLAIN {question}"))
    assert f"Bitmap Index Scan on {table}_data" in plan
    assert await sql.fetchval(f"SELECT data->>'theme' FROM {table} WHERE user_id = 'ann'") == "dark"
    assert await sql.fetchval(f"SELECT client_last->>'ip' FROM {table} WHERE user_id = 'ann'") is None


@pytest.mark.parametrize("indexed", [False, True], ids=["", "data_indexed"])
async def test_a_touch_moves_no_index(url: str, sql: Any, kit: Kit, indexed: bool) -> None:
    store = await kit.store()
    table = f"{prefix_of(url)}sessions"
    if indexed:
        await sql.execute(f"CREATE INDEX ON {table} USING gin (data jsonb_path_ops)")
    records = [kit.record(f"user{n}", {"a": 1}, age=3_600_000_000) for n in range(32)]
    await kit.put_in(store, *records)
    for _ in range(4):
        for result in await store.apply([kit.touch(record) for record in records]):
            assert isinstance(result, Applied)
    await kit.close_all()
    async with asyncio.timeout(20):
        while True:
            # The server counts them a moment later.
            await sql.execute("SELECT pg_stat_clear_snapshot()")
            total, hot = await sql.fetchrow(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_all_tables WHERE relname = $1", table
            )
            if total >= 128:
                break
            await asyncio.sleep(0.05)
    assert hot > total / 2, "the others found no room left in their page"
    # Whatever index somebody adds: these are what a touch writes.
    indexed_columns = await sql.fetchval(
        "SELECT array_agg(DISTINCT attname::text) FROM pg_attribute a JOIN pg_index i ON a.attrelid = i.indexrelid "
        "WHERE i.indrelid = to_regclass($1)",
        table,
    )
    assert not {"last_seen_at", "client_last"} & set(indexed_columns)


@given(values)
def test_numbers_are_spelled_so_that_decimals_keep_them(value: Any) -> None:
    encoded = codec.encode_value("k", value)
    spelled = positional(encoded)
    assert codec.is_same(spelled, value)
    outside_strings = codec.decode_value(spelled)
    assert codec.encode_value("k", outside_strings) == encoded


def test_a_server_can_be_had() -> None:
    """Where it cannot, everything here is skipped, and with CI=true this fails."""
    server = start("postgresql")
    server.stop()
