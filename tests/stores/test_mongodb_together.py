"""MongoDB: changes and their events are one transaction, whatever comes between its commands."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lines import line_to
from lossy import lossy
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ExecutionTimeout, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from databases import new_prefix, url_of, with_option
from sessiondb import StoreUnavailable, open_store
from sessiondb.core.change import Applied, Change, Conflict, Gone, SignIn
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import Lane
from sessiondb.stores import _mongodb_together
from sessiondb.stores._mongodb_rows import sid_value
from sessiondb.stores._mongodb_url import Collections, parse
from sessiondb.stores.base import EventQuery, NotTogether, Store
from sessiondb.stores.chaining import ChainingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit, together

BEYOND_BSON = 2**70


@pytest.fixture
def url() -> str:
    return with_option(url_of("mongodb"), f"prefix={new_prefix()}")


@pytest.fixture
async def kit(url: str) -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def there(url: str) -> AsyncIterator[Collections]:
    """The collections, as people see them."""
    collections = parse(url).connect()
    yield collections
    await collections.close()


async def events_of(store: Store) -> list[Event]:
    return list((await store.events(EventQuery())).events)


class Between:
    """Has ``change`` written by ``store`` once, before the transaction's first call of ``method``."""

    def __init__(self, patch: pytest.MonkeyPatch, method: str, store: Store, change: Change) -> None:
        self.calls = 0
        real = getattr(AsyncCollection, method)

        async def called(collection: AsyncCollection[Any], *arguments: Any, **options: Any) -> Any:
            if options.get("session") is not None:
                self.calls += 1
                if self.calls == 1:
                    [result] = await store.apply([change])
                    assert isinstance(result, Applied)
            return await real(collection, *arguments, **options)

        patch.setattr(AsyncCollection, method, called)


