"""Many touches in one call, on the real servers: what goes over the wire, what is written, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from test_round_trips import behind_wire
from wire import Meter

from databases import NETWORK, new_url, url_of
from sessiondb import open_store
from sessiondb.core.change import Applied, Gone, Update
from sessiondb.core.errors import StoreUnavailable
from sessiondb.core.record import EndReason, Record
from sessiondb.stores.base import Store
from sessiondb.stores.mysql import MySQLStore
from sessiondb.stores.postgresql import PostgreSQLStore
from sessiondb.stores.redis import RedisStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import HOUR, MINUTE, Builders


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Store, Builders]]:
    store = open_store(url)
    await store.open()
    try:
        yield store, Builders(await store.clock())
    finally:
        await store.close()


async def filled(store: Store, build: Builders, count: int) -> list[Record]:
    records = [build.record(f"user{number}", {"n": number}, age=HOUR) for number in range(count)]
    for start in range(0, count, 32):
        await store.apply([build.create(record) for record in records[start : start + 32]])
    return records


@pytest.mark.parametrize("kind", NETWORK)
async def test_a_call_of_touches_is_one_burst_and_one_that_finds_somebody_gone_few_more(kind: str) -> None:
    meter = Meter()
    async with behind_wire(kind, meter) as url, opened(url) as (store, build):
        records = await filled(store, build, 64)
        for _ in range(2):  # the first prepares the statement, or loads the script
            await store.apply([build.touch(record) for record in records])
        meter.reset()
        results = await store.apply([build.touch(record, build.now + 1) for record in records])
        assert {type(one) for one in results} == {Applied}
        assert meter.bursts == 1
        await store.apply([build.end(records[5])])
        await store.apply([build.touch(record, build.now + 2) for record in records])
        meter.reset()
        results = await store.apply([build.touch(record, build.now + 3) for record in records])
        assert results[5] == Gone("logout")
        assert {type(one) for one in results} == {Applied, Gone}
        assert meter.flights <= {"postgresql": 1, "mysql": 3, "redis": 1, "mongodb": 2}[kind]


async def test_sqlite_writes_a_call_of_touches_with_one_statement(tmp_path: Path) -> None:
    async with opened(new_url("sqlite", tmp_path)) as (store, build):
        store = cast("SQLiteStore", store)
        records = await filled(store, build, store.batching.most_touches)
        said: list[str] = []
        await store._write(lambda connection: connection.set_trace_callback(said.append))
        await store.apply([build.touch(record) for record in records])
        await store._write(lambda connection: connection.set_trace_callback(None))
        assert [word for one in said if (word := one.split()[0]) in ("SELECT", "UPDATE", "INSERT", "DELETE")] == [
            "UPDATE"
        ]


_COUNTING = {
    "sqlite": (
        "CREATE TABLE {p}written (sid)",
        "CREATE TRIGGER {p}count AFTER UPDATE ON {p}sessions BEGIN INSERT INTO {p}written VALUES (new.sid); END",
    ),
    "postgresql": (
        "CREATE TABLE {p}written (sid uuid)",
        "CREATE FUNCTION {p}count() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO {p}written VALUES (new.sid); RETURN NULL; END'",
        "CREATE TRIGGER {p}count AFTER UPDATE ON {p}sessions FOR EACH ROW EXECUTE FUNCTION {p}count()",
    ),
    "mysql": (
        "CREATE TABLE {p}written (sid BINARY(16))",
        "CREATE TRIGGER {p}count AFTER UPDATE ON {p}sessions FOR EACH ROW INSERT INTO {p}written VALUES (NEW.sid)",
    ),
}
_FORGETTING = {
    "sqlite": (),
    "postgresql": ("DROP TABLE {p}written", "DROP FUNCTION {p}count() CASCADE"),
    "mysql": ("DROP TABLE {p}written", "DROP TRIGGER {p}count"),
}


async def run_sql(store: Store, statement: str) -> list[tuple[Any, ...]]:
    """The rows that ``statement`` finds, over the store's own connections."""
    if isinstance(store, SQLiteStore):
        found: list[tuple[Any, ...]] = await store._write(lambda connection: connection.execute(statement).fetchall())
        return found
    if isinstance(store, PostgreSQLStore):
        async with store._connection() as connection:
            return [tuple(row) for row in await connection.fetch(statement)]
    async with cast("MySQLStore", store)._connection() as connection:
        return list((await connection.run([statement]))[0].rows)


@pytest.mark.security("D4")
@pytest.mark.parametrize("kind", list(_COUNTING))
async def test_each_row_is_written_once_and_nothing_else_of_the_table(kind: str, tmp_path: Path) -> None:
    async with opened(new_url(kind, tmp_path)) as (store, build):
        prefix = cast("Any", store).prefix if kind == "sqlite" else cast("Any", store)._settings.prefix
        records = await filled(store, build, 40)
        for statement in _COUNTING[kind]:
            await run_sql(store, statement.format(p=prefix))
        try:
            await store.apply([build.touch(record) for record in records[:30]])
            [row] = await run_sql(store, f"SELECT count(*), count(DISTINCT sid) FROM {prefix}written")
            assert row == (30, 30)
        finally:
            for statement in _FORGETTING[kind]:
                await run_sql(store, statement.format(p=prefix))


