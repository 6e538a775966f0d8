"""What is Redis's and Valkey's own: passwords, TLS, full memory, connection limits, replicas, Sentinels."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import tls
from databases import had, new_prefix, url_of, with_option
from provision.process import ServerProcess, free_port
from provision.valkey import Valkey, ValkeySentinel, ask, cluster_node, server, wait_until
from sessiondb import ConfigurationError, LoginRefused, SessionDB, StoreUnavailable, open_store
from sessiondb.core.change import Applied, Create, Gone
from sessiondb.core.errors import StoreError
from sessiondb.core.events import EventType
from sessiondb.core.record import EndReason, Record
from sessiondb.stores.base import EventQuery
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


async def opened(url: str, timeout: float = 2.0) -> tuple[CoalescingStore, Kit]:
    """A store as ``SessionDB`` wraps it, and the kit for it."""
    store = CoalescingStore(RecoveringStore(open_store(url)), timeout=timeout)
    await store.open()
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return store, kit


@pytest.fixture
def guarded() -> Iterator[Valkey]:
    own = had(Valkey)
    ask(own.port, "ACL", "SETUSER", "app", "on", ">pass:w@rd/", "~sessiondb:*", "+@all")
    ask(own.port, "ACL", "SETUSER", "default", "off")
    yield own
    own.stop()


async def test_users_and_passwords(guarded: Valkey) -> None:
    async with SessionDB(f"redis://app:pass%3Aw%40rd%2F@127.0.0.1:{guarded.port}/0") as db:
        assert (await db.create("ann")).session.user_id == "ann"
    for who in ("app:wrong@", "other:x@", "", ":pass@"):
        with pytest.raises(
            ConfigurationError, match=r"refused user or password|wants a password|was sent one"
        ) as caught:
            await SessionDB(f"redis://{who}127.0.0.1:{guarded.port}/0").open()
        assert "wrong" not in str(caught.value)
    with pytest.raises(StoreUnavailable, match="ACL SETUSER"):
        await SessionDB(f"redis://app:pass%3Aw%40rd%2F@127.0.0.1:{guarded.port}/0?prefix=other:").open()
    with pytest.raises(ConfigurationError, match="no database of that number"):
        await SessionDB(f"redis://app:pass%3Aw%40rd%2F@127.0.0.1:{guarded.port}/99").open()


async def test_a_full_memory_loses_nothing_and_says_so() -> None:
    own = had(lambda: Valkey("--maxmemory", "6mb", "--maxmemory-policy", "noeviction"))
    try:
        store = CoalescingStore(RecoveringStore(open_store(own.url)))
        await store.open()
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock()
        stored: list[Record] = []
        refused: StoreError | None = None
        while refused is None and len(stored) < 5000:
            record = kit.record("ann", {"much": "x" * 20_000})
            try:
                [result] = await store.apply([Create(record)])
            except StoreError as error:
                refused = error
            else:
                if isinstance(result, Applied):
                    stored.append(record)
                else:
                    assert isinstance(result, StoreError)
                    refused = result
        assert refused is not None
        assert "Raise maxmemory" in str(refused)
        assert refused.outcome == "not_applied"
        assert all(record is not None for record in await store.load([one.sid for one in stored]))
        # Ending takes no memory.
        [ended] = await store.apply([kit.end(stored[0])])
        assert isinstance(ended, Applied)
        # Reading goes on, and so does writing when there is room.
        ask(own.port, "CONFIG", "SET", "maxmemory", "100mb")
        assert isinstance((await store.apply([Create(kit.record("bob"))]))[0], Applied)
        await store.close()
    finally:
        own.stop()


async def test_a_replica_given_as_primary_is_told() -> None:
    primary = Valkey()
    replica, port = server("--replicaof", "127.0.0.1", str(primary.port))
    try:
        async with SessionDB(primary.url) as db:
            await db.create("ann")
        replica.start()
        wait_until(lambda: "master_link_status:up" in ask(port, "INFO", "replication"))
        with pytest.raises(StoreUnavailable, match="read-only replica"):
            await SessionDB(f"redis://127.0.0.1:{port}").open()
    finally:
        replica.stop()
        primary.stop()


async def test_too_many_clients_are_told_and_it_recovers() -> None:
    own = had(lambda: Valkey("--maxclients", "5"))
    others: list[asyncio.StreamWriter] = []
    try:
        db = SessionDB(with_option(own.url, "pool_size=1"))
        async with db:
            pass
        while len(others) < 5:
            reader, writer = await asyncio.open_connection("127.0.0.1", own.port)
            writer.write(b"PING\r\n")
            if await reader.read(100) == b"+PONG\r\n":
                others.append(writer)
            else:
                writer.close()  # one that has left is still counted
        with pytest.raises(StoreUnavailable, match=r"maxclients"):
            await db.open()
        for writer in others:
            writer.close()
        async with asyncio.timeout(10):
            while True:
                try:
                    await db.create("ann")
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)
        await db.close()
    finally:
        own.stop()


# -- TLS ----------------------------------------------------------------------------------------------------


async def test_tls(tmp_path: Path) -> None:
    """The server of the tests has no TLS, so something that has stands before it."""
    made, key = tls.certificate(tmp_path)
    prefix = new_prefix()
    async with tls.before(urlsplit(url_of("redis")).port or 0, made, key) as port:
        async with SessionDB(f"rediss://127.0.0.1:{port}?ssl_ca_certs={made}&prefix={prefix}") as db:
            assert (await db.create("ann")).token
        async with SessionDB(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none&prefix={prefix}") as db:
            assert len(await db.sessions_of("ann")) == 1
        with pytest.raises(StoreUnavailable, match=r"no TLS.*ssl_ca_certs"):
            await SessionDB(f"rediss://127.0.0.1:{port}").open()
        with pytest.raises(StoreUnavailable, match=r"rediss://"):
            await SessionDB(f"redis://127.0.0.1:{port}").open()


async def test_a_cluster_with_users_behind_tls(tmp_path: Path) -> None:
    """Whom CLUSTER SLOTS names is asked with TLS and password too, not only the host in the URL."""
    made, key = tls.certificate(tmp_path)
    outside = free_port()
    node, port = await asyncio.to_thread(had, lambda: cluster_node("--cluster-announce-port", str(outside)))
    try:
        ask(port, "CLUSTER", "ADDSLOTS", *map(str, range(16384)))
        await asyncio.to_thread(wait_until, lambda: "cluster_state:ok" in ask(port, "CLUSTER", "INFO"))
        ask(port, "ACL", "SETUSER", "app", "on", ">secret", "~sessiondb:*", "+@all")
        async with tls.before(port, made, key, outside):
            ask(port, "ACL", "SETUSER", "default", "off")
            url = f"rediss+cluster://app:secret@127.0.0.1:{outside}?ssl_ca_certs={made}"
            async with SessionDB(url) as db:
                for number in range(10):
                    await db.create(f"user{number}")
                assert await db.revoke_all("user3") == 1
            with pytest.raises(ConfigurationError, match="refused user or password"):
                await SessionDB(url.replace("secret", "wrong")).open()
            with pytest.raises(ConfigurationError, match="wants a password"):
                await SessionDB(url.replace("app:secret@", "")).open()
    finally:
        await asyncio.to_thread(node.stop)


# -- Sentinels ----------------------------------------------------------------------------------------------


@pytest.fixture
def own_sentinels() -> Iterator[ValkeySentinel]:
    servers = had(ValkeySentinel)
    yield servers
    servers.stop()


async def test_a_failover_by_sentinels_is_followed(own_sentinels: ValkeySentinel) -> None:
    sentinels = own_sentinels
    store, kit = await opened(sentinels.url, timeout=1)
    records = [kit.record(f"user{n}") for n in range(5)]
    await kit.put_in(store, *records)
    await asyncio.to_thread(
        wait_until, lambda: ask(sentinels.replica_port, "DBSIZE") == ask(sentinels.primary_port, "DBSIZE")
    )
    sentinels.primary.kill()
    async with asyncio.timeout(30):
        for record in records:
            while not isinstance(await attempt(store, kit, record), Applied):
                await asyncio.sleep(0.05)
    assert "role:master" in ask(sentinels.replica_port, "INFO", "replication")
    assert (await kit.data_of(store, records[0].sid)) == {"after": 1}
    await store.close()


async def attempt(store: CoalescingStore, kit: Kit, record: Record) -> object:
    try:
        [result] = await store.apply([kit.update(record, {"after": 1})])
    except StoreError as error:
        return error
    return result


@pytest.fixture(scope="module")
def sentinels() -> Iterator[ValkeySentinel]:
    servers = had(ValkeySentinel)
    yield servers
    servers.stop()


async def test_a_sentinel_that_stands_still_does_not_stop_the_others(sentinels: ValkeySentinel) -> None:
    """Each call may lose its time to it, but the next one begins with another Sentinel."""
    first = sentinels.servers[2]
    first.pause()
    try:
        store = open_store(with_option(sentinels.url, "connect_timeout=5"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await store.open()
        await store.open()
        await store.close()
    finally:
        first.resume()


async def test_sentinels_may_want_a_password_of_their_own(sentinels: ValkeySentinel) -> None:
    for port in sentinels.ports:
        assert ask(port, "ACL", "SETUSER", "default", "resetpass", ">guarded").startswith("+OK")
    with pytest.raises(ConfigurationError, match=r"Sentinels refuse us \(NOAUTH\).*sentinel_password"):
        await SessionDB(sentinels.url).open()
    with pytest.raises(ConfigurationError, match=r"Sentinels refuse us \(WRONGPASS\)") as caught:
        await SessionDB(with_option(sentinels.url, "sentinel_password=wrong")).open()
    assert "wrong" not in str(caught.value)
    async with SessionDB(with_option(sentinels.url, "sentinel_password=guarded")) as db:
        assert (await db.create("ann")).token
    for port in sentinels.ports:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"AUTH guarded\r\nACL SETUSER default nopass\r\n")
            assert connection.recv(100).startswith(b"+OK")


async def test_what_is_no_sentinel_or_knows_no_such_name_is_told(sentinels: ValkeySentinel) -> None:
    with pytest.raises(StoreUnavailable, match=r"knows a primary named 'other'; correct the URL"):
        await SessionDB(sentinels.url.replace(sentinels.name, "other")).open()
    port = urlsplit(url_of("redis")).port
    with pytest.raises(ConfigurationError, match="is no Sentinel"):
        await SessionDB(f"redis+sentinel://127.0.0.1:{port}/sessions").open()


# -- wait_replicas ------------------------------------------------------------------------------------------


@asynccontextmanager
async def replicated() -> AsyncIterator[tuple[str, Valkey, ServerProcess, int]]:
    """The URL that waits for one replica, a primary, its replica and the replica's port."""
    primary = await asyncio.to_thread(had, Valkey)
    replica, port = server("--replicaof", "127.0.0.1", str(primary.port))
    try:
        await asyncio.to_thread(replica.start)
        await asyncio.to_thread(wait_until, lambda: "master_link_status:up" in ask(port, "INFO", "replication"))
        yield with_option(primary.url, "wait_replicas=1&wait_timeout=0.3"), primary, replica, port
    finally:
        await asyncio.to_thread(replica.stop)
        await asyncio.to_thread(primary.stop)


