"""MySQL: what the server reads to find events, and who may purge and blank them beside whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from databases import kit_on, url_of
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import Lane
from sessiondb.stores import _mysql_trail as trail
from sessiondb.stores._mysql_connection import Connection, connect
from sessiondb.stores._mysql_rows import Statements
from sessiondb.stores._mysql_url import parse
from sessiondb.stores.base import EventQuery, Position, Store
from sessiondb.testing.kit import Kit, together

USERS = 50


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


# -- what is read ---------------------------------------------------------------------------------------------


async def fill(kit: Kit, store: Store, count: int) -> list[str]:
    """``count`` events of four streams, a second apart; the names of the streams."""
    lanes = [Lane(EventClass.LOGIN) for _ in range(4)]
    for start in range(0, count, 1000):
        lane = lanes[start // 1000 % 4]
        sealed = lane.seal(
            Event(type=EventType.LOGIN, at=(start + n) * 10**6, user_id=f"u{n % USERS}") for n in range(1000)
        )
        lane.advance(sealed)
        await store.append(sealed)
    return sorted(lane.stream for lane in lanes)


class Reads:
    """How many rows and entries of indexes the server has looked at for a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = 0

    async def since(self) -> int:
        [found] = await self._connection.run(["SHOW SESSION STATUS LIKE 'Handler_read%'"])
        now = sum(int(value) for name, value in found.rows if not name.startswith(b"Handler_read_rnd"))
        before, self._before = self._before, now
        return now - before


async def test_reading_costs_as_much_as_it_finds(kit: Kit, sql: Connection) -> None:
    """Of 20,000 events: streams by leaps, pages of a stream, of a user, and of a time that is long past."""
    store = await kit.store()
    names = await fill(kit, store, 20_000)
    prefixed, reads = statements_of(store), Reads(sql)
    await sql.run([f"ANALYZE TABLE {prefixed.events}"])
    await reads.since()
    assert [stream.name for stream in await trail.streams(prefixed, sql)] == names
    assert await reads.since() < 200
    assert len(await trail.trail(prefixed, sql, names[0], 100, 50)) == 50
    assert await reads.since() < 200
    for query, most in (
        (EventQuery(limit=50), 200),
        (EventQuery(user_id="u7", limit=50), 200),
        (EventQuery(actor="nobody"), 20),
        (EventQuery(since=19_000 * 10**6, limit=50), 1500),
        (EventQuery(since=2_000 * 10**6, until=2_100 * 10**6, limit=50), 500),
        # A tenth of all, for which the planner by itself would walk over all that is newer.
        (EventQuery(since=2_000 * 10**6, until=4_000 * 10**6, limit=50), 4500),
        (EventQuery(since=2_000 * 10**6, until=4_000 * 10**6, type=EventType.LOGIN, limit=50), 4500),
        # So it would for these, or sort all that is older.
        (EventQuery(until=900 * 10**6, limit=50), 4500),
        (EventQuery(until=18_500 * 10**6, limit=50), 4500),
    ):
        found = await trail.page(prefixed, sql, query)
        assert len(found.events) == (0 if query.actor else 50)
        assert await reads.since() < most, query
    places = [Position(names[0], seq) for seq in range(1, 101)]

    async def again(work: object) -> object:
        return await work(sql)  # type: ignore[operator]

    assert await trail.blank(prefixed, again, places, {"who"}) == 100  # type: ignore[arg-type]
    assert await reads.since() < 500
    assert await trail.purge(prefixed, again, {names[0]: 100}) == 100  # type: ignore[arg-type]
    assert await reads.since() < 500


async def test_streams_are_found_by_leaps_in_a_table_that_was_opened_when_it_was_empty(
    kit: Kit, sql: Connection
) -> None:
    """Nobody has analysed it since, and the server keeps a table open for as long as it runs."""
    store = await kit.store()
    prefixed, reads = statements_of(store), Reads(sql)
    # So that the server counts anew at once, where by itself it does within some seconds.
    await sql.run([f"ALTER TABLE {prefixed.events} STATS_PERSISTENT = 0"])
    assert await trail.streams(prefixed, sql) == []
    names = await fill(kit, store, 20_000)
    await reads.since()
    assert [stream.name for stream in await trail.streams(prefixed, sql)] == names
    assert await reads.since() < 300


