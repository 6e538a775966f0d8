"""Law 7: the sweeper ends what is past its time, once, and nothing else."""

from __future__ import annotations

from sessiondb.core import codec
from sessiondb.core.policy import SECOND, Caps, Lifetimes
from sessiondb.core.record import EndReason
from sessiondb.stores.base import SWEEP_GRACE, Ended
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR, MINUTE, PURGE_AFTER
from sessiondb.testing.checks import equal, is_applied, require, same_record
from sessiondb.testing.kit import Kit, together


async def the_expired_are_ended_with_their_reason(kit: Kit) -> None:
    """30 s after its deadline a session ends: at its deadline, as idle or at its absolute end, its data dropped."""
    store = await kit.store()
    idle = kit.record("alice", {"a": 1}, age=3 * HOUR, unseen=2 * HOUR, idle=HOUR)
    absolute = kit.record("bob", {"a": 1}, age=3 * HOUR, unseen=0, absolute=2 * HOUR, idle=2 * HOUR)
    living = kit.record("alice", {"a": 1}, age=3 * HOUR)
    await kit.put_in(store, idle, absolute, living)
    swept = await store.sweep(kit.cutoffs(), 100)
    expected = [
        Ended(idle.sid, "alice", "expired_idle", kit.now - HOUR),
        Ended(absolute.sid, "bob", "expired_absolute", kit.now - HOUR),
    ]
    equal(sorted(swept.ended, key=_sid), sorted(expected, key=_sid), "what the sweep reports")
    equal((swept.purged, swept.more), (0, False), "purged, and whether there is more")
    for one in expected:
        found = await kit.record_of(store, one.sid)
        equal(
            (found.ended_at, found.end_reason, codec.decode_data(found.data), found.check_at),
            (kit.now - HOUR, one.reason, {}, kit.now + PURGE_AFTER),
            "end, reason, data and purge time of an expired session",
        )
    same_record(await kit.find_record(store, living.sid), living, "a session that is not due")


async def the_sweeper_waits_thirty_seconds(kit: Kit) -> None:
    """A session is not ended before 30 s after its deadline, because a touch may be under way; then it is."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1}, age=HOUR, idle=HOUR)
    await kit.put_in(store, record)
    deadline = kit.now
    for late in (0, SWEEP_GRACE - 1):
        swept = await store.sweep(kit.cutoffs(deadline + late), 100)
        equal(list(swept.ended), [], f"ended {late / SECOND:g} s after the deadline")
        equal((await kit.record_of(store, record.sid)).ended_at, None, "its end")
    swept = await store.sweep(kit.cutoffs(deadline + SWEEP_GRACE), 100)
    equal([one.sid for one in swept.ended], [record.sid], "ended 30 s after the deadline")


async def a_touched_session_is_looked_at_later(kit: Kit) -> None:
    """``check_at`` is due but the session was used since: it lives on, and is ended after its real deadline."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1}, age=2 * HOUR, unseen=2 * HOUR, idle=HOUR)
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.touch(record)), "a touch")
    for _ in range(2):
        swept = await store.sweep(kit.cutoffs(), 100)
        equal((list(swept.ended), swept.purged), ([], 0), "a sweep of a session that was used")
    found = await kit.record_of(store, record.sid)
    equal((found.ended_at, found.check_at), (None, kit.now + HOUR + SWEEP_GRACE), "its end, and the next look")
    equal(await kit.data_of(store, record.sid), {"a": 1}, "its data")
    swept = await store.sweep(kit.cutoffs(kit.now + HOUR + SWEEP_GRACE), 100)
    equal([one.sid for one in swept.ended], [record.sid], "ended after its real deadline")


