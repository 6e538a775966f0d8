"""What all stores around a store share: every call goes to the inner one, unless a subclass has more to do."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from sessiondb.core.change import Change
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Counter,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Position,
    Profile,
    Query,
    Sheet,
    Stats,
    Store,
    Stream,
    Swept,
)

Answer = TypeVar("Answer")
Call = Coroutine[Any, Any, Answer]


class DelegatingStore:
    """Does what ``store`` does. What is not overridden hands on its very coroutine, and so costs no other."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def name(self) -> str:
        """The inner store's name."""
        return self._store.name

    @property
    def batching(self) -> Batching:
        """The inner store's batching."""
        return self._store.batching

    def load(self, sids: Sequence[Sid]) -> Call[list[Record | None]]:
        """As the inner store."""
        return self._store.load(sids)

    def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> Call[list[ChangeResult]]:
        """As the inner store."""
        return self._store.apply(changes, events)

    def admit(self, login: Login) -> Call[Admission]:
        """As the inner store."""
        return self._store.admit(login)

    def find(self, query: Query) -> Call[Page]:
        """As the inner store."""
        return self._store.find(query)

    def end_where(self, query: Query, reason: EndReason) -> Call[list[Ended]]:
        """As the inner store."""
        return self._store.end_where(query, reason)

    def sweep(self, cutoffs: Cutoffs, limit: int) -> Call[Swept]:
        """As the inner store."""
        return self._store.sweep(cutoffs, limit)

    def announced(self, sids: Sequence[Sid]) -> Call[None]:
        """As the inner store."""
        return self._store.announced(sids)

    def lower_checks(self, caps: Caps, after: str | None, limit: int) -> Call[str | None]:
        """As the inner store."""
        return self._store.lower_checks(caps, after, limit)

    def recall(self, name: str) -> Call[str | None]:
        """As the inner store."""
        return self._store.recall(name)

    def remember(self, name: str, text: str) -> Call[None]:
        """As the inner store."""
        return self._store.remember(name, text)

    def append(self, events: Sequence[Event]) -> Call[None]:
        """As the inner store."""
        return self._store.append(events)

    def events(self, query: EventQuery) -> Call[EventPage]:
        """As the inner store."""
        return self._store.events(query)

    def streams(self) -> Call[list[Stream]]:
        """As the inner store."""
        return self._store.streams()

    def trail(self, stream: str, after: int, limit: int) -> Call[list[Event]]:
        """As the inner store."""
        return self._store.trail(stream, after, limit)

    def purge_events(self, through: Mapping[str, int]) -> Call[int]:
        """As the inner store."""
        return self._store.purge_events(through)

    def blank(self, places: Sequence[Position], groups: Collection[Group]) -> Call[int]:
        """As the inner store."""
        return self._store.blank(places, groups)

    def forget_user(self, user_id: str) -> Call[int]:
        """As the inner store."""
        return self._store.forget_user(user_id)

    def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Call[Profile]:
        """As the inner store."""
        return self._store.profile(user_id, counters)

    def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> Call[None]:
        """As the inner store."""
        return self._store.record_logins(logins, expires_at)

    def drop_login(self, user_id: str, entry: bytes) -> Call[bool]:
        """As the inner store."""
        return self._store.drop_login(user_id, entry)

    def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> Call[None]:
        """As the inner store."""
        return self._store.count(bucket, adds, most=most, expires_at=expires_at)

    def publish(self, sheets: Sequence[Sheet]) -> Call[None]:
        """As the inner store."""
        return self._store.publish(sheets)

    def sheets(self, kind: str, since: int, until: int) -> Call[list[Sheet]]:
        """As the inner store."""
        return self._store.sheets(kind, since, until)

    def withdraw(self, sheets: Sequence[Sheet]) -> Call[None]:
        """As the inner store."""
        return self._store.withdraw(sheets)

    def expire(self, now: int, limit: int) -> Call[int]:
        """As the inner store."""
        return self._store.expire(now, limit)

    def stats(self) -> Call[Stats]:
        """As the inner store."""
        return self._store.stats()

    def clock(self) -> Call[int]:
        """As the inner store."""
        return self._store.clock()

    def open(self) -> Call[None]:
        """As the inner store."""
        return self._store.open()

    def close(self) -> Call[None]:
        """As the inner store."""
        return self._store.close()
