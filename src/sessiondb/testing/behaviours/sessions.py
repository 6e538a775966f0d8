"""The laws as an app meets them: requests on a ``SessionDB``, played without HTTP."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import msgspec

from sessiondb.core import token
from sessiondb.core.change import Applied
from sessiondb.core.errors import SessionEnded, StoreError, StoreUnavailable
from sessiondb.core.events import EventType
from sessiondb.core.policy import Policy
from sessiondb.core.record import Record
from sessiondb.db import SessionDB
from sessiondb.session import Session
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.builders import DAY, HOUR, MINUTE
from sessiondb.testing.checks import BehaviourBroken, equal, raises, require, same_data
from sessiondb.testing.faults import Fail, FaultyStore, LoseReply
from sessiondb.testing.kit import Kit, together


async def a_request_in_flight_does_not_undo_a_revoke(kit: Kit) -> None:
    """What a request writes into a session that was ended meanwhile is dropped, said, and an event."""
    one, other = await kit.session_db(), await kit.session_db()
    issued = await one.create("alice", {"a": 1})
    with_token = one.session(issued.token)
    session = await with_token.__aenter__()
    require(await other.revoke(issued.session.sid), "the session was not ended by another worker")
    session["late"] = True
    ended = await raises(SessionEnded, session.save(), "saving into a session that was revoked")
    equal(ended.reason, "revoked", "the reason")
    await with_token.__aexit__(None, None, None)
    found = await other.get(issued.session.sid)
    require(found is not None and found.end_reason == "revoked", "the session came back")
    equal(found.data if found else None, {}, "its data")
    await one.runtime.background.flush()
    late = await other.events(type=EventType.WRITE_AFTER_END.value)
    equal([event.sid for event in late.events], [issued.session.sid], "events of dropped writes")


async def requests_of_different_keys_both_land(kit: Kit) -> None:
    """20 requests at once of one session, on two workers, each with a key of its own: all are kept."""
    databases = [await kit.session_db(), await kit.session_db()]
    issued = await databases[0].create("alice", {"start": True})

    async def request(number: int) -> None:
        async with databases[number % 2].session(issued.token) as session:
            session[f"k{number}"] = number

    await together(request(number) for number in range(20))
    expected = {"start": True} | {f"k{number}": number for number in range(20)}
    same_data(await _data(databases[0], issued.token), expected, "the data after 20 requests")


async def modify_loses_no_increment(kit: Kit) -> None:
    """``session.modify`` by 40 requests at once, on two workers, makes 40."""
    databases = [await kit.session_db(), await kit.session_db()]
    issued = await databases[0].create("alice", {"count": 0})

    async def request(number: int) -> None:
        async with databases[number % 2].session(issued.token) as session:
            await session.modify(_increment)

    await together(request(number) for number in range(40))
    same_data(await _data(databases[1], issued.token), {"count": 40}, "the count after 40 requests")


async def a_lost_reply_applies_nothing_twice(kit: Kit) -> None:
    """The reply to a write is lost: the write is found applied, and neither lost nor done again."""
    faulty = FaultyStore(kit.new_handle())
    database = await kit.session_db(faulty)
    issued = await database.create("alice", {"count": 0})
    async with database.session(issued.token) as session:
        faulty.next("apply", LoseReply())
        await session.modify(_increment)
        faulty.next("apply", LoseReply())
        session["other"] = 1
    equal(len(faulty.injected), 2, "replies that were lost")
    same_data(await _data(database, issued.token), {"count": 1, "other": 1}, "the data after two lost replies")


async def what_was_acknowledged_is_there_after_faults(kit: Kit) -> None:
    """40 increments while replies are lost and calls fail: each that was acknowledged counts, and none counts twice."""
    faulty = FaultyStore(kit.new_handle(), rates={LoseReply(): 0.15, Fail(): 0.15}, methods=frozenset({"apply"}))
    database = await kit.session_db(faulty)
    faulty.next("apply", None)
    issued = await database.create("alice", {"count": 0})
    acknowledged = unknown = 0
    for _ in range(40):
        async with database.session(issued.token) as session:
            try:
                await session.modify(_increment)
                acknowledged += 1
            except StoreError as error:
                unknown += error.outcome == "unknown"
    require(len(faulty.injected) > 5, "there were no faults")
    count = (await _data(database, issued.token))["count"]
    require(
        acknowledged <= count <= acknowledged + unknown,
        f"the count is {count} after {acknowledged} acknowledged increments and {unknown} of unknown outcome",
    )


async def nested_changes_are_saved(kit: Kit) -> None:
    """A list that was appended to, deep inside, is saved without anybody saying so."""
    database = await kit.session_db()
    issued = await database.create("alice", {"cart": {"items": [{"n": 1}]}, "other": [1]})
    async with database.session(issued.token) as session:
        session["cart"]["items"][0]["n"] = 2
        session["cart"]["items"].append({"n": 3})
    expected = {"cart": {"items": [{"n": 2}, {"n": 3}]}, "other": [1]}
    same_data(await _data(database, issued.token), expected, "the data after a nested change")


async def an_unknown_token_is_never_adopted(kit: Kit) -> None:
    """A token nobody was given opens nothing, and what its holder writes gets another sid."""
    database = await kit.session_db()
    foreign = token.mint(kit.now)
    async with database.session(foreign.encode()) as session:
        equal((session.sid, session.user_id, dict(session)), (None, None, {}), "the session of an unknown token")
        session["a"] = 1
    require(session.sid not in (None, foreign.sid), "an unknown sid was adopted")
    equal(await database.get(foreign.sid), None, "the session of the unknown sid")


async def nothing_is_stored_for_nobody(kit: Kit) -> None:
    """Without a token, or with a malformed one, and nothing written: no session, also while the store is away."""
    faulty = FaultyStore(kit.new_handle())
    database = await kit.session_db(faulty)
    faulty.down = True
    for presented in (None, "", "x", "a.b.c", "é" * 89, "A" * 10_000):
        async with database.session(presented) as session:
            equal((session.get("a"), "a" in session, session.user_id), (None, False, None), "an anonymous session")
    faulty.down = False
    equal((await database.stats()).live, 0, "sessions")


async def what_was_saved_is_seen_by_other_workers(kit: Kit) -> None:
    """As soon as ``save`` returns, another worker opens the session with what was saved."""
    one, other = await kit.session_db(), await kit.session_db()
    issued = await one.create("alice")
    async with one.session(issued.token) as session:
        for number in range(5):
            session["n"] = number
            await session.save()
            same_data(await _data(other, issued.token), {"n": number}, "the data on another worker")


async def expired_sessions_open_nothing_and_stay_ended(kit: Kit) -> None:
    """A session past its deadline is nobody's; once that was seen, a longer policy does not bring it back."""
    store = await kit.store()
    idle = kit.record("alice", {"a": 1}, age=2 * DAY, idle=10 * DAY)
    old = kit.record("alice", {"a": 1}, age=2 * DAY, unseen=0, absolute=10 * DAY)
    living = kit.record("alice", {"a": 1}, age=2 * DAY, unseen=HOUR)
    await kit.put_in(store, idle, old, living)
    by_idle = await kit.session_db(policy=Policy(idle=86_400, absolute=30 * 86_400))
    by_age = await kit.session_db(policy=Policy(idle=86_400, absolute=86_400))
    await _opens(kit, by_idle, idle, None)
    await _opens(kit, by_idle, living, "alice")
    await _opens(kit, by_age, old, None)
    await by_idle.runtime.background.flush()
    await by_age.runtime.background.flush()
    longer = await kit.session_db()
    await _opens(kit, longer, idle, None)
    await _opens(kit, longer, old, None)
    reasons = [(await kit.record_of(store, record.sid)).end_reason for record in (idle, old)]
    equal(reasons, ["expired_idle", "expired_absolute"], "the reasons")


