"""MongoDB tells a near cache what others write, by a change stream."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bson import Timestamp
from ears import PATIENCE, Ears, StrictEars, listening
from lines import NetworkLine, line_to

from databases import drop, new_prefix, url_of, with_option
from sessiondb import ConfigurationError, StoreUnavailable, open_store
from sessiondb.core import token
from sessiondb.core.change import Applied
from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.core.record import EndReason
from sessiondb.stores import _mongodb_feed
from sessiondb.stores._mongodb_rows import sid_value
from sessiondb.stores._mongodb_url import Collections, parse
from sessiondb.stores.mongodb import MongoDBStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit

EVERY = 1.0


@pytest.fixture
async def url() -> AsyncIterator[str]:
    prefix = new_prefix()
    yield with_option(url_of("mongodb"), f"prefix={prefix}")
    await drop("mongodb", prefix)
    gc.collect()  # what the driver has dropped is found here, not by another test


@pytest.fixture
async def kit(url: str) -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def there(url: str) -> AsyncIterator[Collections]:
    """The collections, as people see them."""
    collections = parse(url).connect()
    await collections.hello()
    yield collections
    await collections.close()


async def opened(kit: Kit) -> MongoDBStore:
    store = await kit.store()
    assert isinstance(store, MongoDBStore)
    return store


async def told(ears: Ears, there: Collections) -> list[str]:
    """What ``ears`` were told of all that was answered by now: events come in the order of the log."""
    mark = token.mint(0).sid
    await there.sessions.insert_one({"_id": sid_value(mark)})
    await there.sessions.delete_one({"_id": sid_value(mark)})
    await ears.until(lambda: ears.told[-1:] == [mark])
    return ears.take()[:-1]


def open_now() -> tuple[set[asyncio.Task[Any]], int]:
    """The tasks that are not the test's own, and how many connections this process has."""
    connections = psutil.Process().net_connections("tcp")
    established = sum(one.status == psutil.CONN_ESTABLISHED for one in connections)
    return asyncio.all_tasks() - {asyncio.current_task()}, established


async def until_closed(before: tuple[set[asyncio.Task[Any]], int]) -> None:
    """Nothing is open that was not there ``before``."""
    async with asyncio.timeout(PATIENCE):
        while open_now()[0] - before[0] or open_now()[1] > before[1]:
            await asyncio.sleep(0.01)


async def test_what_a_cache_must_know_is_told_whoever_writes_it(kit: Kit, there: Collections) -> None:
    listener, other = await opened(kit), await opened(kit)
    one, two, three, four, five = (kit.record("ann", {"n": 0, "many": [1, 2, 3]}) for _ in range(5))
    ears = Ears()
    async with listening(listener.feed(), ears, EVERY):
        await kit.put_in(other, one, two, three, four, five)
        await kit.apply(other, kit.touch(one, client=b'{"ip":"203.0.113.7"}'))
        await kit.apply(other, kit.touch(one, kit.now + 1, client=b'{"ip":"203.0.113.8"}'))
        await other.lower_checks(Caps(Lifetimes(1, 1), Lifetimes(1, 1)), None, 100)
        await there.sessions.insert_one({"_id": "no session"})
        await there.sessions.delete_one({"_id": "no session"})
        assert await told(ears, there) == [], "new sessions are in no cache, and touches change no answer"

        await other.apply([kit.update(one, {"n": 1}), kit.touch(two), kit.end(three)])
        await kit.apply(other, kit.update(two, rotate=kit.rotation(two)[0]))
        assert sorted(await told(ears, there)) == sorted([one.sid, three.sid, two.sid])
        await other.end_where(kit.query("ann", keep=one.sid), EndReason.REVOKED)
        assert sorted(await told(ears, there)) == sorted([two.sid, four.sid, five.sid])

        who = {"_id": sid_value(one.sid)}
        for what in (
            {"$set": {"data.n": 7}},
            {"$set": {"auth.level": 2}},
            {"$unset": {"user_id": ""}},
            {"$pop": {"data.many": 1}},
            {"$set": {"last_seen_at": 7, "ended_at": 1}},
        ):
            await there.sessions.update_one(who, what)
            assert await told(ears, there) == [one.sid], what
        await there.sessions.update_one(who, {"$set": {"last_seen_at": 8, "client_last.ip": "203.0.113.9"}})
        assert await told(ears, there) == []
        document = await there.sessions.find_one(who)
        assert document is not None
        await there.sessions.replace_one(who, document | {"rev": 99})
        await there.sessions.delete_one(who)
        assert await told(ears, there) == [one.sid] * 2


async def test_a_collection_that_is_dropped_is_everything_and_then_the_end(kit: Kit, there: Collections) -> None:
    """A stream that has ended says nothing, for ever: that is not taken for "nothing has changed"."""
    store = await opened(kit)
    ears, before = Ears(), open_now()
    async with listening(store.feed(), ears, EVERY) as task:
        await there.sessions.drop()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreUnavailable, match=r"has ended the change stream.*dropped"):
                await task
    assert ears.take()[:1] == ["*"]
    await until_closed(before)


