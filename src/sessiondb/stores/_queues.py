"""What ``coalescing`` waits with: the loads and the changes that have not been sent yet.

A queue knows what may go out together and who waits for it; ``_runner`` knows when. Nothing but ``send`` awaits.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from functools import reduce
from itertools import islice

from sessiondb.core.change import Change, Update, merge
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores._runner import Batch, as_store_error, check_length, fail_all
from sessiondb.stores.base import ChangeResult, Store

# Errors travel as results: a future that holds an exception complains when its waiter has gone.
Loaded = asyncio.Future[Record | Exception | None]
Written = asyncio.Future[list[ChangeResult] | Exception]


class LoadBatch(Batch):
    """Sids, and for each the callers that wait for it."""

    __slots__ = ("sids", "waiters")

    def __init__(self) -> None:
        super().__init__()
        self.sids: list[Sid] = []
        self.waiters: list[list[Loaded]] = []

    def add(self, sid: Sid, waiters: list[Loaded]) -> None:
        """One more sid, and who waits for it."""
        self.sids.append(sid)
        self.waiters.append(waiters)


class Loads:
    """Loads that have not been sent: one entry per sid, whoever asks."""

    __slots__ = ("_loop", "_most", "_queued", "_store")

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._most = store.batching.loads
        self._loop = loop
        self._queued: dict[Sid, tuple[float, list[Loaded]]] = {}

    def add(self, sid: Sid) -> Loaded:
        """The future record of ``sid``; cancelling it gives it up."""
        waiter: Loaded = self._loop.create_future()
        entry = self._queued.get(sid)
        if entry is None:
            self._queued[sid] = (self._loop.time(), [waiter])
        else:
            entry[1].append(waiter)
        return waiter

    def take(self) -> LoadBatch | None:
        """The next batch, oldest first, without what nobody waits for any more."""
        while queued := self._queued:
            if len(queued) <= self._most:
                self._queued = {}
            else:
                queued = dict(islice(queued.items(), self._most))
                for sid in queued:
                    del self._queued[sid]
            batch = LoadBatch()
            for sid, (since, waiters) in queued.items():
                if waiters[0].done() and all(waiter.done() for waiter in waiters):
                    continue
                batch.add(sid, waiters)
                if since < batch.since:
                    batch.since = since
            if batch.sids:
                return batch
        return None

    async def send(self, batch: LoadBatch) -> None:
        """Load ``batch`` and answer its callers."""
        try:
            await self._load(batch)
        except (StoreError, OSError):
            raise
        except Exception:
            if len(batch.sids) == 1:
                raise
        else:
            return
        # One of the rows cannot be read. It fails its own reader, not everybody who asked in the same moment.
        for sid, waiters in zip(batch.sids, batch.waiters, strict=True):
            alone = LoadBatch()
            alone.add(sid, waiters)
            try:
                await self._load(alone)
            except Exception as error:
                self.fail(alone, as_store_error(error, self._store.name, "not_applied"))

    async def _load(self, batch: LoadBatch) -> None:
        records = await self._store.load(batch.sids)
        check_length(self._store.name, len(batch.sids), len(records), "not_applied")
        for sid, waiters, record in zip(batch.sids, batch.waiters, records, strict=True):
            if record is not None and record.sid != sid:
                raise StoreError(f"The {self._store.name} store answered another session than it was asked for.")
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(record)

    def fail(self, batch: LoadBatch, error: Exception) -> None:
        """Answer ``error`` to whoever in ``batch`` still waits."""
        for waiters in batch.waiters:
            fail_all(waiters, error)

    def release(self, batch: LoadBatch) -> None:
        """The call of ``batch`` is over. A load keeps nothing from being sent."""

    def oldest(self) -> float:
        """When the oldest entry came (loop time), or infinity."""
        return next((since for since, _ in self._queued.values()), math.inf)

    def drop(self, until: float, error: Exception) -> None:
        """Answer ``error`` to what came no later than ``until``, and forget it."""
        for sid, (since, waiters) in list(self._queued.items()):
            if since > until:
                break
            del self._queued[sid]
            fail_all(waiters, error)


class _Call:
    """One caller's changes and events."""

    __slots__ = ("changes", "events", "waiter")

    def __init__(self, changes: Sequence[Change], events: Sequence[Event], waiter: Written) -> None:
        self.changes = tuple(changes)  # the caller may be gone, and use its list again, before they are sent
        self.events = tuple(events)
        self.waiter = waiter


class _Write:
    """What goes out as one: one caller's changes, or unguarded updates of one session by several callers.

    ``waiting`` counts the lanes in which another write is ahead of it.
    """

    __slots__ = ("calls", "mergeable", "sent", "since", "waiting")

    def __init__(self, call: _Call, mergeable: bool, since: float) -> None:
        self.calls = [call]
        self.mergeable = mergeable
        self.since = since
        self.sent = False
        self.waiting = 0

    @property
    def sids(self) -> list[Sid]:
        """The sessions it writes to."""
        return [change.sid for change in self.calls[0].changes]

    def changes(self) -> Sequence[Change]:
        """What is sent."""
        calls = self.calls
        if len(calls) == 1:
            return calls[0].changes
        return [reduce(merge, [change for call in calls for change in call.changes if isinstance(change, Update)])]

    def answer(self, results: list[ChangeResult]) -> None:
        """Give every caller the results: merged callers share one outcome."""
        for call in self.calls:
            if not call.waiter.done():
                call.waiter.set_result(results[:])


