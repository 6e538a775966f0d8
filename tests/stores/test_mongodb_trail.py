"""MongoDB: the audit trail as documents. What people, or processes at the same moment, may do to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import ObjectId, encode
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError

from databases import new_prefix, url_of, with_option
from sessiondb import StoreUnavailable, open_store
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.record import EndReason
from sessiondb.core.sealing import GENESIS, Lane, digest, wrong_groups
from sessiondb.stores import _mongodb_trail as trail
from sessiondb.stores._mongodb_url import Collections, parse
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, EventQuery, Position, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, MINUTE
from sessiondb.testing.kit import Kit, together

BEYOND_BSON = 2**70


@pytest.fixture
def url() -> str:
    return with_option(url_of("mongodb"), f"prefix={new_prefix()}")


@pytest.fixture
async def kit(url: str) -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def there(url: str) -> AsyncIterator[Collections]:
    """The collections, as people see them."""
    collections = parse(url).connect()
    yield collections
    await collections.close()


async def all_events(store: Store) -> list[Event]:
    return list((await store.events(EventQuery(limit=1000))).events)


def is_whole(events: list[Event]) -> bool:
    """What who verifies a stream asks of it."""
    previous = GENESIS
    for seq, event in enumerate(events, 1):
        seal = event.seal
        if seal is None or (seal.seq, seal.previous) != (seq, previous) or wrong_groups(event, seal):
            return False
        previous = digest(event, seal)
    return True


async def test_people_can_query_the_events(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    event = kit.event(user_id="ann", actor="bob", ip="192.0.2.1", details={"n": 1}, personal={"user_agent": "x"})
    bare = kit.event(EventType.SESSION_ENDED)
    await store.append([event, bare])
    seal, other = event.seal, bare.seal
    assert seal is not None
    assert other is not None
    found = await there.events.find_one({"user_id": "ann", "personal.user_agent": "x"})
    assert found is not None
    del found["_id"]
    assert found == {
        "at": event.at,
        "type": "authn_login_success",
        "user_id": "ann",
        "actor": "bob",
        "ip": "192.0.2.1",
        "details": {"n": 1},
        "personal": {"user_agent": "x"},
        "stream": seal.stream,
        "seq": 1,
        "previous": bytes(32),
        "who_commitment": seal.who,
        "actor_commitment": seal.actor,
        "where_commitment": seal.where,
        "who_salt": seal.who_salt,
        "actor_salt": seal.actor_salt,
        "where_salt": seal.where_salt,
    }
    found = await there.events.find_one({"type": "session_ended"})
    assert found is not None
    # What is not there is left out: no field says null, and no index has an entry for it.
    assert found.keys() == {"_id", "at", "type", "stream", "seq", "previous"}


async def test_events_of_a_newer_version_are_read(kit: Kit) -> None:
    store = await kit.store()
    lane = Lane(EventClass.LOGIN)
    events = lane.seal([Event(type="of_the_future", at=kit.now)])
    await store.append(events)
    [found] = await store.trail(lane.stream, 0, 10)
    assert (found, type(found.type)) == (events[0], str)
    assert await all_events(store) == events


DAMAGES: list[dict[str, Any]] = [
    {"$set": {"user_id": "eve"}},
    {"$set": {"user_id": ObjectId()}},
    {"$set": {"sid": 7, "details": "none"}},
    {"$set": {"at": "yesterday"}},
    {"$set": {"at": float("inf")}},
    {"$set": {"at": None}},
    {"$set": {"type": None}},
    {"$set": {"type": 7}},
    {"$set": {"details": {"n": [1, {"a": ObjectId()}]}}},
    {"$set": {"details": None}},
    {"$set": {"personal": {"user_agent": re.compile("x")}}},
    {"$set": {"ip": "192.0.2.9"}},
    {"$set": {"previous": "text"}},
    {"$set": {"previous": None}},
    {"$set": {"who_commitment": "text"}},
    {"$set": {"where_commitment": None}},
    {"$set": {"who_salt": "text"}},
    {"$set": {"actor": ["bob"]}},
    {"$unset": {"previous": ""}},
    {"$unset": {"type": "", "at": ""}},
    {"$unset": {"who_salt": ""}},
    {"$unset": {"who_commitment": ""}},
    {"$rename": {"details": "detail"}},
    # Beside what was there nothing of these kinds was.
    {"$set": {"reason": 7, "note": 1}},
    {"$set": {"reason": ["x"]}},
    {"$set": {"actor_commitment": 7}},
    {"$set": {"actor_salt": 7}},
    {"$set": {"details.more": 1.5}},
    {"$set": {"personal.more": {"a": 1}}},
    {"$set": {"actor_salt": b"salt"}},
    {"$set": {"seq": 2.5}},
]


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
async def test_what_somebody_has_spoilt_is_read_and_found(kit: Kit, there: Collections, damage: dict[str, Any]) -> None:
    """No hand makes who verifies stumble: it is told of a stream that is not what was written."""
    store = await kit.store()
    fields: dict[str, Any] = {"sid": kit.record().sid, "user_id": "ann", "ip": "192.0.2.1", "details": {"n": 1}}
    events = [kit.event(**fields, personal={"user_agent": "x"}) for _ in range(3)]
    place = kit.place(events[1])
    await store.append(events)
    assert is_whole(await store.trail(place.stream, 0, 10))
    await there.events.update_one({"stream": place.stream, "seq": 2}, damage)
    found = await store.trail(place.stream, 0, 10)
    assert len(found) == 3
    assert not is_whole(found)
    assert [found[0], found[2]] == [events[0], events[2]]
    assert len(await all_events(store)) == 3
    [stream] = await store.streams()
    assert (stream.first, stream.last) == (1, events[2])


async def test_what_is_no_event_harms_itself_alone(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    event = kit.event()
    await store.append([event])
    await there.events.insert_many([{"note": "by hand"}, {"stream": 7, "seq": "x"}])
    assert [event.seal is None for event in await all_events(store)].count(False) == 1
    assert [stream.name for stream in await store.streams()] == [kit.place(event).stream]
    assert await store.trail(kit.place(event).stream, 0, 10) == [event]


# -- writing ----------------------------------------------------------------------------------------------


async def test_processes_that_draw_the_same_numbers_lose_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number says in which order events are listed; that it is taken says nothing of the place."""
    one, other = await kit.stores(2)
    monkeypatch.setattr(trail.time, "time_ns", lambda: 1_000)
    monkeypatch.setattr(trail.secrets, "randbelow", lambda below: 0)
    events = [kit.event(details={"n": n}) for n in range(6)]
    await one.append(events[:3])
    await other.append(events[3:5])
    [result] = await (await kit.store()).apply([kit.create(kit.record())], events[5:])
    assert not isinstance(result, Exception)
    found = await all_events(one)
    assert sorted(int(event.details["n"]) for event in found) == list(range(6))
    assert await other.trail(kit.place(events[0]).stream, 0, 10) == events


