"""Stores that answer too early, or with the wrong time: laws 4, 6 and 7."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace
from planting import BOUNDLESS, Showing, blank_record

from sessiondb.core.change import Applied, Change, Create, End, Update, new_change_id
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import SWEEP_GRACE, ChangeResult, Cutoffs, Ended, Page, Query, Store, Swept
from sessiondb.testing import StoreWrapper

Answer = TypeVar("Answer")

# -- law 4 ---------------------------------------------------------------------------------------------------


class AdoptsUnknown(StoreWrapper):
    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        found = await super().load(sids)
        now = await self.store.clock()
        missing = [sid for sid, record in zip(sids, found, strict=True) if record is None]
        await self.store.apply([Create(blank_record(sid, now)) for sid in dict.fromkeys(missing)])
        return found


# -- law 6 ---------------------------------------------------------------------------------------------------


class AnswersFirst(StoreWrapper):
    """Says that it has been written, and writes only after the next question."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._waiting: list[tuple[Sequence[Change], Sequence[Event]]] = []

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        self._waiting.append((changes, events))
        return [Applied(change.record.rev if isinstance(change, Create) else 2) for change in changes]

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        answer = await call() if method != "close" else None
        waiting, self._waiting = self._waiting, []
        for changes, events in waiting:
            await self.store.apply(changes, events)
        return answer if method != "close" else await call()  # type: ignore[return-value]


class StaleCache(StoreWrapper):
    """Remembers what it has loaded and does not hear of writes."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._cache: dict[Sid, Record] = {}

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        for sid, record in zip(sids, await super().load(sids), strict=True):
            if record is not None:
                self._cache.setdefault(sid, record)
        return [self._cache.get(sid) for sid in sids]


class EventsLater(StoreWrapper):
    """Events are written only after the next call."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._waiting: list[Event] = []

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        waiting, self._waiting = self._waiting, []
        answer = await call()
        if method != "close":
            await self.store.append(waiting)
        return answer

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        results = await super().apply(changes)
        self._waiting += events
        return results


class EventsOfSuccess(StoreWrapper):
    """A transaction that changes no session is rolled back, and its events with it."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        results = await super().apply(changes)
        if any(isinstance(result, Applied) for result in results):
            await super().append(events)
        return results


# -- law 7 ---------------------------------------------------------------------------------------------------


class TouchFromTheFuture(Showing):
    """Believes a touch, even one that is ahead of the database's clock."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._seen: dict[Sid, int] = {}

    def shown(self, record: Record) -> Record:
        return replace(record, last_seen_at=max(record.last_seen_at, self._seen.get(record.sid, 0)))

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        for change in changes:
            if isinstance(change, Update) and change.touch is not None:
                self._seen[change.sid] = max(self._seen.get(change.sid, 0), change.touch.at)
        return await super().apply(changes, events)


class TouchMovesBack(Showing):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._seen: dict[Sid, int] = {}

    def shown(self, record: Record) -> Record:
        return replace(record, last_seen_at=min(record.last_seen_at, self._seen.get(record.sid, record.last_seen_at)))

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        for change in changes:
            if isinstance(change, Update) and change.touch is not None:
                self._seen[change.sid] = change.touch.at
        return await super().apply(changes, events)


class CountsMilliseconds(StoreWrapper):
    async def clock(self) -> int:
        return await super().clock() // 1000


class SweepIgnoresCaps(StoreWrapper):
    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        return await super().sweep(replace(cutoffs, caps=BOUNDLESS), limit)


class SweepIgnoresTouches(StoreWrapper):
    """Ends what has not been used since it was made, whatever touches say."""

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        swept = await super().sweep(cutoffs, limit)
        page = await self.store.find(Query(now=cutoffs.now, caps=cutoffs.caps, limit=limit))
        ended: list[Ended] = []
        for record in page.records:
            untouched = replace(record, last_seen_at=record.created_at)
            at, reason = cutoffs.caps.deadline(untouched), cutoffs.caps.expiry_reason(untouched)
            if at + SWEEP_GRACE <= cutoffs.now:
                await self.store.apply([End(record.sid, new_change_id(), reason, at, cutoffs.now + cutoffs.keep_ended)])
                ended.append(Ended(record.sid, record.user_id, reason.value, at))
        return dataclasses.replace(swept, ended=[*swept.ended, *ended])


class SweepWithoutGrace(StoreWrapper):
    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        return await super().sweep(replace(cutoffs, now=cutoffs.now + 30_000_000), limit)


class SweepReportsTwice(StoreWrapper):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._reported: list[Ended] = []

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        swept = await super().sweep(cutoffs, limit)
        again, self._reported = self._reported, list(swept.ended)
        return dataclasses.replace(swept, ended=[*swept.ended, *again[:1]])


class SweepWithoutTurn(StoreWrapper):
    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        return await super().sweep(replace(cutoffs, worker=None), limit)


class ListsTheDead(StoreWrapper):
    async def find(self, query: Query) -> Page:
        return await super().find(replace(query, caps=BOUNDLESS))
