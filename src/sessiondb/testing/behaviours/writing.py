"""Law 2: no acknowledged write is lost, and none is applied twice."""

from __future__ import annotations

import asyncio

from sessiondb.core import codec
from sessiondb.core.change import Applied, Change, Conflict, Touch
from sessiondb.core.record import EndReason
from sessiondb.stores.base import Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.checks import (
    BehaviourBroken,
    equal,
    is_applied,
    is_conflict,
    is_gone,
    raises,
    require,
    same_record,
)
from sessiondb.testing.kit import Kit, together

WRITERS = 50
INCREMENTS = 40


async def writers_of_different_keys_all_land(kit: Kit) -> None:
    """50 concurrent writers on two handles, each with a key of its own: all 50 keys are there afterwards."""
    stores = await kit.stores(2)
    record = kit.record("alice", {"start": True})
    await kit.put_in(stores[0], record)
    changes = [kit.update(record, {f"k{number}": number}) for number in range(WRITERS)]
    results = await together(kit.apply(stores[number % 2], change) for number, change in enumerate(changes))
    for result in results:
        is_applied(result, "an unguarded update")
    expected = {"start": True} | {f"k{number}": number for number in range(WRITERS)}
    for store in stores:
        equal(await kit.data_of(store, record.sid), expected, "the data after 50 writers")


async def compare_and_set_loses_no_increment(kit: Kit) -> None:
    """40 concurrent increments, each guarded on the revision it has read and repeated on a conflict, make 40."""
    stores = await kit.stores(2)
    record = kit.record("alice", {"count": 0})
    await kit.put_in(stores[0], record)

    async def increment(store: Store) -> None:
        current = await kit.record_of(store, record.sid)
        for _ in range(20 * INCREMENTS):
            count = codec.decode_data(current.data)["count"]
            await asyncio.sleep(0)  # what happens in a handler between reading and writing
            result = await kit.apply(store, kit.update(record, {"count": count + 1}, if_rev=current.rev))
            if isinstance(result, Applied):
                return
            require(isinstance(result, Conflict), f"a guarded update answered {result!r}")
            current = is_conflict(result, "a guarded update")
        raise BehaviourBroken(f"a guarded update found no turn in {20 * INCREMENTS} tries")

    await together(increment(stores[number % 2]) for number in range(INCREMENTS))
    equal(await kit.data_of(stores[1], record.sid), {"count": INCREMENTS}, "the count")


async def what_a_change_was_made_of_is_only_a_hint(kit: Kit) -> None:
    """A change that carries the record it was made of lands as a delta, however old that record is by then."""
    stores = await kit.stores(2)
    records = [kit.record("alice", {"start": True}) for _ in range(3)]
    for record in records:
        await kit.put_in(stores[0], record)
    fresh, old, ended = records
    is_applied(await kit.apply(stores[1], kit.update(old, {"other": 1}, ["start"])), "another writer's update")
    is_applied(await kit.apply(stores[1], kit.end(ended)), "another's logout")
    changes = [kit.update(record, {"mine": 2}, seen=True) for record in records]
    applied, late, gone = await stores[0].apply(changes)
    equal(is_applied(applied, "an update made of the newest record").rev, 2, "its revision")
    equal(is_applied(late, "an update made of an older record").rev, 3, "its revision")
    is_gone(gone, "logout", "an update made of a session that was ended since")
    equal(await kit.data_of(stores[1], fresh.sid), {"start": True, "mine": 2}, "the data")
    equal(await kit.data_of(stores[1], old.sid), {"other": 1, "mine": 2}, "the data, with what the other has written")
    # Both of the newest changes are still known by their ids.
    for record, change, rev in ((fresh, changes[0], 2), (old, changes[1], 3)):
        is_applied(await kit.apply(stores[1], change), "the same change again")
        equal((await kit.record_of(stores[1], record.sid)).rev, rev, "the revision after a repeated change")
    touched = kit.update(await kit.record_of(stores[0], fresh.sid), {"n": 1}, seen=True, touch=Touch(kit.now - 10**9))
    is_applied(await kit.apply(stores[0], touched), "an update with a touch of long ago")
    equal((await kit.record_of(stores[0], fresh.sid)).last_seen_at, fresh.last_seen_at, "last_seen_at")


async def a_repeated_change_is_applied_once(kit: Kit) -> None:
    """A change is known by its id: sent again after a lost reply, it is answered as applied and does nothing."""
    store = await kit.store()
    record = kit.record("alice", {"n": 0})
    await kit.put_in(store, record)
    first = kit.update(record, {"n": 1})
    is_applied(await kit.apply(store, first), "an update")
    is_applied(await kit.apply(store, kit.update(record, {"n": 2})), "a later update")
    is_applied(await kit.apply(store, first), "the first update again")
    equal(await kit.data_of(store, record.sid), {"n": 2}, "the data: the repeated change must not come back")
    equal((await kit.record_of(store, record.sid)).rev, 3, "the revision after two changes, one of them repeated")
    guarded = kit.update(record, {"n": 3}, if_rev=3)
    is_applied(await kit.apply(store, guarded), "a guarded update")
    is_applied(await kit.apply(store, guarded), "the same guarded update again")
    equal((await kit.record_of(store, record.sid)).rev, 4, "the revision")


