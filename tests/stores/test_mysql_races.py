"""MySQL: what happens between the reading of many sessions and the writing of each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from asyncmy.errors import OperationalError

from databases import database
from sessiondb.core.change import SignIn, Touch, Update
from sessiondb.core.record import EndReason
from sessiondb.stores._mysql_connection import Connection, Result
from sessiondb.stores._mysql_sets import CHUNK
from sessiondb.stores.base import Cutoffs, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.checks import is_applied
from sessiondb.testing.kit import Kit


class Between:
    """Has ``changes`` written by ``store``, one each time before the next transaction begins."""

    def __init__(self, patch: pytest.MonkeyPatch, store: Store, *changes: Update) -> None:
        self.left = list(changes)
        real, busy = Connection.transaction, False

        async def transaction(connection: Connection, statements: Sequence[str]) -> list[Result]:
            nonlocal busy
            if self.left and not busy:
                busy = True
                [result] = await store.apply([self.left.pop(0)])
                is_applied(result, "what is written between")
                busy = False
            return await real(connection, statements)

        patch.setattr(Connection, "transaction", transaction)


async def test_who_signs_in_while_the_sweeper_decides_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A touch would be seen in last_seen_at; signing in gives another life without one."""
    async with database("mysql")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store, other = await kit.stores(2)
        record = kit.record("ann", age=2 * HOUR, idle=HOUR)
        await kit.put_in(store, record)
        sign_in = SignIn(kit.now, b"{}", 14 * DAY, 30 * DAY, "normal")
        between = Between(monkeypatch, other, kit.update(record, sign_in=sign_in))
        swept = await store.sweep(Cutoffs(now=kit.now, caps=kit.caps, keep_ended=DAY), 100)
        assert not between.left and swept.ended == []
        assert await kit.living(store, "ann") == [record.sid]
        await kit.close_all()


@pytest.mark.parametrize("writes", [1, 2, 5])
async def test_a_revoke_ends_who_is_over_and_is_written_all_the_time(
    monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Else a sign-in that is under way could make it live again."""
    async with database("mysql")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store, other = await kit.stores(2)
        record = kit.record("ann", age=31 * DAY, unseen=HOUR)
        await kit.put_in(store, record)
        touches = [
            kit.update(record, {"n": number}, touch=Touch(record.last_seen_at + 1 + number)) for number in range(writes)
        ]
        Between(monkeypatch, other, *touches)
        await store.end_where(kit.query("ann", not_before=kit.now), EndReason.REVOKED)
        assert (await kit.record_of(store, record.sid)).ended_at is not None
        await kit.close_all()


@pytest.mark.parametrize("how", ["revoke", "sweep"])
async def test_who_was_ended_before_a_deadlock_is_reported_all_the_same(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Each end once: what was committed is not due again when the rest is tried again."""
    async with database("mysql")(clock := ManualClock()) as handle:
        kit = Kit(handle, clock)
        store = await kit.store()
        records = [kit.record("ann", age=31 * DAY if how == "sweep" else HOUR) for _ in range(CHUNK + 10)]
        await kit.put_in(store, *records)
        real, calls = Connection.transaction, 0

        async def transaction(connection: Connection, statements: Sequence[str]) -> list[Result]:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise OperationalError(1213, "Deadlock found when trying to get lock")
            return await real(connection, statements)

        monkeypatch.setattr(Connection, "transaction", transaction)
        if how == "revoke":
            ended = await store.end_where(kit.query("ann", not_before=kit.now), EndReason.REVOKED)
        else:
            ended = list((await store.sweep(Cutoffs(now=kit.now, caps=kit.caps, keep_ended=DAY), 1000)).ended)
        assert calls == 3
        assert sorted(one.sid for one in ended) == sorted(record.sid for record in records)
        await kit.close_all()
