"""What stops the start on PostgreSQL, each with its cure: wrong options, passwords, names, rights and versions."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from databases import new_prefix, url_of, with_database, with_login, with_option
from sessiondb import ConfigurationError, SessionDB, StoreUnavailable, open_store
from sessiondb.stores._postgresql_schema import schema_sql


@pytest.fixture
def url() -> str:
    return with_option(url_of("postgresql"), f"prefix={new_prefix()}")


@pytest.fixture
async def sql() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url_of("postgresql"))
    yield connection
    await connection.close()


def prefix_of(url: str) -> str:
    return url.rpartition("prefix=")[2].partition("&")[0]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("prefix=Robert'); DROP", "prefix is"),
        ("pool_size=0", "pool_size is '0'; use a number from 1"),
        ("pool_size=1.5", "whole number"),
        ("pooler=statement", "Statement mode cannot work"),
        ("lock_timeout=soon", "lock_timeout is 'soon'"),
        ("connect_timeout=nan", "connect_timeout"),
    ],
)
def test_a_wrong_option_is_told_at_once_with_the_cure(option: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        open_store(f"postgresql://localhost/app?{option}")


def test_a_port_that_is_none_is_told() -> None:
    with pytest.raises(ConfigurationError, match="port"):
        open_store("postgresql://localhost:99999/app")


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg", "postgresql+psycopg", "postgres"])
def test_urls_as_other_tools_write_them_are_taken(scheme: str) -> None:
    assert repr(open_store(f"{scheme}://ann:secret@db.example:6543/app")) == "PostgreSQLStore(db.example:6543/app)"


def test_several_servers_may_be_named() -> None:
    shown = repr(open_store("postgresql://ann:secret@a.example,b.example:6543/app?target_session_attrs=primary"))
    assert shown == "PostgreSQLStore(a.example:5432,b.example:6543/app)"


async def test_a_wrong_password_stops_the_start_and_shows_no_password(url: str) -> None:
    wrong = with_login(url, password="not-the-password")
    with pytest.raises(ConfigurationError, match="refused the password") as caught:
        await SessionDB(wrong).open()
    assert "not-the-password" not in str(caught.value)
    assert "not-the-password" not in repr(SessionDB(wrong))


async def test_a_database_that_is_not_there_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="createdb"):
        await SessionDB(with_database(url, "nowhere")).open()


async def test_an_option_that_nobody_knows_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="does not know an option in the URL"):
        await SessionDB(f"{url}&pool_sise=3").open()


async def test_a_schema_that_is_not_there_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"CREATE SCHEMA.*search_path"):
        await SessionDB(f"{url}&search_path=nowhere").open()


async def test_the_tables_may_be_in_another_schema(url: str, sql: Any) -> None:
    schema = f"{prefix_of(url)}app"
    await sql.execute(f"CREATE SCHEMA {schema}")
    async with SessionDB(f"{url}&search_path={schema}") as db:
        await db.create("ann")
        assert (await db.stats()).live == 1
    assert await sql.fetchval(f"SELECT user_id FROM {schema}.{prefix_of(url)}sessions") == "ann"
    await sql.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_a_newer_schema_stops_the_start(url: str, sql: Any) -> None:
    async with SessionDB(url):
        pass
    await sql.execute(f"UPDATE {prefix_of(url)}meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(ConfigurationError, match="schema version 99"):
        await SessionDB(url).open()


async def test_a_table_without_a_column_stops_the_start(url: str, sql: Any) -> None:
    """What is to be run is in the message, and helps."""
    async with SessionDB(url):
        pass
    table = f"{prefix_of(url)}sessions"
    await sql.execute(f"ALTER TABLE {table} DROP COLUMN purge_at")
    repair = f"ALTER TABLE {table} ADD COLUMN purge_at bigint;"
    with pytest.raises(ConfigurationError, match=re.escape(f"{table}.purge_at is missing. Run: {repair}")):
        await SessionDB(url).open()
    await sql.execute(repair)
    async with SessionDB(url) as db:
        await db.create("ann")
        assert await db.revoke_all("ann") == 1


async def test_a_table_that_is_missing_is_made(url: str, sql: Any) -> None:
    async with SessionDB(url):
        pass
    await sql.execute(f"DROP TABLE {prefix_of(url)}links")
    async with SessionDB(url):
        assert await sql.fetchval(f"SELECT count(*) FROM {prefix_of(url)}links") == 0


async def test_tables_may_be_made_by_hand_for_a_role_that_may_not(url: str, sql: Any) -> None:
    """With the printed DDL and a role that may only read and write rows."""
    prefix, role = prefix_of(url), f"{prefix_of(url)}app"
    await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    mine = with_login(url, role, "x")
    with pytest.raises(StoreUnavailable, match="GRANT"):
        await SessionDB(mine).open()
    await sql.execute(schema_sql(prefix))
    await sql.execute(
        "".join(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {prefix}{name} TO {role};"
            for name in ("sessions", "links", "users", "events", "meta")
        )
    )
    async with SessionDB(mine) as db:
        issued = await db.create("ann", {"a": 1})
        assert await db.revoke_all("ann") == 1
        await db.sweep()
        assert (await db.get(issued.session.sid)) is not None
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
