"""Law 7: an end that has to be announced comes up again until somebody says that it has been."""

from __future__ import annotations

from msgspec.structs import replace

from sessiondb.core.change import Applied
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.stores.base import Ended
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR, MINUTE, PURGE_AFTER
from sessiondb.testing.checks import equal, is_applied, require
from sessiondb.testing.kit import Kit, together


async def an_end_comes_up_until_it_is_announced(kit: Kit) -> None:
    """Not before its time; then every sweep that announces is told it, at the times it asked for; then never again."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1})
    await kit.put_in(store, record)
    first = kit.now + MINUTE
    is_applied(await kit.apply(store, kit.end(record, announce_at=first)), "an end")
    found = await kit.record_of(store, record.sid)
    equal((found.check_at, found.purge_at), (first, kit.now + PURGE_AFTER), "the next look, and the purge")
    swept = await store.sweep(kit.cutoffs(first - 1, announce_at=first + MINUTE), 100)
    equal((list(swept.unannounced), swept.purged), ([], 0), "before its time")
    expected = [Ended(record.sid, "alice", "logout", kit.now)]
    for at in (first, first + MINUTE):
        swept = await store.sweep(kit.cutoffs(at, announce_at=at + MINUTE), 100)
        equal((list(swept.ended), list(swept.unannounced), swept.purged), ([], expected, 0), "when it is due")
        swept = await store.sweep(kit.cutoffs(at + 1, announce_at=at + MINUTE), 100)
        equal(list(swept.unannounced), [], "right after it was taken")
    await store.announced([record.sid])
    found = await kit.record_of(store, record.sid)
    equal(found.check_at, kit.now + PURGE_AFTER, "the next look at an announced end")
    swept = await store.sweep(kit.cutoffs(kit.now + PURGE_AFTER - 1, announce_at=kit.now + PURGE_AFTER), 100)
    equal((list(swept.unannounced), swept.purged), ([], 0), "after it was announced")
    swept = await store.sweep(kit.cutoffs(kit.now + PURGE_AFTER, announce_at=kit.now + 2 * PURGE_AFTER), 100)
    equal((list(swept.unannounced), swept.purged), ([], 1), "at its purge")


async def who_announces_nothing_lets_ends_rest(kit: Kit) -> None:
    """A sweep without announcements reports none, and leaves the tombstone alone until its purge."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.end(record, announce_at=kit.now)), "an end")
    for _ in range(2):
        swept = await store.sweep(kit.cutoffs(kit.now + MINUTE), 100)
        equal((list(swept.ended), list(swept.unannounced), swept.purged), ([], [], 0), "a sweep")
    equal((await kit.record_of(store, record.sid)).check_at, kit.now + PURGE_AFTER, "the next look")


async def every_verb_that_ends_announces(kit: Kit) -> None:
    """Ends by the sweeper, by query and by the limit come up again too, each with its own reason and time."""
    store = await kit.store()
    now, due = kit.now, kit.now + MINUTE
    expired = kit.record("alice", age=2 * HOUR, idle=HOUR)
    revoked, overdue = kit.record("bob"), kit.record("bob", age=2 * HOUR, idle=HOUR)
    old, new = kit.record("carol", age=2 * SECOND), kit.record("carol")
    refused = kit.record("dave", age=HOUR)
    await kit.put_in(store, expired, revoked, overdue, old, new, refused)
    await store.end_where(kit.query("bob", announce_at=due), EndReason.REVOKED)
    await store.admit(kit.login(new, per_user=1, announce_at=due))
    await store.end_where(kit.query("dave", sids=[], not_before=now), EndReason.REVOKED)
    await store.admit(kit.login(refused, began_at=now - SECOND, announce_at=due))
    await store.sweep(kit.cutoffs(announce_at=due), 100)
    swept = await store.sweep(kit.cutoffs(due, announce_at=due + MINUTE), 100)
    expected = [
        Ended(expired.sid, "alice", "expired_idle", now - HOUR),
        Ended(revoked.sid, "bob", "revoked", now),
        Ended(overdue.sid, "bob", "expired_idle", now - HOUR),
        Ended(old.sid, "carol", "limit", now),
        Ended(refused.sid, "dave", "refused", now),
    ]
    equal(sorted(swept.unannounced, key=_sid), sorted(expected, key=_sid), "ends that nobody has announced")
    await store.announced([one.sid for one in expected])
    swept = await store.sweep(kit.cutoffs(due + HOUR, announce_at=due + 2 * HOUR), 100)
    equal(list(swept.unannounced), [], "after they were announced")


