"""Law 8: what the store answers is enough to go on, so that no verb needs a further round trip."""

from __future__ import annotations

from sessiondb.core import codec
from sessiondb.core.change import Applied, Change, Confirm, Rotate, SignIn, Touch
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.checks import equal, is_applied, is_conflict, require
from sessiondb.testing.counting import CountingStore
from sessiondb.testing.kit import Kit, together


async def a_touch_costs_no_guarded_writer_a_retry(kit: Kit) -> None:
    """A touch between the read and the guarded write of somebody else is no conflict."""
    store = await kit.store()
    record = kit.record("alice", {"n": 0}, age=HOUR)
    await kit.put_in(store, record)
    for number in range(1, 6):
        current = await kit.record_of(store, record.sid)
        is_applied(await kit.apply(store, kit.touch(record, kit.now - (10 - number) * SECOND)), "a touch between")
        result = await kit.apply(store, kit.update(record, {"n": number}, if_rev=current.rev))
        is_applied(result, "a guarded write after a touch by somebody else")


async def an_answer_is_the_next_guard(kit: Kit) -> None:
    """The revision in the answer is good for the next guarded write, without a read between."""
    store = CountingStore(await kit.store())
    record = kit.record("alice", {"n": 0})
    await kit.put_in(store, record)
    store.reset()
    rev = record.rev
    for number in range(10):
        rev = is_applied(await kit.apply(store, kit.update(record, {"n": number}, if_rev=rev)), "a guarded write").rev
    equal(dict(store.calls), {"apply": 10}, "calls for ten guarded writes")


async def a_conflict_shows_what_to_try_next(kit: Kit) -> None:
    """The record in a conflict is the newest: the next try, made from it, lands without a read."""
    store = CountingStore(await kit.store())
    record = kit.record("alice", {"n": 0})
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.update(record, {"n": 41})), "a write by somebody else")
    store.reset()
    current = is_conflict(await kit.apply(store, kit.update(record, {"n": 1}, if_rev=record.rev)), "an old revision")
    count = codec.decode_data(current.data)["n"] + 1
    is_applied(await kit.apply(store, kit.update(record, {"n": count}, if_rev=current.rev)), "the next try")
    equal(dict(store.calls), {"apply": 2}, "calls for a compare-and-set with one conflict")
    equal(await kit.data_of(store, record.sid), {"n": 42}, "the data")


async def unguarded_writers_never_conflict(kit: Kit) -> None:
    """Writers without a guard land at the first try, whatever else is written at the same time."""
    stores = await kit.stores(2)
    record = kit.record("alice", age=HOUR)
    await kit.put_in(stores[0], record)
    changes = [
        kit.touch(record) if number % 4 == 3 else kit.update(record, {f"k{number % 5}": number}) for number in range(40)
    ]
    results = await together(kit.apply(stores[number % 2], change) for number, change in enumerate(changes))
    require(all(isinstance(one, Applied) for one in results), "an unguarded write was refused")


async def one_change_carries_all_that_a_request_needs(kit: Kit) -> None:
    """Keys, removals, touch, rotation, confirmation and sign-in land as one change, and all of it or nothing."""
    store = await kit.store()
    record = kit.record("alice", {"keep": 1, "drop": 1}, age=HOUR)
    await kit.put_in(store, record)
    rotate, _ = kit.rotation(record)
    is_applied(await kit.apply(store, kit.update(record, rotate=rotate)), "a rotation")
    current = await kit.record_of(store, record.sid)
    salt = b"s" * 32
    next_hash = bytes(range(32))
    whole = kit.update(
        record,
        {"new": [1]},
        ["drop"],
        touch=Touch(kit.now, b'{"ip":"192.0.2.9"}'),
        confirm=Confirm(current.secret_hash, kit.now - 1),
        rotate=Rotate(current.secret_hash, next_hash, salt, kit.now),
        sign_in=SignIn(kit.now, b'{"methods":["otp"]}', DAY, 2 * DAY, "normal"),
        if_rev=current.rev,
    )
    equal(is_applied(await kit.apply(store, whole), "a change with everything").rev, current.rev + 1, "the revision")
    found = await kit.record_of(store, record.sid)
    equal(codec.decode_data(found.data), {"keep": 1, "new": [1]}, "the data")
    equal(
        (found.last_seen_at, found.authenticated_at, found.idle, found.absolute),
        (kit.now, kit.now, DAY, 2 * DAY),
        "last seen, time of the proof and lifetimes",
    )
    require(
        (found.secret_hash, found.previous_hash, found.salt) == (next_hash, current.secret_hash, salt),
        "the rotation in a change with everything did not land",
    )
    equal((found.rotated_at, found.confirmed_at), (kit.now, None), "the times of the rotation")


async def a_login_takes_two_calls(kit: Kit) -> None:
    """Create, end of the old session and event go in one call; admitting, evictions included, is the second."""
    store = CountingStore(await kit.store())
    old = [kit.record("alice", age=HOUR) for _ in range(3)]
    anonymous = kit.record()
    await kit.put_in(store, *old, anonymous)
    store.reset()
    new = kit.record("alice")
    changes: list[Change] = [kit.create(new), kit.end(anonymous, EndReason.LOGIN, if_rev=1)]
    for result in await store.apply(changes, [kit.event(sid=new.sid, user_id="alice")]):
        is_applied(result, "a change of the login")
    admission = await store.admit(kit.login(new, per_user=3))
    equal((admission.refused, len(admission.ended)), (None, 1), "the admission")
    equal(store.total, 2, "calls for a login that evicts a session")
    equal(len(await kit.living(store, "alice")), 3, "living sessions")


BEHAVIOURS = [
    Behaviour((8,), a_touch_costs_no_guarded_writer_a_retry),
    Behaviour((8,), an_answer_is_the_next_guard),
    Behaviour((8,), a_conflict_shows_what_to_try_next),
    Behaviour((8,), unguarded_writers_never_conflict),
    Behaviour((8, 2), one_change_carries_all_that_a_request_needs),
    Behaviour((8, 11), a_login_takes_two_calls),
]
