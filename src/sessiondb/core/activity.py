"""Where a session was used from, and how often: what the client JSON of a record keeps. Pure, and small.

A session that was used from one network alone needs no list: its place is made of the rest of the record. The numbers
are lower bounds: of two processes that write a touch at the same moment, one does not know what the other has counted.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sessiondb.core.client import Client, Sighting, UsedFrom, client_of, last_sighting
from sessiondb.core.record import Record

MOST_PLACES = 8
EARLIER = 8  # places of one session that wait for its touch


class Visit(msgspec.Struct, frozen=True, gc=False):
    """So many requests that came from one place, from ``first`` to ``last`` (microseconds)."""

    seen: Sighting
    first: int
    last: int
    requests: int


class _Place(msgspec.Struct, array_like=True, gc=False):
    """One place as it is stored: a list, because there may be eight of them."""

    network: str | None
    ip: str | None
    country: str | None
    first: int
    last: int
    requests: int

    @property
    def place(self) -> str | None:
        return self.network or self.ip or self.country


class _Kept(msgspec.Struct, omit_defaults=True, gc=False):
    """The client JSON of a record. ``requests`` is left out for one, ``places`` where they follow from the rest."""

    ip: str | None = None
    user_agent: str | None = None
    country: str | None = None
    network: str | None = None
    requests: int = 1
    places: list[_Place] = []

    @property
    def seen(self) -> Sighting:
        return Sighting(self.ip, self.user_agent, self.country, self.network)


_encode = msgspec.json.Encoder().encode
_kept = msgspec.json.Decoder(_Kept).decode


def known_places(client: bytes) -> set[str | None]:
    """What tells the places apart that ``client`` remembers."""
    kept = _decode(client)
    return {kept.seen.place, *(place.place for place in kept.places)}


def after(client: bytes, record: Record, visits: Iterable[Visit], now: Sighting, oldest: int | None) -> bytes:
    """``client``, as it was when ``record`` was last seen, with what came since; places are at most as old as
    ``oldest`` (microseconds).
    """
    kept = _decode(client)
    total = kept.requests
    places = _places(kept, record)
    for visit in visits:
        total += visit.requests
        _merge(places, visit)
    if oldest is not None:
        places = [place for place in places if place.last >= oldest]
    while len(places) > MOST_PLACES:
        places.remove(min(places, key=lambda place: place.last))
    if len(places) == 1:
        [only] = places
        if (only.place, only.requests, only.first) == (now.place, total, record.created_at):
            places = []
    return _encode(_Kept(now.ip, now.user_agent, now.country, now.network, total, places))


def _merge(places: list[_Place], visit: Visit) -> None:
    seen = visit.seen
    key = seen.place
    if key is None:
        return
    for place in places:
        if place.place == key:
            place.ip, place.country = seen.ip, seen.country
            place.first, place.last = min(place.first, visit.first), max(place.last, visit.last)
            place.requests += visit.requests
            return
    places.append(_Place(seen.network, seen.ip, seen.country, visit.first, visit.last, visit.requests))


def _places(kept: _Kept, record: Record) -> list[_Place]:
    if kept.places or kept.seen.place is None:
        return kept.places
    first, last = record.created_at, record.last_seen_at
    return [_Place(kept.network, kept.ip, kept.country, first, last, kept.requests)]


def _decode(client: bytes) -> _Kept:
    try:
        return _kept(client)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Kept()


def clients_of(record: Record, oldest: int | None = None) -> tuple[Client, Client]:
    """The first and the last client of ``record`` as people are shown them, addresses at most as old as ``oldest``."""
    kept, first = _decode(record.client_last), last_sighting(record.client_first)
    places = _places(kept, record)
    last = kept.seen
    if oldest is not None:
        places = [place for place in places if place.last >= oldest]
        if record.last_seen_at < oldest:
            last = Sighting(None, last.user_agent, last.country, None)
        begun = next((place for place in places if place.first == record.created_at), None)
        if record.created_at < oldest or begun is None:
            first = Sighting(None, first.user_agent, first.country, None)
        elif first.ip is None:
            # Addresses that are not kept for ever are kept in one place, from which they go.
            first = Sighting(begun.ip, first.user_agent, first.country, begun.network)
    shown = tuple(
        UsedFrom(place.network, place.ip, place.country, place.first, place.last, place.requests)
        for place in sorted(places, key=lambda place: -place.last)
    )
    return client_of(first), client_of(last, kept.requests, shown)


def sightings_of(record: Record) -> list[Sighting]:
    """Where ``record`` was first and last seen, and from where it was used between."""
    kept = _decode(record.client_last)
    places = [Sighting(place.ip, None, place.country, place.network) for place in kept.places]
    return [last_sighting(record.client_first), kept.seen, *places]


class Entry(msgspec.Struct, gc=False):
    """What one process knows of one session: from where it was last used, and what no touch has written yet.

    ``agent`` is the request's header, to be looked for as it is, first at the place ``agent_at`` among the others.
    ``produced`` is the client JSON of the last touch, at ``produced_at``: the record may not show it yet.
    ``hurried_at``: when a touch was last made due before its time. Before ``due_at``, none is, as long as ``idle`` of
    the record and ``caps`` of the policies stay what they are.
    """

    ip: str | None
    agent: tuple[bytes, bytes] | None
    seen: Sighting
    first: int
    last: int
    requests: int = 0
    agent_at: int = 0
    due_at: int = 0
    idle: int = 0
    caps: object = None
    earlier: list[Visit] = []
    produced: bytes = b""
    produced_at: int = -1
    hurried_at: int = 0

    def move(self, ip: str | None, agent: tuple[bytes, bytes] | None, seen: Sighting, at: int) -> None:
        """The session is used from elsewhere from ``at`` on."""
        if self.requests:
            self._put_by(self._visit())
        self.ip, self.agent, self.seen, self.first, self.last, self.requests = ip, agent, seen, at, at, 0

    def _put_by(self, visit: Visit) -> None:
        """Keep ``visit`` for the touch; who goes to and fro between two places has still been at two."""
        place = visit.seen.place
        for number, other in enumerate(self.earlier):
            if other.seen.place == place:
                merged = Visit(visit.seen, other.first, visit.last, other.requests + visit.requests)
                self.earlier = [*self.earlier[:number], *self.earlier[number + 1 :], merged]
                return
        self.earlier = [*self.earlier, visit][-EARLIER:]

    def take(self) -> list[Visit]:
        """What waits to be written, oldest first; nothing does then."""
        visits = [*self.earlier, self._visit()]
        self.earlier, self.requests, self.first = [], 0, self.last
        return visits

    def _visit(self) -> Visit:
        return Visit(self.seen, self.first, self.last, self.requests)


class Entries:
    """The sessions that one process remembers: the newest ``most`` for certain, and never more than twice as many."""

    __slots__ = ("_most", "_old", "young")

    def __init__(self, most: int) -> None:
        self._most = most
        self.young: dict[str, Entry] = {}
        self._old: dict[str, Entry] = {}

    def get(self, sid: str) -> Entry | None:
        """What is known of ``sid``."""
        entry = self.young.get(sid)
        if entry is None and (entry := self._old.pop(sid, None)) is not None:
            self.add(sid, entry)
        return entry

    def add(self, sid: str, entry: Entry) -> None:
        """Remember ``entry``; who was not heard of for longest is forgotten."""
        if len(self.young) >= self._most:
            # The dictionary stays the same one: it is held where requests look.
            self._old = self.young.copy()
            self.young.clear()
        self.young[sid] = entry

    def __len__(self) -> int:
        return len(self.young) + len(self._old)
