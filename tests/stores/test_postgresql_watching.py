"""PostgreSQL: histories, counters and sheets under writers that meet, and what is gone when it has expired."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from databases import drop, new_prefix, url_of, with_option
from sessiondb import open_store
from sessiondb.core.change import Applied, SignIn
from sessiondb.core.record import LINK_BYTES
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Sheet, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit, together

ROUNDS = 30


@pytest.fixture
async def prefix() -> AsyncIterator[str]:
    prefix = new_prefix()
    yield prefix
    await drop("postgresql", prefix)


@pytest.fixture
async def kit(prefix: str) -> AsyncIterator[Kit]:
    """Locks are waited for long enough that a deadlock is found and told as such."""
    url = with_option(url_of("postgresql"), f"prefix={prefix}&lock_timeout=20")
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def sql() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url_of("postgresql"))
    yield connection
    await connection.close()


async def somebody_waits(sql: Any, prefix: str) -> None:
    """Until a statement on these tables waits for somebody's lock."""
    async with asyncio.timeout(20):
        while not await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1", f"%{prefix}%"
        ):
            await asyncio.sleep(0.01)


def entry(number: int) -> bytes:
    return bytes([number]) * HISTORY_ENTRY_BYTES


def entries(history: bytes) -> set[int]:
    return {history[at] for at in range(0, len(history), HISTORY_ENTRY_BYTES)}


# -- counters -------------------------------------------------------------------------------------------------


async def test_counters_are_added_to_in_any_order(prefix: str, sql: Any, kit: Kit) -> None:
    """New ones and old ones, by two processes with sixteen connections; the bucket knows how many it has."""
    stores = await kit.stores(2)
    choose = random.Random(7)
    expected: dict[bytes, int] = {}

    async def count(number: int) -> None:
        items = [bytes([n]) for n in range(60)]
        choose.shuffle(items)
        for item in items:
            expected[item] = expected.get(item, 0) + number
        await stores[number % 2].count("b", dict.fromkeys(items, number), most=100, expires_at=kit.now + DAY)

    await together(count(number) for number in range(1, 1 + ROUNDS))
    found = await stores[0].profile(None, [Counter("b", item) for item in expected])
    assert dict(zip(expected, found.counts, strict=True)) == expected
    assert await sql.fetchval(f"SELECT items FROM {prefix}buckets WHERE bucket = 'b'") == 60


async def test_a_bucket_has_room_for_so_many(prefix: str, sql: Any, kit: Kit) -> None:
    """In the order in which they are named; what is there counts on, whoever is named before it."""
    store = await kit.store()
    later = kit.now + DAY
    await store.count("b", {b"z": 1, b"a": 1}, most=3, expires_at=later)
    await store.count("b", {b"y": 2, b"x": 2, b"a": 2, b"w": 2}, most=3, expires_at=later)
    wanted = [Counter("b", item) for item in (b"a", b"w", b"x", b"y", b"z")]
    assert list((await store.profile(None, wanted)).counts) == [3, 0, 0, 2, 1]
    assert await sql.fetchval(f"SELECT items FROM {prefix}buckets") == 3
    # Who has less room sees a full bucket, and who has more adds to it.
    await store.count("b", {b"w": 1, b"z": 1}, most=2, expires_at=later)
    await store.count("b", {b"x": 1, b"w": 1}, most=4, expires_at=later)
    assert list((await store.profile(None, wanted)).counts) == [3, 0, 1, 2, 2]


async def test_a_bucket_goes_with_all_its_counters(prefix: str, sql: Any, kit: Kit) -> None:
    """Also while somebody counts in it: nothing is left that would never expire. No call fails."""
    stores = await kit.stores(2)
    past = kit.now - HOUR

    async def count(number: int) -> None:
        for n in range(ROUNDS):
            adds = {bytes([number, n]): 1, bytes([n]): 1}
            await stores[number % 2].count("old", adds, most=1000, expires_at=past)

    async def expire(store: Store) -> None:
        for _ in range(ROUNDS):
            await store.expire(kit.now, 5)
            orphans = await sql.fetchval(
                f"SELECT count(*) FROM {prefix}counters AS c "
                f"WHERE NOT EXISTS (SELECT FROM {prefix}buckets AS b WHERE b.bucket = c.bucket)"
            )
            assert orphans == 0

    await together([*(count(number) for number in range(6)), expire(stores[0])])
    await stores[1].expire(kit.now, 5)
    for table in ("buckets", "counters"):
        assert await sql.fetchval(f"SELECT count(*) FROM {prefix}{table}") == 0


