"""Stores that lose users, failures and logins: laws 9, 10 and 11."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace
from planted_times import BOUNDLESS

from sessiondb.core.change import Applied, Change, Create, End
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._table import Table
from sessiondb.stores.base import (
    Admission,
    ChangeResult,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Query,
    Stats,
)
from sessiondb.stores.memory import MemoryStore

# -- law 9 ---------------------------------------------------------------------------------------------------


class EndsNothing(MemoryStore):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        await super().end_where(replace(query, sids=[]), reason)
        return []


class FindsEverybody(MemoryStore):
    async def find(self, query: Query) -> Page:
        return await super().find(replace(query, user_id=None))


class FoldsCase(MemoryStore):
    """A collation: ``Alice`` ends ``alice``'s sessions."""

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        ended = await super().end_where(query, reason)
        for user_id in list(self._table._users):
            if query.user_id is not None and user_id.casefold() == query.user_id.casefold():
                ended += await super().end_where(replace(query, user_id=user_id), reason)
        return ended


class RevokeStopsAtLimit(MemoryStore):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        page = await self.find(replace(query, state="live"))
        return await super().end_where(replace(query, sids=[record.sid for record in page.records]), reason)


class LosesPages(MemoryStore):
    async def find(self, query: Query) -> Page:
        return replace(await super().find(query), next=None)


class LosesEvents(MemoryStore):
    async def events(self, query: EventQuery) -> EventPage:
        page = await super().events(query)
        return dataclasses.replace(page, events=[dataclasses.replace(event, details={}) for event in page.events])


class FindsAllEvents(MemoryStore):
    async def events(self, query: EventQuery) -> EventPage:
        return await super().events(EventQuery(after=query.after, limit=query.limit))


class CountsEverything(MemoryStore):
    async def stats(self) -> Stats:
        stats = await super().stats()
        return dataclasses.replace(stats, live=stats.live + 1)


# -- law 10 --------------------------------------------------------------------------------------------------


class ClosedIsEmpty(MemoryStore):
    """Closed, it knows nobody: every user is logged out by a restart of the database."""

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        return await super().load(sids) if self._opened else [None for _ in sids]


class OneFailsAll(MemoryStore):
    """A bad change fails its batch."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        before = dict(self._table.records)
        results = await super().apply(changes, events)
        if any(isinstance(one, (SessionDataError, StoreError)) for one in results):
            for sid, record in before.items():
                self._table.put(record) if sid in self._table.records else None
            return [StoreError("the batch failed") for _ in changes]
        return results


class CrossesReplies(MemoryStore):
    """A caller that goes away leaves its reply on the connection for the next one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._left: list[list[Record | None]] = []

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        answer = await super().load(sids)
        self._left.append(answer)
        await asyncio.sleep(0)
        return self._left.pop(0)


class FailsWhenBusy(MemoryStore):
    """Deadlocks are not retried: whoever comes while another one writes gets an error."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._writing = False

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        if self._writing:
            return [StoreUnavailable("deadlock found") for _ in changes]
        self._writing = True
        try:
            await asyncio.sleep(0)
            return await super().apply(changes, events)
        finally:
            self._writing = False


class SwallowsOutage(MemoryStore):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        with suppress(StoreUnavailable):
            return await super().end_where(query, reason)
        return []


# -- law 11 --------------------------------------------------------------------------------------------------


class DropsEndBesideCreate(MemoryStore):
    """The end of the anonymous session is lost when it comes with the create of the new one."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        if not any(isinstance(change, Create) for change in changes):
            return await super().apply(changes, events)
        results = await super().apply([change for change in changes if not isinstance(change, End)], events)
        given = iter(results)
        return [Applied(2) if isinstance(change, End) else next(given) for change in changes]


class IgnoresNotBefore(MemoryStore):
    def _forbid_before(self, user_id: str, not_before: int) -> None:
        pass


class NotBeforeMovesBack(MemoryStore):
    def _forbid_before(self, user_id: str, not_before: int) -> None:
        self._not_before[user_id] = not_before


class CountsTheDead(MemoryStore):
    async def admit(self, login: Login) -> Admission:
        return await super().admit(replace(login, caps=Caps(BOUNDLESS, BOUNDLESS), now=login.now - 10**12))


class CountsBeforeItLocks(MemoryStore):
    """A snapshot from before the lock: a login sees who was admitted when it was written, and not its rivals."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._admitted: set[Sid] = set()
        self._seen: dict[Sid, set[Sid]] = {}

    def _apply(self, change: Change, now: int) -> ChangeResult:
        if isinstance(change, Create):
            self._seen[change.sid] = {*self._admitted, change.sid}
        return super()._apply(change, now)

    def _admit(self, login: Login) -> Admission:
        self._admitted.add(login.sid)
        seen = self._seen.get(login.sid, set())
        whole, self._table = self._table, Table()
        for record in whole.records.values():
            if record.sid in seen:
                self._table.put(record)
        try:
            return super()._admit(login)
        finally:
            part, self._table = self._table, whole
            for record in part.records.values():
                whole.put(record)


class RefusesByRank(MemoryStore):
    """A sid that was minted early and written late passes a full house."""

    def _admit(self, login: Login) -> Admission:
        if login.on_limit == "refuse" and login.per_user is not None:
            sids = sorted(one.sid for one in self._table.of_user(login.user_id) if one.ended_at is None)
            if login.sid in sids[: login.per_user]:
                return super()._admit(replace(login, per_user=None))
        return super()._admit(login)
