"""Impersonation: an administrator becomes a user for a while; their own session is kept aside, and either ends both."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest

from harness import DAY, HOUR, MINUTE, Browser, Shop, open_shop, put
from sessiondb import LoginRefused, Policy, Session, SessionEnded, StoreUnavailable
from sessiondb.core.change import Update
from sessiondb.session import state_of
from sessiondb.web import csrf_tokens


async def told(browser: Browser) -> Any:
    """Who is logged in, who that really is, and why nobody is."""
    seen = await browser.do(lambda session: [session.user_id, session.auth.impersonator, session.ended_reason])
    return seen.result


async def impersonating(shop: Shop, admin: str = "root", user: str = "ann") -> tuple[Browser, str]:
    """A browser in which ``admin`` has become ``user``, and the sid of the admin's own session."""
    browser = await shop.logged_in(admin)
    own = browser.sid
    shop.clock.advance(1)
    reply = await browser.do(lambda session: session.impersonate(user))
    assert (reply.status, reply.cookie) == (200, "set")
    return browser, own


@pytest.mark.security("L1", "L11")
async def test_an_administrator_becomes_a_user_and_goes_back() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("root", methods=("pwd", "otp"), level=2)
        await browser.do(put(desk="tidy"))
        own, before = browser.sid, browser.twin()
        proved_at = shop.record(own).authenticated_at
        shop.clock.advance(MINUTE)
        assert (await browser.do(lambda session: session.impersonate("ann"))).cookie == "set"
        # A new session of the user's, with nothing of the administrator's.
        assert browser.sid != own
        assert await told(browser) == ["ann", "root", None]
        assert await browser.read() == {}
        info = await shop.db.get(browser.sid)
        assert info is not None
        assert (info.user_id, info.auth.impersonator, info.auth.impersonator_sid) == ("ann", "root", own)
        assert (info.auth.methods, info.auth.level, info.authenticated_at) == (("pwd", "otp"), 2, proved_at)
        assert [one.sid for one in await shop.db.sessions_of("ann")] == [browser.sid]
        # The own session lives, and no token opens it: not the one from before, at no time.
        assert [one.sid for one in await shop.db.sessions_of("root")] == [own]
        for later in (0, 10, HOUR):
            shop.clock.advance(later)
            assert await told(before) == [None, None, None]
        await browser.do(put(note="on behalf"))
        during = browser.twin()
        reply = await browser.do(lambda session: session.stop_impersonating())
        assert (reply.result, reply.cookie) == (True, "set")
        assert browser.sid == own
        assert await told(browser) == ["root", None, None]
        assert await browser.read() == {"desk": "tidy"}
        await browser.do(put(desk="in use"))
        assert await browser.read() == {"desk": "in use"}
        # The tokens of before and of meanwhile are dead; presenting them ends nothing.
        assert await told(during) == [None, None, "impersonation_ended"]
        await shop.flush()
        assert await told(browser) == ["root", None, None]
        assert await shop.db.sessions_of("ann") == []


async def test_the_audit_stream_names_both() -> None:
    async with open_shop() as shop:
        browser, own = await impersonating(shop)
        sid = browser.sid
        await browser.do(lambda session: session.stop_impersonating())
        for type_ in ("impersonation_started", "impersonation_ended"):
            [event] = await shop.events(type_)
            assert (event.sid, event.user_id) == (sid, "ann")
            assert (event.actor, dict(event.personal)) == ("root", {"impersonator_sid": own})


async def test_only_a_session_that_is_impersonated_costs_a_second_load() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        assert (await browser.do(dict)).calls == {"load": 1}
        impersonator, _ = await impersonating(shop)
        assert (await impersonator.do(dict)).calls == {"load": 2}
        await impersonator.do(lambda session: session.stop_impersonating())
        await impersonator.read()  # shows the new secret
        assert (await impersonator.do(dict)).calls == {"load": 1}


@pytest.mark.parametrize("how", ["revoked", "locked", "expired", "everyone"])
async def test_when_the_own_session_ends_the_impersonation_is_over_at_its_next_use(how: str) -> None:
    async with open_shop(policy=Policy(idle=DAY, absolute=DAY)) as shop:
        browser, own = await impersonating(shop)
        sid = browser.sid
        if how == "revoked":
            assert await shop.db.revoke(own)
        elif how == "locked":
            assert await shop.db.lock_user("root") == 1
        elif how == "everyone":
            assert await shop.db.revoke_where(user_id="root") == 1
        else:
            # The own session is older, so it is over first.
            shop.clock.advance(DAY - 0.5)
        assert await told(browser) == [None, None, "impersonation_ended"]
        await shop.flush()
        assert shop.record(sid).end_reason == "impersonation_ended"
        assert shop.record(own).ended_at is not None
        assert [event.sid for event in await shop.events("impersonation_ended")] == [sid]


