"""Touches that wait to be written: one a session, many in a call, and the database rests between two calls."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from sessiondb.core.change import Touch, Update, merge_touches, new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.token import Sid
from sessiondb.outage import Outage
from sessiondb.stores.base import Store

MOST_TOUCHES = 100_000
# What was written is remembered for so long, and no longer than the next so many: whoever has read a session before its
# touch landed asks for one that is not due any more.
REMEMBER = 60.0
REMEMBERED = 50_000


class Touches:
    """The touches of one event loop: those that wait, those under way, and when the last ones were.

    ``counters`` has ``dropped_touches`` (there was no room), ``background_write_failures`` (written later), and
    ``touch_batches``, the calls that were made.
    """

    def __init__(self, store: Store, counters: Counter[str], outage: Outage) -> None:
        self._store = store
        self._counters = counters
        self._outage = outage
        self._waiting: dict[Sid, Touch] = {}
        self._taken: dict[Sid, Touch] = {}
        self._left = 0  # of those taken, how many have not been sent
        self._recent: dict[Sid, int] = {}
        self._older: dict[Sid, int] = {}
        self._turned_at = 0.0
        self._size = store.batching.most_touches  # of a call; less after one has failed
        self._until = 0.0  # loop time by which a paced round should end

    def __len__(self) -> int:
        return len(self._waiting) + self._left

    def add(self, sid: Sid, touch: Touch) -> None:
        """Queue ``touch``, merged with one that waits; without room it is dropped, and counted."""
        waiting = self._waiting
        before = waiting.get(sid)
        if before is None and len(waiting) + self._left >= MOST_TOUCHES:
            self._counters["dropped_touches"] += 1
            return
        merged = merge_touches(before, touch)
        if merged is not None:
            waiting[sid] = merged

    def forget(self, sid: Sid) -> None:
        """The session ends: it needs no touch."""
        self._waiting.pop(sid, None)

    def seen(self, sid: Sid) -> int:
        """The newest touch of ``sid`` that waits, is under way or was written not long ago; or 0."""
        touch = self._waiting.get(sid) or self._taken.get(sid)
        if touch is not None:
            return touch.at
        return self._recent.get(sid) or self._older.get(sid, 0)

    def hurry(self) -> None:
        """Let the round under way come to its end without resting."""
        self._until = 0.0

    async def write(self, within: float = 0.0) -> None:
        """Write all that waits now, resting as long as each call took where the whole ends ``within`` seconds then.

        Stops where the database does not answer: what is left waits for the next time. Nothing is raised.
        """
        loop = asyncio.get_running_loop()
        self._taken, self._waiting = self._waiting, {}
        self._left = len(self._taken)
        self._until = loop.time() + within
        most = self._store.batching.most_touches
        left = iter(self._taken.items())
        part: list[tuple[Sid, Touch]] = []
        try:
            while part := list(islice(left, min(self._size, most))):
                began_at = loop.time()
                if not await self._write_part(part):
                    # Too many for the time that there is, or one of them is at fault: that shows when they are fewer.
                    self._size = max(1, len(part) // 2)
                    break
                self._size = min(self._size * 2, most)
                self._left -= len(part)
                part = []
                if self._left:
                    now = loop.time()
                    took = now - began_at
                    calls_left = -(-self._left // self._size)
                    rest = min(took, (self._until - now) / calls_left - took)
                    if rest > 0:
                        await asyncio.sleep(rest)
        finally:
            # Also where we are cancelled, and do not know what has landed: twice is the same as once.
            self._left = 0
            self._taken = {}
            # What failed comes last, so that it does not keep the others from being tried.
            for sid, touch in (*left, *part):
                self.add(sid, touch)

    async def _write_part(self, part: Sequence[tuple[Sid, Touch]]) -> bool:
        """Send one call; what failed alone waits again. False: all have failed, or nobody knows."""
        change_id = new_change_id()  # no session is twice in a call, and none remembers it
        changes = [Update(sid=sid, id=change_id, touch=touch) for sid, touch in part]
        self._counters["touch_batches"] += 1
        try:
            results = await self._store.apply(changes)
        except StoreError as error:
            self._failed(len(part), error)
            return False
        self._turn()
        failed: list[tuple[Sid, Touch]] = []
        failure: StoreError | None = None
        recent = self._recent
        for one, result in zip(part, results, strict=True):
            if isinstance(result, StoreError):
                failure = result
                failed.append(one)
            else:
                recent[one[0]] = one[1].at
        if failure is not None:
            self._failed(len(failed), failure)
            if len(failed) == len(part):
                return False
            for sid, touch in failed:
                self.add(sid, touch)
        elif self._outage.lasting:
            self._outage.over()
        return True

    def _failed(self, count: int, error: StoreError) -> None:
        self._counters["background_write_failures"] += count
        self._outage.failed(error)

    def _turn(self) -> None:
        """Forget what was written long ago."""
        now = time.monotonic()
        if now - self._turned_at >= REMEMBER or len(self._recent) >= REMEMBERED:
            self._older, self._recent = self._recent, {}
            self._turned_at = now
