"""Law 10: a failure is a decision. One bad change fails alone, and what cannot be asked is not answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec

from sessiondb.core import codec
from sessiondb.core.change import Change, Conflict, Gone
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.record import EndReason
from sessiondb.stores.base import EventQuery, Store
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.checks import equal, is_applied, is_conflict, is_gone, raises, require
from sessiondb.testing.kit import Kit, together


async def a_closed_store_raises(kit: Kit) -> None:
    """After ``close`` every call raises ``StoreUnavailable``: an empty answer would log everybody out."""
    store = await kit.store()
    record = kit.record("alice")
    await kit.put_in(store, record)
    await kit.close(store)
    await _every_call_raises(kit, store, "a closed store")


async def a_store_that_was_never_opened_raises(kit: Kit) -> None:
    """Before ``open`` every call raises ``StoreUnavailable``."""
    await _every_call_raises(kit, kit.new_handle(), "a store that was never opened")


async def one_handle_may_close_alone(kit: Kit) -> None:
    """Closing one handle leaves the others at work."""
    one, other = await kit.stores(2)
    record = kit.record("alice")
    await kit.put_in(one, record)
    await kit.close(one)
    is_applied(await kit.apply(other, kit.update(record, {"a": 1})), "an update on the handle that is open")
    equal(await kit.data_of(other, record.sid), {"a": 1}, "the data")


async def one_refused_change_fails_alone(kit: Kit) -> None:
    """Conflicts and missing sessions in a batch are answered by themselves; their neighbours land."""
    store = await kit.store()
    records = [kit.record("alice", {"n": 0}) for _ in range(6)]
    await kit.put_in(store, *records)
    ended, missing, new = records[5], kit.record(), kit.record("bob")
    is_applied(await kit.apply(store, kit.end(ended)), "an end")
    results = await store.apply(
        [
            kit.update(records[0], {"n": 1}),
            kit.update(missing, {"n": 1}),
            kit.create(new),
            kit.update(records[1], {"n": 1}, if_rev=99),
            kit.update(ended, {"n": 1}),
            kit.create(kit.record("mallory", sid=records[2].sid)),
            kit.end(records[3], if_rev=99),
            kit.touch(records[4]),
        ]
    )
    equal(len(results), 8, "the number of results")
    for at in (0, 2, 7):
        is_applied(results[at], "a good change among refused ones")
    is_gone(results[1], None, "an update of a missing session")
    is_gone(results[4], "logout", "an update of an ended session")
    for at in (3, 5, 6):
        is_conflict(results[at], "a change with a failed guard")
    equal(await kit.data_of(store, records[0].sid), {"n": 1}, "the data of a good change")
    require(await kit.find_record(store, new.sid) is not None, "a good create among refused changes is missing")
    for record in (records[1], records[2], records[3]):
        equal(await kit.data_of(store, record.sid), {"n": 0}, "the data of a refused change")


async def one_unreadable_session_fails_alone(kit: Kit) -> None:
    """Data that is not JSON gets an error of its own, when written or when changed; its neighbours land.

    It can still be loaded, to be quarantined, and ended.
    """
    store = await kit.store()
    good = [kit.record("alice") for _ in range(4)]
    await kit.put_in(store, *good)
    bad = msgspec.structs.replace(kit.record("alice"), data=b'{"a": not json')
    batch: list[Change] = [kit.update(good[0], {"n": 1}), kit.create(bad), kit.update(good[1], {"n": 1})]
    before, written, after = await store.apply(batch)
    is_applied(before, "the change before an unreadable one")
    is_applied(after, "the change after an unreadable one")
    if isinstance(written, (StoreError, SessionDataError)):
        equal(await kit.find_record(store, bad.sid), None, "a session that was refused")
        return
    is_applied(written, "the create of unreadable data")
    batch = [kit.update(good[2], {"n": 1}), kit.update(bad, {"n": 1}), kit.update(good[3], {"n": 1})]
    before, result, after = await store.apply(batch)
    is_applied(before, "the change before one of an unreadable session")
    is_applied(after, "the change after one of an unreadable session")
    require(isinstance(result, SessionDataError), f"changing unreadable data answered {result!r:.200}")
    require(await kit.find_record(store, bad.sid) is not None, "an unreadable session cannot be loaded")
    is_applied(await kit.apply(store, kit.end(bad)), "ending an unreadable session")


async def a_cancelled_caller_harms_nobody(kit: Kit) -> None:
    """Callers that go away in the middle cross no replies and break no connection: the others get their own."""
    store = await kit.store()
    records = [kit.record(f"user {number}", {"me": number}) for number in range(40)]
    await kit.put_in(store, *records)
    order = random.Random(5)  # noqa: S311  repeatable

    async def work(number: int) -> None:
        record = records[number]
        for step in range(6):
            is_applied(await kit.apply(store, kit.update(record, {"step": step})), "an update")
            found = await kit.record_of(store, record.sid)
            equal(found.sid, record.sid, "whose session was loaded")
            equal(codec.decode_data(found.data), {"me": number, "step": step}, "its data")

    tasks = [asyncio.create_task(work(number)) for number in range(40)]
    for task in order.sample(tasks, 20):
        for _ in range(order.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, Exception):
            raise outcome
    for number, record in enumerate(records):
        equal((await kit.data_of(store, record.sid))["me"], number, "whose data it is afterwards")
        is_applied(await kit.apply(store, kit.update(record, {"after": True})), "an update afterwards")


async def every_call_answers_under_load(kit: Kit) -> None:
    """All verbs at once, on the same few sessions and users, on two handles: no deadlock and no error."""
    stores = await kit.stores(2)
    records = [kit.record(f"user {number % 3}", {"n": 0}) for number in range(9)]
    await kit.put_in(stores[0], *records)

    async def write(store: Store, source: random.Random) -> None:
        for _ in range(10):
            chosen = source.sample(records, 4)
            changes = [kit.update(record, {"n": source.random()}) for record in chosen[:2]]
            results = await store.apply([*changes, kit.touch(chosen[2])])
            require(not any(isinstance(one, StoreError) for one in results), f"a change failed: {results!r:.300}")
            require(not any(isinstance(one, Conflict) for one in results), "an unguarded change conflicted")

    async def log_in(store: Store, source: random.Random) -> None:
        for _ in range(5):
            record = kit.record(f"user {source.randrange(3)}")
            result = await kit.apply(store, kit.create(record))
            require(not isinstance(result, (Gone, Conflict)), "a create was refused")
            await store.admit(kit.login(record, per_user=2))

    async def end(store: Store, source: random.Random) -> None:
        for _ in range(5):
            await store.end_where(kit.query(f"user {source.randrange(3)}"), EndReason.REVOKED)
            await store.sweep(kit.cutoffs(), 10)
            await store.find(kit.query(state="all"))

    work = (write, write, log_in, end)
    await together(
        verb(stores[number % 2], random.Random(number))  # noqa: S311  repeatable
        for number, verb in enumerate(work * 3)
    )


async def _every_call_raises(kit: Kit, store: Store, what: str) -> None:
    record = kit.record("alice")
    calls: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("load", lambda: store.load([record.sid])),
        ("apply", lambda: store.apply([kit.update(record, {"a": 1})])),
        ("admit", lambda: store.admit(kit.login(record))),
        ("find", lambda: store.find(kit.query("alice"))),
        ("end_where", lambda: store.end_where(kit.query("alice"), EndReason.REVOKED)),
        ("sweep", lambda: store.sweep(kit.cutoffs(), 10)),
        ("append", lambda: store.append([kit.event()])),
        ("events", lambda: store.events(EventQuery())),
        ("stats", lambda: store.stats()),
        ("clock", lambda: store.clock()),
    ]
    for name, call in calls:
        error = await raises(StoreUnavailable, call(), f"{name}() of {what}")
        require(len(str(error)) > 10, f"{name}() of {what} does not say what is wrong: {error}")


BEHAVIOURS = [
    Behaviour((10,), a_closed_store_raises),
    Behaviour((10,), a_store_that_was_never_opened_raises),
    Behaviour((10,), one_handle_may_close_alone),
    Behaviour((10, 2), one_refused_change_fails_alone),
    Behaviour((10,), one_unreadable_session_fails_alone),
    Behaviour((10,), a_cancelled_caller_harms_nobody),
    Behaviour((10, 9), every_call_answers_under_load),
]