@asynccontextmanager
async def holding(store: Store, held: list[Record]) -> AsyncIterator[None]:
    """The rows of ``held``, in a transaction of somebody else's."""
    if isinstance(store, PostgreSQLStore):
        import asyncpg

        connection = await asyncpg.connect(url_of("postgresql"))
        async with connection.transaction():
            await connection.execute(
                f"SELECT FROM {store._sql.sessions} WHERE sid = ANY($1::uuid[]) FOR UPDATE", [one.sid for one in held]
            )
            yield
        await connection.close()
        return
    mysql = cast("MySQLStore", store)
    other = await mysql._connect()
    where = mysql._sql.by_sid(one.sid for one in held)
    await other.run(["START TRANSACTION", f"SELECT sid FROM {mysql._sql.sessions} WHERE {where} FOR UPDATE"])
    yield
    await other.run(["ROLLBACK"])
    await other.close()


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_a_row_that_somebody_holds_fails_alone_and_its_neighbours_do_not_wait(kind: str, tmp_path: Path) -> None:
    async with opened(new_url(kind, tmp_path)) as (store, build):
        records = await filled(store, build, 60)
        held, gone = records[::20], records[7]
        await store.apply([build.end(gone)])
        async with holding(store, held):
            touching = asyncio.ensure_future(store.apply([build.touch(record) for record in records]))
            free = next(record for record in records if record not in held and record is not gone)
            async with asyncio.timeout(30):
                while (await store.load([free.sid]))[0].last_seen_at != build.now:  # type: ignore[union-attr]
                    await asyncio.sleep(0.001)
            # It is touched and committed, whoever is still waited for: a write of it is not held up.
            [result] = await store.apply([build.update(free, {"n": -1})])
            assert isinstance(result, Applied)
            results = await touching
        for record, result in zip(records, results, strict=True):
            if record in held:
                assert isinstance(result, StoreUnavailable)
                assert result.outcome == "not_applied"
            else:
                assert result == (Gone("logout") if record is gone else Applied(0))
        again = await store.apply([build.touch(record) for record in records])
        assert again == [Gone("logout") if record is gone else Applied(0) for record in records]


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_a_row_that_is_held_for_a_moment_is_touched_all_the_same(kind: str, tmp_path: Path) -> None:
    async with opened(new_url(kind, tmp_path)) as (store, build):
        records = await filled(store, build, 30)
        async with holding(store, records[:5]):
            touching = asyncio.ensure_future(store.apply([build.touch(record) for record in records]))
            async with asyncio.timeout(30):
                while (await store.load([records[9].sid]))[0].last_seen_at != build.now:  # type: ignore[union-attr]
                    await asyncio.sleep(0.001)
        assert await touching == [Applied(0)] * 30


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_touches_beside_revokes_and_other_touches_never_deadlock(kind: str, tmp_path: Path) -> None:
    async with opened(new_url(kind, tmp_path)) as (store, build):
        records = [build.record("ann", age=HOUR) for _ in range(64)]
        for start in (0, 32):
            await store.apply([build.create(record) for record in records[start : start + 32]])

        async def touch(number: int) -> None:
            for turn in range(4):
                part = records[number::2] if turn % 2 else records[::-1]
                changes = [build.touch(record, build.now - (4 - turn) * MINUTE) for record in part]
                for result in await store.apply(changes):
                    assert isinstance(result, (Applied, Gone))

        async def revoke() -> int:
            await asyncio.sleep(0.02)
            return len(await store.end_where(build.query("ann"), EndReason.REVOKED))

        *_, ended = await asyncio.gather(*(touch(number % 2) for number in range(6)), revoke())
        assert ended == 64
        results = await store.apply([build.touch(record) for record in records])
        assert results == [Gone("revoked")] * 64


async def test_a_key_that_is_no_session_fails_alone() -> None:
    async with opened(new_url("redis", Path())) as (store, build):
        store = cast("RedisStore", store)
        records = await filled(store, build, 200)
        key = store.keys.session(records[100].sid)
        await store.run([(key, ("DEL", key)), (key, ("SET", key, "somebody's"))])
        results = await store.apply([build.touch(record) for record in records])
        assert isinstance(results[100], Exception)
        assert {type(one) for at, one in enumerate(results) if at != 100} == {Applied}
        await store.run([(key, ("DEL", key))])


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql", "redis", "mongodb"])
async def test_a_client_that_cannot_be_stored_fails_alone(kind: str, tmp_path: Path) -> None:
    async with opened(new_url(kind, tmp_path)) as (store, build):
        records = await filled(store, build, 12)
        changes: list[Update] = [build.touch(record) for record in records]
        changes[4] = build.touch(records[4], client=b'{"ip": ')
        results = await store.apply(changes)
        assert {type(one) for at, one in enumerate(results) if at != 4} == {Applied}
        if kind in ("postgresql", "mongodb"):  # which read it
            assert isinstance(results[4], Exception)
