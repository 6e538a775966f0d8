"""``session.step_up``: one more proof raises the level for a while, and shuts out whoever else holds the token."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from databases import KINDS, new_url
from harness import DAY, HOUR, MINUTE, Browser, open_shop, unawaited
from sessiondb import HeadersSent, Policy, Session, SessionDataError, SessionDB, SessionEnded
from sessiondb.core.record import NO_SALT, EndReason
from sessiondb.testing import ManualClock
from test_session_rotation import both_at_once

POLICY = Policy(idle=2 * HOUR, absolute=DAY, remember=7 * DAY, step_up=HOUR)


async def step_up(session: Session) -> None:
    await session.step_up(methods=("otp",), level=2)


def tell(session: Session) -> list[Any]:
    auth = session.auth
    return [list(auth.methods), auth.level, auth.level_at]


async def proved(browser: Browser) -> list[Any]:
    told: list[Any] = (await browser.do(tell)).result
    return told


@pytest.mark.security("L1", "L10")
@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
async def test_a_step_up_raises_the_level_with_a_new_secret_and_the_old_one_is_dead_at_once(wait: bool) -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in(methods=["pwd"], level=1)
        login_at = shop.clock.now
        assert await proved(browser) == [["pwd"], 1, login_at]
        shop.clock.advance(HOUR)
        thief, sid = browser.twin(), browser.sid
        reply = await browser.do(step_up if wait else unawaited(lambda s: s.step_up(methods=("otp",), level=2)))
        assert (reply.status, reply.cookie, reply.calls) == (200, "set", {"load": 1, "apply": 1})
        assert browser.sid == sid
        assert browser.parsed.secret != thief.parsed.secret
        assert shop.record(sid).salt == NO_SALT
        assert [await thief.user(), await browser.user()] == [None, "ann"]
        assert await proved(browser) == [["pwd", "otp"], 2, shop.clock.now]
        [event] = await shop.events("authn_step_up")
        assert (event.sid, event.user_id, event.details) == (sid, "ann", {"methods": "otp", "level": 2})


@pytest.mark.security("L10")
async def test_the_level_expires_and_the_logins_own_counts_again() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in(methods=["pwd"], level=1)
        login_at = shop.clock.now
        await browser.do(step_up)
        for _ in range(3):
            shop.clock.advance(HOUR / 3 - 1)
            assert (await proved(browser))[1] == 2
            await shop.flush()
        [info] = await shop.db.sessions_of("ann")
        assert (info.auth.level, info.auth.methods) == (2, ("pwd", "otp"))
        shop.clock.advance(3)
        assert await proved(browser) == [["pwd"], 1, login_at]
        [info] = await shop.db.sessions_of("ann")
        assert (info.auth.level, info.auth.methods, info.auth.step_ups) == (1, ("pwd",), ())
        await browser.do(step_up)
        assert await proved(browser) == [["pwd", "otp"], 2, shop.clock.now]


@pytest.mark.security("L5", "L10")
async def test_a_new_login_begins_anew() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in(methods=["pwd"], level=1)
        await browser.do(step_up)
        shop.clock.advance(1)
        await browser.do(lambda session: session.login("ann", methods=["pwd"], level=1))
        assert await proved(browser) == [["pwd"], 1, shop.clock.now]
        await browser.do(step_up)
        await browser.do(lambda session: session.login("bob"))
        assert await proved(browser) == [[], None, None]


@pytest.mark.security("L3", "L5")
async def test_a_step_up_is_no_login_lifetimes_and_the_time_of_the_login_stay() -> None:
    async with open_shop(policy=POLICY, policies={"staff": POLICY.with_(idle=HOUR)}) as shop:
        browser = await shop.logged_in(remember=True, policy="staff")
        before = shop.record(browser.sid)
        shop.clock.advance(MINUTE)
        await browser.do(step_up)
        after = shop.record(browser.sid)
        for name in ("created_at", "authenticated_at", "idle", "absolute", "lifetime", "user_id", "check_at"):
            assert getattr(after, name) == getattr(before, name), name
        assert (await browser.do(lambda session: session.authenticated_at)).result == before.authenticated_at
        assert (await browser.do(lambda session: session.proved_at())).result == shop.clock.now


async def test_the_level_counts_in_the_request_that_steps_up() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in(level=1)

        def act(session: Session) -> list[Any]:
            before = session.auth.level
            session.step_up(("otp",), 2)
            staged = [session.auth.level, session.proved_at(level=2), session.proved_at(level=3)]
            session.logout()
            return [before, *staged, session.auth.level, session.proved_at()]

        now = shop.clock.now
        assert (await browser.do(act)).result == [1, 2, now, None, None, None]


async def test_a_step_up_in_the_request_of_the_login_is_one_login() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = shop.browser()

        def act(session: Session) -> None:
            session.login("ann", methods=["pwd"], level=1)
            session.step_up(("otp",), 2)

        for _ in range(2):  # a new session, and the same user again
            assert (await browser.do(act)).cookie == "set"
            assert await proved(browser) == [["pwd", "otp"], 2, shop.clock.now]
            assert shop.record(browser.sid).auth == b'{"methods":["pwd","otp"],"level":2}'
        assert await shop.events("authn_step_up") == []


async def test_two_step_ups_in_one_request_are_one() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in(methods=["pwd"])

        def act(session: Session) -> None:
            session.step_up(("otp",), 2)
            session.step_up(("hwk",))
            session.rotate()

        assert (await browser.do(act)).cookie == "set"
        assert (await proved(browser))[:2] == [["pwd", "otp", "hwk"], 2]
        assert len((await shop.db.sessions_of("ann"))[0].auth.step_ups) == 1


async def test_what_is_written_with_it_lands_with_it() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.with_cart(cart=["tea"])
        await browser.do(lambda session: session.login("ann"))

        def act(session: Session) -> None:
            session["confirmed"] = True
            session["cart"].append("cup")
            session.step_up(level=2)

        reply = await browser.do(act)
        assert (reply.cookie, reply.calls) == ("set", {"load": 1, "apply": 1})
        assert await browser.read() == {"cart": ["tea", "cup"], "confirmed": True}


async def test_nobody_logged_in_is_nobody_to_step_up() -> None:
    async with open_shop(policy=POLICY) as shop:
        for browser in (shop.browser(), await shop.with_cart()):
            assert (await browser.do(unawaited(lambda session: session.step_up(level=2)))).status == 401
        browser = await shop.logged_in()

        def act(session: Session) -> None:
            session.logout()
            with pytest.raises(SessionEnded):
                session.step_up(level=2)

        assert (await browser.do(act)).cookie == "deleted"


@pytest.mark.parametrize(
    ("proof", "message"),
    [({}, "say what was proved"), ({"methods": "otp"}, "methods"), ({"level": 0}, "level"), ({"level": True}, "level")],
)
async def test_a_proof_of_nothing_is_refused_at_once(proof: dict[str, Any], message: str) -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in()

        def act(session: Session) -> None:
            with pytest.raises(SessionDataError, match=message):
                session.step_up(**proof)
            if proof:
                with pytest.raises(SessionDataError, match=message):
                    session.login("ann", **proof)

        assert (await browser.do(act)).cookie is None


async def test_it_is_refused_once_the_headers_have_left() -> None:
    async with open_shop(policy=POLICY) as shop:
        issued = await shop.db.create("ann")
        async with shop.db.session(issued.token) as session:
            session._state.headers_sent = True
            with pytest.raises(HeadersSent, match="step up"):
                session.step_up(level=2)


async def test_a_step_up_whose_response_never_left_ends_the_session_that_nobody_can_open() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in()

        async def act(session: Session) -> None:
            await session.step_up(level=2)
            raise RuntimeError("the handler failed")

        assert (await browser.do(act)).status == 500
        await shop.flush()
        assert shop.record(browser.sid).end_reason == EndReason.UNDELIVERED


# -- races ----------------------------------------------------------------------------------------------------


async def test_a_double_click_steps_up_once_and_the_token_that_was_sent_works() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in(methods=["pwd"], level=1)

        def act(key: str) -> Any:
            def run(session: Session) -> None:
                session[key] = 1
                session.step_up(("otp",), 2)

            return run

        results = await both_at_once(shop, browser, act("a"), act("b"))
        assert sorted(str(reply.cookie) for _, reply in results) == ["None", "set"]
        assert all(reply.status == 200 for _, reply in results)
        [winner] = [tab for tab, reply in results if reply.cookie == "set"]
        assert (await proved(winner))[:2] == [["pwd", "otp"], 2]
        assert await winner.read() == {"a": 1, "b": 1}
        assert len((await shop.db.sessions_of("ann"))[0].auth.step_ups) == 1


@pytest.mark.security("L5")
async def test_a_step_up_that_comes_after_a_thiefs_rotation_or_login_is_not_shared_with_the_thief() -> None:
    async with open_shop(policy=POLICY) as shop:
        for first in (lambda s: s.rotate(), lambda s: s.login("ann", methods=["pwd"]), lambda s: s.step_up(("sms",))):
            browser = await shop.logged_in(methods=["pwd"])
            thief = browser.twin()
            loaded, go = asyncio.Event(), asyncio.Event()

            async def slow(session: Session, loaded: asyncio.Event = loaded, go: asyncio.Event = go) -> None:
                loaded.set()
                await go.wait()
                await session.step_up(("otp",), 2)

            task = asyncio.create_task(browser.do(slow))
            await loaded.wait()
            assert (await thief.do(first)).cookie == "set"
            go.set()
            assert (await task).cookie == "set"
            assert [await thief.user(), await browser.user()] == [None, "ann"]
            assert (await proved(browser))[1] == 2


async def test_a_login_during_a_step_up_keeps_its_own_lifetimes() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in(methods=["pwd"], level=1)
        other = browser.twin()
        loaded, go = asyncio.Event(), asyncio.Event()

        async def slow(session: Session) -> None:
            loaded.set()
            await go.wait()
            session.step_up(("otp",), 2)

        task = asyncio.create_task(browser.do(slow))
        await loaded.wait()
        shop.clock.advance(MINUTE)
        await other.do(lambda session: session.login("ann", remember=True, methods=["hwk"], level=1))
        login_at = shop.clock.now
        shop.clock.advance(MINUTE)
        go.set()
        assert (await task).cookie == "set"
        record = shop.record(browser.sid)
        assert (record.lifetime, record.authenticated_at) == ("remembered", login_at)
        assert (await proved(browser))[:2] == [["hwk", "otp"], 2]


async def test_a_sign_in_that_differs_from_the_one_before_it_shuts_that_one_out() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in()
        thief = browser.twin()
        loaded, go = asyncio.Event(), asyncio.Event()

        async def slow(session: Session) -> None:
            loaded.set()
            await go.wait()
            session.login("ann", methods=["hwk"], level=3)

        task = asyncio.create_task(browser.do(slow))
        await loaded.wait()
        assert (await thief.do(lambda session: session.login("ann", methods=["pwd"], level=1))).cookie == "set"
        go.set()
        assert (await task).cookie == "set"
        # Who only knows the password must not hold a session of level 3.
        assert [await thief.user(), await browser.user()] == [None, "ann"]
        assert (await proved(browser))[:2] == [["hwk"], 3]


async def test_a_revoke_during_a_step_up_is_not_undone() -> None:
    async with open_shop(policy=POLICY) as shop:
        browser = await shop.logged_in()

        async def act(session: Session) -> str:
            await shop.db.revoke(browser.sid)
            with pytest.raises(SessionEnded):
                await session.step_up(level=2)
            return "told"

        reply = await browser.do(act)
        assert (reply.result, reply.cookie) == ("told", None)
        assert shop.record(browser.sid).end_reason == EndReason.REVOKED


# -- on real databases ----------------------------------------------------------------------------------------


@pytest.mark.security("L1", "L10")
@pytest.mark.parametrize("kind", KINDS)
async def test_step_up_on_real_databases(kind: str, tmp_path: Path) -> None:
    clock = ManualClock()
    settings: dict[str, Any] = {"clock": clock, "timeout": 60, "sweep_every": None, "policy": POLICY}
    async with SessionDB(new_url(kind, tmp_path), **settings) as db:
        issued = await db.create("ann", {"cart": ["tea"]}, methods=["pwd"], level=1, remember=True)
        async with db.session(issued.token) as session:
            session["cart"].append("cup")
            await session.step_up(("otp",), 2)
            renewed = session._state.token
            assert renewed is not None
        async with db.session(issued.token) as session:
            assert session.user_id is None
        async with db.session(renewed.encode()) as session:
            assert (session.user_id, dict(session)) == ("ann", {"cart": ["tea", "cup"]})
            assert (session.auth.level, session.auth.methods) == (2, ("pwd", "otp"))
        [info] = await db.sessions_of("ann")
        assert info.remembered
        assert info.authenticated_at == info.created_at
        clock.advance(HOUR)
        async with db.session(renewed.encode()) as session:
            assert (session.auth.level, session.auth.methods) == (1, ("pwd",))
        async with db.session(renewed.encode()) as session:
            await db.revoke_all("ann")
            with pytest.raises(SessionEnded):
                await session.step_up(level=2)
