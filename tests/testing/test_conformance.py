"""The kit on every store of this package, bare and as a database wraps it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from databases import database
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing import Database, Delay, FaultyStore, ManualClock, OpenHandle, conformance_suite
from sessiondb.testing.faults import METHODS

EVERY_CALL = frozenset(METHODS) - {"open", "clock", "stats"}


@asynccontextmanager
async def memory(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    store = MemoryStore(clock=clock)
    yield lambda: store


@asynccontextmanager
async def memory_in_any_order(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    """Calls take a turn of the loop or none, by chance: what a network does to their order."""
    async with memory(clock) as handle:
        yield lambda: FaultyStore(handle(), rates={Delay(): 0.5}, methods=EVERY_CALL)


@asynccontextmanager
async def sqlite(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: SQLiteStore(f"{folder}/sessions.db", clock=clock)


def wrapped(inner: Database, timeout: float = 2.0) -> Database:
    """As a ``SessionDB`` wraps a store."""

    @asynccontextmanager
    async def make(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        async with inner(clock) as handle:
            yield lambda: CoalescingStore(RecoveringStore(handle()), timeout=timeout)

    return make


test_memory = conformance_suite(memory)
test_memory_in_any_order = conformance_suite(memory_in_any_order)
test_memory_wrapped = conformance_suite(wrapped(memory))
test_sqlite = conformance_suite(sqlite)
test_sqlite_wrapped = conformance_suite(wrapped(sqlite))
test_postgresql = conformance_suite(database("postgresql"))
test_postgresql_wrapped = conformance_suite(wrapped(database("postgresql")))
test_postgresql_partitioned = conformance_suite(database("postgresql", "partitions=monthly"))
test_postgresql_behind_a_pooler = conformance_suite(database("pgbouncer", "pooler=transaction"))
test_mysql = conformance_suite(database("mysql"))
test_mysql_wrapped = conformance_suite(wrapped(database("mysql")))
test_redis = conformance_suite(database("redis"))
test_redis_wrapped = conformance_suite(wrapped(database("redis")))
test_redis_cluster = conformance_suite(database("redis_cluster"))
# The server of the wheel takes milliseconds for what others do in microseconds.
test_mongodb = conformance_suite(database("mongodb"), timeout=180)
test_mongodb_wrapped = conformance_suite(wrapped(database("mongodb"), timeout=20), timeout=180)
