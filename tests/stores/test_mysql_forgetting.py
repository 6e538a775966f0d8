"""MySQL: of a person who is forgotten the server shows nothing any more, and a rebuild empties the files too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from databases import had, new_prefix, with_option
from provision.mariadb import MariaDB
from sessiondb import open_store
from sessiondb.core.change import Touch
from sessiondb.core.record import LINK_BYTES, EndReason
from sessiondb.core.sealing import GROUPS
from sessiondb.stores._mysql_connection import Connection, connect
from sessiondb.stores._mysql_url import parse
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, EventQuery, Position, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY
from sessiondb.testing.kit import Kit, together

USER, NAME, ADDRESS, AGENT = "canary-7f3a", "Carla Canary", "203.0.113.77", "CanaryAgent/9.9"
CANARIES = [canary.encode() for canary in (USER, NAME, ADDRESS, AGENT)]
GUIDE = (Path(__file__).parents[2] / "docs" / "databases.md").read_text(encoding="utf-8")
PERSONAL = ("sessions", "events", "histories", "users", "links")


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    server = had(MariaDB)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def scrubbing() -> Iterator[MariaDB]:
    server = had(lambda: MariaDB("--innodb-immediate-scrub-data-uncompressed=ON"))
    yield server
    server.stop()


@pytest.fixture(params=["server", "scrubbing"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    place = Place(request.getfixturevalue(request.param), scrubs=request.param == "scrubbing")
    async with place:
        yield place


class Place:
    """A database of one server, whose files can be read."""

    def __init__(self, server: MariaDB, *, scrubs: bool) -> None:
        self.server = server
        self.scrubs = scrubs
        self.prefix = new_prefix()
        url = with_option(server.url, f"prefix={self.prefix}")
        self.kit = Kit(lambda: open_store(url), ManualClock())
        self.names = ", ".join(f"{self.prefix}{name}" for name in PERSONAL)

    async def __aenter__(self) -> None:
        self.sql: Connection = await connect(parse(self.server.url).arguments, 5)

    async def __aexit__(self, *exc: object) -> None:
        await self.kit.close_all()
        await self.sql.close()

    async def shown(self) -> dict[bytes, set[str]]:
        """By canary, the columns in which the server shows it."""
        found: dict[bytes, set[str]] = {canary: set() for canary in CANARIES}
        [tables] = await self.sql.run([f"SHOW TABLES LIKE '{self.prefix}%'"])
        assert len(tables.rows) == 9
        for (table,) in tables.rows:
            columns, rows = await self.sql.run(
                [f"SHOW COLUMNS FROM {table.decode()}", f"SELECT * FROM {table.decode()}"]
            )
            for row in rows.rows:
                for (column, *_), value in zip(columns.rows, row, strict=True):
                    for canary in CANARIES:
                        if isinstance(value, bytes) and canary in value:
                            found[canary].add(f"{table.decode().removeprefix(self.prefix)}.{column.decode()}")
        return found

    async def in_files(self) -> dict[bytes, set[str]]:
        """By canary, the tables in whose files it is."""
        await self.sql.run([f"FLUSH TABLES {self.names} FOR EXPORT"])
        found: dict[bytes, set[str]] = {canary: set() for canary in CANARIES}
        files = list((self.server.process.folder / "data" / "sessiondb").glob(f"{self.prefix}*.ibd"))
        assert len(files) == 9
        for file in files:
            content = file.read_bytes()
            for canary in CANARIES:
                if canary in content:
                    found[canary].add(file.stem.removeprefix(self.prefix))
        await self.sql.run(["UNLOCK TABLES"])
        return found

    async def purged(self) -> None:
        """Until the server has removed what is marked as deleted."""
        async with asyncio.timeout(30):
            while True:
                [found] = await self.sql.run(["SHOW ENGINE INNODB STATUS"])
                if b"History list length 0\n" in found.rows[0][2]:
                    return
                await asyncio.sleep(0.05)


async def live(kit: Kit, store: Store) -> None:
    """The person among others, in every place where something personal is kept."""
    client = f'{{"ip":"{ADDRESS}","user_agent":"{AGENT}"}}'.encode()
    for number in range(20):
        others = [kit.record(f"user{number}", {"n": n}) for n in range(5)]
        await store.apply([kit.create(one) for one in others], [kit.event(sid=one.sid) for one in others])
        if number % 10 == 5:
            mine = [kit.record(USER, {"name": NAME}, client_first=client) for _ in range(3)]
            await store.apply(
                [kit.create(one, [USER.encode().ljust(LINK_BYTES, b"-")]) for one in mine],
                [
                    kit.event(sid=one.sid, user_id=USER, ip=ADDRESS, personal={"user_agent": AGENT, "name": NAME})
                    for one in mine
                ],
            )
            for one in mine:
                await kit.apply(store, kit.update(one, {"again": NAME}, touch=Touch(kit.now, client)))
            await store.apply([kit.end(mine[0])], [kit.event(actor=USER, ip=ADDRESS, personal={"user_agent": AGENT})])
    await store.end_where(kit.query(USER, not_before=kit.now + DAY, sids=[]), EndReason.REVOKED)
    await store.record_logins([(USER, b"e" * HISTORY_ENTRY_BYTES)], kit.now + DAY)


async def forget(store: Store) -> None:
    places: list[Position] = []
    for query in (EventQuery(user_id=USER), EventQuery(actor=USER)):
        places += [Position(e.seal.stream, e.seal.seq) for e in (await store.events(query)).events if e.seal]
    assert await store.blank(places, GROUPS) == 8
    assert await store.forget_user(USER) == 6


@pytest.mark.security("A3")
async def test_nothing_of_a_person_is_left(place: Place) -> None:
    store = await place.kit.store()
    await live(place.kit, store)
    events = (await store.stats()).events
    user, name, address, agent = CANARIES
    client = {"sessions.client_first", "sessions.client_last", "events.personal"}
    assert await place.shown() == {
        user: {
            "sessions.user_id",
            "links.link",
            "events.user_id",
            "events.actor",
            "histories.user_id",
            "users.user_id",
        },
        name: {"sessions.data", "events.personal"},
        address: client - {"events.personal"} | {"events.ip"},
        agent: client,
    }
    assert await place.in_files() == {
        user: {*PERSONAL},
        name: {"sessions", "events"},
        address: {"sessions", "events"},
        agent: {"sessions", "events"},
    }
    await forget(store)
    nothing: dict[bytes, set[str]] = {canary: set() for canary in CANARIES}
    assert await place.shown() == nothing
    assert (await store.stats()).events == events
    await place.purged()
    if not place.scrubs:
        # Pages keep what has not been written over. The guide says what to run.
        [rebuild] = re.findall(r"`(OPTIMIZE TABLE [^`]+)`", GUIDE)
        await place.sql.run([rebuild.replace("sessiondb_", place.prefix)])
    assert await place.in_files() == nothing


async def test_who_has_very_many_sessions_is_forgotten_by_two_at_once(place: Place) -> None:
    """And nobody else: each session is counted once, links go with them, and no call fails."""
    kit = place.kit
    stores = await kit.stores(2)
    for _ in range(20):
        await stores[0].apply([kit.create(kit.record(USER), [b"l" * LINK_BYTES]) for _ in range(25)])
    other = kit.record("other")
    await stores[0].apply([kit.create(other, [b"l" * LINK_BYTES])])
    assert sum(await together(store.forget_user(USER) for store in stores)) == 500
    [found] = await place.sql.run([f"SELECT count(*) FROM {place.prefix}links"])
    assert found.rows == ((1,),)
    assert [one.sid for one in (await stores[0].find(kit.query(state="all"))).records] == [other.sid]
