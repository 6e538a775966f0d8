"""Sessions in MongoDB 5.0 or newer, a replica set or a sharded cluster: one document a session, as people query it.

``db.sessiondb_sessions.find({"data.theme": "dark"})`` works in any MongoDB tool. Each change is one command on one
document, guarded by its filter, and a batch is sent side by side: the server says of each what became of it.

What was answered is held by a majority of the members (``w=majority``), so a failover does not lose it; what is read
comes from the primary, as a majority holds it. Retryable writes stay on, unlike other drivers' retries: the server
knows a repeated write and applies it once.

To shard: ``sh.shardCollection("app.sessiondb_sessions", {_id: "hashed"})``. All commands of a request name the ``_id``,
and new sids, which grow with the time, are spread evenly. Lists of one user ask all shards, by an index.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from sessiondb.core.change import Applied, Change, Create, End, Gone, Update, apply
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable, WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _mongodb_counting as counting
from sessiondb.stores import _mongodb_rows as rows
from sessiondb.stores import _mongodb_sets as sets
from sessiondb.stores import _mongodb_sweeping as sweeping
from sessiondb.stores._mongodb_errors import DUPLICATE, code_of, refusal, translated
from sessiondb.stores._mongodb_feed import MongoDBFeed, no_feed
from sessiondb.stores._mongodb_schema import is_sharded, prepare
from sessiondb.stores._mongodb_url import Collection, Collections, parse
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._steps import Writes, undecided
from sessiondb.stores._uncancelled import uncancelled
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Query,
    Stats,
    Swept,
)

log = logging.getLogger("sessiondb")

TRIES = 3
NO_TIME = 0  # only whether a change can land is asked, not what it makes of the record
_REV = {"rev": True}
_STATE = {"ended_at": True, "end_reason": True}
_FAILURES = (PyMongoError, OSError, *rows.NOT_STORABLE)
_Results = dict[Sid, ChangeResult]


class MongoDBStore:
    """The store for one database; see ``Settings`` for the URL and its options.

    Usable from several event loops, each with a client of its own. Raises ``ConfigurationError``.

    A call whose caller is cancelled goes on: PyMongo's pool of connections does not always survive that some of those
    that wait for one are cancelled. ``socketTimeoutMS`` ends what a dead connection keeps.
    """

    name = "mongodb"
    batching = Batching(loads=128, changes=32, in_flight=4, touches=128)

    def __init__(self, url: str) -> None:
        self._settings = parse(url)
        self._collections = PerLoop("MongoDB", self._settings.connect)
        self._last_event = 0
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
        except _FAILURES as error:
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
            found = await self._find(collections.sessions, sids)
        return [None if (document := found.get(sid)) is None else rows.to_record(document) for sid in sids]

    async def _find(self, sessions: Collection, sids: Sequence[Sid]) -> dict[Sid, rows.Document]:
        if not sids:
            return {}
        where = {"_id": {"$in": [rows.sid_value(sid) for sid in sids]}}
        # One more than can be found, and the answer is complete at once.
        found = await sessions.find(where, batch_size=len(sids) + 1).to_list()
        return {rows.sid_of(document): document for document in found}

    @uncancelled
    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``; changes and events go side by side, each on its own."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        sessions = self._collections.current().sessions
        if not changes:
            await self.append(events)
            return []
        lost, results = await asyncio.gather(self._append_beside(events), self._write(sessions, changes))
        if len(results) < len(changes):
            await self._judge(sessions, changes, results)
        if lost is not None:
            if not any(map(_may_have_landed, results.values())):
                raise lost
            log.error("%d events beside changes that were written are lost: %s", len(events), lost)
        return self._answers(changes, results)

    def _answers(self, changes: Sequence[Change], results: _Results) -> list[ChangeResult]:
        answers = [results[change.sid] for change in changes]
        away = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
        if len(away) == len(answers):
            # Nobody could write: it is not about a session. One that may have landed speaks for all.
            raise next((error for error in away if error.outcome == "unknown"), away[0])
        return answers

    async def _judge(self, sessions: Collection, changes: Sequence[Change], results: _Results) -> None:
        """Answer what has matched no document, by what the documents show now."""
        for attempt in range(TRIES):
            rest = [change for change in changes if change.sid not in results]
            if not rest:
                return
            if attempt:
                await asyncio.sleep(0.005 * 2**attempt)
            try:
                async with self._asking():
                    found = await self._find(sessions, [change.sid for change in rest])
            except StoreError as error:
                # What the others have been answered stands; of these nobody knows, for they may repeat earlier ones.
                results |= {change.sid: StoreUnavailable(str(error), outcome="unknown") for change in rest}
                return
            again: list[Change] = []
            for change in rest:
                try:
                    document = found.get(change.sid)
                    record = None if document is None else rows.to_record(document)
                    written, outcome = apply(record, change, NO_TIME)
                except SessionDataError as error:
                    results[change.sid] = error
                    continue
                if written is None:
                    results[change.sid] = outcome
                else:
                    again.append(change)  # it changed between the two commands: nothing stands against it now
            results |= await self._write(sessions, again)
        changing = f"MongoDB at {self._settings.where}: a session kept changing while it was written; try again."
        for change in changes:
            results.setdefault(change.sid, StoreError(changing, outcome="conflict"))

    async def _write(self, sessions: Collection, changes: Sequence[Change]) -> _Results:
        """Send ``changes`` side by side. What matched no document is not among the results."""
        creates: list[Create] = []
        touches: list[Update] = []
        writes: list[Coroutine[Any, Any, _Results]] = []
        for change in changes:
            if isinstance(change, Create):
                creates.append(change)
            elif isinstance(change, Update) and change.only_touches:
                touches.append(change)
            else:
                writes.append(self._change(sessions, change))
        if creates:
            writes.append(self._create(sessions, creates))
        if touches:
            writes.append(self._touch(sessions, touches))
        results: _Results = {}
        for part in await asyncio.gather(*writes):
            results |= part
        return results

    async def _change(self, sessions: Collection, change: Update | End) -> _Results:
        """One command tells whether it landed, and the revision."""
        try:
            if isinstance(change, End):
                where = rows.end_filter(change)
                update: Any = rows.end_update(change.id, change.reason, change.at, change.purge_at, change.announce_at)
            else:
                where, update = rows.update_filter(change), rows.update_pipeline(change)
            found = await sessions.find_one_and_update(where, update, _REV, return_document=ReturnDocument.AFTER)
        except _FAILURES as error:
            return {change.sid: self._refusal(error)}
        return {} if found is None else {change.sid: Applied(int(found["rev"]))}

    async def _touch(self, sessions: Collection, changes: Sequence[Update]) -> _Results:
        """One command for all; it tells only how many it found, so if that is not all, it is looked who lives.

        No end is undone, so who lives now has lived when it was touched.
        """
        results: _Results = {}
        updates = []
        for change in changes:
            try:
                updates.append(UpdateOne(rows.update_filter(change), rows.update_pipeline(change)))
            except rows.NOT_STORABLE as error:
                results[change.sid] = self._refusal(error)
        sent = [change.sid for change in changes if change.sid not in results]
        try:
            touched = (await sessions.bulk_write(updates, ordered=False)).matched_count if updates else 0
            if touched == len(sent):
                return results | dict.fromkeys(sent, Applied(0))
            where = {"_id": {"$in": [rows.sid_value(sid) for sid in sent]}}
            there = await sessions.find(where, _STATE, batch_size=len(sent) + 1).to_list()
        except _FAILURES as error:
            return results | dict.fromkeys(sent, self._refusal(error))
        found: _Results = {}
        for one in there:
            is_living = one.get("ended_at") is None
            found[rows.sid_of(one)] = Applied(0) if is_living else Gone(one.get("end_reason"))
        return results | {sid: found.get(sid, Gone(None)) for sid in sent}

    async def _create(self, sessions: Collection, changes: Sequence[Create]) -> _Results:
        """One command for all, which tells of each that was not inserted why."""
        results: _Results = {}
        documents = []
        for change in changes:
            try:
                documents.append(rows.create_document(change))
            except rows.NOT_STORABLE as error:
                results[change.sid] = self._refusal(error)
        sent = [change for change in changes if change.sid not in results]
        refused: dict[int, Exception] = {}
        try:
            if documents:
                await sessions.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if error.details["writeConcernErrors"]:
                refused = dict.fromkeys(range(len(sent)), error)
            for one in error.details["writeErrors"]:
                refused[one["index"]] = OperationFailure(type(error).__name__, one["code"])
        except _FAILURES as error:
            refused = dict.fromkeys(range(len(sent)), error)
        for at, change in enumerate(sent):
            if at not in refused:
                results[change.sid] = Applied(change.record.rev)
            elif code_of(refused[at]) != DUPLICATE:
                results[change.sid] = self._refusal(refused[at])
        return results

    def _refusal(self, error: Exception) -> StoreError | SessionDataError:
        return refusal(error, self._settings.where, "unknown")

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

    # -- sweeping, events, counts -------------------------------------------------------------------------

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
    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        async with self._in_steps() as (collections, writes):
            for attempt in range(TRIES):
                if not events:
                    return
                try:
                    await writes(collections.events.insert_many(self._numbered(events), ordered=False))
                    return
                except BulkWriteError as error:
                    if attempt == TRIES - 1 or code_of(error) != DUPLICATE:
                        raise
                    # Another process has drawn the same number.
                    events = [events[one["index"]] for one in error.details["writeErrors"]]

    def _numbered(self, events: Sequence[Event]) -> list[rows.Document]:
        """Documents with numbers that grow with the time, as those of other processes do: microseconds and chance."""
        first = max(self._last_event + 1, (time.time_ns() // 1000) << 11 | secrets.randbelow(1 << 11))
        self._last_event = first + len(events) - 1
        return [rows.event_document(number, event) for number, event in enumerate(events, first)]

    async def _append_beside(self, events: Sequence[Event]) -> StoreError | None:
        try:
            await self.append(events)
        except StoreError as error:
            return error
        return None

    @uncancelled
    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``; their order among machines is as good as the machines' clocks."""
        async with self._asking() as collections:
            return await counting.events(collections, query)

    @uncancelled
    async def stats(self) -> Stats:
        """See ``Store.stats``; ``size_bytes`` is that of the whole database."""
        async with self._asking() as collections:
            return await counting.stats(collections)


def _may_have_landed(result: ChangeResult) -> bool:
    return isinstance(result, Applied) or (isinstance(result, StoreError) and result.outcome != "not_applied")


def mongodb_from_url(url: str) -> MongoDBStore:
    """The store of ``mongodb://host/database`` or ``mongodb+srv://host/database``, see ``Settings`` for the options."""
    return MongoDBStore(url)
