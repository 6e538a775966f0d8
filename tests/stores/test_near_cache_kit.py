"""The kit on near caches: what holds for a store holds for one that answers from what it has loaded.

Behaviours have one handle or several. What a worker has written itself must be seen by it at once, so nothing moves
time for it. What another one has written may be missed for as long as the bound, so the bound passes first: by an
injected clock where records go by age, by the feed's own proof where the database tells (see ``near.Workers``).
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from near import Workers, cached

from databases import database
from sessiondb import Store
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing import (
    Delay,
    FaultyStore,
    ManualClock,
    OpenHandle,
    behaviours,
    conformance_suite,
    run_behaviour,
)


@asynccontextmanager
async def memory(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    store = MemoryStore(clock=clock)
    yield lambda: store


@asynccontextmanager
async def sqlite(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: SQLiteStore(f"{folder}/sessions.db", clock=clock)


def in_any_order(store: Store) -> Store:
    """Answers take a turn of the loop or none, and some are lost."""
    return FaultyStore(
        store,
        rates={Delay(): 0.5},
        methods=frozenset({"load", "apply", "admit", "find", "end_where", "sweep", "announced", "lower_checks"}),
    )


test_memory = conformance_suite(cached(memory))
test_memory_in_any_order = conformance_suite(cached(memory, faults=in_any_order))
test_sqlite = conformance_suite(cached(sqlite))
test_redis = conformance_suite(cached(database("redis")))


async def test_the_kit_is_served_from_what_is_held() -> None:
    by_age, told = Workers(), Workers()
    for behaviour in behaviours(6):
        await run_behaviour(behaviour, cached(memory, workers=by_age))
        await run_behaviour(behaviour, cached(database("redis"), workers=told))
    for workers in (by_age, told):
        assert workers.counters["near_hits"] > 5
        assert workers.counters["near_invalidated"] > 0


def coarse(law: int) -> list[str]:
    return [behaviour.name for behaviour in behaviours(law)]


COARSE = [
    *coarse(1),
    *coarse(6),
    "writers_of_different_keys_all_land",
    "ending_one_user_spares_all_others",
    "a_login_that_began_before_a_revoke_is_refused",
]


@pytest.mark.parametrize("name", sorted(set(COARSE)))
@pytest.mark.parametrize("kind", ["postgresql", "mysql", "redis_cluster"])
async def test_the_other_databases(kind: str, name: str) -> None:
    [behaviour] = [one for one in behaviours() if one.name == name]
    await run_behaviour(behaviour, cached(database(kind)))


@pytest.mark.parametrize("name", ["an_ended_session_stays_ended", "what_was_saved_is_seen_by_other_workers"])
async def test_mongodb(name: str) -> None:
    [behaviour] = [one for one in behaviours() if one.name == name]
    await run_behaviour(behaviour, cached(database("mongodb")), timeout=120)