async def use_keeps_a_session_alive(kit: Kit) -> None:
    """Opening a session moves its idle deadline, written in the background."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1}, age=HOUR)
    await kit.put_in(store, record)
    database = await kit.session_db()
    await _opens(kit, database, record, "alice")
    await database.runtime.background.flush()
    seen = (await kit.record_of(store, record.sid)).last_seen_at
    require(kit.now - MINUTE < seen <= await store.clock(), "the touch of a request was not written")


async def users_are_listed_and_revoked(kit: Kit) -> None:
    """All sessions of a user, newest first, without a secret; revoking them ends them on every worker."""
    one, other = await kit.session_db(), await kit.session_db()
    mine = [await one.create("alice", {"n": number}) for number in range(3)]
    theirs = await one.create("Alice")
    listed = await other.sessions_of("alice")
    expected = sorted((issued.session.sid for issued in mine), reverse=True)
    equal([info.sid for info in listed], expected, "the user's sessions")
    equal(await other.revoke_all("alice", keep=mine[0].session.sid), 2, "sessions revoked")
    for issued, alive in ((mine[0], True), (mine[1], False), (mine[2], False), (theirs, True)):
        async with one.session(issued.token) as session:
            equal(session.user_id is not None, alive, "whether the session opens after the revoke")
    equal(len(await one.sessions_of("alice", include_ended=True)), 3, "sessions with the ended")


async def an_outage_is_an_error_and_never_a_logout(kit: Kit) -> None:
    """While the store is away, opening, saving and revoking raise; afterwards everything is as it was."""
    faulty = FaultyStore(kit.new_handle())
    database = await kit.session_db(faulty)
    issued = await database.create("alice", {"a": 1})

    async def open_it() -> object:
        async with database.session(issued.token) as session:
            return dict(session)

    async def save_it() -> None:
        async with database.session(issued.token) as session:
            session["a"] = 2
            faulty.down = True

    await raises(StoreUnavailable, save_it(), "saving while the store is away")
    await raises(StoreUnavailable, open_it(), "opening while the store is away")
    await raises(StoreUnavailable, database.revoke(issued.session.sid), "revoking while the store is away")
    await raises(StoreUnavailable, database.revoke_all("alice"), "revoking all while the store is away")
    faulty.down = False
    same_data(await open_it(), {"a": 1}, "the data after the outage")


async def data_that_cannot_be_read_makes_its_holder_anonymous(kit: Kit) -> None:
    """An undecodable record is an event and an anonymous session, never an exception in the app."""
    store = await kit.store()
    bad = msgspec.structs.replace(kit.record("alice"), data=b'{"a": not json')
    if not isinstance(await kit.apply(store, kit.create(bad)), Applied):
        return  # a database that checks JSON itself cannot come to hold it
    database = await kit.session_db()
    await _opens(kit, database, bad, None)
    await database.runtime.background.flush()
    found = await database.events(type=EventType.SESSION_QUARANTINED.value)
    equal([event.sid for event in found.events], [bad.sid], "events of quarantined sessions")


async def _opens(kit: Kit, database: SessionDB, record: Record, user_id: str | None) -> None:
    async with database.session(kit.token(record.sid).encode()) as session:
        equal(session.user_id, user_id, "who is logged in with the token")


async def _data(database: SessionDB, presented: str) -> dict[str, Any]:
    async with database.session(presented) as session:
        if session.sid is None:
            raise BehaviourBroken("a token that was issued opens nothing")
        return dict(session)


def _increment(data: MutableMapping[str, Any]) -> None:
    data["count"] += 1


def token_of(session: Session) -> str:
    """The token that the client of ``session`` holds after this request."""
    held = session._state.outgoing or session._state.token
    if not held:
        raise BehaviourBroken("the session has no token")
    return held.encode()


BEHAVIOURS = [
    Behaviour((1,), a_request_in_flight_does_not_undo_a_revoke),
    Behaviour((2,), requests_of_different_keys_both_land),
    Behaviour((2, 8), modify_loses_no_increment),
    Behaviour((2,), a_lost_reply_applies_nothing_twice),
    Behaviour((2, 10), what_was_acknowledged_is_there_after_faults),
    Behaviour((3,), nested_changes_are_saved),
    Behaviour((4,), an_unknown_token_is_never_adopted),
    Behaviour((4,), nothing_is_stored_for_nobody),
    Behaviour((6,), what_was_saved_is_seen_by_other_workers),
    Behaviour((7,), expired_sessions_open_nothing_and_stay_ended),
    Behaviour((7,), use_keeps_a_session_alive),
    Behaviour((9,), users_are_listed_and_revoked),
    Behaviour((10,), an_outage_is_an_error_and_never_a_logout),
    Behaviour((10,), data_that_cannot_be_read_makes_its_holder_anonymous),
]
