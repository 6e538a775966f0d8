"""Stores that answer too early, or with the wrong time: laws 4, 6 and 7."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from planted_writes import Rewriting

from sessiondb.core.change import Applied, Change, Create, Update
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import (
    ChangeResult,
    Cutoffs,
    Ended,
    Page,
    Query,
    Swept,
)
from sessiondb.stores.memory import MemoryStore

BOUNDLESS = Lifetimes(10**17, 10**17)


# -- law 4 ---------------------------------------------------------------------------------------------------


class AdoptsUnknown(MemoryStore):
    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        found = await super().load(sids)
        for sid, record in zip(sids, found, strict=True):
            if record is None:
                now = self._clock()
                fields: dict[str, Any] = {"created_at": now, "last_seen_at": now, "check_at": now + 10**12}
                fields |= {"series_hash": b"", "secret_hash": b"", "idle": 10**12, "absolute": 10**12}
                self._table.put(Record(sid=sid, **fields))
        return found


# -- law 6 ---------------------------------------------------------------------------------------------------


class AnswersFirst(MemoryStore):
    """Says that it has been written, and writes in the next turn of the loop."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        self._check_open()

        def write() -> None:
            for change in changes:
                self._apply(change, self._clock())
            self._append(events)

        asyncio.get_running_loop().call_later(0.001, write)
        return [Applied(change.record.rev if isinstance(change, Create) else 2) for change in changes]


class StaleCache(MemoryStore):
    """Remembers what it has loaded and does not hear of writes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._cache: dict[Sid, Record] = {}

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        for sid, record in zip(sids, await super().load(sids), strict=True):
            if record is not None:
                self._cache.setdefault(sid, record)
        return [self._cache.get(sid) for sid in sids]


class EventsLater(MemoryStore):
    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        asyncio.get_running_loop().call_later(0.001, self._append, events)
        return await super().apply(changes)


# -- law 7 ---------------------------------------------------------------------------------------------------


class TouchFromTheFuture(MemoryStore):
    def _apply(self, change: Change, now: int) -> ChangeResult:
        return super()._apply(change, 10**17)


class TouchMovesBack(Rewriting):
    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        if isinstance(change, Update) and change.touch is not None:
            return replace(written, last_seen_at=min(change.touch.at, self._clock()))
        return written


class CountsMilliseconds(MemoryStore):
    async def clock(self) -> int:
        return await super().clock() // 1000


class SweepIgnoresCaps(MemoryStore):
    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        return await super().sweep(replace(cutoffs, caps=Caps(BOUNDLESS, BOUNDLESS)), limit)


class SweepIgnoresTouches(MemoryStore):
    """Ends what ``check_at`` calls due, without looking at the real deadline."""

    def _sweep_one(self, record: Record, cutoffs: Cutoffs) -> Ended | None:
        return super()._sweep_one(replace(record, last_seen_at=record.created_at), cutoffs)


class SweepWithoutGrace(MemoryStore):
    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        return await super().sweep(replace(cutoffs, now=cutoffs.now + 30_000_000), limit)


class SweepReportsTwice(MemoryStore):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._reported: list[Ended] = []

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        swept = await super().sweep(cutoffs, limit)
        again, self._reported = self._reported, list(swept.ended)
        return dataclasses.replace(swept, ended=[*swept.ended, *again[:1]])


class SweepWithoutTurn(MemoryStore):
    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        return await super().sweep(replace(cutoffs, worker=None), limit)


class ListsTheDead(MemoryStore):
    async def find(self, query: Query) -> Page:
        return await super().find(replace(query, caps=Caps(BOUNDLESS, BOUNDLESS)))
