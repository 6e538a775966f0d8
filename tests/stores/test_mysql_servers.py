"""MySQL and MariaDB servers with settings of their own: TLS, packet sizes, privileges, killed statements, SQL modes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest

import tls
from databases import drop, had, new_prefix, url_of, with_login, with_option
from provision.mariadb import MariaDB
from provision.process import make_folder, other_user
from sessiondb import ConfigurationError, SessionDB, StoreUnavailable, open_store
from sessiondb.core.change import Applied, Gone
from sessiondb.core.errors import StoreError
from sessiondb.stores._mysql_connection import Connection, connect
from sessiondb.stores._mysql_errors import translated
from sessiondb.stores._mysql_rows import sid_sql
from sessiondb.stores._mysql_url import parse
from sessiondb.stores.base import EventQuery, NotTogether, Store
from sessiondb.testing import ManualClock, OpenHandle, conformance_suite
from sessiondb.testing.kit import Kit


@asynccontextmanager
async def admin(url: str) -> AsyncIterator[Connection]:
    connection = await connect(parse(url).arguments, 5)
    yield connection
    await connection.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Store, Kit]]:
    store = open_store(url)
    await store.open()
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    yield store, kit
    await store.close()


# -- SQL modes ----------------------------------------------------------------------------------------------


@cache
def strange() -> MariaDB:
    """One server for all, with modes that change what a literal or an operator means."""
    return had(lambda: MariaDB("--sql-mode=NO_BACKSLASH_ESCAPES,ANSI_QUOTES,PIPES_AS_CONCAT,IGNORE_SPACE"))


@pytest.fixture(scope="module", autouse=True)
def _stop_strange() -> Iterator[None]:
    yield
    if strange.cache_info().currsize:
        strange().stop()
        strange.cache_clear()  # a test of this file may still be given to this process


@asynccontextmanager
async def on_strange(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    prefix = new_prefix()
    yield lambda: open_store(with_option(strange().url, f"prefix={prefix}"))


test_conformance_in_strange_modes = conformance_suite(on_strange)


async def test_without_strict_mode_nothing_is_cut_off() -> None:
    """A lax server would store the first 255 bytes of a user id, and end somebody else's sessions by it."""
    server = had(lambda: MariaDB("--sql-mode="))
    try:
        async with opened(server.url) as (store, kit):
            assert await kit.living(store, "u" * 255) == []
            record = kit.record("u" * 255)
            await kit.put_in(store, record)
            too_long = kit.record("u" * 256)
            [refused, fine] = await store.apply([kit.create(too_long), kit.create(kit.record("ann"))])
            assert not isinstance(refused, Applied)
            assert isinstance(fine, Applied)
            assert await kit.living(store, "u" * 255) == [record.sid]
    finally:
        server.stop()


# -- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_tls() -> Iterator[tuple[MariaDB, str]]:
    """A server with a certificate of its own, and the path of that; it takes no connection without TLS."""
    user = other_user()
    folder = make_folder(user)
    made, key = tls.certificate(folder)
    for path in (made, key):
        shutil.chown(path, user) if user else None
    server = had(lambda: MariaDB(f"--ssl-cert={made}", f"--ssl-key={key}", "--require-secure-transport=ON"))
    yield server, made
    server.stop()
    shutil.rmtree(folder)


async def test_tls(with_tls: tuple[MariaDB, str]) -> None:
    server, made = with_tls
    url = with_option(server.url, f"ssl_ca={made}")
    async with SessionDB(url) as db:
        await db.create("ann")
        assert len(await db.sessions_of("ann")) == 1
    async with admin(url) as connection:
        [found] = await connection.run(["SHOW STATUS LIKE 'Ssl_cipher'"])
        assert found.rows[0][1]


async def test_a_certificate_of_nobody_we_trust_is_refused(with_tls: tuple[MariaDB, str], tmp_path: Path) -> None:
    server, _ = with_tls
    other, _ = tls.certificate(tmp_path)
    for option in ("ssl=true", f"ssl_ca={other}"):
        with pytest.raises(StoreUnavailable, match=r"no TLS \(CERTIFICATE_VERIFY_FAILED\).*\?ssl_ca=FILE"):
            await SessionDB(with_option(server.url, option)).open()


