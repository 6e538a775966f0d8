"""PostgreSQL tells a near cache what others write: triggers that notify, a connection that listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from ears import PATIENCE, Ears, StrictEars, listening
from lines import NetworkLine, line_to

from databases import drop, had, new_prefix, url_of, with_database, with_login, with_option
from provision.pgbouncer import PgBouncer
from sessiondb import ConfigurationError, StoreUnavailable, open_store
from sessiondb.core.change import Applied
from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.core.record import EndReason
from sessiondb.ops.schema import ddl
from sessiondb.stores._postgresql_schema import LOCK
from sessiondb.stores._postgresql_triggers import channel_of, triggers_sql
from sessiondb.stores.postgresql import PostgreSQLStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit

TABLES = ("sessions", "links", "users", "events", "meta")


@pytest.fixture
async def prefix() -> AsyncIterator[str]:
    prefix = new_prefix()
    yield prefix
    await drop("postgresql", prefix)


@pytest.fixture
def url(prefix: str) -> str:
    return with_option(url_of("postgresql"), f"prefix={prefix}")


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


async def opened(kit: Kit) -> PostgreSQLStore:
    store = await kit.store()
    assert isinstance(store, PostgreSQLStore)
    return store


async def told(ears: Ears, sql: Any, prefix: str) -> list[str]:
    """What ``ears`` were told of all that was committed by now: notifications come in the order of the commits."""
    mark = f"mark-{len(ears.told)}"
    await sql.execute(f"NOTIFY {channel_of(prefix)}, '{mark}'")
    await ears.until(lambda: ears.told[-1:] == [mark])
    return ears.take()[:-1]


async def listeners(sql: Any, prefix: str) -> list[int]:
    """The server's processes that listen for us."""
    found = await sql.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'sessiondb feed' AND position($1 IN query) > 0",
        prefix,
    )
    return [row[0] for row in found]


async def until_nobody_listens(sql: Any, prefix: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await listeners(sql, prefix):
            await asyncio.sleep(0.01)


async def triggers(sql: Any, prefix: str) -> dict[str, int]:
    """By name, what versions of triggers the table has."""
    found = await sql.fetch(
        "SELECT tgname, xmin::text::bigint FROM pg_trigger WHERE tgrelid = to_regclass($1) AND NOT tgisinternal",
        f"{prefix}sessions",
    )
    return dict(found)


def others() -> set[asyncio.Task[Any]]:
    """The tasks that are not the test's own."""
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}


# -- what is told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["", "&partitions=monthly"])
async def test_what_a_cache_must_know_is_told_whoever_writes_it(url: str, prefix: str, sql: Any, option: str) -> None:
    kit = Kit(lambda: open_store(url + option), ManualClock())
    listener, other = await opened(kit), await opened(kit)
    one, two, three, four, five = (kit.record("ann", {"n": 0}) for _ in range(5))
    ears = Ears()
    async with listening(listener.feed(), ears):
        await kit.put_in(other, one, two, three, four, five)
        await kit.apply(other, kit.touch(one, client=b'{"ip":"203.0.113.7"}'))
        await other.lower_checks(Caps(Lifetimes(1, 1), Lifetimes(1, 1)), None, 100)
        assert await told(ears, sql, prefix) == [], "new sessions are in no cache, and touches change no answer"

        await other.apply([kit.update(one, {"n": 1}), kit.touch(two), kit.end(three)])
        assert sorted(await told(ears, sql, prefix)) == sorted([one.sid, three.sid])
        await kit.apply(other, kit.update(two, rotate=kit.rotation(two)[0]))
        assert await told(ears, sql, prefix) == [two.sid]
        await other.end_where(kit.query("ann", keep=one.sid), EndReason.REVOKED)
        assert sorted(await told(ears, sql, prefix)) == sorted([two.sid, four.sid, five.sid])

        table = f"{prefix}sessions"
        for what in ("data = '{\"n\": 7}'", "auth = '{\"level\": 2}'", "user_id = 'bob'", "ended_at = 1"):
            await sql.execute(f"UPDATE {table} SET {what} WHERE sid = $1", one.sid)
            assert await told(ears, sql, prefix) == [one.sid], what
        await sql.execute(f"UPDATE {table} SET last_seen_at = last_seen_at + 1, client_last = '{{}}'")
        assert await told(ears, sql, prefix) == []
        await sql.execute(f"DELETE FROM {table} WHERE sid = $1", one.sid)
        assert await told(ears, sql, prefix) == [one.sid]
        with pytest.raises(asyncpg.RaiseError):
            await sql.execute(
                f"DO $$ BEGIN DELETE FROM {table} WHERE sid = '{two.sid}'; RAISE EXCEPTION 'no'; END $$",
            )
        assert await told(ears, sql, prefix) == [], "it was taken back"
        await sql.execute(f"TRUNCATE {table}")
        assert await told(ears, sql, prefix) == ["*"]
    await kit.close_all()


