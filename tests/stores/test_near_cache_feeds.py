"""A near cache that PostgreSQL or MongoDB tells of changes: what it may serve, also when the telling breaks off."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from lines import Line, line_to

from databases import drop, new_prefix, url_of, with_login, with_option
from sessiondb import ConfigurationError, NearCache, open_store
from sessiondb.core.errors import StoreUnavailable
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._mongodb_rows import sid_value
from sessiondb.stores._mongodb_url import parse
from sessiondb.stores.base import Store
from sessiondb.stores.feed import HasFeed, Listener
from sessiondb.stores.near_cache import NearCacheStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit

KINDS = ("postgresql", "mongodb")
PATIENCE = 20.0


@asynccontextmanager
async def caching(
    store: Store, staleness: float, on_refusal: Callable[[ConfigurationError], None] = lambda why: None
) -> AsyncIterator[tuple[NearCacheStore, Counter[str]]]:
    """A near cache on ``store``, and what it counts."""
    assert isinstance(store, HasFeed)
    counters: Counter[str] = Counter()
    near = NearCacheStore(
        RecoveringStore(store),
        NearCache(staleness=staleness),
        feed=store.feed(),
        counters=counters,
        on_refusal=on_refusal,
    )
    await near.open()
    try:
        yield near, counters
    finally:
        await near.close()
        gc.collect()  # what the driver has dropped is found here, not by another test


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():
            await asyncio.sleep(0.005)


async def hold(near: NearCacheStore, records: list[Record]) -> None:
    """Have the cache hold all of them."""
    async with asyncio.timeout(PATIENCE):
        while not all(near.cached(record.sid) for record in records):
            await near.load([record.sid for record in records])
            await asyncio.sleep(0.005)


async def by_hand(kind: str, url: str, sid: Sid) -> None:
    """Somebody ends a session with the tools of the database."""
    if kind == "postgresql":
        connection = await asyncpg.connect(url.partition("?")[0])
        await connection.execute(f"DELETE FROM {url.partition('prefix=')[2]}sessions WHERE sid = $1", sid)
        await connection.close()
        return
    collections = parse(url).connect()
    await collections.sessions.delete_one({"_id": sid_value(sid)})
    await collections.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_others_write_is_dropped_alone_and_long_before_it_is_old(kind: str) -> None:
    prefix = new_prefix()
    url = with_option(url_of(kind), f"prefix={prefix}")
    kit = Kit(lambda: open_store(url), ManualClock())
    other = await kit.store()
    records = [kit.record("ann", {"n": 0}) for _ in range(6)]
    updated, ended, revoked, deleted, touched, untouched = records
    await kit.put_in(other, *records)
    async with caching(open_store(url), 60.0 if kind == "postgresql" else 3.0) as (near, counters):
        await hold(near, records)
        await other.apply([kit.update(updated, {"n": 1}), kit.end(ended), kit.touch(touched)])
        await other.end_where(kit.query(sids=[revoked.sid]), EndReason.REVOKED)
        await by_hand(kind, url, deleted.sid)
        await eventually(lambda: not any(near.cached(one.sid) for one in (updated, ended, revoked, deleted)))
        assert near.cached(touched.sid) and near.cached(untouched.sid)
        assert counters["near_feed_lost"] == 0
        found = await near.load([one.sid for one in records])
        assert [one is None or one.ended_at is not None for one in found] == [False, True, True, True, False, False]
        assert near.cached(ended.sid) is None, "what has ended is not held"
    await kit.close_all()
    await drop(kind, prefix)


class Storm:
    """Sessions are revoked one after the other, while others are served from what ``near`` holds."""

    def __init__(self, near: NearCacheStore, other: Store, kit: Kit, bound: float) -> None:
        self._near = near
        self._other = other
        self._kit = kit
        self._bound = bound
        self.records = [kit.record("ann", {"n": n}) for n in range(90)]
        self.revoked_at: dict[Sid, float] = {}
        self.served: Counter[str] = Counter()
        self.is_over = False

    async def read(self, seed: int) -> None:
        chance, now = random.Random(seed), asyncio.get_running_loop().time
        while not self.is_over:
            sid, asked_at = chance.choice(self.records).sid, now()
            record = self._near.cached(sid)
            if record is None:
                try:
                    async with asyncio.timeout(0.3):
                        await self._near.load([sid])
                except (StoreUnavailable, TimeoutError):
                    await asyncio.sleep(0.01)
            elif sid not in self.revoked_at:
                self.served["rightly"] += 1
            elif asked_at > self.revoked_at[sid] + self._bound:
                self.served["too late"] += 1
            else:
                self.served["within the bound"] += 1
            await asyncio.sleep(0)

    async def revoke(self) -> None:
        for record in self.records:
            await self._kit.apply(self._other, self._kit.end(record, EndReason.REVOKED))
            self.revoked_at[record.sid] = asyncio.get_running_loop().time()
            await asyncio.sleep(0.004)

    async def blow(self, breaks: Callable[[], None]) -> None:
        """All are held, then revoked; when a third is, ``breaks`` is called."""
        await self._kit.put_in(self._other, *self.records)
        await hold(self._near, self.records)
        readers = [asyncio.create_task(self.read(seed)) for seed in range(4)]
        await eventually(lambda: self.served["rightly"] > 500)
        revoking = asyncio.create_task(self.revoke())
        await eventually(lambda: len(self.revoked_at) >= 30)
        breaks()
        await revoking
        await asyncio.sleep(self._bound * 1.2)
        self.is_over = True
        await asyncio.gather(*readers)


@asynccontextmanager
async def on_a_line(kind: str, folder: Path) -> AsyncIterator[tuple[Line, str, str]]:
    """A line, a URL whose feed goes through it (on PostgreSQL nothing else does), and one that goes past it."""
    async with line_to(kind, folder) as line:
        prefix = line.url.partition("prefix=")[2].partition("&")[0]
        direct = with_option(url_of(kind), f"prefix={prefix}")
        if kind == "postgresql":
            yield line, f"{direct}&feed={quote(line.url.partition('?')[0], safe='')}", direct
        else:
            yield line, line.url, direct


@pytest.mark.parametrize("how", ["cut", "stall"])
@pytest.mark.parametrize("kind", KINDS)
async def test_no_revoked_session_is_served_after_the_bound(kind: str, how: str, tmp_path: Path) -> None:
    bound = 0.9
    async with on_a_line(kind, tmp_path) as (line, url, direct):
        kit = Kit(lambda: open_store(direct), ManualClock())
        other = await kit.store()
        async with caching(open_store(url), bound) as (near, counters):
            storm = Storm(near, other, kit, bound)
            await storm.blow(getattr(line, how))
            assert storm.served["too late"] == 0
            assert storm.served["rightly"] > 500
            assert counters["near_feed_lost"] >= 1
            assert near.entries == 0, "while nobody tells, nothing is held"
            line.mend()
            late = kit.record("ann")
            await kit.put_in(other, late)
            await hold(near, [late])
            await kit.apply(other, kit.end(late))
            await eventually(lambda: near.cached(late.sid) is None)
        await kit.close_all()


class Deaf:
    """A feed that takes its silence for "nothing has changed"."""

    async def listen(self, listener: Listener, every: float) -> None:
        while True:
            listener.alive(asyncio.get_running_loop().time())
            await asyncio.sleep(every)


async def test_the_storm_finds_a_cache_that_is_told_nothing() -> None:
    kit = Kit(lambda: open_store("memory://"), ManualClock())
    other = await kit.store()
    near = NearCacheStore(other, NearCache(staleness=0.2), feed=Deaf())
    await near.open()
    storm = Storm(near, other, kit, 0.2)
    await storm.blow(lambda: None)
    assert storm.served["too late"] > 0
    await near.close()
    await kit.close_all()


async def test_who_may_not_be_told_goes_by_age() -> None:
    """A user who may make no triggers: that is said once, and sessions are held as long as the bound."""
    prefix = new_prefix()
    url, role = with_option(url_of("postgresql"), f"prefix={prefix}"), f"{prefix}app"
    kit = Kit(lambda: open_store(url), ManualClock())
    owner = await kit.store()
    record = kit.record("ann", {"n": 1})
    await kit.put_in(owner, record)
    sql: Any = await asyncpg.connect(url_of("postgresql"))
    await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    for name in ("sessions", "links", "users", "events", "meta"):
        await sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {prefix}{name} TO {role}")
    try:
        said: list[ConfigurationError] = []
        async with caching(open_store(with_login(url, role, "x")), 0.3, said.append) as (near, counters):
            await hold(near, [record])
            await kit.apply(owner, kit.end(record))
            await eventually(lambda: near.cached(record.sid) is None)
            assert counters["near_feed_lost"] == 0
        [refusal] = said
        assert "CREATE TRIGGER" in str(refusal)
    finally:
        await sql.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
        await sql.close()
        await kit.close_all()
        await drop("postgresql", prefix)
