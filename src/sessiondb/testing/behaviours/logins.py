"""Law 11: who may stay after a login. The limit per user, and a revoke that comes between."""

from __future__ import annotations

import asyncio
import random

from sessiondb.core.change import Create
from sessiondb.core.record import EndReason, Record
from sessiondb.stores.base import Admission, Ended, Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import HOUR, MINUTE
from sessiondb.testing.checks import equal, is_applied, require, same_record
from sessiondb.testing.kit import Kit, together

LIMIT = 3


async def a_login_below_the_limit_stays(kit: Kit) -> None:
    """Without a limit, or below it, a login stays and ends nothing."""
    store = await kit.store()
    records = [kit.record("alice") for _ in range(3)]
    await kit.put_in(store, *records)
    for per_user in (None, 3, 4):
        for record in records:
            equal(_plain(await store.admit(kit.login(record, per_user=per_user))), (None, []), "the admission")
    equal(len(await kit.living(store, "alice")), 3, "living sessions")


async def the_oldest_make_room(kit: Kit) -> None:
    """Over the limit the oldest sessions end, reported with reason ``limit``; other users keep theirs."""
    store = await kit.store()
    records = [kit.record("alice", {"a": 1}, age=hours * HOUR, unseen=0) for hours in (5, 4, 3, 2, 1)]
    others = [kit.record("Alice", age=9 * HOUR), kit.record("bob", age=9 * HOUR), kit.record(None, age=9 * HOUR)]
    await kit.put_in(store, *records, *others)
    admission = await store.admit(kit.login(records[-1], per_user=LIMIT))
    expected = sorted(record.sid for record in records[:2])
    equal((admission.refused, sorted(one.sid for one in admission.ended)), (None, expected), "the admission")
    equal({(one.user_id, one.reason, one.at) for one in admission.ended}, {("alice", "limit", kit.now)}, "reports")
    newest_first = [record.sid for record in records[:1:-1]]
    equal(await kit.living(store, "alice"), newest_first, "who stays")
    equal(await kit.data_of(store, records[0].sid), {}, "the data of one that made room")
    for other in others:
        same_record(await kit.find_record(store, other.sid), other, "a session of somebody else")


async def forty_logins_at_once_leave_three(kit: Kit) -> None:
    """40 concurrent logins under a limit of 3, on two handles: 3 stay, and each end is reported once."""
    stores = await kit.stores(2)

    async def sign_in(store: Store, record: Record) -> Admission:
        is_applied(await kit.apply(store, Create(record)), "a create")
        await asyncio.sleep(0)  # so that all are written before any is admitted, where the store allows it
        return await store.admit(kit.login(record, per_user=LIMIT))

    records = [kit.record("alice") for _ in range(40)]
    admissions = await together(sign_in(stores[number % 2], record) for number, record in enumerate(records))
    living = await kit.living(stores[0], "alice")
    equal(len(living), LIMIT, "living sessions after 40 logins at once")
    reported = sorted(one.sid for admission in admissions for one in admission.ended)
    equal(reported, sorted(record.sid for record in records if record.sid not in living), "the ends reported")
    for record, admission in zip(records, admissions, strict=True):
        if admission.refused is not None:
            equal((admission.refused, record.sid in living), ("limit", False), "a login that was refused")


async def the_dead_push_nobody_out(kit: Kit) -> None:
    """Sessions that have idled out, newer ones too, neither count against the limit nor are reported."""
    store = await kit.store()
    living = [kit.record("alice", age=9 * HOUR, unseen=MINUTE) for _ in range(2)]
    idle = [kit.record("alice", age=3 * HOUR, idle=HOUR) for _ in range(5)]
    await kit.put_in(store, *living, *idle)
    new = kit.record("alice")
    await kit.put_in(store, new)
    equal(_plain(await store.admit(kit.login(new, per_user=LIMIT))), (None, []), "the admission")
    expected = {record.sid for record in [*living, new]}
    equal(set(await kit.living(store, "alice")), expected, "who lives: nobody was pushed out by the dead")


async def a_touched_session_counts_as_living(kit: Kit) -> None:
    """The real deadline counts, not the one at login: a session kept alive by touches takes a place."""
    store = await kit.store()
    touched = kit.record("alice", age=5 * HOUR, idle=HOUR)
    new = kit.record("alice")
    await kit.put_in(store, touched, new)
    is_applied(await kit.apply(store, kit.touch(touched)), "a touch")
    admission = await store.admit(kit.login(new, per_user=1))
    equal([(one.sid, one.reason) for one in admission.ended], [(touched.sid, "limit")], "who made room")


