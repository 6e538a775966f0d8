"""Writes that no request waits for: touches, ends seen on load, and events. Batched, retried, bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from sessiondb.core.change import End, Touch, Update
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event
from sessiondb.core.token import Sid
from sessiondb.outage import Outage
from sessiondb.stores.base import Store
from sessiondb.touches import Touches

FLUSH_EVERY = 1.0
MOST_EVENTS = 10_000
MOST_ENDS = 100_000


_End = tuple[End, Event | None]


class Waiting(NamedTuple):
    """How many touches, ends and events have not been written."""

    touches: int
    ends: int
    events: int


class Background:
    """The queue of one event loop. What cannot be written now is tried again with the next batch.

    When the database stays away, the queue keeps the newest touch per session, and drops and counts what is over
    its bounds (``dropped_events``, ``dropped_touches``) instead of growing. Touches, of which there may be many, are
    written beside the rest, spread over the time until the next round; ends and events wait for none of them.
    """

    def __init__(self, store: Store, counters: Counter[str]) -> None:
        self._store = store
        self._counters = counters
        self._outage = Outage(f"{store.name}, writing touches and events, which are kept and tried again")
        self._touches = Touches(store, counters, self._outage)
        self._ends: dict[Sid, _End] = {}
        self._events: list[Event] = []
        self._logins: list[tuple[str, bytes, int]] = []
        self._changes: dict[Sid, Update] = {}
        self._unsettled = 0  # events that were sent, and which the store writes again with the next ones
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        self._touching: asyncio.Task[None] | None = None

    def touch(self, sid: Sid, touch: Touch) -> None:
        """Queue "seen at"; one session has at most one touch waiting."""
        self._touches.add(sid, touch)
        self._schedule()

    def end(self, change: End, event: Event | None = None) -> None:
        """Queue the end of a session that nobody waits for."""
        self._touches.forget(change.sid)
        if len(self._ends) < MOST_ENDS:
            self._ends[change.sid] = change, event
        elif event is not None:
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

    def change(self, change: Update) -> None:
        """Queue an update that nobody waits for; where it cannot be written now it is tried with the next batch."""
        if len(self._changes) < MOST_EVENTS:
            self._changes[change.sid] = change
        self.hurry()

    def login(self, user_id: str, entry: bytes, expires_at: int) -> None:
        """Queue an entry of a user's history of logins."""
        if len(self._logins) < MOST_EVENTS:
            self._logins.append((user_id, entry, expires_at))
        else:
            self._counters["dropped_logins"] += 1
        self._schedule()

    def seen(self, sid: Sid) -> int:
        """The newest touch of ``sid`` that waits, is under way or was written not long ago; or 0."""
        return self._touches.seen(sid)

    @property
    def waiting(self) -> Waiting:
        """How much has not been written yet; what a call under way carries may not be counted."""
        events = len(self._events) + self._unsettled + sum(event is not None for _, event in self._ends.values())
        return Waiting(len(self._touches), len(self._ends), events)

    async def give_up(self) -> Waiting:
        """Stop; what a batch under way carries counts as not written. Returns what is lost."""
        self.stop()
        await _cancel(self._running())
        self.stop()
        return self.waiting

    async def flush(self) -> None:
        """Write all that waits, now. What fails stays queued; nothing is raised."""
        self._touches.hurry()
        while running := self._running():
            await asyncio.wait(running)
        self._start_telling()
        self._start_touching(0.0)
        if running := self._running():
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError:
                await _cancel(running)
                raise
            for task in running:
                task.result()

    def stop(self) -> None:
        """No more timers. Call ``flush`` first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _running(self) -> list[asyncio.Task[None]]:
        return [task for task in (self._telling, self._touching) if task is not None and not task.done()]

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._telling is not None and not self._telling.done():
            self._schedule()
        else:
            self._start_telling()
        if self._touching is not None and not self._touching.done():
            self._schedule()
        else:
            self._start_touching(FLUSH_EVERY)

    def _start_telling(self) -> None:
        if self._ends or self._events or self._unsettled or self._logins or self._changes:
            self._telling = _start(self._tell())

    def _start_touching(self, within: float) -> None:
        if len(self._touches):
            self._touching = _start(self._touch(within))

    async def _touch(self, within: float) -> None:
        try:
            await self._touches.write(within)
        finally:
            if len(self._touches):
                self._schedule()

    async def _tell(self) -> None:
        """Write the ends, then the events."""
        ends, self._ends = self._ends, {}
        events, self._events = self._events, []
        try:
            await self._write_ends([*ends.values()])
        except asyncio.CancelledError:
            self._put_back(ends.values())
            self._put_back_events(events)
            raise
        if events or self._unsettled:
            await self._write_events(events)
        if self._logins:
            await self._write_logins()
        if self._changes:
            await self._write_changes()

    async def _write_ends(self, ends: Sequence[_End]) -> None:
        size = self._store.batching.changes
        for start in range(0, len(ends), size):
            await self._write_batch(ends[start : start + size])

    async def _write_batch(self, ends: Sequence[_End]) -> None:
        try:
            results = await self._store.apply(
                [end for end, _ in ends], [event for _, event in ends if event is not None]
            )
        except StoreError as error:
            self._failed(ends, error)
            return
        failed = [end for end, result in zip(ends, results, strict=True) if isinstance(result, StoreError)]
        if failed:
            self._failed(failed, next(result for result in results if isinstance(result, StoreError)))
        elif self._outage.lasting:
            self._outage.over()

    def _failed(self, ends: Sequence[_End], error: StoreError) -> None:
        self._counters["background_write_failures"] += len(ends)
        self._outage.failed(error)
        self._put_back(ends)

    def _put_back(self, ends: Iterable[_End]) -> None:
        for end, event in ends:
            self.end(end, event)

    async def _write_events(self, events: list[Event]) -> None:
        try:
            await self._store.append(events)
        except asyncio.CancelledError:
            self._unsettled += len(events)
            raise
        except StoreError as error:
            self._counters["background_write_failures"] += len(events)
            self._outage.failed(error)
            if error.outcome == "not_applied":
                self._put_back_events(events)
            else:
                self._unsettled += len(events)
                self._schedule()
        else:
            self._unsettled = 0
            if self._outage.lasting:
                self._outage.over()

    async def _write_changes(self) -> None:
        for sid in list(self._changes)[: self._store.batching.changes]:
            change = self._changes.pop(sid)
            try:
                [result] = await self._store.apply([change])
            except StoreError as error:
                result = error
            if isinstance(result, StoreError):
                self._counters["background_write_failures"] += 1
                self._outage.failed(result)
                self._changes.setdefault(sid, change)
                self._schedule()
                return

    async def _write_logins(self) -> None:
        """What cannot be written now is tried with the next batch: without it a known device looks new."""
        logins, self._logins = self._logins, []
        try:
            await self._store.record_logins(
                [(user_id, entry) for user_id, entry, _ in logins], max(expires_at for _, _, expires_at in logins)
            )
        except StoreError as error:
            self._counters["background_write_failures"] += len(logins)
            self._outage.failed(error)
            if error.outcome == "not_applied":
                self._logins = [*logins, *self._logins]
                self._schedule()

    def _put_back_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self.event(event)


def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
