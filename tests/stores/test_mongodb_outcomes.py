"""MongoDB: what is said of each change when an answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ServerSelectionTimeoutError

from databases import new_prefix, url_of, with_option
from sessiondb import StoreUnavailable, open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.core.record import EndReason
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit

BEYOND_BSON = 2**70


class LosesAnswers:
    """Before the server: passes on what the client asks, and hangs up instead of answering ``command``."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[object]] = set()
        self.command = b""
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        from_server, to_server = await asyncio.open_connection(*self._server)
        loses = False

        async def back() -> None:
            while data := await from_server.read(1 << 20):
                if loses:
                    break  # what was asked has been done
                writer.write(data)
            writer.close()

        answering = asyncio.create_task(back())
        try:
            while data := await reader.read(1 << 20):
                if self.command and self.command in data:
                    loses = True
                    self.lost += 1
                to_server.write(data)
        finally:
            answering.cancel()
            for end in (to_server, writer):
                end.close()
            self._tasks.discard(task)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def lossy() -> AsyncIterator[tuple[LosesAnswers, Kit]]:
    parts = urlsplit(url_of("mongodb"))
    proxy = LosesAnswers((parts.hostname or "", parts.port or 27017))
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    # Without the driver's own repeating, which would mend what is to be seen.
    options = f"directConnection=true&retryWrites=false&retryReads=false&prefix={new_prefix()}"
    own = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}", query=options).geturl()
    kit = Kit(lambda: open_store(own), ManualClock())
    try:
        yield proxy, kit
    finally:
        await kit.close_all()
        listener.close()
        await proxy.close()


async def test_a_change_that_may_have_landed_is_not_undone_by_events_that_cannot() -> None:
    """The events say for certain that they were not written; the change beside them has landed."""
    async with lossy() as (proxy, kit):
        store = await kit.store()
        record = kit.record("ann")
        await kit.put_in(store, record)
        proxy.command = b"findAndModify"
        event = kit.event(details={"n": BEYOND_BSON})
        with pytest.raises(StoreUnavailable) as caught:
            await store.apply([kit.update(record, {"n": 1})], [event])
        assert proxy.lost == 1
        assert caught.value.outcome == "unknown"
        proxy.command = b""
        assert await kit.data_of(store, record.sid) == {"n": 1}


async def test_events_that_cannot_be_written_beside_nothing_are_told() -> None:
    """Nothing has landed, so the caller may repeat it all."""
    async with lossy() as (_, kit):
        store = await kit.store()
        event = kit.event(details={"n": BEYOND_BSON})
        with pytest.raises(StoreError) as caught:
            await store.apply([kit.update(kit.record("ann"), {"n": 1})], [event])
        assert caught.value.outcome == "not_applied"


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
