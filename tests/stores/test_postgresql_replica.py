"""A read replica that follows its primary: it serves listing, events and counts, and never a request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from databases import start, with_database, with_option
from provision.postgresql import PostgreSQL
from provision.process import NotHere
from sessiondb import SessionDB, StoreUnavailable, open_store
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, Counter, EventQuery
from sessiondb.stores.postgresql import LARGE_PAGE
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY
from sessiondb.testing.kit import Kit


class Pair(NamedTuple):
    primary: PostgreSQL
    replica: PostgreSQL

    @property
    def url(self) -> str:
        return with_option(self.primary.url, f"replica={quote(self.replica.url, safe='')}")


@contextmanager
def started() -> Iterator[Pair]:
    primary = start("postgresql")
    assert isinstance(primary, PostgreSQL)
    try:
        replica = PostgreSQL({"fsync": "off", "max_connections": "200"}, replica_of=primary.url)
    except NotHere as error:
        pytest.skip(str(error))
    yield Pair(primary, replica)
    replica.stop()
    primary.stop()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with started() as pair:
        yield pair


async def caught_up(pair: Pair) -> Any:
    """A connection to the replica, which has all that the primary has now."""
    primary, replica = await asyncpg.connect(pair.primary.url), await asyncpg.connect(pair.replica.url)
    place = await primary.fetchval("SELECT pg_current_wal_lsn()")
    async with asyncio.timeout(20):
        while await replica.fetchval("SELECT pg_last_wal_replay_lsn() < $1", place):
            await asyncio.sleep(0.02)
    await primary.close()
    return replica


async def test_only_listing_events_and_counts_ask_a_replica(pair: Pair) -> None:
    """It stands still meanwhile, so that what is written can be seen on the primary alone."""
    async with SessionDB(pair.url, sweep_every=None) as db:
        issued = await db.create("ann", {"a": 1})
        await db.revoke((await db.create("ann")).session.sid)
        await db.close()  # writes the events that wait
        await db.open()
        replica = await caught_up(pair)
        before = await db.stats()
        events = (await db.events()).events
        assert events
        await replica.execute("SELECT pg_wal_replay_pause()")
        async with asyncio.timeout(20):
            while await replica.fetchval("SELECT pg_get_wal_replay_pause_state()") != "paused":
                await asyncio.sleep(0.02)
        try:
            async with db.session(issued.token) as session:
                session["a"] = 2
            async with db.session(issued.token) as session:
                assert session == {"a": 2}, "a request reads what has just been written"
            assert await db.revoke_all("ann") == 1, "whom to end is asked of the primary"
            async with db.session(issued.token) as session:
                assert session.user_id is None
            assert [info.sid for info in await db.sessions_of("ann")] == [issued.session.sid]
            assert await db.stats() == before
            assert (await db.events()).events == events
            assert len((await db.events(user_id="ann")).events) > len(events), "those of one user miss nothing"
        finally:
            await replica.execute("SELECT pg_wal_replay_resume()")
            await replica.close()
        await (await caught_up(pair)).close()
        assert await db.sessions_of("ann") == []
        assert (await db.stats()).live == before.live - 1


async def test_a_replica_that_is_behind_misleads_nobody_about_the_trail(pair: Pair) -> None:
    """Large pages come from it, and the end of a stream, which it may not have, from the primary; so does a profile."""
    kit = Kit(lambda: open_store(with_option(pair.url, "prefix=behind_")), ManualClock())
    store = await kit.store()
    events = [kit.event(user_id="ann", details={"n": n}) for n in range(LARGE_PAGE)]
    await store.append(events)
    name = kit.place(events[0]).stream
    replica = await caught_up(pair)
    await replica.execute("SELECT pg_wal_replay_pause()")
    async with asyncio.timeout(20):
        while await replica.fetchval("SELECT pg_get_wal_replay_pause_state()") != "paused":
            await asyncio.sleep(0.02)
    try:
        assert await store.blank([kit.place(event) for event in events], {"who"}) == LARGE_PAGE
        await store.append([late := kit.event(user_id="bob")])
        await store.record_logins([("ann", b"e" * HISTORY_ENTRY_BYTES)], kit.now + DAY)
        await store.count("b", {b"a": 1}, most=9, expires_at=kit.now + DAY)
        page = await store.trail(name, 0, LARGE_PAGE)
        assert [event.user_id for event in page] == ["ann"] * LARGE_PAGE, "as it was when the replica stopped"
        assert [event.user_id for event in await store.trail(name, 0, 10)] == [None] * 10
        assert await store.trail(name, LARGE_PAGE, LARGE_PAGE) == [late]
        assert await store.trail(name, LARGE_PAGE + 1, LARGE_PAGE) == []
        assert len(await store.trail(name, 0, 2 * LARGE_PAGE)) == LARGE_PAGE + 1
        [stream] = await store.streams()
        assert (stream.first, stream.last) == (1, late)
        assert list((await store.events(EventQuery(user_id="ann"))).events) == []
        assert list((await store.events(EventQuery(user_id="bob"))).events) == [late]
        assert (await store.events(EventQuery(limit=1))).events[0] == events[-1]
        profile = await store.profile("ann", [Counter("b", b"a")])
        assert (profile.history, list(profile.counts)) == (b"e" * HISTORY_ENTRY_BYTES, [1])
    finally:
        await replica.execute("SELECT pg_wal_replay_resume()")
        await replica.close()
    await (await caught_up(pair)).close()
    assert [event.user_id for event in await store.trail(name, 0, LARGE_PAGE)] == [None] * LARGE_PAGE
    await kit.close_all()


async def test_usage_is_read_from_the_replica(pair: Pair) -> None:
    async with SessionDB(with_option(pair.url, "prefix=usage_"), sweep_every=None) as db:
        await db.create("ann")
        async with db.runtime.using_store() as store:
            await db.runtime.usage.publish(store)
        replica = await caught_up(pair)
        await replica.execute("SELECT pg_wal_replay_pause()")
        async with asyncio.timeout(20):
            while await replica.fetchval("SELECT pg_get_wal_replay_pause_state()") != "paused":
                await asyncio.sleep(0.02)
        try:
            await db.create("bob")
            assert (await db.usage()).total.logins == 1, "as it was when the replica stopped"
        finally:
            await replica.execute("SELECT pg_wal_replay_resume()")
            await replica.close()
        await (await caught_up(pair)).close()
        assert (await db.usage()).total.logins == 2


async def test_a_replica_given_as_primary_is_told_with_the_cure(pair: Pair) -> None:
    async with SessionDB(pair.primary.url) as db:
        token = (await db.create("bob")).token
    await (await caught_up(pair)).close()
    async with SessionDB(pair.replica.url, sweep_every=None) as db:
        async with db.session(token) as session:
            assert session.user_id == "bob"
        with pytest.raises(StoreUnavailable, match=r"read-only: a replica.*Name the primary.*\?replica=") as caught:
            await db.create("bob")
        assert caught.value.outcome == "not_applied"
    with pytest.raises(StoreUnavailable, match=r"read-only: a replica.*Name the primary"):
        await SessionDB(with_option(pair.replica.url, "prefix=new_")).open()


async def test_requests_go_on_without_the_replica(pair: Pair) -> None:
    async with SessionDB(pair.url, sweep_every=None) as db:
        pair.replica.process.pause()
        try:
            token = (await db.create("eve")).token
            async with db.session(token) as session:
                assert session.user_id == "eve"
            assert (await db.events(user_id="eve")).events
            with pytest.raises(StoreUnavailable):
                await db.events()
        finally:
            pair.replica.process.resume()


async def test_a_replica_of_another_server_is_told(pair: Pair) -> None:
    other = with_database(pair.primary.url, "template1")
    async with SessionDB(with_option(pair.primary.url, f"replica={quote(other, safe='')}")) as db:
        with pytest.raises(StoreUnavailable, match=r"replica at 127.0.0.1:\d+/template1 does not have the tables"):
            await db.sessions_of("ann")
        assert (await db.create("ann")).token


async def test_a_replica_that_is_promoted_takes_over() -> None:
    """With both servers in the URL, the same store goes on by itself, and has everything."""
    with started() as pair:
        hosts = f"127.0.0.1:{pair.replica.port},127.0.0.1:{pair.primary.port}"
        both = urlsplit(pair.primary.url)
        url = both._replace(netloc=f"{both.netloc.rpartition('@')[0]}@{hosts}").geturl()
        async with SessionDB(with_option(url, "target_session_attrs=primary"), timeout=1, sweep_every=None) as db:
            token = (await db.create("ann", {"n": 1})).token
            replica = await caught_up(pair)
            pair.primary.process.kill()
            with pytest.raises(StoreUnavailable):
                await db.create("ann")
            await replica.fetchval("SELECT pg_promote()")
            await replica.close()
            async with asyncio.timeout(20):
                while True:
                    try:
                        async with db.session(token) as session:
                            session["n"] = 2
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(0.05)
            async with db.session(token) as session:
                assert (session.user_id, session["n"]) == ("ann", 2)
