"""PostgreSQL: events land with their changes or not at all, in one flight; what is read and erased of the trail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg
import pytest
from wire import Meter, wire

from databases import drop, new_prefix, start, url_of, with_option
from provision.postgresql import PostgreSQL
from sessiondb import open_store
from sessiondb.core import sealing
from sessiondb.core.change import Applied, Change, Gone, SignIn
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import Lane, digest, wrong_groups
from sessiondb.stores import _postgresql_trail as trail
from sessiondb.stores._postgresql_rows import events_json
from sessiondb.stores.base import Counter, EventQuery, NotTogether, Position, Sheet, Store, place_taken
from sessiondb.stores.chaining import ChainingStore
from sessiondb.stores.postgresql import PostgreSQLStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit, together

STREAMS = 10
EVENTS = 20_000


@pytest.fixture
async def url() -> AsyncIterator[str]:
    prefix = new_prefix()
    yield with_option(url_of("postgresql"), f"prefix={prefix}")
    await drop("postgresql", prefix)


@pytest.fixture
async def kit(url: str) -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def sql() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url_of("postgresql"))
    yield connection
    await connection.close()


def prefix_of(url: str) -> str:
    return url.rpartition("prefix=")[2]


async def all_events(store: Store) -> list[Event]:
    return list((await store.events(EventQuery(limit=1000))).events)


# -- together or not at all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["nothing", "create", "update", "create update end", "sign_in create"])
async def test_a_taken_place_stops_the_whole_call(kit: Kit, kinds: str) -> None:
    store = await kit.store()
    records = {kind: kit.record("ann", {"n": 0}) for kind in ("create", "update", "end", "sign_in")}
    await kit.put_in(store, *(record for kind, record in records.items() if kind != "create"))
    before = await store.load([record.sid for record in records.values()])
    made: dict[str, Change] = {
        "create": kit.create(records["create"], [b"l" * 16]),
        "update": kit.update(records["update"], {"n": 1}),
        "end": kit.end(records["end"]),
        "sign_in": kit.update(records["sign_in"], sign_in=SignIn(kit.now, b"{}", HOUR, DAY, "normal", (b"m" * 16,))),
    }
    changes = [made[kind] for kind in kinds.split() if kind in made]
    lane = Lane(EventClass.LOGIN)
    [taken] = lane.seal([Event(type=EventType.LOGIN, at=kit.now)])
    await store.append([taken])
    [mine] = lane.seal([Event(type=EventType.LOGIN, at=kit.now, user_id="ann")])
    message = place_taken(Position(lane.stream, 1))
    call = store.apply(changes, [kit.event(), mine, kit.event(EventType.SESSION_ENDED)])
    if len(changes) == 1:
        [result] = await call
        assert isinstance(result, StoreError)
        assert (str(result), result.outcome) == (message, "not_applied")
    else:
        with pytest.raises(NotTogether if changes else StoreError) as caught:
            await call
        assert message in str(caught.value)
        assert caught.value.outcome == "not_applied"
    assert await store.load([record.sid for record in records.values()]) == before
    assert await all_events(store) == [taken]
    for link in (b"l" * 16, b"m" * 16):
        assert (await store.find(kit.query(link=link, state="all"))).records == []


async def test_a_row_that_somebody_else_holds_stops_all_changes_that_have_events(url: str, sql: Any, kit: Kit) -> None:
    """And through the sealing store each of the others lands with its own events."""
    store = await kit.store()
    ended, held, living = (kit.record("ann", {"n": 0}) for _ in range(3))
    await kit.put_in(store, ended, held, living)
    assert isinstance(await kit.apply(store, kit.end(ended)), Applied)
    changes = [kit.update(record, {"n": 1}) for record in (ended, held, living)]
    plain = [Event(type=EventType.SESSION_RENEWED, at=kit.now, sid=one.sid) for one in changes]
    chaining = ChainingStore(store, later=lambda event: pytest.fail(f"{event} was put off"))
    async with sql.transaction():
        await sql.execute(f"SELECT FROM {prefix_of(url)}sessions WHERE sid = $1 FOR UPDATE", held.sid)
        with pytest.raises(NotTogether, match="locked by another transaction"):
            await store.apply(changes, [kit.event()])
        assert await kit.data_of(store, living.sid) == {"n": 0}
        assert await all_events(store) == []
        gone, refused, applied = await chaining.apply(changes, plain)
    assert isinstance(gone, Gone)
    assert isinstance(refused, StoreUnavailable)
    assert refused.outcome == "not_applied"
    assert isinstance(applied, Applied)
    assert {event.sid for event in await all_events(store)} == {ended.sid, living.sid}
    [again] = await chaining.apply(changes[1:2], plain[1:2])
    assert isinstance(again, Applied)
    assert len(await all_events(store)) == 3


async def test_a_change_whose_reason_cannot_be_read_is_not_called_undone_when_its_event_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server dies between the statement that writes and the one that asks why a change did not land."""
    server = start("postgresql")
    assert isinstance(server, PostgreSQL)
    try:
        kit = Kit(lambda: open_store(server.url), ManualClock())
        store = cast("PostgreSQLStore", await kit.store())
        unknown = kit.record("ann")
        load = store._load

        async def load_from_the_dead(sids: Any) -> Any:
            server.process.kill()
            return await load(sids)

        monkeypatch.setattr(store._applying, "_load", load_from_the_dead)
        [lost] = await store.apply([kit.update(unknown, {"n": 1})], [kit.event(EventType.WRITE_AFTER_END)])
        assert isinstance(lost, StoreUnavailable)
        assert lost.outcome == "unknown"
        server.process.start()
        assert len(await all_events(store)) == 1
        await kit.close_all()
    finally:
        server.stop()


