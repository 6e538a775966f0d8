"""Laws 2 and 9: the audit trail's streams, and events that land with their changes or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from sessiondb.core.change import Applied, Change
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import Lane
from sessiondb.stores.base import EventQuery, NotTogether, Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.checks import BehaviourBroken, equal, is_applied, raises, require
from sessiondb.testing.kit import Kit, together


def _seals(events: Sequence[Event]) -> list[object]:
    return [event.seal for event in events]


async def _trail(store: Store, stream: str) -> list[Event]:
    return await store.trail(stream, 0, 1000)


async def seals_come_back_as_they_were(kit: Kit) -> None:
    """With every event, whether it has all personal fields or none, by ``events`` and by ``trail``.

    Also where somebody has sent characters that not every database can hold.
    """
    store = await kit.store()
    full = kit.event(sid=kit.record().sid, user_id="é", actor="bob", ip="192.0.2.1", personal={"a": 1}, reason="r")
    events = [full, kit.event(), kit.event(actor="eve"), kit.event(user_id="ann"), kit.event(personal={"x": ""})]
    hostile = "\0'\"\\\ud800\N{COOKIE}"
    events.append(kit.event(reason=hostile, ip=hostile, details={hostile: hostile}, personal={hostile: hostile}))
    await store.append(events)
    found = (await store.events(EventQuery())).events[::-1]
    equal(list(found), events, "the events")
    equal(_seals(found), _seals(events), "the seals of the events")
    trail = await _trail(store, kit.place(full).stream)
    equal(trail, events, "the stream")
    equal(_seals(trail), _seals(events), "the seals of the stream")


async def an_event_has_one_place(kit: Kit) -> None:
    """Written again, as after a lost reply, it is there once; and what comes to a taken place changes nothing."""
    one, other = await kit.stores(2)
    lane = Lane(EventClass.LOGIN)
    events = lane.seal([Event(type=EventType.LOGIN, at=kit.now, details={"n": n}) for n in range(3)])
    forged = lane.seal([Event(type=EventType.LOGIN, at=kit.now, details={"n": 7})])
    await one.append(events[:2])
    await together(store.append(events) for store in (one, other, one))
    await other.append(forged)
    equal(await _trail(one, lane.stream), events, "the stream")
    equal(sorted(int(e.details["n"]) for e in (await one.events(EventQuery())).events), [0, 1, 2], "the events")


async def a_late_event_fills_its_gap(kit: Kit) -> None:
    """A stream is in the order of its numbers, whatever the order in which they came."""
    store = await kit.store()
    events = [kit.event(details={"n": n}) for n in range(4)]
    for at in (2, 0, 3):
        await store.append([events[at]])
    stream = kit.place(events[0]).stream
    equal(await _trail(store, stream), [events[0], events[2], events[3]], "the stream with a gap")
    await store.append([events[1]])
    equal(await _trail(store, stream), events, "the stream without it")


async def streams_are_walked(kit: Kit) -> None:
    """Every stream by name, with its first number and last event; page by page."""
    store = await kit.store()
    equal(await store.streams(), [], "the streams of an empty database")
    logins = [kit.event(details={"n": n}) for n in range(5)]
    ended = [kit.event(EventType.SESSION_ENDED, user_id="ann") for _ in range(2)]
    await store.append([logins[0], ended[0], *logins[1:], ended[1]])
    streams = await store.streams()
    names = sorted([kit.place(logins[0]).stream, kit.place(ended[0]).stream])
    equal([stream.name for stream in streams], names, "the streams")
    for stream in streams:
        last = logins[-1] if stream.name == kit.place(logins[0]).stream else ended[-1]
        equal((stream.first, stream.last, stream.last.seal), (1, last, last.seal), f"the ends of {stream.name}")
    name = kit.place(logins[0]).stream
    equal(await store.trail(name, 0, 2), logins[:2], "the first page")
    equal(await store.trail(name, 2, 2), logins[2:4], "the second page")
    equal(await store.trail(name, 4, 2), logins[4:], "the last page")
    equal(await store.trail(name, 5, 2), [], "after the last")
    equal(await store.trail("l00000000000ffff", 0, 2), [], "a stream that is not there")


async def changes_bring_their_events(kit: Kit) -> None:
    """One call, several changes and events of several streams: all there, each once."""
    store = await kit.store()
    old, new = kit.record(), kit.record("alice")
    await kit.put_in(store, old)
    events = [
        kit.event(sid=new.sid, user_id="alice", ip="192.0.2.1"),
        kit.event(EventType.SESSION_ENDED, sid=old.sid, reason="login"),
        kit.event(EventType.IMPERSONATION_ENDED, actor="bob"),
    ]
    results = await store.apply([kit.create(new), kit.end(old)], events)
    for result in results:
        is_applied(result, "a login")
    found = (await store.events(EventQuery())).events
    equal(sorted(_seals(found), key=repr), sorted(_seals(events), key=repr), "the events of the login")
    equal(await _trail(store, kit.place(events[0]).stream), events[:1], "its stream")


async def no_change_lands_without_its_event(kit: Kit) -> None:
    """Where an event's place is taken, nothing of its call is written: neither changes nor events."""
    store = await kit.store()
    old, new = kit.record("alice", {"n": 1}), kit.record("alice")
    await kit.put_in(store, old)
    lane = Lane(EventClass.LOGIN)
    [taken] = lane.seal([Event(type=EventType.LOGIN, at=kit.now)])
    await store.append([taken])
    [mine] = lane.seal([Event(type=EventType.LOGIN, at=kit.now, user_id="alice")])
    beside = kit.event(EventType.SESSION_ENDED, sid=old.sid)
    changes: list[Change] = [kit.create(new), kit.update(old, {"n": 2})]
    await raises(NotTogether, store.apply(changes, [beside, mine]), "a call with an event whose place is taken")
    await _is_untouched(kit, store, [taken])
    equal(await kit.data_of(store, old.sid), {"n": 1}, "the data of a session that was to be updated")
    equal(await kit.find_record(store, new.sid), None, "a session that was to be made")
    try:
        [result] = await store.apply([kit.create(new)], [mine])
    except StoreError:
        pass
    else:
        require(isinstance(result, StoreError), f"a change without its event was answered {result!r:.200}")
    equal(await kit.find_record(store, new.sid), None, "a session that was to be made alone")
    await _is_untouched(kit, store, [taken])
    is_applied((await store.apply([kit.create(new)], [kit.event(sid=new.sid)]))[0], "the same with a free place")


