"""Stores that are careless with the audit trail, or with what has to be erased: laws 2, 5 and 9."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from sessiondb.core.change import Change
from sessiondb.core.events import Event
from sessiondb.core.sealing import Group
from sessiondb.stores.base import ChangeResult, EventPage, EventQuery, Position, Store, Stream
from sessiondb.testing import StoreWrapper
from sessiondb.testing.builders import DAY


def place_of(event: Event) -> Position:
    assert event.seal is not None
    return Position(event.seal.stream, event.seal.seq)


async def is_taken(store: Store, place: Position) -> bool:
    found = await store.trail(place.stream, place.seq - 1, 1)
    return bool(found) and place_of(found[0]) == place


def moved(event: Event, seq: int) -> Event:
    assert event.seal is not None
    return dataclasses.replace(event, seal=replace(event.seal, seq=seq))


# -- the trail -----------------------------------------------------------------------------------------------


class LosesSalts(StoreWrapper):
    """Without its salt a commitment proves nothing."""

    async def append(self, events: Sequence[Event]) -> None:
        await super().append(
            [
                event if event.seal is None else dataclasses.replace(event, seal=replace(event.seal, where_salt=None))
                for event in events
            ]
        )


class RepeatsEvents(StoreWrapper):
    """What comes to a taken place is put behind the last: a lost reply writes everything twice."""

    async def append(self, events: Sequence[Event]) -> None:
        for event in events:
            place = place_of(event)
            if await is_taken(self.store, place):
                last = next(one.last for one in await self.store.streams() if one.name == place.stream)
                event = moved(event, place_of(last).seq + 1)
            await super().append([event])


class DropsLateEvents(StoreWrapper):
    """Takes what comes after the last of its stream, and nothing that comes late."""

    async def append(self, events: Sequence[Event]) -> None:
        for event in events:
            place = place_of(event)
            if not await self.store.trail(place.stream, place.seq, 1):
                await super().append([event])


class TrailStandsStill(StoreWrapper):
    """Begins each page with the last event of the page before."""

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        return await super().trail(stream, max(0, after - 1), limit)


class StreamsWithoutAnEnd(StoreWrapper):
    """Tells of the first event of each stream, and not of the last."""

    async def streams(self) -> list[Stream]:
        return [
            Stream(one.name, one.first, (await self.store.trail(one.name, 0, 1))[0]) for one in await super().streams()
        ]


class EventsOfOneStream(StoreWrapper):
    """Writes with a change the events of one stream, and forgets the others."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        return await super().apply(
            changes, [one for one in events if place_of(one).stream == place_of(events[0]).stream]
        )


class WritesWhatItCan(StoreWrapper):
    """The change first, then those of its events whose places are free."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        results = await super().apply(changes)
        await super().append(events)
        return results


class EventsWhenThereIsTime(StoreWrapper):
    """Under load it writes the changes, which somebody waits for, and no events."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._at_work = 0

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        self._at_work += 1
        try:
            await asyncio.sleep(0)
            return await super().apply(changes, events if self._at_work < 4 else ())
        finally:
            self._at_work -= 1


class PurgesOneMore(StoreWrapper):
    async def purge_events(self, through: Mapping[str, int]) -> int:
        return await super().purge_events({stream: seq + 1 for stream, seq in through.items()})


class IgnoresActors(StoreWrapper):
    """Cannot say what an administrator has done."""

    async def events(self, query: EventQuery) -> EventPage:
        return await super().events(replace(query, actor=None))


# -- erasing -------------------------------------------------------------------------------------------------


class KeepsAddresses(StoreWrapper):
    """Forgets who it was, and keeps from where."""

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        return await super().blank(places, [group for group in groups if group != "where"])


class BlanksAllOrNothing(StoreWrapper):
    """Where one of the events is not there, it erases none."""

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        for place in places:
            if not await is_taken(self.store, place):
                return 0
        return await super().blank(places, groups)


class KeepsLogins(StoreWrapper):
    """Deletes the sessions of somebody, and knows their logins still."""

    async def forget_user(self, user_id: str) -> int:
        history = (await super().profile(user_id, [])).history
        forgotten = await super().forget_user(user_id)
        if history:
            await super().record_logins([(user_id, history)], await self.store.clock() + DAY)
        return forgotten
