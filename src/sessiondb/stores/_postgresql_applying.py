"""Batches of changes in PostgreSQL: one statement each, and what follows where it does not take all of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg

from sessiondb.core.change import Applied, Change, Create, Update, all_touch, apply
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores import _postgresql_rows as rows
from sessiondb.stores import _postgresql_trail as trail
from sessiondb.stores._postgresql_errors import is_about_rows, is_deadlock, is_taken, refusal
from sessiondb.stores._postgresql_statements import Statements
from sessiondb.stores._touching import Results, settled, touch_all
from sessiondb.stores.base import ChangeResult, NotTogether, place_taken

TRIES = 3
NO_TIME = 0  # only whether a change can land is asked, not what it makes of the record


class Applying:
    """The writing of changes and events. ``connection`` lends one, with the outcome of a lost reply; ``load`` reads."""

    def __init__(
        self,
        sql: Statements,
        where: str,
        connection: Callable[[Any], AbstractAsyncContextManager[Any]],
        load: Callable[[Sequence[Sid]], Awaitable[dict[Sid, Record]]],
    ) -> None:
        self._sql = sql
        self._where = where
        self._connection = connection
        self._load = load

    async def apply(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        """See ``Store.apply``."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        if len(changes) > 1 and not events and all_touch(changes):
            return await self._touch(changes)
        return await self._apply(changes, events, TRIES)

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        if events:
            try:
                await self._run(self._sql.append, [rows.events_json(events)], (), events)
            except Refused as refused:
                raise refused.error from None

    async def _touch(self, changes: Sequence[Update]) -> list[ChangeResult]:
        """One statement that waits for no row. Only those that stay held are waited for, and nobody else with them."""
        try:
            return await touch_all(changes, self._touch_free, self._touch_held)
        except Refused:
            return await self._apply(changes, (), TRIES)  # one of them is at fault: that finds out which

    async def _touch_free(self, changes: Sequence[Update]) -> Results:
        parameters = rows.touch_columns(changes)
        statement = self._sql.touch if len(parameters) == 2 else self._sql.touch_with_clients
        async with self._connection("unknown") as connection:
            try:
                missed = await connection.fetch(statement, *parameters)
            except asyncpg.PostgresError as error:
                if is_about_rows(error):
                    raise Refused(refusal(error, self._where)) from None
                raise
        found = dict(missed)
        living = {sid for sid, state in found.items() if state is not None and state[0] == "true"}
        reasons = {sid: state[1] for sid, state in found.items() if state is not None}
        return settled(changes, {change.sid for change in changes} - found.keys(), reasons, living)

    async def _touch_held(self, changes: Sequence[Update]) -> Results:
        try:
            return settled(changes, {*await self._write(changes, ())}, {}, set())
        except Refused as refused:
            return {change.sid: refused.error for change in changes}

    async def _apply(self, changes: Sequence[Change], events: Sequence[Event], tries: int) -> list[ChangeResult]:
        if not changes and not events:
            return []
        try:
            landed = await self._write(changes, events)
        except Refused as refused:
            if not changes:
                raise refused.error from None
            if len(changes) == 1:
                return [refused.error]
            if events:
                raise NotTogether(f"Neither the changes nor their events were written. {refused.error}") from None
            return await self._one_by_one(changes, tries)
        if len(landed) == len(changes):
            return [Applied(landed[change.sid]) for change in changes]
        return await self._with_reasons(changes, landed, bool(events), tries)

    async def _write(self, changes: Sequence[Change], events: Sequence[Event]) -> dict[Sid, int]:
        """By sid, the revisions of those that landed. Raises ``Refused`` where one of them may be at fault."""
        statement, parameters = self._statement(changes, events)
        return {row[0]: row[1] for row in await self._run(statement, parameters, changes, events)}

    async def _run(
        self, statement: str, parameters: list[object], changes: Sequence[Change], events: Sequence[Event]
    ) -> list[Any]:
        for attempt in range(TRIES):
            async with self._connection("unknown") as connection:
                try:
                    return list(await connection.fetch(statement, *parameters))
                except asyncpg.PostgresError as error:
                    if not is_about_rows(error):
                        raise
                    if is_taken(error, f"{self._sql.events}_place"):
                        taken = await trail.taken(self._sql, connection, events)
                        raise Refused(StoreError(place_taken(taken))) from None
                    if not is_deadlock(error) or attempt == TRIES - 1:
                        raise Refused(refusal(error, self._where, changes=bool(changes), events=bool(events))) from None
            # The rows of another program's transaction are free by now, or will be shortly.
            await asyncio.sleep(0.005 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("unreachable")

    def _statement(self, changes: Sequence[Change], events: Sequence[Event]) -> tuple[str, list[object]]:
        if len(changes) == 1 and not events and rows.is_ordinary(change := changes[0]):
            values = rows.update_values(change)
            return self._sql.put if len(values) == 4 else self._sql.update, values
        creates = [change for change in changes if isinstance(change, Create)]
        parameters: list[object] = []
        if len(creates) < len(changes):
            parameters.append(rows.updates_json(changes))
        if creates:
            parameters.append(rows.creates_json(creates))
        links = rows.links_json(changes)
        if links:
            parameters.append(links)
        if events:
            parameters.append(rows.events_json(events))
        kinds = {"updates": len(creates) < len(changes), "creates": bool(creates)}
        return self._sql.apply(**kinds, links=bool(links), events=bool(events)), parameters

    async def _one_by_one(self, changes: Sequence[Change], tries: int) -> list[ChangeResult]:
        results: list[ChangeResult] = []
        for change in changes:
            try:
                results += await self._apply([change], (), tries)
            except StoreError as error:
                results.append(error)
        return results

    async def _with_reasons(
        self, changes: Sequence[Change], landed: dict[Sid, int], with_events: bool, tries: int
    ) -> list[ChangeResult]:
        """The results; what has not landed is judged by what the rows show now.

        Never raises: whatever happens to the others, those in ``landed`` have been written, and so have the events.
        """
        results: dict[Sid, ChangeResult] = {sid: Applied(rev) for sid, rev in landed.items()}
        rest = [change for change in changes if change.sid not in landed]
        try:
            records = await self._load([change.sid for change in rest])
            again: list[Change] = []
            for change in rest:
                written, outcome = apply(records.get(change.sid), change, NO_TIME)
                if written is None:
                    results[change.sid] = outcome
                else:
                    again.append(change)  # its row changed between the two statements: nothing stands against it now
            if again and tries == 1:
                raise StoreError(
                    f"PostgreSQL at {self._where}: a session kept changing while it was written; try again.",
                    outcome="conflict",
                )
            for change, result in zip(again, await self._apply(again, (), tries - 1), strict=True):
                results[change.sid] = _unsure(result) if with_events else result
        except StoreError as error:
            for change in rest:
                results.setdefault(change.sid, _unsure(error) if with_events else error)
        return [results[change.sid] for change in changes]


def _unsure(result: ChangeResult) -> ChangeResult:
    """An error of a change whose events have been written: its caller must not take it for one that did nothing."""
    return StoreUnavailable(str(result), outcome="unknown") if isinstance(result, StoreError) else result


class Refused(Exception):
    """A statement was rolled back, and one of its changes or events may be the reason."""

    def __init__(self, error: StoreError | SessionDataError) -> None:
        super().__init__(str(error))
        self.error = error
