"""Laws 1 and 11: nothing but a create makes a session, and an ended one stays ended."""

from __future__ import annotations

import random

from sessiondb.core import codec
from sessiondb.core.change import Applied, Change, Confirm, Gone, SignIn, Touch
from sessiondb.core.record import EndReason, Record
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY
from sessiondb.testing.checks import equal, is_applied, is_conflict, is_gone, require, same_record
from sessiondb.testing.kit import Kit, together


async def a_write_to_a_missing_session_makes_nothing(kit: Kit) -> None:
    """Update, touch, rotation, confirmation, sign-in and end of an unknown sid say gone; no session appears."""
    store = await kit.store()
    missing = kit.record("alice")
    for what, change in _every_write(kit, missing):
        is_gone(await kit.apply(store, change), None, what)
        equal(await store.load([missing.sid]), [None], f"loading after {what} of a missing session")
    equal((await store.find(kit.query("alice", state="all"))).records, [], "sessions of the user afterwards")


async def an_ended_session_stays_ended(kit: Kit) -> None:
    """After a logout every write says gone with the reason, and the tombstone stays as it is."""
    store = await kit.store()
    record = kit.record("alice", {"cart": [1]})
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.end(record, EndReason.LOGOUT)), "ending a session")
    tombstone = await kit.record_of(store, record.sid)
    for what, change in _every_write(kit, record):
        is_gone(await kit.apply(store, change), "logout", what)
        same_record(await kit.find_record(store, record.sid), tombstone, f"the tombstone after {what}")
    other_reason = kit.end(record, EndReason.REVOKED)
    is_gone(await kit.apply(store, other_reason), "logout", "ending it again for another reason")


async def a_create_never_overwrites(kit: Kit) -> None:
    """A create of a sid that exists is a conflict that shows the session there, which stays as it is."""
    store = await kit.store()
    first = kit.record("alice", {"a": 1})
    await kit.put_in(store, first)
    second = kit.record("mallory", {"b": 2}, sid=first.sid)
    same_record(
        is_conflict(await kit.apply(store, kit.create(second)), "a create of a known sid"), first, "the conflict"
    )
    same_record(await kit.find_record(store, first.sid), first, "the session that was there")
    equal(await kit.living(store, "mallory"), [], "sessions of the user who came second")


async def a_create_never_revives(kit: Kit) -> None:
    """A create of the sid of an ended session is a conflict, and the session stays ended."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1})
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.end(record)), "ending a session")
    is_conflict(await kit.apply(store, kit.create(kit.record("alice", sid=record.sid))), "a create over a tombstone")
    equal((await kit.record_of(store, record.sid)).end_reason, "logout", "the reason of the tombstone")


async def a_logout_is_not_undone_by_requests_in_flight(kit: Kit) -> None:
    """Whatever 40 writers do around the moment of an end, the session is ended and empty afterwards."""
    one, other = await kit.stores(2)
    records = [kit.record("alice", {"start": 1}) for _ in range(4)]
    await kit.put_in(one, *records)
    order = random.Random(1)  # noqa: S311  repeatable
    for record in records:
        changes: list[Change] = [kit.update(record, {f"k{number}": number}) for number in range(20)]
        changes += [kit.touch(record) for _ in range(19)]
        changes.insert(order.randrange(10, 30), kit.end(record))
        results = await together(
            kit.apply(other if number % 2 else one, change) for number, change in enumerate(changes)
        )
        for result in results:
            require(
                isinstance(result, Applied) or result == Gone("logout"),
                f"a write around an end answered {result!r}; only applied and gone are possible",
            )
        ended = await kit.record_of(one, record.sid)
        equal((ended.end_reason, codec.decode_data(ended.data)), ("logout", {}), "the session afterwards")


async def a_repeated_end_is_the_same_end(kit: Kit) -> None:
    """An end whose reply was lost may be sent again: it is answered as applied, and changes nothing."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    change = kit.end(record, EndReason.REVOKED)
    is_applied(await kit.apply(store, change), "the end")
    tombstone = await kit.record_of(store, record.sid)
    is_applied(await kit.apply(store, change), "the same end again")
    same_record(await kit.find_record(store, record.sid), tombstone, "the tombstone after the same end again")


