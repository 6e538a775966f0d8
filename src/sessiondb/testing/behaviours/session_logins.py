"""Laws 5, 8 and 11 as an app meets them: logins, rotations, secrets at rest, and what each verb costs."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Awaitable

import msgspec

from sessiondb.core import token
from sessiondb.core.errors import LoginRefused
from sessiondb.core.policy import Policy
from sessiondb.core.token import Token
from sessiondb.stores.base import EventQuery
from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.behaviours.sessions import token_of
from sessiondb.testing.builders import HOUR, MINUTE
from sessiondb.testing.checks import BehaviourBroken, equal, raises, require, same_data
from sessiondb.testing.counting import CountingStore
from sessiondb.testing.kit import Kit


async def login_is_a_border(kit: Kit) -> None:
    """A login makes a new session that takes the anonymous data along; the anonymous token opens nothing more."""
    database = await kit.session_db()
    before = await database.create(None, {"cart": [1], "secret": 1})
    async with database.session(before.token) as session:
        session["cart"].append(2)
        await session.login("alice", keep=["cart"])
        after = token_of(session)
    require(session.sid != before.session.sid, "the login kept the sid")
    one, other = _parsed(before.token), _parsed(after)
    require(one.series != other.series and one.secret != other.secret, "the login kept a part of the token")
    async with database.session(after) as session:
        equal((session.user_id, dict(session)), ("alice", {"cart": [1, 2]}), "the session after the login")
    async with database.session(before.token) as session:
        equal((session.user_id, dict(session)), (None, {}), "what the anonymous token opens")
    old = await database.get(before.session.sid)
    equal(old and old.end_reason, "login", "the reason of the anonymous session's end")


async def what_others_wrote_before_the_login_comes_along(kit: Kit) -> None:
    """Anonymous data that another request wrote after this one had loaded the session is carried over."""
    one, other = await kit.session_db(), await kit.session_db()
    before = await one.create(None, {"cart": [1], "seen": 1})
    async with one.session(before.token) as session:
        async with other.session(before.token) as beside:
            beside["wish"] = ["x"]
            beside["cart"] = [1, 2]
            del beside["seen"]
        await session.login("alice")
        after = token_of(session)
    async with other.session(after) as session:
        same_data(dict(session), {"cart": [1, 2], "wish": ["x"]}, "the data after the login")


async def another_user_inherits_nothing(kit: Kit) -> None:
    """Logging in over somebody else's session takes none of their data, and ends it."""
    database = await kit.session_db()
    before = await database.create("alice", {"private": 1})
    async with database.session(before.token) as session:
        await session.login("bob")
        after = token_of(session)
    async with database.session(after) as session:
        equal((session.user_id, dict(session)), ("bob", {}), "the session of the second user")
    async with database.session(before.token) as session:
        equal(session.user_id, None, "what the first user's token opens")


async def the_same_user_signs_in_in_place(kit: Kit) -> None:
    """Signing in again keeps session and data, proves who they are anew, and retires the old token at once."""
    store = await kit.store()
    record = kit.record("alice", {"a": 1}, age=HOUR, unseen=0)
    await kit.put_in(store, record)
    held = kit.token(record.sid).encode()
    database = await kit.session_db()
    async with database.session(held) as session:
        await session.login("alice", methods=["otp"])
        after = token_of(session)
    async with database.session(after) as session:
        equal((session.sid, dict(session), session.auth.methods), (record.sid, {"a": 1}, ("otp",)), "the session")
        require((session.authenticated_at or 0) >= kit.now, "the time of the proof was not set")
    async with database.session(held) as session:
        equal(session.user_id, None, "what the old token opens after the step-up")
    async with database.session(after) as session:
        equal(session.user_id, "alice", "what the new token opens after the old one was shown")


async def a_rotation_loses_nobody(kit: Kit) -> None:
    """The old token is good until the new one was shown, and gets the same new one again: a lost reply is harmless."""
    database = await kit.session_db()
    before = await database.create("alice", {"a": 1})
    async with database.session(before.token) as session:
        await session.rotate()
        after = token_of(session)
    require(after != before.token, "the rotation changed nothing")
    for _ in range(2):
        async with database.session(before.token) as session:
            equal((session.user_id, token_of(session)), ("alice", after), "user, and token told to the old one")
    for presented in (after, after, before.token):
        async with database.session(presented) as session:
            equal(session.user_id, "alice", "who is logged in after the rotation")


async def a_limit_is_kept(kit: Kit) -> None:
    """``Policy(per_user=2)``: the third login ends the oldest session, or is refused if the policy says so."""
    database = await kit.session_db(policy=Policy(per_user=2))
    for _ in range(4):
        kit.clock.advance(0.01)  # within one millisecond either of two logins may be the older
        await database.create("alice")
    equal(len(await database.sessions_of("alice")), 2, "living sessions")
    kit.clock.advance(0.01)
    strict = await kit.session_db(policy=Policy(per_user=2, on_limit="refuse"))
    refused = await raises(LoginRefused, strict.create("alice"), "a login over the limit")
    equal(refused.reason, "limit", "the reason")
    async with strict.session() as session:
        session["cart"] = [1]
        await raises(LoginRefused, _wait_for(session.login("alice")), "a login over the limit, in a request")
        equal(session.user_id, None, "who is logged in after the refusal")
    equal(len(await database.sessions_of("alice")), 2, "living sessions after two refusals")


