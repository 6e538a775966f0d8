"""Law 7: one clock. What a touch and a sign-in do to a session's times."""

from __future__ import annotations

from msgspec.structs import replace

from sessiondb.core.change import SignIn, Touch
from sessiondb.core.errors import StoreError
from sessiondb.core.policy import SECOND, Caps, Lifetimes
from sessiondb.core.record import Record
from sessiondb.stores.base import ChangeResult, Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR, MINUTE
from sessiondb.testing.checks import equal, is_applied, is_gone, require, same_record
from sessiondb.testing.kit import Kit, together


async def a_touch_moves_forward_only(kit: Kit) -> None:
    """``last_seen_at`` is the latest touch, whatever the order in which they arrive."""
    store = await kit.store()
    record = kit.record("alice", age=HOUR)
    await kit.put_in(store, record)
    latest = record.last_seen_at
    for ago in (40, 50, 20, 59, 30, 20, 5, 90):
        at = kit.now - ago * MINUTE
        latest = max(latest, at)
        is_applied(await kit.apply(store, kit.touch(record, at)), "a touch")
        equal((await kit.record_of(store, record.sid)).last_seen_at, latest, f"last seen after a touch {ago} min old")


async def concurrent_touches_leave_the_latest(kit: Kit) -> None:
    """40 touches at once on two handles leave the latest, and all say applied."""
    stores = await kit.stores(2)
    record = kit.record("alice", age=HOUR)
    await kit.put_in(stores[0], record)
    times = [kit.now - (number * 7919 % 40) * MINUTE for number in range(40)]
    for result in await together(kit.apply(stores[n % 2], kit.touch(record, at)) for n, at in enumerate(times)):
        is_applied(result, "a touch")
    equal((await kit.record_of(stores[0], record.sid)).last_seen_at, kit.now, "last seen")


async def a_touch_is_never_in_the_future(kit: Kit) -> None:
    """A caller whose clock is 5 minutes ahead moves ``last_seen_at`` to the store's time, and not beyond."""
    store = await kit.store()
    for touch in (Touch(kit.now + 5 * MINUTE), Touch(kit.now + 10 * 365 * DAY)):
        lone, joined = kit.record("alice", age=HOUR), kit.record("alice", age=HOUR)
        await kit.put_in(store, lone, joined)
        is_applied(await kit.apply(store, kit.update(lone, touch=touch)), "a touch from the future")
        is_applied(await kit.apply(store, kit.update(joined, {"a": 1}, touch=touch)), "an update with such a touch")
        for record in (lone, joined):
            seen = (await kit.record_of(store, record.sid)).last_seen_at
            require(kit.now <= seen <= await store.clock(), f"last seen is {(seen - kit.now) / SECOND:+.0f} s off")


async def a_slow_clock_takes_nothing_back(kit: Kit) -> None:
    """A caller whose clock is 5 minutes behind neither shortens a session nor fails."""
    store = await kit.store()
    record = kit.record("alice", age=HOUR, unseen=0)
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.touch(record, kit.now - 5 * MINUTE)), "a touch from the past")
    equal((await kit.record_of(store, record.sid)).last_seen_at, kit.now, "last seen")


async def a_touch_changes_nothing_else(kit: Kit) -> None:
    """A touch moves ``last_seen_at`` alone: no revision, no change id, no ``check_at``, no data."""
    store = await kit.store()
    record = kit.record("alice", {"a": [1]}, age=HOUR)
    await kit.put_in(store, record)
    is_applied(await kit.apply(store, kit.touch(record)), "a touch")
    expected = replace(record, last_seen_at=kit.now)
    same_record(await kit.find_record(store, record.sid), expected, "a touched session")
    client = b'{"ip":"192.0.2.7","user_agent":"x"}'
    is_applied(await kit.apply(store, kit.touch(record, client=client)), "a touch with a client")
    same_record(await kit.find_record(store, record.sid), replace(expected, client_last=client), "with a client")
    is_applied(await kit.apply(store, kit.touch(record)), "an equal touch")
    same_record(await kit.find_record(store, record.sid), replace(expected, client_last=client), "touched again")


