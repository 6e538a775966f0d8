"""A store around a store that has every end written as still to be announced, and tells of each at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from sessiondb.core.change import Applied, Change, End
from sessiondb.core.events import Event
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.core.token import Sid
from sessiondb.stores.base import (
    Admission,
    ChangeResult,
    Cutoffs,
    Ended,
    Login,
    Query,
    Store,
    Swept,
)
from sessiondb.stores.delegating import DelegatingStore

ANNOUNCE_AFTER = 60 * SECOND

Tell = Callable[[Sequence[Ended | Sid], int], None]


class AnnouncingStore(DelegatingStore):
    """``store``, whose ends are due for announcement after a minute unless ``announced`` comes first.

    ``tell`` is called, and must not wait, with the ends that a call has written (as ``Ended``, or as the sid where no
    more is known) or was asked to announce, and the time at which they are due again. ``now`` is the store's time.
    """

    __slots__ = ("_now", "_tell")

    def __init__(self, store: Store, now: Callable[[], int], tell: Tell) -> None:
        super().__init__(store)
        self._now = now
        self._tell = tell

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """As the inner store; the ends that have landed are told."""
        if not any(type(change) is End for change in changes):
            return await self._store.apply(changes, events)
        due = self._now() + ANNOUNCE_AFTER
        marked = [
            msgspec.structs.replace(change, announce_at=due) if isinstance(change, End) else change
            for change in changes
        ]
        results = await self._store.apply(marked, events)
        landed = [
            change.sid
            for change, result in zip(changes, results, strict=True)
            if isinstance(change, End) and isinstance(result, Applied)
        ]
        if landed:
            self._tell(landed, due)
        return results

    async def admit(self, login: Login) -> Admission:
        """As the inner store; who had to go is told."""
        due = self._now() + ANNOUNCE_AFTER
        admission = await self._store.admit(msgspec.structs.replace(login, announce_at=due))
        if admission.ended:
            self._tell(admission.ended, due)
        return admission

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """As the inner store; the ends are told."""
        due = self._now() + ANNOUNCE_AFTER
        ended = await self._store.end_where(msgspec.structs.replace(query, announce_at=due), reason)
        if ended:
            self._tell(ended, due)
        return ended

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """As the inner store; the ends are told, and those of others that nobody has announced."""
        due = self._now() + ANNOUNCE_AFTER
        swept = await self._store.sweep(msgspec.structs.replace(cutoffs, announce_at=due), limit)
        told = [*swept.ended, *swept.unannounced]
        if told:
            self._tell(told, due)
        return swept