async def test_who_was_written_meanwhile_is_read_again(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses to write what has moved since it was read; all begins anew, and both writes are there."""
    store, other = await kit.stores(2)
    record = kit.record("ann", {"n": 0})
    await kit.put_in(store, record)
    between = Between(monkeypatch, "insert_many", other, kit.update(record, {"a": 1}))
    [result] = await store.apply([kit.update(record, {"b": 2})], [kit.event(sid=record.sid)])
    assert between.calls == 2, "the events of the second attempt, after those of one that was refused"
    assert result == Applied(3)
    assert await kit.data_of(store, record.sid) == {"n": 0, "a": 1, "b": 2}
    assert len(await events_of(store)) == 1


async def test_a_guard_that_fails_meanwhile_is_a_conflict_with_all_data(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = await kit.stores(2)
    record, new = kit.record("ann", {"n": 0}), kit.record("ann")
    await kit.put_in(store, record)
    Between(monkeypatch, "insert_many", other, kit.update(record, {"a": 1}))
    changes: list[Change] = [kit.update(record, {"b": 2}, if_rev=1), kit.create(new)]
    conflict, applied = await store.apply(changes, [kit.event()])
    assert applied == Applied(1)
    assert isinstance(conflict, Conflict)
    assert conflict.record == await kit.record_of(store, record.sid)
    assert conflict.record.data == b'{"n":0,"a":1}'


async def test_who_was_ended_meanwhile_is_gone_and_its_event_is_there(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = await kit.stores(2)
    record = kit.record("ann")
    await kit.put_in(store, record)
    Between(monkeypatch, "bulk_write", other, kit.end(record))
    event = kit.event(EventType.WRITE_AFTER_END, sid=record.sid)
    assert await store.apply([kit.update(record, {"b": 2})], [event]) == [Gone("logout")]
    assert await events_of(store) == [event]


async def test_a_sid_that_is_there_is_a_conflict_and_a_repeated_create_is_none(kit: Kit) -> None:
    store = await kit.store()
    record = kit.record("ann", {"n": 1})
    await kit.put_in(store, record)
    double = kit.record("mallory", {"n": 2}, sid=record.sid)
    new = kit.record("bob")
    results = await store.apply([kit.create(double), kit.create(new)], [kit.event()])
    assert results == [Conflict(record), Applied(1)]
    assert await store.apply([kit.create(new)], [kit.event()]) == [Applied(1)]
    assert len(await events_of(store)) == 2


async def test_everything_that_a_change_may_bring_is_written(kit: Kit) -> None:
    """The twin of each change without events: the same record."""
    store = await kit.store()
    one, other = kit.record("ann", {"n": 0, "m": 1}), kit.record("ann", {"n": 0, "m": 1})
    await kit.put_in(store, one, other)
    rotated, _ = kit.rotation(one)
    sign_in = SignIn(kit.now, b'{"level":2}', HOUR, DAY, "normal")

    def changes(record: Any) -> list[list[Change]]:
        rotate = msgspec.structs.replace(rotated, if_secret=record.secret_hash)
        return [
            [kit.update(record, {"$set": 1, "a.b": [1, {"c": None}]}, remove=["m"])],
            [kit.update(record, {}, rotate=rotate)],
            [kit.update(record, {"x": 1}, sign_in=sign_in)],
            [kit.touch(record, kit.now + 1, client=b'{"ip":"192.0.2.7"}')],
            [kit.end(record, announce_at=kit.now + HOUR)],
        ]

    unlike = {"sid", "series_hash", "secret_hash", "previous_hash", "last_changes"}
    for alone, beside in zip(changes(one), changes(other), strict=True):
        [with_event] = await store.apply(alone, [kit.event()])
        [without] = await store.apply(beside)
        assert isinstance(with_event, Applied), with_event
        assert isinstance(without, Applied)
        found = [msgspec.structs.asdict(await kit.record_of(store, record.sid)) for record in (one, other)]
        first, second = ({name: value for name, value in each.items() if name not in unlike} for each in found)
        assert first == second
        assert [len(each["last_changes"]) for each in found] == [len(found[0]["last_changes"])] * 2
    assert len(await events_of(store)) == 5


async def test_somebody_elses_transaction_that_stays_open_is_told_in_time(kit: Kit, there: Collections) -> None:
    """Each attempt is refused at once; the answer says that nothing was written, and why."""
    store = await kit.store()
    record, new = kit.record("ann", {"n": 0}), kit.record("ann")
    await kit.put_in(store, record)
    async with there.session() as session:
        await session.start_transaction()
        await there.sessions.update_one({"_id": sid_value(record.sid)}, {"$set": {"note": 1}}, session=session)
        async with asyncio.timeout(10):
            [result] = await store.apply([kit.update(record, {"n": 1})], [kit.event()])
            assert isinstance(result, StoreError)
            assert result.outcome == "conflict"
            with pytest.raises(NotTogether):
                await store.apply([kit.update(record, {"n": 1}), kit.create(new)], [kit.event()])
        await session.abort_transaction()
    assert await events_of(store) == []
    assert await kit.find_record(store, new.sid) is None
    assert await store.apply([kit.update(record, {"n": 1})], [kit.event()]) == [Applied(2)]


async def test_what_cannot_be_stored_stops_its_neighbours_and_says_so_alone(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    record, spoilt = kit.record("ann", {"n": 0}), kit.record("ann")
    await kit.put_in(store, record, spoilt)
    await there.sessions.update_one({"_id": sid_value(spoilt.sid)}, {"$set": {"rev": "one"}})
    beyond = msgspec.structs.replace(kit.update(record), put={"n": b"18446744073709551615"}, whole=b"", seen=None)
    no_json = kit.create(msgspec.structs.replace(kit.record("ann"), data=b"no json"))
    too_large = kit.update(record, {"n": "x" * (17 << 20)})
    for change in (beyond, no_json, too_large, kit.end(spoilt)):
        with pytest.raises(NotTogether) as caught:
            await store.apply([kit.create(kit.record("bob")), change], [kit.event()])
        assert caught.value.outcome == "not_applied"
        [alone] = await store.apply([change], [kit.event()])
        assert isinstance(alone, SessionDataError), change
    assert await kit.living(store, "bob") == []
    assert await events_of(store) == []
    assert await kit.data_of(store, record.sid) == {"n": 0}


async def test_an_event_that_cannot_be_stored_keeps_its_change_from_being_written(kit: Kit) -> None:
    store = await kit.store()
    new = kit.record("ann")
    event = kit.event(details={"n": BEYOND_BSON})
    [result] = await store.apply([kit.create(new)], [event])
    assert isinstance(result, StoreError)
    assert not isinstance(result, StoreUnavailable), "the database can be asked again"
    assert result.outcome == "not_applied"
    with pytest.raises(NotTogether):
        await store.apply([kit.create(new), kit.create(kit.record())], [kit.event(), event])
    with pytest.raises(StoreError, match="beyond 64 bits") as caught:
        await store.apply([], [event])
    assert caught.value.outcome == "not_applied"
    assert await kit.find_record(store, new.sid) is None
    assert await events_of(store) == []
    with pytest.raises(ValueError, match="without its seal"):
        await store.apply([kit.create(new)], [Event(type="x", at=kit.now)])


async def test_of_two_who_write_to_one_place_one_is_told(kit: Kit) -> None:
    """At the same moment, by two processes: one change lands with its event, the other does not."""
    stores = await kit.stores(2)
    for _ in range(10):
        lane = Lane(EventClass.LOGIN)
        records = [kit.record("ann") for _ in stores]
        calls: list[tuple[Store, Change, list[Event]]] = [
            (store, kit.create(record), lane.seal([Event(type=EventType.LOGIN, at=kit.now, sid=record.sid)]))
            for store, record in zip(stores, records, strict=True)
        ]
        results = await together(store.apply([change], events) for store, change, events in calls)
        [winner] = [at for at, [result] in enumerate(results) if isinstance(result, Applied)]
        [loser] = results[1 - winner]
        assert isinstance(loser, StoreError)
        assert "tampered" in str(loser)
        assert await stores[0].trail(lane.stream, 0, 10) == calls[winner][2]
        found = await stores[0].load([record.sid for record in records])
        assert [one is not None for one in found] == [at == winner for at in range(2)]


async def test_many_who_end_one_session_at_once_leave_one_end_and_every_event(kit: Kit) -> None:
    """Each login replaces the same session: whoever comes later finds it gone, and its own session is there."""
    stores = await kit.stores(2)
    old = kit.record("ann")
    await kit.put_in(stores[0], old)
    new = [kit.record("ann") for _ in range(8)]
    results = await together(
        stores[n % 2].apply([kit.create(one), kit.end(old)], [kit.event(sid=one.sid)]) for n, one in enumerate(new)
    )
    assert [type(created) for created, _ in results] == [Applied] * 8
    assert sorted(type(ended).__name__ for _, ended in results) == ["Applied"] + ["Gone"] * 7
    assert {event.sid for event in await events_of(stores[0])} == {one.sid for one in new}
    assert await kit.living(stores[0], "ann") == sorted((one.sid for one in new), reverse=True)


# -- when answers are lost ------------------------------------------------------------------------------------


async def test_a_lost_answer_before_the_commit_has_written_nothing() -> None:
    async with lossy() as (proxy, kit):
        store = await kit.store()
        record, new = kit.record("ann", {"n": 0}), kit.record("ann")
        await kit.put_in(store, record)
        changes: list[Change] = [kit.update(record, {"n": 1}), kit.create(new)]
        event = kit.event(sid=new.sid)
        for command in (b"\x02find\x00", b"\x02insert\x00", b"\x02update\x00"):
            proxy.command, proxy.lost = command, 0
            with pytest.raises(StoreUnavailable) as caught:
                await store.apply(changes, [event])
            assert proxy.lost == 1
            assert caught.value.outcome == "not_applied"
            proxy.command = b""
        async with asyncio.timeout(20):
            # What the lost ones still hold is let go of meanwhile.
            while [type(one) for one in await _in_peace(store, changes, [event])] != [Applied, Applied]:
                await asyncio.sleep(0.05)
        assert await events_of(store) == [event]
        assert await kit.data_of(store, record.sid) == {"n": 1}


async def _in_peace(store: Store, changes: Sequence[Change], events: Sequence[Event]) -> list[object]:
    try:
        return list(await store.apply(changes, events))
    except NotTogether as error:
        return [error]


async def test_a_server_that_is_away_in_the_middle_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits long for whether the transaction can be aborted, and nothing goes on behind."""
    async with line_to("mongodb", tmp_path) as line:
        kit = Kit(lambda: open_store(line.url), ManualClock())
        store = await kit.store()
        record = kit.record("ann", {"n": 0})
        await kit.put_in(store, record)
        real = AsyncCollection.insert_many

        async def insert_many(collection: AsyncCollection[Any], *arguments: Any, **options: Any) -> Any:
            line.cut()
            return await real(collection, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(AsyncCollection, "insert_many", insert_many)
            async with asyncio.timeout(4):  # what the selection of a server takes, and a little more
                with pytest.raises(StoreUnavailable) as caught:
                    await store.apply([kit.update(record, {"n": 1})], [kit.event()])
        assert caught.value.outcome == "not_applied"
        assert not [task for task in asyncio.all_tasks() if "/src/sessiondb/" in repr(task)]
        line.mend()
        assert await kit.data_of(store, record.sid) == {"n": 0}
        assert await events_of(store) == []
        await kit.close_all()
    gc.collect()  # what the driver has dropped is found here, not by another test


async def test_one_lost_answer_to_a_commit_is_asked_for_again() -> None:
    """By the driver, and the server knows that it is the same."""
    async with lossy() as (proxy, kit):
        store = await kit.store()
        new, event = kit.record("ann"), kit.event()
        proxy.command, proxy.times = b"commitTransaction", 1
        assert await store.apply([kit.create(new)], [event]) == [Applied(1)]
        assert proxy.lost == 1
        assert await events_of(store) == [event]


async def test_nobody_knows_what_became_of_a_commit_whose_answers_are_lost() -> None:
    """It is said so; and who asks again, as a database wraps it, finds out what became of it."""
    async with lossy() as (proxy, kit):
        store = await kit.store()
        new, event = kit.record("ann"), kit.event()
        proxy.command = b"commitTransaction"
        with pytest.raises(StoreUnavailable) as caught:
            await store.apply([kit.create(new)], [event])
        assert caught.value.outcome == "unknown"
        assert proxy.lost == 2
        assert await events_of(store) == [event], "this one was committed"
        proxy.times, proxy.lost = 2, 0
        later, said = kit.record("ann"), kit.event()
        results = await RecoveringStore(store).apply([kit.create(later), kit.end(new)], [said])
        assert results == [Applied(1), Applied(2)]
        assert proxy.lost == 2
        assert await events_of(store) == [said, event]


def fail_commit(patch: pytest.MonkeyPatch, error: PyMongoError, times: int = 100) -> None:
    """What no server here can be brought to answer. The transaction itself is aborted."""
    left = [times]
    real = AsyncClientSession.commit_transaction

    async def commit(session: AsyncClientSession) -> None:
        if left[0] == 0:
            return await real(session)
        left[0] -= 1
        await session.abort_transaction()
        raise error

    patch.setattr(AsyncClientSession, "commit_transaction", commit)


def labelled(error: PyMongoError, label: str) -> PyMongoError:
    error._add_error_label(label)
    return error


@pytest.mark.parametrize(
    "error",
    [
        labelled(ServerSelectionTimeoutError("No primary available"), "UnknownTransactionCommitResult"),
        labelled(ExecutionTimeout("", 50), "UnknownTransactionCommitResult"),
        OperationFailure("", 100),  # no such majority: committed all the same
        OperationFailure("", 251),  # not there, and no majority has said so
        OperationFailure("", 18),  # the user was removed between the two
    ],
    ids=["no primary", "out of time", "unsatisfiable", "no such transaction", "no such user"],
)
async def test_a_commit_that_is_not_confirmed_is_never_called_undone(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, error: PyMongoError
) -> None:
    store = await kit.store()
    fail_commit(monkeypatch, error)
    with pytest.raises(StoreError) as caught:
        await store.apply([kit.create(kit.record("ann"))], [kit.event()])
    assert caught.value.outcome == "unknown"


async def test_a_commit_that_certainly_was_none_is_tried_again(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await kit.store()
    aborted = labelled(OperationFailure("", 251), "TransientTransactionError")
    fail_commit(monkeypatch, aborted, times=1)
    new, event = kit.record("ann"), kit.event()
    assert await store.apply([kit.create(new)], [event]) == [Applied(1)]
    assert await events_of(store) == [event]
    monkeypatch.setattr(_mongodb_together, "_LONGEST_PAUSE", 0.001)
    fail_commit(monkeypatch, labelled(OperationFailure("", 6), "TransientTransactionError"))
    with pytest.raises(StoreUnavailable) as caught:
        await store.apply([kit.create(kit.record("ann"))], [kit.event()])
    assert caught.value.outcome == "not_applied"


async def test_where_audit_is_required_every_session_has_its_event(kit: Kit) -> None:
    """As a database wraps it: logins of two workers at once, all in transactions."""
    chained = [
        ChainingStore(RecoveringStore(store), later=lambda event: pytest.fail(f"put off: {event}"), required=True)
        for store in await kit.stores(2)
    ]

    async def log_in(number: int) -> str:
        record = kit.record(f"user{number % 5}")
        event = Event(type=EventType.LOGIN, at=kit.now, sid=record.sid, user_id=record.user_id)
        [result] = await chained[number % 2].apply([kit.create(record)], [event])
        assert isinstance(result, Applied)
        return record.sid

    sids = await together(log_in(number) for number in range(30))
    assert sorted(str(event.sid) for event in await events_of(chained[0])) == sorted(sids)
    for stream in await chained[0].streams():
        trail = await chained[0].trail(stream.name, 0, 100)
        assert [event.seal.seq for event in trail if event.seal] == list(range(1, len(trail) + 1))