async def the_newest_eight_changes_are_known(kit: Kit) -> None:
    """A change is still recognised when seven others have landed since."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    first = kit.update(record, {"n": "first"})
    is_applied(await kit.apply(store, first), "an update")
    for number in range(7):
        is_applied(await kit.apply(store, kit.update(record, {"n": number})), "a later update")
    is_applied(await kit.apply(store, first), "the first update again")
    equal(await kit.data_of(store, record.sid), {"n": 6}, "the data")


async def a_repeated_create_is_the_same_create(kit: Kit) -> None:
    """A create whose reply was lost may be sent again: applied, and what was written since stays."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1})
    is_applied(await kit.apply(store, kit.create(record)), "a create")
    is_applied(await kit.apply(store, kit.update(record, {"b": 2})), "an update")
    is_applied(await kit.apply(store, kit.create(record)), "the same create again")
    equal(await kit.data_of(store, record.sid), {"a": 1, "b": 2}, "the data")


async def an_update_leaves_other_keys_alone(kit: Kit) -> None:
    """A delta sets its keys and removes its keys; every other key stays, and the last writer of a key wins."""
    store = await kit.store()
    record = kit.record("alice", {"keep": 1, "change": 1, "drop": 1})
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.update(record, {"change": 2, "new": 1}, ["drop", "absent"])), "a delta")
    equal(await kit.data_of(store, record.sid), {"keep": 1, "change": 2, "new": 1}, "the data after a delta")
    is_applied(await kit.apply(store, kit.update(record, {"drop": 2}, ["drop"])), "removed and set in one delta")
    is_applied(await kit.apply(store, kit.update(record, {"change": 3})), "a later write of the same key")
    equal(await kit.data_of(store, record.sid), {"keep": 1, "change": 3, "new": 1, "drop": 2}, "the data")


async def a_failed_guard_changes_nothing(kit: Kit) -> None:
    """A guarded update or end at an old revision is a conflict; not even its touch or its keys land."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1}, age=1000)
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.update(record, {"a": 2})), "an update")
    stored = await kit.record_of(store, record.sid)
    for rev in (record.rev, stored.rev + 1):
        late = kit.update(record, {"a": 3, "b": 3}, touch=Touch(kit.now), if_rev=rev)
        same_record(is_conflict(await kit.apply(store, late), "a failed guard"), stored, "the record in the conflict")
        is_conflict(await kit.apply(store, kit.end(record, EndReason.LOGIN, if_rev=rev)), "an end with a failed guard")
        same_record(await kit.find_record(store, record.sid), stored, "the session after a failed guard")


async def revisions_count_updates(kit: Kit) -> None:
    """``rev`` grows by one with each update, and the one in the answer is the one that is loaded."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    for number in range(1, 6):
        applied = is_applied(await kit.apply(store, kit.update(record, {"n": number})), "an update")
        equal(applied.rev, record.rev + number, "the revision in the answer")
        equal((await kit.record_of(store, record.sid)).rev, applied.rev, "the revision that is loaded")


async def one_session_comes_once_in_a_batch(kit: Kit) -> None:
    """Two changes of one session in one batch are refused: many databases would lose one of them silently."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    twice = [kit.update(record, {"a": 1}), kit.update(record, {"b": 2})]
    await raises(ValueError, store.apply(twice), "two changes of one session in one batch")
    equal(await kit.data_of(store, record.sid), {}, "the data after the refusal")


async def what_was_answered_outlives_the_connection(kit: Kit) -> None:
    """Sessions, ends and events that were acknowledged are there when the database is opened again."""
    store = await kit.store()
    living, ended = kit.record("alice", {"a": [1]}), kit.record("alice")
    await kit.put_in(store, living, ended)
    changes: list[Change] = [kit.update(living, {"b": 2}), kit.end(ended)]
    for result in await store.apply(changes, [kit.event(sid=living.sid)]):
        is_applied(result, "a change")
    store = await kit.reopen(store)
    equal(await kit.data_of(store, living.sid), {"a": [1], "b": 2}, "the data after opening again")
    equal((await kit.record_of(store, ended.sid)).end_reason, "logout", "the end after opening again")
    equal(await kit.living(store, "alice"), [living.sid], "the user's sessions after opening again")


BEHAVIOURS = [
    Behaviour((2,), writers_of_different_keys_all_land),
    Behaviour((2,), compare_and_set_loses_no_increment),
    Behaviour((2,), what_a_change_was_made_of_is_only_a_hint),
    Behaviour((2,), a_repeated_change_is_applied_once),
    Behaviour((2,), the_newest_eight_changes_are_known),
    Behaviour((2,), a_repeated_create_is_the_same_create),
    Behaviour((2,), an_update_leaves_other_keys_alone),
    Behaviour((2,), a_failed_guard_changes_nothing),
    Behaviour((2,), revisions_count_updates),
    Behaviour((2,), one_session_comes_once_in_a_batch),
    Behaviour((2,), what_was_answered_outlives_the_connection),
]
