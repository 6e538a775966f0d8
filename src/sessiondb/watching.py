"""Open connections that must not outlive their session: told at once of ends in this process, else by asking."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from sessiondb.core.change import Touch
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.record import Record
from sessiondb.core.token import Sid

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

BATCH = 256
SOON = 0.05
LONGEST_UNCHECKED = 300.0
UNKNOWN = "unknown"


class Watch:
    """One connection's interest in a session. ``tell`` may be called from any thread.

    ``notify`` runs on the event loop that made the watch, with the reason of the end, or with ``None`` when nobody
    could say for too long whether the session lives. ``every``: how often to ask the store, in seconds at most.
    ``used_at``: when the client last sent something, in the store's microseconds.
    """

    __slots__ = ("checked_at", "every", "loop", "notify", "sid", "used_at")

    def __init__(self, sid: Sid, every: float, notify: Callable[[str | None], None]) -> None:
        self.sid = sid
        self.every = every
        self.notify = notify
        self.loop = asyncio.get_running_loop()
        self.used_at = 0
        self.checked_at = time.monotonic()

    def tell(self, reason: str | None) -> None:
        """Have ``notify`` called."""
        try:
            self.loop.call_soon_threadsafe(self.notify, reason)
        except RuntimeError:
            # The loop was closed, and its connections with it.
            return


class Ends:
    """Who of this process wants to know of the end of which session, whatever event loop or thread they are on."""

    def __init__(self) -> None:
        self._watches: dict[Sid, set[Watch]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, watch: Watch) -> None:
        """From now on ``watch`` is told."""
        with self._lock:
            self._watches.setdefault(watch.sid, set()).add(watch)

    def discard(self, watch: Watch) -> None:
        """No more."""
        with self._lock:
            watches = self._watches.get(watch.sid)
            if watches is not None:
                watches.discard(watch)
                if not watches:
                    del self._watches[watch.sid]

    def tell(self, sid: Sid, reason: str) -> None:
        """The session ``sid`` has ended."""
        if not self._watches:
            return
        with self._lock:
            watches = list(self._watches.get(sid, ()))
        for watch in watches:
            watch.tell(reason)


class Watching:
    """The open connections of one event loop: all of them are looked up together, by one timer.

    A session is looked up at least as often as its connections ask for, with jitter, in batches. While the store
    does not answer, connections stay open, for five minutes at most.
    """

    def __init__(self, runtime: Runtime, ends: Ends) -> None:
        self._runtime = runtime
        self._ends = ends
        self._open: set[Watch] = set()
        self._unsure: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, watch: Watch, *, unsure: bool = False) -> None:
        """Watch; ``unsure``: the session may have ended since it was loaded, so look it up soon."""
        self._ends.add(watch)
        self._open.add(watch)
        if unsure:
            self._unsure.add(watch)
            if self._soon is None:
                self._soon = watch.loop.call_later(SOON, self._on_soon)
        pause = _pause(watch.every)
        if self._timer is None or self._timer.when() > watch.loop.time() + pause:
            self._arm(pause)

    def end(self, watch: Watch) -> None:
        """The connection is over."""
        self._ends.discard(watch)
        self._open.discard(watch)
        self._unsure.discard(watch)
        if not self._open:
            self._disarm()

    def stop(self) -> None:
        """No more timers and look-ups."""
        self._disarm()
        for task in list(self._tasks):
            task.cancel()

    async def check(self, watches: Iterable[Watch] | None = None) -> None:
        """Look up the sessions of ``watches``, or of all; whoever's is over is told. Raises nothing."""
        by_sid: dict[Sid, list[Watch]] = {}
        for watch in self._open if watches is None else watches:
            by_sid.setdefault(watch.sid, []).append(watch)
        sids = list(by_sid)
        for start in range(0, len(sids), BATCH):
            if not await self._check_batch(sids[start : start + BATCH], by_sid):
                break
        overdue = time.monotonic() - LONGEST_UNCHECKED
        for watch in [one for group in by_sid.values() for one in group if one.checked_at < overdue]:
            watch.tell(None)

    async def _check_batch(self, sids: Sequence[Sid], by_sid: dict[Sid, list[Watch]]) -> bool:
        """Whether it makes sense to ask for more."""
        runtime, going_on = self._runtime, True
        runtime.counters["rechecks"] += len(sids)
        # All are asked for in one turn of the loop, which makes one batch of them.
        waiting = [asyncio.ensure_future(runtime.load_soon(sid)) for sid in sids]
        try:
            for sid, answer in zip(sids, waiting, strict=True):
                try:
                    record = runtime.loaded(await answer)
                except SessionDataError:
                    # There, but not to be read; whoever opened it could.
                    continue
                except StoreError as error:
                    # What one part of a cluster cannot say, the others may.
                    going_on = going_on and getattr(error, "partial", False)
                    continue
                self._judge(sid, record, by_sid[sid])
        finally:
            for answer in waiting:
                answer.cancel()
        return going_on

    def _judge(self, sid: Sid, record: Record | None, watches: Sequence[Watch]) -> None:
        runtime = self._runtime
        if record is None or record.ended_at is not None:
            runtime.ended(sid, (record.end_reason if record is not None else None) or UNKNOWN)
            return
        used_at = max(watch.used_at for watch in watches)
        seen_at = max(record.last_seen_at, runtime.background.seen(sid))
        if used_at > seen_at:
            if used_at - seen_at >= runtime.touch_interval(record):
                runtime.usage.seen(record, used_at, seen_at)
                runtime.background.touch(sid, Touch(used_at, None))
            seen_at = used_at
        deadline = runtime.caps.deadline(msgspec.structs.replace(record, last_seen_at=seen_at))
        if deadline <= runtime.now():
            runtime.end_later(record, runtime.caps.expiry_reason(record), at=deadline)
            return
        checked_at = time.monotonic()
        for watch in watches:
            watch.checked_at = checked_at

    # -- timers -------------------------------------------------------------------------------------------

    def _arm(self, pause: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(pause, self._on_timer)

    def _disarm(self) -> None:
        for timer in (self._timer, self._soon):
            if timer is not None:
                timer.cancel()
        self._timer = self._soon = None

    def _on_timer(self) -> None:
        # The next pass is due whether or not this one gets its answers.
        self._arm(_pause(min(watch.every for watch in self._open)))
        if not self._tasks:
            self._start(None)

    def _on_soon(self) -> None:
        self._soon = None
        unsure, self._unsure = self._unsure, set()
        self._start(unsure)

    def _start(self, watches: Iterable[Watch] | None) -> None:
        task = asyncio.get_running_loop().create_task(self.check(watches))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _pause(every: float) -> float:
    # Jitter keeps workers that were started at once apart; what is left of ``every`` is for the look-up itself.
    return every * (0.5 + 0.3 * random.random())  # noqa: S311  jitter, not a secret
