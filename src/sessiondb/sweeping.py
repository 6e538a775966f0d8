"""Sweeping, in one worker's turn at a time, and the walk after a lowered lifetime that goes with it."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sessiondb.core.errors import StoreError
from sessiondb.core.policy import SECOND
from sessiondb.lowering import Lowering, recalled
from sessiondb.stores.base import Cutoffs, Swept
from sessiondb.timers import Timers

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

SWEEP_REST = 0.02  # seconds between two passes, at least
RESTS = 3  # times as long as a pass took: a quarter of what the database can do goes to sweeping, at most
NOTE_EVERY = 60.0


def rest_after(took: float) -> float:
    """How long to leave the database to the requests after a pass that ``took`` so long; in seconds."""
    return max(SWEEP_REST, RESTS * took)


class Sweeping:
    """The part that one event loop takes in looking after the database, ``every`` so many seconds."""

    def __init__(self, runtime: Runtime, every: float | None) -> None:
        self._runtime = runtime
        self._every = every if every is not None else 60.0
        self._worker = secrets.token_hex(8)
        self._lowering: Lowering | None = Lowering(self._worker)

    def schedule(self, timers: Timers) -> None:
        """Sweep now and then."""
        timers.every("sweep", self._pause, self._sweep_in_turn)

    def schedule_notes(self, timers: Timers) -> None:
        """Where only ``sweep()`` sweeps: tell the database which lifetimes this worker has."""
        timers.every("lifetimes", lambda: NOTE_EVERY, self._note_lifetimes)

    async def sweep(self, *, in_turn: bool = False, limit: int | None = None) -> Swept:
        """One bounded pass; ``in_turn``: only if no other worker has the turn."""
        runtime = self._runtime
        cutoffs = Cutoffs(
            now=runtime.now(),
            caps=runtime.caps,
            keep_ended=runtime.policies.keep_ended,
            worker=self._worker if in_turn else None,
            turn=int(self._every * 1.5 * SECOND),
        )
        async with runtime.using_store() as store:
            swept = await store.sweep(cutoffs, limit or store.batching.sweep)
        runtime.report_ended(swept.ended)
        return replace(swept, more=True) if await self._walk(cutoffs.now) else swept

    async def judge_as_the_app_does(self) -> None:
        """Sweep by the lifetimes that the workers of the app have told the database, and tell it none of one's own."""
        async with self._runtime.using_store() as store:
            walk = await recalled(store)
        if walk is None:
            self._lowering = None
        else:
            self._runtime.caps = walk.caps

    async def _walk(self, now: int) -> bool:
        """One step of the walk after a lowered lifetime; whether there is more. Its failure undoes no sweep."""
        if self._lowering is None:
            return False
        try:
            async with self._runtime.using_store() as store:
                return await self._lowering.step(store, self._runtime.caps, now)
        except StoreError:
            return False

    async def _sweep_in_turn(self) -> None:
        more = True
        while more:
            began_at = time.monotonic()
            more = (await self.sweep(in_turn=True)).more
            await asyncio.sleep(rest_after(time.monotonic() - began_at) if more else 0)

    async def _note_lifetimes(self) -> None:
        if self._lowering is None:
            return
        async with self._runtime.using_store() as store:
            await self._lowering.note(store, self._runtime.caps, self._runtime.now())

    def _pause(self) -> float:
        # Jitter keeps the workers of a fleet that was started at once from asking at once.
        return self._every * (0.5 + secrets.randbelow(1000) / 1000)
