"""Writes that no request waits for: touches, ends seen on load, and events. Batched, retried, bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sessiondb.core.change import Change, End, Touch, Update, merge_touches, new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event
from sessiondb.core.token import Sid
from sessiondb.outage import Outage
from sessiondb.stores.base import Store

FLUSH_EVERY = 1.0
MOST_EVENTS = 10_000
MOST_CHANGES = 100_000


class Waiting(NamedTuple):
    """How many touches, ends and events have not been written."""

    touches: int
    ends: int
    events: int


class Background:
    """The queue of one event loop. What cannot be written now is tried again with the next batch.

    When the database stays away, the queue keeps the newest touch per session, and drops and counts what is over
    its bounds (``dropped_events``, ``dropped_touches``) instead of growing.
    """

    def __init__(self, store: Store, counters: Counter[str]) -> None:
        self._store = store
        self._counters = counters
        self._outage = Outage(f"{store.name}, writing touches and events, which are kept and tried again")
        self._touches: dict[Sid, Touch] = {}
        self._ends: dict[Sid, End] = {}
        self._events: list[Event] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def touch(self, sid: Sid, touch: Touch) -> None:
        """Queue "seen at"; one session has at most one touch waiting."""
        merged = merge_touches(self._touches.get(sid), touch)
        if merged is not None and (sid in self._touches or len(self._touches) < MOST_CHANGES):
            self._touches[sid] = merged
        else:
            self._counters["dropped_touches"] += 1
        self._schedule()

    def end(self, change: End, event: Event | None = None) -> None:
        """Queue the end of a session that nobody waits for."""
        if len(self._ends) < MOST_CHANGES:
            self._ends[change.sid] = change
        if event is not None:
            self.event(event)
        self._schedule()

    def hurry(self) -> None:
        """Write what waits at once, and not within the second."""
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(0, self._on_timer)

    def is_ending(self, sid: Sid) -> bool:
        """Whether the end of ``sid`` waits to be written."""
        return sid in self._ends

    def event(self, event: Event) -> None:
        """Queue an event."""
        if len(self._events) < MOST_EVENTS:
            self._events.append(event)
        else:
            self._counters["dropped_events"] += 1
        self._schedule()

    def seen(self, sid: Sid) -> int:
        """The newest touch of ``sid`` that waits to be written, or 0."""
        touch = self._touches.get(sid)
        return 0 if touch is None else touch.at

    @property
    def waiting(self) -> Waiting:
        """How much has not been written yet; what a batch under way carries is not counted."""
        return Waiting(len(self._touches), len(self._ends), len(self._events))

    async def give_up(self) -> Waiting:
        """Stop; what a batch under way carries counts as not written. Returns what is lost."""
        self.stop()
        if self._flushing is not None and not self._flushing.done():
            self._flushing.cancel()
            await asyncio.wait([self._flushing])
        self.stop()
        return self.waiting

    async def flush(self) -> None:
        """Write all that waits, now. What fails stays queued; nothing is raised."""
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait([self._flushing])
        await self._flush()

    def stop(self) -> None:
        """No more timers. Call ``flush`` first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush())
        else:
            self._schedule()

    async def _flush(self) -> None:
        touches, self._touches = self._touches, {}
        ends, self._ends = self._ends, {}
        events, self._events = self._events, []
        try:
            await self._write_changes(touches, ends)
            if events:
                await self._write_events(events)
        except asyncio.CancelledError:
            self._put_back(touches, ends)
            self._put_back_events(events)
            raise

    async def _write_changes(self, touches: dict[Sid, Touch], ends: dict[Sid, End]) -> None:
        # A session that ends needs no touch, and the sids of one batch are unique.
        changes: list[Change] = [*ends.values()]
        changes += [
            Update(sid=sid, id=new_change_id(), touch=touch) for sid, touch in touches.items() if sid not in ends
        ]
        size = self._store.batching.changes
        for start in range(0, len(changes), size):
            await self._write_batch(changes[start : start + size])

    async def _write_batch(self, changes: Sequence[Change]) -> None:
        try:
            results = await self._store.apply(changes)
        except StoreError as error:
            self._failed(changes, error)
            return
        failed = [change for change, result in zip(changes, results, strict=True) if isinstance(result, StoreError)]
        if failed:
            self._failed(failed, next(result for result in results if isinstance(result, StoreError)))
        elif self._outage.lasting:
            self._outage.over()

    def _failed(self, changes: Sequence[Change], error: StoreError) -> None:
        self._counters["background_write_failures"] += len(changes)
        self._outage.failed(error)
        self._put_back(
            {c.sid: c.touch for c in changes if isinstance(c, Update) and c.touch is not None},
            {c.sid: c for c in changes if isinstance(c, End)},
        )

    def _put_back(self, touches: dict[Sid, Touch], ends: dict[Sid, End]) -> None:
        for sid, touch in touches.items():
            self.touch(sid, touch)
        for end in ends.values():
            self.end(end)

    async def _write_events(self, events: list[Event]) -> None:
        try:
            await self._store.append(events)
        except StoreError as error:
            self._counters["background_write_failures"] += len(events)
            self._outage.failed(error)
            self._put_back_events(events)
        else:
            if self._outage.lasting:
                self._outage.over()

    def _put_back_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self.event(event)
