"""Laws 4 and 6: an unknown sid is nothing and makes nothing, and what was answered is seen by everybody."""

from __future__ import annotations

import msgspec

from sessiondb.core import token
from sessiondb.core.change import Change, Conflict, Gone
from sessiondb.core.events import EventType
from sessiondb.core.record import EndReason
from sessiondb.stores.base import EventQuery
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import MINUTE
from sessiondb.testing.checks import equal, is_applied, require, same_record
from sessiondb.testing.kit import Kit, together


async def an_unknown_sid_is_never_adopted(kit: Kit) -> None:
    """Loading an unknown sid answers ``None`` and leaves nothing behind, however often."""
    store = await kit.store()
    await kit.put_in(store, kit.record("alice"))
    unknown = [token.mint(kit.now).sid for _ in range(20)]
    for _ in range(2):
        equal(await store.load(unknown), [None] * 20, "loading unknown sids")
    equal(len((await store.find(kit.query(state="all"))).records), 1, "sessions after loading unknown sids")
    is_applied(await kit.apply(store, kit.create(kit.record(sid=unknown[0]))), "a create of a sid asked for before")


async def loads_answer_in_the_order_of_the_sids(kit: Kit) -> None:
    """One answer for each sid, in its place: living, ended, unknown, and the same one twice."""
    store = await kit.store()
    records = [kit.record("alice", {"n": number}) for number in range(10)]
    await kit.put_in(store, *records)
    is_applied(await kit.apply(store, kit.end(records[3])), "an end")
    missing = kit.record()
    asked = [*reversed(records), missing, records[3], records[0]]
    found = await store.load([record.sid for record in asked])
    equal(
        [record.sid if record is not None else None for record in found],
        [record.sid if record is not missing else None for record in asked],
        "the sids of the records, in order",
    )
    ended = found[6]
    require(ended is not None and ended.end_reason == "logout", "an ended session is loaded with its reason")


async def changes_are_answered_in_their_order(kit: Kit) -> None:
    """One result for each change, in its place, whatever the order of the sids."""
    store = await kit.store()
    records = [kit.record("alice") for _ in range(8)]
    await kit.put_in(store, *records)
    for number, record in enumerate(records):
        for _ in range(number):
            is_applied(await kit.apply(store, kit.update(record, {"n": number})), "an update")
    order = [5, 0, 7, 2, 6, 1, 4, 3]
    results = await store.apply([kit.update(records[number], {"last": number}) for number in order])
    revs = [is_applied(result, "an update in a batch").rev for result in results]
    equal(revs, [number + 2 for number in order], "the revisions, in the order of the changes")
    for number in order:
        equal((await kit.data_of(store, records[number].sid))["last"], number, "what each change has written")


async def an_empty_batch_does_nothing(kit: Kit) -> None:
    """Loading, applying and appending nothing answers nothing."""
    store = await kit.store()
    equal(await store.load([]), [], "loading no sids")
    equal(await store.apply([]), [], "applying no changes")
    await store.append([])
    equal(await store.end_where(kit.query(sids=[]), EndReason.REVOKED), [], "ending no sids")
    equal((await store.find(kit.query(sids=[]))).records, [], "finding no sids")
    equal(await store.apply([], [kit.event()]), [], "applying no changes with an event")
    equal(len((await store.events(EventQuery())).events), 1, "the event that came without a change")


async def an_empty_database_says_so(kit: Kit) -> None:
    """A new database has no sessions, no users and no events."""
    store = await kit.store()
    stats = await store.stats()
    equal((stats.live, stats.ended, stats.users, stats.events), (0, 0, 0, 0), "the counts")
    page = await store.find(kit.query(state="all"))
    equal((list(page.records), page.next), ([], None), "the sessions")
    events = await store.events(EventQuery())
    equal((list(events.events), events.next), ([], None), "the events")
    swept = await store.sweep(kit.cutoffs(), 10)
    equal((list(swept.ended), swept.purged, swept.more), ([], 0, False), "a sweep")


async def an_answered_write_is_seen_at_once(kit: Kit) -> None:
    """As soon as a write is answered, every handle loads it, and lists and counts agree: no moment between."""
    one, other = await kit.stores(2)
    for number in range(5):
        record = kit.record("alice")
        for change, expected in (
            (kit.create(record), {}),
            (kit.update(record, {"n": number}), {"n": number}),
            (kit.update(record, {"m": number}, ["n"]), {"m": number}),
        ):
            is_applied((await one.apply([change]))[0], "a write")
            equal(await kit.data_of(other, record.sid), expected, "what another handle loads right after the answer")
        equal(await kit.living(other, "alice"), [record.sid], "the list right after the answer")
        is_applied((await one.apply([kit.end(record)]))[0], "an end")
        equal((await kit.record_of(other, record.sid)).end_reason, "logout", "the end, right after the answer")
        equal(await kit.living(other, "alice"), [], "the list right after the end")


