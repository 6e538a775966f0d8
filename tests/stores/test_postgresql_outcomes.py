"""What is said of a write that the client gave up stays true, whatever the server does with it afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from databases import drop, new_prefix, url_of, with_option
from sessiondb import SessionDB, open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


@pytest.fixture
async def prefix() -> AsyncIterator[str]:
    prefix = new_prefix()
    yield prefix
    await drop("postgresql", prefix)


@pytest.fixture
async def sql() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url_of("postgresql"))
    yield connection
    await connection.close()


def url_for(prefix: str) -> str:
    # Locks are waited for longer than a call may take: so the server goes on when the client has given up.
    return with_option(url_of("postgresql"), f"prefix={prefix}&lock_timeout=20")


async def all_is_done(sql: Any, prefix: str) -> None:
    """Until the server does nothing any more that was asked of it."""
    async with asyncio.timeout(20):
        while await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1 "
            "AND pid <> pg_backend_pid()",
            f"%{prefix}sessions%",
        ):
            await asyncio.sleep(0.02)


async def test_what_is_called_not_applied_is_never_applied_later(prefix: str, sql: Any) -> None:
    kit = Kit(lambda: open_store(url_for(prefix)), ManualClock())
    store = await kit.store()
    wrapped = CoalescingStore(RecoveringStore(store), timeout=0.3)
    # As many as the store takes at once, and a batch more.
    size, at_once = store.batching.changes, store.batching.in_flight
    held = [kit.record("ann", {"n": 0}) for _ in range(size * at_once)]
    free = [kit.record("bob", {"n": 0}) for _ in range(size)]
    await kit.put_in(store, *held, *free)

    async def apply(change: Any) -> Any:
        try:
            return (await wrapped.apply([change]))[0]
        except StoreError as error:
            return error.outcome

    kinds = (
        lambda one: kit.update(one, {"n": 1}),
        lambda one: kit.update(one, {"n": 1}, if_rev=one.rev),
        lambda one: kit.end(one),
    )
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {prefix}sessions WHERE sid = ANY($1) FOR UPDATE", [one.sid for one in held])
        sent = [kinds[number % 3](one) for number, one in enumerate(held)]
        said = await asyncio.gather(
            *(apply(change) for change in (*sent, *(kit.update(one, {"n": 1}) for one in free)))
        )
    await all_is_done(sql, prefix)
    assert said[: len(held)] == ["unknown"] * len(held), "they were sent, and the server goes on with them"
    for one in held:
        record = await kit.record_of(store, one.sid)
        assert record.rev in (one.rev, one.rev + 1), "once at most"
    # These waited for a place; the last ones may have been sent when the others were given up.
    for one, outcome in zip(free, said[len(held) :], strict=True):
        if outcome == "not_applied":
            assert await kit.data_of(store, one.sid) == {"n": 0}
        else:
            assert outcome == "unknown" or isinstance(outcome, Applied)
    await kit.close_all()


async def test_increments_that_were_given_up_are_counted_as_what_was_said(prefix: str, sql: Any) -> None:
    """Another program holds the row time and again, sometimes for longer than a call may take."""
    said = {"applied": 0, "not_applied": 0, "unknown": 0, "conflict": 0}
    choose = random.Random(3)
    async with SessionDB(url_for(prefix), timeout=0.25, sweep_every=None) as db:
        issued = await db.create("ann", {"n": 0})
        done = False

        async def hold() -> None:
            nonlocal done
            for seconds in choose.sample((0, 0, 0.02, 0.02, 0.35, 0.35), 6):
                async with sql.transaction():
                    await sql.execute(f"SELECT FROM {prefix}sessions WHERE sid = $1 FOR UPDATE", issued.session.sid)
                    await asyncio.sleep(seconds)
                await asyncio.sleep(0.03)
            done = True

        def increment(data: dict[str, Any]) -> None:
            data["n"] += 1

        async def count() -> None:
            while not done:
                try:
                    async with db.session(issued.token) as session:
                        await session.modify(increment)
                    said["applied"] += 1
                except StoreError as error:
                    said[error.outcome] += 1
                    await asyncio.sleep(0.001)  # while nothing is let through, nobody waits for anything

        await asyncio.gather(hold(), *(count() for _ in range(10)))
        await all_is_done(sql, prefix)
        async with db.session(issued.token) as session:
            assert said["applied"] <= session["n"] <= said["applied"] + said["unknown"], said
    assert said["applied"] and said["unknown"], "both have been seen"
