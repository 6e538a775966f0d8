"""Changes side by side, each by itself: one guarded command for each, one for all new sessions, one for all touches."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from sessiondb.core.change import Applied, Change, Create, End, Gone, Update, apply
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.token import Sid
from sessiondb.stores import _mongodb_rows as rows
from sessiondb.stores._mongodb_errors import DUPLICATE, code_of, refusal
from sessiondb.stores._mongodb_url import Collection
from sessiondb.stores.base import ChangeResult

TRIES = 3
NO_TIME = 0  # only whether a change can land is asked, not what it makes of the record
FAILURES = (PyMongoError, OSError, *rows.NOT_STORABLE)
Results = dict[Sid, ChangeResult]
_REV = {"rev": True}
_STATE = {"ended_at": True, "end_reason": True}


async def write_each(sessions: Collection, where: str, changes: Sequence[Change]) -> Results:
    """The answer of each of ``changes``; ``where`` is the server, for messages."""
    return await _SideBySide(sessions, where).write(changes)


async def find_all(sessions: Collection, sids: Sequence[Sid]) -> dict[Sid, rows.Document]:
    """The documents of those of ``sids`` that are there."""
    if not sids:
        return {}
    where = {"_id": {"$in": [rows.sid_value(sid) for sid in sids]}}
    # One more than can be found, and the answer is complete at once.
    found = await sessions.find(where, batch_size=len(sids) + 1).to_list()
    return {rows.sid_of(document): document for document in found}


def kept_changing(where: str) -> StoreError:
    """The answer of a change that was always too late."""
    message = f"MongoDB at {where}: a session kept changing while it was written; try again."
    return StoreError(message, outcome="conflict")


class _SideBySide:
    def __init__(self, sessions: Collection, where: str) -> None:
        self._sessions = sessions
        self._where = where

    async def write(self, changes: Sequence[Change]) -> Results:
        results = await self._send(changes)
        if len(results) < len(changes):
            await self._judge(changes, results)
        return results

    async def _judge(self, changes: Sequence[Change], results: Results) -> None:
        """Answer what has matched no document, by what the documents show now."""
        for attempt in range(TRIES):
            rest = [change for change in changes if change.sid not in results]
            if not rest:
                return
            if attempt:
                await asyncio.sleep(0.005 * 2**attempt)
            try:
                found = await find_all(self._sessions, [change.sid for change in rest])
            except FAILURES as error:
                # What the others have been answered stands; of these nobody knows, for they may repeat earlier ones.
                message = str(self._refusal(error))
                results |= {change.sid: StoreUnavailable(message, outcome="unknown") for change in rest}
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
            results |= await self._send(again)
        for change in changes:
            results.setdefault(change.sid, kept_changing(self._where))

    async def _send(self, changes: Sequence[Change]) -> Results:
        """Send ``changes`` side by side. What matched no document is not among the results."""
        creates: list[Create] = []
        touches: list[Update] = []
        writes: list[Coroutine[Any, Any, Results]] = []
        for change in changes:
            if isinstance(change, Create):
                creates.append(change)
            elif isinstance(change, Update) and change.only_touches:
                touches.append(change)
            else:
                writes.append(self._change(change))
        if creates:
            writes.append(self._create(creates))
        if touches:
            writes.append(self._touch(touches))
        results: Results = {}
        for part in await asyncio.gather(*writes):
            results |= part
        return results

    async def _change(self, change: Update | End) -> Results:
        """One command tells whether it landed, and the revision."""
        try:
            where, update = command_of(change)
            found = await self._sessions.find_one_and_update(where, update, _REV, return_document=ReturnDocument.AFTER)
        except FAILURES as error:
            return {change.sid: self._refusal(error)}
        return {} if found is None else {change.sid: Applied(int(found["rev"]))}

    async def _touch(self, changes: Sequence[Update]) -> Results:
        """One command for all; it tells only how many it found, so if that is not all, it is looked who lives.

        No end is undone, so who lives now has lived when it was touched.
        """
        results: Results = {}
        updates = []
        for change in changes:
            try:
                updates.append(UpdateOne(*command_of(change)))
            except rows.NOT_STORABLE as error:
                results[change.sid] = self._refusal(error)
        sent = [change.sid for change in changes if change.sid not in results]
        try:
            touched = (await self._sessions.bulk_write(updates, ordered=False)).matched_count if updates else 0
            if touched == len(sent):
                return results | dict.fromkeys(sent, Applied(0))
            where = {"_id": {"$in": [rows.sid_value(sid) for sid in sent]}}
            there = await self._sessions.find(where, _STATE, batch_size=len(sent) + 1).to_list()
        except FAILURES as error:
            return results | dict.fromkeys(sent, self._refusal(error))
        found: Results = {}
        for one in there:
            is_living = one.get("ended_at") is None
            found[rows.sid_of(one)] = Applied(0) if is_living else Gone(one.get("end_reason"))
        return results | {sid: found.get(sid, Gone(None)) for sid in sent}

    async def _create(self, changes: Sequence[Create]) -> Results:
        """One command for all, which tells of each that was not inserted why."""
        results: Results = {}
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
                await self._sessions.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if error.details["writeConcernErrors"]:
                refused = dict.fromkeys(range(len(sent)), error)
            for one in error.details["writeErrors"]:
                refused[one["index"]] = OperationFailure(type(error).__name__, one["code"])
        except FAILURES as error:
            refused = dict.fromkeys(range(len(sent)), error)
        for at, change in enumerate(sent):
            if at not in refused:
                results[change.sid] = Applied(change.record.rev)
            elif code_of(refused[at]) != DUPLICATE:
                results[change.sid] = self._refusal(refused[at])
        return results

    def _refusal(self, error: Exception) -> StoreError | SessionDataError:
        return refusal(error, self._where, "unknown")


def command_of(change: Update | End) -> tuple[rows.Document, list[rows.Document]]:
    """Which document ``change`` is for, and what it makes of it. Raises one of ``NOT_STORABLE``."""
    if isinstance(change, End):
        pipeline = rows.end_update(change.id, change.reason, change.at, change.purge_at, change.announce_at)
        return rows.end_filter(change), pipeline
    return rows.update_filter(change), rows.update_pipeline(change)
