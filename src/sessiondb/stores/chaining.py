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
from sessiondb.stores.base import ChangeResult, NotTogether, Position, Store, place_taken
from sessiondb.stores.delegating import DelegatingStore

log = logging.getLogger("sessiondb")

MOST_OPEN = 10_000
_SURE = ("not_applied", "conflict")

_Entry = tuple[Sequence[Lane], Sequence[Event]]


class ChainingStore(DelegatingStore):
    """``store``, whose events are sealed on their way. For one event loop.

    * ``required``: a change is written with its events or not at all. Otherwise a change whose event cannot be written
      with it is written alone, and the event is given to ``later`` (a queue), as it is where writing both together
      would cost another round trip (``Batching.together``) and the event could not be written beside it.
    * ``told`` is called with events once they have been written.
    * ``counters``: ``unsealed_events`` counts those that were given to ``later``, ``dropped_events`` those of which
      nobody will know whether they were written, ``taken_places`` those whose place was another's.

    What ``append`` cannot say for certain to have been written it writes again with the next ``append`` or ``close``,
    into the very place: at most 10,000 events, of which the oldest go first. Where a place in the trail is taken, what
    was to go there is written into a new stream.
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
        self._open: list[_Entry] = []  # sent, and nobody knows whether they were written

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
        """As the inner store, which is given the events sealed. Without events, what is open is written again.

        Raises ``StoreError``: with ``outcome="not_applied"`` they were certainly not written. With ``"unknown"``, and
        where its caller is cancelled, they are kept and written again: do not send them again.
        Events that bring a seal go to the place that it says.
        """
        if events and events[0].seal is not None:
            await self._store.append(events)
            if self._told is not None:
                self._told(events)
            return
        await self._append(self._seal(events))

    async def close(self) -> None:
        """Write again what is open, then close. What cannot be written then is told in the log."""
        try:
            await self._settle_open()
        except StoreError:
            pass  # the database is away, and nobody will write it any more
        finally:
            while self._open:
                self._drop(self._open.pop()[1], "nobody knows whether they were written")
            await self._store.close()

    async def _append(self, entry: _Entry) -> None:
        lanes, sealed = entry
        try:
            await self._settle_open()
            if sealed:
                await self._store.append(sealed)
        except StoreError as error:
            if error.outcome in _SURE:
                self._give_back(lanes, ())
            else:
                self._leave_open(entry)
            raise
        except asyncio.CancelledError:
            self._leave_open(entry)
            raise
        except Exception:
            self._drop(sealed, "the store does not take them")
            raise
        self._give_back(lanes, sealed)

    async def _sealed(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        """One call. Where its only change is answered by an error, or where it raises, no event was written."""
        results: list[ChangeResult] = []
        for _ in range(2):
            lanes, sealed = self._seal(events)
            try:
                results = await self._store.apply(changes, sealed)
            except StoreError as error:
                if len(changes) > 1 or error.outcome not in _SURE or isinstance(error, StoreUnavailable):
                    if error.outcome in _SURE:
                        self._give_back(lanes, ())
                    raise
                results = [error]
            failed = [result for result in results if isinstance(result, (StoreError, SessionDataError))]
            if not failed:
                self._give_back(lanes, sealed)
                return results
            if len(results) > 1 or not _is_sure(failed[0]):
                return results
            if not _is_taken(failed[0], sealed):
                self._give_back(lanes, ())
                return results
            # The stream is given up, and what was to go there goes into another.
            self._counters["taken_places"] += 1
            log.error("%s: %s", self.name, failed[0])
        return results

    async def _one_by_one(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        """Each change with its own events, and those of none with the first that can be written."""
        sids = {change.sid for change in changes}
        rest = [event for event in events if event.sid not in sids]
        results: list[ChangeResult] = []
        for change in changes:
            own = [event for event in events if event.sid == change.sid]
            result: ChangeResult
            try:
                result = await self._alone(change, [*own, *rest])
            except StoreError as error:
                result = error
            if not isinstance(result, (StoreError, SessionDataError)):
                rest = []
            results.append(result)
        return results

    async def _alone(self, change: Change, events: Sequence[Event]) -> ChangeResult:
        if not events:
            return (await self._store.apply([change]))[0]
        [result] = await self._sealed([change], events)
        if self._required or not _is_refused(result):
            return result
        # It may have been the event.
        [result] = await self._store.apply([change])
        if not isinstance(result, (StoreError, SessionDataError)):
            self._put_off(events)
        return result

    async def _beside(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        """The changes and the events at the same time; no change waits for an event that cannot be written."""
        entry = self._seal(events)
        written = asyncio.ensure_future(self._append(entry))
        written.add_done_callback(lambda _: self._look_after(written, events))
        try:
            return await self._store.apply(changes)
        except asyncio.CancelledError:
            written.cancel()
            raise
        finally:
            # Also where the changes failed: what became of them is not known, and their event says what was tried.
            try:
                await asyncio.wait([written])
            except asyncio.CancelledError:
                written.cancel()
                raise

    def _look_after(self, written: asyncio.Future[None], events: Sequence[Event]) -> None:
        error = None if written.cancelled() else written.exception()
        if isinstance(error, StoreError) and error.outcome in _SURE:
            self._put_off(events)  # all others are kept

    def _put_off(self, events: Sequence[Event]) -> None:
        self._counters["unsealed_events"] += len(events)
        for event in events:
            self._later(event)

    # -- streams ------------------------------------------------------------------------------------------

    def _seal(self, events: Sequence[Event]) -> _Entry:
        """``events`` as the next ones of free streams, one for each class. Raises ``NotTogether`` if one cannot be."""
        by_class: dict[EventClass, list[Event]] = {}
        for event in events:
            by_class.setdefault(class_of(event.type), []).append(event)
        lanes: list[Lane] = []
        sealed: list[Event] = []
        for class_, group in by_class.items():
            free = self._free[class_]
            lanes.append(free.pop() if free else Lane(class_))
            try:
                sealed += lanes[-1].seal(group)
            except (ValueError, TypeError) as error:
                self._give_back(lanes, ())
                kinds = ", ".join(sorted({str(event.type) for event in group}))
                raise NotTogether(
                    f"An event of {kinds} holds what cannot be written as JSON: use text and whole numbers."
                ) from error
        return lanes, sealed

    def _give_back(self, lanes: Sequence[Lane], written: Sequence[Event]) -> None:
        if written and self._told is not None:
            self._told(written)
        for lane in lanes:
            lane.advance([event for event in written if event.seal is not None and event.seal.stream == lane.stream])
            self._free[lane.class_].append(lane)

    def _leave_open(self, entry: _Entry) -> None:
        if not entry[1]:
            return
        self._open.append(entry)
        waiting = sum(len(sealed) for _, sealed in self._open)
        while waiting > MOST_OPEN:
            _, lost = self._open.pop(0)
            waiting -= len(lost)
            self._drop(lost, "nobody knows whether they were written")

    def _drop(self, events: Sequence[Event], why: str) -> None:
        self._counters["dropped_events"] += len(events)
        log.error("%s: %d events were dropped: %s.", self.name, len(events), why)

    async def _settle_open(self) -> None:
        """Write again what may not have been written. Raises ``StoreError`` as long as that cannot be told."""
        while self._open:
            entry = self._open[0]
            lanes, sealed = entry
            wrong = False
            try:
                await self._store.append(sealed)
            except StoreError as error:
                raise StoreError(
                    "Earlier events are still to be written, and these were not tried.", outcome="not_applied"
                ) from error
            except Exception:
                wrong = True
            if not self._open or self._open[0] is not entry:
                continue  # somebody else has written them meanwhile
            del self._open[0]
            if wrong:
                self._drop(sealed, "the store does not take them")
            else:
                self._give_back(lanes, sealed)


def _is_sure(result: StoreError | SessionDataError) -> bool:
    """Whether nothing was written, neither the change nor its event."""
    return isinstance(result, SessionDataError) or result.outcome in _SURE


def _is_taken(result: StoreError | SessionDataError, sealed: Sequence[Event]) -> bool:
    """Whether it is the place of one of ``sealed`` that is the reason."""
    places = (Position(event.seal.stream, event.seal.seq) for event in sealed if event.seal is not None)
    return str(result) in map(place_taken, places)


def _is_refused(result: ChangeResult) -> bool:
    """Whether the database has said no, and can be asked again."""
    return (
        isinstance(result, StoreError) and result.outcome == "not_applied" and not isinstance(result, StoreUnavailable)
    )