async def a_touch_that_was_answered_is_seen_at_once(kit: Kit) -> None:
    """Touches count at once for deadlines, on every handle."""
    one, other = await kit.stores(2)
    record = kit.record("alice", age=20 * MINUTE, idle=20 * MINUTE)
    await kit.put_in(one, record)
    equal(await kit.living(other, "alice"), [], "an idle session is not living")
    is_applied((await one.apply([kit.touch(record)]))[0], "a touch")
    equal((await kit.record_of(other, record.sid)).last_seen_at, kit.now, "the touch")
    equal(await kit.living(other, "alice"), [record.sid], "the list after the touch")


async def readers_see_each_write_whole(kit: Kit) -> None:
    """A reader beside a writer sees both keys of a change or neither, and never an older state after a newer one."""
    one, other = await kit.stores(2)
    record = kit.record(None, {"a": 0, "b": 0})
    await kit.put_in(one, record)

    async def write() -> None:
        for number in range(1, 41):
            is_applied(await kit.apply(one, kit.update(record, {"a": number, "b": number})), "an update")

    async def read() -> None:
        newest = 0
        for _ in range(40):
            data = await kit.data_of(other, record.sid)
            equal(data["a"], data["b"], "the two keys of one change")
            require(data["a"] >= newest, f"read {data['a']} after {newest}")
            newest = data["a"]

    await together([write(), read(), read()])


async def events_come_with_their_changes(kit: Kit) -> None:
    """Events given to ``apply`` are there when it has answered, for every handle."""
    one, other = await kit.stores(2)
    record = kit.record("alice")
    event = kit.event(EventType.LOGIN, sid=record.sid, user_id="alice", ip="192.0.2.1", details={"n": 1, "t": "x"})
    for result in await one.apply([kit.create(record)], [event]):
        is_applied(result, "a create with an event")
    equal(list((await other.events(EventQuery(sid=record.sid))).events), [event], "the event, as it was given")


async def events_come_with_refused_changes_too(kit: Kit) -> None:
    """Once ``apply`` has answered, its events are there, each once, also where no change of it has landed."""
    one, other = await kit.stores(2)
    record, missing = kit.record("alice"), kit.record("alice")
    await kit.put_in(one, record)
    taken = msgspec.structs.replace(record, secret_hash=b"s" * 32)
    refused: list[list[Change]] = [
        [kit.create(taken)],
        [kit.update(missing, {"a": 1})],
        [kit.update(record, {"a": 1}, if_rev=9)],
        [kit.end(missing)],
        [kit.create(taken), kit.end(missing)],
    ]
    events = [kit.event(at=kit.now + number, sid=record.sid) for number in range(len(refused))]
    for changes, event in zip(refused, events, strict=True):
        for result in await one.apply(changes, [event]):
            require(isinstance(result, Conflict | Gone), f"a change that cannot land was answered {result!r:.300}")
    found = (await other.events(EventQuery(sid=record.sid))).events
    equal(sorted(event.at for event in found), [event.at for event in events], "the times of the events")


async def every_field_is_kept(kit: Kit) -> None:
    """A record comes back as it was stored, field by field, also when all its optional fields are set."""
    store = await kit.store()
    empty = kit.record()
    full = kit.record(
        "Ünïcode 'user' \"x\" %_\\",
        {"a": 1},
        age=5 * MINUTE,
        unseen=MINUTE,
        previous_hash=bytes(range(32)),
        salt=bytes(range(100, 132)),
        rotated_at=kit.now - 3,
        confirmed_at=kit.now - 2,
        rev=7,
        last_changes=bytes(range(64)),
        lifetime="remembered",
        authenticated_at=kit.now - 1,
        client_first=b'{"ip":"192.0.2.1","user_agent":"\xc3\xa9 \\"x\\""}',
        client_last=b'{"ip":"2001:db8::1","country":"DE","network":"AS64496"}',
        auth=b'{"methods":["pwd","otp"],"level":2,"impersonator":"root"}',
        risk=b'{"level":"high","reasons":["new_country"]}',
    )
    await kit.put_in(store, empty, full)
    for record in (empty, full):
        same_record(await kit.find_record(store, record.sid), record, "a stored record")
    same_record((await store.find(kit.query(full.user_id))).records[0], full, "a found record")


BEHAVIOURS = [
    Behaviour((4,), an_unknown_sid_is_never_adopted),
    Behaviour((9,), loads_answer_in_the_order_of_the_sids),
    Behaviour((9,), changes_are_answered_in_their_order),
    Behaviour((4, 9), an_empty_batch_does_nothing),
    Behaviour((4,), an_empty_database_says_so),
    Behaviour((6,), an_answered_write_is_seen_at_once),
    Behaviour((6, 7), a_touch_that_was_answered_is_seen_at_once),
    Behaviour((6,), readers_see_each_write_whole),
    Behaviour((6,), events_come_with_their_changes),
    Behaviour((6,), events_come_with_refused_changes_too),
    Behaviour((9,), every_field_is_kept),
]
