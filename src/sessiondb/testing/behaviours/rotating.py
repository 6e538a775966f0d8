"""Law 5: what is stored opens nothing, and a rotation has one winner."""

from __future__ import annotations

from sessiondb.core import token
from sessiondb.core.change import Applied, Confirm, Conflict, Rotate
from sessiondb.core.presented import presented
from sessiondb.core.record import NO_SALT, EndReason, Record
from sessiondb.core.token import Token
from sessiondb.core.verify import Verdict, verify
from sessiondb.stores.base import Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import HOUR
from sessiondb.testing.checks import equal, is_applied, is_conflict, require, same_record
from sessiondb.testing.kit import Kit, together


async def a_rotation_keeps_what_late_requests_need(kit: Kit) -> None:
    """After a rotation the new secret asks for its confirmation, and the old one gets the same new secret again."""
    store = await kit.store()
    record, held, fresh = await _rotated(kit, store)
    equal(verify(record, presented(fresh), kit.now), Verdict.SERVE_AND_CONFIRM, "the new secret")
    equal(verify(record, presented(held), kit.now + HOUR), Verdict.SERVE_AND_RESEND, "the old secret, unconfirmed")
    require(bool(record.salt) and held.rotated(record.salt or b"") == fresh, "the salt gives the new secret")
    equal((record.rotated_at, record.confirmed_at), (kit.now, None), "the times of the rotation")


async def a_confirmation_erases_the_salt(kit: Kit) -> None:
    """Once the client has shown the new secret, nothing at rest leads from the old secret to the current one."""
    store = await kit.store()
    record, held, fresh = await _rotated(kit, store)
    change = kit.update(record, confirm=Confirm(record.secret_hash, kit.now))
    is_applied(await kit.apply(store, change), "a confirmation")
    confirmed = await kit.record_of(store, record.sid)
    equal(confirmed.salt, None, "the salt after the confirmation")
    equal(confirmed.confirmed_at, kit.now, "the time of the confirmation")
    equal(verify(confirmed, presented(fresh), kit.now), Verdict.SERVE, "the new secret")
    equal(verify(confirmed, presented(held), kit.now + HOUR), Verdict.REUSE, "the old secret, an hour later")


async def a_confirmation_is_guarded_on_its_secret(kit: Kit) -> None:
    """A confirmation of a secret that has been rotated away is a conflict and erases nothing."""
    store = await kit.store()
    record, _, _ = await _rotated(kit, store)
    late = kit.update(record, confirm=Confirm(record.previous_hash or b"", kit.now))
    same_record(is_conflict(await kit.apply(store, late), "a late confirmation"), record, "the conflict")
    same_record(await kit.find_record(store, record.sid), record, "the session after a late confirmation")


async def the_mark_of_a_step_up_outlives_its_confirmation(kit: Kit) -> None:
    """After a step-up without a salt the old secret is never served again, confirmed or not."""
    store = await kit.store()
    record = kit.record("alice")
    held = kit.token(record.sid)
    await kit.put_in(store, record)
    rotate, fresh = kit.rotation(record, step_up=True)
    is_applied(await kit.apply(store, kit.update(record, rotate=rotate)), "a step-up")
    stepped = await kit.record_of(store, record.sid)
    equal(stepped.salt, NO_SALT, "the mark of the step-up")
    equal(verify(stepped, presented(held), kit.now), Verdict.STALE, "the old secret, unconfirmed")
    confirm = kit.update(record, confirm=Confirm(token.digest(fresh.secret), kit.now))
    is_applied(await kit.apply(store, confirm), "its confirmation")
    confirmed = await kit.record_of(store, record.sid)
    equal(confirmed.salt, NO_SALT, "the mark after the confirmation")
    equal(verify(confirmed, presented(held), kit.now), Verdict.STALE, "the old secret, confirmed")


