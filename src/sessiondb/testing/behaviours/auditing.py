"""Law 9: the audit stream and the counts."""

from __future__ import annotations

from sessiondb.core.events import Event, EventType
from sessiondb.core.policy import SECOND
from sessiondb.stores.base import EventQuery
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import HOUR
from sessiondb.testing.checks import equal, is_applied
from sessiondb.testing.kit import Kit, together


async def events_come_back_as_they_were(kit: Kit) -> None:
    """Every kind of event, with all its fields or none, odd texts included."""
    store = await kit.store()
    events = [kit.event(type, at=kit.now + number) for number, type in enumerate(EventType)]
    odd = "é😀'\"\\%_\n" + "x" * 300
    events.append(
        kit.event(
            sid=kit.record().sid,
            user_id="Álice '%'",
            reason="a reason",
            ip="2001:db8::1",
            actor="Éve 'admin'",
            details={"n": 2**53 + 1, "text": odd, odd: -1, "a.b": 0, "$c": ""},
            personal={"user_agent": odd, "n": -(2**53) - 1, "a.b": "", "$c": 0},
        )
    )
    for event in events:
        await store.append([event])
    equal(list((await store.events(EventQuery())).events), events[::-1], "events, newest first")


async def events_are_paged_newest_first(kit: Kit) -> None:
    """Newest first, page by page by ``after``: each event once, and ``next`` is None at the end."""
    store = await kit.store()
    events = [kit.event(at=kit.now + number, details={"n": number}) for number in range(9)]
    await store.append(events[:4])
    await store.append(events[4:])
    for limit in (1, 2, 4, 8, 9, 10):
        found: list[Event] = []
        after: int | None = None
        for _ in range(10):
            page = await store.events(EventQuery(after=after, limit=limit))
            found += page.events
            after = page.next
            if after is None:
                break
            equal(len(page.events), limit, "the length of a page before the last")
        equal(found, events[::-1], f"all pages of {limit}")


async def events_are_found_by_what_they_are_about(kit: Kit) -> None:
    """By user (byte by byte), session, type and time, and by several of these together."""
    store = await kit.store()
    one, other = kit.record("alice").sid, kit.record("Alice").sid
    login = kit.event(EventType.LOGIN, at=kit.now, sid=one, user_id="alice")
    ended = kit.event(EventType.SESSION_ENDED, at=kit.now + 10 * SECOND, sid=one, user_id="alice", reason="logout")
    look_alike = kit.event(EventType.LOGIN, at=kit.now + 20 * SECOND, sid=other, user_id="Alice")
    nobody = kit.event(EventType.CROSS_ORIGIN, at=kit.now + 30 * SECOND, actor="alice")
    await store.append([login, ended, look_alike, nobody])
    later = kit.now + 15 * SECOND
    for query, expected in (
        (EventQuery(user_id="alice"), [ended, login]),
        (EventQuery(user_id="ALICE"), []),
        (EventQuery(sid=one), [ended, login]),
        (EventQuery(actor="alice"), [nobody]),
        (EventQuery(actor="alice", user_id="alice"), []),
        (EventQuery(type=EventType.LOGIN.value), [look_alike, login]),
        (EventQuery(type=EventType.LOGIN.value, user_id="alice"), [login]),
        (EventQuery(since=later), [nobody, look_alike]),
        (EventQuery(until=later), [ended, login]),
        (EventQuery(since=kit.now + SECOND, until=later), [ended]),
        (EventQuery(since=login.at, until=ended.at), [login]),
    ):
        equal(list((await store.events(query)).events), expected, f"events of {query}")


async def concurrent_events_are_all_kept(kit: Kit) -> None:
    """40 appends at once on two handles: all there, each once."""
    stores = await kit.stores(2)
    await together(
        stores[number % 2].append([kit.event(details={"n": 2 * number}), kit.event(details={"n": 2 * number + 1})])
        for number in range(40)
    )
    found = (await stores[0].events(EventQuery(limit=200))).events
    equal(sorted(int(event.details["n"]) for event in found), list(range(80)), "the events")


async def counts_follow_what_happens(kit: Kit) -> None:
    """Living, ended, users with a living session, events: in step with creates, ends and sweeps."""
    store = await kit.store()
    records = [kit.record("alice"), kit.record("alice"), kit.record("bob"), kit.record()]
    expired = kit.record("carol", age=2 * HOUR, idle=HOUR)
    await kit.put_in(store, *records, expired)
    await store.append([kit.event(), kit.event()])
    stats = await store.stats()
    equal((stats.ended, stats.events), (0, 2), "ended sessions and events")
    is_applied(await kit.apply(store, kit.end(records[2])), "an end")
    await store.sweep(kit.cutoffs(), 10)
    stats = await store.stats()
    equal((stats.live, stats.ended, stats.users), (3, 2, 1), "living, ended and users after two ends")


BEHAVIOURS = [
    Behaviour((9,), events_come_back_as_they_were),
    Behaviour((9,), events_are_paged_newest_first),
    Behaviour((9,), events_are_found_by_what_they_are_about),
    Behaviour((9,), concurrent_events_are_all_kept),
    Behaviour((9,), counts_follow_what_happens),
]
