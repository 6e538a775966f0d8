"""Sessions in MongoDB 5.0 or newer, a replica set or a sharded cluster: one document a session, as people query it.

``db.sessiondb_sessions.find({"data.theme": "dark"})`` works in any MongoDB tool. Each change is one command on one
document, guarded by its filter, and a batch is sent side by side: the server says of each what became of it.

What was answered is held by a majority of the members (``w=majority``), so a failover does not lose it; what is read
comes from the primary, as a majority holds it. Retryable writes stay on, unlike other drivers' retries: the server
knows a repeated write and applies it once.

A call with events is a transaction. Without ``audit="required"`` none is made: events go beside their changes.

To shard: ``sh.shardCollection("app.sessiondb_sessions", {_id: "hashed"})``. All commands of a request name the ``_id``,
and new sids, which grow with the time, are spread evenly. Lists of one user ask all shards, by an index. Events are
unique by stream and number, which a cluster keeps where the shard key begins with the stream.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from sessiondb.core.change import Change
from sessiondb.core.errors import StoreError, StoreUnavailable, WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.stores import _mongodb_counting as counting
from sessiondb.stores import _mongodb_rows as rows
from sessiondb.stores import _mongodb_sets as sets
from sessiondb.stores import _mongodb_sweeping as sweeping
from sessiondb.stores import _mongodb_trail as trail
from sessiondb.stores import _mongodb_watching as watching
from sessiondb.stores._mongodb_errors import translated
from sessiondb.stores._mongodb_feed import MongoDBFeed, no_feed
from sessiondb.stores._mongodb_schema import is_sharded, prepare
from sessiondb.stores._mongodb_together import write_together
from sessiondb.stores._mongodb_url import Collections, parse
from sessiondb.stores._mongodb_writing import FAILURES, find_all, write_each
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._steps import Writes, undecided
from sessiondb.stores._uncancelled import uncancelled
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Counter,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Position,
    Profile,
    Query,
    Sheet,
    Stats,
    Stream,
    Swept,
)

log = logging.getLogger("sessiondb")


class MongoDBStore:
    """The store for one database; see ``Settings`` for the URL and its options.

    Usable from several event loops, each with a client of its own. Raises ``ConfigurationError``.

    A call whose caller is cancelled goes on: PyMongo's pool of connections does not always survive that some of those
    that wait for one are cancelled. ``socketTimeoutMS`` ends what a dead connection keeps.
    """

    name = "mongodb"
    # A transaction takes three round trips or more.
    batching = Batching(loads=128, changes=32, in_flight=4, touches=128, together=False)

    def __init__(self, url: str) -> None:
        self._settings = parse(url)
        self._collections = PerLoop("MongoDB", self._settings.connect)
        self._numbers = trail.Numbers()
        self._is_sharded = False
        self._said_why = False

    def __repr__(self) -> str:
        return f"MongoDBStore({self._settings.where})"

    # -- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``Store.open``. Raises ``ConfigurationError`` for a wrong password, a lonely server or a newer layout."""
        self._collections.open()
        try:
            async with self._asking() as collections:
                self._is_sharded = is_sharded(await prepare(collections))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Store.close``."""
        collections = self._collections.close()
        if collections is not None:
            await collections.close()

    @asynccontextmanager
    async def _asking(self, outcome: WriteOutcome = "not_applied") -> AsyncIterator[Collections]:
        """The collections; errors come out as ours, a lost connection with ``outcome``."""
        collections = self._collections.current()
        try:
            yield collections
        except FAILURES as error:
            raise translated(error, self._settings.where, outcome) from error

    @asynccontextmanager
    async def _in_steps(self) -> AsyncIterator[tuple[Collections, Writes]]:
        """As ``_asking``, for what takes several commands: once one may have written, no error says that none has."""
        writes = Writes(self._is_undone)
        try:
            async with self._asking("unknown") as collections:
                yield collections, writes
        except StoreError as error:
            if writes.may_have_landed:
                raise undecided(error) from error.__cause__
            raise

    def _is_undone(self, error: Exception) -> bool:
        found = translated(error, self._settings.where, "unknown")
        return not isinstance(found, StoreError) or found.outcome == "not_applied"

    def feed(self) -> MongoDBFeed | None:
        """See ``HasFeed.feed``. There is none in a sharded cluster, which is known once the store is open."""
        if not self._is_sharded:
            return MongoDBFeed(self._settings)
        if not self._said_why:
            self._said_why = True
            log.warning("%s", no_feed(self._settings.where))
        return None

    @uncancelled
    async def clock(self) -> int:
        """The server's clock, which has milliseconds: the end of the current one."""
        async with self._asking() as collections:
            hello = await collections.hello()
        return int(hello["localTime"]) * 1000 + rows.MICROS_OF_NOW

    # -- one by one ---------------------------------------------------------------------------------------

    @uncancelled
    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        async with self._asking() as collections:
            found = await find_all(collections.sessions, sids)
        return [None if (document := found.get(sid)) is None else rows.to_record(document) for sid in sids]

    @uncancelled
    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``; with events it is one transaction."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        if events:
            async with self._asking() as collections:
                return await write_together(collections, self._settings.where, self._numbers, changes, events)
        if not changes:
            return []
        results = await write_each(self._collections.current().sessions, self._settings.where, changes)
        answers = [results[change.sid] for change in changes]
        away = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
        if len(away) == len(answers):
            # Nobody could write: it is not about a session. One that may have landed speaks for all.
            raise next((error for error in away if error.outcome == "unknown"), away[0])
        return answers

    # -- by user ------------------------------------------------------------------------------------------

    @uncancelled
    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``; one round trip, two or three more where somebody has to go."""
        async with self._in_steps() as (collections, writes):
            return await sets.admit(collections, writes, login)

    @uncancelled
    async def find(self, query: Query) -> Page:
        """See ``Store.find``."""
        async with self._asking() as collections:
            return await sets.find(collections, query)

    @uncancelled
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``; ``not_before`` is with a majority before the sessions are looked for."""
        async with self._in_steps() as (collections, writes):
            return await sets.end_where(collections, writes, query, reason)

    # -- sweeping, notes, counts --------------------------------------------------------------------------

    @uncancelled
    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``."""
        async with self._in_steps() as (collections, writes):
            return await sweeping.sweep(collections, writes, cutoffs, limit)

    @uncancelled
    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        async with self._asking("unknown") as collections:
            await sweeping.announced(collections.sessions, sids)

    @uncancelled
    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``; it walks by sid."""
        async with self._asking("unknown") as collections:
            return await sweeping.lower_checks(collections.sessions, caps, after, limit)

    @uncancelled
    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        async with self._asking() as collections:
            found = await collections.meta.find_one({"_id": f"note:{name}"})
        return None if found is None else str(found["text"])

    @uncancelled
    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        async with self._asking("unknown") as collections:
            await collections.meta.replace_one({"_id": f"note:{name}"}, {"text": text}, upsert=True)

    @uncancelled
    async def stats(self) -> Stats:
        """See ``Store.stats``; ``size_bytes`` is that of the whole database."""
        async with self._asking() as collections:
            return await counting.stats(collections)

    # -- the audit trail ----------------------------------------------------------------------------------

    @uncancelled
    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        async with self._in_steps() as (collections, writes):
            await trail.append(collections.events, writes, self._numbers, events)

    @uncancelled
    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``; their order among machines is as good as the machines' clocks."""
        async with self._asking() as collections:
            return await trail.page(collections.events, query)

    @uncancelled
    async def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        async with self._asking() as collections:
            return await trail.streams(collections.events)

    @uncancelled
    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        async with self._asking() as collections:
            return await trail.trail(collections.events, stream, after, limit)

    @uncancelled
    async def purge_events(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``."""
        async with self._in_steps() as (collections, writes):
            return await trail.purge(collections.events, writes, through)

    @uncancelled
    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``. The server's log of operations keeps what it was for a while: docs/databases.md."""
        async with self._in_steps() as (collections, writes):
            return await trail.blank(collections.events, writes, places, groups)

    # -- histories, counters and sheets -------------------------------------------------------------------

    @uncancelled
    async def forget_user(self, user_id: str) -> int:
        """See ``Store.forget_user``; as ``blank`` it leaves the server's log of operations as it is."""
        async with self._in_steps() as (collections, writes):
            return await watching.forget_user(collections, writes, user_id)

    @uncancelled
    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        async with self._asking() as collections:
            return await watching.profile(collections, user_id, counters)

    @uncancelled
    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``."""
        async with self._in_steps() as (collections, writes):
            await watching.record_logins(collections.histories, writes, logins, expires_at)

    @uncancelled
    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        async with self._asking("unknown") as collections:
            return await watching.drop_login(collections.histories, user_id, entry)

    @uncancelled
    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """See ``Store.count``; two round trips, and one more where keys are new."""
        async with self._asking() as collections:
            keys = await watching.keys_to_count(collections.counters, bucket, adds, most, expires_at)
        async with self._in_steps() as (collections, writes):
            await watching.count(collections.counters, writes, bucket, adds, keys, expires_at)

    @uncancelled
    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``."""
        async with self._in_steps() as (collections, writes):
            await watching.publish(collections.sheets, writes, sheets)

    @uncancelled
    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        async with self._asking() as collections:
            return await watching.sheets(collections.sheets, kind, since, until)

    @uncancelled
    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``."""
        async with self._asking("unknown") as collections:
            await watching.withdraw(collections.sheets, sheets)

    @uncancelled
    async def expire(self, now: int, limit: int) -> int:
        """See ``Store.expire``. The server does the same by itself, a day later."""
        async with self._in_steps() as (collections, writes):
            return await watching.expire(collections, writes, now, limit)


def mongodb_from_url(url: str) -> MongoDBStore:
    """The store of ``mongodb://host/database`` or ``mongodb+srv://host/database``, see ``Settings`` for the options."""
    return MongoDBStore(url)
