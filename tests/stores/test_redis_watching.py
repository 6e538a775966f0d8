"""Histories, counters and sheets in Redis and Valkey: each key goes by itself, and no list keeps what has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from databases import new_prefix, url_of, with_option
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Sheet
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit, together


@pytest.fixture(params=["redis", "redis_cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    store = RedisStore(with_option(url_of(request.param), f"prefix={new_prefix()}"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def kit(store: RedisStore) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


async def raw(store: RedisStore, name: str, key: bytes, *arguments: Any) -> Any:
    [reply] = await store.run([(key, (name, key, *arguments))])
    return reply


async def lives(store: RedisStore) -> dict[str, int]:
    """Each key but the layout's, and for how many milliseconds it is to live (-1: for ever)."""
    prefix = store.keys.prefix
    found: dict[str, int] = {}
    async for keys in store.all_keys(prefix.encode() + b"*"):
        for key in keys:
            if key != store.keys.meta:
                found[key.decode().removeprefix(prefix)] = await raw(store, "PTTL", key)
    return found


def entry(number: int) -> bytes:
    return number.to_bytes(HISTORY_ENTRY_BYTES, "big")


async def test_every_key_goes_by_itself_at_its_time(store: RedisStore, kit: Kit) -> None:
    later = kit.now + DAY
    await store.record_logins([("ann", entry(1)), ("bob", entry(2))], later)
    await store.drop_login("bob", entry(3))
    await store.count("failures:1", {b"a": 1}, most=10, expires_at=later)
    await store.publish([Sheet("usage", 7, "me", b"x", later), Sheet("risk", 7, "me", b"x", later)])
    assert await store.expire(kit.now, 100) == 0
    found = await lives(store)
    assert len(found) == 2 + 1 + 2 * 3
    for key, left in found.items():
        assert abs(left - DAY // 1000) < 60_000, key
    # A later call moves the time of all that it is about.
    await store.record_logins([("ann", entry(4))], later + DAY)
    await store.count("failures:1", {b"b": 1}, most=10, expires_at=kit.now + HOUR)
    found = await lives(store)
    assert found["user:{ann}:logins"] > 1.9 * DAY / 1000
    assert found["counters:failures:1"] < 1.1 * HOUR / 1000


async def test_what_takes_no_more_is_empty_and_goes(store: RedisStore, kit: Kit) -> None:
    await store.record_logins([("ann", entry(1))], kit.now + DAY)
    assert await store.drop_login("ann", entry(1))
    await store.publish([sheet := Sheet("usage", 7, "me", b"x", kit.now + DAY)])
    await store.withdraw([sheet, Sheet("other", 1, "me", b"", 0)])
    assert await lives(store) == {}


async def test_sheets_that_are_over_leave_the_lists_of_their_kind(store: RedisStore, kit: Kit) -> None:
    """With the next that is published; and one that is published anew stays."""
    soon = kit.now + 300_000
    short = [Sheet("usage", bucket, "me", b"x", soon) for bucket in range(60)]
    await store.publish(short)
    await store.publish([again := Sheet("usage", 5, "me", b"y", kit.now + DAY)])
    async with asyncio.timeout(10):
        while await store.sheets("usage", 0, 100) != [again]:
            await asyncio.sleep(0.02)
    await store.publish([late := Sheet("usage", 99, "me", b"", kit.now + HOUR)])
    for what in ("buckets", "ends"):
        assert await raw(store, "ZRANGE", store.keys.sheets("usage", what), 0, -1) == (
            [b"5:me", b"99:me"] if what == "buckets" else [b"99:me", b"5:me"]
        )
    assert await store.sheets("usage", 0, 100) == [again, late]


async def test_many_sheets_come_in_order(store: RedisStore, kit: Kit) -> None:
    sheets = [
        Sheet("usage", bucket, writer, bytes([bucket % 256]) * 70, kit.now + DAY)
        for bucket in (-3, -1, 0, 2, 10, 9, 100, 2**40)
        for writer in ("b", "a", "a:b", "A", "w" * 32)
    ]
    sheets += [Sheet("usage", 500 + n, "a", b"", kit.now + DAY) for n in range(100)]
    await store.publish(sheets)
    found = await store.sheets("usage", -10, 2**41)
    assert found == sorted(sheets, key=lambda sheet: (sheet.bucket, sheet.writer))
    assert [sheet.bucket for sheet in await store.sheets("usage", 0, 10)] == [0] * 5 + [2] * 5 + [9] * 5


async def test_a_history_never_shows_more_than_it_has(store: RedisStore, kit: Kit) -> None:
    """Whoever asks while many log in."""
    done = asyncio.Event()
    longest = 0

    async def look() -> None:
        nonlocal longest
        while not done.is_set():
            history = (await store.profile("ann", [])).history
            assert len(history) % HISTORY_ENTRY_BYTES == 0
            longest = max(longest, len(history) // HISTORY_ENTRY_BYTES)

    looking = asyncio.create_task(look())
    await together(
        store.record_logins([("ann", entry(number)), ("bob", entry(number))], kit.now + DAY) for number in range(60)
    )
    done.set()
    await looking
    assert longest <= HISTORY_ENTRIES
    for user in ("ann", "bob"):
        assert len((await store.profile(user, [])).history) == HISTORY_ENTRIES * HISTORY_ENTRY_BYTES


async def test_a_large_count_stops_at_its_bound(store: RedisStore, kit: Kit) -> None:
    """Of more keys than one script takes."""
    adds = {b"%d" % number: number for number in range(1, 1201)}
    await store.count("big", adds, most=1000, expires_at=kit.now + HOUR)
    assert await raw(store, "HLEN", store.keys.counters("big")) == 1000
    await store.count("big", adds, most=1000, expires_at=kit.now + HOUR)
    counts = (await store.profile(None, [Counter("big", b"1000"), Counter("big", b"1001")])).counts
    assert list(counts) == [2000, 0]


async def test_a_profile_is_one_burst(store: RedisStore, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    bursts = 0
    real = store.try_all

    async def try_all(*arguments: Any, **named: Any) -> Any:
        nonlocal bursts
        bursts += 1
        return await real(*arguments, **named)

    monkeypatch.setattr(store, "try_all", try_all)
    await store.profile("ann", [Counter(f"bucket{n}", b"a") for n in range(9)])
    assert bursts == 1
