"""What logins usually look like, learnt from those that were accepted: by each worker, and by all of them together.

Each worker counts its own, publishes that as the sheet of a day about once a minute, and reads everybody's about every
five minutes. What is older than two days is folded into one sheet by whoever has the turn. A worker that is killed
loses its last minute; a fold that is interrupted may count a day twice. Both fade.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from typing import TypeVar

from sessiondb.core.errors import StoreError
from sessiondb.core.features import Marks
from sessiondb.core.frequencies import Frequencies
from sessiondb.core.policy import DAY
from sessiondb.core.scoring import Score
from sessiondb.core.thresholds import Thresholds
from sessiondb.stores.base import Sheet, Store
from sessiondb.timers import Timers

VALUES, SCORES = "risk_values", "risk_scores"
FOLDED = 0  # the bucket of the sheet that has all older days
FOLD_AFTER = 2
KEPT = 400 * DAY
PUBLISH_EVERY = 60.0
READ_EVERY = 300.0


class Learning:
    """What one event loop knows of everybody's logins. ``now`` is the store's time."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.frequencies = Frequencies()
        self.thresholds = Thresholds()
        self._now = now
        self._writer = secrets.token_hex(8)
        self._day = 0
        self._mine = Frequencies(), Thresholds()
        self._changed = False
        self._turn = asyncio.Lock()

    def accepted(self, marks: Marks, score: Score) -> None:
        """A login was accepted."""
        now = self._now()
        if now // DAY != self._day and not self._changed:
            self._begin(now // DAY)
        for frequencies, thresholds in ((self.frequencies, self.thresholds), self._mine):
            frequencies.count(marks, now)
            thresholds.count(score, now)
        self._changed = True

    def schedule(self, timers: Timers, store: Store) -> None:
        """Publish and read now and then."""
        timers.every("learn", lambda: _jittered(PUBLISH_EVERY), lambda: self.publish(store))
        timers.every("relearn", lambda: _jittered(READ_EVERY), lambda: self.read(store))

    async def publish(self, store: Store) -> None:
        """Publish what this worker has counted today. Raises ``StoreError``; the next time has it all."""
        async with self._turn:
            if not self._changed:
                return
            now = self._now()
            day = self._day or now // DAY
            values, scores = self._mine
            self._changed = False
            try:
                await store.publish(
                    [
                        Sheet(VALUES, day, self._writer, values.encode(now), now + KEPT),
                        Sheet(SCORES, day, self._writer, scores.encode(now), now + KEPT),
                    ]
                )
            except StoreError:
                self._changed = True
                raise
            if now // DAY != day:
                self._begin(now // DAY)

    async def read(self, store: Store) -> None:
        """Learn what all workers have counted, and fold what is old. Raises ``StoreError``."""
        await self.publish(store)
        now = self._now()
        values = await store.sheets(VALUES, FOLDED, now // DAY + 2)
        scores = await store.sheets(SCORES, FOLDED, now // DAY + 2)
        self.frequencies, self.thresholds = await asyncio.gather(
            asyncio.to_thread(_merged, values, Frequencies), asyncio.to_thread(_merged, scores, Thresholds)
        )

    async def fold(self, store: Store) -> None:
        """Make one sheet of all that is older than two days. For whoever has the turn. Raises ``StoreError``."""
        now = self._now()
        for kind in (VALUES, SCORES):
            old = await store.sheets(kind, FOLDED, now // DAY - FOLD_AFTER + 1)
            days = [sheet for sheet in old if sheet.bucket != FOLDED]
            if days:
                folded = await asyncio.to_thread(_folded, kind, old, now)
                await store.publish([Sheet(kind, FOLDED, "", folded, now + KEPT)])
                await store.withdraw(days)

    def _begin(self, day: int) -> None:
        self._day = day
        self._mine = Frequencies(), Thresholds()


Learnt = TypeVar("Learnt", Frequencies, Thresholds)


def _merged(sheets: list[Sheet], kind: type[Learnt]) -> Learnt:
    """What ``sheets`` say together. Of many workers that takes long, and an event loop has others to serve."""
    total = kind()
    for sheet in sheets:
        try:
            total.merge(kind.decode(sheet.data))
        except ValueError:
            continue  # of a later version, or damaged: the others still teach something
    return total


def _folded(kind: str, sheets: list[Sheet], now: int) -> bytes:
    return (_merged(sheets, Frequencies) if kind == VALUES else _merged(sheets, Thresholds)).encode(now)


def _jittered(seconds: float) -> float:
    return seconds * (0.75 + random.random() / 2)  # noqa: S311  jitter, not a secret
