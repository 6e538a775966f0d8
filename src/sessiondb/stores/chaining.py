"""A store that seals events into the audit trail as they are written.

Each process has streams of its own, and in each stream one call under way at a time: so the chain grows without asking
anybody, and without gaps. A call that has not gone well for certain leaves its stream where it was; one of which nobody
knows what became ends it, and the next events begin another.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from sessiondb.core.change import Change
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event, EventClass, class_of
from sessiondb.core.sealing import Lane
from sessiondb.stores.base import ChangeResult, NotTogether, Store
from sessiondb.stores.delegating import DelegatingStore

log = logging.getLogger("sessiondb")

MOST_OPEN = 64
_SURE = ("not_applied", "conflict")


class ChainingStore(DelegatingStore):
    """``store``, whose events are sealed on their way. For one event loop.

    * ``required``: a change is written with its events or not at all. Otherwise a change whose event cannot be written
      with it is written alone, and the event is given to ``later`` (a queue), as it is where writing both together
      would cost another round trip (``Batching.together``) and the event could not be written beside it.
    * ``told`` is called with events once they have been written.
    * ``counters``: ``unsealed_events`` counts those that were given to ``later``.

    What ``append`` cannot say for certain to have been written it writes again with the next call, into the very place.
    """

    __slots__ = ("_counters", "_free", "_later", "_open", "_required", "_together", "_told")

    def __init__(
        self,
        store: Store,
        *,
        later: Callable[[Event], None],
        required: bool = False,
        told: Callable[[Sequence[Event]], None] | None = None,
        counters: Counter[str] | None = None,
    ) -> None:
        super().__init__(store)
        self._later = later
        self._required = required
        self._told = told
        self._together = required or store.batching.together
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._free: dict[EventClass, list[Lane]] = {class_: [] for class_ in EventClass}
        self._open: list[tuple[list[Lane], list[Event]]] = []  # sent, and nobody knows whether they were written

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """As the inner store, which is given the events sealed."""
        if not events:
            return await self._store.apply(changes)
        if not changes:
            await self.append(events)
            return []
        if not self._together:
            return await self._beside(changes, events)
        if len(changes) == 1:
            return [await self._alone(changes[0], events)]
        try:
            return await self._sealed(changes, events)
        except NotTogether:
            return await self._one_by_one(changes, events)

    async def append(self, events: Sequence[Event]) -> None:
        """As the inner store, which is given the events sealed. Raises only if they were certainly not written.

        Events that bring a seal go to the place that it says.
        """
        if events and events[0].seal is not None:
            await self._store.append(events)
            if self._told is not None:
                self._told(events)
            return
        await self._settle_open()
        if not events:
            return
        lanes, sealed = self._seal(events)
        try:
            await self._store.append(sealed)
        except StoreError as error:
            if error.outcome in _SURE:
                self._give_back(lanes, ())
                raise
            self._leave_open(lanes, sealed)
        except BaseException:
            self._leave_open(lanes, sealed)
            raise
        else:
            self._give_back(lanes, sealed)

    async def _sealed(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        """One call. Where its only change is answered by an error, or where it raises, no event was written."""
        lanes, sealed = self._seal(events)
        try:
            results = await self._store.apply(changes, sealed)
        except StoreError as error:
            if error.outcome in _SURE and isinstance(error, (NotTogether, StoreUnavailable)):
                self._give_back(lanes, ())
            raise
        if any(isinstance(result, (StoreError, SessionDataError)) for result in results):
            # Whatever the reason, it may be the place in the trail: begin another stream.
            return results
        self._give_back(lanes, sealed)
        return results

    async def _one_by_one(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        """Each change with its own events, and those of none with the first that can be written."""
        sids = {change.sid for change in changes}
        rest = [event for event in events if event.sid not in sids]
        results: list[ChangeResult] = []
        for change in changes:
            own = [event for event in events if event.sid == change.sid]
            result = await self._alone(change, [*own, *rest])
            if not isinstance(result, (StoreError, SessionDataError)):
                rest = []
            results.append(result)
        return results

    async def _alone(self, change: Change, events: Sequence[Event]) -> ChangeResult:
        if not events:
            return (await self._store.apply([change]))[0]
        result = (await self._sealed([change], events))[0]
        if self._required or not _is_refused(result):
            return result
        # It may have been the event.
        result = (await self._store.apply([change]))[0]
        if not isinstance(result, (StoreError, SessionDataError)):
            self._put_off(events)
        return result

    async def _beside(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        """The changes and the events at the same time; no change waits for an event that cannot be written."""
        written = asyncio.ensure_future(self.append(events))
        try:
            results = await self._store.apply(changes)
        finally:
            # Also where the changes failed: what became of them is not known, and their event says what was tried.
            await asyncio.wait([written])
            if written.cancelled() or written.exception() is not None:
                self._put_off(events)
        return results

    def _put_off(self, events: Sequence[Event]) -> None:
        self._counters["unsealed_events"] += len(events)
        for event in events:
            self._later(event)

    # -- streams ------------------------------------------------------------------------------------------

    def _seal(self, events: Sequence[Event]) -> tuple[list[Lane], list[Event]]:
        """``events`` as the next ones of free streams, one for each class."""
        by_class: dict[EventClass, list[Event]] = {}
        for event in events:
            by_class.setdefault(class_of(event.type), []).append(event)
        lanes: list[Lane] = []
        sealed: list[Event] = []
        for class_, group in by_class.items():
            free = self._free[class_]
            lane = free.pop() if free else Lane(class_)
            lanes.append(lane)
            sealed += lane.seal(group)
        return lanes, sealed

    def _give_back(self, lanes: Sequence[Lane], written: Sequence[Event]) -> None:
        if written and self._told is not None:
            self._told(written)
        for lane in lanes:
            lane.advance([event for event in written if event.seal is not None and event.seal.stream == lane.stream])
            self._free[lane.class_].append(lane)

    def _leave_open(self, lanes: list[Lane], sealed: list[Event]) -> None:
        self._open.append((lanes, sealed))
        while len(self._open) > MOST_OPEN:
            _, lost = self._open.pop(0)
            self._counters["dropped_events"] += len(lost)
            log.error("%s: %d events were dropped: nobody knows whether they were written.", self.name, len(lost))

    async def _settle_open(self) -> None:
        """Write again what may not have been written. Raises ``StoreError`` as long as that cannot be told."""
        while self._open:
            lanes, sealed = self._open[0]
            try:
                await self._store.append(sealed)
            except StoreError as error:
                raise StoreError(
                    "Earlier events are still to be written, and these were not tried.", outcome="not_applied"
                ) from error
            if self._open and self._open[0][1] is sealed:
                del self._open[0]
                self._give_back(lanes, sealed)


def _is_refused(result: ChangeResult) -> bool:
    """Whether the database has said no, and can be asked again."""
    if isinstance(result, SessionDataError):
        return True
    return (
        isinstance(result, StoreError) and result.outcome == "not_applied" and not isinstance(result, StoreUnavailable)
    )