@pytest.mark.parametrize("how", ["revoke_all", "revoke", "locked", "logout", "login", "reuse"])
async def test_when_the_impersonation_ends_otherwise_the_own_session_ends_too(how: str) -> None:
    async with open_shop() as shop:
        browser, own = await impersonating(shop)
        sid = browser.sid
        if how == "revoke_all":
            assert await shop.db.revoke_all("ann") == 1
        elif how == "revoke":
            assert await shop.db.revoke(sid, user_id="ann")
        elif how == "locked":
            assert await shop.db.lock_user("ann") == 1
        elif how == "logout":
            assert (await browser.do(lambda session: session.logout())).cookie == "deleted"
        elif how == "login":
            assert (await browser.do(lambda session: session.login("bob"))).cookie == "set"
        else:
            stolen = browser.twin()
            for _ in range(2):
                await browser.do(lambda session: session.rotate())
                await browser.read()
                shop.clock.advance(HOUR)
            assert await told(stolen) == [None, None, "reuse"]
            await shop.flush()
        if how not in ("logout", "login"):
            assert (await told(browser))[0] is None
        await shop.flush()
        assert shop.record(sid).end_reason not in (None, "impersonation_ended")
        assert shop.record(own).end_reason == "impersonation_ended"
        # Said once, however often the dead cookie is shown.
        for _ in range(2):
            await browser.twin().read()
            await shop.flush()
        assert [event.sid for event in await shop.events("session_ended")].count(own) == 1


async def test_work_in_the_users_place_keeps_the_own_session_alive() -> None:
    async with open_shop(policy=Policy(idle=HOUR, absolute=DAY)) as shop:
        browser, own = await impersonating(shop)
        for _ in range(6):
            shop.clock.advance(30 * MINUTE)
            assert await told(browser) == ["ann", "root", None]
            await shop.flush()
        assert (await browser.do(lambda session: session.stop_impersonating())).result is True
        assert (browser.sid, await told(browser)) == (own, ["root", None, None])


async def refusal(session: Session, user_id: str) -> Any:
    try:
        await session.impersonate(user_id)
    except (LoginRefused, SessionEnded) as error:
        return [type(error).__name__, error.reason]
    return session.user_id


async def test_nobody_impersonates_from_within_an_impersonation_nor_themselves_nor_anonymously() -> None:
    async with open_shop() as shop:
        browser, _ = await impersonating(shop)
        assert (await browser.do(lambda session: refusal(session, "bob"))).result == ["LoginRefused", "impersonation"]
        assert await told(browser) == ["ann", "root", None]
        root = await shop.logged_in("root")
        assert (await root.do(lambda session: refusal(session, "root"))).result == ["LoginRefused", "impersonation"]
        assert await root.user() == "root"
        for nobody in (shop.browser(), await shop.with_cart()):
            assert (await nobody.do(lambda session: refusal(session, "ann"))).result == ["SessionEnded", None]


async def test_a_locked_user_is_not_impersonated_and_the_administrator_keeps_their_session() -> None:
    async with open_shop() as shop:
        await shop.db.lock_user("ann")
        root = await shop.logged_in("root")
        assert (await root.do(lambda session: refusal(session, "ann"))).result == ["LoginRefused", "locked"]
        assert await told(root) == ["root", None, None]
        assert await shop.db.sessions_of("ann") == []


async def test_impersonation_takes_no_place_in_the_limit_of_the_user() -> None:
    async with open_shop(policy=Policy(per_user=1)) as shop:
        theirs = await shop.logged_in("ann")
        browser, _ = await impersonating(shop)
        assert (await theirs.user(), (await told(browser))[:2]) == ("ann", ["ann", "root"])
        shop.clock.advance(1)
        again = await shop.logged_in("ann")
        assert (await theirs.user(), await again.user(), await browser.user()) == (None, "ann", "ann")


async def test_stopping_where_nobody_is_impersonated_does_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("root")
        reply = await browser.do(lambda session: session.stop_impersonating())
        assert (reply.result, reply.cookie, reply.calls) == (False, None, {"load": 1})
        assert (await shop.browser().do(lambda session: session.stop_impersonating())).result is False


async def stopped(session: Session) -> Any:
    try:
        return await session.stop_impersonating()
    except SessionEnded as error:
        return error.reason


async def test_of_two_clicks_on_stop_one_goes_back_and_the_other_harms_nothing() -> None:
    async with open_shop() as shop:
        browser, own = await impersonating(shop)
        twin = browser.twin()
        inner: list[Any] = []

        async def both(session: Session) -> Any:
            inner.append((await twin.do(stopped)).result)
            return await stopped(session)

        reply = await browser.do(both)
        assert (inner, reply.result, reply.cookie) == ([True], "impersonation_ended", None)
        await shop.flush()
        assert (twin.sid, await told(twin)) == (own, ["root", None, None])


@pytest.mark.parametrize("gone", ["own", "other"])
async def test_stopping_when_either_is_over_says_so_and_leaves_nobody_logged_in(gone: str) -> None:
    async with open_shop() as shop:
        browser, own = await impersonating(shop)
        sid = browser.sid

        async def late(session: Session) -> Any:
            await shop.db.revoke(own if gone == "own" else sid)
            return [await stopped(session), session.user_id]

        reply = await browser.do(late)
        assert reply.result == ["impersonation_ended" if gone == "own" else "revoked", None]
        await shop.flush()
        assert {shop.record(one).ended_at is not None for one in (own, sid)} == {True}