async def test_texts_that_json_can_hold_and_columns_cannot(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U+0000 in details and personal fields is kept; in a column it is refused, with the change and all others."""
    monkeypatch.setattr(sealing, "storable", lambda event: event)  # as somebody might seal who replaces nothing
    store = await kit.store()
    record = kit.record("ann")
    odd = {"agent": 'a\x00b "\\u0000" \\', "\x00": 1}
    event = kit.event(sid=record.sid, details=odd, personal=odd)
    assert isinstance((await store.apply([kit.create(record)], [event]))[0], Applied)
    await store.append([other := kit.event(personal=odd)])
    assert event.seal is not None
    found = await store.trail(event.seal.stream, 0, 10)
    assert found == [event, other]
    assert [wrong_groups(one, one.seal) for one in found if one.seal is not None] == [[], []]
    for bad in (kit.event(ip="\x00"), kit.event(user_id="a\x00"), kit.event(actor="\x00"), kit.event(reason="\x00")):
        refused = kit.record("ann")
        with pytest.raises(StoreError, match=r"does not take these events .*U\+0000") as caught:
            await store.append([kit.event(), bad])
        assert caught.value.outcome == "not_applied"
        assert "\\x00" not in str(caught.value)
        [result] = await store.apply([kit.create(refused)], [bad])
        assert isinstance(result, SessionDataError)
        assert await kit.find_record(store, refused.sid) is None
    assert len(await all_events(store)) == 2


def test_an_event_without_its_place_is_no_event() -> None:
    with pytest.raises(ValueError, match="without its seal"):
        events_json([Event(type=EventType.LOGIN, at=1)])


# -- writers at the same time ---------------------------------------------------------------------------------


async def test_appends_that_meet_in_any_order_lose_nothing(url: str) -> None:
    """The same events by two processes, in opposite orders, which deadlocks: as after replies that were lost."""
    kit = Kit(lambda: open_store(f"{url}&lock_timeout=20"), ManualClock())
    stores = await kit.stores(2)
    for _ in range(6):
        events = [kit.event(kind) for kind in (EventType.LOGIN, EventType.SESSION_ENDED) for _ in range(40)]
        await together([stores[0].append(events), stores[1].append(events[::-1]), stores[0].append(events)])
    assert len(await all_events(stores[0])) == 480
    for stream in await stores[1].streams():
        assert [e.seal.seq for e in await stores[1].trail(stream.name, 0, 999) if e.seal] == [*range(1, 241)]
    await kit.close_all()


async def test_blanks_and_purges_of_the_same_events_wait_for_each_other(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order they name them; deadlocks would be errors. In many steps, as of many events."""
    monkeypatch.setattr(trail, "PURGED_AT_ONCE", 400)
    kit = Kit(lambda: open_store(f"{url}&lock_timeout=20"), ManualClock())
    stores = await kit.stores(3)
    kinds = EventType.LOGIN, EventType.SESSION_ENDED
    for base in range(0, 4000, 1000):
        events = [kit.event(kinds[n % 2], user_id="ann", actor="bob", ip="192.0.2.1") for n in range(2000)]
        await stores[0].append(events)
        places = [kit.place(event) for event in events]
        login, ended = places[0].stream, places[1].stream
        blanked, again, purged, others = await together(
            [
                stores[0].blank(places, {"who", "where"}),
                stores[1].blank(places[::-1], {"actor"}),
                stores[2].purge_events({login: base + 800, ended: base + 850}),
                stores[1].purge_events({ended: base + 900, login: base + 500}),
            ]
        )
        assert purged + others == 1700
        assert min(blanked, again) >= 300
        left = [event for stream in (login, ended) for event in await stores[0].trail(stream, 0, 9999)]
        assert [kit.place(event) for event in left] == [
            *(Position(login, n) for n in range(base + 801, base + 1001)),
            *(Position(ended, n) for n in range(base + 901, base + 1001)),
        ]
        assert {(event.user_id, event.ip, event.actor) for event in left} == {(None, None, None)}
        assert await stores[0].purge_events({login: base + 1000, ended: base + 1000}) == 300
    await kit.close_all()


async def test_what_is_blank_is_not_written_again(url: str, sql: Any, kit: Kit) -> None:
    store = await kit.store()
    events = [kit.event(user_id="ann", ip="192.0.2.1", personal={"a": 1}), kit.event(user_id="ann"), kit.event()]
    await store.append(events)
    places = [kit.place(event) for event in events]
    where = f"SELECT array_agg(ctid ORDER BY id) FROM {prefix_of(url)}events"
    assert await store.blank([*places, places[0]], {"who", "actor", "where"}) == 3
    there = await sql.fetchval(where)
    assert await store.blank(places, {"who", "actor", "where"}) == 3
    assert await store.blank(places, set()) == 3
    assert await sql.fetchval(where) == there


# -- how it is read -------------------------------------------------------------------------------------------


async def fill(sql: Any, prefix: str) -> None:
    """``EVENTS`` events of ``STREAMS`` streams, one a second."""
    await sql.execute(
        f"INSERT INTO {prefix}events (at, type, user_id, stream, seq, previous, who_commitment, actor_commitment, "
        f"where_commitment) SELECT n * 1000000::bigint, 'x', 'u' || n % 5000, "
        f"'l' || lpad(to_hex(n % {STREAMS}), 15, '0'), n / {STREAMS} + 1, '', '', '', '' "
        f"FROM generate_series(0, {EVENTS - 1}) AS n"
    )
    await sql.execute(f"VACUUM ANALYZE {prefix}events")


class Statement:
    """What a store sends, to be explained."""

    def __init__(self, store: Store) -> None:
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        one = cast("PostgreSQLStore", store)
        connect = one._connect

        async def watched() -> Any:
            connection = await connect()
            connection.add_query_logger(lambda query: self.sent.append((query.query, tuple(query.args))))
            return connection

        one._connect = watched  # type: ignore[method-assign]

    async def plan(self, sql: Any) -> dict[str, Any]:
        await asyncio.sleep(0)  # the driver tells of it in the loop's next turn
        statement, arguments = self.sent[-1]
        [(plan,)] = await sql.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        return cast("dict[str, Any]", json.loads(plan)[0]["Plan"])


async def test_streams_and_pages_of_them_cost_what_they_show(url: str, sql: Any) -> None:
    store = open_store(url)
    statement = Statement(store)
    await store.open()
    await fill(sql, prefix_of(url))
    found = await store.streams()
    assert [(one.first, one.last.at) for one in found] == [
        (1, (EVENTS - STREAMS + n) * 1_000_000) for n in range(STREAMS)
    ]
    blocks = (await statement.plan(sql))["Shared Hit Blocks"]
    assert blocks < 20 * STREAMS
    page = await store.trail(found[3].name, 900, 50)
    assert [event.seal.seq for event in page if event.seal] == [*range(901, 951)]
    blocks = (await statement.plan(sql))["Shared Hit Blocks"]
    assert blocks < 80
    await store.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (EventQuery(since=(EVENTS - 30) * 1_000_000), "events_at"),
        (EventQuery(since=9_000_000_000, until=9_030_000_000), "events_at"),
        (EventQuery(until=30_000_000), "events_at"),
        (EventQuery(until=900_000_000), "events_at"),
        (EventQuery(until=(EVENTS - 1_500) * 1_000_000), "events_pkey"),
        (EventQuery(since=100_000_000), "events_pkey"),
        (EventQuery(), "events_pkey"),
        (EventQuery(user_id="u7", since=1_000_000), "events_user"),
    ],
    ids=[
        "the last moments",
        "a moment long ago",
        "the first moments",
        "the first of twenty",
        "all but the last",
        "all but the first",
        "all",
        "of a user",
    ],
)
async def test_times_are_looked_for_where_they_are_found_soonest(
    url: str, sql: Any, query: EventQuery, index: str
) -> None:
    """Few events by their time, many from the newest on. Also as the server goes on after a statement's fifth time."""
    store = open_store(f"{url}&pool_size=1")
    statement = Statement(store)
    await store.open()
    await fill(sql, prefix_of(url))
    pages = [await store.events(query) for _ in range(8)]
    assert pages[0].events
    assert all(page == pages[0] for page in pages)
    plan = json.dumps(await statement.plan(sql))
    assert f'"{prefix_of(url)}{index}"' in plan
    assert json.loads(plan)["Shared Hit Blocks"] < 400
    await store.close()


