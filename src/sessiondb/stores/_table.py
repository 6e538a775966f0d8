"""Records in memory with what a database would index: by sid, by user and by the time of the next look."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import msgspec

from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Query

_SLACK = 1024


class Table:
    """Records by sid. Not safe for threads by itself.

    ``live`` counts the records without an end. The heap may hold entries that are no longer true: an entry
    counts only if its record is still to be looked at at that time.
    """

    def __init__(self) -> None:
        self.records: dict[Sid, Record] = {}
        self.live = 0
        self._users: dict[str, set[Sid]] = {}
        self._links: dict[bytes, set[Sid]] = {}
        self._links_of: dict[Sid, set[bytes]] = {}
        self._due: list[tuple[int, Sid]] = []

    def put(self, record: Record) -> None:
        """Store ``record`` in place of the one with its sid."""
        before = self.records.get(record.sid)
        self.records[record.sid] = record
        self.live += (record.ended_at is None) - (before is not None and before.ended_at is None)
        if before is None and record.user_id is not None:
            self._users.setdefault(record.user_id, set()).add(record.sid)
        if before is None or before.check_at != record.check_at:
            self._look_at(record)

    def link(self, sid: Sid, links: Iterable[bytes]) -> None:
        """Have ``links`` find the session."""
        for link in links:
            self._links.setdefault(link, set()).add(sid)
            self._links_of.setdefault(sid, set()).add(link)

    def delete(self, record: Record) -> None:
        """Forget ``record`` and its links."""
        del self.records[record.sid]
        for link in self._links_of.pop(record.sid, ()):
            self._links[link].discard(record.sid)
            if not self._links[link]:
                del self._links[link]
        self.live -= record.ended_at is None
        if record.user_id is not None:
            sids = self._users[record.user_id]
            sids.discard(record.sid)
            if not sids:
                del self._users[record.user_id]

    def of_user(self, user_id: str) -> list[Record]:
        """All records of one user, in no order."""
        return [self.records[sid] for sid in self._users.get(user_id, ())]

    def matching(self, query: Query) -> list[Record]:
        """The records of the query's user, sids and link (all, if it names none), in no order."""
        sids = None if query.sids is None else set(query.sids)
        if query.link is not None:
            linked = self._links.get(query.link, set())
            sids = linked if sids is None else sids & linked
        if sids is not None:
            found = (self.records.get(sid) for sid in sids)
            return [r for r in found if r is not None and (query.user_id is None or r.user_id == query.user_id)]
        return list(self.records.values()) if query.user_id is None else self.of_user(query.user_id)

    def users_with_live(self) -> int:
        """How many users have a record without an end."""
        return sum(any(self.records[sid].ended_at is None for sid in sids) for sids in self._users.values())

    def take_due(self, now: int, limit: int) -> list[Record]:
        """At most ``limit`` records to be looked at by ``now``, oldest first.

        Each must then be deleted or put back with a later ``check_at``, or it is not looked at again.
        """
        due: dict[Sid, Record] = {}
        while self._due and self._due[0][0] <= now and len(due) < limit:
            check_at, sid = heapq.heappop(self._due)
            record = self.records.get(sid)
            if record is not None and record.check_at == check_at:
                due[sid] = record
        return list(due.values())

    def move_check(self, record: Record, check_at: int) -> None:
        """Look at ``record`` next at ``check_at``."""
        self.put(msgspec.structs.replace(record, check_at=check_at))

    def _look_at(self, record: Record) -> None:
        heapq.heappush(self._due, (record.check_at, record.sid))
        # Logins and logouts leave untrue entries behind; more of them than records would be a leak.
        if len(self._due) > 2 * len(self.records) + _SLACK:
            self._due = [(r.check_at, sid) for sid, r in self.records.items()]
            heapq.heapify(self._due)