async def a_lowered_policy_ends_and_a_raised_one_does_not_extend(kit: Kit) -> None:
    """The lesser of stored lifetime and cap counts; remembered sessions have caps of their own."""
    store = await kit.store()
    due = kit.now - 1
    normal = kit.record("alice", age=2 * HOUR, check_at=due)
    remembered = kit.record("alice", age=2 * HOUR, check_at=due, lifetime="remembered")
    short = kit.record("alice", age=2 * HOUR, idle=HOUR, check_at=due)
    await kit.put_in(store, normal, remembered, short)
    caps = Caps(Lifetimes(HOUR, 900 * DAY), Lifetimes(900 * DAY, 900 * DAY))
    swept = await store.sweep(kit.cutoffs(caps=caps), 100)
    equal(sorted(one.sid for one in swept.ended), sorted([normal.sid, short.sid]), "ended under the new caps")
    found = await kit.record_of(store, remembered.sid)
    equal((found.ended_at, found.check_at > kit.now), (None, True), "end and next look of the remembered session")


async def a_named_policy_has_caps_of_its_own(kit: Kit) -> None:
    """A session of a named policy falls under its caps, one of a name that is gone under the normal ones; in lists,
    in ending and in sweeping alike.
    """
    store = await kit.store()
    due = kit.now - 1
    staff = kit.record("alice", age=2 * HOUR, check_at=due, lifetime="staff")
    guest = kit.record("alice", age=2 * HOUR, check_at=due, lifetime='it\'s a "guest"')
    gone = kit.record("alice", age=2 * HOUR, check_at=due, lifetime="gone")
    await kit.put_in(store, staff, guest, gone)
    long, short = Lifetimes(900 * DAY, 900 * DAY), Lifetimes(HOUR, 900 * DAY)
    caps = Caps(long, short, {"staff": short, 'it\'s a "guest"': long})
    page = await store.find(kit.query("alice", caps=caps))
    equal({one.sid for one in page.records}, {guest.sid, gone.sid}, "living under these caps")
    swept = await store.sweep(kit.cutoffs(caps=caps), 100)
    expected = [Ended(staff.sid, "alice", "expired_idle", staff.last_seen_at + HOUR)]
    equal(list(swept.ended), expected, "swept under these caps")
    ended = await store.end_where(kit.query("alice", caps=Caps(short, long, {"staff": long})), EndReason.REVOKED)
    equal(list(ended), [], "revoked, not expired, where the policy of that name is gone")
    reasons = [(await kit.record_of(store, one.sid)).end_reason for one in (guest, gone)]
    equal(reasons, ["expired_idle", "expired_idle"], "their reasons")


async def an_end_is_reported_once(kit: Kit) -> None:
    """Eight sweepers at once on two handles end 60 sessions: each is reported by exactly one of them."""
    stores = await kit.stores(2)
    records = [kit.record("alice", age=2 * HOUR, idle=HOUR) for _ in range(60)]
    await kit.put_in(stores[0], *records)
    done = await together(stores[number % 2].sweep(kit.cutoffs(), 20) for number in range(8))
    reported = [one.sid for swept in done for one in swept.ended]
    equal(len(reported), len(set(reported)), "reports, and sessions in them")
    while (swept := await stores[0].sweep(kit.cutoffs(), 20)).more:
        reported += [one.sid for one in swept.ended]
    reported += [one.sid for one in swept.ended]
    equal(sorted(reported), sorted(record.sid for record in records), "all reports together")


async def a_sweep_stops_at_its_limit(kit: Kit) -> None:
    """A pass looks at no more than ``limit`` sessions, the longest due first, and says that there is more."""
    store = await kit.store()
    records = [kit.record("alice", age=(2 + number) * HOUR, idle=HOUR) for number in range(10)]
    await kit.put_in(store, *records)
    oldest_first = [record.sid for record in reversed(records)]
    for start in (0, 4, 8):
        swept = await store.sweep(kit.cutoffs(), 4)
        expected = oldest_first[start : start + 4]
        equal(sorted(one.sid for one in swept.ended), sorted(expected), "ended by a pass of 4")
        equal(swept.more, start < 8, "whether there is more")