async def a_revoke_reaches_logins_under_way(kit: Kit) -> None:
    """A login whose request began before the user was revoked is refused, however late it comes."""
    one, other = await kit.session_db(), await kit.session_db()
    async with one.session() as session:
        # The clock stands still, or nearly: the revoke must be later than the beginning of the request.
        session._state.began_at -= MINUTE
        await other.revoke_all("alice")
        refused = await raises(LoginRefused, _wait_for(session.login("alice")), "a login from before the revoke")
    equal(refused.reason, "revoked", "the reason")
    equal(await other.sessions_of("alice"), [], "living sessions")


async def nothing_at_rest_opens_a_session(kit: Kit) -> None:
    """After logins, rotations and theft alarms no record, event or log line holds a part of any token."""
    log = _Log()
    logger = logging.getLogger("sessiondb")
    logger.addHandler(log)
    try:
        store = await kit.store()
        database = await kit.session_db()
        shown = ""
        issued = [(await database.create("alice", {"a": 1}, user_agent="x")).token for _ in range(3)]
        for presented in tuple(issued):
            async with database.session(presented) as session:
                await session.rotate()
                issued.append(token_of(session))
            async with database.session(issued[-1]) as session:
                await session.login("alice")
                issued.append(token_of(session))
            async with database.session(issued[-1]) as session:
                session["b"] = 2
                shown = repr(session)
        await database.runtime.background.flush()
        page = await store.find(kit.query(state="all"))
        events = await store.events(EventQuery(limit=1000))
        dump = b"\n".join(
            [
                *(msgspec.msgpack.encode(record) for record in page.records),
                *(msgspec.msgpack.encode(event) for event in events.events),
                msgspec.json.encode(page.records),
                repr((page, events, database, shown, log.lines)).encode(),
            ]
        )
    finally:
        logger.removeHandler(log)
    require(len(page.records) == 3 and len(events.events) > 3, "the dump is not complete")
    for presented in issued:
        parsed = _parsed(presented)
        for part in (parsed.series, parsed.secret):
            spellings = (part, part.hex().encode(), b64encode(part), presented[23:45].encode(), presented[46:].encode())
            require(not any(spelling in dump for spelling in spellings), "a part of a token is at rest")


async def verbs_keep_their_budget(kit: Kit) -> None:
    """Store calls awaited: nobody 0, read 1, write 2, modify 2, login 2 or 3, logout 2 with its load, list 1."""
    counting = CountingStore(kit.new_handle())
    database = await kit.session_db(counting, policy=Policy(per_user=5))
    issued = await database.create("alice", {"n": 1})

    def spent(what: str, at_most: int) -> None:
        # Events that do not come with the changes are written at the same time: nobody waits for them in turn.
        beside = 0 if counting.batching.together else counting.calls["append"]
        if counting.total - beside > at_most:
            raise BehaviourBroken(f"{what} took {dict(counting.calls)}, more than {at_most} calls")
        counting.reset()

    counting.reset()
    async with database.session() as session:
        session.get("a")
    async with database.session("not a token") as session:
        session.get("a")
    spent("requests of nobody", 0)
    async with database.session(issued.token) as session:
        session.get("n")
    spent("a read", 1)
    async with database.session(issued.token) as session:
        session["n"] = 1
    spent("a read that sets what was there", 1)
    async with database.session(issued.token) as session:
        session["n"] = 2
    spent("a write", 2)
    async with database.session(issued.token) as session:
        await session.modify(lambda data: data.update(n=3))
    spent("a modify", 2)
    async with database.session() as session:
        await session.login("alice")
        fresh = token_of(session)
    spent("a login", 2)
    async with database.session(fresh) as session:
        await session.logout()
    spent("a logout", 2)
    await database.sessions_of("alice")
    spent("a list", 1)
    await database.revoke_all("alice")
    spent("a revoke", 2)


async def a_touch_that_is_due_costs_no_call(kit: Kit) -> None:
    """A read with a due touch awaits one call; the touch goes with the background batch, one for all sessions."""
    store = await kit.store()
    records = [kit.record("alice", age=HOUR) for _ in range(10)]
    await kit.put_in(store, *records)
    counting = CountingStore(kit.new_handle())
    database = await kit.session_db(counting)
    counting.reset()
    for record in records:
        async with database.session(kit.token(record.sid).encode()) as session:
            session.get("a")
    equal(dict(counting.calls), {"load": 10}, "calls of ten reads with due touches")
    await database.runtime.background.flush()
    equal(counting.calls["apply"], 1, "batches for ten touches")


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _parsed(presented: str) -> Token:
    parsed = token.parse(presented.encode())
    if parsed is None:
        raise BehaviourBroken("an issued token cannot be parsed")
    return parsed


async def _wait_for(staged: Awaitable[object]) -> None:
    await staged


BEHAVIOURS = [
    Behaviour((11,), login_is_a_border),
    Behaviour((11, 2), what_others_wrote_before_the_login_comes_along),
    Behaviour((11,), another_user_inherits_nothing),
    Behaviour((11, 5), the_same_user_signs_in_in_place),
    Behaviour((5,), a_rotation_loses_nobody),
    Behaviour((11,), a_limit_is_kept),
    Behaviour((11,), a_revoke_reaches_logins_under_way),
    Behaviour((5,), nothing_at_rest_opens_a_session),
    Behaviour((8,), verbs_keep_their_budget),
    Behaviour((8,), a_touch_that_is_due_costs_no_call),
]
