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

import msgspec

from sessiondb.core.change import Change, Update, merge
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores._runner import Batch, as_store_error, check_length, fail_all
from sessiondb.stores.base import ChangeResult, PartlyLoaded, Store

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

    @property
    def size(self) -> int:
        """As ``Batch``."""
        return len(self.sids)


class Loads:
    """Loads that have not been sent: one entry per sid, whoever asks."""

    __slots__ = ("_loop", "_most", "_name", "_queued", "_store")

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._name = store.name
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
                if not batch.sids:
                    batch.since = since
                batch.sids.append(sid)
                batch.waiters.append(waiters)
            if batch.sids:
                return batch
        return None

    async def send(self, batch: LoadBatch) -> None:
        """Load ``batch`` and answer its callers; those whose part of the database is away with that error."""
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
            alone.sids.append(sid)
            alone.waiters.append(waiters)
            try:
                await self._load(alone)
            except Exception as error:
                self.fail(alone, as_store_error(error, self._name, "not_applied"))

    async def _load(self, batch: LoadBatch) -> None:
        records: Sequence[Record | StoreUnavailable | None]
        try:
            records = await self._store.load(batch.sids)
        except PartlyLoaded as error:
            records = error.records
        check_length(self._name, len(batch.sids), len(records), "not_applied")
        for sid, waiters, record in zip(batch.sids, batch.waiters, records, strict=True):
            if isinstance(record, Record) and record.sid != sid:
                raise StoreError(f"The {self._name} store answered another session than it was asked for.")
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


class _Write(msgspec.Struct, eq=False):
    """One caller's changes and events, which go out together.

    ``joined`` are other callers' writes that go out merged with it. ``behind`` are those that wait until it is over,
    once for each session that both write to; ``ahead`` counts those that it waits for itself.
    """

    changes: Sequence[Change]
    events: Sequence[Event]
    waiter: Written
    since: float
    mergeable: bool
    ahead: int = 0
    joined: list[_Write] | None = None
    behind: list[_Write] | None = None
    dropped: bool = False

    def callers(self) -> Sequence[_Write]:
        """Whoever waits for it."""
        return (self, *self.joined) if self.joined is not None else (self,)


class WriteBatch(Batch):
    """Writes, and the changes and events that they come to."""

    __slots__ = ("changes", "events", "writes")

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[_Write] = []
        self.changes: list[Change] = []
        self.events: list[Event] = []

    @property
    def size(self) -> int:
        """As ``Batch``."""
        return len(self.writes)


