"""MongoDB: what is said of each change when an answer is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from lossy import lossy
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ServerSelectionTimeoutError

from databases import new_prefix, url_of, with_option
from sessiondb import StoreUnavailable, open_store
from sessiondb.core.change import Applied
from sessiondb.core.record import EndReason
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit


async def test_what_has_landed_is_said_though_nobody_can_look_after_the_rest() -> None:
    """One change is confirmed; another matched nothing, and the look that would tell why is lost."""
    async with lossy() as (proxy, kit):
        store = await kit.store()
        record = kit.record("ann")
        await kit.put_in(store, record)
        proxy.command = b"\x02find\x00"
        landed, unclear = await store.apply([kit.update(record, {"n": 1}), kit.update(kit.record("ann"), {"n": 1})])
        assert proxy.lost == 1
        assert landed == Applied(2)
        assert isinstance(unclear, StoreUnavailable)
        assert unclear.outcome == "unknown"


class NoPrimary:
    """From the ``nth`` call of a method of collections on, no primary is found: that command is not sent."""

    def __init__(self, patch: pytest.MonkeyPatch, method: str, nth: int = 1) -> None:
        self.calls = 0
        real = getattr(AsyncCollection, method)

        async def called(collection: AsyncCollection[Any], *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls >= nth:
                raise ServerSelectionTimeoutError("No replica set members match selector Primary()")
            return await real(collection, *arguments, **options)

        patch.setattr(AsyncCollection, method, called)


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(with_option(url_of("mongodb"), f"prefix={new_prefix()}")), ManualClock())
    yield kit
    await kit.close_all()


async def outcome_of(call: Awaitable[object]) -> str:
    with pytest.raises(StoreUnavailable, match="has no primary") as caught:
        await call
    return caught.value.outcome


@pytest.mark.parametrize(("forbids", "outcome"), [(True, "unknown"), (False, "not_applied")])
async def test_a_revoke_says_whether_anything_may_be_written(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, forbids: bool, outcome: str
) -> None:
    """``not_before`` is written before the sessions are ended: without it, nothing has been."""
    store = await kit.store()
    await kit.put_in(store, kit.record("ann"))
    NoPrimary(monkeypatch, "bulk_write")
    query = kit.query("ann", not_before=kit.now if forbids else None)
    assert await outcome_of(store.end_where(query, EndReason.REVOKED)) == outcome


async def test_a_login_says_whether_anybody_may_be_out(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await kit.store()
    old, new = kit.record("ann", age=HOUR), kit.record("ann")
    await kit.put_in(store, old, new)
    NoPrimary(monkeypatch, "find_one_and_update")
    # The user's document has been made, and that says nothing of anybody; but it has been written.
    assert await outcome_of(store.admit(kit.login(new, per_user=1))) == "unknown"
    assert await outcome_of(store.admit(kit.login(new, per_user=1))) == "not_applied"
    monkeypatch.undo()
    NoPrimary(monkeypatch, "bulk_write")
    assert await outcome_of(store.admit(kit.login(new, per_user=1))) == "unknown"
    monkeypatch.undo()
    assert [one.sid for one in (await store.admit(kit.login(new, per_user=1))).ended] == [old.sid]


@pytest.mark.parametrize(("nth", "outcome"), [(1, "not_applied"), (2, "unknown")])
async def test_a_sweep_says_whether_anything_may_be_written(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, nth: int, outcome: str
) -> None:
    store = await kit.store()
    ended, expired = kit.record("ann"), kit.record("ann", age=2 * HOUR, idle=HOUR)
    await kit.put_in(store, ended, expired)
    await kit.apply(store, kit.end(ended, purge_after=0))
    NoPrimary(monkeypatch, "bulk_write", nth)
    assert await outcome_of(store.sweep(kit.cutoffs(), 100)) == outcome
    monkeypatch.undo()
    assert (await kit.find_record(store, ended.sid) is None) == (outcome == "unknown")
    assert [one.sid for one in (await store.sweep(kit.cutoffs(), 100)).ended] == [expired.sid]


async def test_old_bars_to_logins_are_removed_and_no_others(kit: Kit) -> None:
    """A login that began longer ago than any session lives is over; a lock that lasts stays."""
    store = await kit.store()
    caps = kit.caps
    longest = caps.remembered.absolute
    for name, not_before in (("old", kit.now), ("new", kit.now + HOUR), ("locked", kit.now + 900 * DAY)):
        await store.end_where(kit.query(name, not_before=not_before), EndReason.REVOKED)
    await store.sweep(kit.cutoffs(kit.now + longest + 1), 100)
    for name, began_at, refused in (
        ("old", kit.now - 1, None),
        ("new", kit.now + HOUR - 1, "revoked"),
        ("locked", kit.now, "revoked"),
    ):
        record = kit.record(name)
        await kit.put_in(store, record)
        assert (await store.admit(kit.login(record, began_at=began_at))).refused == refused, name