async def a_tombstone_tells_who_and_why(kit: Kit) -> None:
    """An ended session keeps its user, reason and time until its purge time, so that people can be told."""
    store = await kit.store()
    for reason in EndReason:
        record = kit.record("alice", {"a": 1})
        await kit.put_in(store, record)
        change = kit.end(record, reason, purge_after=3 * DAY)
        is_applied(await kit.apply(store, change), f"an end for {reason.value}")
        found = await kit.record_of(store, record.sid)
        equal(
            (found.user_id, found.end_reason, found.ended_at, found.check_at, found.created_at),
            ("alice", reason.value, kit.now, kit.now + 3 * DAY, record.created_at),
            "user, reason, end, purge time and creation of a tombstone",
        )


async def a_login_ends_the_old_session_in_the_same_batch(kit: Kit) -> None:
    """Create and end in one batch both land: who held the anonymous token holds nothing after the login."""
    store = await kit.store()
    anonymous = kit.record(None, {"cart": [1]})
    await kit.put_in(store, anonymous)
    new = kit.record("alice", {"cart": [1]})
    for result in await store.apply([kit.create(new), kit.end(anonymous, EndReason.LOGIN, if_rev=anonymous.rev)]):
        is_applied(result, "a change of a login's batch")
    equal((await kit.record_of(store, anonymous.sid)).end_reason, "login", "the end of the anonymous session")
    same_record(await kit.find_record(store, new.sid), new, "the new session")


async def what_was_written_before_a_login_is_not_lost(kit: Kit) -> None:
    """A guarded end of a session that was written meanwhile conflicts, shows the new data, and ends nothing."""
    store = await kit.store()
    anonymous = kit.record(None, {"cart": [1]})
    await kit.put_in(store, anonymous)
    is_applied(await kit.apply(store, kit.update(anonymous, {"cart": [1, 2]})), "a write beside the login")
    new = kit.record("alice", {"cart": [1]})
    created, ended = await store.apply([kit.create(new), kit.end(anonymous, EndReason.LOGIN, if_rev=anonymous.rev)])
    is_applied(created, "the create of a login whose end conflicts")
    found = is_conflict(ended, "the end guarded on the old revision")
    equal(codec.decode_data(found.data), {"cart": [1, 2]}, "the data in the conflict")
    equal((await kit.record_of(store, anonymous.sid)).ended_at, None, "the end of the session that conflicted")
    is_applied(await kit.apply(store, kit.end(anonymous, EndReason.LOGIN, if_rev=found.rev)), "the end after that")


def _every_write(kit: Kit, record: Record) -> list[tuple[str, Change]]:
    rotate, _ = kit.rotation(record)
    return [
        ("an update", kit.update(record, {"a": 1})),
        ("a removal", kit.update(record, remove=["cart"])),
        ("a guarded update", kit.update(record, {"a": 1}, if_rev=record.rev)),
        ("a touch", kit.touch(record)),
        ("a touch with a client", kit.touch(record, client=b'{"ip":"192.0.2.1"}')),
        ("a rotation", kit.update(record, rotate=rotate)),
        ("a confirmation", kit.update(record, confirm=Confirm(record.secret_hash, kit.now))),
        ("a sign-in", kit.update(record, sign_in=SignIn(kit.now, b"{}", DAY, DAY, "normal"))),
        ("an update with a touch", kit.update(record, {"a": 1}, touch=Touch(kit.now))),
        ("an end", kit.end(record, EndReason.REVOKED)),
        ("a guarded end", kit.end(record, EndReason.REVOKED, if_rev=record.rev)),
    ]


BEHAVIOURS = [
    Behaviour((1,), a_write_to_a_missing_session_makes_nothing),
    Behaviour((1,), an_ended_session_stays_ended),
    Behaviour((1,), a_create_never_overwrites),
    Behaviour((1,), a_create_never_revives),
    Behaviour((1,), a_logout_is_not_undone_by_requests_in_flight),
    Behaviour((1, 2), a_repeated_end_is_the_same_end),
    Behaviour((1,), a_tombstone_tells_who_and_why),
    Behaviour((11,), a_login_ends_the_old_session_in_the_same_batch),
    Behaviour((11, 2), what_was_written_before_a_login_is_not_lost),
]
