"""MySQL: histories, counters and sheets under many hands; what is over goes whole, however much it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import pytest
from wire import Meter, everything, wire

from databases import drop, kit_on, new_prefix, url_of, with_option
from sessiondb import open_store
from sessiondb.stores import _mysql_watching as watching
from sessiondb.stores._mysql_connection import Connection, Result, connect
from sessiondb.stores._mysql_rows import Statements
from sessiondb.stores._mysql_url import parse
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit, together


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    async with kit_on("mysql") as kit:
        yield kit


@pytest.fixture
async def sql() -> AsyncIterator[Connection]:
    connection = await connect(parse(url_of("mysql")).arguments, 5)
    yield connection
    await connection.close()


def statements_of(store: Store) -> Statements:
    return store._sql  # type: ignore[attr-defined,no-any-return]


def entry(number: int) -> bytes:
    return number.to_bytes(HISTORY_ENTRY_BYTES, "big")


async def items(store: Store, sql: Connection, bucket: str) -> tuple[int, int]:
    """How many items the bucket is said to have, and how many it has."""
    tables = statements_of(store)
    name = f"bucket = '{bucket}'"
    said, counted = await sql.run(
        [f"SELECT items FROM {tables.buckets} WHERE {name}", f"SELECT count(*) FROM {tables.counters} WHERE {name}"]
    )
    return said.rows[0][0] if said.rows else 0, counted.rows[0][0]


async def test_the_size_of_a_bucket_is_right_under_many_hands(kit: Kit, sql: Connection) -> None:
    """Three workers add to overlapping keys, in whatever order they name them."""
    stores = await kit.stores(3)
    keys = [bytes([n]) for n in range(60)]

    async def add(number: int) -> None:
        mine = keys[number : number + 30]
        ordered = mine if number % 2 else mine[::-1]
        await stores[number % 3].count("b", dict.fromkeys(ordered, 1), most=1000, expires_at=kit.now + HOUR)

    await together(add(number) for number in range(30))
    assert await items(stores[0], sql, "b") == (59, 59)
    counts = (await stores[0].profile(None, [Counter("b", key) for key in keys])).counts
    assert counts == [min(n + 1, 30, 59 - n) for n in range(60)]


async def test_of_many_new_keys_as_many_as_there_is_room_for_are_counted(kit: Kit, sql: Connection) -> None:
    """The first of them, though they are more than one statement takes. Numbers below zero are added as others are."""
    store = await kit.store()
    most = watching.PART + 50
    keys = [n.to_bytes(2, "big") for n in range(2 * watching.PART)][::-1]
    adds = {key: 5 if n % 2 else -5 for n, key in enumerate(keys)}
    await store.count("b", {b"zero": 0} | adds, most=most, expires_at=kit.now + HOUR)
    await store.count("b", {b"other": 1, keys[0]: -3}, most=most, expires_at=kit.now + HOUR)
    found = (await store.profile(None, [Counter("b", key) for key in (*keys, b"zero", b"other")])).counts
    assert found == [-8, *[adds[key] for key in keys[1:most]], *[0] * (len(keys) - most), 0, 0]
    assert await items(store, sql, "b") == (most, most)


async def test_a_bucket_of_very_many_goes_whole(kit: Kit, sql: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST_DELETED", 100)
    store = await kit.store()
    for bucket, expires_at in (("over", kit.now - 1), ("on", kit.now + 1)):
        await store.count(bucket, {n.to_bytes(2, "big"): 1 for n in range(350)}, most=1000, expires_at=expires_at)
    assert await store.expire(kit.now, 10) == 1
    assert await items(store, sql, "over") == (0, 0)
    assert await items(store, sql, "on") == (350, 350)
    assert await store.expire(kit.now, 10) == 0


async def test_who_counts_into_a_bucket_that_goes_loses_nothing_that_is_answered_later(
    kit: Kit, sql: Connection
) -> None:
    """The bucket is over, one worker sweeps it away, and two others give it another hour again and again."""
    stores = await kit.stores(3)
    for turn in range(20):
        key = bytes([turn])
        await stores[0].count("b", {key: 1, b"x": 1}, most=1000, expires_at=kit.now - 1)
        await together(
            [
                stores[0].expire(kit.now, 10),
                stores[1].count("b", {b"x": 1, b"y": 1}, most=1000, expires_at=kit.now + HOUR),
                stores[2].count("b", {b"y": 1, b"x": 1}, most=1000, expires_at=kit.now + HOUR),
            ]
        )
        said, there = await items(stores[0], sql, "b")
        assert said == there
        assert (await stores[0].profile(None, [Counter("b", b"y")])).counts[0] >= 2
        assert await stores[0].expire(kit.now, 10) == 0
        assert await stores[0].expire(kit.now + HOUR, 10) == 1
        assert await items(stores[0], sql, "b") == (0, 0)


class After:
    """Has ``work`` done once, after so many transactions have been committed."""

    def __init__(self, patch: pytest.MonkeyPatch, transactions: int, work: Callable[[], Awaitable[object]]) -> None:
        self.left = transactions
        real, busy = Connection.transaction, False

        async def transaction(connection: Connection, statements: Sequence[str]) -> list[Result]:
            nonlocal busy
            if self.left == 0 and not busy:
                busy = True
                await work()
            self.left -= not busy
            return await real(connection, statements)

        patch.setattr(Connection, "transaction", transaction)


async def test_a_bucket_that_is_counted_into_while_it_goes_keeps_what_is_left_of_it(
    kit: Kit, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_DELETED", 100)
    store, other = await kit.stores(2)
    adds = {n.to_bytes(2, "big"): 1 for n in range(350)}
    await store.count("b", adds, most=1000, expires_at=kit.now - 1)
    later = kit.now + HOUR
    After(monkeypatch, 2, lambda: other.count("b", {b"late": 1}, most=1000, expires_at=later))
    assert await store.expire(kit.now, 10) == 0
    assert await items(store, sql, "b") == (151, 151)
    assert (await store.profile(None, [Counter("b", b"late")])).counts == [1]


async def test_what_is_given_more_time_while_it_is_looked_for_stays(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = await kit.stores(2)
    over, later = kit.now - 1, kit.now + DAY
    await store.record_logins([("ann", entry(1))], over)
    await store.publish([Sheet("usage", 1, "w", b"old", over)])

    async def more_time() -> None:
        await other.record_logins([("ann", entry(2))], later)
        await other.publish([Sheet("usage", 1, "w", b"new", later)])

    After(monkeypatch, 0, more_time)
    assert await store.expire(kit.now, 10) == 0
    assert (await store.profile("ann", [])).history == entry(2) + entry(1)
    assert [sheet.data for sheet in await store.sheets("usage", 0, 9)] == [b"new"]


async def test_logins_of_many_users_in_any_order_are_all_kept(kit: Kit) -> None:
    """And those that are taken back meanwhile are the only ones that go."""
    stores = await kit.stores(3)
    users = [f"u{n}" for n in range(12)]
    await stores[0].record_logins([(user, entry(100)) for user in users], kit.now + DAY)

    async def record(number: int) -> None:
        ordered = users if number % 2 else users[::-1]
        await stores[number % 3].record_logins([(user, entry(number)) for user in ordered], kit.now + DAY)

    async def drop(user: str) -> None:
        assert await stores[2].drop_login(user, entry(100))

    await together([*(record(number) for number in range(HISTORY_ENTRIES - 1)), *(drop(user) for user in users)])
    for user in users:
        history = (await stores[0].profile(user, [])).history
        found = [history[at : at + HISTORY_ENTRY_BYTES] for at in range(0, len(history), HISTORY_ENTRY_BYTES)]
        assert sorted(found) == [entry(number) for number in range(HISTORY_ENTRIES - 1)]


async def test_an_entry_is_found_whole_and_in_its_place_only(kit: Kit) -> None:
    """Not across the border of two others, which together hold its bytes."""
    store = await kit.store()
    one, two = b"a" * 24 + b"b" * 24, b"b" * 24 + b"a" * 24
    await store.record_logins([("ann", one), ("ann", one)], kit.now + DAY)
    assert not await store.drop_login("ann", two)
    assert (await store.profile("ann", [])).history == one + one
    assert await store.drop_login("ann", one)
    assert await store.drop_login("ann", one)
    assert (await store.profile("ann", [])).history == b""


async def test_sheets_are_published_and_withdrawn_by_many(kit: Kit) -> None:
    """The last one wins, whole; and a sheet of the largest size is kept."""
    stores = await kit.stores(3)
    later = kit.now + DAY
    largest = Sheet("usage", 0, "w", b"\xff\x00'" * 21_845 + b"!", later)
    assert len(largest.data) == 65_536

    def sheets(number: int) -> list[Sheet]:
        every = [Sheet("usage", bucket, "w", bytes([number]) * 1000, later) for bucket in range(1, 10)]
        return every if number % 2 else every[::-1]

    await stores[0].publish([largest])
    await together(stores[number % 3].publish(sheets(number)) for number in range(12))
    found = await stores[0].sheets("usage", 0, 100)
    assert found[0] == largest
    assert len(found) == 10
    assert all(len({*sheet.data}) == 1 and len(sheet.data) == 1000 for sheet in found[1:])
    await together(stores[number % 3].withdraw(sheets(number)) for number in range(6))
    assert await stores[0].sheets("usage", 0, 100) == [largest]


async def test_what_is_over_goes_by_so_many_of_each(kit: Kit) -> None:
    store = await kit.store()
    over, later = kit.now - 1, kit.now + DAY
    await store.record_logins([(f"u{n}", entry(1)) for n in range(7)], over)
    await store.record_logins([("stays", entry(1))], later)
    for n in range(7):
        await store.count(f"b{n}", {b"a": 1}, most=9, expires_at=over)
    await store.publish([Sheet("usage", n, "w", b"", over) for n in range(7)])
    assert [await store.expire(kit.now, 3) for _ in range(4)] == [9, 9, 3, 0]
    assert (await store.profile("stays", [])).history == entry(1)


async def test_two_that_sweep_away_what_is_over_count_each_thing_once(kit: Kit) -> None:
    stores = await kit.stores(2)
    over = kit.now - 1
    await stores[0].record_logins([(f"u{n}", entry(1)) for n in range(300)], over)
    await stores[0].publish([Sheet("usage", n, "w", b"", over) for n in range(300)])
    for n in range(5):
        await stores[0].count(f"b{n}", {b"a": 1}, most=9, expires_at=over)
    assert sum(await together(store.expire(kit.now, 1000) for store in stores)) == 605


async def test_a_profile_is_one_round_trip() -> None:
    meter, parts, prefix = Meter(), urlsplit(url_of("mysql")), new_prefix()
    assert parts.hostname is not None
    assert parts.port is not None
    async with wire((parts.hostname, parts.port), meter, everything) as port:
        url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
        kit = Kit(lambda: open_store(with_option(url, f"prefix={prefix}")), ManualClock())
        store = await kit.store()
        await store.record_logins([("ann", entry(1))], kit.now + DAY)
        await store.count("b", {b"a": 3}, most=9, expires_at=kit.now + DAY)
        wanted = [Counter("b", b"a"), Counter("c", b"a"), Counter("b", b"a"), Counter("b", b"z")]
        for user, counters, profile in (
            ("ann", wanted, Profile(entry(1), [3, 0, 3, 0])),
            ("ann", [], Profile(entry(1), [])),
            ("bob", wanted[:1], Profile(b"", [3])),
            (None, wanted[:2], Profile(b"", [3, 0])),
        ):
            meter.reset()
            assert await store.profile(user, counters) == profile
            assert meter.flights == 1
        meter.reset()
        assert await store.profile(None, []) == Profile(b"", [])
        assert meter.flights == 0
        await kit.close_all()
    await drop("mysql", prefix)
