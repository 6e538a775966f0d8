"""A store around a store, with one place that every call passes through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

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


class StoreWrapper:
    """Does what ``store`` does. Override ``around`` to see every call, or one method to change one."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Make one ``call`` of the inner store's ``method``."""
        return await call()

    @property
    def name(self) -> str:
        """The inner store's name."""
        return self.store.name

    @property
    def batching(self) -> Batching:
        """The inner store's batching."""
        return self.store.batching

    async def open(self) -> None:
        """See ``Store.open``."""
        await self.around("open", self.store.open)

    async def close(self) -> None:
        """See ``Store.close``."""
        await self.around("close", self.store.close)

    async def clock(self) -> int:
        """See ``Store.clock``."""
        return await self.around("clock", self.store.clock)

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        return await self.around("load", lambda: self.store.load(sids))

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``."""
        return await self.around("apply", lambda: self.store.apply(changes, events))

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``."""
        return await self.around("admit", lambda: self.store.admit(login))

    async def find(self, query: Query) -> Page:
        """See ``Store.find``."""
        return await self.around("find", lambda: self.store.find(query))

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``."""
        return await self.around("end_where", lambda: self.store.end_where(query, reason))

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``."""
        return await self.around("sweep", lambda: self.store.sweep(cutoffs, limit))

    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        await self.around("announced", lambda: self.store.announced(sids))

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``."""
        return await self.around("lower_checks", lambda: self.store.lower_checks(caps, after, limit))

    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        return await self.around("recall", lambda: self.store.recall(name))

    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        await self.around("remember", lambda: self.store.remember(name, text))

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        await self.around("append", lambda: self.store.append(events))

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        return await self.around("events", lambda: self.store.events(query))

    async def stats(self) -> Stats:
        """See ``Store.stats``."""
        return await self.around("stats", self.store.stats)
