"""Stores that lose users, failures and logins: laws 9, 10 and 11."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from msgspec.structs import replace
from planting import BOUNDLESS

from sessiondb.core.change import Applied, Change, Create, End, new_change_id
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.record import EndReason, Record, is_impersonated
from sessiondb.core.token import Sid
from sessiondb.stores.base import (
    Admission,
    ChangeResult,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Query,
    Stats,
    Store,
)
from sessiondb.testing import StoreWrapper

Answer = TypeVar("Answer")


async def living(store: Store, login: Login) -> list[Sid]:
    """The living sessions of the one who logs in."""
    query = Query(now=login.now, caps=login.caps, user_id=login.user_id, limit=1000)
    return [record.sid for record in (await store.find(query)).records]


# -- law 9 ---------------------------------------------------------------------------------------------------


class EndsNothing(StoreWrapper):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        await super().end_where(replace(query, sids=[]), reason)
        return []


class FindsEverybody(StoreWrapper):
    async def find(self, query: Query) -> Page:
        return await super().find(replace(query, user_id=None))


class FoldsCase(StoreWrapper):
    """A collation: ``Alice`` ends ``alice``'s sessions."""

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        ended = await super().end_where(query, reason)
        if query.user_id is None:
            return ended
        page = await self.store.find(Query(now=query.now, caps=query.caps, limit=1000))
        users = {record.user_id for record in page.records if record.user_id is not None} - {query.user_id}
        for user_id in users:
            if user_id.casefold() == query.user_id.casefold():
                ended += await super().end_where(replace(query, user_id=user_id), reason)
        return ended


class RevokeStopsAtLimit(StoreWrapper):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        page = await self.store.find(replace(query, state="live"))
        return await super().end_where(replace(query, sids=[record.sid for record in page.records]), reason)


class LosesPages(StoreWrapper):
    async def find(self, query: Query) -> Page:
        return replace(await super().find(query), next=None)


class LosesEvents(StoreWrapper):
    async def events(self, query: EventQuery) -> EventPage:
        page = await super().events(query)
        return dataclasses.replace(page, events=[dataclasses.replace(event, details={}) for event in page.events])


class FindsAllEvents(StoreWrapper):
    async def events(self, query: EventQuery) -> EventPage:
        return await super().events(EventQuery(after=query.after, limit=query.limit))


class CountsEverything(StoreWrapper):
    async def stats(self) -> Stats:
        stats = await super().stats()
        return dataclasses.replace(stats, live=stats.live + 1)


# -- law 10 --------------------------------------------------------------------------------------------------


class ClosedIsEmpty(StoreWrapper):
    """Closed, it knows nobody: every user is logged out by a restart of the database."""

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        try:
            return await super().load(sids)
        except StoreUnavailable:
            return [None for _ in sids]


class OneFailsAll(StoreWrapper):
    """A bad change fails its batch."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        results = await super().apply(changes, events)
        if any(isinstance(one, (SessionDataError, StoreError)) for one in results):
            return [StoreError("the batch failed") for _ in changes]
        return results


class CrossesReplies(StoreWrapper):
    """A caller that goes away leaves its reply on the connection for the next one."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._left: list[list[Record | None]] = []

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            await asyncio.sleep(0)
            return await call()
        except asyncio.CancelledError:
            self._left.append([None])
            raise

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        self._left.append(await super().load(sids))
        return self._left.pop(0)


class FailsWhenBusy(StoreWrapper):
    """Deadlocks are not retried: whoever comes while another one writes gets an error."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._writing = False

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        if self._writing:
            return [StoreUnavailable("deadlock found") for _ in changes]
        self._writing = True
        try:
            await asyncio.sleep(0)
            return await super().apply(changes, events)
        finally:
            self._writing = False


class SwallowsOutage(StoreWrapper):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        with suppress(StoreUnavailable):
            return await super().end_where(query, reason)
        return []


# -- law 11 --------------------------------------------------------------------------------------------------


class DropsEndBesideCreate(StoreWrapper):
    """The end of the anonymous session is lost when it comes with the create of the new one."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        if not any(isinstance(change, Create) for change in changes):
            return await super().apply(changes, events)
        results = await super().apply([change for change in changes if not isinstance(change, End)], events)
        given = iter(results)
        return [Applied(2) if isinstance(change, End) else next(given) for change in changes]


class IgnoresNotBefore(StoreWrapper):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        return await super().end_where(replace(query, not_before=None), reason)


class NotBeforeMovesBack(IgnoresNotBefore):
    """Goes by the newest revoke, even if that is of an earlier time than the one before."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._not_before: dict[str, int] = {}

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        if query.user_id is not None and query.not_before is not None:
            self._not_before[query.user_id] = query.not_before
        return await super().end_where(query, reason)

    async def admit(self, login: Login) -> Admission:
        if self._not_before.get(login.user_id, 0) <= login.began_at:
            return await super().admit(login)
        end = End(login.sid, new_change_id(), EndReason.REFUSED, login.now, login.purge_at)
        await self.store.apply([end])
        return Admission("revoked", [Ended(login.sid, login.user_id, EndReason.REFUSED.value, login.now)])


class CountsTheDead(StoreWrapper):
    async def admit(self, login: Login) -> Admission:
        return await super().admit(replace(login, caps=BOUNDLESS, now=login.now - 10**12))


class CountsBeforeItLocks(StoreWrapper):
    """A snapshot from before the lock: a login sees who was admitted when it was written, and not its rivals."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._admitted: set[Sid] = set()
        self._seen: dict[Sid, set[Sid]] = {}

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        for change in changes:
            if isinstance(change, Create):
                self._seen[change.sid] = {*self._admitted, change.sid}
        return await super().apply(changes, events)

    async def admit(self, login: Login) -> Admission:
        self._admitted.add(login.sid)
        if login.per_user is None:
            return await super().admit(login)
        seen = self._seen.get(login.sid, set())
        unseen = sum(sid not in seen for sid in await living(self.store, login))
        return await super().admit(replace(login, per_user=login.per_user + unseen))


class RefusesByRank(StoreWrapper):
    """A sid that was minted early and written late passes a full house."""

    async def admit(self, login: Login) -> Admission:
        if login.on_limit == "refuse" and login.per_user is not None:
            sids = sorted(await living(self.store, login))
            if login.sid in sids[: login.per_user]:
                return await super().admit(replace(login, per_user=None))
        return await super().admit(login)


class LiftsNoLock(StoreWrapper):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        return await super().end_where(replace(query, lift=False), reason)


class EndsTheUnlocked(StoreWrapper):
    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        return await super().end_where(replace(query, sids=None) if query.lift else query, reason)


class HidesLocks(StoreWrapper):
    async def admit(self, login: Login) -> Admission:
        return replace(await super().admit(login), not_before=None)


class ForgetsOtherNames(StoreWrapper):
    async def admit(self, login: Login) -> Admission:
        return await super().admit(replace(login, also=()))


class CountsImpersonators(StoreWrapper):
    """Whoever impersonates a user takes a place in that user's limit."""

    async def admit(self, login: Login) -> Admission:
        if login.per_user is None:
            return await super().admit(login)
        records = await self.store.load(await living(self.store, login))
        others = sum(record is not None and is_impersonated(record.auth) for record in records)
        return await super().admit(replace(login, per_user=max(1, login.per_user - others)))