async def many_touches_in_one_call_are_answered_one_by_one(kit: Kit) -> None:
    """As many lone touches as the store takes in one call: the living are touched, the others said to be gone."""
    store = await kit.store()
    most = store.batching.most_touches
    records = [kit.record("alice" if number % 2 else None, {"n": number}, age=HOUR) for number in range(max(most, 8))]
    missing, ended, future, past = records[0], records[4], records[1], records[-1]
    await kit.put_in(store, *records[1:])
    is_applied(await kit.apply(store, kit.end(ended)), "an end")
    times = {record.sid: kit.now - number * 1000 for number, record in enumerate(records)}
    times |= {future.sid: kit.now + 10 * 365 * DAY, past.sid: kit.now - 2 * HOUR}
    client = b'{"ip":"192.0.2.7"}'
    told = {record.sid for record in records[::3]}
    touches = [kit.touch(one, times[one.sid], client if one.sid in told else None) for one in records]
    results: list[ChangeResult] = []
    for start in range(0, len(touches), most):
        results += await store.apply(touches[start : start + most])
    for record, result in zip(records, results, strict=True):
        if record is missing or record is ended:
            is_gone(result, None if record is missing else "logout", "a touch of who is gone")
        else:
            is_applied(result, "a touch beside those of others")
    found = await store.load([record.sid for record in records])
    equal(found[0], None, "a session that is not there, after a touch")
    for before, after in zip(records[1:], found[1:], strict=True):
        if after is None or before is ended:
            equal(after is not None and after.last_seen_at, before.last_seen_at, "an ended session after a touch")
            continue
        seen = max(before.last_seen_at, times[before.sid])
        if before is future:
            require(kit.now <= after.last_seen_at <= await store.clock(), "a touch from the future is in the future")
            seen = after.last_seen_at
        expected = replace(before, last_seen_at=seen, client_last=client if before.sid in told else before.client_last)
        same_record(after, expected, "a session that was touched with many")


async def touches_of_many_hold_nobody_up(kit: Kit) -> None:
    """Two handles touch the same sessions, in opposite orders, while others write and end them: all is done."""
    stores = await kit.stores(2)
    records = [kit.record("alice", {"n": 0}, age=HOUR) for _ in range(min(64, stores[0].batching.most_touches))]
    await kit.put_in(stores[0], *records)
    written, ended = records[::8], records[5::16]

    async def touch(at: int) -> None:
        for ago in (3 - at, 1 - at):
            changes = [kit.touch(record, kit.now - ago * MINUTE) for record in records[:: -1 if at else 1]]
            for change, result in zip(changes, await stores[at].apply(changes), strict=True):
                if any(change.sid == record.sid for record in ended):
                    require(not isinstance(result, StoreError), f"a touch of a session that is ended: {result!r}")
                else:
                    is_applied(result, "a touch")

    async def change(one: Record, at: int) -> None:
        for number in range(3):
            is_applied(
                await kit.apply(stores[at], kit.update(one, {f"k{at}{number}": number})), "a write beside touches"
            )

    async def end(one: Record) -> None:
        is_applied(await kit.apply(stores[0], kit.end(one)), "an end beside touches")

    writes = [change(record, at) for record in written for at in (0, 1)]
    await together([touch(0), touch(1), *writes, *map(end, ended)])
    for record in records:
        found = await kit.record_of(stores[0], record.sid)
        is_ended = any(record.sid == one.sid for one in ended)
        equal(found.ended_at is not None, is_ended, "ended")
        if not is_ended:
            equal(found.last_seen_at, kit.now, "last seen")
        equal(found.rev, record.rev + (6 if record in written else 0) + is_ended, "the revision")


