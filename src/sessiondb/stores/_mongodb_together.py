"""Changes and their events as one transaction: all of it, or nothing.

The sessions are read first, all at once, and judged; then the events are inserted, then the sessions written, all of
each at once. So a transaction takes as many round trips for thirty changes as for one, and holds sessions, for which
others' writes wait, for the last of them only. What it has read and others have written since, the server refuses to
write (a conflict): then all begins anew.

Until the commit is sent nothing can have been written, whatever happens. A commit that was not answered is sent once
more by the driver, and the server knows that it is the same; if that is not answered either, nobody knows what became
of it. Then an error says so, and nothing is repeated here. See
https://github.com/mongodb/specifications/blob/master/source/transactions/transactions.md
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence

import pymongo
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, UpdateOne
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from sessiondb.core.change import Change, Conflict, Create, apply
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores import _mongodb_rows as rows
from sessiondb.stores._mongodb_errors import DUPLICATE, code_of, refusal, translated
from sessiondb.stores._mongodb_trail import Numbers, documents, takes_place
from sessiondb.stores._mongodb_url import Collections
from sessiondb.stores._mongodb_writing import NO_TIME, command_of, kept_changing
from sessiondb.stores._steps import undecided
from sessiondb.stores.base import ChangeResult, NotTogether, Position, place_taken

TRIES = 8
_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1
_TRANSIENT = "TransientTransactionError"  # the label of a transaction that was aborted and may go well the next time
_FASTER = frozenset({DUPLICATE, 112})  # WriteConflict
_ABORTS_WITHIN = 1.0  # seconds: a lost server is looked for twice in that, and the deadline is not over


class _Refused(Exception):
    """One of the writes cannot be done: ``reason`` is its answer."""

    def __init__(self, reason: StoreError | SessionDataError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Again(Exception):
    """Nothing was written, mostly because somebody else was faster: what is there now has to be looked at."""

    def __init__(self, error: PyMongoError | None = None) -> None:
        super().__init__()
        self.error = error


async def write_together(
    collections: Collections, where: str, numbers: Numbers, changes: Sequence[Change], events: Sequence[Event]
) -> list[ChangeResult]:
    """See ``Store.apply``. ``where`` is the server, for messages; the driver's errors say that nothing was written."""
    # Nobody has drawn the sid of a new session before; if somebody has, that is seen at the second attempt.
    looks = not all(isinstance(change, Create) for change in changes)
    reason: StoreError | SessionDataError = kept_changing(where)
    for attempt in range(TRIES):
        if attempt:
            # Jitter: whoever was in each other's way once is not in step for ever.
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        try:
            transaction = _Transaction(collections, where, events, _documents(numbers, events))
            return await transaction.run(changes, looks=looks or attempt > 0)
        except _Again as again:
            if attempt == TRIES - 1 and again.error is not None and code_of(again.error) not in _FASTER:
                raise again.error from None  # a part of the cluster that is away, say
        except _Refused as refused:
            reason = refused.reason
            break
    if not changes or isinstance(reason, StoreUnavailable):
        raise reason
    if len(changes) > 1:
        raise NotTogether(f"One of the changes or events cannot be written, so nothing was. {reason}") from reason
    return [reason]


def _documents(numbers: Numbers, events: Sequence[Event]) -> list[RawBSONDocument]:
    try:
        return documents(numbers.take(len(events)), events)
    except StoreError as error:
        raise _Refused(error) from error.__cause__


