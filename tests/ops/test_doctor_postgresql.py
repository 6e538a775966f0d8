"""What the doctor says of PostgreSQL servers, good and bad, and of PgBouncer before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from findings import finding, problems, survives

from databases import had, new_prefix, with_option
from provision.pgbouncer import PgBouncer
from provision.postgresql import PostgreSQL
from sessiondb import ConfigurationError, open_store
from sessiondb.ops.doctor import examine
from sessiondb.ops.doctor.report import POWER_CUT, SERVER_KILLED


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    server = had(PostgreSQL)
    yield server
    server.stop()


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture
async def url(server: PostgreSQL, prefix: str) -> str:
    """Empty tables of the store."""
    url = with_option(server.url, f"prefix={prefix}")
    store = open_store(url)
    await store.open()
    await store.close()
    return url


@asynccontextmanager
async def connected(server: PostgreSQL) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


async def set_on(server: PostgreSQL, name: str, value: str | None) -> None:
    """Change a setting of the server (``None``: back to its default), and wait until it is so."""
    async with connected(server) as connection:
        change = f"SET {name} = '{value}'" if value is not None else f"RESET {name}"
        await connection.execute(f"ALTER SYSTEM {change}")
        await connection.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while True:
            async with connected(server) as connection:
                now, default = await connection.fetchrow(
                    "SELECT setting, boot_val FROM pg_settings WHERE name = $1", name
                )
            if now == (default if value is None else value):
                return
            await asyncio.sleep(0.02)


async def test_a_server_with_its_defaults_loses_nothing(url: str) -> None:
    report = await examine(url)
    assert problems(report) == []
    assert report.database.startswith("PostgreSQL ")
    assert [one.survives for one in report.durability] == [True, True, True]
    assert finding(report, "indexes").found == "all 12 there"
    assert finding(report, "clock").level == "ok"


async def test_a_database_without_tables_stays_without(server: PostgreSQL, prefix: str) -> None:
    report = await examine(with_option(server.url, f"prefix={prefix}"))
    assert finding(report, "schema").level == "note"
    async with connected(server) as connection:
        assert await connection.fetchval("SELECT to_regclass($1)", f"{prefix}sessions") is None


@pytest.mark.parametrize(
    ("name", "value", "check", "level", "kill", "power"),
    [
        ("synchronous_commit", "off", "synchronous_commit", "problem", False, False),
        ("fsync", "off", "fsync", "problem", True, False),
        ("full_page_writes", "off", "full_page_writes", "problem", True, False),
        ("autovacuum", "off", "autovacuum", "warning", True, True),
        ("default_transaction_read_only", "on", "role", "problem", True, True),
    ],
)
async def test_settings_that_lose_sessions_are_found(
    server: PostgreSQL, url: str, name: str, value: str, check: str, level: str, kill: bool, power: bool
) -> None:
    await set_on(server, name, value)
    try:
        report = await examine(url)
    finally:
        await set_on(server, name, None)
    found = finding(report, check)
    assert found.level == level
    assert f"ALTER SYSTEM SET {name} = {'off' if value == 'on' else 'on'}" in found.mend
    assert [one.check for one in problems(report)] == [check]
    assert survives(report, SERVER_KILLED) is kill
    assert survives(report, POWER_CUT) is power


@pytest.mark.parametrize(
    ("statement", "check", "level", "mend"),
    [
        ("DROP INDEX {p}sessions_user", "index", "problem", "CREATE INDEX CONCURRENTLY {p}sessions_user ON"),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{p}sessions_check'::regclass",
            "index",
            "problem",
            "REINDEX INDEX CONCURRENTLY {p}sessions_check",
        ),
        ("DROP TABLE {p}users", "tables", "problem", "sessiondb init"),
        ("UPDATE {p}meta SET value = '99'", "schema", "problem", "Install the sessiondb"),
        ("ALTER TABLE {p}sessions RESET (fillfactor)", "fillfactor", "note", "fillfactor = 80"),
    ],
    ids=["index", "invalid", "table", "version", "fillfactor"],
)
async def test_what_is_wrong_with_the_tables_is_found(
    server: PostgreSQL, url: str, prefix: str, statement: str, check: str, level: str, mend: str
) -> None:
    async with connected(server) as connection:
        await connection.execute(statement.format(p=prefix))
    found = finding(await examine(url), check)
    assert found.level == level
    assert mend.format(p=prefix) in found.mend


@pytest.mark.parametrize("option", ["", "partitions=monthly"])
async def test_the_statement_that_mends_a_missing_index_does(server: PostgreSQL, prefix: str, option: str) -> None:
    url = with_option(with_option(server.url, f"prefix={prefix}"), option)
    store = open_store(url)
    await store.open()
    await store.close()
    assert not (await examine(url)).has_problems
    async with connected(server) as connection:
        await connection.execute(f"DROP INDEX {prefix}sessions_user")
        await connection.execute(finding(await examine(url), "index").mend)
    assert finding(await examine(url), "indexes").level == "ok"


async def test_the_statement_that_mends_a_missing_column_does(server: PostgreSQL, url: str, prefix: str) -> None:
    async with connected(server) as connection:
        await connection.execute(f"ALTER TABLE {prefix}sessions DROP COLUMN purge_at")
        await connection.execute(finding(await examine(url), "column").mend)
    assert finding(await examine(url), "columns").level == "ok"


async def test_touches_that_write_every_index_are_found(server: PostgreSQL, url: str, prefix: str) -> None:
    async with connected(server) as connection:
        await connection.execute(
            f"INSERT INTO {prefix}sessions (sid, created_at, last_seen_at, idle, absolute, check_at, rev, last_changes,"
            " series_hash, secret_hash) SELECT gen_random_uuid(), 0, 0, 1, 1, 1, 1, '', '', '' "
            "FROM generate_series(1, 1500)"
        )
        await connection.execute(f"CREATE INDEX ON {prefix}sessions (last_seen_at)")
        await connection.execute(f"UPDATE {prefix}sessions SET last_seen_at = last_seen_at + 1")
    # What a connection has counted is there for others once it has ended.
    async with asyncio.timeout(20):
        report = await examine(url)
        while not any(one.check == "HOT updates" for one in report.findings):
            await asyncio.sleep(0.05)
            report = await examine(url)
    assert finding(report, "HOT updates").level == "warning"


async def test_a_database_of_another_encoding_is_a_problem(server: PostgreSQL) -> None:
    async with connected(server) as connection:
        await connection.execute("CREATE DATABASE old ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    found = finding(await examine(server.url.replace("/postgres", "/old")), "encoding")
    assert (found.level, found.found) == ("problem", "LATIN1")


async def test_a_replica_given_as_primary_is_a_problem() -> None:
    server = had(PostgreSQL)
    try:
        server.process.kill()
        signal = server.process.folder / "data" / "standby.signal"
        signal.touch(mode=0o644)
        server.process.start()
        found = finding(await examine(server.url), "role")
    finally:
        server.stop()
    assert (found.level, found.found) == ("problem", "a replica")
    assert "?replica=" in found.mend


@pytest.mark.parametrize(
    ("mode", "option", "level", "mend"),
    [
        ("session", "", "problem", "?pooler=transaction"),
        ("transaction", "", "problem", "?pooler=transaction"),
        ("transaction", "pooler=transaction", "ok", ""),
        ("statement", "", "problem", "pool_mode = transaction"),
        ("statement", "pooler=transaction", "problem", "pool_mode = transaction"),
    ],
)
async def test_a_pooler_is_found_with_its_mode(
    server: PostgreSQL, mode: str, option: str, level: str, mend: str
) -> None:
    pooler = had(lambda: PgBouncer(server.url, mode))
    try:
        found = finding(await examine(with_option(pooler.url, option)), "pooler")
    finally:
        pooler.stop()
    assert found.level == level
    assert mend in found.mend


async def test_a_pooler_that_is_not_there_is_noted(url: str) -> None:
    report = await examine(with_option(url, "pooler=transaction"))
    assert finding(report, "pooler").level == "note"
    assert not report.has_problems


async def test_a_wrong_password_is_a_configuration_error_that_does_not_show_it(server: PostgreSQL) -> None:
    with pytest.raises(ConfigurationError, match="refused the password") as caught:
        await examine(server.url.replace("throw-away", "hunter2"))
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_is_not_there_is_a_problem(server: PostgreSQL) -> None:
    report = await examine("postgresql://ada:hunter2@127.0.0.1:9/postgres")
    assert report.has_problems
    assert "Start it" in finding(report, "usable").means
    assert "hunter2" not in str(report)