async def test_many_are_named_and_very_many_are_everything(kit: Kit, prefix: str, sql: Any) -> None:
    store = await opened(kit)
    table, template = f"{prefix}sessions", kit.record("ann")
    await kit.put_in(store, template)
    await sql.execute(
        f"CREATE TEMP TABLE many AS SELECT * FROM {table}; "
        f"INSERT INTO {table} SELECT (jsonb_populate_record(many, jsonb_build_object('sid', gen_random_uuid()))).* "
        "FROM many, generate_series(1, 1100)"
    )
    sids = [row[0] for row in await sql.fetch(f"SELECT sid::text FROM {table}")]
    ears = Ears()
    async with listening(store.feed(), ears):
        for count in (1, 200, 201, 1000):
            await sql.execute(f"UPDATE {table} SET rev = rev + 1 WHERE sid = ANY($1)", sids[:count])
            assert sorted(await told(ears, sql, prefix)) == sorted(sids[:count])
        await sql.execute(f"UPDATE {table} SET rev = rev + 1 WHERE sid = ANY($1)", sids[:1001])
        assert await told(ears, sql, prefix) == ["*"]
        await sql.execute(f"UPDATE {table} SET last_seen_at = 1")
        assert await told(ears, sql, prefix) == []


async def test_people_can_empty_all_caches(kit: Kit, prefix: str, sql: Any) -> None:
    store = await opened(kit)
    ears = Ears()
    async with listening(store.feed(), ears):
        await sql.execute(f"NOTIFY {channel_of(prefix)}")
        assert await told(ears, sql, prefix) == ["*"]


async def test_many_workers_listen_and_hear_their_own_table_alone(kit: Kit, sql: Any, prefix: str) -> None:
    stores = [await opened(kit) for _ in range(4)]
    other_prefix = new_prefix()
    other = Kit(lambda: open_store(with_option(url_of("postgresql"), f"prefix={other_prefix}")), ManualClock())
    elsewhere = await opened(other)
    everybody = [Ears() for _ in range(5)]
    listened = [
        asyncio.create_task(store.feed().listen(ears, 5.0))  # type: ignore[union-attr]
        for store, ears in zip([*stores, elsewhere], everybody, strict=True)
    ]
    await asyncio.gather(*(ears.until(lambda ears=ears: ears.alive_since) for ears in everybody))  # type: ignore[misc]
    assert len(await triggers(sql, prefix)) == 3
    record = kit.record("ann")
    await kit.put_in(stores[0], record)
    await kit.apply(stores[0], kit.end(record))
    await sql.execute(f"NOTIFY {channel_of(other_prefix)}, 'the-end'")
    await sql.execute(f"NOTIFY {channel_of(prefix)}, 'the-end'")
    await asyncio.gather(*(ears.until(lambda ears=ears: "the-end" in ears.told) for ears in everybody))  # type: ignore[misc]
    assert [ears.take() for ears in everybody] == [*[[record.sid, "the-end"]] * 4, ["the-end"]]
    for task in listened:
        task.cancel()
    await asyncio.wait(listened)
    await other.close_all()
    await drop("postgresql", other_prefix)


# -- triggers -----------------------------------------------------------------------------------------------


