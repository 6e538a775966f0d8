"""Hooks: the app's functions that are told of every end, at least once, whoever wrote it.

An end is written as still to be announced. Whoever wrote it runs its hooks at once, in the background, and then says so
to the store; what nobody has said so of within a minute, because its process died or a hook failed, the sweeper of any
process with hooks finds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sessiondb.calling import call
from sessiondb.core.calls import takes
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError
from sessiondb.core.policy import SECOND
from sessiondb.core.token import Sid
from sessiondb.stores.announcing import ANNOUNCE_AFTER
from sessiondb.stores.base import Ended, Store

log = logging.getLogger("sessiondb")

Hook = Callable[[Ended], "Awaitable[None] | None"]
HookFunction = TypeVar("HookFunction", bound=Callable[[Ended], Any])

AT_ONCE = 8
HOOK_TIMEOUT = 20.0
MOST_WAITING = 10_000
BATCH = 100
TRIES = 3
QUIET = 60.0
# A hook that begins later than this before the end is due again could still run when another process takes over.
_MARGIN = int((HOOK_TIMEOUT + 5) * SECOND)


class Hooks:
    """The functions of one ``SessionDB``. They are registered before it is used, so that no end is missed."""

    def __init__(self) -> None:
        self._functions: list[Hook] = []
        self._closed = False

    def add(self, function: HookFunction) -> HookFunction:
        """Register ``function``. Raises ``ConfigurationError`` if it cannot be one, or comes too late."""
        if not callable(function):
            raise ConfigurationError(f"on_end: {function!r:.100} cannot be called; use @db.on_end on a function.")
        if not takes(function, 1):
            name = getattr(function, "__name__", "hook")
            raise ConfigurationError(
                f"on_end: {name} cannot be called with the end alone; write it as: def {name}(ended: Ended)."
            )
        if self._closed:
            raise ConfigurationError(
                "on_end: the database is in use already, so ends may have been missed; register hooks where the "
                "SessionDB is made, before the app starts."
            )
        self._functions.append(function)
        return function

    def used(self) -> Sequence[Hook]:
        """The functions, from now on for good."""
        self._closed = True
        return self._functions


class Announcer:
    """Runs the hooks of one event loop: no more than eight ends at once, in the order of their coming.

    What cannot be run in time is left to the next sweep, as is what fails.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        store: Store,
        now: Callable[[], int],
        counters: Counter[str],
        *,
        keep_ended: Callable[[], int],
    ) -> None:
        self._hooks = hooks
        self._store = store
        self._now = now
        self._counters = counters
        self._keep_ended = keep_ended
        self._waiting: deque[tuple[Ended | Sid, int]] = deque()
        self._done: dict[Sid, None] = {}
        self._running: set[Sid] = set()
        self._task: asyncio.Task[None] | None = None
        self._logged: dict[str, float] = {}

    def tell(self, ended: Sequence[Ended | Sid], due: int) -> None:
        """Run the hooks for ``ended``, soon; at ``due`` the store will have them announced by somebody else."""
        for one in ended:
            sid = one.sid if isinstance(one, Ended) else one
            if sid in self._done or sid in self._running:
                continue
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append((one, due))
            else:
                self._counters["postponed_hooks"] += 1
        if (self._waiting or self._done) and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def drain(self, timeout: float) -> None:
        """Wait until all that waits has run, ``timeout`` seconds at most. The rest is left to a sweep."""
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=timeout)
        if not self._task.done():
            left = len(self._waiting) + len(self._running)
            log.warning("%d ends were not announced to the hooks before closing; a later sweep does it.", left)
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._waiting or self._done:
            await self._look_up()
            workers = [asyncio.create_task(self._work()) for _ in range(min(AT_ONCE, len(self._waiting)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
            if not await self._say_so():
                break

    async def _work(self) -> None:
        while self._waiting:
            ended, due = self._waiting[0]
            if not isinstance(ended, Ended):
                break
            self._waiting.popleft()
            await self._announce(ended, due)

    async def _look_up(self) -> None:
        """Ask the tombstones for what is known by sid alone; what cannot be read is left to a sweep."""
        unknown = [(one, due) for one, due in self._waiting if not isinstance(one, Ended)]
        if not unknown:
            return
        self._waiting = deque((one, due) for one, due in self._waiting if isinstance(one, Ended))
        for start in range(0, len(unknown), BATCH):
            part = unknown[start : start + BATCH]
            try:
                records = await self._store.load([sid for sid, _ in part])
            except (StoreError, SessionDataError):
                self._counters["postponed_hooks"] += len(part)
                continue
            self._waiting.extend(
                (Ended(record.sid, record.user_id, record.end_reason or "", record.ended_at), due)
                for record, (_, due) in zip(records, part, strict=True)
                if record is not None and record.ended_at is not None
            )

    async def _announce(self, ended: Ended, due: int) -> None:
        if self._now() > due - _MARGIN:
            # Whoever finds it due has as much time again.
            self._counters["postponed_hooks"] += 1
            return
        self._running.add(ended.sid)
        try:
            for hook in self._hooks:
                try:
                    async with asyncio.timeout(HOOK_TIMEOUT):
                        await call(hook, ended)
                except (Exception, asyncio.CancelledError) as error:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    # What the hook waited for may have been cancelled; that is its own affair.
                    self._failed(hook, ended, error)
                    return
            self._done[ended.sid] = None
            if len(self._done) > MOST_WAITING:
                del self._done[next(iter(self._done))]
        finally:
            self._running.discard(ended.sid)

    def _failed(self, hook: Hook, ended: Ended, error: BaseException) -> None:
        self._counters["failed_hooks"] += 1
        name = getattr(hook, "__qualname__", repr(hook))
        if ended.at + self._keep_ended() <= self._now() + ANNOUNCE_AFTER:
            log.error(
                "The hook %s has failed for the end of session %s (%s) as long as its tombstone stayed; given up.",
                name,
                ended.sid,
                ended.reason,
                exc_info=error,
            )
            return
        now = time.monotonic()
        if now - self._logged.get(name, -QUIET) >= QUIET:
            self._logged[name] = now
            log.error(
                "The hook %s failed for the end of session %s (%s); it is called again by a sweep.",
                name,
                ended.sid,
                ended.reason,
                exc_info=error,
            )

    async def _say_so(self) -> bool:
        """Tell the store what has been announced; whether it has been told."""
        for attempt in range(TRIES):
            sids = list(self._done)[:BATCH]
            if not sids:
                return True
            try:
                await self._store.announced(sids)
            except StoreError:
                await asyncio.sleep(0.1 * 2**attempt)
                continue
            for sid in sids:
                self._done.pop(sid, None)
            return True
        # They stay in mind: should a sweep report them here, they are not run again.
        return False