async def a_full_house_may_refuse(kit: Kit) -> None:
    """With ``on_limit="refuse"`` the login over the limit ends itself and says so; the others stay."""
    store = await kit.store()
    records = [kit.record("alice", age=hours * HOUR) for hours in (3, 2, 1)]
    await kit.put_in(store, *records)
    new = kit.record("alice")
    await kit.put_in(store, new)
    admission = await store.admit(kit.login(new, per_user=LIMIT, on_limit="refuse"))
    equal(_plain(admission), ("limit", [Ended(new.sid, "alice", "refused", kit.now)]), "the admission")
    equal(await kit.living(store, "alice"), [record.sid for record in reversed(records)], "who stays")
    equal((await kit.record_of(store, new.sid)).end_reason, "refused", "the reason of the refused login")
    is_applied(await kit.apply(store, kit.end(records[0])), "a logout that makes room")
    after = kit.record("alice")
    await kit.put_in(store, after)
    admission = await store.admit(kit.login(after, per_user=LIMIT, on_limit="refuse"))
    equal(_plain(admission), (None, []), "the admission of a login when there is room")


async def a_full_house_refuses_the_last_to_come(kit: Kit) -> None:
    """Who comes last is refused, even with the oldest sid: a login may be held up between its first and last step."""
    store = await kit.store()
    records = [kit.record("alice", age=hours * HOUR) for hours in (3, 2, 1)]
    await kit.put_in(store, *records)
    late = kit.record("alice", age=9 * HOUR, unseen=0)
    await kit.put_in(store, late)
    admission = await store.admit(kit.login(late, per_user=LIMIT, on_limit="refuse"))
    equal(_plain(admission), ("limit", [Ended(late.sid, "alice", "refused", kit.now)]), "the admission")
    equal(await kit.living(store, "alice"), [record.sid for record in reversed(records)], "who stays")


async def refusing_under_forty_logins_lets_no_more_in(kit: Kit) -> None:
    """40 concurrent logins with ``on_limit="refuse"``: no more than 3 live, and who was admitted lives."""
    stores = await kit.stores(2)

    async def sign_in(store: Store, record: Record) -> bool:
        is_applied(await kit.apply(store, Create(record)), "a create")
        if order.random() < 0.5:
            await asyncio.sleep(0)
        return (await store.admit(kit.login(record, per_user=LIMIT, on_limit="refuse"))).refused is None

    order = random.Random(3)  # noqa: S311  repeatable
    # Whoever comes later has the older sid: a login may be held up between its first and its last step.
    records = [kit.record("alice", age=number * 1000, unseen=0) for number in range(40)]
    admitted = await together(sign_in(stores[number % 2], record) for number, record in enumerate(records))
    living = set(await kit.living(stores[0], "alice"))
    require(len(living) <= LIMIT, f"{len(living)} sessions live under a limit of {LIMIT}")
    equal(living, {record.sid for record, stays in zip(records, admitted, strict=True) if stays}, "who was admitted")


async def a_login_that_began_before_a_revoke_is_refused(kit: Kit) -> None:
    """Its request had begun when everything was revoked: it ends itself, however late it writes its session."""
    store = await kit.store()
    await store.end_where(kit.query("alice", not_before=kit.now), EndReason.REVOKED)
    record = kit.record("alice", {"a": 1})
    await kit.put_in(store, record)
    admission = await store.admit(kit.login(record, began_at=kit.now - 1))
    equal(_plain(admission), ("revoked", [Ended(record.sid, "alice", "refused", kit.now)]), "the admission")
    equal((await kit.record_of(store, record.sid)).end_reason, "refused", "its end")
    equal(await kit.living(store, "alice"), [], "living sessions")


async def a_login_after_a_revoke_stays(kit: Kit) -> None:
    """A login that begins after a revoke, or is another user's, or follows a revoke of one session, stays."""
    store = await kit.store()
    await store.end_where(kit.query("alice", not_before=kit.now - MINUTE), EndReason.REVOKED)
    await store.end_where(kit.query("Alice", not_before=kit.now + HOUR), EndReason.REVOKED)
    await store.end_where(kit.query("alice", sids=[kit.record("alice").sid]), EndReason.REVOKED)
    for began_at in (kit.now - MINUTE, kit.now):
        record = kit.record("alice")
        await kit.put_in(store, record)
        equal(_plain(await store.admit(kit.login(record, began_at=began_at))), (None, []), "the admission")
    equal(len(await kit.living(store, "alice")), 2, "living sessions")


async def not_before_never_moves_back(kit: Kit) -> None:
    """A revoke that arrives late, with an earlier time, does not let in what a newer one has shut out."""
    store = await kit.store()
    for not_before in (kit.now, kit.now - HOUR):
        await store.end_where(kit.query("alice", not_before=not_before), EndReason.REVOKED)
    store = await kit.reopen(store)
    record = kit.record("alice")
    await kit.put_in(store, record)
    admission = await store.admit(kit.login(record, began_at=kit.now - MINUTE))
    equal(admission.refused, "revoked", "the admission of a login from before the newer revoke")


