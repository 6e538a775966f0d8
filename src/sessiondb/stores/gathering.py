"""A store that tells of what it has written: sessions made and ended, logins let in and refused."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from sessiondb.core.change import Applied, Change, Create, End, Update
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event, EventType
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Admission, ChangeResult, Cutoffs, Ended, Login, Query, Store, Swept
from sessiondb.stores.delegating import DelegatingStore

_TOLD = frozenset({EventType.LOGIN, EventType.LOGIN_REFUSED})


class Gathers(Protocol):
    """Who is told. Must not wait, and raise nothing."""

    def created(self, record: Record) -> None:
        """A session was made."""
        ...

    def ended(self, sid: Sid, reason: str, at: int) -> None:
        """A session has ended at ``at``."""
        ...

    def logged_in(self, event: Event, client: bytes | None) -> None:
        """An event of type ``LOGIN`` was written; ``client``: the ``Client`` JSON, where it is known."""
        ...

    def refused(self, event: Event) -> None:
        """An event of type ``LOGIN_REFUSED`` was written."""
        ...


class GatheringStore(DelegatingStore):
    """``store``; what has been written for certain is told to ``told``, each thing once.

    Ordinary writes are handed on as they are, without another coroutine.
    """

    __slots__ = ("_told",)

    def __init__(self, store: Store, told: Gathers) -> None:
        super().__init__(store)
        self._told = told

    def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> Coroutine[Any, Any, list[ChangeResult]]:
        """As the inner store."""
        if not events:
            for change in changes:
                if type(change) is not Update:
                    break
            else:
                return self._store.apply(changes)
        return self._apply(changes, events)

    async def _apply(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        results = await self._store.apply(changes, events)
        told = self._told
        for change, result in zip(changes, results, strict=True):
            if type(result) is Applied:
                if type(change) is Create:
                    told.created(change.record)
                elif type(change) is End:
                    told.ended(change.sid, change.reason, change.at)
        for event in events:
            if event.type in _TOLD:
                self._tell(event, changes, results)
        return results

    def _tell(self, event: Event, changes: Sequence[Change], results: Sequence[ChangeResult]) -> None:
        if event.type == EventType.LOGIN_REFUSED:
            self._told.refused(event)
            return
        for change, result in zip(changes, results, strict=True):
            if change.sid == event.sid:
                if not isinstance(result, (StoreError, SessionDataError)):
                    self._told.logged_in(event, _client_of(change))
                return
        self._told.logged_in(event, None)

    async def append(self, events: Sequence[Event]) -> None:
        """As the inner store. A login was told when its session was written, even if its event comes later."""
        await self._store.append(events)
        for event in events:
            if event.type == EventType.LOGIN_REFUSED:
                self._told.refused(event)

    async def admit(self, login: Login) -> Admission:
        """As the inner store."""
        admission = await self._store.admit(login)
        self._tell_ended(admission.ended)
        return admission

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """As the inner store."""
        ended = await self._store.end_where(query, reason)
        self._tell_ended(ended)
        return ended

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """As the inner store."""
        swept = await self._store.sweep(cutoffs, limit)
        self._tell_ended(swept.ended)
        return swept

    def _tell_ended(self, ended: Sequence[Ended]) -> None:
        for one in ended:
            self._told.ended(one.sid, one.reason, one.at)


def _client_of(change: Change) -> bytes | None:
    if type(change) is Create:
        return change.record.client_first
    if type(change) is Update:
        if change.touch is not None and change.touch.client is not None:
            return change.touch.client
        return None if change.seen is None else change.seen.client_last
    return None
