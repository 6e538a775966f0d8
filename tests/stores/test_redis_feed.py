"""Redis and Valkey tell a near cache what others write: tracking in broadcast mode, on connections of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ears import PATIENCE, Ears, StrictEars, listening
from lines import line_to

from databases import had, new_prefix, url_of, with_option
from provision.valkey import Valkey, ValkeyCluster, ValkeySentinel, ask, cluster_node, wait_until
from sessiondb import ConfigurationError, NearCache, SessionDB, StoreUnavailable
from sessiondb.core.change import Applied
from sessiondb.core.record import EndReason
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[RedisStore, Kit]]:
    store = RedisStore(url)
    await store.open()
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    try:
        yield store, kit
    finally:
        await store.close()


@pytest.fixture
def own() -> Iterator[Valkey]:
    """A server that this test may empty and forbid things on."""
    server = had(Valkey)
    yield server
    server.stop()


async def heard(ears: Ears, sids: Collection[str]) -> None:
    """All of ``sids`` have been told since the last time."""
    await ears.until(lambda: set(ears.told) >= set(sids))
    ears.take()


@pytest.mark.parametrize("kind", ["redis", "redis_cluster"])
async def test_every_change_of_a_session_is_told(kind: str) -> None:
    async with opened(with_option(url_of(kind), f"prefix={new_prefix()}")) as (store, kit):
        ears = Ears()
        async with listening(store.feed(), ears, 1.0):
            records = [kit.record("ann") for _ in range(4)]
            one, two, three, four = records
            await kit.put_in(store, *records)
            await heard(ears, {record.sid for record in records})
            for change in (kit.update(one, {"n": 1}), kit.touch(two), kit.end(three)):
                assert isinstance(await kit.apply(store, change), Applied)
                await heard(ears, {change.sid})
            ended = await store.end_where(kit.query("ann"), EndReason.REVOKED)
            assert {one.sid for one in ended} == {one.sid, two.sid, four.sid}
            await heard(ears, {one.sid, two.sid, four.sid})
            await store.run([(store.keys.session(one.sid), ("UNLINK", store.keys.session(one.sid)))])
            await heard(ears, {one.sid})
            # Reading is no change.
            await ears.proof()
            ears.take()
            await store.load([record.sid for record in records])
            await ears.proof()
            assert ears.take() == []


async def test_other_keys_are_not_told() -> None:
    url, prefix = url_of("redis"), new_prefix()
    async with (
        opened(with_option(url, f"prefix={prefix}")) as (store, _),
        opened(with_option(url, f"prefix={prefix}x")) as (other, kit),
    ):
        ears = Ears()
        async with listening(store.feed(), ears, 1.0):
            await kit.put_in(other, kit.record("ann"))
            await store.remember("walk", "here")
            await ears.proof()
            assert ears.take() == []


async def test_a_server_that_is_emptied_tells_that_everything_has_changed(own: Valkey) -> None:
    async with opened(own.url) as (store, _):
        ears = Ears()
        async with listening(store.feed(), ears, 1.0):
            ask(own.port, "FLUSHALL")
            await heard(ears, {"*"})


async def test_what_was_answered_is_told_before_the_proof() -> None:
    """Whatever the order in which a turn of the server's loop writes replies and pushes."""
    async with opened(with_option(url_of("redis"), f"prefix={new_prefix()}")) as (store, kit):
        ears = StrictEars()
        done = False

        async def write() -> None:
            while not done:
                records = [kit.record("ann") for _ in range(8)]
                await kit.put_in(store, *records)
                for record in records:
                    period = ears.periods
                    assert isinstance(await kit.apply(store, kit.update(record, {"n": 1})), Applied)
                    ears.answered(record.sid, period)

        # Nearly without a pause: the questions fall between the writes.
        listens = asyncio.create_task(ears.keep_listening(store.feed(), 0.5))
        hasty = StrictEars()
        for_both = [listens, asyncio.create_task(hasty.keep_listening(store.feed(), 0.05))]
        await ears.proof()
        writers = [asyncio.create_task(write()) for _ in range(6)]
        await ears.until(lambda: ears.proven > 500)
        done = True
        await asyncio.gather(*writers)
        assert ears.missed == []
        for task in for_both:
            task.cancel()
        await asyncio.wait(for_both)


@pytest.mark.parametrize("how", ["cut", "stalled"])
@pytest.mark.parametrize("kind", ["redis", "redis_cluster"])
async def test_a_feed_that_is_lost_or_silent_says_so(kind: str, how: str, tmp_path: Path) -> None:
    async with line_to(kind, tmp_path) as line, opened(line.url) as (store, _):
        async with listening(store.feed(), Ears(), 0.5) as task:
            if how == "cut":
                line.cut()
            else:
                line.stall()
            await asyncio.wait([task], timeout=PATIENCE)
            assert task.done()
            with pytest.raises(StoreUnavailable, match="was lost" if how == "cut" else "has not answered for 0.5 s"):
                task.result()
        line.mend()
        async with listening(store.feed(), Ears()):
            pass


async def connections(store: RedisStore) -> int:
    replies = await store.run([(store.keys.meta, ("CLIENT", "LIST"))])
    return sum(b" resp=3" in row for row in replies[0].splitlines())


async def test_nothing_is_left_open(own: Valkey) -> None:
    async with opened(own.url) as (store, _):
        for _ in range(3):
            async with listening(store.feed(), Ears()):
                assert await connections(store) == 1
        async with asyncio.timeout(PATIENCE):
            while await connections(store):
                await asyncio.sleep(0.01)


# -- servers that do not tell ------------------------------------------------------------------------------------


