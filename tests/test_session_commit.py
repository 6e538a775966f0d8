"""What is staged decides what is sent and what becomes of the cookie: row by row, with the store calls counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness import HOUR, MINUTE, Browser, Shop, open_shop, put, unawaited
from sessiondb import Policy, Session
from sessiondb.core.record import EndReason

NOT_A_TOKEN = ["", "x", "a.b.c", "A" * 89, "." * 89, "Aa" + "%00" * 29, "A" * 22 + "." + "A" * 22 + "." + "A" * 43]


# -- nothing staged -------------------------------------------------------------------------------------------


@pytest.mark.security("D1")
async def test_a_visitor_who_writes_nothing_costs_nothing() -> None:
    async with open_shop() as shop:
        for reply in (
            await shop.browser().ignore(),
            await shop.browser().do(dict),
            await shop.browser().do(lambda session: session.get("cart")),
            await shop.browser().do(lambda session: session.pop("cart", None)),
            await shop.browser().do(lambda session: session.clear()),
            await shop.browser().do(lambda session: session.logout()),
            await shop.browser().do(lambda session: session.rotate()),
            await shop.browser().do(lambda session: session.save()),
            await shop.browser().do(lambda session: session.modify(lambda _: None)),
            await shop.browser().do(put()),
        ):
            assert (reply.status, reply.calls, reply.cookie) == (200, {}, None)
        assert shop.stored == 0
        assert "open" not in shop.store.calls


@pytest.mark.security("T5")
@pytest.mark.parametrize("token", NOT_A_TOKEN)
async def test_a_malformed_token_costs_nothing_and_keeps_its_cookie(token: str) -> None:
    async with open_shop() as shop:
        for reply in (await shop.browser(token).ignore(), await shop.browser(token).do(dict)):
            assert (reply.status, reply.calls, reply.cookie) == (200, {}, None)


@pytest.mark.security("T6")
async def test_an_unknown_token_is_never_adopted() -> None:
    async with open_shop() as elsewhere:
        token = (await elsewhere.db.create(data={"a": 1})).token
    async with open_shop() as shop:
        browser = shop.browser(token)
        reply = await browser.do(dict)
        assert (reply.result, reply.calls, reply.cookie) == ({}, {"load": 1}, None)
        reply = await browser.do(put(b=2))
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1}, "set")
        assert browser.sid not in token
        assert browser.token != token
        assert await shop.db.get(browser.sid) is not None
        assert shop.db.counters["token_unknown"] == 2


async def test_a_read_costs_one_load() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        for reply in (await browser.ignore(), await browser.do(dict), await browser.do(lambda session: session.save())):
            assert (reply.calls, reply.cookie) == ({"load": 1}, None)


async def test_a_read_with_a_touch_due_costs_one_load_and_the_touch_waits_in_the_background() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        shop.clock.advance(5 * MINUTE)
        reply = await browser.do(dict)
        assert (reply.calls, reply.cookie) == ({"load": 1}, None)
        shop.store.reset()
        await shop.flush()
        assert [update.touch.at for update in shop.store.updates if update.touch] == [shop.clock.now]


# -- keys -----------------------------------------------------------------------------------------------------


async def test_the_first_keys_create_a_session_and_set_the_cookie() -> None:
    async with open_shop() as shop:
        browser = shop.browser()
        reply = await browser.do(put(cart=["tea"]))
        assert (reply.calls, reply.cookie, reply.max_age) == ({"apply": 1}, "set", None)
        assert [create.sid for create in shop.store.creates] == [browser.sid]
        assert await browser.read() == {"cart": ["tea"]}


async def test_keys_in_a_living_session_are_one_delta() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        shop.clock.advance(5 * MINUTE)
        shop.store.reset()
        reply = await browser.do(put(a=1, b=2))
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1}, None)
        [update] = shop.store.updates
        assert set(update.put) == {"a", "b"}
        assert update.touch is not None
        await shop.flush()
        assert len(shop.store.updates) == 1


async def test_emptying_an_anonymous_session_keeps_it() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        reply = await browser.do(lambda session: session.clear())
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1}, None)
        assert await browser.do(put(a=1))
        assert shop.stored == 1


@pytest.mark.parametrize("keys", [False, True])
async def test_modify_costs_two(keys: bool) -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=1)

        async def increment(session: Session) -> None:
            if keys:
                session["staged"] = True
            await session.modify(lambda data: data.__setitem__("n", data["n"] + 1))

        reply = await browser.do(increment)
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1}, None)
        assert await browser.read() == ({"n": 2, "staged": True} if keys else {"n": 2})


# -- login ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
async def test_a_login_without_a_session_costs_two(wait: bool) -> None:
    async with open_shop() as shop:
        login = _login(wait)
        reply = await shop.browser().do(login)
        assert (reply.calls, reply.cookie) == ({"apply": 1, "admit": 1}, "set")


@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
async def test_a_login_over_a_session_costs_three_and_ends_the_old_one_in_the_same_batch(wait: bool) -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        anonymous = browser.sid
        reply = await browser.do(_login(wait))
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1, "admit": 1}, "set")
        assert browser.sid != anonymous
        assert shop.record(anonymous).end_reason == EndReason.LOGIN
        assert [end.if_rev for end in shop.store.ends] == [1]
        assert await browser.read() == {"cart": ["tea"]}


async def test_a_login_as_the_same_user_is_one_change_in_place() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        before = shop.record(browser.sid)
        old = browser.token
        shop.clock.advance(HOUR)
        shop.store.reset()
        reply = await browser.do(unawaited(lambda session: session.login("ann", methods=["otp"])))
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1}, "set")
        assert browser.token != old
        after = shop.record(browser.sid)
        assert after.sid == before.sid
        assert after.authenticated_at == shop.clock.now
        assert after.created_at == before.created_at
        [update] = shop.store.updates
        assert update.rotate is not None
        assert update.sign_in is not None


async def test_a_login_then_a_logout_ends_the_old_session_only() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        anonymous = browser.sid
        shop.store.reset()

        def both(session: Session) -> None:
            session.login("ann")
            session.logout()

        reply = await browser.do(both)
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1}, "deleted")
        assert shop.record(anonymous).end_reason == EndReason.LOGOUT
        assert shop.stored == 1


@pytest.mark.security("L13", "D1")
async def test_a_login_then_a_logout_without_a_session_stores_nothing() -> None:
    async with open_shop() as shop:

        def both(session: Session) -> None:
            session.login("ann")
            session["a"] = 1
            session.logout()

        reply = await shop.browser().do(both)
        assert (reply.calls, reply.cookie, shop.stored) == ({}, None, 0)


async def test_an_awaited_login_and_a_logout_leave_no_living_session() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()

        async def both(session: Session) -> None:
            await session.login("ann")
            await session.logout()

        reply = await browser.do(both)
        assert reply.cookie == "deleted"
        assert (await shop.db.stats()).live == 0


# -- rotate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [False, True])
async def test_a_rotation_is_one_change_with_the_keys_in_it(keys: bool) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        old = browser.parsed
        shop.store.reset()

        def rotate(session: Session) -> None:
            session.rotate()
            if keys:
                session["a"] = 1

        reply = await browser.do(rotate)
        assert (reply.calls, reply.cookie) == ({"load": 1, "apply": 1}, "set")
        [update] = shop.store.updates
        assert update.rotate is not None
        assert set(update.put) == ({"a"} if keys else set())
        assert (browser.parsed.sid, browser.parsed.series) == (old.sid, old.series)
        assert browser.parsed.secret != old.secret


# -- logout ---------------------------------------------------------------------------------------------------


@pytest.mark.security("L6", "L13")
@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
async def test_a_logout_is_one_end_and_its_keys_are_dropped(wait: bool) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        sid = browser.sid
        shop.store.reset()

        async def out(session: Session) -> dict[str, Any]:
            session["before"] = 1
            waiting = session.logout()
            if wait:
                await waiting
            return dict(session)

        reply = await browser.do(out)
        assert (reply.result, reply.calls, reply.cookie) == ({}, {"load": 1, "apply": 1}, "deleted")
        assert shop.store.updates == []
        assert (shop.record(sid).end_reason, shop.record(sid).data) == (EndReason.LOGOUT, b"{}")
        assert await browser.user() is None


async def test_keys_written_after_a_staged_logout_are_dropped_with_it() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        def out(session: Session) -> None:
            session.logout()
            session["message"] = "bye"

        reply = await browser.do(out)
        assert (reply.cookie, shop.stored) == ("deleted", 1)


async def test_keys_written_after_an_awaited_logout_begin_a_new_anonymous_session() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        old = browser.sid

        async def out(session: Session) -> None:
            await session.logout()
            session["message"] = "bye"

        assert (await browser.do(out)).cookie == "set"
        assert browser.sid != old
        assert await browser.read() == {"message": "bye"}
        assert await browser.user() is None


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["logout", "login"])
async def test_a_verb_that_another_task_of_the_request_stages_during_a_write_is_carried_out(verb: str) -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])
        old = browser.sid

        async def act(session: Session) -> None:
            session["note"] = 1
            saving = asyncio.ensure_future(session.save())
            await asyncio.sleep(0)  # the write is under way
            if verb == "logout":
                session.logout()
            else:
                session.login("ann")
            await saving

        reply = await browser.do(act)
        assert reply.cookie == ("deleted" if verb == "logout" else "set")
        assert shop.record(old).end_reason == (EndReason.LOGOUT if verb == "logout" else EndReason.LOGIN)
        if verb == "login":
            assert await browser.user() == "ann"
            assert await browser.read() == {"cart": ["tea"], "note": 1}


async def test_an_unhandled_exception_discards_what_was_staged_and_not_what_was_awaited() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=0, b=0)

        async def fail(session: Session) -> None:
            session["a"] = 1
            await session.save()
            session["b"] = 1
            session.logout()
            raise RuntimeError("a bug in the app")

        reply = await browser.do(fail)
        assert (reply.status, reply.cookie) == (500, None)
        assert await browser.read() == {"a": 1, "b": 0}


async def test_a_login_whose_token_never_left_is_ended_as_undelivered() -> None:
    async with open_shop() as shop:

        async def fail(session: Session) -> None:
            await session.login("ann")
            raise RuntimeError("a bug in the app")

        browser = shop.browser()
        reply = await browser.do(fail)
        assert (reply.status, reply.cookie) == (500, None)
        await shop.flush()
        [ended] = await shop.db.sessions_of("ann", include_ended=True)
        assert ended.end_reason == EndReason.UNDELIVERED


# -- the other verbs of the budget ----------------------------------------------------------------------------


async def test_listing_costs_one_and_revoking_costs_at_most_two() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        for _ in range(3):
            await shop.logged_in()
        assert len(await _counted(shop, shop.db.sessions_of("ann"), {"find": 1})) == 4
        assert await _counted(shop, shop.db.get(browser.sid), {"load": 1}) is not None
        assert await _counted(shop, shop.db.revoke(browser.sid), {"end_where": 1}) is True
        assert await _counted(shop, shop.db.revoke_all("ann"), {"end_where": 1}) == 3


async def test_a_login_that_evicts_costs_no_more_than_five() -> None:
    async with open_shop(policy=Policy(per_user=1)) as shop:
        await shop.logged_in()
        browser = await shop.with_cart()
        reply = await browser.do(lambda session: session.login("ann"))
        assert sum(reply.calls.values()) <= 5
        assert len(await shop.db.sessions_of("ann")) == 1


async def test_revoking_the_others_from_within_costs_two_after_the_load_and_one_for_the_new_secret() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        other = await shop.logged_in()
        reply = await browser.do(lambda session: session.revoke_others())
        assert (reply.result, reply.cookie) == (1, "set")
        assert reply.calls == {"load": 1, "end_where": 1, "apply": 1}
        assert (await browser.user(), await other.user()) == ("ann", None)


def _login(wait: bool) -> Any:
    def login(session: Session) -> Any:
        return session.login("ann")

    return login if wait else unawaited(login)


async def _counted(shop: Shop, call: Any, calls: dict[str, int]) -> Any:
    before = shop.store.traffic()
    result = await call
    assert dict(shop.store.traffic() - before) == calls
    return result


async def test_a_browser_with_two_honest_cookies_uses_the_one_that_is_alive() -> None:
    async with open_shop() as shop:
        dead, alive = await shop.with_cart(a=1), await shop.with_cart(a=2)
        await shop.db.revoke(dead.sid)
        both = Browser(shop, f"{dead.token}; sid={alive.token}")
        reply = await both.do(dict)
        assert (reply.result, reply.calls) == ({"a": 2}, {"load": 1})
        # Whoever has a session is not told that it was ended.
        assert (await both.do(lambda session: session.ended_reason)).result is None


@pytest.mark.security("C6")
async def test_two_living_sessions_in_one_request_are_a_collision_and_open_neither() -> None:
    async with open_shop() as shop:
        one, two = await shop.with_cart(a=1), await shop.with_cart(a=2)
        reply = await Browser(shop, f"{one.token}; sid={two.token}").do(dict)
        assert (reply.result, reply.cookie) == ({}, None)
        assert {event.sid for event in await shop.events("cookie_collision")} == {one.sid, two.sid}


@pytest.mark.security("L13")
async def test_two_visitors_who_have_logged_out_share_nothing() -> None:
    async with open_shop() as shop:
        browsers = [await shop.logged_in(user) for user in ("ann", "bob")]
        for browser in browsers:
            await browser.do(unawaited(lambda session: session.logout()))
            assert browser.token is None
        for number, browser in enumerate(browsers):
            assert (await browser.do(put(whose=number))).cookie == "set"
        assert browsers[0].sid != browsers[1].sid
        assert [await browser.read() for browser in browsers] == [{"whose": 0}, {"whose": 1}]
