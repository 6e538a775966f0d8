"""A store that turns what concurrent callers ask for in the same turn of the event loop into one batch.

With nothing under way a call starts at the end of the current turn, with everything else that the turn brings. With
all slots taken it starts when one is free, with all that has gathered meanwhile. Where calls come in company, a batch
waits for more as long as the loop brings some, two milliseconds at most, and loads for as many writes that are under
way: then requests move in step, which costs a third less CPU at 32 connections. So one caller alone waits for nobody,
and a loaded server needs one statement for dozens of requests, without a setting to tune.

Two rules make it safe to share. A load joins only what has not been sent yet: one under way may answer with the
state before a write that has been acknowledged since. And a session has one call's changes under way at a time, in
the order of the calls; meanwhile its unguarded updates merge into one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from sessiondb.core.breaker import Circuit
from sessiondb.core.change import Change, all_touch
from sessiondb.core.errors import (
    ConfigurationError,
    SessionDBError,
    StoreUnavailable,
    WriteOutcome,
    raise_own,
)
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.stores._queues import LoadBatch, Loads, WriteBatch, Writes
from sessiondb.stores._runner import Counts, Runner, as_store_error, no_answer
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Counter,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Position,
    Profile,
    Query,
    Sheet,
    Stats,
    Store,
    Stream,
    Swept,
)

_T = TypeVar("_T")

SLOW = 5  # timeouts that a search, a sweep or a count may take: they look at many sessions


class CoalescingStore:
    """``store``, called in batches and with a deadline. For one event loop.

    * ``load``: one entry per sid and batch, up to ``store.batching.loads``; waiters share the immutable record. What
      every waiter gave up (was cancelled) before it was sent is never sent.
    * ``apply``: the changes of one call go out together, in one ``apply`` of the inner store with its events, next to
      those of other calls, up to ``store.batching.changes``. A write that was queued is carried out, whether its
      caller still waits or not. If a merged update is refused, each caller's own is applied by itself. A call of
      several lone touches goes at once and by itself, up to ``store.batching.touches``.
    * Loads and changes have ``store.batching.in_flight`` slots each, so slow writes do not hold up reads.
    * Everything fails with ``StoreUnavailable`` after ``timeout`` seconds (searching, sweeping and counting after
      five times as long): with ``outcome="unknown"`` for a write that was sent, ``"not_applied"`` for one that was
      not, and then never is. A batch has the deadline of its oldest call.
    * While the circuit ``reads`` or ``writes`` is open, what it stands for fails at once and is not queued; one call at
      a time is let through. Without them nothing is ever refused.
    * An exception of the inner store that is none of this package's reaches the callers as the cause of a
      ``StoreUnavailable``.

    Compose it as ``CoalescingStore(RecoveringStore(store))``: then the deadline covers the recovery too. ``open`` is
    not limited: to make a schema takes as long as it takes.
    """

    __slots__ = ("_closed", "_lines", "_reads", "_store", "_timeout", "_writes", "changes", "loads")

    def __init__(
        self, store: Store, *, timeout: float = 2.0, reads: Circuit | None = None, writes: Circuit | None = None
    ) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"timeout is {timeout!r}; use a number of seconds above 0.")
        self._store = store
        self._timeout = timeout
        self._reads = reads if reads is not None else _never_open()
        self._writes = writes if writes is not None else _never_open()
        self._lines: _Lines | None = None
        self._closed = False
        self.loads = Counts()
        self.changes = Counts()

    @property
    def name(self) -> str:
        """The inner store's name."""
        return self._store.name

    @property
    def batching(self) -> Batching:
        """The inner store's batching."""
        return self._store.batching

    def load_soon(self, sid: Sid) -> asyncio.Future[Record | Exception | None]:
        """``load`` of one sid without a coroutine: its record, or the error to raise (see ``raise_own``)."""
        lines = self._lines or self._start()
        if self._reads.is_open and not self._reads.admits():
            return _answered(self._reads.refusal())
        waiter = lines.loads.add(sid)
        lines.load_runner.wake()
        return waiter

    def apply_soon(self, change: Change, events: Sequence[Event]) -> asyncio.Future[list[ChangeResult] | Exception]:
        """``apply`` of one change without a coroutine: its one result, or the error to raise."""
        lines = self._lines or self._start()
        if self._writes.is_open and not self._writes.admits():
            return _answered(self._writes.refusal())
        waiter = lines.writes.add((change,), events)
        lines.write_runner.wake()
        return waiter

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """As the inner store, in a batch with what others load. Raises ``StoreError`` or ``SessionDataError``."""
        lines = self._lines or self._start()
        if len(sids) == 1:
            answer = await self.load_soon(sids[0])
            if isinstance(answer, Exception):
                raise_own(answer)
            return [answer]
        if self._reads.is_open and not self._reads.admits():
            raise self._reads.refusal()
        waiters = [lines.loads.add(sid) for sid in sids]
        if waiters:
            lines.load_runner.wake()
        records: list[Record | None] = []
        try:
            for waiter in waiters:
                answer = await waiter
                if isinstance(answer, Exception):
                    raise_own(answer)
                records.append(answer)
        finally:
            for waiter in waiters:
                waiter.cancel()  # gives up what has not been answered
        return records

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """As the inner store, in a batch with what others write; the changes of one call stay together.

        Raises ``StoreError`` if the whole call failed, and ``ValueError`` if a sid comes twice. A caller that is
        cancelled while it waits takes nothing back.
        """
        if len(changes) != 1:
            if not changes:
                return await self._write(1, self._store.apply(changes, events)) if events else []
            if len({change.sid for change in changes}) != len(changes):
                raise ValueError("the sids of the changes in one call must be unique")
            if not events and all_touch(changes):
                # They need no order: they hold no write up, and wait for none.
                return await self._write(1, self._store.apply(changes))
        lines = self._lines or self._start()
        if self._writes.is_open and not self._writes.admits():
            raise self._writes.refusal()
        waiter = lines.writes.add(changes, events)
        lines.write_runner.wake()
        results = await waiter
        if isinstance(results, Exception):
            raise_own(results)
        return results

    async def open(self) -> None:
        """As the inner store. A closed store works again after it."""
        await self._store.open()
        self._closed = False

    async def close(self) -> None:
        """Carry out the writes that are queued, fail the loads that are, wait for what is under way, then close.

        What takes longer than ``timeout`` is given up. Calls from now on raise ``StoreUnavailable``.
        """
        self._closed = True
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.load_runner.drop_queued(self._closed_message())
            await lines.write_runner.drain()
            await lines.load_runner.drain()
        await self._within(SLOW, "not_applied", self._store.close(), _never_open())

    async def clock(self) -> int:
        """As the inner store."""
        return await self._read(1, self._store.clock())

    async def admit(self, login: Login) -> Admission:
        """As the inner store."""
        return await self._write(1, self._store.admit(login))

    async def find(self, query: Query) -> Page:
        """As the inner store."""
        return await self._read(SLOW, self._store.find(query))

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """As the inner store."""
        return await self._write(SLOW, self._store.end_where(query, reason))

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """As the inner store."""
        return await self._write(SLOW, self._store.sweep(cutoffs, limit))

    async def announced(self, sids: Sequence[Sid]) -> None:
        """As the inner store."""
        await self._write(1, self._store.announced(sids))

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """As the inner store."""
        return await self._write(SLOW, self._store.lower_checks(caps, after, limit))

    async def recall(self, name: str) -> str | None:
        """As the inner store."""
        return await self._read(1, self._store.recall(name))

    async def remember(self, name: str, text: str) -> None:
        """As the inner store."""
        await self._write(1, self._store.remember(name, text))

    async def append(self, events: Sequence[Event]) -> None:
        """As the inner store."""
        await self._write(1, self._store.append(events))

    async def events(self, query: EventQuery) -> EventPage:
        """As the inner store."""
        return await self._read(1, self._store.events(query))

    async def streams(self) -> list[Stream]:
        """As the inner store."""
        return await self._read(1, self._store.streams())

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """As the inner store."""
        return await self._read(1, self._store.trail(stream, after, limit))

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """As the inner store."""
        return await self._write(SLOW, self._store.purge_events(through))

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """As the inner store."""
        return await self._write(SLOW, self._store.blank(places, groups))

    async def forget_user(self, user_id: str) -> int:
        """As the inner store."""
        return await self._write(SLOW, self._store.forget_user(user_id))

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """As the inner store."""
        return await self._read(1, self._store.profile(user_id, counters))

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """As the inner store."""
        await self._write(1, self._store.record_logins(logins, expires_at))

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """As the inner store."""
        return await self._write(1, self._store.drop_login(user_id, entry))

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """As the inner store."""
        await self._write(1, self._store.count(bucket, adds, most=most, expires_at=expires_at))

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """As the inner store."""
        await self._write(1, self._store.publish(sheets))

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """As the inner store."""
        return await self._read(SLOW, self._store.sheets(kind, since, until))

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """As the inner store."""
        await self._write(1, self._store.withdraw(sheets))

    async def expire(self, now: int, limit: int) -> int:
        """As the inner store."""
        return await self._write(SLOW, self._store.expire(now, limit))

    async def stats(self) -> Stats:
        """As the inner store."""
        return await self._read(SLOW, self._store.stats())

    def _read(self, timeouts: int, call: Coroutine[Any, Any, _T]) -> Coroutine[Any, Any, _T]:
        return self._within(timeouts, "not_applied", call, self._reads)

    def _write(self, timeouts: int, call: Coroutine[Any, Any, _T]) -> Coroutine[Any, Any, _T]:
        return self._within(timeouts, "unknown", call, self._writes)

    async def _within(
        self, timeouts: int, outcome: WriteOutcome, call: Coroutine[Any, Any, _T], circuit: Circuit
    ) -> _T:
        if circuit.is_open and not circuit.admits():
            call.close()
            raise circuit.refusal()
        began_at, seconds = time.monotonic(), self._timeout * timeouts
        failure: Exception
        cause: Exception
        try:
            async with asyncio.timeout(seconds):
                answer = await call
            if circuit.failures:
                circuit.succeeded()
            return answer
        except TimeoutError as error:
            failure, cause = StoreUnavailable(no_answer(self.name, seconds), outcome=outcome), error
        except SessionDBError as error:
            circuit.failed(error, began_at)
            raise
        except Exception as error:
            failure, cause = as_store_error(error, self.name, outcome), error
        circuit.failed(failure, began_at)
        raise failure from cause

    def _start(self) -> _Lines:
        """The queues, which belong to the loop of the first call."""
        if self._closed:
            raise StoreUnavailable(self._closed_message())
        lines = self._lines = _Lines(self._store, asyncio.get_running_loop())
        store, loop, timeout = self._store, lines.loop, self._timeout
        lines.write_runner = Runner(lines.writes, store, loop, timeout, self.changes, self._writes)
        lines.load_runner = Runner(
            lines.loads, store, loop, timeout, self.loads, self._reads, waits_for=lines.write_runner
        )
        return lines

    def _closed_message(self) -> str:
        return f"The {self.name} session store has been closed; open it again to use it."


class _Lines:
    """The two queues and their runners."""

    __slots__ = ("load_runner", "loads", "loop", "write_runner", "writes")

    load_runner: Runner[LoadBatch]
    write_runner: Runner[WriteBatch]

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.loads = Loads(store, loop)
        self.writes = Writes(store, loop)


def _answered(error: StoreUnavailable) -> asyncio.Future[Any]:
    """What a call waits for that is not made."""
    waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    waiter.set_result(error)
    return waiter


def _never_open() -> Circuit:
    return Circuit("", None, clock=time.monotonic)
