"""MySQL: events land with their changes or not at all, whatever stands against them, and in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

import pytest
from wire import Meter, everything, wire

from databases import drop, kit_on, new_prefix, url_of, with_option
from sessiondb import open_store
from sessiondb.core import sealing
from sessiondb.core.change import Applied, Change
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.record import Record
from sessiondb.core.sealing import Lane
from sessiondb.stores._mysql_connection import Connection, Result, connect
from sessiondb.stores._mysql_rows import Statements
from sessiondb.stores._mysql_url import parse
from sessiondb.stores.base import EventQuery, NotTogether, Position, Store
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit, together


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    async with kit_on("mysql") as kit:
        yield kit


@pytest.fixture
async def sql() -> AsyncIterator[Connection]:
    connection = await connect(parse(url_of("mysql")).arguments, 5)
    yield connection
    await connection.close()


def statements_of(store: Store) -> Statements:
    return store._sql  # type: ignore[attr-defined,no-any-return]


async def all_events(store: Store) -> list[Event]:
    return list((await store.events(EventQuery(limit=1000))).events)


def scene(kit: Kit) -> dict[str, Record]:
    """Sessions in every state that a change may meet. The clock of the memory is the kit's, that of MySQL its own."""
    names = ("living", "moved", "guarded", "outrun", "rotated", "touched", "ended", "gone", "new")
    return {name: kit.record("ann", {"n": 0}, age=10**6) for name in names}


async def set_up(kit: Kit, store: Store, records: dict[str, Record]) -> None:
    await kit.put_in(store, *(one for name, one in records.items() if name not in ("gone", "new")))
    await store.apply([kit.update(records["moved"], {"a": 1}), kit.update(records["outrun"], {"a": 1})])
    await store.apply([kit.end(records["ended"])])


def changes_of(kit: Kit, records: dict[str, Record]) -> dict[str, Change]:
    rotate, _ = kit.rotation(records["rotated"])
    return {
        "living": kit.update(records["living"], {"n": 1}, seen=True),
        "moved": kit.update(records["moved"], {"n": 1}, seen=True),  # made of what is not there any more: merged
        "guarded": kit.update(records["guarded"], {"n": 1}, if_rev=records["guarded"].rev, seen=True),
        "outrun": kit.update(records["outrun"], {"n": 1}, if_rev=records["outrun"].rev, seen=True),
        "rotated": kit.update(records["rotated"], rotate=rotate),
        "touched": kit.touch(records["touched"], kit.now - 1),
        "ended": kit.end(records["ended"]),
        "gone": kit.update(records["gone"], {"n": 1}, seen=True),
        "new": kit.create(records["new"]),
    }


SETS = [
    ("new",),
    ("living", "new"),
    ("living", "guarded", "touched", "new"),
    ("moved", "new"),
    ("living", "outrun", "new"),
    ("ended", "new"),
    ("gone", "living"),
    ("rotated", "new"),
    ("living", "moved", "guarded", "outrun", "rotated", "touched", "ended", "gone", "new"),
]


@pytest.mark.parametrize("names", SETS, ids="-".join)
async def test_changes_with_events_are_answered_as_without(kit: Kit, names: Sequence[str]) -> None:
    """Whether they can be written at once or have to be looked at: as in memory, and the events are there once."""
    store, reference = await kit.store(), MemoryStore(clock=lambda: kit.now)
    await reference.open()
    records = scene(kit)
    changes = changes_of(kit, records)
    batch, events = [changes[name] for name in names], [kit.event(), kit.event(EventType.SESSION_ENDED)]
    answers = []
    for one in (store, reference):
        await set_up(kit, one, records)
        results = await one.apply(batch, events)
        found = [await kit.find_record(one, change.sid) for change in batch]
        answers.append(
            ([type(result) for result in results], [record and (record.rev, record.data) for record in found])
        )
        assert len(await all_events(one)) == 2
    assert answers[0] == answers[1]


async def test_a_create_that_is_there_is_told_and_its_event_is_written(kit: Kit) -> None:
    store = await kit.store()
    record, other = kit.record("ann"), kit.record("ann")
    await kit.put_in(store, record, other)
    stranger = kit.record("eve", sid=other.sid)
    results = await store.apply([kit.create(record), kit.create(stranger)], [kit.event()])
    assert [type(result).__name__ for result in results] == ["Applied", "Conflict"]
    assert len(await all_events(store)) == 1


