"""Laws 9 and 11: users who are locked, logins that several names forbid, and who takes no place in the limit."""

from __future__ import annotations

from sessiondb.core.change import Create
from sessiondb.core.policy import SECOND
from sessiondb.core.record import Auth, EndReason, encode_auth
from sessiondb.stores.base import Ended
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR, MINUTE
from sessiondb.testing.checks import equal, is_applied
from sessiondb.testing.kit import Kit, together


async def a_lock_refuses_logins_until_its_time(kit: Kit) -> None:
    """With ``not_before`` in the future a login is refused and told until when; from then on it stays."""
    one, other = await kit.stores(2)
    until = kit.now + 400 * DAY
    mine = kit.record("alice")
    await kit.put_in(one, mine)
    ended = await one.end_where(kit.query("alice", not_before=until), EndReason.LOCKED)
    equal(list(ended), [Ended(mine.sid, "alice", "locked", kit.now)], "who was ended by the lock")
    for store, began_at, forbidden in ((one, kit.now, until), (other, until - 1, until), (other, until, None)):
        record = kit.record("alice")
        await kit.put_in(store, record)
        admission = await store.admit(kit.login(record, began_at=began_at))
        equal(
            (admission.refused is not None, admission.not_before), (forbidden is not None, forbidden), "the admission"
        )
    record = kit.record("Alice")
    await kit.put_in(one, record)
    admission = await one.admit(kit.login(record))
    equal((admission.refused, admission.not_before), (None, None), "the admission of another user")


async def a_login_that_a_lock_has_ended_is_told_so(kit: Kit) -> None:
    """Its session was written before the lock, which has ended it: it learns of the lock all the same."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    await store.end_where(kit.query("alice", not_before=kit.now + HOUR), EndReason.LOCKED)
    admission = await store.admit(kit.login(record))
    equal(
        (admission.refused, admission.not_before, list(admission.ended)), ("revoked", kit.now + HOUR, []), "the answer"
    )


async def a_lock_is_lifted(kit: Kit) -> None:
    """``lift`` moves ``not_before`` back to now, never forward; a revoke does not shorten a lock."""
    store = await kit.store()
    await store.end_where(kit.query("alice", not_before=kit.now + DAY), EndReason.LOCKED)
    await store.end_where(kit.query("alice", not_before=kit.now), EndReason.REVOKED)
    record = kit.record("alice")
    await kit.put_in(store, record)
    admission = await store.admit(kit.login(record))
    equal((admission.refused, admission.not_before), ("revoked", kit.now + DAY), "the admission after a later revoke")
    await store.end_where(kit.query("alice", not_before=kit.now, sids=[], lift=True), EndReason.REVOKED)
    await store.end_where(kit.query("alice", not_before=kit.now + HOUR, sids=[], lift=True), EndReason.REVOKED)
    store = await kit.reopen(store)
    for began_at, refused in ((kit.now - SECOND, "revoked"), (kit.now, None)):
        record = kit.record("alice")
        await kit.put_in(store, record)
        admission = await store.admit(kit.login(record, began_at=began_at))
        equal(admission.refused, refused, "the admission after the lock was lifted")


async def lifting_ends_nobody(kit: Kit) -> None:
    """A lock is lifted by a query that names no session: it ends none."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    ended = await store.end_where(kit.query("alice", not_before=kit.now, sids=[], lift=True), EndReason.REVOKED)
    equal((list(ended), await kit.living(store, "alice")), ([], [record.sid]), "who was ended, and who lives")


async def other_names_forbid_a_login_too(kit: Kit) -> None:
    """Any of ``also`` forbids as the user's own name does, and none but the named ones."""
    store = await kit.store()
    await store.end_where(kit.query("\x1fidp:a", not_before=kit.now), EndReason.IDP_LOGOUT)
    for also, began_at, refused in (
        ((), kit.now - SECOND, None),
        (("\x1fidp:b",), kit.now - SECOND, None),
        (("\x1fidp:b", "\x1fidp:a"), kit.now - SECOND, "revoked"),
        (("\x1fidp:a", "\x1fidp:b"), kit.now, None),
    ):
        record = kit.record("alice")
        await kit.put_in(store, record)
        admission = await store.admit(kit.login(record, began_at=began_at, also=also))
        equal(admission.refused, refused, f"the admission with {also!r}")


async def logins_against_another_name_leave_nobody(kit: Kit) -> None:
    """20 logins under a name, begun before, race with the end of all that is linked to it: nobody is left alive."""
    one, other = await kit.stores(2)
    link = b"l" * 16

    async def sign_in(number: int) -> None:
        record = kit.record(f"user {number}")
        is_applied(await kit.apply(one, Create(record, (link,))), "a create")
        await one.admit(kit.login(record, began_at=kit.now - 1, also=("\x1fidp:a",)))

    async def revoke() -> None:
        await other.end_where(kit.query("\x1fidp:a", not_before=kit.now), EndReason.IDP_LOGOUT)
        await other.end_where(kit.query(link=link), EndReason.IDP_LOGOUT)

    await together([*(sign_in(number) for number in range(10)), revoke(), *(sign_in(n) for n in range(10, 20))])
    left = [record.sid for record in (await one.find(kit.query())).records]
    equal(left, [], "who lives after logins against the end of their provider's session")


async def an_impersonated_session_takes_no_place(kit: Kit) -> None:
    """Whoever impersonates a user neither pushes that user's sessions out nor is pushed out by them."""
    store = await kit.store()
    auth = encode_auth(Auth(impersonator="root"))
    mine = [kit.record("alice", age=hours * HOUR, unseen=0) for hours in (3, 2)]
    theirs = [kit.record("alice", age=age, unseen=0, auth=auth) for age in (9 * HOUR, MINUTE)]
    await kit.put_in(store, *mine, *theirs)
    admission = await store.admit(kit.login(mine[1], per_user=2))
    equal((admission.refused, list(admission.ended)), (None, []), "the admission at the limit")
    new = kit.record("alice")
    await kit.put_in(store, new)
    admission = await store.admit(kit.login(new, per_user=2, on_limit="refuse"))
    equal(admission.refused, "limit", "the admission over the limit, which refuses")
    new = kit.record("alice")
    await kit.put_in(store, new)
    admission = await store.admit(kit.login(new, per_user=2))
    equal([one.sid for one in admission.ended], [mine[0].sid], "who made room")
    living = {new.sid, mine[1].sid, *(record.sid for record in theirs)}
    equal(set(await kit.living(store, "alice")), living, "who lives")


BEHAVIOURS = [
    Behaviour((11,), a_lock_refuses_logins_until_its_time),
    Behaviour((11,), a_login_that_a_lock_has_ended_is_told_so),
    Behaviour((11,), a_lock_is_lifted),
    Behaviour((11, 9), lifting_ends_nobody),
    Behaviour((11,), other_names_forbid_a_login_too),
    Behaviour((11,), logins_against_another_name_leave_nobody),
    Behaviour((11,), an_impersonated_session_takes_no_place),
]
