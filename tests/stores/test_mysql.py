"""What is MySQL's and MariaDB's own: settings, other people's locks, lost tables, SQL modes, exact user ids."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asyncmy.errors import OperationalError

from databases import new_prefix, start, url_of, with_option
from provision.mariadb import MariaDB
from sessiondb import ConfigurationError, SessionDB, StoreUnavailable, open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.core.token import format_sid
from sessiondb.stores._mysql_connection import Connection, connect
from sessiondb.stores._mysql_rows import sid_sql
from sessiondb.stores._mysql_schema import TABLES, schema_sql
from sessiondb.stores._mysql_url import parse
from sessiondb.stores.base import Sheet
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


@pytest.fixture
def url() -> str:
    return with_option(url_of("mysql"), f"prefix={new_prefix()}")


@pytest.fixture
async def kit(url: str) -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def sql() -> AsyncIterator[Connection]:
    connection = await connect(parse(url_of("mysql")).arguments, 5)
    yield connection
    await connection.close()


def prefix_of(url: str) -> str:
    return url.rpartition("prefix=")[2].partition("&")[0]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host", "names no database"),
        ("mysql://host:99999/app", "port"),
        ("mysql://host/app?prefix=a-b", "prefix is"),
        ("mysql://host/app?pool_size=0", "pool_size is '0'"),
        ("mysql://host/app?lock_timeout=0.2", "whole number"),
        ("mysql://host/app?charset=latin1", "does not know the option 'charset'"),
        ("mysql://host/app?ssl=maybe", "use true or false"),
        ("mysql://host/app?ssl_ca=/no/such/file", "certificate files cannot be used"),
    ],
)
def test_a_url_that_cannot_work_is_told_at_once(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store(url)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+asyncmy", "mysql+pymysql", "mariadb+mariadbconnector"])
def test_urls_as_other_tools_write_them_are_taken(scheme: str) -> None:
    assert repr(open_store(f"{scheme}://ann:secret@db.example:3307/app")) == "MySQLStore(db.example:3307/app)"


async def test_a_wrong_password_stops_the_start_and_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="refused user or password") as caught:
        await SessionDB(url.replace("throw-away", "not-the-password")).open()
    assert "not-the-password" not in str(caught.value)


async def test_a_database_that_is_not_there_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="CREATE DATABASE"):
        await SessionDB(url.replace("/sessiondb?", "/nowhere?")).open()


async def test_a_newer_schema_stops_the_start(url: str, sql: Connection, kit: Kit) -> None:
    await kit.store()
    await sql.run([f"UPDATE {prefix_of(url)}meta SET value = '99' WHERE name = 'schema_version'"])
    with pytest.raises(ConfigurationError, match="schema version 99"):
        await SessionDB(url).open()


async def test_a_table_without_a_column_stops_the_start(url: str, sql: Connection) -> None:
    """What is to be run is in the message, and helps."""
    async with SessionDB(url):
        pass
    table = f"{prefix_of(url)}sessions"
    await sql.run([f"ALTER TABLE {table} DROP COLUMN purge_at"])
    repair = f"ALTER TABLE {table} ADD COLUMN purge_at BIGINT;"
    with pytest.raises(ConfigurationError, match=re.escape(f"{table}.purge_at is missing. Run: {repair}")):
        await SessionDB(url).open()
    await sql.run([repair])
    async with SessionDB(url) as db:
        await db.create("ann")
        assert await db.revoke_all("ann") == 1


async def test_a_table_that_is_missing_is_made(url: str, sql: Connection) -> None:
    async with SessionDB(url):
        pass
    await sql.run([f"DROP TABLE {prefix_of(url)}links"])
    async with SessionDB(url):
        [found] = await sql.run([f"SELECT count(*) FROM {prefix_of(url)}links"])
        assert found.rows == ((0,),)


async def test_tables_may_be_made_by_hand_for_a_user_who_may_not(url: str, sql: Connection) -> None:
    prefix = prefix_of(url)
    user = f"{prefix}app"
    await sql.run([f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'x'"])
    mine = url.replace("sessiondb:throw-away", f"{user}:x")
    try:
        with pytest.raises(StoreUnavailable, match="GRANT"):
            await SessionDB(mine).open()
        for statement in schema_sql(prefix).split(";\n"):
            if statement.strip():
                await sql.run([statement])
        for name in TABLES:
            await sql.run([f"GRANT SELECT, INSERT, UPDATE, DELETE ON {prefix}{name} TO {user}@'127.0.0.1'"])
        async with SessionDB(mine) as db:
            await db.create("ann", {"a": 1})
            assert await db.revoke_all("ann") == 1
            await db.sweep()
            await db.runtime.store.publish([Sheet("usage", 1, "a", b"", 1)])
            assert await db.runtime.store.expire(1, 10) == 1
    finally:
        await sql.run([f"DROP USER {user}@'127.0.0.1'"])


async def test_lost_tables_are_made_anew(url: str, sql: Connection, kit: Kit) -> None:
    store = await kit.store()
    await sql.run([f"DROP TABLE {prefix_of(url)}sessions, {prefix_of(url)}users"])
    record = kit.record("ann")
    with pytest.raises(StoreUnavailable, match="has lost tables"):
        await kit.apply(store, kit.create(record))
    assert isinstance(await kit.apply(store, kit.create(record)), Applied)


async def test_a_row_that_somebody_else_holds_fails_alone(url: str, sql: Connection, kit: Kit) -> None:
    store = await kit.store()
    records = [kit.record("ann") for _ in range(5)]
    await kit.put_in(store, *records)
    held = sorted(records, key=lambda record: record.sid)[2]
    table = f"{prefix_of(url)}sessions"
    await sql.run(["START TRANSACTION", f"SELECT sid FROM {table} WHERE sid = {sid_sql(held.sid)} FOR UPDATE"])
    results = await store.apply([kit.update(record, {"n": 1}) for record in records])
    await sql.run(["ROLLBACK"])
    for record, result in zip(records, results, strict=True):
        if record is held:
            assert isinstance(result, StoreError)
            assert "locked by another transaction" in str(result)
            assert result.outcome == "not_applied"
        else:
            assert isinstance(result, Applied)
    assert isinstance(await kit.apply(store, kit.update(held, {"n": 2})), Applied)


async def test_a_deadlock_with_another_program_is_tried_again(url: str, sql: Connection, kit: Kit) -> None:
    store = open_store(f"{url}&lock_timeout=5")
    await store.open()
    kit.now = await store.clock()
    first, second = sorted((kit.record("ann"), kit.record("ann")), key=lambda record: record.sid)
    await kit.put_in(store, first, second)
    table = f"{prefix_of(url)}sessions"
    lock = f"SELECT sid FROM {table} WHERE sid = {{}} FOR UPDATE"
    # The other way round, as no part of sessiondb does it.
    await sql.run(["START TRANSACTION", lock.format(sid_sql(second.sid))])
    batch = asyncio.create_task(store.apply([kit.touch(first), kit.touch(second)]))
    await asyncio.sleep(0.1)
    with contextlib.suppress(OperationalError):  # either of the two may be chosen
        await sql.run([lock.format(sid_sql(first.sid))])
    await sql.run(["ROLLBACK"])
    assert [isinstance(result, Applied) for result in await batch] == [True, True]
    await store.close()


async def test_users_are_bytes(url: str) -> None:
    """Under MySQL's default collation these would be one user."""
    names = ["alice", "ALICE", "Álice", "alice ", "ａlice"]
    async with SessionDB(url) as db:
        for name in names:
            await db.create(name)
        for left, name in enumerate(names):
            assert await db.revoke_all(name) == 1, left