@pytest.mark.parametrize("names", [*SETS, ()], ids="-".join)
async def test_a_taken_place_stops_the_whole_call(kit: Kit, names: Sequence[str]) -> None:
    """However its changes would be written; and no transaction is left open."""
    store = await kit.store()
    records = scene(kit)
    await set_up(kit, store, records)
    before = await store.load([record.sid for record in records.values()])
    lane = Lane(EventClass.LOGIN)
    [taken] = lane.seal([Event(type=EventType.LOGIN, at=kit.now)])
    await store.append([taken])
    [mine] = lane.seal([Event(type=EventType.LOGIN, at=kit.now, user_id="ann")])
    changes = changes_of(kit, records)
    call = store.apply([changes[name] for name in names], [kit.event(), mine])
    message = f"Place 1 of stream {lane.stream} .*tampered"
    if len(names) == 1:
        [result] = await call
        assert isinstance(result, StoreError)
        with pytest.raises(StoreError, match=message):
            raise result
    else:
        with pytest.raises(NotTogether if names else StoreError, match=message):
            await call
    assert await store.load([record.sid for record in records.values()]) == before
    assert await all_events(store) == [taken]
    assert isinstance((await store.apply([changes["new"]], [kit.event()]))[0], Applied)


@pytest.mark.parametrize("fault", ["data that is none", "a user id that is too long"])
async def test_events_do_not_land_without_a_change_that_is_refused(kit: Kit, sql: Connection, fault: str) -> None:
    store = await kit.store()
    spoilt, fine = kit.record("ann"), kit.record("ann")
    await kit.put_in(store, spoilt)
    change: Change = kit.create(kit.record("u" * 256))
    if fault == "data that is none":
        await sql.run([f"UPDATE {statements_of(store).sessions} SET data = '[1]'"])
        change = kit.update(spoilt, {"n": 1})
    with pytest.raises(NotTogether):
        await store.apply([kit.create(fine), change], [kit.event()])
    assert await kit.find_record(store, fine.sid) is None
    [alone] = await store.apply([change], [kit.event()])
    assert isinstance(alone, SessionDataError)
    assert await all_events(store) == []
    assert isinstance((await store.apply([kit.create(fine)], [kit.event()]))[0], Applied)


async def test_an_event_that_there_is_no_room_for_is_told_and_keeps_its_neighbours_from_landing(kit: Kit) -> None:
    """It will never fit, so it must not look like a database that is away; and a stream without it would have a gap."""
    store = await kit.store()
    good, record = kit.event(ip="192.0.2.1"), kit.record("ann")
    endless = kit.event(ip="2001:db8::" + "1" * 64)
    with pytest.raises(SessionDataError, match=r"or event .* too long"):
        await store.append([good, endless])
    [result] = await store.apply([kit.create(record)], [endless])
    assert isinstance(result, SessionDataError)
    assert await kit.find_record(store, record.sid) is None
    assert await all_events(store) == []
    await store.append([good])
    assert await all_events(store) == [good]


