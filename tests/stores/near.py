"""Near caches for tests: stores that answer ``load`` from what they hold, as the workers on one database have them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sessiondb import NearCache, Store
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.feed import Feed, HasFeed, Listener
from sessiondb.stores.near_cache import NearCacheStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import Database, ManualClock, OpenHandle, StoreWrapper

Answer = TypeVar("Answer")

WRITES = frozenset({"apply", "admit", "end_where", "sweep", "announced", "lower_checks"})
PATIENCE = 20.0


class Serving(NearCacheStore):
    """Serves ``load`` with what is held, as pages are served; what is not held is loaded."""

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        held = {sid: record for sid in sids if (record := self.cached(sid)) is not None}
        missing = [sid for sid in sids if sid not in held]
        loaded = dict(zip(missing, await super().load(missing), strict=True)) if missing else {}
        return [held.get(sid) or loaded.get(sid) for sid in sids]


class Workers:
    """The near caches on one database.

    For those that go by age, the bound passes between a write of one and what the others do next: each has a clock of
    its own, which moves when another one has written and not when it has itself. ``counters`` are of all of them.
    """

    staleness = 1.0

    def __init__(self, make: type[Serving] = Serving) -> None:
        self.counters: Counter[str] = Counter()
        self.written: list[_Written] = []
        self._make = make

    def worker(self, store: Store, feed: Feed | None = None) -> Serving:
        """The cache of one worker on ``store``."""
        below = _Written(store, self)
        self.written.append(below)
        settings = NearCache(staleness=self.staleness if feed is None else 60.0)
        if feed is None:
            return self._make(below, settings, counters=self.counters, monotonic=lambda: below.seconds)
        return Told(below, settings, Often(feed), self)


class _Written(StoreWrapper):
    """Below a cache: tells the others that something was written."""

    def __init__(self, store: Store, workers: Workers) -> None:
        super().__init__(store)
        self.seconds = 0.0
        self.others_wrote_at = 0.0
        self._workers = workers

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            return await call()
        finally:
            if method in WRITES:
                for other in self._workers.written:
                    if other is not self:
                        other.seconds += 1.001 * self._workers.staleness
                        other.others_wrote_at = asyncio.get_running_loop().time()


class Often:
    """``feed``, asked so often that nobody has to wait long for its proof."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def listen(self, listener: Listener, every: float) -> None:
        await self._feed.listen(listener, 0.1 if every > 0.1 else every)


class Told(Serving):
    """Goes by a feed. What others have written is known when the feed says so: whoever loads waits for that."""

    __slots__ = ("_below", "_news", "_since")

    def __init__(self, below: _Written, settings: NearCache, feed: Feed, workers: Workers) -> None:
        super().__init__(below, settings, feed=feed, counters=workers.counters)
        self._below = below
        self._since = 0.0
        self._news = asyncio.Event()

    def alive(self, since: float) -> None:
        super().alive(since)
        self._since = since
        self._news.set()

    async def _proof_since(self, moment: float) -> None:
        async with asyncio.timeout(PATIENCE):
            while self._since < moment:
                self._news.clear()
                await self._news.wait()

    async def open(self) -> None:
        await super().open()
        await self._proof_since(asyncio.get_running_loop().time())

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        if self._is_live:
            await self._proof_since(self._below.others_wrote_at)
        return await super().load(sids)


def cached(
    inner: Database, *, faults: Callable[[Store], Store] = lambda store: store, workers: Workers | None = None
) -> Database:
    """As a ``SessionDB`` wraps a store, whose handles are workers with a near cache each; ``faults`` are below it."""

    @asynccontextmanager
    async def make(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        together = workers or Workers()

        async with inner(clock) as handle:

            def worker() -> Store:
                store: Any = handle()
                feed = store.feed() if isinstance(store, HasFeed) else None
                return CoalescingStore(together.worker(RecoveringStore(faults(store)), feed))

            yield worker

    return make