async def test_signing_in_as_the_very_user_makes_a_session_of_their_own() -> None:
    async with open_shop() as shop:
        browser, own = await impersonating(shop)
        sid = browser.sid
        assert (await browser.do(lambda session: session.login("ann"))).cookie == "set"
        assert browser.sid != sid
        assert await told(browser) == ["ann", None, None]
        assert (shop.record(sid).end_reason, shop.record(own).end_reason) == ("login", "impersonation_ended")


async def test_a_step_up_in_the_users_place_hides_nobody() -> None:
    async with open_shop() as shop:
        browser, _ = await impersonating(shop)
        assert (await browser.do(lambda session: session.step_up(("otp",), 2))).cookie == "set"
        assert await told(browser) == ["ann", "root", None]
        assert (await browser.do(lambda session: session.stop_impersonating())).result is True


async def test_a_response_that_never_leaves_ends_both() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("root")
        own = browser.sid

        async def fails(session: Session) -> None:
            await session.impersonate("ann")
            raise RuntimeError("the handler fails")

        assert (await browser.do(fails)).status == 500
        await shop.flush()
        assert shop.record(own).end_reason == "undelivered"
        assert await shop.db.sessions_of("ann") == []


async def test_an_administrator_who_is_revoked_meanwhile_becomes_nobody() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("root")

        async def late(session: Session) -> Any:
            await shop.db.revoke_all("root", reason="admin")
            return await refusal(session, "ann")

        reply = await browser.do(late)
        assert (reply.result, reply.cookie) == (["SessionEnded", "admin"], None)
        await shop.flush()
        assert await shop.db.sessions_of("ann") == []


@pytest.mark.security("L8")
@pytest.mark.parametrize("verb", ["begin", "stop"])
@pytest.mark.parametrize("how", ["interrupted", "the database goes away"])
async def test_no_session_stays_alive_that_nobody_can_open(verb: str, how: str) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("root") if verb == "begin" else (await impersonating(shop))[0]
        begun, go = asyncio.Event(), asyncio.Event()
        inner = shop.memory.apply

        async def slow(changes: Any, events: Any = ()) -> Any:
            if isinstance(changes[0], Update) and changes[0].rotate is not None:
                begun.set()
                await go.wait()
                if how != "interrupted":
                    raise StoreUnavailable("away")
            return await inner(changes, events)

        async def broken_off(session: Session) -> None:
            changing = session.impersonate("ann") if verb == "begin" else session.stop_impersonating()
            waiting = asyncio.ensure_future(changing)
            await begun.wait()
            if how == "interrupted":
                waiting.cancel()
            go.set()
            await asyncio.wait([waiting])
            assert waiting.cancelled() or isinstance(waiting.exception(), StoreUnavailable)

        with mock.patch.object(shop.memory, "apply", slow):
            await browser.do(broken_off)
        await shop.flush()
        living = await shop.db.sessions_of("root")
        assert await shop.db.sessions_of("ann") == []
        # Where nothing has landed the administrator goes on as before.
        assert await browser.user() == ("root" if living else None)
        assert bool(living) == (verb == "begin" and how != "interrupted")


async def test_outside_a_request_it_works_alike() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create("root")
        async with shop.db.session(issued.token) as session:
            await session.impersonate("ann")
            assert (session.user_id, session.auth.impersonator) == ("ann", "root")
            assert await session.stop_impersonating()
            assert session.user_id == "root"


@pytest.mark.security("T7", "W1")
async def test_a_form_of_the_own_session_is_not_taken_in_the_users_place_nor_the_other_way_round() -> None:
    def key(session: Session) -> str:
        found = csrf_tokens._key(state_of(session))
        assert found is not None
        return found.hex()

    # Both sessions share the series that the keys of CSRF tokens are made of, and the time of the last sign-in.
    async with open_shop() as shop:
        browser = await shop.logged_in("root")
        shop.clock.advance(1)
        await browser.do(lambda session: session.login("root"))
        own = (await browser.do(key)).result
        shop.clock.advance(1)
        await browser.do(lambda session: session.impersonate("ann"))
        assert (await browser.do(key)).result != own
        await browser.do(lambda session: session.stop_impersonating())
        assert (await browser.do(key)).result == own


@pytest.mark.security("L1")
async def test_a_step_up_counts_in_the_users_place_no_longer_than_in_the_own_session() -> None:
    short, long = Policy(step_up=MINUTE), Policy(step_up=HOUR)
    async with open_shop(policy=long, policies={"staff": short}) as shop:
        browser = await shop.logged_in("root", policy="staff")
        await browser.do(lambda session: session.step_up(("otp",), level=2))
        await browser.do(lambda session: session.impersonate("ann"))
        assert (await browser.do(lambda session: session.auth.level)).result == 2
        shop.clock.advance(MINUTE)
        assert (await browser.do(lambda session: session.auth.level)).result is None