async def test_texts_that_would_break_out_of_a_statement_are_texts(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every field that somebody outside has a hand in, and in the names by which is asked."""
    monkeypatch.setattr(sealing, "storable", lambda event: event)  # which would replace the U+0000
    store = await kit.store()
    hostile = "\x00'\"\\`;/* */-- \x1a%_\r\n{p}😀"
    event = kit.event(
        type="odd' OR 1=1 -- ",  # type: ignore[arg-type]
        sid=hostile,
        user_id=hostile,
        actor=hostile,
        reason=hostile,
        ip=hostile,
        details={hostile: hostile},
        personal={hostile: hostile},
    )
    await store.append([event])
    assert await all_events(store) == [event]
    for query in (EventQuery(user_id=hostile), EventQuery(sid=hostile), EventQuery(actor=hostile)):
        assert list((await store.events(query)).events) == [event]
    assert await store.trail(kit.place(event).stream + "' OR '1'='1", 0, 9) == []
    assert await store.purge_events({"' OR '1'='1": 9}) == 0
    assert await store.blank([Position("' OR '1'='1", 1)], {"who"}) == 0
    assert await store.forget_user("' OR '1'='1") == 0
    assert await all_events(store) == [event]


async def test_a_call_that_is_cancelled_writes_both_or_neither(kit: Kit) -> None:
    """Wherever it is cut off. What had been sent whole is carried out, unheard."""
    store = await kit.store()
    records = [kit.record("ann") for _ in range(60)]
    for number, record in enumerate(records):
        event = Lane(EventClass.LOGIN).seal([Event(type=EventType.LOGIN, at=kit.now, sid=record.sid)])
        call = asyncio.create_task(store.apply([kit.create(record)], event))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    async with asyncio.timeout(10):
        while True:
            there = {record.sid for record in await store.load([one.sid for one in records]) if record is not None}
            told = {event.sid for event in await all_events(store)}
            # The last of them may be under way still.
            if there == told:
                break
            await asyncio.sleep(0.01)
    assert len(there) < 60, "none was cut off"


async def test_of_two_workers_at_one_place_one_writes(kit: Kit) -> None:
    stores = await kit.stores(2)
    for _ in range(10):
        lane = Lane(EventClass.LOGIN)
        records = [kit.record("ann"), kit.record("ann")]
        events = [
            lane.seal([Event(type=EventType.LOGIN, at=kit.now, sid=record.sid, user_id="ann")]) for record in records
        ]
        results = await together(
            store.apply([kit.create(record)], [*event])
            for store, record, event in zip(stores, records, events, strict=True)
        )
        landed = [record.sid for record, [result] in zip(records, results, strict=True) if isinstance(result, Applied)]
        assert len(landed) == 1
        assert [event.sid for event in await stores[0].trail(lane.stream, 0, 9)] == landed
        assert [record and record.sid for record in await stores[0].load([one.sid for one in records])].count(None) == 1


async def test_a_write_between_has_the_whole_call_looked_at_again(monkeypatch: pytest.MonkeyPatch, kit: Kit) -> None:
    """The session moves after the request has read it: what the packet has written already is taken back."""
    store, other = await kit.stores(2)
    record, new = kit.record("ann", {"n": 0}), kit.record("ann")
    await kit.put_in(store, record)
    real, packets = Connection.run, []

    async def run(connection: Connection, statements: Sequence[str]) -> list[Result]:
        packets.append(list(statements))
        return await real(connection, statements)

    await kit.apply(other, kit.update(record, {"theirs": 1}))
    monkeypatch.setattr(Connection, "run", run)
    results = await store.apply([kit.create(new), kit.update(record, {"ours": 1}, seen=True)], [kit.event()])
    assert [type(result) for result in results] == [Applied, Applied]
    assert [statements[0] for statements in packets[:3]] == ["START TRANSACTION", "ROLLBACK", "START TRANSACTION"]
    monkeypatch.undo()
    assert await kit.data_of(store, record.sid) == {"n": 0, "theirs": 1, "ours": 1}


async def test_many_workers_write_to_the_same_sessions_with_events(kit: Kit) -> None:
    """Each call whole or not at all: as many keys as events, and no deadlock comes out."""
    stores = await kit.stores(3)
    records = [kit.record("ann") for _ in range(4)]
    await kit.put_in(stores[0], *records)

    async def write(number: int) -> None:
        store, lane = stores[number % 3], Lane(EventClass.SESSION)
        for turn in range(5):
            seen = await store.load([record.sid for record in records])
            changes = [kit.update(one, {f"{number}-{turn}": 1}, seen=True) for one in seen if one is not None]
            sealed = lane.seal([Event(type="turn", at=kit.now)])
            results = await store.apply(changes if number % 2 else changes[::-1], sealed)
            assert all(isinstance(result, Applied) for result in results)
            lane.advance(sealed)

    await together(write(number) for number in range(9))
    assert len(await all_events(stores[0])) == 45
    for record in records:
        assert len(await kit.data_of(stores[0], record.sid)) == 45


async def test_one_round_trip() -> None:
    """For a login with its event, one that replaces a session, and what is asked before."""
    meter, parts, prefix = Meter(), urlsplit(url_of("mysql")), new_prefix()
    assert parts.hostname is not None
    assert parts.port is not None
    async with wire((parts.hostname, parts.port), meter, everything) as port:
        url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
        kit = Kit(lambda: open_store(with_option(url, f"prefix={prefix}")), ManualClock())
        store = await kit.store()
        old = kit.record("ann", {"n": 1})
        await kit.put_in(store, old)
        for call in (
            lambda: store.apply([kit.create(kit.record("ann"))], [kit.event()]),
            lambda: store.apply([kit.update(old, {"n": 2}, seen=True), kit.create(kit.record())], [kit.event()]),
            lambda: store.apply([kit.create(kit.record("ann")), kit.end(old)], [kit.event(), kit.event()]),
            lambda: store.append([kit.event(), kit.event(EventType.SESSION_ENDED)]),
            store.streams,
        ):
            meter.reset()
            await call()
            assert meter.flights == 1
        await kit.close_all()
    await drop("mysql", prefix)
