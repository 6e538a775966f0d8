"""Sends what queues up to a store: a slot and a task for each batch, and one timer for all of them.

Everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextvars import Context
from typing import Any, Generic, Protocol, TypeVar

from sessiondb.core.breaker import Circuit
from sessiondb.core.errors import SessionDBError, StoreError, StoreUnavailable, WriteOutcome
from sessiondb.stores.base import Store

_T = TypeVar("_T")
_B = TypeVar("_B", bound="Batch")
_GRACE = 0.1  # of a timeout: how much longer than that anything may take because of ourselves
# Where calls come in company, a batch goes once so many turns of the loop have brought no other, or after so long.
# Then requests move in step: one batch, one hand-over and one wake-up for all of them.
_PATIENCE = 8
_LONGEST_PATIENCE = 0.002
# Loads then wait as long once more for a batch of writes under way that is no smaller, and of at least so many calls:
# whoever it answers comes back. Else a server stays in step by halves, one loading while the other is written.
_SMALLEST_COMPANY = 4
_MEMORY = 8  # batches of one call in a row, after which a call is taken to be alone


class Counts:
    """How many calls came, and how many batches they became."""

    __slots__ = ("batches", "calls")

    def __init__(self) -> None:
        self.calls = 0
        self.batches = 0


class Batch(ABC):
    """One call of the store. ``since``: when the oldest in it came (loop time); ``late``: it has been given up."""

    __slots__ = ("late", "since")

    def __init__(self) -> None:
        self.since = math.inf
        self.late = False

    @property
    @abstractmethod
    def size(self) -> int:
        """How many calls it is sent for."""


class _Queue(Protocol[_B]):
    """What a runner needs of ``Loads`` and ``Writes``."""

    def take(self) -> _B | None: ...
    async def send(self, batch: _B) -> Exception | None: ...
    def fail(self, batch: _B, error: Exception) -> None: ...
    def release(self, batch: _B) -> None: ...
    def oldest(self) -> float: ...
    def drop(self, until: float, error: Exception) -> None: ...


class Runner(Generic[_B]):
    """Sends the batches of ``queue``, no more than the store likes at once, and fails what takes ``timeout`` seconds.

    A call that came alone goes at the end of its turn of the loop. Where the last ones came in company, the next wait
    a moment for each other.

    There is one timer, set for whatever is oldest: under load it fires once in ``timeout`` seconds, not per batch.
    How the batches fare is told to ``circuit``; when that opens, what is queued fails with it.
    """

    __slots__ = (
        "_circuit",
        "_company",
        "_counts",
        "_held",
        "_loop",
        "_name",
        "_queue",
        "_running",
        "_scheduled",
        "_seen",
        "_slots",
        "_timeout",
        "_timer",
        "_waited_for_by",
        "_waits_for",
    )

    def __init__(
        self,
        queue: _Queue[_B],
        store: Store,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        counts: Counts,
        circuit: Circuit,
        waits_for: Runner[Any] | None = None,
    ) -> None:
        self._queue = queue
        self._loop = loop
        self._name = store.name
        self._slots = store.batching.in_flight
        self._timeout = timeout
        self._counts = counts
        self._circuit = circuit
        self._scheduled = False
        self._seen = 0  # calls until the last flush
        self._company = 0  # batches to come for which calls are taken to be in company
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[_B, asyncio.Task[None]] = {}
        self._held: asyncio.TimerHandle | None = None  # while a batch waits for those of the other runner
        self._waits_for = waits_for
        self._waited_for_by: Runner[Any] | None = None
        if waits_for is not None:
            waits_for._waited_for_by = self

    def wake(self) -> None:
        """A call was queued: it goes at the end of this turn of the loop, or when a slot is free."""
        self._counts.calls += 1
        if not self._scheduled and len(self._running) < self._slots:
            self._schedule()
        if self._timer is None:
            self._set_timer(self._loop.time())

    def _schedule(self) -> None:
        self._scheduled = True
        if self._company:
            until = time.monotonic() + _LONGEST_PATIENCE
            self._loop.call_soon(self._gather, _PATIENCE, self._counts.calls, until, self._waits_for)
        else:
            # A task takes its first step at the end of this turn, so it need not be made then: that is a turn less.
            leader = self._loop.create_task(self._lead(), context=Context())
            leader.add_done_callback(self._not_led)

    def _gather(self, turns: int, seen: int, until: float, other: Runner[Any] | None) -> None:
        """Flush after ``turns`` turns without another call than the ``seen`` ones, or ``until`` then.

        But where as many are under way at ``other``, first wait for what that brings.
        """
        calls = self._counts.calls
        if calls != seen:
            turns = _PATIENCE
        if turns and time.monotonic() < until:
            self._loop.call_soon(self._gather, turns - 1, calls, until, other)
        elif other is not None and other._under_way >= max(calls - self._seen, _SMALLEST_COMPANY):
            self._held = self._loop.call_later(_LONGEST_PATIENCE, self._flush)
        else:
            self._flush()

    @property
    def _under_way(self) -> int:
        """The calls whose batches have been sent and not been answered."""
        return sum(batch.size for batch in self._running)

    def _go_on(self) -> None:
        """A batch that may have been waited for has been answered: see who comes back."""
        if self._let_go():
            until = time.monotonic() + _LONGEST_PATIENCE
            self._loop.call_soon(self._gather, _PATIENCE, self._counts.calls, until, None)

    def _let_go(self) -> bool:
        """Whether a batch waited for another one. Now it does not."""
        held, self._held = self._held, None
        if held is not None:
            held.cancel()
        return held is not None

    async def _lead(self) -> None:
        """Send what this turn has brought, the first batch as this task."""
        task = asyncio.current_task()
        assert task is not None
        task.remove_done_callback(self._not_led)
        self._stop_gathering()
        batch = self._next()
        if batch is not None:
            self._running[batch] = task
            self._start()
            await self._run(batch)

    def _not_led(self, _: asyncio.Task[None]) -> None:
        # A loop that shuts down has cancelled it before its first step. Whoever still calls is served.
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._stop_gathering()
        self._start()

    def _stop_gathering(self) -> None:
        self._scheduled = False
        self._let_go()
        self._company = _MEMORY if self._counts.calls - self._seen > 1 else max(0, self._company - 1)
        self._seen = self._counts.calls

    def _next(self) -> _B | None:
        """What is to be sent next, if there is any and a slot is free."""
        if len(self._running) >= self._slots or (batch := self._queue.take()) is None:
            return None
        self._counts.batches += 1
        return batch

    def _start(self) -> None:
        while (batch := self._next()) is not None:
            # A context of its own: a batch belongs to all of its callers, not to the one whose turn it was.
            self._running[batch] = self._loop.create_task(self._run(batch), context=Context())

    async def _run(self, batch: _B) -> None:
        try:
            failure = await self._queue.send(batch)
            if failure is not None:
                self._failed(failure, batch)
            elif self._circuit.failures:
                self._circuit.succeeded()
        except Exception as error:
            failure = as_store_error(error, self._name, "unknown")
            self._queue.fail(batch, failure)
            self._failed(failure, batch)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit) as error:
            self._interrupted(batch)
            if not isinstance(error, asyncio.CancelledError):
                raise
        finally:
            if not self._loop.is_closed():  # else the task was thrown away with its loop
                del self._running[batch]
                if self._waited_for_by is not None:
                    self._waited_for_by._go_on()
                self._queue.release(batch)
                if not self._scheduled and self._queue.oldest() < math.inf:
                    self._schedule()

    def _interrupted(self, batch: _B) -> None:
        if batch.late:  # by _give_up, which has answered
            return
        self._queue.fail(batch, StoreUnavailable(f"A call of the {self._name} store was cancelled.", outcome="unknown"))
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # Nobody but a loop that is shutting down knows this task: start no other.
            self.drop_queued(f"The event loop ended before the {self._name} store was called.")

    def _failed(self, error: Exception, batch: _B) -> None:
        if self._circuit.failed(error, batch.since):
            self._queue.drop(math.inf, self._circuit.refusal())

    def drop_queued(self, why: str) -> None:
        """Fail what has not been sent, saying ``why``."""
        self._queue.drop(math.inf, StoreUnavailable(why))

    def _set_timer(self, oldest: float) -> None:
        due = oldest + self._timeout
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        now = self._loop.time()
        pause = self._timeout * _GRACE
        if now > due + pause:
            # The loop itself stood still, so answers may have arrived that nobody has read: look again shortly.
            self._timer = self._loop.call_later(pause, self._look, math.inf)
        else:
            self._give_up(now - self._timeout)

    def _give_up(self, until: float) -> None:
        """Fail what came no later than ``until``, and set the timer for the rest."""
        message = no_answer(self._name, self._timeout)
        self._queue.drop(until, StoreUnavailable(message))
        oldest = self._queue.oldest()
        for batch, task in self._running.items():
            if batch.late:
                continue
            if batch.since <= until:
                batch.late = True
                late = StoreUnavailable(message, outcome="unknown")
                self._queue.fail(batch, late)
                task.cancel()
                self._failed(late, batch)
            else:
                oldest = min(oldest, batch.since)
        self._timer = None
        if oldest < math.inf:
            self._set_timer(oldest)

    async def drain(self) -> None:
        """Run what is queued to its end. What takes too long is failed; who does not let go then is left."""
        end = self._loop.time() + self._timeout * (1 + 2 * _GRACE)
        self._flush()
        while self._running and (left := end - self._loop.time()) > 0:
            await asyncio.wait(self._running.values(), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            self._flush()  # nothing waits for company any more
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            # On a busy machine the timer may not have had its turn, and nobody else would answer these.
            self._give_up(math.inf)


def no_answer(name: str, seconds: float) -> str:
    """The message of a call that took too long, and what to do about it."""
    return (
        f"The {name} session store did not answer within {seconds:g} s. Check that the database is up, reachable and "
        "neither overloaded nor locked, or raise SessionDB(timeout=...)."
    )


def as_store_error(error: Exception, name: str, outcome: WriteOutcome) -> Exception:
    """``error`` if it is one of ours, else a ``StoreUnavailable`` caused by it.

    The text of a driver's error stays out of the message: it may quote what was stored.
    """
    if isinstance(error, SessionDBError):
        return error
    wrapped = StoreUnavailable(
        f"The {name} session store failed with {type(error).__name__}; its own error is the cause of this one.",
        outcome=outcome,
    )
    wrapped.__cause__ = error
    return wrapped


def check_length(name: str, asked: int, answered: int, outcome: WriteOutcome) -> None:
    """Answers are told apart by their place alone, so with one missing none can be trusted."""
    if asked != answered:
        raise StoreError(
            f"The {name} store gave {answered} answers to {asked} questions, which is a bug in that store.",
            outcome=outcome,
        )


def fail_all(waiters: Iterable[asyncio.Future[_T | Exception]], error: Exception) -> None:
    """Answer ``error`` to whoever still waits."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(error)