async def test_the_triggers_come_with_the_first_listener_and_stay_as_they_are(kit: Kit, sql: Any, prefix: str) -> None:
    feed = (await opened(kit)).feed()
    assert feed is not None
    assert await triggers(sql, prefix) == {}
    async with listening(feed, Ears()):
        made = await triggers(sql, prefix)
    assert len(made) == 3
    async with listening(feed, Ears()), listening(feed, Ears()):
        assert await triggers(sql, prefix) == made
    # Those of a newer version are its own business; an older one's are replaced.
    for version, stays in ((99, True), (0, False)):
        await sql.execute(triggers_sql(prefix).replace("-- version 1", f"-- version {version}"))
        made = await triggers(sql, prefix)
        async with listening(feed, Ears()):
            assert (await triggers(sql, prefix) == made) == stays


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TRIGGER {p}sessions_update_told ON {p}sessions",
        "ALTER TABLE {p}sessions DISABLE TRIGGER {p}sessions_delete_told",
        "ALTER TABLE {p}sessions DISABLE TRIGGER USER; ALTER TABLE {p}sessions ENABLE TRIGGER USER",
        "DROP TABLE {p}sessions",
    ],
    ids=["dropped", "disabled", "disabled for a moment", "no table"],
)
async def test_nothing_is_alive_without_its_triggers(kit: Kit, sql: Any, prefix: str, harm: str) -> None:
    store = await opened(kit)
    ears = Ears()
    async with listening(store.feed(), ears, 0.5) as task:
        await sql.execute(harm.format(p=prefix))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreUnavailable, match=f"triggers of {prefix}sessions .*dropped, disabled"):
                await task
    await until_nobody_listens(sql, prefix)
    if "DROP TABLE" not in harm:
        async with listening(store.feed(), ears):
            assert len(await triggers(sql, prefix)) == 3


async def test_who_may_make_no_triggers_is_told_what_to_run(kit: Kit, sql: Any, url: str, prefix: str) -> None:
    owner = await opened(kit)
    role = f"{prefix}app"
    await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    try:
        for name in TABLES:
            await sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {prefix}{name} TO {role}")
        store = open_store(with_login(url, role, "x"))
        assert isinstance(store, PostgreSQLStore)
        await store.open()
        feed = store.feed()
        assert feed is not None
        with pytest.raises(ConfigurationError, match="owner of the tables run this once") as refused:
            await feed.listen(Ears(), 1.0)
        await until_nobody_listens(sql, prefix)
        given = str(refused.value).partition(":\n")[2]
        # 'sessiondb init --sql' ends with the same, commented out.
        last = ddl(url).partition("-- For apps with a near cache")[2].partition("\n")[2]
        assert last.replace("-- ", "", 1).replace("\n-- ", "\n") == given == triggers_sql(prefix)
        await sql.execute(given)
        ears, record = Ears(), kit.record("ann")
        async with listening(feed, ears):
            await kit.put_in(store, record)
            await kit.apply(owner, kit.end(record))
            assert await told(ears, sql, prefix) == [record.sid]
        await store.close()
    finally:
        await sql.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_a_table_that_somebody_holds_is_not_waited_for(kit: Kit, sql: Any, prefix: str) -> None:
    store = await opened(kit)
    feed = store.feed()
    assert feed is not None
    record = kit.record("ann")
    await kit.put_in(store, record)
    async with sql.transaction():
        await sql.execute(f"DELETE FROM {prefix}sessions WHERE false")  # an import, say
        with pytest.raises(StoreUnavailable, match=f"wait for a transaction that holds {prefix}sessions"):
            await feed.listen(Ears(), 1.0)
        assert isinstance(await kit.apply(store, kit.update(record, {"n": 1})), Applied), "requests go on"
    async with listening(feed, Ears()):
        assert len(await triggers(sql, prefix)) == 3