async def test_a_server_that_wants_tls_is_told_from_one_that_is_away(with_tls: tuple[MariaDB, str]) -> None:
    server, _ = with_tls
    with pytest.raises((StoreUnavailable, ConfigurationError), match=r"\?ssl=true"):
        await SessionDB(server.url).open()


async def test_a_server_without_tls_is_told() -> None:
    with pytest.raises(StoreUnavailable, match="no TLS"):
        await SessionDB(with_option(url_of("mysql"), "ssl=true")).open()


# -- packets ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_packets() -> Iterator[MariaDB]:
    """A server that takes no packet above 1 MiB, which was MySQL's default once."""
    server = had(lambda: MariaDB("--max-allowed-packet=1M"))
    yield server
    server.stop()


async def test_a_batch_larger_than_a_packet_is_sent_in_several(small_packets: MariaDB) -> None:
    """32 sessions of 64 KiB, the largest by default, are 4 MiB of SQL; they are one transaction all the same."""
    async with opened(small_packets.url) as (store, kit):
        records = [kit.record("ann", {"much": "é" * 32_000, "n": n}) for n in range(32)]
        assert [isinstance(one, Applied) for one in await store.apply(list(map(kit.create, records)))] == [True] * 32
        for seen in (False, True):
            changes = [
                kit.update(record, {"more": "x" * 1000} if seen else {"n": -1}, if_rev=2 if seen else None)
                for record in records
            ]
            assert [isinstance(one, Applied) for one in await store.apply(changes)] == [True] * 32
        for record in await store.load([one.sid for one in records]):
            assert record is not None
            assert len(record.data) > 64_000
            assert b'"n":-1' in record.data


async def test_many_events_are_more_than_one_packet(small_packets: MariaDB) -> None:
    async with opened(small_packets.url) as (store, kit):
        events = [kit.event(user_id="ann", details={"agent": "x" * 500, "n": n}) for n in range(2000)]
        await store.append(events)
        found: list[object] = []
        after = None
        while True:
            page = await store.events(EventQuery(user_id="ann", limit=500, after=after))
            found += [event.details["n"] for event in page.events]
            after = page.next
            if after is None:
                break
        assert found == list(range(1999, -1, -1))


async def test_a_session_larger_than_a_packet_fails_alone_and_says_what_to_do(small_packets: MariaDB) -> None:
    async with opened(small_packets.url) as (store, kit):
        records = [kit.record("bob", {"much": "x" * (700_000 if n == 1 else 10)}) for n in range(3)]
        results = await store.apply(list(map(kit.create, records)))
        assert [isinstance(result, Applied) for result in results] == [True, False, True]
        refused = results[1]
        assert isinstance(refused, StoreError)
        assert refused.outcome == "not_applied"
        assert "Raise max_allowed_packet" in str(refused)
        assert "max_session_bytes" in str(refused)
        assert set(await kit.living(store, "bob")) == {records[0].sid, records[2].sid}
        # No connection was lost by it, nor left inside a transaction.
        assert isinstance(await kit.apply(store, kit.update(records[0], {"n": 1})), Applied)


async def test_the_largest_session_that_can_be_configured_fits_where_the_server_takes_it() -> None:
    """16 MiB are 32 MiB of SQL, which is more than one packet of the protocol."""
    server = had(lambda: MariaDB("--max-allowed-packet=64M"))
    try:
        async with opened(server.url) as (store, kit):
            record = kit.record("ann", {"much": "x" * (16 * 1024 * 1024 - 100)})
            await kit.put_in(store, record)
            assert await kit.data_of(store, record.sid) == {"much": "x" * (16 * 1024 * 1024 - 100)}
    finally:
        server.stop()