class _Transaction:
    """One attempt. ``inserts`` are the documents of ``events``."""

    def __init__(
        self, collections: Collections, where: str, events: Sequence[Event], inserts: Sequence[RawBSONDocument]
    ) -> None:
        self._collections = collections
        self._session = collections.session()
        self._where = where
        self._events = events
        self._inserts = inserts

    async def run(self, changes: Sequence[Change], *, looks: bool) -> list[ChangeResult]:
        try:
            # Not "snapshot": in a sharded cluster that may begin before what another process has been answered.
            await self._session.start_transaction(
                ReadConcern("majority"), self._collections.sessions.write_concern, ReadPreference.PRIMARY
            )
            results = await self._write(changes, looks=looks)
        except Exception as error:
            await self._abort()
            if isinstance(error, OperationFailure) and error.has_error_label(_TRANSIENT):
                raise _Again(error) from error
            raise
        try:
            await self._commit()
        finally:
            await self._session.end_session()
        return results

    async def _abort(self) -> None:
        """Let go of what is held. A server that does not hear of it ends it by itself, after a minute."""
        with contextlib.suppress(PyMongoError), pymongo.timeout(_ABORTS_WITHIN):
            await self._session.end_session()

    async def _write(self, changes: Sequence[Change], *, looks: bool) -> list[ChangeResult]:
        there = await self._find([change.sid for change in changes]) if looks and changes else {}
        results: list[ChangeResult] = []
        landing: list[Change] = []
        for change in changes:
            written, outcome = self._judge(there.get(change.sid), change)
            if isinstance(outcome, Conflict):
                # Who is told of a conflict is told the data too, which nobody else needs.
                [full] = (await self._find([change.sid], data=True)).values()
                outcome = Conflict(self._read(full))
            if written is not None:
                landing.append(change)
            results.append(outcome)
        await self._insert_events()
        await self._write_sessions(landing)
        return results

    async def _find(self, sids: Sequence[Sid], *, data: bool = False) -> dict[Sid, rows.Document]:
        where = {"_id": {"$in": [rows.sid_value(sid) for sid in sids]}}
        shown = None if data else dict(rows.NO_DATA)
        cursor = self._collections.sessions.find(where, shown, batch_size=len(sids) + 1, session=self._session)
        return {rows.sid_of(document): document for document in await cursor.to_list()}

    def _read(self, document: rows.Document) -> Record:
        try:
            return rows.to_record(document)
        except SessionDataError as error:
            raise _Refused(error) from None

    def _judge(self, document: rows.Document | None, change: Change) -> tuple[Record | None, ChangeResult]:
        try:
            return apply(None if document is None else self._read(document), change, NO_TIME)
        except SessionDataError as error:
            raise _Refused(error) from None

    async def _insert_events(self) -> None:
        try:
            await self._collections.events.insert_many(self._inserts, session=self._session)
        except BulkWriteError as error:
            first = error.details["writeErrors"][0] if error.details["writeErrors"] else {}
            if takes_place(first):
                seal = self._events[first["index"]].seal
                assert seal is not None
                raise _Refused(StoreError(place_taken(Position(seal.stream, seal.seq)))) from error
            self._refuse(error)

    async def _write_sessions(self, changes: Sequence[Change]) -> None:
        sessions = self._collections.sessions
        creates = [change for change in changes if isinstance(change, Create)]
        others = [change for change in changes if not isinstance(change, Create)]
        try:
            if creates:
                await sessions.insert_many([rows.create_document(change) for change in creates], session=self._session)
            if others:
                commands = [UpdateOne(*command_of(change)) for change in others]
                found = (await sessions.bulk_write(commands, session=self._session)).matched_count
                if found != len(others):
                    raise _Again  # somebody has spoilt a guard in the document: it is not what it was read as
        except (BulkWriteError, DocumentTooLarge, *rows.NOT_STORABLE) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """The write that ``error`` is of cannot be done, now or ever."""
        if isinstance(error, BulkWriteError) and (code_of(error) == DUPLICATE or error.has_error_label(_TRANSIENT)):
            raise _Again(error) from error
        raise _Refused(refusal(error, self._where, "not_applied")) from error

    async def _commit(self) -> None:
        try:
            await self._session.commit_transaction()
        except PyMongoError as error:
            if error.has_error_label(_TRANSIENT):
                raise _Again(error) from error  # for certain it was not committed, and never will be
            found = translated(error, self._where, "unknown")
            if not isinstance(found, StoreError):
                found = StoreUnavailable(str(found))
            raise undecided(found) from error
