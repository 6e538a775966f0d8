"""What is Redis's and Valkey's own: settings, lost scripts, full memory, replicas, failover, moving slots, lists."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provision.valkey import Valkey, ValkeyCluster, ValkeySentinel, ask, server, wait_until

from databases import new_prefix, start, url_of, with_option
from sessiondb import ConfigurationError, SessionDB, StoreUnavailable, open_store
from sessiondb.core.change import Applied, Create, Gone, Update, new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.record import EndReason, Record
from sessiondb.stores._redis_slots import slot_of
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


@pytest.fixture
def url() -> str:
    return with_option(url_of("redis"), f"prefix={new_prefix()}")


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def kit(store: RedisStore) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


async def raw(store: RedisStore, *command: Any) -> Any:
    [reply] = await store.run([(b"", command)])
    return reply


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://host/zero", "names no database"),
        ("redis://host/0/1", "names no database"),
        ("redis+cluster://host/1", "none for a cluster"),
        ("redis://one,two", r"redis\+cluster:// or redis\+sentinel://"),
        ("redis+sentinel://one,two", "needs the primary's name"),
        ("redis+cloud://host", r"redis\+cloud:// is unknown"),
        ("redis://host:port", "is no host:port"),
        ("redis://host?prefix={x}", "prefix is"),
        ("redis://host?pool_size=0", "pool_size is '0'"),
        ("redis://host?socket_timeout=3", "does not know the option 'socket_timeout'"),
        ("redis://host?ssl_ca_certs=x", "write rediss://"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "certificate files cannot be used"),
    ],
)
def test_a_url_that_cannot_work_is_told_at_once(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store(url)


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_repr_shows_no_password(scheme: str) -> None:
    assert repr(open_store(f"{scheme}://ann:hunter2@cache.example:6380/2")) == "RedisStore(cache.example:6380)"


@given(st.binary(max_size=60))
def test_slots_are_the_servers(key: bytes) -> None:
    """The reference: bit by bit, as the specification writes it."""
    start, end = key.find(b"{"), -1
    if start >= 0:
        end = key.find(b"}", start + 1)
    hashed = key[start + 1 : end] if end > start + 1 else key
    crc = 0
    for byte in hashed:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1
    assert slot_of(key) == crc % 16384


async def test_people_can_read_a_session(store: RedisStore, kit: Kit) -> None:
    record = kit.record("ann", {"cart": ["tea"], "n": 1.0})
    await kit.put_in(store, record)
    flat = await raw(store, "HGETALL", store.keys.session(record.sid))
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert fields[b"user_id"] == b"ann"
    assert fields[b"d:cart"] == b'["tea"]'
    assert fields[b"d:n"] == b"1.0"
    assert b"data" not in fields


async def test_every_key_is_collected_some_day(store: RedisStore, kit: Kit) -> None:
    record = kit.record("ann")
    await kit.put_in(store, record)
    key = store.keys.session(record.sid)
    hard_end = record.created_at + record.absolute
    day = 86_400
    living = await raw(store, "PTTL", key)
    assert abs(living / 1000 - ((hard_end - kit.now) / 1e6 + 8 * day)) < 5
    end = kit.end(record)
    await kit.apply(store, end)
    ended = await raw(store, "PTTL", key)
    assert abs(ended / 1000 - ((end.purge_at - kit.now) / 1e6 + 8 * day)) < 5


async def test_scripts_that_the_server_has_forgotten_are_loaded_again_and_applied_once(
    store: RedisStore, kit: Kit
) -> None:
    records = [kit.record("ann", {"n": 0}) for _ in range(5)]
    await raw(store, "SCRIPT", "FLUSH")
    await kit.put_in(store, *records)
    await raw(store, "SCRIPT", "FLUSH")
    results = await store.apply([kit.update(record, {"n": 1}) for record in records])
    assert results == [Applied(2)] * 5


async def test_lists_heal(store: RedisStore, kit: Kit) -> None:
    """Losing them loses nothing that ``repair`` cannot bring back."""
    living, ended = kit.record("ann"), kit.record("ann")
    await kit.put_in(store, living, ended)
    await kit.apply(store, kit.end(ended))
    for key in (store.keys.user("ann"), store.keys.ended("ann"), *store.keys.due_lists):
        await raw(store, "UNLINK", key)
    assert await kit.living(store, "ann") == []
    assert await store.repair() == 2
    assert await kit.living(store, "ann") == [living.sid]
    assert {one.sid for one in (await store.find(kit.query("ann", state="all"))).records} == {living.sid, ended.sid}
    purged = await store.sweep(kit.cutoffs(now=ended.created_at + 10**15), 100)
    assert (len(purged.ended), purged.purged) == (1, 1)


async def test_what_a_list_names_too_much_does_no_harm(store: RedisStore, kit: Kit) -> None:
    record = kit.record("ann")
    await kit.put_in(store, record)
    ghost = kit.record("ann")
    await raw(store, "ZADD", store.keys.user("ann"), ghost.created_at + ghost.absolute, ghost.sid)
    await raw(store, "ZADD", store.keys.due(ghost.sid), ghost.created_at, ghost.sid)
    assert await kit.living(store, "ann") == [record.sid]
    await store.sweep(kit.cutoffs(), 100)
    assert await raw(store, "ZSCORE", store.keys.due(ghost.sid), ghost.sid) is None
    ended = await store.end_where(kit.query("ann"), EndReason.REVOKED)
    assert [one.sid for one in ended] == [record.sid]


async def test_the_ended_leave_the_list_of_the_living(store: RedisStore, kit: Kit) -> None:
    records = [kit.record("ann") for _ in range(6)]
    await kit.put_in(store, *records)
    for record in records[:5]:
        await kit.apply(store, kit.end(record))
    assert await kit.living(store, "ann") == [records[5].sid]
    assert await raw(store, "ZCARD", store.keys.user("ann")) == 1
    assert await raw(store, "ZCARD", store.keys.ended("ann")) == 5


async def test_a_newer_layout_stops_the_start(store: RedisStore, url: str) -> None:
    await raw(store, "HSET", store.keys.meta, "schema_version", "99")
    with pytest.raises(ConfigurationError, match="layout version 99"):
        await SessionDB(url).open()


# -- servers with settings of their own ----------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[Valkey]:
    own = Valkey()
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
    own = Valkey("--maxmemory", "6mb", "--maxmemory-policy", "noeviction")
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
    own = Valkey("--maxclients", "5")
    others: list[asyncio.StreamWriter] = []
    try:
        db = SessionDB(with_option(own.url, "pool_size=1"))
        async with db:
            pass
        for _ in range(5):
            others.append((await asyncio.open_connection("127.0.0.1", own.port))[1])
        await asyncio.sleep(0.05)
        with pytest.raises(StoreUnavailable, match=r"maxclients|was lost"):
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


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(paths[0]), str(paths[1])


async def test_tls(tmp_path: Path) -> None:
    """The server of the tests has no TLS, so something that has stands before it."""
    made, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    plain = urlsplit(url_of("redis"))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(1 << 16):
            writer.write(received)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(plain.hostname, plain.port)
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
        except (OSError, ssl.SSLError):
            writer.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = proxy.sockets[0].getsockname()[1]
    async with proxy:
        prefix = new_prefix()
        async with SessionDB(f"rediss://127.0.0.1:{port}?ssl_ca_certs={made}&prefix={prefix}") as db:
            assert (await db.create("ann")).token
        async with SessionDB(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none&prefix={prefix}") as db:
            assert len(await db.sessions_of("ann")) == 1
        with pytest.raises(StoreUnavailable, match="ssl_ca_certs"):
            await SessionDB(f"rediss://127.0.0.1:{port}").open()
        with pytest.raises(StoreUnavailable):
            await SessionDB(f"redis://127.0.0.1:{port}").open()


# -- failover ----------------------------------------------------------------------------------------------


async def keep_writing(store: CoalescingStore, records: list[Record], until: asyncio.Event) -> int:
    """Increments that were answered, one key per session."""
    landed = 0
    while not until.is_set():
        for record in records:
            put = {f"k{landed}": b"1"}
            try:
                [result] = await store.apply([Update(sid=record.sid, id=new_change_id(), put=put)])
            except StoreError:
                await asyncio.sleep(0.02)
                continue
            if isinstance(result, Applied):
                landed += 1
            else:
                assert not isinstance(result, Gone)
        await asyncio.sleep(0)
    return landed


async def until_writes_work(store: CoalescingStore, records: list[Record], limit: float = 30) -> None:
    async with asyncio.timeout(limit):
        for record in records:
            while True:
                try:
                    [result] = await store.apply([Update(sid=record.sid, id=new_change_id(), put={"after": b"1"})])
                    if isinstance(result, Applied):
                        break
                except StoreError:
                    pass
                await asyncio.sleep(0.05)


async def test_a_failover_by_sentinels_is_followed() -> None:
    servers = await asyncio.to_thread(ValkeySentinel)
    try:
        store = CoalescingStore(RecoveringStore(open_store(servers.url)), timeout=1)
        await store.open()
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock()
        records = [kit.record(f"user{n}") for n in range(5)]
        await kit.put_in(store, *records)
        await asyncio.to_thread(
            wait_until, lambda: ask(servers.replica_port, "DBSIZE") == ask(servers.primary_port, "DBSIZE")
        )
        servers.primary.kill()
        await until_writes_work(store, records)
        assert "role:master" in ask(servers.replica_port, "INFO", "replication")
        assert (await kit.data_of(store, records[0].sid)) == {"after": 1}
        await store.close()
    finally:
        await asyncio.to_thread(servers.stop)


async def test_a_failover_in_a_cluster_of_six_is_followed() -> None:
    servers = await asyncio.to_thread(lambda: ValkeyCluster(replicas=True))
    try:
        store = CoalescingStore(RecoveringStore(open_store(servers.url)), timeout=1)
        await store.open()
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock()
        records = [kit.record(f"user{n}") for n in range(24)]
        await kit.put_in(store, *records)
        stop = asyncio.Event()
        writing = asyncio.create_task(keep_writing(store, records, stop))
        await asyncio.sleep(0.3)
        servers.nodes[0][0].kill()
        await asyncio.sleep(0.2)
        stop.set()
        assert await writing > 0
        await until_writes_work(store, records)
        for record in await store.load([one.sid for one in records]):
            assert record is not None
        assert len(await kit.living(store, "user3")) == 1
        await store.close()
    finally:
        await asyncio.to_thread(servers.stop)


async def test_slots_may_move_while_sessions_are_written() -> None:
    """All slots of one node go to another, key by key, under load: nothing fails, nothing is lost."""
    servers = await asyncio.to_thread(ValkeyCluster)
    try:
        store = CoalescingStore(RecoveringStore(open_store(servers.url)), timeout=5)
        await store.open()
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock()
        records = [kit.record(f"user{n}") for n in range(30)]
        await kit.put_in(store, *records)
        inner = RedisStore(servers.url)
        slots = {slot_of(inner.keys.session(record.sid)) for record in records}
        landed: dict[str, int] = {}
        failed: list[object] = []
        done = asyncio.Event()

        async def write(record: Record) -> None:
            number = 0
            while not done.is_set():
                put = {f"k{number}": b"1"}
                [result] = await store.apply([Update(sid=record.sid, id=new_change_id(), put=put)])
                if isinstance(result, Applied):
                    number += 1
                else:
                    failed.append(result)
            landed[record.sid] = number

        writers = [asyncio.create_task(write(record)) for record in records]
        first, second = servers.nodes[0][1], servers.nodes[1][1]
        await asyncio.to_thread(move, first, second, [slot for slot in slots if slot < 5462])
        done.set()
        await asyncio.gather(*writers)
        assert failed == []
        for record in records:
            data = await kit.data_of(store, record.sid)
            assert len(data) == landed[record.sid]
        await store.close()
    finally:
        await asyncio.to_thread(servers.stop)


def move(source: int, target: int, slots: list[int]) -> None:
    """Move ``slots`` as CLUSTER SETSLOT and MIGRATE do it."""
    source_id = ask(source, "CLUSTER", "MYID").split("\r\n")[1]
    target_id = ask(target, "CLUSTER", "MYID").split("\r\n")[1]
    for slot in slots:
        assert ask(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", source_id).startswith("+OK")
        assert ask(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", target_id).startswith("+OK")
        while not (keys := ask(source, "CLUSTER", "GETKEYSINSLOT", str(slot), "1")).startswith("*0"):
            key = keys.split("\r\n")[2]
            ask(source, "MIGRATE", "127.0.0.1", str(target), key, "0", "5000")
        for port in (target, source):
            assert ask(port, "CLUSTER", "SETSLOT", str(slot), "NODE", target_id).startswith("+OK")


def test_a_server_can_be_had() -> None:
    """Where it cannot, everything here is skipped, and with CI=true this fails."""
    start("redis").stop()