class Writes:
    """Changes that wait. Writes to one session follow each other in the order of the calls, the one under way first.

    A write is ready when none is ahead of it in any of its sessions, so the changes of one call go out together, and
    no call of the store has a sid twice.
    """

    __slots__ = ("_last", "_loop", "_most", "_name", "_ready", "_store", "_unsent")

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._name = store.name
        self._most = store.batching.changes
        self._loop = loop
        self._last: dict[Sid, _Write] = {}
        self._unsent: dict[_Write, None] = {}  # in the order of the calls
        self._ready: deque[_Write] = deque()

    def add(self, changes: Sequence[Change], events: Sequence[Event]) -> Written:
        """The future results of ``changes``, which have at least one change and no sid twice."""
        change = changes[0]
        mergeable = len(changes) == 1 and isinstance(change, Update) and not change.guarded
        waiter: Written = self._loop.create_future()
        # Copies: the caller may be gone, and use its lists again, before they are sent.
        write = _Write(tuple(changes), tuple(events), waiter, self._loop.time(), mergeable)
        last = self._last
        if mergeable and (ahead := last.get(change.sid)) is not None and ahead.mergeable:
            if ahead.joined is None:
                ahead.joined = []
            ahead.joined.append(write)
            return waiter
        for change in changes:
            ahead = last.get(change.sid)
            last[change.sid] = write
            if ahead is not None:
                if ahead.behind is None:
                    ahead.behind = []
                ahead.behind.append(write)
                write.ahead += 1
        self._unsent[write] = None
        if not write.ahead:
            self._ready.append(write)
        return waiter

    def take(self) -> WriteBatch | None:
        """The next batch: what has been ready longest. Whether anybody still waits does not matter."""
        ready = self._ready
        if not ready:
            return None
        batch = WriteBatch()
        writes, changes, events = batch.writes, batch.changes, batch.events
        while ready and (not writes or len(changes) + len(ready[0].changes) <= self._most):
            write = ready.popleft()
            del self._unsent[write]
            write.mergeable = False  # from now on nothing can join it
            writes.append(write)
            if write.joined is None:
                changes += write.changes
                events += write.events
            else:
                callers = write.callers()
                changes.append(
                    reduce(merge, [one for call in callers for one in call.changes if isinstance(one, Update)])
                )
                for call in callers:
                    events += call.events
        batch.since = min([write.since for write in writes])
        return batch

    async def send(self, batch: WriteBatch) -> StoreError | None:
        """Apply ``batch`` and answer its callers. Returns the error, if the replies to all of it were lost."""
        results = await self._apply(batch.changes, batch.events)
        refused = []
        at = 0
        for write in batch.writes:
            end = at + len(write.changes)
            if write.joined is None:
                if not write.waiter.done():
                    write.waiter.set_result(results[at:end])
            elif _refused(results[at]):
                refused.append(write)
            else:
                # Merged callers share one outcome.
                for call in write.callers():
                    if not call.waiter.done():
                        call.waiter.set_result(results[at:end])
            at = end
        # What was refused as a whole may be the fault of one of the callers. Their events were not written either.
        for write in refused:
            for call in write.callers():
                try:
                    alone = await self._apply(call.changes, call.events)
                    if not call.waiter.done():
                        call.waiter.set_result(alone)
                except Exception as error:
                    fail_all((call.waiter,), as_store_error(error, self._name, "unknown"))
        return _lost(results)

    async def _apply(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        results = await self._store.apply(changes, events)
        check_length(self._name, len(changes), len(results), "unknown")
        return results

    def fail(self, batch: WriteBatch, error: Exception) -> None:
        """Answer ``error`` to whoever in ``batch`` still waits."""
        for write in batch.writes:
            fail_all([call.waiter for call in write.callers()], error)

    def release(self, batch: WriteBatch) -> None:
        """The call of ``batch`` is over: whatever comes next in its sessions may go."""
        for write in batch.writes:
            self._over(write)

    def oldest(self) -> float:
        """When the oldest write came that has not been sent (loop time), or infinity."""
        return next((write.since for write in self._unsent), math.inf)

    def drop(self, until: float, error: Exception) -> None:
        """Answer ``error`` to what came no later than ``until`` and has not been sent, and never send it."""
        for write in list(self._unsent):
            if write.since > until:
                break
            del self._unsent[write]
            write.mergeable = False
            write.dropped = True
            if not write.ahead:
                self._ready.remove(write)
                self._over(write)
            fail_all([call.waiter for call in write.callers()], error)

    def _over(self, write: _Write) -> None:
        """Nothing has to wait for ``write`` any more."""
        last = self._last
        for change in write.changes:
            if last[change.sid] is write:
                del last[change.sid]
        for following in write.behind or ():
            following.ahead -= 1
            if not following.ahead:
                if following.dropped:
                    self._over(following)
                else:
                    self._ready.append(following)


def _lost(results: Sequence[ChangeResult]) -> StoreError | None:
    first = results[0]
    if not isinstance(first, StoreError):
        return None
    return first if all(isinstance(one, StoreError) and one.outcome == "unknown" for one in results) else None


def _refused(result: ChangeResult) -> bool:
    return isinstance(result, SessionDataError) or (isinstance(result, StoreError) and result.outcome == "not_applied")
