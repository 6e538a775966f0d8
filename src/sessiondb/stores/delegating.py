"""What all stores around a store share: every call goes to the inner one, unless a subclass has more to do."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from sessiondb.core.change import Change
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Query,
    Stats,
    Store,
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
