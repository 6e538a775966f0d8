"""``memory://``: sessions in this process, gone when it ends. For tests and single-process development."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from urllib.parse import parse_qsl, urlsplit

from sessiondb.core.change import Applied, Change, Create, Update, apply
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.stores._limit import not_before_of, takes_place, too_late
from sessiondb.stores._memory_trail import Events
from sessiondb.stores._memory_watching import Watched
from sessiondb.stores._table import Table
from sessiondb.stores._terms import end_of, is_in_state, is_to_be_purged, next_announcement
from sessiondb.stores.base import (
    SWEEP_GRACE,
    Admission,
    Batching,
    ChangeResult,
    Counter,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    NotTogether,
    Page,
    Position,
    Profile,
    Query,
    Sheet,
    Stats,
    Stream,
    Swept,
    place_taken,
)

MAX_SESSIONS = 1_000_000
MAX_EVENTS = 100_000


def system_clock() -> int:
    """This machine's time in microseconds since the epoch."""
    return time.time_ns() // 1000


class MemoryStore:
    """A store in a dictionary, bounded by ``max_sessions`` (tombstones count) and by its newest 100,000 events.

    The object is the database: what it holds stays when it is closed and opened again. ``open`` and ``close`` are
    counted, so several event loops may share it; each call happens under one lock and never waits inside it.
    ``clock`` gives microseconds since the epoch.
    """

    name = "memory"
    batching = Batching(touches=256)

    def __init__(self, *, max_sessions: int = MAX_SESSIONS, clock: Callable[[], int] = system_clock) -> None:
        if isinstance(max_sessions, bool) or not isinstance(max_sessions, int) or max_sessions < 1:
            raise ConfigurationError(f"MemoryStore: max_sessions is {max_sessions!r}; use a whole number from 1.")
        self._max_sessions = max_sessions
        self._clock = clock
        self._lock = threading.Lock()
        self._opened = 0
        self._table = Table()
        self._not_before: dict[str, int] = {}
        self._events = Events(MAX_EVENTS)
        self._watched = Watched()
        self._turn: tuple[str, int] | None = None
        self._walked: list[Sid] = []
        self._notes: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"MemoryStore(max_sessions={self._max_sessions})"

    async def open(self) -> None:
        """Count one more user of this object."""
        with self._lock:
            self._opened += 1

    async def close(self) -> None:
        """Count one user less. The sessions stay in the object."""
        with self._lock:
            self._opened = max(0, self._opened - 1)

    async def clock(self) -> int:
        """The time of the injected clock."""
        self._check_open()
        return self._clock()

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        self._check_open()
        with self._lock:
            get = self._table.records.get
            return [get(sid) for sid in sids]

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``. Raises ``ValueError`` if two changes are of one session."""
        self._check_open()
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("The changes of one apply() must be of different sessions; merge them or send two.")
        with self._lock:
            now = self._clock()
            decided: list[tuple[Record | None, ChangeResult]] = []
            room = self._max_sessions - len(self._table.records)
            for change in changes:
                decided.append(self._decide(change, now, room))
                room -= decided[-1][0] is not None and isinstance(change, Create)
            if events:
                taken = self._events.taken(events)
                if taken is not None or any(isinstance(result, Exception) for _, result in decided):
                    return self._refuse([result for _, result in decided], taken)
                self._events.add(events)
            for change, (written, _) in zip(changes, decided, strict=True):
                if written is not None:
                    self._land(change, written)
            return [result for _, result in decided]

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``."""
        self._check_open()
        with self._lock:
            return self._admit(login)

    async def find(self, query: Query) -> Page:
        """See ``Store.find``."""
        self._check_open()
        with self._lock:
            candidates = sorted(self._table.matching(query), key=lambda record: record.sid, reverse=True)
        found = (
            record
            for record in candidates
            if (query.before is None or record.sid < query.before) and is_in_state(record, query)
        )
        page = list(islice(found, query.limit + 1))
        records = page[: query.limit]
        return Page(records, records[-1].sid if len(page) > len(records) > 0 else None)

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``. Sessions already past their deadline get that as their reason, unreported."""
        self._check_open()
        with self._lock:
            if query.user_id is not None and query.not_before is not None:
                self._forbid_before(query.user_id, query.not_before, query)
            return [
                ended
                for record in sorted(self._table.matching(query), key=lambda record: record.sid)
                if record.sid != query.keep and (ended := self._end_matching(record, query, reason)) is not None
            ]

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``."""
        self._check_open()
        with self._lock:
            if not self._take_turn(cutoffs):
                return Swept()
            due = self._table.take_due(cutoffs.now, limit)
            tombstones = [record for record in due if record.ended_at is not None]
            purged = [record for record in tombstones if is_to_be_purged(record, cutoffs)]
            for record in purged:
                self._table.delete(record)
            unannounced = [
                claimed
                for record in tombstones
                if not is_to_be_purged(record, cutoffs) and (claimed := self._claim(record, cutoffs)) is not None
            ]
            ended = [
                swept
                for record in due
                if record.ended_at is None and (swept := self._sweep_one(record, cutoffs)) is not None
            ]
            return Swept(ended, len(purged), len(due) == limit, unannounced)

    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        self._check_open()
        with self._lock:
            for sid in sids:
                record = self._table.records.get(sid)
                if record is not None and record.purge_at is not None and record.check_at < record.purge_at:
                    self._table.move_check(record, record.purge_at)

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``; by sid, over those that there were when the walk began."""
        self._check_open()
        with self._lock:
            if after is None or not self._walked:
                self._walked = sorted(self._table.records)
            start = 0 if after is None else bisect_right(self._walked, after)
            part = self._walked[start : start + limit]
            for sid in part:
                record = self._table.records.get(sid)
                if record is not None and record.ended_at is None:
                    latest = caps.deadline(record) + SWEEP_GRACE
                    if record.check_at > latest:
                        self._table.move_check(record, latest)
            if start + limit < len(self._walked):
                return part[-1]
            self._walked = []
            return None

    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        self._check_open()
        return self._notes.get(name)

    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        self._check_open()
        self._notes[name] = text

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        self._check_open()
        with self._lock:
            self._events.add(events)

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        self._check_open()
        with self._lock:
            return self._events.page(query)

    async def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        self._check_open()
        with self._lock:
            return self._events.streams()

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        self._check_open()
        with self._lock:
            return self._events.trail(stream, after, limit)

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``."""
        self._check_open()
        with self._lock:
            return self._events.purge(through)

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``."""
        self._check_open()
        with self._lock:
            return self._events.blank(places, groups)

    async def forget_user(self, user_id: str) -> int:
        """See ``Store.forget_user``."""
        self._check_open()
        with self._lock:
            records = self._table.of_user(user_id)
            for record in list(records):
                self._table.delete(record)
            self._not_before.pop(user_id, None)
            self._watched.forget(user_id)
            return len(records)

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        self._check_open()
        with self._lock:
            return self._watched.profile(user_id, counters)

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``."""
        self._check_open()
        with self._lock:
            self._watched.record_logins(logins, expires_at)

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        self._check_open()
        with self._lock:
            return self._watched.drop_login(user_id, entry)

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """See ``Store.count``."""
        self._check_open()
        with self._lock:
            self._watched.count(bucket, adds, most, expires_at)

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``."""
        self._check_open()
        with self._lock:
            self._watched.publish(sheets)

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        self._check_open()
        with self._lock:
            return self._watched.sheets(kind, since, until)

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``."""
        self._check_open()
        with self._lock:
            self._watched.withdraw(sheets)

    async def expire(self, now: int, limit: int) -> int:
        """See ``Store.expire``."""
        self._check_open()
        with self._lock:
            return self._watched.expire(now, limit)

    async def stats(self) -> Stats:
        """Exact counts; ``users`` are those with a session that has not been ended."""
        self._check_open()
        with self._lock:
            table = self._table
            return Stats(
                live=table.live,
                ended=len(table.records) - table.live,
                users=table.users_with_live(),
                events=len(self._events),
            )

    def _check_open(self) -> None:
        if self._opened == 0:
            raise StoreUnavailable("The memory store is not open; use `async with SessionDB(...)` or await open().")

    @staticmethod
    def _refuse(results: list[ChangeResult], taken: Position | None) -> list[ChangeResult]:
        if len(results) > 1:
            raise NotTogether("One of the changes cannot be written, so neither they nor their events were.")
        if taken is None:
            return results
        error = StoreError(place_taken(taken))
        if not results:
            raise error
        return [error]

    def _decide(self, change: Change, now: int, room: int) -> tuple[Record | None, ChangeResult]:
        """What ``change`` would write, and its answer."""
        record = self._table.records.get(change.sid)
        if record is None and isinstance(change, Create) and room <= 0:
            return None, StoreUnavailable(
                f"The memory store holds {self._max_sessions:,} sessions, as many as it may. Raise max_sessions, "
                "shorten Policy(keep_ended=...), or use a database: SessionDB('sqlite:///sessions.db')."
            )
        try:
            return apply(record, change, now)
        except SessionDataError as error:
            return None, error

    def _land(self, change: Change, written: Record) -> None:
        self._table.put(written)
        if isinstance(change, Create):
            self._table.link(change.sid, change.links)
        elif isinstance(change, Update) and change.sign_in is not None:
            self._table.link(change.sid, change.sign_in.links)

    def _claim(self, record: Record, cutoffs: Cutoffs) -> Ended | None:
        """An end that nobody has announced yet, if it is ours to announce now."""
        self._table.move_check(record, next_announcement(record, cutoffs))
        if cutoffs.announce_at is None or record.ended_at is None:
            return None
        return Ended(record.sid, record.user_id, record.end_reason or "", record.ended_at)

    def _end(self, record: Record, reason: EndReason, at: int, terms: Login | Query | Cutoffs) -> Ended:
        change = end_of(record, reason, at, terms)
        written, outcome = apply(record, change, at)
        if written is None or not isinstance(outcome, Applied):
            raise RuntimeError("a session that had not been ended could not be ended")
        self._land(change, written)
        return Ended(record.sid, record.user_id, reason.value, at)

    def _admit(self, login: Login) -> Admission:
        own = self._table.records.get(login.sid)
        forbidden = not_before_of(login, (self._not_before.get(name) for name in (login.user_id, *login.also)))
        if own is None or own.ended_at is not None:
            return too_late(own, forbidden)
        if forbidden is not None:
            return Admission("revoked", [self._end(own, EndReason.REFUSED, login.now, login)], forbidden)
        if login.per_user is None:
            return Admission()
        # A session that has idled out must not push a living one out, so the real deadlines count.
        # The one that asks counts as the newest: sids of one millisecond are in no order.
        rivals = sorted(
            (
                record.sid
                for record in self._table.of_user(login.user_id)
                if record.ended_at is None and takes_place(record) and login.caps.deadline(record) > login.now
            ),
            key=lambda sid: (sid == login.sid, sid),
        )
        if login.on_limit == "refuse":
            # By count and not by rank: a sid that was minted early may be written late, after the house was full.
            if len(rivals) <= login.per_user:
                return Admission()
            return Admission("limit", [self._end(own, EndReason.REFUSED, login.now, login)])
        surplus = rivals[: -login.per_user]
        ended = [self._end(self._table.records[sid], EndReason.LIMIT, login.now, login) for sid in surplus]
        return Admission(None, ended)

    def _forbid_before(self, user_id: str, not_before: int, query: Query) -> None:
        latest = min if query.lift else max
        self._not_before[user_id] = latest(not_before, self._not_before.pop(user_id, not_before))
        if len(self._not_before) > self._max_sessions:
            # The one that changed longest ago and locks nobody: no login of its time can still be under way.
            past = (name for name, until in self._not_before.items() if until <= query.now)
            self._not_before.pop(next(past, user_id), None)

    def _end_matching(self, record: Record, query: Query, reason: EndReason) -> Ended | None:
        if record.ended_at is not None:
            return None
        deadline = query.caps.deadline(record)
        if deadline <= query.now:
            self._end(record, query.caps.expiry_reason(record), deadline, query)
            return None
        return self._end(record, reason, query.now, query)

    def _take_turn(self, cutoffs: Cutoffs) -> bool:
        if cutoffs.worker is None:
            return True
        if self._turn is not None and self._turn[0] != cutoffs.worker and self._turn[1] > cutoffs.now:
            return False
        self._turn = (cutoffs.worker, cutoffs.now + cutoffs.turn)
        return True

    def _sweep_one(self, record: Record, cutoffs: Cutoffs) -> Ended | None:
        deadline = cutoffs.caps.deadline(record)
        if deadline + SWEEP_GRACE <= cutoffs.now:
            reason = cutoffs.caps.expiry_reason(record)
            return self._end(record, reason, deadline, cutoffs)
        self._table.move_check(record, deadline + SWEEP_GRACE)
        return None


def memory_from_url(url: str) -> MemoryStore:
    """The store of ``memory://`` or ``memory://?max_sessions=10000``. Each call makes another, empty database."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    max_sessions = options.pop("max_sessions", str(MAX_SESSIONS))
    if options:
        raise ConfigurationError(
            f"memory:// does not know the option {next(iter(options))!r}; it has one: max_sessions."
        )
    if parts.netloc or parts.path.strip("/"):
        raise ConfigurationError(
            "memory:// takes neither host nor path: write memory:// or memory://?max_sessions=10000."
        )
    if not (max_sessions.isascii() and max_sessions.isdigit()):
        raise ConfigurationError(f"memory://: max_sessions is {max_sessions!r}; use a whole number from 1.")
    return MemoryStore(max_sessions=int(max_sessions))
