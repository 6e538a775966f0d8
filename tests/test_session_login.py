"""Login is a border: what comes along, what never does, and who is refused."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, Response

from harness import HOUR, Browser, Shop, open_shop, put, unawaited
from sessiondb import LoginRefused, Policy, Session, SessionDataError
from sessiondb.core.record import EndReason

# -- what comes along -----------------------------------------------------------------------------------------


@pytest.mark.security("L1")
async def test_the_anonymous_cart_comes_along_and_its_old_token_opens_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"], theme="dark")
        thief = browser.twin()
        await browser.do(lambda session: session.login("ann"))
        assert await browser.read() == {"cart": ["tea"], "theme": "dark"}
        assert (await thief.read(), await thief.user()) == ({}, None)
        assert not {browser.parsed.series, browser.parsed.secret} & {thief.parsed.series, thief.parsed.secret}


@pytest.mark.security("L2")
async def test_keep_narrows_what_comes_along() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"], theme="dark", secret_question="?")

        def login(session: Session) -> None:
            session.login("ann", keep=["cart", "theme", "not there"])
            session["welcome"] = True

        await browser.do(login)
        assert await browser.read() == {"cart": ["tea"], "theme": "dark", "welcome": True}


async def test_keep_as_one_text_is_refused_before_anything_is_dropped() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])

        def login(session: Session) -> None:
            with pytest.raises(SessionDataError, match=r"keep is the text 'cart'; use a list of keys: keep=\['cart'\]"):
                session.login("ann", keep="cart")

        await browser.do(login)
        assert (await browser.read(), await browser.user()) == ({"cart": ["tea"]}, None)


async def test_keep_nothing_starts_empty() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        await browser.do(lambda session: session.login("ann", keep=()))
        assert await browser.read() == {}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_the_login_request_itself_writes_comes_along(when: str) -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])

        def login(session: Session) -> None:
            if when == "before":
                session["mine"] = 1
                del session["cart"]
            session.login("ann")
            if when == "after":
                session["mine"] = 1
                del session["cart"]

        await browser.do(login)
        assert await browser.read() == {"mine": 1}


async def test_what_the_login_request_saved_and_took_back_does_not_come_along() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])

        async def login(session: Session) -> None:
            session["draft"] = 1
            await session.save()
            del session["draft"]
            session.login("ann")

        await browser.do(login)
        assert await browser.read() == {"cart": ["tea"]}


async def test_what_others_took_out_after_the_login_request_saved_it_does_not_come_along() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])
        other = browser.twin()

        async def login(session: Session) -> None:
            session["draft"] = 1
            await session.save()
            await other.do(lambda theirs: theirs.pop("draft"))
            session.login("ann")

        await browser.do(login)
        assert await browser.read() == {"cart": ["tea"]}


@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
@pytest.mark.security("L2", "L11")
async def test_another_users_data_never_comes_along(wait: bool) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        await browser.do(put(address="Ann's"))
        old = browser.sid

        def login(session: Session) -> Any:
            session["note"] = "written as ann"
            return session.login("bob", keep=["address", "note"])

        assert (await browser.do(login if wait else unawaited(login))).cookie == "set"
        assert await browser.read() == {}
        assert await browser.user() == "bob"
        assert shop.record(old).end_reason == EndReason.LOGIN


@pytest.mark.security("L11")
async def test_what_was_written_for_a_user_that_another_login_replaces_in_the_same_request_is_dropped() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])

        def twice(session: Session) -> None:
            session.login("ann")
            session["address"] = "Ann's"
            session.login("bob")

        await browser.do(twice)
        assert await browser.user() == "bob"
        assert "address" not in await browser.read()
        assert await shop.db.sessions_of("ann", include_ended=True) == []


@pytest.mark.security("L2", "L11")
async def test_a_logout_then_a_login_takes_nothing_along() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        await browser.do(put(address="Ann's"))
        old = browser.sid

        def switch(session: Session) -> None:
            session.logout()
            session.login("ann")

        await browser.do(switch)
        assert browser.sid != old
        assert await browser.read() == {}
        assert shop.record(old).ended_at is not None


@pytest.mark.parametrize(("user_id", "text"), [(7, "7"), (uuid.UUID(int=5), str(uuid.UUID(int=5))), ("ß", "ß")])
async def test_user_ids_are_kept_as_text(user_id: Any, text: str) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in(user_id)
        assert await browser.user() == text
        assert [info.sid for info in await shop.db.sessions_of(user_id)] == [browser.sid]


@pytest.mark.parametrize("user_id", ["", "x" * 256, "é" * 128, "nul\0", None, True, 1.5, b"ann", object()])
async def test_what_is_no_user_id_is_refused_at_once(user_id: Any) -> None:
    async with open_shop() as shop, shop.db.session() as session:
        with pytest.raises(SessionDataError, match="user_id"):
            session.login(user_id)
        assert session.user_id is None


async def test_the_session_tells_who_is_logged_in_as_soon_as_that_is_staged() -> None:
    async with open_shop() as shop:

        def login(session: Session) -> list[Any]:
            before = [session.user_id, session.sid]
            session.login("ann", methods=["pwd"])
            staged = [session.user_id, session.sid]
            session.logout()
            return [before, staged, session.user_id]

        before, staged, after = (await shop.browser().do(login)).result
        assert before == [None, None]
        assert staged[0] == "ann"
        assert isinstance(staged[1], str)
        assert after is None
        browser = await shop.logged_in("ann", methods=["pwd", "otp"])

        def tell(session: Session) -> list[Any]:
            return [session.auth.methods, session.authenticated_at, session.created_at, session.is_new, session.sid]

        assert (await browser.do(tell)).result == [["pwd", "otp"], shop.clock.now, shop.clock.now, True, browser.sid]
        shop.clock.advance(1)
        assert (await browser.do(lambda session: session.is_new)).result is False


async def test_the_sid_that_a_staged_login_shows_is_the_one_that_is_stored() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()

        def login(session: Session) -> Any:
            session.login("ann")
            return session.sid

        assert (await browser.do(login)).result == browser.sid


# -- written elsewhere while the login was under way ----------------------------------------------------------


async def _login_during(shop: Shop, browser: Browser, meanwhile: list[Any], **login: Any) -> Any:
    loaded, go = asyncio.Event(), asyncio.Event()

    async def slow_login(session: Session) -> dict[str, Any]:
        loaded.set()
        await go.wait()
        session["mine"] = "login"
        await session.login("ann", **login)
        return dict(session)

    other = browser.twin()
    task = asyncio.create_task(browser.do(slow_login))
    await loaded.wait()
    for action in meanwhile:
        assert (await other.do(action)).status == 200
    go.set()
    return await task


async def test_what_another_request_wrote_into_the_cart_during_the_login_comes_along() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"], theme="dark", gone=1)
        reply = await _login_during(
            shop, browser, [put(cart=["tea", "cup"]), put(added=1), lambda s: s.pop("gone"), put(mine="other")]
        )
        expected = {"cart": ["tea", "cup"], "theme": "dark", "added": 1, "mine": "login"}
        assert reply.result == expected
        assert await browser.read() == expected
        assert (await shop.db.stats()).live == 1


@pytest.mark.security("L2")
async def test_keep_also_narrows_what_others_wrote_during_the_login() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"], theme="dark")
        reply = await _login_during(shop, browser, [put(cart=["tea", "cup"], theme="light", new=1)], keep=["cart"])
        assert reply.result == {"cart": ["tea", "cup"], "mine": "login"} or reply.result == {"cart": ["tea", "cup"]}
        assert (await browser.read())["cart"] == ["tea", "cup"]
        assert not {"theme", "new"} & (await browser.read()).keys()


async def test_a_login_over_a_session_that_was_ended_meanwhile_still_logs_in() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        sid = browser.sid
        loaded, go = asyncio.Event(), asyncio.Event()

        async def slow_login(session: Session) -> None:
            loaded.set()
            await go.wait()
            session.login("ann")

        task = asyncio.create_task(browser.do(slow_login))
        await loaded.wait()
        await shop.db.revoke(sid)
        go.set()
        assert (await task).cookie == "set"
        assert await browser.user() == "ann"
        assert shop.record(sid).end_reason == EndReason.REVOKED


async def test_a_write_that_comes_after_the_login_replaced_its_session_is_dropped_and_told() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])
        late = browser.twin()
        loaded, go = asyncio.Event(), asyncio.Event()

        async def slow(session: Session) -> None:
            loaded.set()
            await go.wait()
            session["late"] = 1

        task = asyncio.create_task(late.do(slow))
        await loaded.wait()
        await browser.do(lambda session: session.login("ann"))
        go.set()
        reply = await task
        assert (reply.status, reply.cookie) == (200, None)
        assert await browser.read() == {"cart": ["tea"]}
        [event] = await shop.events("write_after_end")
        assert event.reason == EndReason.LOGIN


# -- limits and refusals --------------------------------------------------------------------------------------


@pytest.mark.security("L9")
async def test_the_oldest_session_makes_room() -> None:
    async with open_shop(policy=Policy(per_user=2)) as shop:
        browsers = []
        for _ in range(3):
            browsers.append(await shop.logged_in())
            shop.clock.advance(1)
        assert [await browser.user() for browser in browsers] == [None, "ann", "ann"]
        assert shop.record(browsers[0].sid).end_reason == EndReason.LIMIT
        reply = await browsers[0].do(lambda session: session.ended_reason)
        assert reply.result == "limit"


async def _full_house(shop: Shop) -> Browser:
    await shop.logged_in("ann")
    shop.clock.advance(1)
    return await shop.with_cart(cart=["tea"])


REFUSING = Policy(per_user=1, on_limit="refuse")


@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
async def test_a_refused_login_is_a_409_and_the_cart_goes_on(wait: bool) -> None:
    async with open_shop(policy=REFUSING) as shop:
        browser = await _full_house(shop)
        before = browser.sid

        def login(session: Session) -> Any:
            return session.login("ann")

        reply = await browser.do(login if wait else unawaited(login))
        assert (reply.status, reply.cookie) == (409, "set")
        assert browser.sid != before
        assert await browser.read() == {"cart": ["tea"]}
        assert await browser.user() is None
        assert len(await shop.db.sessions_of("ann")) == 1
        [event] = await shop.events("login_refused")
        assert event.reason == "limit"


async def test_a_refused_login_without_a_session_sets_no_cookie() -> None:
    async with open_shop(policy=REFUSING) as shop:
        await shop.logged_in("ann")
        reply = await shop.browser().do(unawaited(lambda session: session.login("ann")))
        assert (reply.status, reply.cookie) == (409, None)


async def test_an_app_may_answer_a_refused_login_itself() -> None:
    async with open_shop(policy=REFUSING) as shop:
        browser = await _full_house(shop)

        async def login(session: Session) -> Response:
            try:
                await session.login("ann")
            except LoginRefused as refused:
                session["told"] = refused.reason
                return PlainTextResponse("log out elsewhere first", 403)
            raise AssertionError

        reply = await browser.do(login)
        assert (reply.status, reply.cookie) == (403, "set")
        assert await browser.read() == {"cart": ["tea"], "told": "limit"}
        assert await browser.user() is None


async def test_what_was_written_for_the_user_does_not_stay_when_the_login_is_refused() -> None:
    async with open_shop(policy=REFUSING) as shop:
        browser = await _full_house(shop)

        def login(session: Session) -> None:
            session.login("ann")
            session["address"] = "Ann's"

        assert (await browser.do(login)).status == 409
        assert await browser.read() == {"cart": ["tea"]}


async def test_what_others_wrote_during_a_refused_login_stays_in_the_cart() -> None:
    async with open_shop(policy=REFUSING) as shop:
        browser = await _full_house(shop)
        reply = await _login_during(shop, browser, [put(cart=["tea", "cup"])], keep=())
        assert (reply.status, reply.cookie) == (409, "set")
        assert await browser.read() == {"cart": ["tea", "cup"]}


async def test_a_login_that_began_before_all_sessions_were_revoked_is_refused() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])

        async def slow_login(session: Session) -> None:
            shop.clock.advance(1)
            await shop.db.revoke_all("ann")
            shop.clock.advance(1)
            session.login("ann")

        reply = await browser.do(slow_login)
        assert (reply.status, reply.cookie) == (409, "set")
        assert await browser.read() == {"cart": ["tea"]}
        assert await shop.db.sessions_of("ann") == []
        [event] = await shop.events("login_refused")
        assert event.reason == "revoked"
        assert (await shop.logged_in("ann")).token


async def test_a_refused_login_outside_a_request_raises() -> None:
    async with open_shop(policy=REFUSING) as shop:
        await shop.db.create("ann")
        shop.clock.advance(1)
        with pytest.raises(LoginRefused, match="per_user") as refused:
            await shop.db.create("ann")
        assert refused.value.reason == "limit"
        assert len(await shop.db.sessions_of("ann")) == 1


async def test_signing_in_again_counts_as_no_new_session() -> None:
    async with open_shop(policy=REFUSING) as shop:
        browser = await shop.logged_in("ann")
        shop.clock.advance(HOUR)
        reply = await browser.do(lambda session: session.login("ann"))
        assert (reply.status, reply.cookie) == (200, "set")


async def test_signing_in_again_keeps_the_data_and_the_sid() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        await browser.do(put(address="Ann's"))
        sid = browser.sid

        def again(session: Session) -> None:
            session["more"] = 1
            session.login("ann", methods=["hwk"])

        await browser.do(again)
        assert browser.sid == sid
        assert await browser.read() == {"address": "Ann's", "more": 1}
        assert (await browser.do(lambda session: session.auth.methods)).result == ["hwk"]
