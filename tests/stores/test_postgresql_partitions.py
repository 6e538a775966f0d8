"""``?partitions=monthly``: months are made ahead and dropped when they are empty, and no request ever notices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from databases import drop, new_prefix, url_of, with_login, with_option
from sessiondb import ConfigurationError, SessionDB, StoreUnavailable, open_store
from sessiondb.core.change import Applied
from sessiondb.core.policy import SECOND
from sessiondb.stores._postgresql_partitions import month_of
from sessiondb.stores._postgresql_schema import schema_sql
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY
from sessiondb.testing.kit import Kit

MONTH = 31 * DAY


@pytest.fixture
async def prefix() -> AsyncIterator[str]:
    prefix = new_prefix()
    yield prefix
    await drop("postgresql", prefix)


@pytest.fixture
def url(prefix: str) -> str:
    return with_option(url_of("postgresql"), f"prefix={prefix}&partitions=monthly")


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


def name_of(month: int) -> str:
    return f"{month // 12}_{month % 12 + 1:02}"


async def parts_of(sql: Any, prefix: str) -> dict[str, int]:
    """By the end of its name, how many sessions each partition has."""
    found = await sql.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass($1)",
        f"{prefix}sessions",
    )
    names = [row[0] for row in found]
    return {
        name.removeprefix(f"{prefix}sessions_"): await sql.fetchval(f"SELECT count(*) FROM {name}")
        for name in sorted(names)
    }


def months(now: int, *counts: int) -> dict[str, int]:
    """What three months from ``now`` on and the rest should have."""
    current = month_of(now)
    names = [*(name_of(current + ahead) for ahead in range(3)), "rest"]
    return dict(zip(names, [*counts, 0, 0, 0, 0][:4], strict=True))


def test_months_are_those_of_the_calendar() -> None:
    for text, month in (("1970-01-01T00:00", "1970_01"), ("2024-02-29T23:59", "2024_02"), ("2026-12-31", "2026_12")):
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
        assert name_of(month_of(int(at.timestamp()) * SECOND)) == month


async def test_a_new_database_has_the_months_to_come(prefix: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    assert await parts_of(sql, prefix) == months(kit.now)
    await kit.put_in(store, *(kit.record("ann") for _ in range(3)), kit.record("old", age=4 * MONTH))
    assert await parts_of(sql, prefix) == months(kit.now, 3) | {"rest": 1}
    stats = await store.stats()
    assert stats.live == 4
    assert stats.size_bytes is not None and stats.size_bytes > 10 * 8192, "the partitions are counted, not their parent"


async def test_a_sweep_makes_months_ahead_and_drops_those_that_are_empty(prefix: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    began = kit.now
    record = kit.record("ann")
    await kit.put_in(store, record)
    while month_of(kit.now) < month_of(began) + 2:
        kit.now += DAY
    await store.sweep(kit.cutoffs(), 100)
    # The month between had no session; the first one's has ended, and its tombstone is kept.
    assert await parts_of(sql, prefix) == months(kit.now) | {name_of(month_of(began)): 1}
    assert (await kit.record_of(store, record.sid)).ended_at is not None
    kit.now += MONTH
    await store.sweep(kit.cutoffs(), 100)
    kit.now += MONTH
    await store.sweep(kit.cutoffs(), 100)
    assert await parts_of(sql, prefix) == months(kit.now)


def pass_all_months(kit: Kit) -> None:
    """Time goes on past all months that are there, while no sweep runs."""
    start = month_of(kit.now)
    while month_of(kit.now) < start + 3:
        kit.now += DAY


async def test_sessions_of_a_month_that_was_not_made_move_into_it(prefix: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    pass_all_months(kit)
    records = [kit.record(f"user{n}", {"n": n}) for n in range(20)]
    await kit.put_in(store, *records)
    assert (await parts_of(sql, prefix))["rest"] == 20
    await store.sweep(kit.cutoffs(), 100)
    assert await parts_of(sql, prefix) == months(kit.now, 20)
    assert [await kit.data_of(store, one.sid) for one in records] == [{"n": n} for n in range(20)]


async def test_requests_go_on_while_sessions_move(prefix: str, sql: Any, kit: Kit) -> None:
    store, other = await kit.stores(2)
    pass_all_months(kit)
    records = [kit.record(f"user{n}", {"n": 0}) for n in range(200)]
    await kit.put_in(store, *records)
    moved = False
    counts = [0] * 8

    async def write(number: int) -> None:
        mine = records[number::8]
        while not moved:
            counts[number] += 1
            changes = [kit.update(one, {"n": counts[number]}) for one in mine]
            for result in await store.apply(changes):
                assert isinstance(result, Applied), result
            assert None not in await store.load([one.sid for one in mine])

    writing = [asyncio.create_task(write(number)) for number in range(8)]
    try:
        async with asyncio.timeout(20):
            while (await parts_of(sql, prefix))["rest"]:
                await other.sweep(kit.cutoffs(), 100)
    finally:
        moved = True
    await asyncio.gather(*writing)
    for number in range(8):
        for record in records[number::8]:
            assert await kit.data_of(store, record.sid) == {"n": counts[number]}


async def test_a_month_that_somebody_reads_is_dropped_by_a_later_sweep(prefix: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    began = kit.now
    while month_of(kit.now) == month_of(began):
        kit.now += DAY
    record = kit.record("ann")
    async with sql.transaction():
        await sql.execute(f"SELECT count(*) FROM {prefix}sessions")  # a long report
        await kit.put_in(store, record)
        await store.sweep(kit.cutoffs(), 100)
        assert await kit.find_record(store, record.sid) is not None
        assert name_of(month_of(began)) in await parts_of(sql, prefix)
    await store.sweep(kit.cutoffs(), 100)
    assert await parts_of(sql, prefix) == months(kit.now, 1)


async def test_workers_that_start_and_sweep_at_once(prefix: str, sql: Any, url: str, kit: Kit) -> None:
    stores = [open_store(url) for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    kit.now = await stores[0].clock()
    assert await parts_of(sql, prefix) == months(kit.now)
    pass_all_months(kit)
    await asyncio.gather(*(store.sweep(kit.cutoffs(), 100) for store in stores))
    for store in stores:
        await store.sweep(kit.cutoffs(), 100)  # goes on where it did not wait for another
        await store.close()
    assert await parts_of(sql, prefix) == months(kit.now)


async def test_a_table_without_partitions_is_told_with_the_way_over(prefix: str, sql: Any, url: str) -> None:
    plain = url.replace("&partitions=monthly", "")
    async with SessionDB(plain) as db:
        token = (await db.create("ann", {"a": 1})).token
    with pytest.raises(ConfigurationError, match=rf"{prefix}sessions was made without partitions.*INSERT INTO"):
        await SessionDB(url).open()
    # That way over:
    new = f"{prefix}n_"
    async with SessionDB(url.replace(f"prefix={prefix}", f"prefix={new}")) as db:
        for name in ("sessions", "users"):
            await sql.execute(f"INSERT INTO {new}{name} SELECT * FROM {prefix}{name}")
        async with db.session(token) as session:
            assert session == {"a": 1}
    await drop("postgresql", new)


async def test_a_role_that_does_not_own_the_table(
    prefix: str, sql: Any, url: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot start with the option; if it loses the table later, sweeps go on."""
    role = f"{prefix}app"
    await sql.execute(schema_sql(prefix, partitions=True))
    await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    grant = "; ".join(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {prefix}{name} TO {role}"
        for name in ("sessions", "links", "users", "events", "meta")
    )
    await sql.execute(grant)
    try:
        with pytest.raises(StoreUnavailable, match="let it own them"):
            await open_store(with_login(url, role, "x")).open()
        plain = open_store(with_login(url, role, "x").replace("&partitions=monthly", ""))
        await plain.open()
        await kit.put_in(plain, kit.record("ann"))
        await plain.close()
        await sql.execute(f"GRANT CREATE ON SCHEMA public TO {role}; ALTER TABLE {prefix}sessions OWNER TO {role}")
        await sql.execute(f"ALTER TABLE {prefix}sessions_rest OWNER TO {role}")
        store = open_store(with_login(url, role, "x"))
        await store.open()
        await sql.execute(f"ALTER TABLE {prefix}sessions OWNER TO CURRENT_USER; {grant}")
        kit.now = await store.clock()
        pass_all_months(kit)
        with caplog.at_level(logging.WARNING, "sessiondb"):
            await store.sweep(kit.cutoffs(), 100)
        assert [f"partitions of {prefix}sessions were not kept" in one.message for one in caplog.records] == [True]
        await store.close()
    finally:
        await sql.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_an_unknown_interval_is_told() -> None:
    with pytest.raises(ConfigurationError, match="partitions is 'daily'; use 'monthly'"):
        open_store("postgresql://localhost/app?partitions=daily")