async def _is_untouched(kit: Kit, store: Store, events: list[Event]) -> None:
    equal(list((await store.events(EventQuery())).events), events, "the events after a call that was refused")


async def refused_changes_keep_no_event_from_landing(kit: Kit) -> None:
    """``Gone`` and ``Conflict`` are answers, not errors: what was tried is told."""
    store = await kit.store()
    gone, moved = kit.record(), kit.record()
    await kit.put_in(store, moved)
    events = [kit.event(EventType.WRITE_AFTER_END, sid=gone.sid), kit.event(EventType.SESSION_ENDED, sid=moved.sid)]
    results = await store.apply([kit.end(gone), kit.end(moved, if_rev=7)], events)
    require(not any(isinstance(result, (Applied, Exception)) for result in results), f"found {results!r:.300}")
    equal(len((await store.events(EventQuery())).events), 2, "the events")


async def writers_of_many_streams_lose_nothing(kit: Kit) -> None:
    """Forty calls at once on two handles, each with a change and two events of its own streams."""
    stores = await kit.stores(2)

    async def log_in(number: int) -> tuple[Lane, list[Event]]:
        record, lane = kit.record(f"user{number}"), Lane(EventClass.LOGIN)
        events = lane.seal([Event(type=EventType.LOGIN, at=kit.now, sid=record.sid, details={"n": n}) for n in (1, 2)])
        is_applied((await stores[number % 2].apply([kit.create(record)], events))[0], "a login")
        return lane, events

    written = await together(log_in(number) for number in range(40))
    equal([one.name for one in await stores[0].streams()], sorted(lane.stream for lane, _ in written), "the streams")
    for lane, events in written:
        if await _trail(stores[1], lane.stream) != events:
            raise BehaviourBroken(f"the stream {lane.stream} is not what was written")


async def events_are_purged_from_the_start_of_a_stream(kit: Kit) -> None:
    """Up to and with a number, of several streams; the rest stays, also of streams with names alike."""
    store = await kit.store()
    logins = [kit.event(details={"n": n}, user_id="ann") for n in range(5)]
    ended = [kit.event(EventType.SESSION_ENDED) for _ in range(3)]
    await store.append([*logins, *ended])
    name, other = kit.place(logins[0]).stream, kit.place(ended[0]).stream
    equal(await store.purge_events({name: 2, "l00000000000ffff": 9}), 2, "how many were purged")
    equal(await _trail(store, name), logins[2:], "what is left of the stream")
    equal(await _trail(store, other), ended, "the other stream")
    equal({one.name: one.first for one in await store.streams()}, {name: 3, other: 1}, "where the streams begin")
    equal(len((await store.events(EventQuery(user_id="ann"))).events), 3, "the events of the user")
    equal(await store.purge_events({name: 2, other: 3}), 3, "how many were purged then")
    equal([one.name for one in await store.streams()], [name], "the streams that are left")
    equal((await store.stats()).events, 3, "the count of events")


BEHAVIOURS = [
    Behaviour((9,), seals_come_back_as_they_were),
    Behaviour((2, 9), an_event_has_one_place),
    Behaviour((2, 9), a_late_event_fills_its_gap),
    Behaviour((9,), streams_are_walked),
    Behaviour((2, 9), changes_bring_their_events),
    Behaviour((2, 9), no_change_lands_without_its_event),
    Behaviour((9,), refused_changes_keep_no_event_from_landing),
    Behaviour((2, 9), writers_of_many_streams_lose_nothing),
    Behaviour((9,), events_are_purged_from_the_start_of_a_stream),
]
