"""The laws against their model once more, with workers that answer from near caches.

Each worker goes by age, and has a clock of its own for that: it moves on by more than the bound when a round is over,
so within a round what is held is as old as any request that races, and between two rounds everybody may know all.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from laws_model import FAULTS, POLICY, Done, Step, Worker, World

from sessiondb import Cookie, NearCache, SessionDB, SessionMiddleware, Store
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import FaultyStore, ManualClock

VERBS: list[tuple[str, Any]] = [
    *(("set", key) for key in "abc"),
    *(("delete", key) for key in "abc"),
    *[("count", None)] * 3,
    *(("login", user) for user in ("ann", "bob")),
    *[("rotate", None)] * 2,
    ("logout", None),
    ("revoke", None),
    ("revoke_all", "ann"),
    ("sweep", None),
    *[("look", None)] * 12,
]


class NearWorker(Worker):
    """Half of its requests are GETs, whatever they do: those are served from what it holds."""

    def __init__(self, store: Store, seed: int, clock: Callable[[], int]) -> None:
        super().__init__(store, seed, clock)
        self.seconds = 0.0
        self._chance = random.Random(seed)
        faulty = FaultyStore(store, rates=FAULTS, seed=seed, methods=frozenset({"apply"}))
        settings: dict[str, Any] = {"policy": POLICY, "sweep_every": None, "timeout": 30.0, "breaker": None}
        self.db = SessionDB(faulty, clock=clock, near_cache=NearCache(staleness=1.0), **settings)
        inner = SessionMiddleware(self._app, self.db, cookie=Cookie(secure=False))

        async def either(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, "method": self._chance.choice(("GET", "POST"))}, receive, send)

        self.app = either  # type: ignore[assignment]

    async def open(self) -> None:
        await self.db.open()
        near = self.db.runtime.near
        assert near is not None
        near.monotonic = lambda: self.seconds


class NearWorld(World):
    """The bound passes at the end of a round."""

    async def _judge(self, done: list[Done]) -> None:
        for worker in self.workers:
            assert isinstance(worker, NearWorker)
            worker.seconds += 1.001
        await super()._judge(done)


def a_step(chance: random.Random) -> Step:
    verb, argument = chance.choice(VERBS)
    browser, worker = chance.randrange(4), chance.randrange(2)
    if verb == "login":
        # Whoever signs in again and is not told the new secret is locked out, with a cache or without.
        return Step(browser, worker, verb, argument)
    lost, cancelled = chance.random() < 0.1, chance.choice([None] * 12 + [1, 3, 10])
    return Step(browser, worker, verb, argument, lost, cancelled)


@pytest.mark.parametrize("seed", range(3))
async def test_the_laws_hold_for_who_is_served_from_near_caches(seed: int) -> None:
    clock, chance = ManualClock(), random.Random(seed)
    store = MemoryStore(clock=clock)
    workers = [NearWorker(store, 2 * seed + number, clock) for number in range(2)]
    observer = SessionDB(store, policy=POLICY, sweep_every=None, clock=clock)
    for worker in workers:
        await worker.open()
    world = NearWorld(list(workers), observer, clock)
    try:
        for _ in range(25):
            # Twice, so that the second half meets what the first has left behind.
            for _ in range(2):
                steps = [a_step(chance) for _ in range(chance.randrange(1, 14))]
                await world.round(steps)
            if chance.random() < 0.2:
                clock.advance(1800)
        counters: Counter[str] = Counter()
        for worker in workers:
            counters += worker.db.counters
        assert counters["near_hits"] > 20
        assert counters["authn_token_reuse"] == 0
    finally:
        for db in (observer, *(worker.db for worker in workers)):
            await db.close()