async def a_sign_in_renews_the_session_in_place(kit: Kit) -> None:
    """Proving again who they are sets time, proof and lifetimes, and has the session looked at in time."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1}, age=HOUR)
    await kit.put_in(store, record)
    proof = b'{"methods":["pwd"]}'
    sign_in = SignIn(kit.now, proof, 30 * MINUTE, 10 * HOUR, "remembered")
    is_applied(await kit.apply(store, kit.update(record, touch=Touch(kit.now), sign_in=sign_in)), "a sign-in")
    found = await kit.record_of(store, record.sid)
    equal(
        (found.authenticated_at, found.idle, found.absolute, found.lifetime, found.last_seen_at, found.rev),
        (kit.now, 30 * MINUTE, 10 * HOUR, "remembered", kit.now, 2),
        "time of the proof, lifetimes, last seen and revision",
    )
    same_record(found, replace(found, auth=proof, data=record.data), "the proof")
    require(found.check_at <= kit.now + 30 * MINUTE, "check_at is later than the new deadline")


async def lists_use_the_one_deadline(kit: Kit) -> None:
    """Living is what ``deadline()`` says under the caps of the query: idle, absolute, remembered, lowered."""
    store = await kit.store()
    fresh = kit.record("alice", age=HOUR, unseen=0)
    idle = kit.record("alice", age=2 * HOUR, unseen=HOUR, idle=HOUR)
    old = kit.record("alice", age=HOUR, unseen=0, absolute=HOUR)
    last_moment = kit.record("alice", age=2 * HOUR, unseen=HOUR, idle=HOUR + 1)
    remembered = kit.record("alice", age=20 * DAY, idle=90 * DAY, absolute=90 * DAY, lifetime="remembered")
    records = [fresh, idle, old, last_moment, remembered]
    await kit.put_in(store, *records)
    await _lists(kit, store, kit.caps, records, [fresh, last_moment, remembered], "the default policy")
    short = Caps(Lifetimes(30 * MINUTE, DAY), Lifetimes(90 * DAY, 90 * DAY))
    await _lists(kit, store, short, records, [fresh, remembered], "a lowered idle time")
    shorter = Caps(Lifetimes(30 * MINUTE, 30 * MINUTE), Lifetimes(10 * DAY, 10 * DAY))
    await _lists(kit, store, shorter, records, [], "lowered lifetimes")
    longer = Caps(Lifetimes(900 * DAY, 900 * DAY), Lifetimes(900 * DAY, 900 * DAY))
    await _lists(kit, store, longer, records, [fresh, last_moment, remembered], "raised lifetimes")


async def the_clock_counts_microseconds(kit: Kit) -> None:
    """``clock()`` is microseconds since 1970 in UTC, the same on every handle, and does not run backwards."""
    stores = await kit.stores(2)
    times = [await store.clock() for _ in range(3) for store in stores]
    require(all(isinstance(at, int) for at in times), f"clock() is no int: {times[0]!r}")
    require(10**15 < times[0] < 10**16, f"clock() is no time in microseconds: {times[0]}")
    require(max(times) - min(times) < 2 * SECOND, "the clocks of two handles differ")
    own = times[::2]
    require(own == sorted(own), "the clock runs backwards")


async def _lists(kit: Kit, store: Store, caps: Caps, records: list[Record], living: list[Record], policy: str) -> None:
    for state, expected in (("live", living), ("ended", [one for one in records if one not in living])):
        page = await store.find(kit.query("alice", caps=caps, state="live" if state == "live" else "ended"))
        found = sorted(record.sid for record in page.records)
        equal(found, sorted(record.sid for record in expected), f"{state} sessions under {policy}")


BEHAVIOURS = [
    Behaviour((7,), a_touch_moves_forward_only),
    Behaviour((7,), concurrent_touches_leave_the_latest),
    Behaviour((7,), a_touch_is_never_in_the_future),
    Behaviour((7,), a_slow_clock_takes_nothing_back),
    Behaviour((7, 8), a_touch_changes_nothing_else),
    Behaviour((1, 7, 10), many_touches_in_one_call_are_answered_one_by_one),
    Behaviour((1, 2, 7), touches_of_many_hold_nobody_up),
    Behaviour((7, 11), a_sign_in_renews_the_session_in_place),
    Behaviour((7,), lists_use_the_one_deadline),
    Behaviour((7,), the_clock_counts_microseconds),
]