async def an_old_end_is_announced_too(kit: Kit) -> None:
    """A session that was over long before anybody noticed: its end is announced, not purged at once."""
    store = await kit.store()
    record = kit.record("alice", age=30 * DAY, idle=HOUR)
    await kit.put_in(store, record)
    due = kit.now + MINUTE
    swept = await store.sweep(kit.cutoffs(announce_at=due), 100)
    equal([one.sid for one in swept.ended], [record.sid], "ended")
    swept = await store.sweep(kit.cutoffs(due, announce_at=due + MINUTE), 100)
    equal(([one.sid for one in swept.unannounced], swept.purged), ([record.sid], 0), "unannounced, and purged")


async def an_unannounced_end_is_taken_by_one(kit: Kit) -> None:
    """Eight sweepers at once on two handles: each unannounced end is told to exactly one of them."""
    stores = await kit.stores(2)
    records = [kit.record("alice") for _ in range(40)]
    await kit.put_in(stores[0], *records)
    for record in records:
        is_applied(await kit.apply(stores[0], kit.end(record, announce_at=kit.now)), "an end")
    cutoffs = kit.cutoffs(announce_at=kit.now + MINUTE)
    done = await together(stores[number % 2].sweep(cutoffs, 15) for number in range(8))
    told = [one.sid for swept in done for one in swept.unannounced]
    while (swept := await stores[0].sweep(cutoffs, 15)).more or swept.unannounced:
        told += [one.sid for one in swept.unannounced]
    equal(sorted(told), sorted(record.sid for record in records), "told, all together")


async def announcing_spares_the_living(kit: Kit) -> None:
    """Saying that ends were announced changes no living session, and nothing where there is none."""
    store = await kit.store()
    living, unknown = kit.record("alice", {"a": 1}), kit.record("alice")
    await kit.put_in(store, living)
    await store.announced([living.sid, unknown.sid])
    await store.announced([])
    found = await kit.record_of(store, living.sid)
    equal((found.ended_at, found.check_at, found.rev), (None, living.check_at, 1), "a living session")
    require(await kit.find_record(store, unknown.sid) is None, "announcing has made a session")


async def an_announcement_due_after_the_purge_is_due_at_it(kit: Kit) -> None:
    """A tombstone never outlives its purge, however late it was to be announced."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    change = replace(kit.end(record, purge_after=HOUR), announce_at=kit.now + DAY)
    is_applied(await kit.apply(store, change), "an end")
    swept = await store.sweep(kit.cutoffs(kit.now + HOUR, announce_at=kit.now + DAY), 100)
    equal((list(swept.unannounced), swept.purged), ([], 1), "at its purge")


async def a_repeated_end_keeps_its_announcement(kit: Kit) -> None:
    """An end whose reply was lost is sent again: it is the same end, announced as the first one said."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    change = kit.end(record, announce_at=kit.now + MINUTE)
    is_applied(await kit.apply(store, change), "an end")
    await store.announced([record.sid])
    require(isinstance(await kit.apply(store, change), Applied), "the repeated end")
    found = await kit.record_of(store, record.sid)
    equal(found.check_at, kit.now + PURGE_AFTER, "the next look")


def _sid(ended: Ended) -> str:
    return ended.sid


BEHAVIOURS = [
    Behaviour((7,), an_end_comes_up_until_it_is_announced),
    Behaviour((7,), who_announces_nothing_lets_ends_rest),
    Behaviour((7,), every_verb_that_ends_announces),
    Behaviour((7,), an_old_end_is_announced_too),
    Behaviour((7,), an_unannounced_end_is_taken_by_one),
    Behaviour((7,), announcing_spares_the_living),
    Behaviour((7,), an_announcement_due_after_the_purge_is_due_at_it),
    Behaviour((7,), a_repeated_end_keeps_its_announcement),
]