async def one_of_many_rotations_wins(kit: Kit) -> None:
    """20 rotations at once from the same secret: one lands, and the others see whose it was."""
    stores = await kit.stores(2)
    record = kit.record("alice")
    await kit.put_in(stores[0], record)
    rotations = [kit.rotation(record) for _ in range(20)]
    results = await together(
        kit.apply(stores[number % 2], kit.update(record, {"n": number}, rotate=rotate))
        for number, (rotate, _) in enumerate(rotations)
    )
    winners = [number for number, result in enumerate(results) if isinstance(result, Applied)]
    equal(len(winners), 1, "rotations that landed")
    stored = await kit.record_of(stores[0], record.sid)
    equal(stored.secret_hash == rotations[winners[0]][0].secret_hash, True, "the secret is the winner's")
    equal(await kit.data_of(stores[0], record.sid), {"n": winners[0]}, "the keys are the winner's")
    for result in results:
        if isinstance(result, Conflict):
            equal(result.record.secret_hash == stored.secret_hash, True, "a loser sees the winner's secret")
    equal(sum(isinstance(result, Conflict) for result in results), 19, "rotations that conflicted")


async def a_second_rotation_replaces_the_first(kit: Kit) -> None:
    """Rotating again keeps one previous secret and one salt: the newest."""
    store = await kit.store()
    record, held, fresh = await _rotated(kit, store)
    is_applied(await kit.apply(store, kit.update(record, confirm=Confirm(record.secret_hash, kit.now))), "confirming")
    salt = token.new_salt()
    newest = fresh.rotated(salt)
    again = Rotate(record.secret_hash, token.digest(newest.secret), salt, kit.now + 1)
    is_applied(await kit.apply(store, kit.update(record, rotate=again)), "a second rotation")
    twice = await kit.record_of(store, record.sid)
    equal(verify(twice, presented(newest), kit.now), Verdict.SERVE_AND_CONFIRM, "the newest secret")
    equal(verify(twice, presented(fresh), kit.now + HOUR), Verdict.SERVE_AND_RESEND, "the one before")
    equal(verify(twice, presented(held), kit.now + HOUR), Verdict.REUSE, "the oldest one")


async def a_tombstone_holds_neither_data_nor_salt(kit: Kit) -> None:
    """Ending a session, by whichever verb, drops its data and its salt."""
    store = await kit.store()
    records = [(await _rotated(kit, store, {"card": "4111"}))[0] for _ in range(3)]
    is_applied(await kit.apply(store, kit.end(records[0])), "an end")
    await store.end_where(kit.query(sids=[records[1].sid]), EndReason.REVOKED)
    login = kit.login(records[2], began_at=kit.now - HOUR)
    await store.end_where(kit.query("alice", not_before=kit.now, keep=records[2].sid), EndReason.REVOKED)
    await store.admit(login)
    for record in records:
        ended = await kit.record_of(store, record.sid)
        require(ended.ended_at is not None, "the session was to be ended")
        equal(await kit.data_of(store, record.sid), {}, "the data of a tombstone")
        equal(ended.salt, None, "the salt of a tombstone")


async def _rotated(kit: Kit, store: Store, data: dict[str, str] | None = None) -> tuple[Record, Token, Token]:
    record = kit.record("alice", data)
    held = kit.token(record.sid)
    await kit.put_in(store, record)
    rotate, fresh = kit.rotation(record)
    is_applied(await kit.apply(store, kit.update(record, rotate=rotate)), "a rotation")
    return await kit.record_of(store, record.sid), held, fresh


BEHAVIOURS = [
    Behaviour((5,), a_rotation_keeps_what_late_requests_need),
    Behaviour((5,), a_confirmation_erases_the_salt),
    Behaviour((5,), a_confirmation_is_guarded_on_its_secret),
    Behaviour((5,), the_mark_of_a_step_up_outlives_its_confirmation),
    Behaviour((5, 2), one_of_many_rotations_wins),
    Behaviour((5,), a_second_rotation_replaces_the_first),
    Behaviour((5,), a_tombstone_holds_neither_data_nor_salt),
]