async def test_a_user_who_may_not_listen_is_told_what_is_missing(own: Valkey) -> None:
    ask(own.port, "ACL", "SETUSER", "app", "on", ">secret", "~sessiondb:*", "+@all", "-client|tracking")
    url = f"redis://app:secret@127.0.0.1:{own.port}/0"
    async with opened(url) as (store, _):
        with pytest.raises(ConfigurationError, match=r"not tell this client .*NOPERM.*SETUSER \+client") as caught:
            await store.feed().listen(Ears(), 1.0)
        assert "secret" not in str(caught.value)


@asynccontextmanager
async def old_protocol(url: str) -> AsyncIterator[str]:
    """The server of ``url`` behind a proxy that knows no ``HELLO``, as proxies of older days."""
    parts = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_server = await asyncio.open_connection(parts.hostname, parts.port)

        async def back() -> None:
            while data := await behind.read(1 << 16):
                writer.write(data)

        backwards = asyncio.create_task(back())
        try:
            while data := await reader.read(1 << 16):
                if b"HELLO" in data:
                    writer.write(b"-ERR unknown command 'HELLO'\r\n" * data.count(b"*"))
                else:
                    to_server.write(data)
        finally:
            backwards.cancel()
            for one in (writer, to_server):
                one.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield parts._replace(netloc=f"127.0.0.1:{listener.sockets[0].getsockname()[1]}").geturl()


async def test_without_a_feed_records_are_served_by_their_age(caplog: pytest.LogCaptureFixture) -> None:
    async with old_protocol(with_option(url_of("redis"), f"prefix={new_prefix()}")) as url:
        with caplog.at_level(logging.WARNING):
            async with SessionDB(url, near_cache=NearCache(staleness=30), sweep_every=None) as db:
                near = db.runtime.near
                assert near is not None
                async with asyncio.timeout(PATIENCE):
                    while not near._keeps:
                        await asyncio.sleep(0.01)
                issued = await db.create("ann")
                await db.get(issued.session.sid)
                record = near.cached(issued.session.sid)
                assert record is not None
                near.monotonic = lambda: asyncio.get_running_loop().time() + 31
                assert near.cached(issued.session.sid) is None
    told = [row.getMessage() for row in caplog.records if "near cache" in row.getMessage()]
    assert len(told) == 1
    assert "goes by the age" in told[0]
    assert "RESP2" in told[0]


# -- primaries that change ----------------------------------------------------------------------------------------


async def test_a_primary_that_is_none_any_more_is_not_believed(own: Valkey) -> None:
    """It tells what it hears from the new one, late."""
    another = had(Valkey)
    try:
        async with opened(own.url) as (store, _), listening(store.feed(), Ears(), 0.5) as task:
            ask(own.port, "REPLICAOF", "127.0.0.1", str(another.port))
            await asyncio.wait([task], timeout=PATIENCE)
            with pytest.raises(StoreUnavailable, match="role"):
                task.result()
    finally:
        another.stop()


async def test_a_node_that_becomes_a_primary_is_listened_to_next() -> None:
    cluster = await asyncio.to_thread(lambda: had(ValkeyCluster))
    process, port = await asyncio.to_thread(cluster_node)
    cluster.nodes.append((process, port))
    try:
        async with opened(cluster.url) as (store, kit):
            first = cluster.nodes[0][1]
            async with listening(store.feed(), Ears(), 1.0) as task:
                await asyncio.to_thread(_give_slot, first, port, 0)
                await asyncio.wait([task], timeout=PATIENCE)
                assert task.done()
                with pytest.raises(StoreUnavailable, match="primaries of the cluster have changed"):
                    task.result()
            ears = Ears()
            async with listening(store.feed(), ears):
                records = [kit.record("ann") for _ in range(20)]
                await kit.put_in(store, *records)
                await heard(ears, {record.sid for record in records})
    finally:
        await asyncio.to_thread(cluster.stop)


def _give_slot(giver: int, taker: int, slot: int) -> None:
    """The empty slot ``slot`` moves to a node that has had none."""
    ids = {port: ask(port, "CLUSTER", "MYID").split("\r\n")[1] for port in (giver, taker)}
    ask(giver, "CLUSTER", "MEET", "127.0.0.1", str(taker))
    for one, other in ((giver, taker), (taker, giver)):
        wait_until(lambda at=one, to=other: ids[to] in ask(at, "CLUSTER", "NODES"))  # type: ignore[misc]
    assert ask(taker, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[giver]).startswith("+OK")
    assert ask(giver, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[taker]).startswith("+OK")
    for port in (taker, giver):
        assert ask(port, "CLUSTER", "SETSLOT", str(slot), "NODE", ids[taker]).startswith("+OK")


async def test_after_a_failover_by_sentinels_the_new_primary_tells() -> None:
    servers = await asyncio.to_thread(lambda: had(ValkeySentinel))
    try:
        async with opened(servers.url) as (store, kit):
            ears = StrictEars()
            listens = asyncio.create_task(ears.keep_listening(store.feed(), 0.5))
            await ears.proof()
            servers.primary.kill()
            await ears.until(lambda: ears.periods >= 2)
            record = kit.record("ann")
            async with asyncio.timeout(PATIENCE):
                while True:
                    # Not every Sentinel knows of the new one yet.
                    with contextlib.suppress(StoreUnavailable):
                        await kit.put_in(store, record)
                        break
                    await asyncio.sleep(0.05)
            await ears.proof()
            assert record.sid in ears.told
            listens.cancel()
            await asyncio.wait([listens])
    finally:
        await asyncio.to_thread(servers.stop)
