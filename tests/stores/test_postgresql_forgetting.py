"""PostgreSQL: of a person who is forgotten no query shows anything, and what the guide says empties the files too."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from databases import had, new_prefix, with_option
from provision.postgresql import PostgreSQL
from sessiondb import open_store
from sessiondb.core.change import Touch
from sessiondb.core.record import LINK_BYTES, EndReason
from sessiondb.core.sealing import GROUPS
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, EventQuery, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY
from sessiondb.testing.kit import Kit

USER, NAME, ADDRESS, AGENT = "canary-7f3a", "Carla Canary", "203.0.113.77", "CanaryAgent/9.9"
CANARIES = (USER, NAME, ADDRESS, AGENT)
GUIDE = (Path(__file__).parents[2] / "docs" / "databases.md").read_text(encoding="utf-8")
ONE_IN = 10  # so many that ANALYZE takes them for common


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    server = had(lambda: PostgreSQL({"fsync": "off", "autovacuum": "off"}))
    yield server
    server.stop()


@pytest.fixture(params=["", "&partitions=monthly"], ids=["plain", "partitions"])
async def place(request: pytest.FixtureRequest, server: PostgreSQL) -> AsyncIterator[Place]:
    place = Place(server, request.param)
    place.sql = await asyncpg.connect(server.url)
    yield place
    await place.kit.close_all()
    await place.sql.close()


class Place:
    """A database of one server, whose files can be read."""

    sql: Any

    def __init__(self, server: PostgreSQL, option: str) -> None:
        self._data = server.folder / "data"
        self.prefix = new_prefix()
        url = with_option(server.url, f"prefix={self.prefix}{option}")
        self.kit = Kit(lambda: open_store(url), ManualClock())

    async def run_guide(self, statement: str) -> None:
        """One of the statements of the guide, on these tables."""
        [tables] = re.findall(r"`VACUUM \(ANALYZE\) (sessiondb_sessions.*?)`", GUIDE)
        assert f"`{statement}`" in GUIDE or f"`{statement} {tables}`" in GUIDE
        names = "" if statement.endswith("pg_statistic") else tables.replace("sessiondb_", self.prefix)
        await self.sql.execute(f"{statement} {names}")

    async def shown(self) -> dict[str, set[str]]:
        """By canary, the columns of the tables in which a query shows it."""
        columns = await self.sql.fetch(
            "SELECT relname, attname, atttypid::regtype::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
            "WHERE attnum > 0 AND relkind IN ('r', 'p') AND starts_with(relname, $1)",
            self.prefix,
        )
        assert len({table for table, *_ in columns}) >= 9
        found: dict[str, set[str]] = {canary: set() for canary in CANARIES}
        for table, column, kind in columns:
            has = f"position(convert_to($1, 'UTF8') IN {column})" if kind == "bytea" else f"strpos({column}::text, $1)"
            for canary in CANARIES:
                if await self.sql.fetchval(f"SELECT EXISTS (SELECT FROM {table} WHERE {has} > 0)", canary):
                    found[canary].add(f"{table.removeprefix(self.prefix)}.{column}")
        return found

    async def in_statistics(self) -> set[str]:
        """The columns of which the planner knows single values with a canary."""
        rows = await self.sql.fetch(
            "SELECT attname, concat(most_common_vals::text, histogram_bounds::text) FROM pg_stats "
            "WHERE starts_with(tablename, $1)",
            self.prefix,
        )
        return {column for column, values in rows if any(canary in values for canary in CANARIES)}

    async def in_files(self) -> dict[str, set[str]]:
        """By canary, what has it in its file: all files of the server, but for the log of what was written (WAL)."""
        await self.sql.execute("CHECKPOINT")
        names = dict(
            await self.sql.fetch(
                "SELECT pg_relation_filepath(oid), relname FROM pg_class WHERE pg_relation_filepath(oid) IS NOT NULL"
            )
        )
        found: dict[str, set[str]] = {canary: set() for canary in CANARIES}
        for file in self._data.rglob("*"):
            path = file.relative_to(self._data)
            if not file.is_file() or path.parts[0] == "pg_wal":
                continue
            content = file.read_bytes()
            for canary in CANARIES:
                if canary.encode() in content:
                    found[canary].add(names.get(str(path), str(path)).removeprefix(self.prefix))
        return found


async def live(kit: Kit, store: Store) -> None:
    """The person among others, in every place where something personal is kept."""
    client = f'{{"ip":"{ADDRESS}","user_agent":"{AGENT}"}}'.encode()
    for number in range(40 * ONE_IN):
        if number % ONE_IN != 5:
            other = kit.record(f"user{number}", {"n": number})
            link = other.user_id.encode() if other.user_id else b""
            await store.apply(
                [kit.create(other, [link.ljust(LINK_BYTES, b"-")])],
                [kit.event(sid=other.sid, user_id=other.user_id, ip="192.0.2.1")],
            )
            continue
        mine = kit.record(USER, {"name": NAME}, client_first=client)
        personal = {"user_agent": AGENT, "name": NAME}
        events = [
            kit.event(sid=mine.sid, user_id=USER, ip=ADDRESS, personal=personal),
            kit.event(user_id=f"user{number}", actor=USER),
        ]
        await store.apply([kit.create(mine, [USER.encode().ljust(LINK_BYTES, b"-")])], events)
        await store.apply([kit.update(mine, {"n": 1}, touch=Touch(kit.now, client))])
        if number % (2 * ONE_IN) == 5:
            await store.apply([kit.end(mine)])
    await store.end_where(kit.query(USER, not_before=kit.now + DAY, sids=[]), EndReason.REVOKED)
    await store.record_logins([(USER, NAME.encode().ljust(HISTORY_ENTRY_BYTES, b"-"))] * 3, kit.now + DAY)
    await store.end_where(kit.query("user1", not_before=kit.now + DAY, sids=[]), EndReason.REVOKED)
    await store.record_logins([("user1", b"-" * HISTORY_ENTRY_BYTES)], kit.now + DAY)


async def forget(kit: Kit, store: Store) -> None:
    for query in (EventQuery(user_id=USER, limit=1000), EventQuery(actor=USER, limit=1000)):
        found = (await store.events(query)).events
        assert len(found) == 40
        assert await store.blank([kit.place(event) for event in found], set(GROUPS)) == 40
    assert await store.forget_user(USER) == 40


@pytest.mark.security("A3")
async def test_nothing_is_shown_of_who_was_forgotten(place: Place) -> None:
    kit = place.kit
    store = await kit.store()
    await live(kit, store)
    await place.sql.execute("ANALYZE")
    before = await place.shown()
    named = {"sessions.user_id", "events.user_id", "events.actor", "users.user_id", "histories.user_id", "links.link"}
    assert named <= before[USER]
    assert {"sessions.data", "events.personal", "histories.logins"} <= before[NAME]
    assert {"sessions.client_first", "sessions.client_last", "events.ip"} <= before[ADDRESS]
    assert {"sessions.client_first", "sessions.client_last", "events.personal"} <= before[AGENT]
    assert {"user_id", "actor", "ip"} <= await place.in_statistics()
    files = await place.in_files()
    assert {"events", "events_user", "events_actor", "histories", "users", "pg_statistic"} <= files[USER]

    await forget(kit, store)
    assert await place.shown() == {canary: set() for canary in CANARIES}
    assert (await store.stats()).live == 360
    assert (await store.streams())[0].last.seal is not None

    await place.run_guide("VACUUM (ANALYZE)")
    assert await place.in_statistics() == set()
    assert "events" in (await place.in_files())[USER], "bytes in free places, as the guide says"
    await place.run_guide("VACUUM (FULL, ANALYZE)")
    await place.run_guide("VACUUM FULL pg_statistic")
    assert await place.in_files() == {canary: set() for canary in CANARIES}
    assert await place.shown() == {canary: set() for canary in CANARIES}