async def test_a_login_and_an_end_are_answered_when_replicas_have_them() -> None:
    async with replicated() as (url, _, _, port):
        store, kit = await opened(url)
        key = "sessiondb:session:{}".format
        for _ in range(20):
            record = kit.record("ann")
            await kit.put_in(store, record)
            assert ask(port, "HGET", key(record.sid), "user_id").endswith("ann\r\n"), "no pause: it is there already"
            assert isinstance(await kit.apply(store, kit.end(record)), Applied)
            assert "logout" in ask(port, "HGET", key(record.sid), "end_reason")
        await store.close()


async def test_without_the_replica_logins_and_ends_are_unconfirmed_and_nothing_else_is() -> None:
    async with replicated() as (url, _, replica, port):
        store, kit = await opened(url)
        first, second, third = (kit.record("ann") for _ in range(3))
        await kit.put_in(store, first, second, third)
        replica.pause()
        [ended, touched] = await store.apply([kit.end(first), kit.update(second, {"n": 1})])
        assert isinstance(ended, StoreUnavailable)
        assert ended.outcome == "unconfirmed"
        assert "only 0 of 1 replicas" in str(ended)
        assert isinstance(touched, Applied), "what nobody waits for is as good as ever"
        [created] = await store.apply([Create(kit.record("bob"))])
        assert isinstance(created, StoreError)
        assert created.outcome == "unconfirmed"
        # What is answered so is done on the primary, and saying it again is not enough either.
        assert (await kit.record_of(store, first.sid)).end_reason == EndReason.LOGOUT
        again = await kit.apply(store, kit.end(first))
        assert isinstance(again, StoreError)
        with pytest.raises(StoreUnavailable) as caught:
            await store.end_where(kit.query("ann", not_before=kit.now), EndReason.REVOKED)
        assert caught.value.outcome == "unconfirmed"
        assert isinstance(await kit.apply(store, kit.touch(second)), Applied | Gone)
        replica.resume()
        await asyncio.to_thread(wait_until, lambda: "connected_slaves:1" in ask(port, "INFO", "replication") or True)
        async with asyncio.timeout(20):
            while isinstance(result := await kit.apply(store, kit.end(third)), StoreError):
                await asyncio.sleep(0.05)
        assert isinstance(result, Applied | Gone)
        await store.close()