async def test_who_counts_waits_for_nobody_who_counts_elsewhere(prefix: str, sql: Any, kit: Kit) -> None:
    """In the same bucket, of which somebody holds one counter; but a bucket that is taken away is waited for."""
    store = await kit.store()
    await store.count("b", {b"a": 1, b"b": 1}, most=10, expires_at=kit.now + DAY)
    async with sql.transaction():
        await sql.execute(f"UPDATE {prefix}counters SET total = 9 WHERE item = 'a'")
        async with asyncio.timeout(10):
            await store.count("b", {b"b": 1}, most=10, expires_at=kit.now + DAY)
            await store.count("c", {b"a": 1}, most=10, expires_at=kit.now + DAY)
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute(f"SELECT FROM {prefix}buckets WHERE bucket = 'b' FOR UPDATE")
    await sql.execute(f"DELETE FROM {prefix}counters WHERE bucket = 'b'")
    await sql.execute(f"DELETE FROM {prefix}buckets WHERE bucket = 'b'")
    counting = asyncio.create_task(store.count("b", {b"a": 1, b"b": 1}, most=1, expires_at=kit.now + DAY))
    other = await asyncpg.connect(url_of("postgresql"))
    await somebody_waits(other, prefix)
    await other.close()
    await transaction.commit()
    await counting
    assert list((await store.profile(None, [Counter("b", b"a"), Counter("b", b"b")])).counts) == [1, 0]


async def test_the_latest_call_says_when_a_bucket_goes(kit: Kit) -> None:
    store = await kit.store()
    await store.count("b", {b"a": 1}, most=10, expires_at=kit.now - HOUR)
    await store.count("b", {b"b": 1}, most=10, expires_at=kit.now + HOUR)
    await store.expire(kit.now, 10)
    assert list((await store.profile(None, [Counter("b", b"a"), Counter("b", b"b")])).counts) == [1, 1]
    await store.count("b", {}, most=10, expires_at=kit.now - HOUR)
    assert await store.expire(kit.now, 10) == 1
    assert list((await store.profile(None, [Counter("b", b"a"), Counter("b", b"b")])).counts) == [0, 0]


# -- histories ------------------------------------------------------------------------------------------------


async def test_logins_of_many_users_are_recorded_in_any_order(kit: Kit) -> None:
    """Batches that name the same users the other way round; of each user ten at most, each once."""
    stores = await kit.stores(2)
    for part in range(4):
        users = [f"user{part}-{n}" for n in range(400)]
        await together(
            stores[n % 2].record_logins([(user, entry(n)) for user in (users if n % 3 else users[::-1])], kit.now + DAY)
            for n in range(1, HISTORY_ENTRIES + 1)
        )
        for user in users[::40]:
            history = (await stores[0].profile(user, [])).history
            assert len(history) == HISTORY_ENTRIES * HISTORY_ENTRY_BYTES
            assert entries(history) == {*range(1, HISTORY_ENTRIES + 1)}