async def sweepers_take_turns(kit: Kit) -> None:
    """While one worker has the turn, others do nothing; it may go on, and an abandoned turn is taken over."""
    one, other = await kit.stores(2)

    async def due() -> str:
        record = kit.record("alice", age=2 * HOUR, idle=HOUR)
        await kit.put_in(one, record)
        return record.sid

    first = await due()
    swept = await one.sweep(kit.cutoffs(worker="one", turn=MINUTE), 100)
    equal([each.sid for each in swept.ended], [first], "the worker that takes the turn")
    second = await due()
    swept = await other.sweep(kit.cutoffs(kit.now + MINUTE - 1, worker="other", turn=MINUTE), 100)
    equal((list(swept.ended), swept.purged, swept.more), ([], 0, False), "a worker without the turn")
    swept = await one.sweep(kit.cutoffs(kit.now + 30 * SECOND, worker="one", turn=MINUTE), 100)
    equal([each.sid for each in swept.ended], [second], "the worker that has the turn")
    third = await due()
    later = kit.now + MINUTE + 30 * SECOND
    swept = await other.sweep(kit.cutoffs(later - 1, worker="other", turn=MINUTE), 100)
    equal(list(swept.ended), [], "a worker without the turn, after the turn was renewed")
    swept = await other.sweep(kit.cutoffs(later, worker="other", turn=MINUTE), 100)
    equal([each.sid for each in swept.ended], [third], "a worker that takes over an abandoned turn")
    fourth = await due()
    swept = await one.sweep(kit.cutoffs(later + 1), 100)
    equal([each.sid for each in swept.ended], [fourth], "a sweep that asks for no turn")


async def tombstones_are_purged_at_their_time(kit: Kit) -> None:
    """A tombstone stays until its purge time, is then deleted, and is no end that would be reported again."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.end(record, purge_after=DAY)), "an end")
    swept = await store.sweep(kit.cutoffs(kit.now + DAY - 1), 100)
    equal((list(swept.ended), swept.purged), ([], 0), "before its purge time")
    require(await kit.find_record(store, record.sid) is not None, "the tombstone is gone before its time")
    swept = await store.sweep(kit.cutoffs(kit.now + DAY), 100)
    equal((list(swept.ended), swept.purged, swept.more), ([], 1, False), "at its purge time")
    equal(await kit.find_record(store, record.sid), None, "the tombstone")
    page = await store.find(kit.query("alice", state="all"))
    equal(list(page.records), [], "the user's sessions")
    stats = await store.stats()
    equal((stats.live, stats.ended, stats.users), (0, 0, 0), "the counts")


async def a_swept_session_is_kept_and_then_purged(kit: Kit) -> None:
    """What the sweeper has ended can be listed for ``keep_ended``, and is then deleted by a later sweep."""
    store = await kit.store()
    record = kit.record("alice", age=2 * HOUR, idle=HOUR)
    await kit.put_in(store, record)
    await store.sweep(kit.cutoffs(), 100)
    page = await store.find(kit.query("alice", state="ended"))
    equal([one.sid for one in page.records], [record.sid], "ended sessions of the user")
    swept = await store.sweep(kit.cutoffs(kit.now + PURGE_AFTER - 1), 100)
    equal((list(swept.ended), swept.purged), ([], 0), "a sweep before the purge time")
    swept = await store.sweep(kit.cutoffs(kit.now + PURGE_AFTER), 100)
    equal((list(swept.ended), swept.purged), ([], 1), "a sweep at the purge time")


def _sid(ended: Ended) -> str:
    return ended.sid


BEHAVIOURS = [
    Behaviour((7,), the_expired_are_ended_with_their_reason),
    Behaviour((7,), the_sweeper_waits_thirty_seconds),
    Behaviour((7,), a_touched_session_is_looked_at_later),
    Behaviour((7,), a_lowered_policy_ends_and_a_raised_one_does_not_extend),
    Behaviour((7,), a_named_policy_has_caps_of_its_own),
    Behaviour((7,), an_end_is_reported_once),
    Behaviour((7,), a_sweep_stops_at_its_limit),
    Behaviour((7,), sweepers_take_turns),
    Behaviour((7,), tombstones_are_purged_at_their_time),
    Behaviour((7,), a_swept_session_is_kept_and_then_purged),
]