async def test_the_chain_that_is_read_is_the_one_that_was_written(kit: Kit) -> None:
    store = await kit.store()
    lane = Lane(EventClass.LOGIN)
    events = lane.seal([Event(type=EventType.LOGIN, at=kit.now + n, user_id=f"user{n}") for n in range(25)])
    await store.append(events)
    previous, after = events[0].seal.previous if events[0].seal else b"", 0
    while page := await store.trail(lane.stream, after, 4):
        for event in page:
            assert event.seal is not None
            assert event.seal.previous == previous
            previous, after = digest(event, event.seal), event.seal.seq
    assert after == 25


# -- on the wire ----------------------------------------------------------------------------------------------


async def test_every_call_is_one_flight() -> None:
    """But ``count``, when a bucket is new, and what nobody waits for: ``forget_user`` and ``expire``."""
    meter, prefix, parts = Meter(), new_prefix(), urlsplit(url_of("postgresql"))
    assert parts.hostname is not None
    assert parts.port is not None
    async with wire((parts.hostname, parts.port), meter) as port:
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
        kit = Kit(
            lambda: open_store(with_option(parts._replace(netloc=netloc).geturl(), f"prefix={prefix}")), ManualClock()
        )
        store = await kit.store()
        sheet = Sheet("usage", 1, "a", b"x", kit.now + DAY)
        entry = b"e" * 48

        async def log_in() -> None:
            record = kit.record("ann")
            await store.apply([kit.create(record)], [kit.event(sid=record.sid)])

        async def log_in_again() -> None:
            old, new = kit.record("ann"), kit.record("ann")
            await kit.put_in(store, old)
            meter.reset()
            await store.apply([kit.end(old), kit.create(new)], [kit.event(sid=new.sid), kit.event(sid=old.sid)])

        async def append() -> None:
            await store.append([kit.event(), kit.event()])

        async def blank() -> None:
            await store.blank([kit.place(kit.event())], {"who", "actor", "where"})

        calls = {
            "log_in": log_in,
            "log_in_again": log_in_again,
            "append": append,
            "blank": blank,
            "streams": store.streams,
            "trail": lambda: store.trail("l" + "0" * 15, 0, 10),
            "profile": lambda: store.profile("ann", [Counter("b", b"a"), Counter("c", b"a")]),
            "record_logins": lambda: store.record_logins([("ann", entry), ("bob", entry)], kit.now + DAY),
            "drop_login": lambda: store.drop_login("ann", entry),
            "count": lambda: store.count("b", {b"a": 1, b"b": 1}, most=10, expires_at=kit.now + DAY),
            "publish": lambda: store.publish([sheet]),
            "sheets": lambda: store.sheets("usage", 0, 9),
            "withdraw": lambda: store.withdraw([sheet]),
        }
        flights: dict[str, int] = {}
        for name, call in calls.items():
            await call()  # prepares the statement
            meter.reset()
            await call()
            flights[name] = meter.flights
        assert flights == dict.fromkeys(calls, 1)
        await kit.close_all()
    await drop("postgresql", prefix)
