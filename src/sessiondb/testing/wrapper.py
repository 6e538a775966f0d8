"""A store around a store, with one place that every call passes through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

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

    async def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        return await self.around("streams", lambda: self.store.streams())

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        return await self.around("trail", lambda: self.store.trail(stream, after, limit))

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``."""
        return await self.around("purge_events", lambda: self.store.purge_events(through))

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``."""
        return await self.around("blank", lambda: self.store.blank(places, groups))

    async def forget_user(self, user_id: str) -> int:
        """See ``Store.forget_user``."""
        return await self.around("forget_user", lambda: self.store.forget_user(user_id))

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        return await self.around("profile", lambda: self.store.profile(user_id, counters))

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``."""
        await self.around("record_logins", lambda: self.store.record_logins(logins, expires_at))

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        return await self.around("drop_login", lambda: self.store.drop_login(user_id, entry))

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """See ``Store.count``."""
        await self.around("count", lambda: self.store.count(bucket, adds, most=most, expires_at=expires_at))

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``."""
        await self.around("publish", lambda: self.store.publish(sheets))

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        return await self.around("sheets", lambda: self.store.sheets(kind, since, until))

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``."""
        await self.around("withdraw", lambda: self.store.withdraw(sheets))

    async def expire(self, now: int, limit: int) -> int:
        """See ``Store.expire``."""
        return await self.around("expire", lambda: self.store.expire(now, limit))

    async def stats(self) -> Stats:
        """See ``Store.stats``."""
        return await self.around("stats", self.store.stats)