async def test_workers_that_make_the_triggers_at_once_wait_for_each_other(kit: Kit, sql: Any, prefix: str) -> None:
    store = await opened(kit)
    feed = store.feed()
    assert feed is not None
    await sql.execute(f"SELECT pg_advisory_lock({LOCK})")
    ears = Ears()
    task = asyncio.create_task(feed.listen(ears, 5.0))
    await asyncio.sleep(0.4)  # longer than a row, or a table, is waited for
    assert not task.done()
    await sql.execute(f"SELECT pg_advisory_unlock({LOCK})")
    await ears.until(lambda: bool(ears.alive_since))
    assert len(await triggers(sql, prefix)) == 3
    task.cancel()
    await asyncio.wait([task])


# -- the connection -----------------------------------------------------------------------------------------


async def test_a_killed_connection_is_noticed_at_once(kit: Kit, sql: Any, prefix: str) -> None:
    store = await opened(kit)
    before = others()
    ears = Ears()
    async with listening(store.feed(), ears, 60.0) as task:
        [pid] = await listeners(sql, prefix)
        await sql.execute("SELECT pg_terminate_backend($1)", pid)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreUnavailable, match="was lost"):
                await task
    assert others() == before
    assert await listeners(sql, prefix) == []


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_line_that_breaks_or_stands_still(tmp_path: Path, sql: Any, how: str) -> None:
    async with line_to("postgresql", tmp_path) as line:
        assert isinstance(line, NetworkLine)
        kit = Kit(lambda: open_store(line.url), ManualClock())
        store = await opened(kit)
        ears = Ears()
        before = others()
        feed = store.feed()
        async with listening(feed, ears, 0.5) as task:
            getattr(line, how)()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(StoreUnavailable, match="was lost" if how == "cut" else "has not answered .*0.5 s"):
                    await task
            times = len(ears.alive_since)
            with pytest.raises(StoreUnavailable):
                await feed.listen(ears, 0.5)  # type: ignore[union-attr]
            assert len(ears.alive_since) == times
        assert others() <= before
        line.mend()
        async with listening(feed, ears):
            assert len(ears.alive_since) > times
        await kit.close_all()


@pytest.mark.parametrize("turns", range(1, 40, 3))
async def test_whenever_it_is_cancelled_nothing_is_left(kit: Kit, sql: Any, prefix: str, turns: int) -> None:
    feed = (await opened(kit)).feed()
    assert feed is not None
    before = others()
    task = asyncio.create_task(feed.listen(Ears(), 0.01))
    for _ in range(turns):
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(PATIENCE):
        while others() != before:
            await asyncio.sleep(0.001)  # what was connecting is dropped when it has connected
    await until_nobody_listens(sql, prefix)


async def test_who_is_not_open_here_cannot_listen(url: str, kit: Kit) -> None:
    await opened(kit)
    store = open_store(url)
    assert isinstance(store, PostgreSQLStore)
    feed = store.feed()
    assert feed is not None
    with pytest.raises(StoreUnavailable, match="not open in this event loop"):
        await feed.listen(Ears(), 1.0)


# -- poolers ------------------------------------------------------------------------------------------------


@pytest.fixture
async def pooled(prefix: str) -> str:
    return with_option(url_of("pgbouncer"), f"pooler=transaction&prefix={prefix}")