# -- who may --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def user(identified: str, more: str = "") -> AsyncIterator[tuple[str, Connection]]:
    """The URL of a new user of the shared server, who may do everything to the tables, and an administrator."""
    prefix = new_prefix()
    url = with_option(url_of("mysql"), f"prefix={prefix}")
    async with admin(url) as connection:
        await connection.run([f"CREATE USER {prefix}u@'%' {identified} {more}"])
        await connection.run([f"GRANT ALL ON {parse(url).arguments['database']}.* TO {prefix}u@'%'"])
        try:
            yield with_login(url, f"{prefix}u", "x"), connection
        finally:
            await connection.run([f"DROP USER {prefix}u@'%'"])
            await drop("mysql", prefix)


async def test_a_users_connection_limit_is_told() -> None:
    async with user("IDENTIFIED BY 'x'", "WITH MAX_USER_CONNECTIONS 1") as (url, _), opened(url):
        with pytest.raises(StoreUnavailable, match="Raise max_user_connections"):
            await SessionDB(url).open()


async def test_a_way_to_log_in_that_needs_another_package_is_told() -> None:
    async with admin(url_of("mysql")) as connection:
        await connection.run(["INSTALL SONAME 'auth_ed25519'"])
        try:
            async with user("IDENTIFIED VIA ed25519 USING PASSWORD('x')") as (url, _):
                with pytest.raises(ConfigurationError, match=r"'pynacl' package is required.*install that"):
                    await SessionDB(url).open()
        finally:
            await connection.run(["UNINSTALL SONAME 'auth_ed25519'"])


def test_mysql_8s_own_way_to_log_in_without_tls_says_what_it_needs() -> None:
    """caching_sha2_password encrypts with the server's key; the driver says so with an error of no kind of its own."""
    said = RuntimeError("'cryptography' package is required for sha256_password or caching_sha2_password auth methods")
    told = translated(said, "db:3306/app", "not_applied")
    assert isinstance(told, ConfigurationError)
    assert "pip install 'sessiondb[crypto]'" in str(told)
    assert "?ssl=true" in str(told)


async def test_rights_that_are_taken_away_are_told_and_given_back() -> None:
    async with user("IDENTIFIED BY 'x'") as (url, connection), opened(url) as (store, kit):
        record = kit.record("ann")
        await kit.put_in(store, record)
        whom = f"{parse(url).arguments['database']}.* {{}} {parse(url).arguments['user']}@'%'"
        # New connections see it; those that are open keep the rights on a database that they had.
        await connection.run([f"REVOKE UPDATE ON {whom.format('FROM')}"])
        async with opened(url) as (limited, _):
            with pytest.raises(StoreUnavailable, match=r"GRANT SELECT, INSERT, UPDATE"):
                await kit.apply(limited, kit.update(record, {"n": 1}))
        await connection.run([f"GRANT UPDATE ON {whom.format('TO')}"])
        async with opened(url) as (allowed, _):
            assert isinstance(await kit.apply(allowed, kit.update(record, {"n": 1})), Applied)


# -- what an administrator does ----------------------------------------------------------------------------


async def waiting_for(connection: Connection, table: str, verb: str = "UPDATE") -> int:
    """The id of the connection whose statement on ``table`` waits for the lock that ``connection`` holds."""
    async with asyncio.timeout(5):
        while True:
            [found] = await connection.run(
                [
                    "SELECT id FROM information_schema.processlist "
                    f"WHERE info LIKE '{verb}%{table}%' AND id <> CONNECTION_ID() AND command = 'Query'"
                ]
            )
            if found.rows:
                return int(found.rows[0][0])
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("kill", "outcome", "message"),
    [("KILL QUERY", "not_applied", "killed by an administrator"), ("KILL", "unknown", "was lost")],
)
async def test_a_killed_statement_and_a_killed_connection(kill: str, outcome: str, message: str) -> None:
    prefix = new_prefix()
    url = with_option(url_of("mysql"), f"prefix={prefix}&lock_timeout=20")
    async with opened(url) as (store, kit), admin(url) as connection:
        record = kit.record("ann")
        await kit.put_in(store, record)
        table = f"{prefix}sessions"
        await connection.run(
            ["START TRANSACTION", f"SELECT 1 FROM {table} WHERE sid = {sid_sql(record.sid)} FOR UPDATE"]
        )
        touching = asyncio.create_task(store.apply([kit.touch(record)]))
        await connection.run([f"{kill} {await waiting_for(connection, table)}"])
        try:
            [result] = await touching
        except StoreError as error:
            result = error
        assert isinstance(result, StoreUnavailable)
        assert (result.outcome, message in str(result)) == (outcome, True)
        await connection.run(["ROLLBACK"])
        # The next call has a connection again.
        assert isinstance(await kit.apply(store, kit.touch(record)), Applied)
    await drop("mysql", prefix)