async def logins_against_revokes_leave_nobody(kit: Kit) -> None:
    """20 logins, begun before, race with a revoke of all on another handle, ten times: nobody is left alive."""
    one, other = await kit.stores(2)
    order = random.Random(4)  # noqa: S311  repeatable

    async def sign_in(record: Record) -> None:
        is_applied(await kit.apply(one, Create(record)), "a create")
        if order.random() < 0.5:
            await asyncio.sleep(0)
        await one.admit(kit.login(record, began_at=kit.now - 1, per_user=50))

    async def revoke(user_id: str) -> None:
        await other.end_where(kit.query(user_id, not_before=kit.now), EndReason.REVOKED)

    for round_ in range(10):
        user_id = f"user {round_}"
        logins = [sign_in(kit.record(user_id)) for _ in range(20)]
        await together([*logins[:10], revoke(user_id), *logins[10:]])
        equal(await kit.living(one, user_id), [], "who lives after logins against a revoke")


async def a_revoke_spares_the_one_to_keep(kit: Kit) -> None:
    """The session that asked for the revoke lives on, although its login began before."""
    store = await kit.store()
    mine, theirs = kit.record("alice", age=HOUR), kit.record("alice", age=HOUR)
    await kit.put_in(store, mine, theirs)
    ended = await store.end_where(kit.query("alice", keep=mine.sid, not_before=kit.now), EndReason.REVOKED)
    equal([one.sid for one in ended], [theirs.sid], "the sessions that were ended")
    equal(await kit.living(store, "alice"), [mine.sid], "who lives")


async def a_session_that_is_gone_cannot_stay(kit: Kit) -> None:
    """Admitting a session that was ended meanwhile, or never stored, says why and ends nothing."""
    store = await kit.store()
    limited, revoked, missing = kit.record("alice"), kit.record("alice"), kit.record("alice")
    await kit.put_in(store, limited, revoked)
    is_applied(await kit.apply(store, kit.end(limited, EndReason.LIMIT)), "an end")
    is_applied(await kit.apply(store, kit.end(revoked, EndReason.REVOKED)), "an end")
    for record, expected in ((limited, "limit"), (revoked, "revoked"), (missing, "revoked")):
        equal(_plain(await store.admit(kit.login(record, per_user=1))), (expected, []), "the admission")
    equal(await kit.find_record(store, missing.sid), None, "the session that was never stored")


async def a_login_that_is_over_takes_no_place(kit: Kit) -> None:
    """A session past its deadline when it asks to stay is not counted: it is answered by how many the others are."""
    store = await kit.store()
    records = [kit.record("alice", age=hours * HOUR) for hours in (4, 3, 2, 1)]
    over = kit.record("alice", age=5 * HOUR, idle=HOUR)
    await kit.put_in(store, *records, over)
    equal(_plain(await store.admit(kit.login(over, per_user=4))), (None, []), "the admission when the others may stay")
    admission = await store.admit(kit.login(over, per_user=LIMIT))
    equal(
        _plain(admission), (None, [Ended(records[0].sid, "alice", "limit", kit.now)]), "the admission beside too many"
    )
    await kit.put_in(store, kit.record("alice"))
    admission = await store.admit(kit.login(over, per_user=LIMIT, on_limit="refuse"))
    equal(_plain(admission), ("limit", [Ended(over.sid, "alice", "refused", kit.now)]), "the admission when it is full")
    equal(len(await kit.living(store, "alice")), 4, "living sessions")


def _plain(admission: Admission) -> tuple[str | None, list[Ended]]:
    return admission.refused, list(admission.ended)


BEHAVIOURS = [
    Behaviour((11,), a_login_below_the_limit_stays),
    Behaviour((11,), the_oldest_make_room),
    Behaviour((11,), forty_logins_at_once_leave_three),
    Behaviour((11, 7), the_dead_push_nobody_out),
    Behaviour((11, 7), a_touched_session_counts_as_living),
    Behaviour((11, 7), a_login_that_is_over_takes_no_place),
    Behaviour((11,), a_full_house_may_refuse),
    Behaviour((11,), a_full_house_refuses_the_last_to_come),
    Behaviour((11,), refusing_under_forty_logins_lets_no_more_in),
    Behaviour((11,), a_login_that_began_before_a_revoke_is_refused),
    Behaviour((11,), a_login_after_a_revoke_stays),
    Behaviour((11,), not_before_never_moves_back),
    Behaviour((11,), logins_against_revokes_leave_nobody),
    Behaviour((11,), a_revoke_spares_the_one_to_keep),
    Behaviour((11,), a_session_that_is_gone_cannot_stay),
]
