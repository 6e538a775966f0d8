"""MongoDB: what happens between the reading of many sessions and the writing of each."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from lines import line_to
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import InvalidOperation

from databases import database
from sessiondb.core.change import SignIn, Touch, Update
from sessiondb.core.record import EndReason
from sessiondb.stores.base import Store
from sessiondb.stores.mongodb import MongoDBStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.checks import is_applied
from sessiondb.testing.kit import Kit


class Between:
    """Has ``changes`` written by ``store``, one each time before many sessions are written."""

    def __init__(self, patch: pytest.MonkeyPatch, store: Store, *changes: Update) -> None:
        self.left = list(changes)
        real = AsyncCollection.bulk_write

        async def bulk_write(collection: AsyncCollection[Any], *arguments: Any, **options: Any) -> Any:
            if self.left:
                [result] = await store.apply([self.left.pop(0)])
                is_applied(result, "what is written between")
            return await real(collection, *arguments, **options)

        patch.setattr(AsyncCollection, "bulk_write", bulk_write)


def sign_in(kit: Kit, absolute: int = 30 * DAY) -> SignIn:
    return SignIn(kit.now, b"{}", 14 * DAY, absolute, "normal")


async def test_who_signs_in_while_the_sweeper_decides_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A touch would be seen in last_seen_at; signing in gives another life without one."""
    async with database("mongodb")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store, other = await kit.stores(2)
        record = kit.record("ann", age=2 * HOUR, idle=HOUR)
        await kit.put_in(store, record)
        between = Between(monkeypatch, other, kit.update(record, {"n": 1}, sign_in=sign_in(kit)))
        swept = await store.sweep(kit.cutoffs(), 100)
        assert not between.left and swept.ended == []
        assert await kit.living(store, "ann") == [record.sid]
        await kit.close_all()


async def test_who_is_given_a_shorter_life_while_the_sweeper_decides_is_looked_at_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with database("mongodb")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store, other = await kit.stores(2)
        record = kit.record("ann", age=DAY, unseen=0, check_at=kit.now - HOUR)
        await kit.put_in(store, record)
        Between(monkeypatch, other, kit.update(record, {"n": 1}, sign_in=sign_in(kit, DAY + HOUR)))
        await store.sweep(kit.cutoffs(), 100)
        await store.sweep(kit.cutoffs(), 100)
        looked_at = (await kit.record_of(store, record.sid)).check_at
        assert kit.now < looked_at < kit.now + 2 * HOUR
        await kit.close_all()


@pytest.mark.parametrize("writes", [1, 2, 9])
async def test_a_revoke_ends_who_is_over_and_is_written_all_the_time(
    monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Else a sign-in that is under way could make it live again. And no revoke goes on as long as they write."""
    async with database("mongodb")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store, other = await kit.stores(2)
        record = kit.record("ann", age=31 * DAY, unseen=HOUR)
        await kit.put_in(store, record)
        touches = [
            kit.update(record, {"n": number}, touch=Touch(record.last_seen_at + 1 + number)) for number in range(writes)
        ]
        between = Between(monkeypatch, other, *touches)
        await store.end_where(kit.query("ann", not_before=kit.now), EndReason.REVOKED)
        assert len(between.left) == max(0, writes - 3)
        assert (await kit.record_of(store, record.sid)).ended_at is not None
        await kit.close_all()


async def test_callers_that_are_cancelled_leave_the_pool_as_it_was() -> None:
    """Hundreds wait for one of two connections and are cancelled, at every moment of it: the next call is answered."""
    async with database("mongodb", "maxPoolSize=2")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        record = kit.record("ann", {"n": 0})
        await kit.put_in(store, record)
        for turns in range(12):
            calls = [asyncio.create_task(store.load([record.sid])) for _ in range(25)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            for call in calls:
                with contextlib.suppress(asyncio.CancelledError):
                    await call
        async with asyncio.timeout(20):
            assert await kit.data_of(store, record.sid) == {"n": 0}
        await kit.close_all()


async def test_closing_that_is_cancelled_closes_all_the_same(tmp_path: Path) -> None:
    """The driver tells the server, which does not answer: nobody has the patience for that, and nothing stays open."""
    async with line_to("mongodb", tmp_path) as line:
        store = MongoDBStore(line.url)
        await store.open()
        await store.remember("a", "b")
        collections = store._collections.current()
        line.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await store.close()
        with pytest.raises(InvalidOperation, match="after close"):
            await collections.hello()


async def test_a_write_whose_caller_is_cancelled_goes_on() -> None:
    async with database("mongodb")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        record = kit.record("ann", {"n": 0})
        await kit.put_in(store, record)
        call = asyncio.create_task(store.apply([kit.update(record, {"n": 1})]))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(20):
            while await kit.data_of(store, record.sid) != {"n": 1}:
                await asyncio.sleep(0.01)
        await kit.close_all()