async def test_what_landed_at_once_is_told_whatever_becomes_of_the_rest() -> None:
    """Two transactions: what nothing stood against is committed when the other one's connection is killed."""
    prefix = new_prefix()
    url = with_option(url_of("mysql"), f"prefix={prefix}&lock_timeout=20")
    async with opened(url) as (store, kit), admin(url) as connection:
        free, held = kit.record("ann"), kit.record("ann")
        await kit.put_in(store, free, held)
        table = f"{prefix}sessions"
        await connection.run(["START TRANSACTION", f"SELECT 1 FROM {table} WHERE sid = {sid_sql(held.sid)} FOR UPDATE"])
        # Without the record that it was made of, a delta has to be merged under a lock.
        batch = asyncio.create_task(store.apply([kit.touch(free), kit.update(held, {"n": 1})]))
        await connection.run([f"KILL {await waiting_for(connection, table, 'SELECT')}"])
        landed, lost = await batch
        assert isinstance(landed, Applied)
        assert isinstance(lost, StoreUnavailable)
        assert lost.outcome == "unknown"
        await connection.run(["ROLLBACK"])
    await drop("mysql", prefix)


async def test_changes_with_events_are_all_given_up_for_a_row_that_somebody_holds() -> None:
    prefix = new_prefix()
    url = with_option(url_of("mysql"), f"prefix={prefix}")
    async with opened(url) as (store, kit), admin(url) as connection:
        records = sorted((kit.record("ann") for _ in range(4)), key=lambda record: record.sid)
        await kit.put_in(store, *records[1:])
        held = records[2]
        table = f"{prefix}sessions"
        await connection.run(["START TRANSACTION", f"SELECT 1 FROM {table} WHERE sid = {sid_sql(held.sid)} FOR UPDATE"])
        event = kit.event()
        with pytest.raises(NotTogether, match="locked by another transaction"):
            await store.apply([kit.update(record, {"n": 1}) for record in records], [event])
        [alone] = await store.apply([kit.update(held, {"n": 1})], [event])
        assert isinstance(alone, StoreUnavailable)
        assert alone.outcome == "not_applied"
        assert (await store.events(EventQuery())).events == []
        assert [await kit.data_of(store, record.sid) for record in records[1:]] == [{}, {}, {}]
        await connection.run(["ROLLBACK"])
        results = await store.apply([kit.update(record, {"n": 1}) for record in records], [event])
        assert [type(result) for result in results] == [Gone, Applied, Applied, Applied]
        assert len((await store.events(EventQuery())).events) == 1
    await drop("mysql", prefix)


async def test_connections_that_were_killed_while_idle_are_not_used_again() -> None:
    async with user("IDENTIFIED BY 'x'") as (url, connection), opened(url) as (store, kit):
        record = kit.record("ann")
        await kit.put_in(store, record)
        await asyncio.gather(*(store.load([record.sid]) for _ in range(8)))
        await connection.run([f"KILL USER {parse(url).arguments['user']}"])
        failed = 0
        for _ in range(10):
            try:
                assert (await store.load([record.sid]))[0] is not None
            except StoreUnavailable:
                failed += 1
        assert failed <= 1, "whoever asks before the news has come loses one call, and the others' connections with it"


async def test_a_binary_log_that_cannot_hold_the_changes_is_told() -> None:
    server = had(lambda: MariaDB("--log-bin=log", "--server-id=1", "--binlog-format=STATEMENT"))
    try:
        with pytest.raises(StoreUnavailable, match="SET GLOBAL binlog_format = ROW"):
            async with SessionDB(server.url) as db:
                await db.create("ann")
    finally:
        server.stop()
