"""Stores that forget to announce ends, or forget links: laws 7 and 9."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from msgspec.structs import replace

from sessiondb.core.change import Change, Create, End
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason
from sessiondb.core.token import Sid
from sessiondb.stores.base import ChangeResult, Cutoffs, Ended, Query, Store, Swept
from sessiondb.testing import StoreWrapper


class AnnouncesNothing(StoreWrapper):
    """Ends as if nobody had to be told."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        silent = [replace(change, announce_at=None) if isinstance(change, End) else change for change in changes]
        return await super().apply(silent, events)


class AnnouncesOnlyItsOwn(StoreWrapper):
    """Knows of announcements where a session is ended by its sid, and forgets them where many are ended at once."""

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        return await super().end_where(replace(query, announce_at=None), reason)


class AnnouncesForEver(StoreWrapper):
    """Does not hear that an end has been announced."""

    async def announced(self, sids: Sequence[Sid]) -> None:
        return None


class AnnouncesTwice(StoreWrapper):
    """Tells two sweepers of the same end."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._told: list[Ended] = []

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        swept = await super().sweep(cutoffs, limit)
        again, self._told = self._told, list(swept.unannounced)
        return dataclasses.replace(swept, unannounced=[*swept.unannounced, *again[:1]])


class OneCapForAll(StoreWrapper):
    """Knows the caps of normal and remembered sessions, and no others."""

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        caps = cutoffs.caps
        return await super().sweep(replace(cutoffs, caps=Caps(caps.normal, caps.remembered)), limit)


class ForgetsLinks(StoreWrapper):
    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        bare = [replace(change, links=()) if isinstance(change, Create) else change for change in changes]
        return await super().apply(bare, events)


class EndsEverybody(StoreWrapper):
    """Takes a link that it does not look at for no condition at all."""

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        return await super().end_where(replace(query, link=None), reason)
