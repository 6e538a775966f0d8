"""The kit on every store of this package, bare and as a database wraps it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing import Delay, FaultyStore, ManualClock, OpenHandle, conformance_suite

EVERY_CALL = frozenset({"load", "apply", "admit", "find", "end_where", "sweep", "append", "events"})


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
async def memory_wrapped(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    async with memory(clock) as handle:
        yield lambda: CoalescingStore(RecoveringStore(handle()))


@asynccontextmanager
async def sqlite(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: SQLiteStore(f"{folder}/sessions.db", clock=clock)


@asynccontextmanager
async def sqlite_wrapped(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    async with sqlite(clock) as handle:
        yield lambda: CoalescingStore(RecoveringStore(handle()))


test_memory = conformance_suite(memory)
test_memory_in_any_order = conformance_suite(memory_in_any_order)
test_memory_wrapped = conformance_suite(memory_wrapped)
test_sqlite = conformance_suite(sqlite)
test_sqlite_wrapped = conformance_suite(sqlite_wrapped)