async def test_a_stream_that_the_server_ends_is_noticed(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(kit)
    opened_streams: list[_mongodb_feed._Stream] = []
    real = _mongodb_feed._Stream.open

    async def noting(stream: _mongodb_feed._Stream) -> None:
        await real(stream)
        opened_streams.append(stream)

    monkeypatch.setattr(_mongodb_feed._Stream, "open", noting)
    async with listening(store.feed(), Ears(), EVERY) as task:
        [stream] = opened_streams
        assert stream._cursor is not None
        collections = stream._collections
        await collections.database.command("killCursors", collections.sessions.name, cursors=[stream._cursor.cursor_id])
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StoreUnavailable, match="has ended the change stream"):
                await task


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_line_that_breaks_or_stands_still(tmp_path: Path, how: str) -> None:
    async with line_to("mongodb", tmp_path) as line:
        assert isinstance(line, NetworkLine)
        kit = Kit(lambda: open_store(line.url), ManualClock())
        store = await opened(kit)
        ears, before = Ears(), open_now()
        feed = store.feed()
        async with listening(feed, ears, 0.5) as task:
            getattr(line, how)()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(StoreUnavailable):
                    await task
            times = len(ears.alive_since)
            with pytest.raises(StoreUnavailable):
                await feed.listen(ears, 0.5)  # type: ignore[union-attr]
            assert len(ears.alive_since) == times
        line.mend()
        async with listening(feed, ears, EVERY):
            assert len(ears.alive_since) > times
        await kit.close_all()
        await until_closed(before)
    gc.collect()


@pytest.mark.parametrize("pause", [0, 0.005, 0.03, 0.1, 0.3])
async def test_whenever_it_is_cancelled_nothing_is_left(kit: Kit, there: Collections, pause: float) -> None:
    store = await opened(kit)
    feed = store.feed()
    assert feed is not None
    before = open_now()
    task = asyncio.create_task(feed.listen(Ears(), 0.5))
    await asyncio.sleep(pause)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until_closed(before)


async def test_a_sharded_cluster_has_no_feed_and_the_log_says_so_once(
    kit: Kit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sharded cluster can be had here: this server says that it is the router of one."""
    real = Collections.hello

    async def hello(collections: Collections) -> dict[str, Any]:
        said = await real(collections)
        said.pop("setName", None)
        return said | {"msg": "isdbgrid"}

    monkeypatch.setattr(Collections, "hello", hello)
    store = kit.new_handle()
    assert isinstance(store, MongoDBStore)
    early = store.feed()
    assert early is not None, "before it is open, nobody knows"
    with pytest.raises(ConfigurationError, match="is a sharded cluster"):
        await early.listen(Ears(), EVERY)
    await store.open()
    with caplog.at_level(logging.WARNING, "sessiondb"):
        assert store.feed() is None
        assert store.feed() is None
    [line] = caplog.messages
    assert "is a sharded cluster" in line
    await store.close()


class Script:
    """A stream that says what it is told to; ``None`` is an answer without an event."""

    def __init__(self, now: list[float], *events: tuple[float, Any]) -> None:
        self._now = now
        self._events = list(events)

    async def next(self) -> Any:
        if not self._events:
            raise StoreUnavailable("the end")
        self._now[0], event = self._events.pop(0)
        return event

    async def server_time(self) -> Timestamp:
        return Timestamp(100, int(self._now[0]))


async def test_where_writes_never_pause_a_later_event_is_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])

    def event(number: int) -> dict[str, Any]:
        return {
            "operationType": "delete",
            "documentKey": {"_id": sid_value("00000000-0000-0000-0000-000000000001")},
            "clusterTime": Timestamp(100, number),
        }

    ears = Ears()
    stream: Any = Script(
        now,
        (1, None),  # was asked for at 0
        (2, event(1)),
        (8, event(2)),  # half of "every" has passed: the server's time is 8
        (9, event(8)),  # as late as that, which does not do: a transaction's events have one time
        (10, event(9)),
        (11, None),  # was asked for at 10
    )
    with pytest.raises(StoreUnavailable, match="the end"):
        await _mongodb_feed._tell(stream, ears, 10)
    assert ears.alive_since == [0, 8, 10]
    assert len(ears.told) == 4


async def test_in_a_storm_nothing_answered_is_missing_when_it_is_alive(tmp_path: Path) -> None:
    """Writers past the line on which the feed is cut again and again."""
    async with line_to("mongodb", tmp_path) as line:
        assert isinstance(line, NetworkLine)
        direct = with_option(url_of("mongodb"), f"{line.url.partition('?')[2]}")
        kit = Kit(lambda: open_store(direct), ManualClock())
        listener = open_store(line.url)
        assert isinstance(listener, MongoDBStore)
        writing = [await opened(kit) for _ in range(2)]
        feed = listener.feed()
        assert feed is not None
        ears = StrictEars()
        listens = asyncio.create_task(ears.keep_listening(feed, 0.5))
        await ears.proof()
        done = False

        async def write(store: MongoDBStore) -> None:
            while not done:
                records = [kit.record("ann") for _ in range(8)]
                await kit.put_in(store, *records)
                for record in records:
                    period = ears.periods
                    change = kit.end(record) if ord(record.sid[-1]) % 2 else kit.update(record, {"n": 1})
                    assert isinstance(await kit.apply(store, change), Applied)
                    ears.answered(record.sid, period)

        writers = [asyncio.create_task(write(writing[n % 2])) for n in range(4)]
        for _ in range(2):
            proven, periods = ears.proven, ears.periods
            await ears.until(lambda: ears.proven > proven + 40)  # noqa: B023  it is awaited here
            line.cut()
            await asyncio.sleep(0.05)
            line.mend()
            await ears.until(lambda: ears.periods > periods)  # noqa: B023
        proven = ears.proven
        await ears.until(lambda: ears.proven > proven + 40)
        done = True
        await asyncio.gather(*writers)
        await ears.proof()
        assert ears.missed == []
        assert ears.periods >= 3
        listens.cancel()
        await asyncio.wait([listens])
        await kit.close_all()
    gc.collect()
