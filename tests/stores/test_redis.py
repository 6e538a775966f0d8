"""What is Redis's and Valkey's own: settings, what people see in the keys, lost scripts, lists that heal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from databases import new_prefix, start, url_of, with_option
from sessiondb import ConfigurationError, SessionDB, open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.core.record import EndReason
from sessiondb.stores import _redis_scripts as scripts
from sessiondb.stores._redis_connection import Command, Connection
from sessiondb.stores._redis_list_scripts import FORBID
from sessiondb.stores._redis_slots import slot_of
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import HOUR
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
        ("redis://host?wait_replicas=1.5", "wait_replicas is '1.5'; use a whole number"),
        ("redis://host?max_events=10", "max_events is '10'; use a whole number from 1,000 up to 1,000,000,000"),
        ("redis://host?wait_timeout=0", "wait_timeout is '0'; use a number of seconds"),
        ("redis://host?sentinel_password=x", r"sentinel_ options are for redis\+sentinel://"),
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
    # After a change of some keys, and whatever is in them, each is JSON by itself.
    odd = {"cart": {"tea": [1, None, True]}, "é\n": '\\"😀', "d:d": 1e23, "empty": {}}
    await kit.apply(store, kit.update(record, odd, remove=["n"]))
    flat = await raw(store, "HGETALL", store.keys.session(record.sid))
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    shown = {name[2:].decode(): msgspec.json.decode(value) for name, value in fields.items() if name[:2] == b"d:"}
    assert shown == odd
    for name in (b"client_first", b"client_last", b"auth", b"risk"):
        assert isinstance(msgspec.json.decode(fields[name]), dict)
    for name in (b"created_at", b"last_seen_at", b"idle", b"absolute", b"check_at", b"rev"):
        assert int(fields[name]) > 0


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


async def forget_scripts(store: RedisStore, until: asyncio.Event) -> int:
    """``SCRIPT FLUSH`` again and again; how often."""
    count = 0
    while not until.is_set():
        await raw(store, "SCRIPT", "FLUSH")
        count += 1
        await asyncio.sleep(0.001)
    return count


async def test_scripts_that_are_forgotten_under_load_apply_nothing_twice_and_lose_nothing(
    store: RedisStore, kit: Kit
) -> None:
    record = kit.record("ann", {"n": 0})
    await kit.put_in(store, record)
    done = asyncio.Event()
    flushing = asyncio.create_task(forget_scripts(store, done))

    async def increment(times: int) -> None:
        for _ in range(times):
            while True:
                current = await kit.record_of(store, record.sid)
                n = msgspec.json.decode(current.data)["n"]
                if isinstance(await kit.apply(store, kit.update(current, {"n": n + 1}, if_rev=current.rev)), Applied):
                    break

    await asyncio.gather(*(increment(20) for _ in range(6)))
    done.set()
    assert await flushing > 5
    found = await kit.record_of(store, record.sid)
    assert (msgspec.json.decode(found.data), found.rev) == ({"n": 120}, 121)


async def test_revoke_all_leaves_no_login_under_way_though_its_script_is_forgotten(
    store: RedisStore, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded again comes after what was sent behind it: not_before must not come after the listing."""
    await raw(store, "SCRIPT", "FLUSH")
    for script in scripts.ALL.values():
        if script is not FORBID:
            await raw(store, "SCRIPT", "LOAD", script.text)
    loading, logged_in = asyncio.Event(), asyncio.Event()
    run = Connection.run

    async def held(self: Connection, commands: Sequence[Command]) -> list[Any]:
        if commands[0][0] == "SCRIPT":
            loading.set()
            await logged_in.wait()
        return await run(self, commands)

    monkeypatch.setattr(Connection, "run", held)
    revoking = asyncio.create_task(store.end_where(kit.query("ann", not_before=kit.now + 1), EndReason.REVOKED))
    await loading.wait()
    record = kit.record("ann")
    await kit.put_in(store, record)
    assert (await store.admit(kit.login(record, began_at=kit.now))).refused is None
    logged_in.set()
    assert [one.sid for one in await revoking] == [record.sid]
    assert await kit.living(store, "ann") == []


async def test_a_users_list_heals_by_sweeping(store: RedisStore, kit: Kit) -> None:
    """Every living session comes before the sweeper in its life; who is missing in the user's list is put back."""
    record = kit.record("ann")
    await kit.put_in(store, record)
    await kit.apply(store, kit.touch(record, at=kit.now))
    await raw(store, "UNLINK", store.keys.user("ann"))
    # Due for a look, and not over.
    await raw(store, "ZADD", store.keys.due(record.sid), kit.now - 1, record.sid)
    await store.sweep(kit.cutoffs(), 100)
    assert await kit.living(store, "ann") == [record.sid]
    assert int(await raw(store, "ZSCORE", store.keys.user("ann"), record.sid)) == record.created_at + record.absolute


async def test_repair_moves_nobody_to_where_they_are_not_found(store: RedisStore, kit: Kit) -> None:
    """What it read may be old by the time it writes: an earlier look and a longer life that came meanwhile stay."""
    record = kit.record("ann")
    await kit.put_in(store, record)
    hard_end = record.created_at + record.absolute
    await raw(store, "ZADD", store.keys.due(record.sid), record.check_at - 5, record.sid)
    await raw(store, "ZADD", store.keys.user("ann"), hard_end + 5, record.sid)
    await store.repair()
    assert int(await raw(store, "ZSCORE", store.keys.due(record.sid), record.sid)) == record.check_at - 5
    assert int(await raw(store, "ZSCORE", store.keys.user("ann"), record.sid)) == hard_end + 5


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


async def test_the_longest_due_come_first_however_they_are_spread(store: RedisStore, kit: Kit) -> None:
    """One list has most of them, and a sweep asks each list for little more than its share."""
    records = [kit.record("ann", age=2 * HOUR + number, idle=HOUR) for number in range(300)]
    crowd = [one for one in records if store.keys.due(one.sid) == store.keys.due(records[0].sid)]
    others = [one for one in records if one not in crowd]
    oldest_first = [*reversed(crowd), *reversed(others)]
    made = [msgspec.structs.replace(one, check_at=kit.now - HOUR + number) for number, one in enumerate(oldest_first)]
    await kit.put_in(store, *made)
    for limit in (1, 7, len(crowd), 40, 1000):
        expected, oldest_first = oldest_first[:limit], oldest_first[limit:]
        swept = await store.sweep(kit.cutoffs(), limit)
        assert sorted(one.sid for one in swept.ended) == sorted(one.sid for one in expected)
    assert not oldest_first


async def test_a_newer_layout_stops_the_start(store: RedisStore, url: str) -> None:
    await raw(store, "HSET", store.keys.meta, "schema_version", "99")
    with pytest.raises(ConfigurationError, match="layout version 99"):
        await SessionDB(url).open()


async def test_a_session_that_cannot_be_listed_is_not_there(store: RedisStore, kit: Kit) -> None:
    """Nobody could revoke it. Its neighbours in the batch are not disturbed."""
    await raw(store, "SET", store.keys.user("ann"), "somebody else's")
    refused, fine = kit.record("ann"), kit.record("bob")
    first, second = await store.apply([kit.create(refused), kit.create(fine)])
    assert isinstance(first, StoreError)
    assert first.outcome == "not_applied"
    assert isinstance(second, Applied)
    assert await kit.find_record(store, refused.sid) is None
    assert await kit.living(store, "bob") == [fine.sid]


def test_a_server_can_be_had() -> None:
    """Where it cannot, everything here is skipped, and with CI=true this fails."""
    start("redis").stop()
