"""Who uses a session, and from where: counted in memory, written with the touches that are written anyway.

A request whose client is the one of the request before costs a look into a dictionary. Of the sessions of one event
loop, the 20,000 that were used last are remembered, and never more than twice as many; what was counted of others, or
by a process that is killed, is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessiondb.core.activity import Entries, Entry, after, clients_of, known_places
from sessiondb.core.client import (
    Client,
    Sighting,
    agent_text,
    client_of,
    encode,
    last_sighting,
    restated,
    without_address,
)
from sessiondb.core.policy import SECOND
from sessiondb.core.privacy import Privacy
from sessiondb.core.record import Record
from sessiondb.noticing import client_changed

if TYPE_CHECKING:
    from sessiondb.geo import Geo
    from sessiondb.state import State

REMEMBERED = 20_000
HURRY_EVERY = SECOND


class Clients:
    """What one event loop knows of the clients of its sessions, and how it is stored."""

    def __init__(self, privacy: Privacy, geo: Geo | None) -> None:
        self.privacy = privacy
        self.geo = geo
        self.entries = Entries(REMEMBERED)
        self.recent = self.entries.young

    def sighting(self, ip: str | None, user_agent: bytes | None) -> Sighting:
        """What is stored of a client."""
        privacy = self.privacy
        kept, network = privacy.stored(ip)
        country = self.geo.place(ip).country if self.geo is not None else None
        return Sighting(kept, agent_text(user_agent) if privacy.user_agent else None, country, network)

    def encoded(self, ip: str | None, user_agent: bytes | None) -> bytes:
        """The client JSON of a new session."""
        return encode(self.sighting(ip, user_agent))

    def as_first(self, client: bytes) -> bytes:
        """What of ``client`` is kept as the first one, which no touch ever writes again."""
        return client if self.privacy.ip_for is None else without_address(client)

    def shown(self, record: Record, now: int) -> tuple[Client, Client]:
        """The first and the last client of ``record``, as people are shown them."""
        return clients_of(record, self._oldest(now))

    def _oldest(self, now: int) -> int | None:
        kept_for = self.privacy.ip_for_micros
        return None if kept_for is None else now - kept_for

    # -- requests -----------------------------------------------------------------------------------------

    def look(self, state: State, record: Record, entry: Entry | None) -> None:
        """A request that is not plainly from where the one before was: what of that is new."""
        visitor = state.visitor
        ip, agent = visitor.ip, visitor.agent
        if entry is None:
            entry = self.entries.get(record.sid) or self._enter(record, ip, agent, state.began_at)
        if (ip, agent) != (entry.ip, entry.agent):
            self._move(state, record, entry, ip, agent)
        if agent is not None:
            entry.agent_at = [*visitor.headers].index(agent)
        entry.requests += 1
        entry.last = state.began_at

    def _enter(self, record: Record, ip: str | None, agent: tuple[bytes, bytes] | None, at: int) -> Entry:
        last = restated(last_sighting(record.client_last), self.privacy)
        now = self.sighting(ip, agent[1] if agent is not None else None)
        if last.ip in (None, now.ip) and last.user_agent in (None, now.user_agent):
            entry = Entry(ip, agent, now, at, at)
        else:
            # Nobody has this address and this header: the request will be found to be another's.
            entry = Entry("", None, last, record.last_seen_at, record.last_seen_at)
        self.entries.add(record.sid, entry)
        return entry

    def _move(
        self, state: State, record: Record, entry: Entry, ip: str | None, agent: tuple[bytes, bytes] | None
    ) -> None:
        before, now = entry.seen, self.sighting(ip, agent[1] if agent is not None else None)
        entry.move(ip, agent, now, state.began_at)
        if now == before:
            return
        state.client_noticed = True
        client_changed(state, record, client_of(before), client_of(now))
        if now.place != before.place and state.began_at - entry.hurried_at >= HURRY_EVERY:
            # Whoever goes to and fro between two networks is written by the minute, as all others are.
            known = known_places(self._base(record, entry))
            if now.place not in known and all(visit.seen.place != now.place for visit in entry.earlier):
                entry.hurried_at = state.began_at
                state.touch_due = True

    # -- touches ------------------------------------------------------------------------------------------

    def touched(self, state: State, record: Record, now: int) -> bytes | None:
        """The client JSON that a touch writes; ``None``: as it was. A job is nobody's client."""
        visitor = state.visitor
        if visitor.is_nobody:
            return None
        ip, agent = visitor.ip, visitor.agent
        entry = self.entries.get(record.sid) or self._enter(record, ip, agent, now)
        if (ip, agent) != (entry.ip, entry.agent):
            self._move(state, record, entry, ip, agent)
        base = self._base(record, entry)
        if not state.client_noticed:
            state.client_noticed = True
            before = restated(last_sighting(base), self.privacy)
            client_changed(state, record, client_of(before), client_of(entry.seen))
        entry.last = now
        client = after(base, record, entry.take(), entry.seen, self._oldest(now))
        entry.produced, entry.produced_at = client, now
        return client if client != record.client_last else None

    def rests(self, record: Record, until: int, caps: object) -> None:
        """No touch of ``record`` is due before ``until``; requests until then need not work that out."""
        entry = self.recent.get(record.sid)
        if entry is not None:
            entry.due_at, entry.idle, entry.caps = until, record.idle, caps

    def _base(self, record: Record, entry: Entry) -> bytes:
        """What the next touch adds to: the record, or what this process has written and the record does not show."""
        return entry.produced if entry.produced_at >= record.last_seen_at else record.client_last


def note_request(state: State, record: Record) -> None:
    """Count a request of ``record``, once; and see whether it comes from where the one before came from.

    Then ``state.touch_due`` says that a touch is due at once, and ``state.rests`` that none is due.
    """
    runtime = state.runtime
    entry = runtime.clients.recent.get(record.sid)
    visitor = state.visitor
    address = visitor.address
    at = state.began_at
    if entry is not None and address is not None and address[0] == entry.ip:
        headers = visitor.headers
        try:
            # Mostly it is where it was before, which is quicker to see.
            same = headers[entry.agent_at] == entry.agent  # type: ignore[index]
        except (IndexError, TypeError):
            same = False
        if same or entry.agent in headers:  # type: ignore[operator]
            entry.requests += 1
            entry.last = at
            if at < entry.due_at and record.idle == entry.idle and runtime.caps is entry.caps:
                state.rests = True
            return
    if not visitor.is_nobody:
        runtime.clients.look(state, record, entry)
