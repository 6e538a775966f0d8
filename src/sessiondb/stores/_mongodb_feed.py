"""What others write, told by MongoDB: a change stream on the sessions, read by a client of its own.

Why an empty answer proves that nothing is missing: the server answers a ``getMore`` with what a majority of the members
holds when it is asked, in the order of the log, and a write is answered when a majority holds it (``w=majority``). So
if there is nothing more, all that had been answered before the question has been told. Where writes never pause, no
answer is empty; then a later event than the server's time of the question proves the same. Nothing is written to ask.

A stream that was lost is not resumed: who listens has dropped everything, and a new one begins sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from pymongo.errors import PyMongoError

from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.stores import _mongodb_rows as rows
from sessiondb.stores._mongodb_errors import translated
from sessiondb.stores._mongodb_schema import is_sharded
from sessiondb.stores._mongodb_url import Collections, Settings
from sessiondb.stores.feed import Listener

# What a touch and the sweeper's plans write: no answer changes by it.
_UNTOLD = frozenset({"last_seen_at", "client_last", "check_at"})
_OF_ONE = frozenset({"update", "replace", "delete"})
_CHANGES = "updateDescription"
# New sessions are in no cache. Of a change come the names of its fields, and no data.
PIPELINE: list[dict[str, Any]] = [
    {"$changeStream": {}},
    {"$match": {"operationType": {"$ne": "insert"}}},
    {
        "$project": {
            "operationType": 1,
            "documentKey._id": 1,
            "clusterTime": 1,
            "set": {"$map": {"input": {"$objectToArray": f"${_CHANGES}.updatedFields"}, "in": "$$this.k"}},
            "removed": f"${_CHANGES}.removedFields",
            "cut": f"${_CHANGES}.truncatedArrays.field",
        }
    },
]
_AT_ONCE = 1000

Answer = TypeVar("Answer")
_leaving: set[asyncio.Future[None]] = set()


def no_feed(where: str) -> str:
    """Why a sharded cluster has none, for people."""
    return (
        f"MongoDB at {where} is a sharded cluster. Its change streams wait for the slowest shard (for ten seconds, if "
        "that is idle), so nobody can tell in time that nothing has changed; a near cache holds sessions for a bounded "
        "time only."
    )


class MongoDBFeed:
    """The feed of one collection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __repr__(self) -> str:
        return f"MongoDBFeed({self._settings.where})"

    async def listen(self, listener: Listener, every: float) -> None:
        """See ``Feed.listen``. Raises ``ConfigurationError`` for a server that has no change streams, or none in time.

        Returns, or raises, after ``every`` seconds at most if it is cancelled: PyMongo does not bear to be cut off.
        """
        stream = _Stream(self._settings, every)
        sent = asyncio.get_running_loop().time()
        try:
            await stream.open()
            listener.alive(sent)
            await _tell(stream, listener, every)
        except (PyMongoError, OSError) as error:
            raise translated(error, self._settings.where, "not_applied") from error
        finally:
            await stream.leave()


async def _tell(stream: _Stream, listener: Listener, every: float) -> None:
    loop = asyncio.get_running_loop()
    proven = loop.time()
    asked: tuple[float, Any] | None = None  # when the server's time was asked for, and what it was
    while True:
        sent = loop.time()
        event = await stream.next()
        if event is None:
            listener.alive(sent)
            proven, asked = sent, None
            continue
        _tell_one(event, listener)
        if asked is None:
            if loop.time() - proven > every / 2:
                since = loop.time()
                asked = since, await stream.server_time()
        elif event["clusterTime"] > asked[1]:
            listener.alive(asked[0])
            proven, asked = asked[0], None


def _tell_one(event: Mapping[str, Any], listener: Listener) -> None:
    if event["operationType"] not in _OF_ONE:
        listener.everything_changed()  # the collection was dropped or renamed, or something that we do not know
        return
    if _only_touches(event):
        return
    try:
        sid = rows.sid_of(event["documentKey"])
    except (AttributeError, ValueError):
        return  # no session
    listener.changed([sid])


def _only_touches(event: Mapping[str, Any]) -> bool:
    names = [name for part in ("set", "removed", "cut") for name in event.get(part) or ()]
    return bool(names) and all(name.partition(".")[0] in _UNTOLD for name in names)


class _Stream:
    """A change stream, its client, and the call that is under way. Every answer comes within ``every`` seconds."""

    def __init__(self, settings: Settings, every: float) -> None:
        self._where = settings.where
        self._every = every
        self._collections = settings.connect(
            maxPoolSize=2, socketTimeoutMS=max(1, round(every * 1000)), appName="sessiondb feed"
        )
        self._cursor: AsyncCommandCursor[dict[str, Any]] | None = None
        self._call: asyncio.Future[Any] | None = None

    async def open(self) -> None:
        """Begin: what was committed before this was called is not told, and what is from the return on is."""
        collections: Collections = self._collections
        hello = await self._run(collections.hello())
        if is_sharded(hello):
            raise ConfigurationError(no_feed(self._where))
        # It waits for half as long as it may: the answer has to come, too.
        wait = max(1, round(self._every * 500))
        self._cursor = await self._run(
            collections.sessions.aggregate(PIPELINE, maxAwaitTimeMS=wait, batchSize=_AT_ONCE)
        )

    async def next(self) -> Mapping[str, Any] | None:
        """The next event; ``None`` after an answer without one. Raises ``StoreUnavailable`` if the server ends it."""
        assert self._cursor is not None
        event: Mapping[str, Any] | None = await self._run(self._cursor.try_next())
        if event is None and not self._cursor.alive:
            raise StoreUnavailable(
                f"MongoDB at {self._where} has ended the change stream: the collection was dropped or renamed."
            )
        return event

    async def server_time(self) -> Any:
        """The time of the newest entry of the server's log."""
        answer = await self._run(self._collections.database.command("ping"))
        return answer["operationTime"]

    async def leave(self) -> None:
        """Close everything; if the server does not answer, that goes on after the return."""
        leaving = asyncio.get_running_loop().create_task(self._close())
        _leaving.add(leaving)
        leaving.add_done_callback(_leaving.discard)
        await asyncio.wait([leaving], timeout=self._every)

    async def _run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        self._call = asyncio.get_running_loop().create_task(call)
        return await asyncio.shield(self._call)

    async def _close(self) -> None:
        if self._call is not None and not self._call.done():
            await asyncio.wait([self._call])
        if self._call is not None and not self._call.cancelled():
            self._call.exception()  # it has been raised, or nobody waits for it any more
        try:
            if self._cursor is not None:
                await self._cursor.close()
        except (PyMongoError, OSError):
            pass  # the server ends it when its session has expired
        finally:
            await self._collections.close()