async def test_people_can_query_the_data(url: str, sql: Connection) -> None:
    table = f"{prefix_of(url)}sessions"
    async with SessionDB(url) as db:
        issued = await db.create("ann", {"theme": "dark", "n": 1.0})
    [found] = await sql.run(
        [f"SELECT JSON_UNQUOTE(JSON_EXTRACT(data, '$.theme')), sid FROM {table} WHERE user_id = 'ann'"]
    )
    theme, sid = found.rows[0]
    assert (theme, format_sid(sid)) == (b"dark", issued.session.sid)


@pytest.fixture
def strange() -> Iterator[MariaDB]:
    """A server with everything set as nobody should."""
    server = MariaDB(
        "--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT",
        "--character-set-server=latin1",
        "--transaction-isolation=SERIALIZABLE",
        "--default-time-zone=+05:30",
        "--autocommit=0",
        "--max-connections=10",
    )
    yield server
    server.stop()


async def test_the_servers_defaults_do_not_matter(strange: MariaDB) -> None:
    async with SessionDB(with_option(strange.url, "pool_size=2")) as db:
        hard = {"a\"b'c\\d": "é\n😀\\'", "n": 1e23}
        issued = await db.create("ann", hard)
        async with db.session(issued.token) as session:
            assert session == hard
            session["more"] = "\\"
        found = await db.get(issued.session.sid)
        assert found is not None
        assert found.data == hard | {"more": "\\"}
        assert abs(db.runtime.now() - found.created_at) < 60_000_000


async def test_a_server_without_a_free_connection_is_told_and_recovers(strange: MariaDB) -> None:
    arguments = parse(strange.url).arguments
    db = SessionDB(with_option(strange.url, "pool_size=2"), timeout=3)
    await db.open()
    await db.close()
    held: list[Any] = []
    with pytest.raises(Exception, match="Too many connections"):
        for _ in range(20):
            held.append(await connect(arguments, 1))
    with pytest.raises(StoreUnavailable, match="max_connections"):
        await db.open()
    for connection in held:
        await connection.close()
    async with asyncio.timeout(10):
        while True:
            try:
                await db.create("ann")
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
    await db.close()


async def test_a_replica_given_as_primary_is_told() -> None:
    server = MariaDB()
    try:
        async with SessionDB(server.url) as db:
            await db.create("ann")
        admin = await connect(parse(server.url).arguments, 1)
        await admin.run(["CREATE USER app@'127.0.0.1' IDENTIFIED BY 'x'"])
        await admin.run(["GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON sessiondb.* TO app@'127.0.0.1'"])
        await admin.run(["SET GLOBAL read_only = 1"])
        await admin.close()
        async with SessionDB(server.url.replace("sessiondb:throw-away", "app:x")) as db:
            assert len(await db.sessions_of("ann")) == 1
            with pytest.raises(StoreUnavailable, match=r"read-only: a replica.*Name the primary"):
                await db.create("ann")
    finally:
        server.stop()


def test_a_server_can_be_had() -> None:
    """Where it cannot, everything here is skipped, and with CI=true this fails."""
    start("mysql").stop()
