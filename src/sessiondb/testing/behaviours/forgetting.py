"""Laws 5 and 9: a person is erased, and the trail stays."""

from __future__ import annotations

import hashlib

from sessiondb.core.record import LINK_BYTES, EndReason
from sessiondb.core.sealing import digest, erased_groups, wrong_groups
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, EventQuery
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, PURGE_AFTER
from sessiondb.testing.checks import BehaviourBroken, equal, is_applied
from sessiondb.testing.kit import Kit


async def personal_fields_are_erased_from_events(kit: Kit) -> None:
    """Those of the groups and places that are named, for every way to read; digests and all others stay."""
    store = await kit.store()
    events = [
        kit.event(sid=kit.record().sid, user_id="ann", actor="bob", ip="192.0.2.1", personal={"user_agent": "x" * 300}),
        kit.event(sid=kit.record().sid, user_id="ann", ip="2001:db8::1", details={"n": 1}),
        kit.event(user_id="annie", ip="192.0.2.1"),
    ]
    await store.append(events)
    places = [kit.place(event) for event in events]
    equal(await store.blank(places[:2], {"who", "where"}), 2, "how many were blanked")
    equal(
        [e.user_id for e in (await store.events(EventQuery())).events], ["annie", None, None], "the users, newest first"
    )
    equal(list((await store.events(EventQuery(user_id="ann"))).events), [], "the events of the user")
    equal(list((await store.events(EventQuery(sid=events[0].sid))).events), [], "the events of a session")
    first, second, third = await store.trail(places[0].stream, 0, 10)
    equal((first.sid, first.user_id, first.ip, first.personal, first.actor), (None, None, None, {}, "bob"), "the first")
    equal((second.details, third), ({"n": 1}, events[2]), "what nobody has asked to erase")
    for event, before, erased in ((first, events[0], ["who", "where"]), (second, events[1], ["who", "where"])):
        if event.seal is None or before.seal is None:
            raise BehaviourBroken("an event has lost its seal")
        equal(digest(event, event.seal), digest(before, before.seal), "the digest")
        equal(erased_groups(event.seal), erased, "what was erased, with its salts")
        equal(wrong_groups(event, event.seal), [], "what does not match its commitment")
    equal(third.seal, events[2].seal, "the seal of another")
    equal(await store.blank([places[0], places[0]._replace(seq=99)], {"actor"}), 1, "those that are there")
    equal((await store.trail(places[0].stream, 0, 1))[0].actor, None, "who has acted")
    equal(list((await store.events(EventQuery(actor="bob"))).events), [], "the events by who has acted")
    equal(await store.blank([], {"who"}), 0, "no places")


async def a_user_is_forgotten(kit: Kit) -> None:
    """Their sessions, living or ended, links, locks and logins go; everybody else's stay, and so do events."""
    store = await kit.store()
    link = hashlib.sha256(b"a").digest()[:LINK_BYTES]
    living, ended, other = kit.record("ann"), kit.record("ann"), kit.record("Ann")
    is_applied(await kit.apply(store, kit.create(living, [link])), "storing a session")
    await kit.put_in(store, ended, other)
    is_applied(await kit.apply(store, kit.end(ended)), "an end")
    event = kit.event(user_id="ann")
    await store.append([event])
    locked = kit.query("ann", not_before=kit.now + DAY, sids=[])
    await store.end_where(locked, EndReason.REVOKED)
    for user in ("ann", "Ann"):
        await store.record_logins([(user, b"e" * HISTORY_ENTRY_BYTES)], kit.now + DAY)
    equal(await store.forget_user("ann"), 2, "how many sessions were forgotten")
    equal([await kit.find_record(store, record.sid) for record in (living, ended)], [None, None], "the sessions")
    equal(list((await store.find(kit.query("ann", state="all"))).records), [], "the list of the user")
    equal(list((await store.find(kit.query(link=link, state="all"))).records), [], "the sessions of the link")
    equal((await store.profile("ann", [])).history, b"", "the logins of the user")
    equal(await kit.living(store, "Ann"), [other.sid], "the sessions of another user")
    equal((await store.profile("Ann", [])).history, b"e" * HISTORY_ENTRY_BYTES, "the logins of another user")
    equal(list((await store.events(EventQuery(user_id="ann"))).events), [event], "the events")
    swept = await store.sweep(kit.cutoffs(kit.now + PURGE_AFTER + 60 * DAY), 100)
    equal([one.sid for one in swept.ended], [other.sid], "who is swept later")
    again = kit.record("ann")
    await kit.put_in(store, again)
    equal((await store.admit(kit.login(again))).refused, None, "a login of somebody with that name")
    equal(await store.forget_user("nobody"), 0, "a user who is not there")


BEHAVIOURS = [
    Behaviour((5, 9), personal_fields_are_erased_from_events),
    Behaviour((5, 9), a_user_is_forgotten),
]