async def test_behind_a_pooler_there_is_no_feed_and_the_log_says_so_once(
    pooled: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(pooled)
    assert isinstance(store, PostgreSQLStore)
    with caplog.at_level(logging.WARNING, "sessiondb"):
        assert store.feed() is None
        assert store.feed() is None
    [line] = caplog.messages
    assert "behind a pooler in transaction mode" in line
    assert "in ?feed= of the URL" in line


async def test_past_the_pooler_what_is_written_through_it_is_heard(pooled: str, sql: Any, prefix: str) -> None:
    direct = quote(url_of("postgresql"), safe="")
    kit = Kit(lambda: open_store(f"{pooled}&feed={direct}"), ManualClock())
    store = await opened(kit)
    record, ears = kit.record("ann"), Ears()
    async with listening(store.feed(), ears):
        await kit.put_in(store, record)
        await kit.apply(store, kit.update(record, {"n": 1}))
        assert await told(ears, sql, prefix) == [record.sid]
    await kit.close_all()


async def test_a_pooler_that_the_url_does_not_admit_is_found_out(url: str) -> None:
    """It has answers to everything, so nobody would notice that notifications go astray."""
    settings = {"ignore_startup_parameters": "lock_timeout,default_transaction_isolation,jit"}
    pooler = had(lambda: PgBouncer(url_of("postgresql"), settings=settings))
    try:
        kit = Kit(lambda: open_store(f"{url}&feed={quote(pooler.url, safe='')}"), ManualClock())
        feed = (await opened(kit)).feed()
        assert feed is not None
        with pytest.raises(ConfigurationError, match=r"There is a pooler before PostgreSQL.*in \?feed="):
            await feed.listen(Ears(), 1.0)
        await kit.close_all()
    finally:
        pooler.stop()


async def test_another_database_is_found_out(url: str, sql: Any) -> None:
    name = new_prefix()
    await sql.execute(f"CREATE DATABASE {name}")
    prefix = url.rpartition("prefix=")[2]
    elsewhere = with_database(url_of("postgresql"), name)
    there = Kit(lambda: open_store(with_option(elsewhere, f"prefix={prefix}")), ManualClock())
    await there.store()
    await there.close_all()
    kit = Kit(lambda: open_store(f"{url}&feed={quote(elsewhere, safe='')}&connect_timeout=0.5"), ManualClock())
    feed = (await opened(kit)).feed()
    assert feed is not None
    with pytest.raises(ConfigurationError, match=f"is not heard on .*{name}.*the same database"):
        await feed.listen(Ears(), 1.0)
    await kit.close_all()
    await sql.execute(f"DROP DATABASE {name} WITH (FORCE)")


# -- a storm ------------------------------------------------------------------------------------------------


async def test_in_a_storm_nothing_answered_is_missing_when_it_is_alive(kit: Kit, sql: Any, prefix: str) -> None:
    """Twelve writers on three workers' connections, while the feed's connection is killed again and again."""
    listener, *writing = [await opened(kit) for _ in range(4)]
    feed = listener.feed()
    assert feed is not None
    ears = StrictEars()
    listens = asyncio.create_task(ears.keep_listening(feed, 0.2))
    await ears.proof()
    done = False

    async def write(store: PostgreSQLStore) -> None:
        while not done:
            records = [kit.record("ann") for _ in range(8)]
            await kit.put_in(store, *records)
            for record in records:
                period = ears.periods
                change = kit.end(record) if ord(record.sid[-1]) % 2 else kit.update(record, {"n": 1})
                assert isinstance(await kit.apply(store, change), Applied)
                ears.answered(record.sid, period)

    writers = [asyncio.create_task(write(writing[n % 3])) for n in range(12)]
    for _ in range(3):
        proven = ears.proven
        await ears.until(lambda: ears.proven > proven + 150)  # noqa: B023  it is awaited here
        for pid in await listeners(sql, prefix):
            await sql.execute("SELECT pg_terminate_backend($1)", pid)
        periods = ears.periods
        await ears.until(lambda: ears.periods > periods)  # noqa: B023
    proven = ears.proven
    await ears.until(lambda: ears.proven > proven + 150)
    done = True
    await asyncio.gather(*writers)
    await ears.proof()
    assert ears.missed == []
    assert ears.periods >= 4
    listens.cancel()
    await asyncio.wait([listens])
    await until_nobody_listens(sql, prefix)


async def test_who_checks_is_strict() -> None:
    ears = StrictEars()
    ears.alive(0)
    told, untold, late = (Kit(lambda: open_store("memory://"), ManualClock()).record().sid for _ in range(3))
    for sid in (told, untold):
        ears.answered(sid, ears.periods)
    ears.changed([told])
    now = asyncio.get_running_loop().time() + 1
    ears.alive(now)
    assert (ears.missed, ears.proven) == ([untold], 1)
    ears.lost()
    ears.answered(late, 1)
    ears.alive(now)
    assert ears.missed == [untold], "what was sent before it was lost is not promised"
