"""The records that a near cache holds, and the loads under way that may add to them. No I/O.

An ``OrderedDict`` and not a library: to find a record and note its use costs 0.1 µs, where cachetools' LRU takes 0.4
and theine's W-TinyLFU 3.5, of a hit that shall cost a few microseconds in all.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

import msgspec

from sessiondb.core.record import Record
from sessiondb.core.token import Sid

# What an entry and the fixed part of its record take in CPython, by tracemalloc.
_FIXED = 1200


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One record. ``sent_at``: when the load that brought it was sent; ``until``: how long it may be served."""

    record: Record
    until: float
    sent_at: float
    size: int


class Flight:
    """A load under way: ``wanted`` are the sids whose records may be kept when it is answered."""

    __slots__ = ("sent_at", "wanted")

    def __init__(self, sent_at: float, wanted: set[Sid]) -> None:
        self.sent_at = sent_at
        self.wanted = wanted


class Entries:
    """At most ``max_entries`` records that take ``max_bytes``, as estimated; who was not used longest goes first.

    ``counters`` gets ``near_invalidated``, ``near_discarded`` and ``near_evicted``. What a load brings is kept unless,
    since it was sent, its session was dropped, or is being written to.
    """

    __slots__ = ("_bytes", "_counters", "_flights", "_max_bytes", "_max_entries", "_writing", "held")

    def __init__(self, max_entries: int, max_bytes: int, counters: Counter[str]) -> None:
        self.held: OrderedDict[Sid, Entry] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._counters = counters
        self._bytes = 0
        self._flights: list[Flight] = []
        self._writing: Counter[Sid] = Counter()

    def __len__(self) -> int:
        return len(self.held)

    @property
    def bytes(self) -> int:
        """What the entries take, as estimated."""
        return self._bytes

    # -- loads --------------------------------------------------------------------------------------------

    def begin(self, sids: Sequence[Sid], sent_at: float) -> Flight:
        """A load of ``sids`` is about to be sent. Give what comes back to ``land`` or ``lost``."""
        flight = Flight(sent_at, set(sids).difference(self._writing) if self._writing else set(sids))
        self._flights.append(flight)
        return flight

    def lost(self, flight: Flight) -> None:
        """``flight`` brings nothing."""
        self._flights.remove(flight)

    def land(self, flight: Flight, sids: Sequence[Sid], records: Sequence[Record | None], lasts: float) -> None:
        """Keep what ``flight`` has brought, for ``lasts`` seconds from when it was sent."""
        self._flights.remove(flight)
        wanted, sent_at = flight.wanted, flight.sent_at
        for sid, record in zip(sids, records, strict=False):
            if record is None or record.ended_at is not None:
                self.drop(sid)
            elif sid not in wanted:
                self._counters["near_discarded"] += 1
            else:
                self._keep(sid, record, sent_at, sent_at + lasts)

    def _keep(self, sid: Sid, record: Record, sent_at: float, until: float) -> None:
        held = self.held
        before = held.get(sid)
        if before is not None:
            if before.sent_at > sent_at:
                return  # a load that was sent later has been answered sooner
            self._bytes -= before.size
        size = _FIXED + len(record.data) + len(record.client_first) + len(record.client_last) + len(record.auth)
        held[sid] = Entry(record, until, sent_at, size)
        held.move_to_end(sid)
        self._bytes += size
        while len(held) > self._max_entries or self._bytes > self._max_bytes:
            _, evicted = held.popitem(last=False)
            self._bytes -= evicted.size
            self._counters["near_evicted"] += 1

    # -- what makes them old ------------------------------------------------------------------------------

    def drop(self, sid: Sid) -> None:
        """Forget ``sid``, and do not keep what loads under way bring of it."""
        for flight in self._flights:
            flight.wanted.discard(sid)
        entry = self.held.pop(sid, None)
        if entry is not None:
            self._bytes -= entry.size
            self._counters["near_invalidated"] += 1

    def expire(self, sid: Sid) -> None:
        """Forget ``sid``, whose time is over."""
        self._bytes -= self.held.pop(sid).size

    def clear(self) -> None:
        """Forget everything, and do not keep what loads under way bring."""
        for flight in self._flights:
            flight.wanted.clear()
        if self.held:
            self._counters["near_invalidated"] += len(self.held)
            self.held.clear()
        self._bytes = 0

    def begin_write(self, sids: Iterable[Sid]) -> None:
        """Until ``end_write`` nothing of ``sids`` is kept."""
        for sid in sids:
            self._writing[sid] += 1
            self.drop(sid)

    def end_write(self, sids: Iterable[Sid]) -> None:
        """The write has been answered, or nobody knows."""
        writing = self._writing
        for sid in sids:
            if writing[sid] > 1:
                writing[sid] -= 1
            else:
                del writing[sid]
            self.drop(sid)
