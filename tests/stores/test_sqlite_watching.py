"""Histories, counters and sheets in SQLite, where there are many."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from sessiondb.stores import _sqlite_threads, _sqlite_watching
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet
from sessiondb.stores.sqlite import SQLiteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "x.db", synchronous="NORMAL")
    await store.open()
    yield store
    await store.close()


def entry(number: int) -> bytes:
    return number.to_bytes(HISTORY_ENTRY_BYTES, "big")


async def test_a_profile_of_many_counters_is_in_the_order_of_the_question(store: SQLiteStore) -> None:
    await store.record_logins([("ann", entry(1))], 10)
    await store.count("a", {bytes([n]): n + 1 for n in range(200)}, most=1000, expires_at=10)
    wanted = [Counter("a" if n % 3 else "b", bytes([n % 256])) for n in range(255, -1, -1)]
    found = await store.profile("ann", wanted)
    assert found.history == entry(1)
    assert list(found.counts) == [one.key[0] + 1 if one.bucket == "a" and one.key[0] < 200 else 0 for one in wanted]


async def test_a_profile_is_read_on_the_spot(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on the way of a login: what is in the page cache needs no other thread."""
    monkeypatch.setattr(_sqlite_threads, "SLOW", 60.0)
    monkeypatch.setattr(_sqlite_threads, "LOOK_AT_FILE_EVERY", 60.0)
    await store.profile("ann", [Counter("a", b"x")])
    while store._reader._in_use.locked():
        await asyncio.sleep(0)
    groups = store._reader.groups
    assert await store.profile("ann", [Counter("a", b"x")]) == Profile(b"", [0])
    assert store._reader.groups == groups


async def test_many_logins_in_one_call(store: SQLiteStore) -> None:
    logins = [(f"user{n % 7}", entry(n)) for n in range(1203)]
    await store.record_logins(logins, 10)
    for user in range(7):
        mine = [one for name, one in reversed(logins) if name == f"user{user}"][:HISTORY_ENTRIES]
        assert (await store.profile(f"user{user}", [])).history == b"".join(mine)


async def test_many_counters_in_one_call_stop_at_the_bound(store: SQLiteStore) -> None:
    keys = [n.to_bytes(2, "big") for n in range(1203)]
    await store.count("a", dict.fromkeys(keys[:600], 1), most=1000, expires_at=10)
    await store.count("a", dict.fromkeys(keys, 1), most=1000, expires_at=10)
    counts = (await store.profile(None, [Counter("a", key) for key in keys])).counts
    assert (list(counts[:600]), sum(counts[600:])) == ([2] * 600, 400)


async def test_a_large_bucket_goes_in_steps_and_may_come_back_meanwhile(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_watching, "ITEMS_AT_ONCE", 10)
    keys = [bytes([n]) for n in range(25)]
    for bucket in ("a", "b"):
        await store.count(bucket, dict.fromkeys(keys, 1), most=25, expires_at=10)
    assert await store.expire(9, 100) == 0
    assert await store.expire(10, 100) == 1
    left = (await store.profile(None, [Counter("a", key) for key in keys])).counts
    assert sum(left) == 15
    await store.count("a", {b"new": 1, b"newer": 1}, most=16, expires_at=20)
    assert (await store.profile(None, [Counter("a", b"new"), Counter("a", b"newer")])).counts == [1, 0]
    while await store.expire(10, 100):
        pass
    counts = (await store.profile(None, [Counter(bucket, key) for bucket in ("a", "b") for key in keys])).counts
    assert (sum(counts[:25]), sum(counts[25:])) == (15, 0)
    while await store.expire(20, 100):
        pass
    with closing(sqlite3.connect(store.path)) as other:
        for table in ("buckets", "counters"):
            assert other.execute(f"SELECT count(*) FROM sessiondb_{table}").fetchone() == (0,)


async def test_no_more_expire_at_once_than_was_said(store: SQLiteStore) -> None:
    await store.record_logins([(f"user{n}", entry(n)) for n in range(10)], 10)
    await store.publish([Sheet("usage", n, "w", b"x", 10) for n in range(10)])
    for n in range(10):
        await store.count(f"b{n}", {b"x": 1}, most=10, expires_at=10)
    assert [await store.expire(10, 4) for _ in range(4)] == [12, 12, 6, 0]


async def test_one_process_after_the_other_counts_and_publishes(store: SQLiteStore) -> None:
    """Two handles that never wait for each other's answers."""
    other = SQLiteStore(store.path, synchronous="NORMAL", busy_timeout=30)
    await other.open()
    keys = [bytes([n]) for n in range(5)]

    async def work(one: SQLiteStore, name: str) -> None:
        for n in range(50):
            await one.count("a", dict.fromkeys(keys if n % 2 else keys[::-1], 1), most=5, expires_at=10)
            await one.publish([Sheet("usage", 1, name, str(n).encode(), 10)])
            await one.record_logins([("ann", entry(n))], 10)

    await asyncio.gather(*(work(one, name) for one in (store, other) for name in ("x", "y")))
    assert (await store.profile(None, [Counter("a", key) for key in keys])).counts == [200] * 5
    assert [one.data for one in await store.sheets("usage", 0, 9)] == [b"49", b"49"]
    assert len((await store.profile("ann", [])).history) == HISTORY_ENTRIES * HISTORY_ENTRY_BYTES
    await other.close()
