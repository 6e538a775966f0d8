"""The kit over encryption, on every store: what is encrypted behaves as what is not."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from databases import database
from sessiondb import KeyRing
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.encrypting import EncryptingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing import Database, ManualClock, OpenHandle, conformance_suite


@asynccontextmanager
async def memory(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    store = MemoryStore(clock=clock)
    yield lambda: store


@asynccontextmanager
async def sqlite(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: SQLiteStore(f"{folder}/sessions.db", clock=clock)


def encrypted(inner: Database) -> Database:
    """Each handle encrypts by itself with the ring of all."""
    ring = KeyRing(KeyRing.generate(), KeyRing.generate())

    @asynccontextmanager
    async def make(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        async with inner(clock) as handle:
            yield lambda: EncryptingStore(handle(), ring)

    return make


def wrapped(inner: Database) -> Database:
    """As a ``SessionDB`` with keys wraps a store."""
    ring = KeyRing(KeyRing.generate())

    @asynccontextmanager
    async def make(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        async with inner(clock) as handle:
            yield lambda: CoalescingStore(EncryptingStore(RecoveringStore(handle()), ring), timeout=20)

    return make


test_memory = conformance_suite(encrypted(memory))
test_memory_wrapped = conformance_suite(wrapped(memory))
test_sqlite = conformance_suite(encrypted(sqlite))
test_sqlite_wrapped = conformance_suite(wrapped(sqlite))
test_postgresql = conformance_suite(wrapped(database("postgresql")))
test_mysql = conformance_suite(wrapped(database("mysql")))
test_redis = conformance_suite(wrapped(database("redis")))
test_redis_cluster = conformance_suite(wrapped(database("redis_cluster")))
test_mongodb = conformance_suite(wrapped(database("mongodb")), timeout=180)