async def test_one_call_fills_what_others_have_begun(kit: Kit) -> None:
    """Two processes write overlapping parts of a stream, in any order, again and again: each place once."""
    stores = await kit.stores(2)
    events = [kit.event(details={"n": n}) for n in range(20)]
    parts = [events[n : n + 7] for n in range(0, 20, 3)]
    await together(stores[n % 2].append(part) for n, part in enumerate(parts * 3))
    assert await stores[0].trail(kit.place(events[0]).stream, 0, 100) == events
    assert (await stores[0].stats()).events == 20


async def test_one_event_that_cannot_be_stored_leaves_its_neighbours_unwritten(kit: Kit) -> None:
    """So that it is certain what was written: nothing."""
    store = await kit.store()
    with pytest.raises(StoreError, match="beyond 64 bits") as caught:
        await store.append([kit.event(), kit.event(details={"n": BEYOND_BSON}), kit.event()])
    assert caught.value.outcome == "not_applied"
    with pytest.raises(ValueError, match="without its seal"):
        await store.append([kit.event(), Event(type="x", at=kit.now)])
    assert await all_events(store) == []


@pytest.mark.parametrize(
    ("inserted", "codes", "outcome"),
    [(0, [121, 121], "not_applied"), (1, [121], "unknown"), (0, [121, 11602], "unknown"), (0, [], "unknown")],
)
async def test_an_append_says_whether_anything_may_be_written(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, inserted: int, codes: list[int], outcome: str
) -> None:
    """By what the server says of each event; what no server here can be brought to say."""
    store = await kit.store()
    wrong = [{"index": at, "code": code, "errmsg": ""} for at, code in enumerate(codes)]
    concern = [] if codes else [{"code": 64, "errmsg": ""}]
    details = {"writeErrors": wrong, "writeConcernErrors": concern, "nInserted": inserted}

    async def refuse(*arguments: Any, **options: Any) -> Any:
        raise BulkWriteError(details)

    monkeypatch.setattr(AsyncCollection, "insert_many", refuse)
    with pytest.raises(StoreUnavailable) as caught:
        await store.append([kit.event(), kit.event()])
    assert caught.value.outcome == outcome