class WriteBatch(Batch):
    """Writes, and the changes and events that they come to."""

    __slots__ = ("changes", "events", "writes")

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[_Write] = []
        self.changes: list[Change] = []
        self.events: list[Event] = []

    def add(self, write: _Write) -> None:
        """One more write; from now on nothing can join it."""
        write.sent = True
        self.since = min(self.since, write.since)
        self.writes.append(write)
        self.changes.extend(write.changes())
        for call in write.calls:
            self.events.extend(call.events)


class Writes:
    """Changes that wait. A session's writes stand in its lane in the order of the calls, the one under way first.

    A write is ready when it is first in the lanes of all its sessions, so the changes of one call go out together,
    and no call of the store has a sid twice.
    """

    __slots__ = ("_lanes", "_loop", "_most", "_ready", "_store")

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._most = store.batching.changes
        self._loop = loop
        self._lanes: dict[Sid, deque[_Write]] = {}
        self._ready: deque[_Write] = deque()

    def add(self, changes: Sequence[Change], events: Sequence[Event]) -> Written:
        """The future results of ``changes``, which have at least one change and no sid twice."""
        call = _Call(changes, events, self._loop.create_future())
        mergeable = False
        if len(changes) == 1:
            change = changes[0]
            mergeable = isinstance(change, Update) and not change.guarded
            lane = self._lanes.get(change.sid)
            if mergeable and lane is not None and lane[-1].mergeable and not lane[-1].sent:
                lane[-1].calls.append(call)
                return call.waiter
        write = _Write(call, mergeable, self._loop.time())
        for change in changes:
            lane = self._lanes.get(change.sid)
            if lane is None:
                self._lanes[change.sid] = deque((write,))
            else:
                lane.append(write)
                write.waiting += 1
        if not write.waiting:
            self._ready.append(write)
        return call.waiter

    def take(self) -> WriteBatch | None:
        """The next batch: what has been ready longest. Whether anybody still waits does not matter."""
        ready = self._ready
        if not ready:
            return None
        batch = WriteBatch()
        while ready and (not batch.writes or len(batch.changes) + len(ready[0].calls[0].changes) <= self._most):
            batch.add(ready.popleft())
        return batch

    async def send(self, batch: WriteBatch) -> None:
        """Apply ``batch`` and answer its callers."""
        results = await self._apply(batch.changes, batch.events)
        refused = []
        at = 0
        for write in batch.writes:
            end = at + len(write.calls[0].changes)
            if len(write.calls) > 1 and _refused(results[at]):
                refused.append(write)
            else:
                write.answer(results[at:end])
            at = end
        # What was refused as a whole may be the fault of one of the callers. Their events have been written.
        for write in refused:
            for call in write.calls:
                alone = _Write(call, False, write.since)
                try:
                    alone.answer(await self._apply(call.changes, ()))
                except Exception as error:
                    fail_all((call.waiter,), as_store_error(error, self._store.name, "unknown"))

    async def _apply(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        results = await self._store.apply(changes, events)
        check_length(self._store.name, len(changes), len(results), "unknown")
        return results

    def fail(self, batch: WriteBatch, error: Exception) -> None:
        """Answer ``error`` to whoever in ``batch`` still waits."""
        for write in batch.writes:
            fail_all((call.waiter for call in write.calls), error)

    def release(self, batch: WriteBatch) -> None:
        """The call of ``batch`` is over: whatever comes next in its lanes may go."""
        for write in batch.writes:
            self._leave_lanes(write)

    def oldest(self) -> float:
        """When the oldest write came that has not been sent (loop time), or infinity."""
        return min((write.since for write in self._unsent()), default=math.inf)

    def drop(self, until: float, error: Exception) -> None:
        """Answer ``error`` to what came no later than ``until`` and has not been sent, and never send it."""
        for write in self._unsent():
            if write.since <= until:
                if not write.waiting:
                    self._ready.remove(write)
                self._leave_lanes(write)
                fail_all((call.waiter for call in write.calls), error)

    def _unsent(self) -> list[_Write]:
        return list(dict.fromkeys(write for lane in self._lanes.values() for write in lane if not write.sent))

    def _leave_lanes(self, write: _Write) -> None:
        for sid in write.sids:
            lane = self._lanes[sid]
            if lane[0] is not write:
                lane.remove(write)
                continue
            lane.popleft()
            if not lane:
                del self._lanes[sid]
                continue
            lane[0].waiting -= 1
            if not lane[0].waiting:
                self._ready.append(lane[0])


def _refused(result: ChangeResult) -> bool:
    return isinstance(result, SessionDataError) or (isinstance(result, StoreError) and result.outcome == "not_applied")
