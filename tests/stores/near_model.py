"""Two near caches on one database, random calls in any order, and a reference that says what may be served when.

The database is real (memory), every call on its way to it and back takes some turns of the event loop, and time is a
number that the test moves. The reference keeps when each session was changed. Whatever a cache serves at ``now`` must

* show every change that was made before ``now - STALENESS``, whoever made it;
* show every change that was answered to this worker;
* be a living session, and not one that either rule says is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from sessiondb import NearCache, StoreError
from sessiondb.core.change import Applied, Create, End, Update, new_change_id
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.core.token import Sid
from sessiondb.stores.base import Query
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.near_cache import NearCacheStore
from sessiondb.testing import ManualClock, StoreWrapper
from sessiondb.testing.builders import Builders

STALENESS = 1.0
ENDED = 10**9  # as a revision: later than all
USERS = ("ann", "bob")


class World:
    """The database, what happened to it when, and who hears of it."""

    def __init__(self, seed: int, make: Callable[..., NearCacheStore], *, feed: bool) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.now = 0.0
        self.store = MemoryStore(clock=self.clock)
        self.builders = Builders(self.clock.now)
        self.history: dict[Sid, list[tuple[float, int]]] = defaultdict(list)
        self.sids: list[Sid] = []
        self.seen: Counter[str] = Counter()
        self.workers = [Worker(self, make, feed) for _ in range(2)]

    async def turns(self, most: int = 6) -> None:
        if self.random.random() < 0.1:
            most *= 10
        for _ in range(self.random.randrange(most)):
            await asyncio.sleep(0)

    def changed(self, sid: Sid, revision: int) -> None:
        """It has been committed."""
        self.history[sid].append((self.now, revision))
        for worker in self.workers:
            worker.line.append(sid)
            worker.sent += 1

    def visible_before(self, sid: Sid, moment: float) -> int:
        """The revision that everybody must have seen of what was committed before ``moment``."""
        return max((revision for at, revision in self.history[sid] if at < moment), default=0)

    async def run(self, steps: int) -> None:
        for worker in self.workers:
            await worker.cache.open()
            if worker.has_feed:
                worker.cache.alive(self.now)
        running: set[asyncio.Task[None]] = set()
        for _ in range(steps):
            worker = self.random.choice(self.workers)
            action = self.random.choices(ACTIONS, WEIGHTS)[0]
            task = asyncio.create_task(_quietly(action, worker))
            running.add(task)
            task.add_done_callback(running.discard)
            if self.random.random() < 0.05:
                task.cancel()
            await self.turns(3)
            for one in self.workers:
                one.look()
        if running:
            await asyncio.wait(running)
        for one in self.workers:
            one.look()
            await one.cache.close()


class Wire(StoreWrapper):
    """Calls take their time to the database and back, and at times the reply is lost."""

    def __init__(self, world: World) -> None:
        super().__init__(world.store)
        self.world = world

    async def around(self, method: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if method in ("open", "close"):
            return await call()
        await self.world.turns()
        answer = await call()
        await self.world.turns()
        if method != "load" and self.world.random.random() < 0.05:
            raise StoreError("The reply was lost.", outcome="unknown")
        return answer

    async def apply(self, changes: Any, events: Any = ()) -> Any:
        async def call() -> Any:
            results = await self.store.apply(changes, events)
            for change, result in zip(changes, results, strict=True):
                if isinstance(result, Applied):
                    self.world.changed(change.sid, ENDED if isinstance(change, End) else result.rev)
            return results

        return await self.around("apply", call)

    async def end_where(self, query: Query, reason: EndReason) -> Any:
        async def call() -> Any:
            ended = await self.store.end_where(query, reason)
            for one in ended:
                self.world.changed(one.sid, ENDED)
            return ended

        return await self.around("end_where", call)


class Worker:
    """One process. With a feed, ``line`` is what the database has told and has not arrived."""

    def __init__(self, world: World, make: Callable[..., NearCacheStore], has_feed: bool) -> None:
        self.world = world
        self.has_feed = has_feed
        self.line: list[Sid] = []
        self.sent = self.heard = 0
        self.is_connected = True
        self.connection = 0
        self.silent_until = 0.0
        self.answered: dict[Sid, int] = defaultdict(int)
        settings = NearCache(staleness=STALENESS, max_entries=5)
        self.cache = make(
            Wire(world), settings, feed=Never() if has_feed else None, monotonic=lambda: world.now, counters=world.seen
        )

    def look(self) -> None:
        """What would be served now, of every session."""
        world = self.world
        for sid in world.sids:
            record = self.cache.cached(sid)
            if record is None:
                continue
            shown = record.rev if record.ended_at is None else ENDED
            bound = world.visible_before(sid, world.now - STALENESS)
            assert shown != ENDED, "what has ended is served"
            assert shown >= bound, f"revision {shown} is served, and {bound} is older than the bound"
            assert shown >= self.answered[sid], f"revision {shown} is served to who has written {self.answered[sid]}"
            world.seen["served"] += 1

    # -- what happens ----------------------------------------------------------------------------------------

    async def create(self) -> None:
        world = self.world
        if len([sid for sid in world.sids if world.visible_before(sid, world.now + 1) != ENDED]) < 8:
            record = world.builders.record(user_id=world.random.choice(USERS))
            await self.cache.apply([Create(record)])
            world.sids.append(record.sid)

    async def load(self) -> None:
        if self.world.sids:
            asked = self.world.random.sample(self.world.sids, min(len(self.world.sids), 3))
            missing = [sid for sid in asked if self.cache.cached(sid) is None]
            if missing:
                await self.cache.load(missing)

    async def write(self) -> None:
        if self.world.sids:
            sid = self.world.random.choice(self.world.sids)
            [result] = await self.cache.apply([Update(sid=sid, id=new_change_id(), put={"n": b"1"})])
            if isinstance(result, Applied):
                self.answered[sid] = max(self.answered[sid], result.rev)

    async def end(self) -> None:
        if self.world.sids:
            sid = self.world.random.choice(self.world.sids)
            now = self.world.clock.now
            await self.cache.apply([End(sid, new_change_id(), EndReason.LOGOUT, now, now + 10 * SECOND)])
            self.answered[sid] = ENDED

    async def end_where(self) -> None:
        world = self.world
        one = world.random.choice(world.sids) if world.sids and world.random.random() < 0.7 else None
        query = Query(
            now=world.clock.now,
            caps=world.builders.caps,
            sids=None if one is None else [one],
            user_id=None if one is not None else world.random.choice(USERS),
            purge_at=world.clock.now + 10 * SECOND,
        )
        for ended in await self.cache.end_where(query, EndReason.REVOKED):
            self.answered[ended.sid] = ENDED

    async def time(self) -> None:
        self.world.now += self.world.random.choice((1 / 64, 0.25, 0.375, 0.75))  # no rounding

    async def hear(self) -> None:
        """Some of what the database has told arrives; perhaps the reply to a question after it."""
        if not self.has_feed or not self.is_connected:
            return
        asked_at, connection = self.world.now, self.connection
        await self.world.turns()
        end = self.sent
        await self.world.turns()
        if not self.is_connected or self.connection != connection or self.world.now < self.silent_until:
            return
        told = max(0, end - self.heard)
        self.cache.changed(self.line[:told])
        del self.line[:told]
        self.heard += told
        if self.world.random.random() < 0.8:
            self.cache.alive(asked_at)

    async def fall_silent(self) -> None:
        """Nothing arrives for a while, and then all of it."""
        self.silent_until = self.world.now + self.world.random.choice((0.5, 1.5, 3.0))

    async def lose(self) -> None:
        """The connection is lost, and what was on its way; sometimes noticed at once, sometimes by silence alone."""
        if not self.has_feed or not self.is_connected:
            return
        self.is_connected = False
        if self.world.random.random() < 0.5:
            self.cache.feed_lost()
        await self.world.turns(4)
        self.cache.feed_lost()
        await self.world.turns(4)
        self.line.clear()
        self.heard = self.sent
        self.connection += 1
        self.is_connected = True
        self.silent_until = 0.0
        await self.hear()


async def _quietly(action: Callable[[Worker], Awaitable[None]], worker: Worker) -> None:
    with contextlib.suppress(StoreError):
        await action(worker)


class Never:
    """The feed of a worker whose test tells it everything itself."""

    async def listen(self, listener: Any, every: float) -> None:
        await asyncio.Event().wait()


ACTIONS = [
    Worker.create,
    Worker.load,
    Worker.write,
    Worker.end,
    Worker.end_where,
    Worker.time,
    Worker.hear,
    Worker.lose,
    Worker.fall_silent,
]
WEIGHTS = [8, 50, 15, 2, 2, 10, 20, 3, 2]


async def judged(seed: int, make: Callable[..., NearCacheStore], *, feed: bool, steps: int = 300) -> Counter[str]:
    """Run one world; what it has seen. Raises ``AssertionError`` where the reference is contradicted."""
    world = World(seed, make, feed=feed)
    await world.run(steps)
    return world.seen