# -- finding ----------------------------------------------------------------------------------------------


async def test_every_question_has_its_index(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    events = [
        kit.event(at=kit.now + n, user_id=f"user{n % 50}", actor=f"admin{n % 50}", sid=kit.record().sid)
        for n in range(500)
    ]
    await store.append(events)

    async def plan(where: dict[str, Any], sort: dict[str, int]) -> str:
        command = {"explain": {"find": there.events.name, "filter": where, "sort": sort}, "verbosity": "queryPlanner"}
        return repr((await there.database.command(command))["queryPlanner"]["winningPlan"])

    newest = {"_id": -1}
    assert "'indexName': 'user'" in await plan({"user_id": "user3"}, newest)
    assert "'indexName': 'actor'" in await plan({"actor": "admin3"}, newest)
    assert "'indexName': 'sid'" in await plan({"sid": events[7].sid}, newest)
    assert "'indexName': 'at'" in await plan({"at": {"$gte": kit.now + 3, "$lt": kit.now + 9}}, newest)
    stream = {"stream": kit.place(events[0]).stream, "seq": {"$gt": 100}}
    assert "'indexName': 'place'" in await plan(stream, {"seq": 1})
    indexes = await there.events.index_information()
    assert indexes["place"]["unique"]
    assert indexes["actor"]["partialFilterExpression"] == {"actor": {"$gte": ""}}, "only where there is one"


async def test_streams_that_come_and_go_meanwhile_are_no_error(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stream begins and where it ends is asked side by side; one of both may see less."""
    store = await kit.store()
    events = [kit.event(), kit.event(EventType.SESSION_ENDED), kit.event(EventType.USER_LOCKED)]
    await store.append(events[:2])
    real = trail._first_of_each

    async def first_of_each(collection: Any, direction: int, what: str) -> Any:
        found = await real(collection, direction, what)
        if direction == trail.ASCENDING:
            await store.append(events[2:])  # seen by the other one, or by none
            await store.purge_events({kit.place(events[1]).stream: 1})
        else:
            await asyncio.sleep(0)
        return found

    monkeypatch.setattr(trail, "_first_of_each", first_of_each)
    names = {stream.name for stream in await store.streams()}
    assert kit.place(events[0]).stream in names
    assert names <= {kit.place(event).stream for event in events}


# -- forgetting -------------------------------------------------------------------------------------------


async def all_that_is_shown(there: Collections) -> bytes:
    """Every document of the database, and what each index has for it."""
    shown = []
    for collection in there.every:
        async for document in collection.find():
            shown.append(encode(document))
        for name in await collection.index_information():
            async for key in collection.find(return_key=True, hint=name):
                shown.append(encode(key))
    return b"\n".join(shown)


async def test_who_is_forgotten_is_nowhere_in_the_database(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    canaries = {"user": "canary-of-ann", "address": "198.51.100.77", "agent": "CanaryBrowser/7", "actor": "canary-bob"}
    client = f'{{"ip":"{canaries["address"]}","user_agent":"{canaries["agent"]}"}}'.encode()
    living, ended = (kit.record(canaries["user"], {"name": canaries["user"]}, client_first=client) for _ in range(2))
    other = kit.record("bob")
    events = [
        kit.event(
            sid=living.sid,
            user_id=canaries["user"],
            actor=canaries["actor"],
            ip=canaries["address"],
            personal={"user_agent": canaries["agent"]},
        ),
        kit.event(EventType.SESSION_ENDED, sid=ended.sid, user_id=canaries["user"], details={"n": 1}),
        kit.event(user_id="bob", ip="192.0.2.1"),
    ]
    await store.apply([kit.create(living), kit.create(ended), kit.create(other)], events[:1])
    await store.append(events[1:])
    await store.apply([kit.touch(living, client=client), kit.end(ended)])
    await store.admit(kit.login(living, per_user=1))
    await store.end_where(kit.query(canaries["user"], not_before=kit.now + DAY, sids=[]), EndReason.REVOKED)
    await store.record_logins([(canaries["user"], b"e" * HISTORY_ENTRY_BYTES)], kit.now + DAY)
    before = await all_that_is_shown(there)
    for canary in (*canaries.values(), living.sid, ended.sid):
        assert canary.encode() in before, canary
    places = [kit.place(event) for event in events[:2]]
    assert await store.blank(places, {"who", "actor", "where"}) == 2
    assert await store.forget_user(canaries["user"]) == 2
    after = await all_that_is_shown(there)
    for canary in (*canaries.values(), living.sid, ended.sid):
        assert canary.encode() not in after, canary
    assert b"bob" in after
    assert await kit.find_record(store, other.sid) == other
    assert len(await all_events(store)) == 3


async def test_blanking_while_others_write_touches_what_it_was_asked_to(kit: Kit) -> None:
    """Many places of many streams, some of them not there, by two processes at once, while events come."""
    stores = await kit.stores(2)
    lanes = [Lane(EventClass.LOGIN) for _ in range(4)]
    written = {
        lane.stream: lane.seal([Event(type=EventType.LOGIN, at=kit.now, user_id="ann", ip="::1") for _ in range(30)])
        for lane in lanes
    }
    await together(stores[0].append(events) for events in written.values())
    places = [Position(lane.stream, seq) for lane in lanes for seq in range(21, 41)]
    more = [kit.event(user_id="ann") for _ in range(20)]
    *counts, _ = await asyncio.gather(
        stores[0].blank(places, {"who"}), stores[1].blank(places + places, {"where"}), stores[0].append(more)
    )
    assert counts == [40, 40]
    for lane in lanes:
        found = await stores[0].trail(lane.stream, 0, 100)
        assert is_whole(found)
        assert [event.user_id for event in found] == ["ann"] * 20 + [None] * 10
        assert [event.ip for event in found] == ["::1"] * 20 + [None] * 10
    assert len((await stores[0].events(EventQuery(user_id="ann", limit=1000))).events) == 100
    assert await stores[0].blank(places, set()) in (0, 40)


async def test_purging_while_others_write_leaves_what_comes_later(kit: Kit) -> None:
    stores = await kit.stores(2)
    events = [kit.event(details={"n": n}, at=kit.now + n * MINUTE) for n in range(60)]
    stream = kit.place(events[0]).stream
    await stores[0].append(events[:30])
    counts = await asyncio.gather(
        stores[0].purge_events({stream: 20}), stores[1].purge_events({stream: 20}), stores[0].append(events[30:])
    )
    assert counts[0] + counts[1] == 20
    assert await stores[1].trail(stream, 0, 100) == events[20:]
    assert await stores[1].purge_events({}) == 0