async def test_logins_are_dropped_while_others_are_recorded(kit: Kit) -> None:
    """Each answer is true: what was said to be dropped is gone, once, and nothing else is."""
    stores = await kit.stores(2)
    for _ in range(ROUNDS // 3):
        await stores[0].record_logins([("ann", entry(n)) for n in (1, 2, 3, 4)], kit.now + DAY)
        dropped = await together(
            [
                stores[0].drop_login("ann", entry(2)),
                stores[1].record_logins([("ann", entry(5))], kit.now + DAY),
                stores[1].drop_login("ann", entry(2)),
                stores[0].drop_login("ann", entry(4)),
                stores[0].record_logins([("ann", entry(6)), ("bob", entry(7))], kit.now + DAY),
                stores[1].drop_login("ann", entry(3)[:-1] + b"x"),
            ]
        )
        assert sorted([dropped[0], dropped[2]]) == [False, True]
        assert (dropped[3], dropped[5]) == (True, False)
        history = (await stores[0].profile("ann", [])).history
        assert len(history) == 4 * HISTORY_ENTRY_BYTES
        assert entries(history) == {1, 3, 5, 6}
        assert await stores[0].forget_user("ann") == 0


async def test_an_entry_is_found_only_where_one_begins(kit: Kit) -> None:
    store = await kit.store()
    one, other = b"ab" * (HISTORY_ENTRY_BYTES // 2), b"ba" * (HISTORY_ENTRY_BYTES // 2)
    await store.record_logins([("ann", one), ("ann", one)], kit.now + DAY)
    assert not await store.drop_login("ann", other)
    assert not await store.drop_login("ann", b"")
    assert await store.drop_login("ann", one)
    assert (await store.profile("ann", [])).history == one
    assert await store.drop_login("ann", one)
    assert (await store.profile("ann", [])).history == b""
    assert not await store.drop_login("ann", one)


# -- sheets, and what expires ---------------------------------------------------------------------------------


async def test_sheets_are_published_and_withdrawn_in_any_order(kit: Kit) -> None:
    stores = await kit.stores(2)
    choose = random.Random(3)
    places = [(bucket, writer) for bucket in range(8) for writer in ("a", "b", "c")]

    async def use(number: int) -> None:
        for n in range(ROUNDS // 2):
            some = [Sheet("usage", *place, bytes([number, n]), kit.now + DAY) for place in choose.sample(places, 16)]
            await stores[number % 2].publish([*some, some[0]])
            if n % 3 == 0:
                await stores[number % 2].withdraw(choose.sample(some, 8))

    await together(use(number) for number in range(8))
    last = [Sheet("usage", *place, b"last", kit.now + DAY) for place in places]
    await together(store.publish(last[::order]) for store, order in zip(stores, (1, -1), strict=True))
    assert await stores[0].sheets("usage", 0, 8) == sorted(last, key=lambda one: (one.bucket, one.writer))
    await together(store.withdraw(last[::order]) for store, order in zip(stores, (1, -1), strict=True))
    assert await stores[1].sheets("usage", 0, 8) == []


async def test_what_somebody_holds_expires_the_next_time(prefix: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    past = kit.now - HOUR
    await store.record_logins([("ann", entry(1)), ("bob", entry(1))], past)
    await store.count("a", {b"a": 1}, most=9, expires_at=past)
    await store.count("b", {b"a": 1}, most=9, expires_at=past)
    await store.publish([Sheet("usage", n, "a", b"", past) for n in range(2)])
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {prefix}histories WHERE user_id = 'ann' FOR UPDATE")
        await sql.execute(f"SELECT FROM {prefix}buckets WHERE bucket = 'a' FOR KEY SHARE")
        await sql.execute(f"SELECT FROM {prefix}sheets WHERE bucket = 1 FOR UPDATE")
        async with asyncio.timeout(10):
            assert await store.expire(kit.now, 100) == 3
    assert await store.expire(kit.now, 100) == 3
    assert await store.expire(kit.now, 100) == 0


# -- forgetting -----------------------------------------------------------------------------------------------


async def test_links_of_a_sign_in_that_was_under_way_go_too(prefix: str, sql: Any, kit: Kit) -> None:
    """It has locked the session, and its link cannot be seen when forgetting begins."""
    store = await kit.store()
    record = kit.record("ann")
    await kit.put_in(store, record)
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute(f"UPDATE {prefix}sessions SET rev = rev + 1 WHERE sid = $1", record.sid)
    await sql.execute(f"INSERT INTO {prefix}links (link, sid) VALUES ('\\x01', $1)", record.sid)
    forgetting = asyncio.create_task(store.forget_user("ann"))
    other = await asyncpg.connect(url_of("postgresql"))
    await somebody_waits(other, prefix)
    await other.close()
    await transaction.commit()
    assert await forgetting == 1
    assert await sql.fetchval(f"SELECT count(*) FROM {prefix}links") == 0


async def test_a_user_is_forgotten_among_writers(prefix: str, sql: Any, kit: Kit) -> None:
    """Twice at once, beside sign-ins and batches that name the same sessions the other way round."""
    stores = await kit.stores(2)
    for n in range(ROUNDS // 3):
        records = [kit.record("ann" if m % 2 else "bob", {"n": 0}) for m in range(12)]
        await kit.put_in(stores[0], *records)
        links = [bytes([n, m]) * (LINK_BYTES // 2) for m in range(12)]
        sign_ins = [
            kit.update(record, sign_in=SignIn(kit.now, b"{}", HOUR, DAY, "normal", (link,)))
            for record, link in zip(records, links, strict=True)
        ]
        one, other, results, _ = await together(
            [
                stores[0].forget_user("ann"),
                stores[1].forget_user("ann"),
                stores[0].apply(sign_ins),
                stores[1].apply([kit.update(record, {"n": 1}) for record in records[::-1]]),
            ]
        )
        assert one + other == 6
        assert all(isinstance(result, Applied) for result in results[::2]), "those of the other user"
        left = await sql.fetch(
            f"SELECT sid FROM {prefix}links AS l "
            f"WHERE NOT EXISTS (SELECT FROM {prefix}sessions AS s WHERE s.sid = l.sid)"
        )
        assert left == []
        assert await stores[1].forget_user("bob") == 6