async def test_a_window_is_paged_as_everything_is(kit: Kit, sql: Connection) -> None:
    """Newest first by arrival, also where the times are in another order."""
    store = await kit.store()
    times = [5, 1, 4, 2, 3, 9, 0, 4]
    await store.append([kit.event(at=at, details={"n": n}) for n, at in enumerate(times)])
    found: list[int] = []
    after: int | None = None
    while True:
        page = await store.events(EventQuery(since=2, until=6, after=after, limit=2))
        found += [int(event.details["n"]) for event in page.events]
        after = page.next
        if after is None:
            break
    assert found == [7, 4, 3, 2, 0]


# -- purging and blanking beside writers ----------------------------------------------------------------------


async def test_two_purge_and_two_blank_while_one_writes(kit: Kit) -> None:
    """Nobody's call fails, every event that has to go is counted once, and the rest of the stream is whole."""
    stores = await kit.stores(5)
    lane = Lane(EventClass.LOGIN)
    first = lane.seal([Event(type=EventType.LOGIN, at=kit.now, user_id="ann", ip="192.0.2.1") for _ in range(1500)])
    lane.advance(first)
    await stores[0].append(first)

    async def write() -> int:
        for _ in range(20):
            sealed = lane.seal([Event(type=EventType.LOGIN, at=kit.now, user_id="ann") for _ in range(5)])
            await stores[0].append(sealed)
            lane.advance(sealed)
        return 0

    async def purge(store: Store) -> int:
        return sum([await store.purge_events({lane.stream: through}) for through in range(100, 1201, 100)])

    async def blank(store: Store) -> int:
        places = [Position(lane.stream, seq) for seq in range(1500, 0, -1)]
        await store.blank(places, {"where"})
        return 0

    purged = sum(await together([write(), purge(stores[1]), purge(stores[2]), blank(stores[3]), blank(stores[4])]))
    assert purged == 1200
    left = await stores[0].trail(lane.stream, 0, 1000)
    assert [event.seal.seq for event in left if event.seal is not None] == list(range(1201, 1601))
    assert {event.ip for event in left} == {None}
    assert {event.user_id for event in left} == {"ann"}


async def test_what_was_purged_before_a_failure_is_not_called_unwritten(kit: Kit, sql: Connection) -> None:
    """The second part meets a row that somebody holds: it has done nothing itself, but the first one is done."""
    store = await kit.store()
    lane = Lane(EventClass.LOGIN)
    await store.append(lane.seal([Event(type=EventType.LOGIN, at=kit.now) for _ in range(trail.PART + 10)]))
    held = f"SELECT id FROM {statements_of(store).events} WHERE stream = '{lane.stream}' AND seq = {{}} FOR UPDATE"
    for seq, outcome in ((trail.PART + 5, "unknown"), (trail.PART + 5, "not_applied")):
        await sql.run(["START TRANSACTION", held.format(seq)])
        with pytest.raises(StoreError, match="locked by another transaction") as caught:
            await store.purge_events({lane.stream: 10**6})
        await sql.run(["ROLLBACK"])
        assert caught.value.outcome == outcome
        assert len(await store.trail(lane.stream, 0, 1000)) == 10
    assert await store.purge_events({lane.stream: 10**6}) == 10
    assert await store.streams() == []


async def test_appends_at_taken_places_wait_for_nobody_long(kit: Kit) -> None:
    """Two workers write the same hundred events over and over, one of them backwards."""
    stores = await kit.stores(2)
    lane = Lane(EventClass.LOGIN)
    events = lane.seal([Event(type=EventType.LOGIN, at=kit.now, details={"n": n}) for n in range(100)])
    async with asyncio.timeout(30):
        await together(stores[n % 2].append(events[n % 7 :] if n % 4 else events[::-1]) for n in range(20))
    assert await stores[0].trail(lane.stream, 0, 1000) == events
