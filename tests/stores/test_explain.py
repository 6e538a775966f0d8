"""No statement that a request waits for looks at all sessions: the plan of everything that the SQL stores send.

The statements are taken from the stores themselves while they do all that they can do, so one that is new is looked at
without being named here. The tables are large enough, and analysed, for the planner to mean what it says.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import pytest

from databases import new_url
from sessiondb import open_store
from sessiondb.core.change import Confirm, Rotate, SignIn, Touch
from sessiondb.core.events import EventType
from sessiondb.core.policy import Caps, Lifetimes, Policy
from sessiondb.core.record import EndReason, Record
from sessiondb.stores import _mysql_connection, _redis_scripts
from sessiondb.stores._mysql_connection import Connection
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, Counter, EventQuery, Position, Sheet, Store
from sessiondb.stores.mysql import MySQLStore
from sessiondb.stores.postgresql import PostgreSQLStore
from sessiondb.stores.redis import RedisStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import DAY, HOUR, MINUTE, Builders

ROWS = 20_000
USERS = 20_000
TABLES = ("sessions", "links", "users", "events", "histories", "buckets", "counters", "sheets")
ALIASES = {"s": "sessions", "u": "users", "e": "events"}
# What may look at a whole table, or walk along one from its beginning, and why.
ALLOWED = {
    r"count\(DISTINCT|SELECT count\(\*\) FROM \w+events": "stats: for pages and metrics, never in a request",
    r"FROM \w+events WHERE (1|true|TRUE)( AND (at|type)\b[^)]*)? ORDER BY id DESC LIMIT": (
        "the newest events, read from the end of the table and not further than the page"
    ),
    r"SELECT sid, .* FROM \w+sessions WHERE TRUE ORDER BY sid LIMIT \d+$": "the first step of a walk, of so many rows",
}

_PLANNED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


# -- all that a store can do ----------------------------------------------------------------------------------


class Work:
    """One store, with sessions of its own among the many."""

    def __init__(self, store: Store, build: Builders) -> None:
        self.store = store
        self.build = build
        self.link = b"l" * 16

    async def new(self, user: str, count: int = 1, **fields: Any) -> list[Record]:
        records = [self.build.record(user, {"n": 1}, **fields) for _ in range(count)]
        await self.store.apply([self.build.create(one, [self.link]) for one in records], [self.build.event()])
        return records

    async def do_all(self) -> None:
        await self.read_and_write()
        await self.touch()
        await self.log_in()
        await self.look_for()
        await self.end()
        await self.sweep()
        await self.follow()
        await self.watch()
        await self.forget()

    async def read_and_write(self) -> None:
        store, build = self.store, self.build
        records = await self.new("writer", 6)
        await store.load([one.sid for one in records])
        await store.load([records[0].sid])
        await store.apply([build.create(records[0])])  # a conflict
        many = await self.new("writer", 40)
        await store.apply([build.update(record, {"a": 1}, seen=True) for record in many[:32]])
        # Some of them have moved since.
        await store.apply([build.update(record, {"b": 1}, seen=True) for record in many[24:]])
        one, two, three, four, five, six = records
        await store.apply([build.update(one, {"a": 1}, ["n"], touch=Touch(build.now), seen=True)])
        await store.apply([build.update(one, {"b": 1})], [build.event(sid=one.sid, user_id="writer")])
        await store.apply([build.update(two, {"b": 1}, if_rev=99)])
        sign_in = SignIn(build.now, b"{}", HOUR, DAY, "normal", (b"m" * 16,))
        await store.apply(
            [
                build.update(three, {"b": 1}, rotate=Rotate(three.secret_hash, b"r" * 32, b"s" * 16, build.now)),
                build.update(four, confirm=Confirm(four.secret_hash, build.now)),
                build.update(five, sign_in=sign_in),
                build.update(two, {"c": 1}, seen=True),
                build.end(six, announce_at=build.now + MINUTE),
                *[build.create(build.record("writer"))],
            ],
            [build.event()],
        )
        await store.apply([build.update(six, {"late": 1}), build.end(five, if_rev=1)])
        await store.append([build.event()])
        await store.remember("explained", "x")
        await store.recall("explained")

    async def touch(self) -> None:
        store, build = self.store, self.build
        records = await self.new("toucher", 40)
        await store.apply([build.touch(records[0])])
        await store.apply([build.touch(one) for one in records])
        await store.apply([build.touch(one, client=b'{"ip":"192.0.2.1"}') for one in records])
        await store.apply([build.end(records[0])])
        await store.apply([build.touch(one) for one in (*records, build.record())])

    async def log_in(self) -> None:
        store, build = self.store, self.build
        for on_limit in ("end_oldest", "refuse"):
            for also in ((), ("idp",)):
                [*_, newest] = await self.new(f"{on_limit}{len(also)}", 4)
                await store.admit(build.login(newest))
                await store.admit(build.login(newest, per_user=2, on_limit=cast("Any", on_limit), also=also))
        [one] = await self.new("locked")
        await store.end_where(build.query("locked", not_before=build.now + DAY, sids=[]), EndReason.REVOKED)
        await store.admit(build.login(one, began_at=build.now))

    async def look_for(self) -> None:
        store, build = self.store, self.build
        records = await self.new("looker", 5)
        for state in ("live", "ended", "all"):
            page = await store.find(build.query("looker", state=cast("Any", state), limit=2))
            await store.find(build.query("looker", state=cast("Any", state), before=page.next or records[0].sid))
        await store.find(build.query(sids=[one.sid for one in records]))
        await store.find(build.query(link=self.link))
        await store.find(build.query("looker", link=self.link))
        for query in (
            EventQuery(user_id="looker"),
            EventQuery(sid=records[0].sid),
            EventQuery(user_id="looker", type=str(EventType.LOGIN), since=1, until=build.now, after=10**9),
            EventQuery(),
            EventQuery(type=str(EventType.LOGIN)),
            EventQuery(actor="looker"),
            EventQuery(since=build.now - MINUTE),
            EventQuery(since=build.now - MINUTE, until=build.now, type=str(EventType.LOGIN)),
        ):
            await store.events(query)

    async def end(self) -> None:
        store, build = self.store, self.build
        records = await self.new("leaver", 8)
        await self.new("leaver", 2, age=2 * HOUR, idle=HOUR)  # over, and not seen as such
        await store.end_where(build.query(sids=[records[0].sid]), EndReason.REVOKED)
        await store.end_where(build.query("leaver", keep=records[1].sid, announce_at=build.now), EndReason.REVOKED)
        await store.end_where(build.query("leaver", not_before=build.now), EndReason.REVOKED)
        await store.end_where(build.query("leaver", not_before=build.now - 5, lift=True), EndReason.REVOKED)
        await self.new("linked", 2)
        await store.end_where(build.query(link=self.link), EndReason.REVOKED)
        await store.announced([one.sid for one in records])

    async def sweep(self) -> None:
        store, build = self.store, self.build
        await self.new("swept", 3, age=2 * HOUR, idle=HOUR)
        [told, untold, touched] = await self.new("swept", 3)
        await store.apply([build.end(untold, announce_at=build.now - 1), build.end(told, purge_after=-1)])
        await store.apply([build.touch(touched)])
        cutoffs = build.cutoffs(build.now + 2 * MINUTE, worker="explainer", announce_at=build.now + 9 * MINUTE)
        await store.sweep(cutoffs, 100)
        await store.sweep(build.cutoffs(build.now + 3 * MINUTE), 100)
        short = Caps(Lifetimes(HOUR, HOUR), Policy().caps.remembered)
        after = await store.lower_checks(short, None, 100)
        await store.lower_checks(short, after, 100)

    async def follow(self) -> None:
        store, build = self.store, self.build
        mine = build.event(user_id="follower", actor="follower", ip="192.0.2.1")
        await store.append([mine])
        places = [build.place(mine), *(Position(f"l00000000000000{n}", n) for n in range(1, 8))]
        for stream in await store.streams():
            await store.trail(stream.name, stream.first, 10)
        await store.blank(places, {"who", "actor", "where"})
        await store.purge_events({"l000000000000007": 100, places[0].stream: 1})

    async def watch(self) -> None:
        store, later = self.store, self.build.now + DAY
        entry = b"e" * HISTORY_ENTRY_BYTES
        await store.record_logins([("watched", entry), ("u7", entry)], later)
        await store.count("b7", {b"a": 1, b"b": 1}, most=10**6, expires_at=later)
        await store.count("b7", {b"a": 1, b"c": 1}, most=1, expires_at=later)
        await store.profile("watched", [Counter("b7", b"a"), Counter("b7", b"b"), Counter("b8", b"a")])
        await store.profile(None, [Counter("b7", b"a")])
        await store.drop_login("watched", entry)
        sheets = [Sheet("usage", bucket, "w", b"", later) for bucket in (1, 2)]
        await store.publish(sheets)
        await store.sheets("usage", 1, 3)
        await store.withdraw(sheets)
        await store.expire(self.build.now, 10)

    async def forget(self) -> None:
        await self.new("forgotten", 3)
        await self.store.forget_user("forgotten")


# -- many others ----------------------------------------------------------------------------------------------


async def fill(store: Store, build: Builders, random_sid: str, prefix: str, run: Any) -> None:
    """Make ROWS sessions of USERS users, with links and events, by doubling a few of them."""
    few = [build.record("u0", {"n": number}, age=HOUR) for number in range(20)]
    await store.apply([build.create(one, [bytes([number]) * 16]) for number, one in enumerate(few)])
    await store.apply([build.end(one) for one in few[:4]])
    columns = [name for name in Record.__struct_fields__ if name not in ("sid", "user_id", "check_at")]
    names = ", ".join(columns)
    rows = len(few)
    while rows < ROWS:
        await run(
            f"INSERT INTO {prefix}sessions (sid, user_id, check_at, {names}) "
            f"SELECT {random_sid}, user_id, check_at + {rows}, {names} FROM {prefix}sessions"
        )
        rows *= 2


async def spread(prefix: str, run: Any, kind: str) -> None:
    number = {
        "sqlite": "abs(random())",
        "postgresql": "(random() * 1000000000)::bigint",
        "mysql": "CAST(RAND() * 1000000000 AS SIGNED)",
    }[kind]
    user = {
        "sqlite": f"'u' || ({number} % {USERS})",
        "postgresql": f"'u' || ({number} % {USERS})",
        "mysql": f"CONCAT('u', {number} % {USERS})",
    }[kind]
    link = {"sqlite": "randomblob(16)", "postgresql": "uuid_send(gen_random_uuid())", "mysql": "UNHEX(MD5(RAND()))"}[
        kind
    ]
    text = {"sqlite": "sid", "postgresql": "sid::text", "mysql": "HEX(sid)"}[kind]
    await run(f"UPDATE {prefix}sessions SET user_id = {user}, check_at = check_at + {number} % 1000000")
    await run(f"INSERT INTO {prefix}links (link, sid) SELECT {link}, sid FROM {prefix}sessions")
    await run(
        f"INSERT INTO {prefix}users (user_id, not_before) SELECT DISTINCT user_id, created_at FROM "
        f"(SELECT user_id, min(created_at) AS created_at FROM {prefix}sessions GROUP BY user_id) AS every"
    )
    await spread_events(prefix, run, kind, text)
    await spread_watched(prefix, run, kind)


def joined(kind: str, text: str, number: str) -> str:
    return f"CONCAT('{text}', {number})" if kind == "mysql" else f"'{text}' || ({number})"


async def spread_events(prefix: str, run: Any, kind: str, text: str) -> None:
    """An event for each session, in eight streams."""
    digest = {"sqlite": "zeroblob(32)", "postgresql": "decode(repeat('00', 32), 'hex')", "mysql": "REPEAT(x'00', 32)"}
    blob = "''::bytea" if kind == "postgresql" else "x''"
    await run(
        f"INSERT INTO {prefix}events (at, type, sid, user_id, details, personal, stream, seq, previous, "
        "who_commitment, actor_commitment, where_commitment) "
        f"SELECT created_at + 1000 * n, '{EventType.LOGIN}', sid, user_id, '{{}}', '{{}}', "
        f"{joined(kind, 'l00000000000000', 'n % 8')}, n, {digest[kind]}, {blob}, {blob}, {blob} FROM "
        f"(SELECT created_at, {text} AS sid, user_id, ROW_NUMBER() OVER (ORDER BY sid) AS n "
        f"FROM {prefix}sessions) AS every"
    )


async def spread_watched(prefix: str, run: Any, kind: str) -> None:
    """As many of everything, of which nothing is over, in 200 buckets."""
    blob = "''::bytea" if kind == "postgresql" else "x''"
    item = {"sqlite": "CAST(n AS BLOB)", "postgresql": "int8send(n)", "mysql": "CAST(n AS BINARY)"}[kind]
    numbered = f"(SELECT ROW_NUMBER() OVER (ORDER BY sid) AS n, check_at + {10 * DAY} AS later FROM {prefix}sessions)"
    for what in (
        f"histories (user_id, logins, expires_at) SELECT {joined(kind, 'u', 'n')}, {blob}, later + n",
        f"counters (bucket, item, total) SELECT {joined(kind, 'b', 'n % 200')}, {item}, n",
        f"buckets (bucket, items, expires_at) SELECT {joined(kind, 'b', 'n')}, {ROWS // 200}, later + n",
        f"sheets (kind, bucket, writer, data, expires_at) SELECT 'usage', n, 'w', {blob}, later + n",
    ):
        await run(f"INSERT INTO {prefix}{what} FROM {numbered} AS every")


# -- each database: what it sent, and how it would find it ----------------------------------------------------


class Explained:
    """A store at work, whose statements were kept."""

    kind = ""
    random_sid = ""
    analyze: Sequence[str] = ()
    prefix = ""
    store: Store

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: dict[str, tuple[Any, ...]] = {}

    async def run(self, statement: str) -> list[Any]:
        raise NotImplementedError

    async def scans(self, statement: str, arguments: tuple[Any, ...]) -> list[str]:
        """Which tables ``statement`` looks at from one end to the other."""
        raise NotImplementedError

    async def prepare(self) -> Work:
        build = Builders(await self.store.clock())
        await fill(self.store, build, self.random_sid, self.prefix, self.run)
        await spread(self.prefix, self.run, self.kind)
        for statement in self.analyze:
            await self.run(statement.format(p=self.prefix))
        await asyncio.sleep(0)
        self.sent.clear()
        return Work(self.store, build)

    async def offences(self) -> list[str]:
        """The statements that look at a whole table and have no leave to."""
        await asyncio.sleep(0)  # asyncpg tells of a statement in the loop's next turn
        found = []
        sent, self.sent = self.sent, {}
        for statement, arguments in sent.items():
            if not statement.lstrip().startswith(_PLANNED):
                continue
            tables = await self.scans(statement, arguments)
            if tables and not any(re.search(pattern, statement) for pattern in ALLOWED):
                found.append(f"{', '.join(sorted(set(tables)))}: {statement}")
        return found

    def named(self, name: str) -> str | None:
        """Our table of that name or alias, if it is one of those that grow."""
        table = ALIASES.get(name, name.removeprefix(self.prefix))
        return table if table in TABLES else None


class OnSQLite(Explained):
    kind = "sqlite"
    random_sid = (
        "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-' || hex(randomblob(2)) || '-' || "
        "hex(randomblob(2)) || '-' || hex(randomblob(6)))"
    )
    analyze = ("ANALYZE",)
    prefix = "sessiondb_"

    async def start(self, url: str) -> None:
        self.store = open_store(url)
        store = cast("SQLiteStore", self.store)
        connect = store._connect

        def watched() -> Any:
            connection = connect()
            connection.set_trace_callback(lambda statement: self.sent.setdefault(statement, ()))
            return connection

        store.writer._connect = store._reader._connect = watched  # type: ignore[method-assign]
        await self.store.open()

    async def run(self, statement: str) -> list[Any]:
        store = cast("SQLiteStore", self.store)
        return await store._write(lambda connection: connection.execute(statement).fetchall())

    async def scans(self, statement: str, arguments: tuple[Any, ...]) -> list[str]:
        bound = (None,) * len(re.findall(r"\?", re.sub(r"'[^']*'", "", statement)))
        # A new connection: one that has explained it before would say the same again, whatever the indexes.
        with closing(sqlite3.connect(cast("SQLiteStore", self.store).path)) as connection:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", bound).fetchall()
        found = []
        for *_, detail in plan:
            scan = re.match(r"SCAN (?:TABLE )?(\w+)", detail)
            table = self.named(scan[1]) if scan else None
            if table:
                found.append(table)
        return found

    async def drop_index(self, index: str) -> None:
        await self.run(f"DROP INDEX {self.prefix}{index}")


class OnSQLiteAsItIs(OnSQLite):
    """Nobody has told the planner what is in the tables, which is how most files are."""

    analyze = ()


class OnPostgreSQL(Explained):
    kind = "postgresql"
    random_sid = "gen_random_uuid()"
    analyze = tuple(f"ANALYZE {{p}}{table}" for table in TABLES)

    async def start(self, url: str) -> None:
        self.store = open_store(url)
        store = cast("PostgreSQLStore", self.store)
        self.prefix = store._settings.prefix
        connect = store._connect

        async def watched() -> Any:
            connection = await connect()
            connection.add_query_logger(lambda query: self.sent.setdefault(query.query, tuple(query.args)))
            return connection

        store._connect = watched  # type: ignore[method-assign]
        await self.store.open()

    async def run(self, statement: str) -> list[Any]:
        async with cast("PostgreSQLStore", self.store)._connection() as connection:
            return cast("list[Any]", await connection.fetch(statement))

    async def scans(self, statement: str, arguments: tuple[Any, ...]) -> list[str]:
        async with cast("PostgreSQLStore", self.store)._connection() as connection:
            [(custom,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
            plans = [custom]
            if arguments:
                types = [
                    f"{one.name[:-2]}[]" if one.kind == "array" else one.name
                    for one in (await connection.prepare(statement)).get_parameters()
                ]
                # As the server goes on with a statement that it has planned five times.
                await connection.execute("SET plan_cache_mode = force_generic_plan")
                await connection.execute(f"PREPARE explained ({', '.join(types)}) AS {statement}")
                nothing = ", ".join(["NULL"] * len(types))
                [(generic,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE explained({nothing})")
                await connection.execute("DEALLOCATE explained")
                await connection.execute("RESET plan_cache_mode")
                plans.append(generic)
        return [table for plan in plans for table in self._scanned(json.loads(plan)[0]["Plan"])]

    def _scanned(self, node: dict[str, Any]) -> Iterator[str]:
        kind = node["Node Type"]
        table = self.named(node.get("Relation Name", ""))
        # All of an index, in its order, is all of the table.
        if table is not None and (kind == "Seq Scan" or (kind.startswith("Index") and "Index Cond" not in node)):
            yield table
        for inner in node.get("Plans", ()):
            yield from self._scanned(inner)

    async def drop_index(self, index: str) -> None:
        await self.run(f"DROP INDEX {self.prefix}{index}")


class OnMySQL(Explained):
    kind = "mysql"
    random_sid = "UNHEX(MD5(CONCAT(HEX(sid), RAND())))"
    analyze = (f"ANALYZE TABLE {', '.join(f'{{p}}{table}' for table in TABLES)}",)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        run = Connection.run

        async def watched(connection: Connection, statements: Sequence[str]) -> Any:
            self.sent.update((statement, ()) for statement in statements)
            return await run(connection, statements)

        monkeypatch.setattr(_mysql_connection.Connection, "run", watched)

    async def start(self, url: str) -> None:
        self.store = open_store(url)
        self.prefix = cast("MySQLStore", self.store)._settings.prefix
        await self.store.open()

    async def run(self, statement: str) -> list[Any]:
        async with cast("MySQLStore", self.store)._connection() as connection:
            return list((await connection.run([statement]))[0].rows)

    async def scans(self, statement: str, arguments: tuple[Any, ...]) -> list[str]:
        [(plan,)] = await self.run(f"EXPLAIN FORMAT=JSON {statement}")
        return [
            table
            for one in _tables(json.loads(plan))
            if (table := self.named(one.get("table_name", ""))) and one["access_type"] in ("ALL", "index")
        ]

    async def drop_index(self, index: str) -> None:
        await self.run(f"DROP INDEX {self.prefix}{index} ON {self.prefix}{index.partition('_')[0]}")


def _tables(plan: Any) -> Iterator[dict[str, Any]]:
    if isinstance(plan, dict):
        if "access_type" in plan:
            yield plan
        for inner in plan.values():
            yield from _tables(inner)
    elif isinstance(plan, list):
        for inner in plan:
            yield from _tables(inner)


@asynccontextmanager
async def explained(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Explained]:
    one: Any = _KINDS[kind](monkeypatch)
    await one.start(new_url(one.kind, folder))
    try:
        yield one
    finally:
        await one.store.close()


_KINDS = {
    "sqlite": OnSQLite,
    "sqlite without statistics": OnSQLiteAsItIs,
    "postgresql": OnPostgreSQL,
    "mysql": OnMySQL,
}


@pytest.mark.parametrize("kind", list(_KINDS))
async def test_no_statement_looks_at_all_sessions(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with explained(kind, tmp_path, monkeypatch) as one:
        work = await one.prepare()
        await work.do_all()
        assert len(one.sent) >= 40, "statements are missing"
        assert await one.offences() == []
        await one.store.stats()
        await asyncio.sleep(0)
        sent = dict(one.sent)
        assert await one.offences() == []
        counting = [(said, arguments) for said, arguments in sent.items() if said.startswith("SELECT count")]
        whole = [said for said, arguments in counting if await one.scans(said, arguments)]
        assert whole, "counting all looks at all, and this test would not see it"
        # And without an index it is noticed.
        for index, does in (
            ("sessions_user", work.look_for),
            ("sessions_check", work.sweep),
            ("links_sid", work.sweep),
            ("histories_expires", work.watch),
        ):
            await one.drop_index(index)
            one.sent.clear()
            await does()
            assert await one.offences(), f"{index} is missing, and nothing was noticed"


# -- Redis ----------------------------------------------------------------------------------------------------

WALKS = {"KEYS", "SCAN", "HSCAN", "SSCAN", "ZSCAN", "SORT", "RANDOMKEY", "FLUSHDB", "FLUSHALL", "DBSIZE"}


async def test_no_request_has_redis_look_at_all_keys(tmp_path: Path) -> None:
    store = cast("RedisStore", open_store(new_url("redis", tmp_path)))
    await store.open()
    sent: set[str] = set()
    try_all = store.try_all

    async def watched(commands: Sequence[Any], *arguments: Any, **named: Any) -> list[Any]:
        sent.update(str(command[0]).upper() for _, command in commands)
        return await try_all(commands, *arguments, **named)

    store.try_all = watched  # type: ignore[method-assign]
    work = Work(store, Builders(await store.clock()))
    await work.do_all()
    assert {"EVALSHA", "HGETALL", "ZADD", "ZSCAN"} <= sent
    assert sent & WALKS == {"ZSCAN"}, "of one list, step by step, after a lifetime was lowered"
    sent.clear()
    for does in (work.read_and_write, work.touch, work.log_in, work.look_for, work.end):
        await does()
    assert "HGETALL" in sent
    assert not sent & WALKS
    await store.close()


def test_no_script_of_redis_looks_at_all_keys() -> None:
    for script in _redis_scripts.ALL.values():
        called = set(re.findall(r"redis\.p?call\('(\w+)'", script.text))
        assert called
        assert not called & WALKS


def test_one_place_alone_walks_over_redis_and_one_over_a_list() -> None:
    source = Path(_redis_scripts.__file__).parent
    walking = {
        (path.name, word)
        for path in source.glob("*redis*.py")
        for word in re.findall(r'"([A-Z]+)"', path.read_text())
        if word in WALKS - {"DBSIZE"}
    }
    assert walking == {("_redis_nodes.py", "SCAN"), ("_redis_sweeping.py", "ZSCAN")}
