"""Events in memory: newest first for readers, by stream for whoever verifies. Not safe for threads by itself."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Mapping, Sequence

from sessiondb.core.events import Event
from sessiondb.core.sealing import Group, blanked
from sessiondb.stores.base import EventPage, EventQuery, Position, Stream


class Events:
    """The events of one database, of which the newest ``most`` are kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._last = 0
        self._by_number: dict[int, Event] = {}
        self._numbers: dict[Position, int] = {}
        self._streams: dict[str, list[int]] = {}  # the seqs that are there, in order

    def __len__(self) -> int:
        return len(self._by_number)

    def taken(self, events: Sequence[Event]) -> Position | None:
        """A place of ``events`` that is taken already, or ``None``."""
        return next((place for event in events if (place := _place(event)) in self._numbers), None)

    def add(self, events: Sequence[Event]) -> None:
        """Keep those of ``events`` whose place is free."""
        for event in events:
            place = _place(event)
            if place in self._numbers:
                continue
            self._last += 1
            self._by_number[self._last] = event
            self._numbers[place] = self._last
            insort(self._streams.setdefault(place.stream, []), place.seq)
        while len(self._by_number) > self._most:
            self._delete(_place(self._by_number[next(iter(self._by_number))]))

    def page(self, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        found = [
            (number, event) for number, event in reversed(self._by_number.items()) if _is_wanted(number, event, query)
        ]
        shown = found[: query.limit]
        return EventPage([event for _, event in shown], shown[-1][0] if len(found) > len(shown) > 0 else None)

    def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        return [
            Stream(name, seqs[0], self._by_number[self._numbers[Position(name, seqs[-1])]])
            for name, seqs in sorted(self._streams.items())
        ]

    def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        seqs = self._streams.get(stream, [])
        start = bisect_right(seqs, after)
        return [self._by_number[self._numbers[Position(stream, seq)]] for seq in seqs[start : start + limit]]

    def purge(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``."""
        doomed = [
            Position(stream, seq)
            for stream, last in through.items()
            for seq in self._streams.get(stream, ())
            if seq <= last
        ]
        for place in doomed:
            self._delete(place)
        return len(doomed)

    def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``."""
        numbers = [self._numbers[place] for place in set(places) if place in self._numbers]
        for number in numbers:
            self._by_number[number] = blanked(self._by_number[number], groups)
        return len(numbers)

    def _delete(self, place: Position) -> None:
        del self._by_number[self._numbers.pop(place)]
        seqs = self._streams[place.stream]
        seqs.remove(place.seq)
        if not seqs:
            del self._streams[place.stream]


def _place(event: Event) -> Position:
    if event.seal is None:
        raise ValueError("an event without its seal cannot be stored; see sessiondb.core.sealing")
    return Position(event.seal.stream, event.seal.seq)


def _is_wanted(number: int, event: Event, query: EventQuery) -> bool:
    return (
        (query.after is None or number < query.after)
        and (query.user_id is None or event.user_id == query.user_id)
        and (query.sid is None or event.sid == query.sid)
        and (query.actor is None or event.actor == query.actor)
        and (query.type is None or event.type == query.type)
        and (query.since is None or event.at >= query.since)
        and (query.until is None or event.at < query.until)
    )