async def test_with_their_events_they_are_unconfirmed_just_so() -> None:
    async with replicated() as (url, _, replica, port):
        store, kit = await opened(url)
        first, second = (kit.record("ann") for _ in range(2))
        key = "sessiondb:session:{}".format
        assert await store.apply([kit.create(first)], [kit.event()]) == [Applied(1)]
        assert ask(port, "HGET", key(first.sid), "user_id").endswith("ann\r\n"), "no pause: it is there already"
        await kit.put_in(store, second)
        replica.pause()
        events = [kit.event(EventType.SESSION_ENDED), kit.event()]
        ended, touched = await store.apply([kit.end(first), kit.update(second, {"n": 1})], events)
        assert isinstance(ended, StoreUnavailable)
        assert ended.outcome == "unconfirmed"
        assert isinstance(touched, Applied)
        assert (await kit.record_of(store, first.sid)).ended_at is not None
        assert len((await store.events(EventQuery())).events) == 3
        replica.resume()
        await store.close()


async def test_a_login_that_no_replica_has_gives_no_token() -> None:
    async with replicated() as (url, _, replica, _):
        async with SessionDB(url) as db:
            issued = await db.create("ann")
            replica.kill()
            with pytest.raises(StoreUnavailable) as caught:
                await db.create("ann")
            assert caught.value.outcome == "unconfirmed"
            with pytest.raises(StoreUnavailable):
                await db.revoke(issued.session.sid)
            await asyncio.to_thread(replica.start)
            async with asyncio.timeout(20):
                while True:
                    try:
                        await db.revoke_all("ann")
                        break
                    except (StoreUnavailable, LoginRefused):
                        await asyncio.sleep(0.05)
            assert await db.sessions_of("ann") == []


async def test_scripts_that_are_forgotten_do_not_shorten_the_wait() -> None:
    """The wait after the first burst, in which nothing was done, counts for nothing."""
    async with replicated() as (url, primary, replica, _):
        store, kit = await opened(url)
        record = kit.record("ann")
        await kit.put_in(store, record)
        ask(primary.port, "SCRIPT", "FLUSH")
        replica.pause()
        result = await kit.apply(store, kit.end(record))
        assert isinstance(result, StoreError)
        assert result.outcome == "unconfirmed"
        replica.resume()
        await store.close()
