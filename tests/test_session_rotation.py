"""The table of rotation: which token is served, which is told the new one, which is a thief's."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import msgspec
import pytest
from starlette.websockets import WebSocket

from harness import DAY, HOUR, MINUTE, Browser, Shop, open_shop, put, unawaited
from sessiondb import Cookie, Policy, Session, SessionMiddleware
from sessiondb.core import token
from sessiondb.core.change import Rotate, Update, new_change_id
from sessiondb.core.record import NO_SALT, EndReason
from sessiondb.core.verify import GRACE
from sessiondb.testing import Fail

GRACE_SECONDS = GRACE / 1_000_000


def rotate(session: Session) -> None:
    session.rotate()


async def rotated(shop: Shop, *, confirmed: bool = False) -> tuple[Browser, Browser]:
    """A browser that has rotated, and one that still holds the token from before."""
    browser = await shop.logged_in()
    shop.clock.advance(MINUTE)
    old = browser.twin()
    assert (await browser.do(rotate)).cookie == "set"
    assert browser.token != old.token
    if confirmed:
        assert await browser.user() == "ann"
    return browser, old


async def who(shop: Shop, face: str, browser: Browser) -> str | None:
    """Who ``browser`` is, asked through a request or outside of one."""
    if face == "middleware":
        return await browser.user()
    async with shop.db.session(browser.token) as session:
        return session.user_id


faces = pytest.mark.parametrize("face", ["middleware", "db.session"])


@faces
async def test_the_first_sight_of_the_new_token_confirms_it_and_erases_the_salt(face: str) -> None:
    async with open_shop() as shop:
        browser, _ = await rotated(shop)
        assert shop.record(browser.sid).salt
        assert shop.record(browser.sid).confirmed_at is None
        for calls in ({"load": 1, "apply": 1}, {"load": 1}, {"load": 1}):
            shop.clock.advance(1)
            shop.store.reset()
            assert await who(shop, face, browser) == "ann"
            assert dict(shop.store.traffic()) == calls
        assert shop.record(browser.sid).salt is None
        assert shop.record(browser.sid).confirmed_at == shop.clock.now - 2_000_000


async def test_a_confirmation_that_cannot_be_written_is_a_503_and_the_token_stays_good() -> None:
    async with open_shop() as shop:
        browser, _ = await rotated(shop)
        shop.faults.next("apply", Fail())
        reply = await browser.do(dict)
        assert (reply.status, reply.cookie) == (503, None)
        assert await browser.user() == "ann"


async def test_a_lost_response_logs_nobody_out_however_late_it_is_noticed() -> None:
    async with open_shop() as shop:
        browser, old = await rotated(shop)
        for wait in (0, GRACE_SECONDS + 1, HOUR, 10 * DAY):
            shop.clock.advance(wait)
            tab = old.twin()
            reply = await tab.do(lambda session: session.user_id)
            assert (reply.result, reply.cookie) == ("ann", "set")
            assert reply.calls == {"load": 1}
            assert tab.token == browser.token


@faces
async def test_the_previous_token_is_served_until_the_new_one_was_seen(face: str) -> None:
    async with open_shop() as shop:
        _, old = await rotated(shop)
        shop.clock.advance(DAY)
        assert await who(shop, face, old) == "ann"


async def test_a_request_that_is_told_the_new_token_can_write() -> None:
    async with open_shop() as shop:
        _, old = await rotated(shop)
        reply = await old.do(put(a=1))
        assert (reply.status, reply.cookie) == (200, "set")
        assert await old.read() == {"a": 1}


@faces
@pytest.mark.security("L1")
async def test_the_previous_token_is_served_for_30_s_after_the_new_one_was_seen(face: str) -> None:
    async with open_shop() as shop:
        _, old = await rotated(shop, confirmed=True)
        shop.clock.advance(GRACE_SECONDS)
        assert await who(shop, face, old) == "ann"
        reply = await old.do(put(a=1))
        assert (reply.status, reply.cookie) == (200, None)


async def test_a_rotation_asked_for_with_the_previous_token_does_not_lock_the_holder_of_the_new_one_out() -> None:
    async with open_shop() as shop:
        browser, old = await rotated(shop, confirmed=True)

        def rotate_and_write(session: Session) -> None:
            session.rotate()
            session["a"] = 1

        reply = await old.do(rotate_and_write)
        assert (reply.status, reply.cookie) == (200, None)
        assert await browser.read() == {"a": 1}


async def test_rotating_again_before_the_client_has_the_new_token_retires_nothing() -> None:
    async with open_shop(policy=Policy(rotate_every=HOUR)) as shop:
        browser, old = await rotated(shop)
        told = browser.token
        for ask in (rotate, dict, twice_awaited):
            # The response with the new token was lost, and the next one is lost as well.
            shop.clock.advance(2 * HOUR)
            lost = old.twin()
            assert (await lost.do(ask)).cookie == "set"
            assert lost.token == told
        shop.clock.advance(2 * HOUR)
        assert await old.user() == "ann"
        assert old.token == told
        [renewed] = await shop.events("session_renewed")
        assert renewed.sid == old.sid


async def test_rotating_twice_in_one_request_whose_response_is_lost_logs_nobody_out() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        lost = browser.twin()
        assert (await lost.do(twice_awaited)).cookie == "set"
        shop.clock.advance(DAY)
        assert await browser.user() == "ann"
        assert browser.token == lost.token


async def twice_awaited(session: Session) -> None:
    await session.rotate()
    await session.rotate()


@faces
@pytest.mark.security("L1")
async def test_the_previous_token_after_the_grace_is_reuse_and_ends_the_session(face: str) -> None:
    async with open_shop() as shop:
        browser, old = await rotated(shop, confirmed=True)
        shop.clock.advance(GRACE_SECONDS + 0.000001)
        assert await who(shop, face, old) is None
        await shop.flush()
        assert shop.record(browser.sid).end_reason == EndReason.REUSE
        assert await browser.user() is None
        assert (await browser.do(lambda session: session.ended_reason)).result == "reuse"
        [alarm] = await shop.events("authn_token_reuse")
        assert (alarm.sid, alarm.user_id) == (browser.sid, "ann")


@pytest.mark.security("L8")
async def test_who_holds_the_current_secret_of_a_stolen_session_is_out_at_once() -> None:
    async with open_shop() as shop:
        holder, previous = await rotated(shop, confirmed=True)
        shop.clock.advance(GRACE_SECONDS + 1)
        assert await holder.user() == "ann"
        assert await previous.user() is None
        async with asyncio.timeout(30):
            # The test has the background wait for an hour; this does not.
            while shop.record(holder.sid).ended_at is None:
                await asyncio.sleep(0)
        assert await holder.user() is None


async def test_many_requests_that_notice_the_same_end_make_one_event_each_of_it() -> None:
    async with open_shop() as shop:
        _, previous = await rotated(shop, confirmed=True)
        expired = await shop.logged_in("bob")
        shop.clock.advance(GRACE_SECONDS + 1)
        await asyncio.gather(*[previous.twin().read() for _ in range(5)])
        shop.clock.advance(20 * DAY)
        await asyncio.gather(*[expired.twin().read() for _ in range(5)])
        assert len(await shop.events("authn_token_reuse")) == 1
        ends = [(event.sid, event.reason) for event in await shop.events("session_ended")]
        assert ends == [(previous.sid, "reuse"), (expired.sid, "expired_idle")]


async def test_a_token_from_two_rotations_ago_is_told_from_theft_by_its_age() -> None:
    async with open_shop() as shop:
        browser, old = await rotated(shop)
        await browser.do(rotate)
        shop.clock.advance(GRACE_SECONDS)
        reply = await old.do(lambda session: session.user_id)
        assert (reply.result, reply.cookie) == (None, None)
        await shop.flush()
        assert await browser.user() == "ann"
        assert shop.db.counters["token_stale"] == 1
        shop.clock.advance(0.000001)
        assert await old.user() is None
        await shop.flush()
        assert await browser.user() is None
        assert shop.record(browser.sid).end_reason == EndReason.REUSE


async def test_an_invented_secret_for_a_session_that_never_rotated_is_reuse_only_with_the_right_series() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        stranger = msgspec.structs.replace(browser.parsed, series=b"s" * 16, secret=b"x" * 32)
        insider = msgspec.structs.replace(browser.parsed, secret=b"x" * 32)
        for wait in (0, DAY):
            shop.clock.advance(wait)
            reply = await shop.browser(stranger.encode()).do(lambda session: [session.user_id, session.ended_reason])
            assert (reply.result, reply.cookie) == ([None, None], None)
        await shop.flush()
        assert await browser.user() == "ann"
        assert shop.db.counters["token_forged"] == 2
        assert await shop.events("authn_token_reuse") == []
        assert await shop.browser(insider.encode()).user() is None
        await shop.flush()
        assert await browser.user() is None


async def test_a_stranger_who_knows_the_sid_does_not_learn_why_a_session_ended() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        await shop.db.revoke(browser.sid)
        stranger = msgspec.structs.replace(browser.parsed, series=b"s" * 16)
        reason = await shop.browser(stranger.encode()).do(lambda session: session.ended_reason)
        assert reason.result is None
        assert (await browser.do(lambda session: session.ended_reason)).result == "revoked"


# -- races ----------------------------------------------------------------------------------------------------


async def both_at_once(shop: Shop, browser: Browser, *actions: Any) -> list[Any]:
    """The actions in parallel requests, each of which has loaded the session before any of them writes."""
    barrier = asyncio.Barrier(len(actions))

    def together(action: Any) -> Any:
        async def run(session: Session) -> None:
            await barrier.wait()
            action(session)

        return run

    tabs = [browser.twin() for _ in actions]
    replies = await asyncio.gather(*(tab.do(together(action)) for tab, action in zip(tabs, actions, strict=True)))
    return [(tab, reply) for tab, reply in zip(tabs, replies, strict=True)]


async def test_of_two_rotations_at_once_one_sets_the_cookie_and_the_keys_of_both_land() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        def rotate_and(**data: Any) -> Any:
            def run(session: Session) -> None:
                session.rotate()
                session.update(data)

            return run

        results = await both_at_once(shop, browser, rotate_and(a=1), rotate_and(b=2), rotate)
        assert sorted(str(reply.cookie) for _, reply in results) == ["None", "None", "set"]
        assert all(reply.status == 200 for _, reply in results)
        [winner] = [tab for tab, reply in results if reply.cookie == "set"]
        # Whoever lost the race is told the same new token by the next response.
        loser = next(tab for tab, reply in results if reply.cookie is None)
        assert (await loser.do(dict)).cookie == "set"
        assert loser.token == winner.token
        assert await winner.read() == {"a": 1, "b": 2}


async def test_a_double_click_on_sign_in_again_leaves_a_token_that_works() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.clock.advance(1)
        again = unawaited(lambda session: session.login("ann"))
        results = await both_at_once(shop, browser, again, again)
        assert sorted(str(reply.cookie) for _, reply in results) == ["None", "set"]
        [winner] = [tab for tab, reply in results if reply.cookie == "set"]
        assert await winner.user() == "ann"


async def test_a_sign_in_that_loses_a_race_with_a_rotation_still_shuts_everybody_else_out() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        thief = browser.twin()
        loaded, go = asyncio.Event(), asyncio.Event()

        async def slow_login(session: Session) -> None:
            loaded.set()
            await go.wait()
            session["mine"] = 1
            session.login("ann", methods=["hwk"])

        signing_in = asyncio.create_task(browser.do(slow_login))
        await loaded.wait()
        old = thief.twin()
        assert (await thief.do(rotate)).cookie == "set"
        go.set()
        assert (await signing_in).cookie == "set"
        assert [await thief.user(), await old.user(), await browser.user()] == [None, None, "ann"]
        assert await browser.read() == {"mine": 1}
        assert (await browser.do(lambda session: session.auth.methods)).result == ["hwk"]


@pytest.mark.security("L1")
async def test_a_sign_in_that_loses_a_race_with_a_thief_who_shuts_the_others_out_shuts_the_thief_out() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        thief = browser.twin()
        loaded, go = asyncio.Event(), asyncio.Event()

        async def slow_login(session: Session) -> None:
            loaded.set()
            await go.wait()
            session.login("ann")

        shop.clock.advance(1)
        signing_in = asyncio.create_task(browser.do(slow_login))
        await loaded.wait()
        # Its secret is derived from nothing either, but it is no sign-in.
        assert (await thief.do(lambda session: session.revoke_others())).cookie == "set"
        go.set()
        assert (await signing_in).cookie == "set"
        assert [await thief.user(), await browser.user()] == [None, "ann"]
        assert shop.record(browser.sid).authenticated_at == shop.clock.now


async def test_a_sign_in_does_not_go_through_while_somebody_keeps_rotating() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        inner = shop.memory.apply

        async def rotated_first(changes: Any, events: Any = ()) -> Any:
            if changes[0].sign_in is not None:
                current = shop.record(browser.sid).secret_hash
                other = Rotate(current, token.digest(token.new_secret()), token.new_salt(), shop.clock.now)
                await inner([Update(sid=browser.sid, id=new_change_id(), rotate=other)])
            return await inner(changes, events)

        with mock.patch.object(shop.memory, "apply", rotated_first):
            reply = await browser.do(unawaited(lambda session: session.login("ann", methods=["hwk"])))
        assert (reply.status, reply.cookie) == (503, None)
        assert shop.record(browser.sid).auth == b"{}"


# -- step-up --------------------------------------------------------------------------------------------------


@pytest.mark.security("L1")
async def test_signing_in_again_kills_the_old_token_at_once_and_ends_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        thief = browser.twin()
        shop.clock.advance(HOUR)
        await browser.do(lambda session: session.login("ann"))
        assert shop.record(browser.sid).salt == NO_SALT
        for wait in (0, GRACE_SECONDS - 1, DAY):
            # The first response may be lost: until the new token was seen, the old one is no proof of theft.
            shop.clock.advance(wait)
            reply = await thief.do(lambda session: session.user_id)
            assert (reply.result, reply.cookie) == (None, None)
        assert await browser.user() == "ann"
        shop.clock.advance(GRACE_SECONDS)
        assert await thief.user() is None
        await shop.flush()
        assert await browser.user() == "ann"
        shop.clock.advance(1)
        assert await thief.user() is None
        await shop.flush()
        assert await browser.user() is None


PROOFS: dict[str, Any] = {
    "login": lambda session: session.login("ann", methods=["otp"], level=2),
    "step_up": lambda session: session.step_up(["otp"], level=2),
}


@pytest.mark.parametrize("again", ["no", "the same", "the other"])
@pytest.mark.parametrize("verb", PROOFS)
async def test_a_proof_that_is_interrupted_and_lands_is_told_with_the_response(verb: str, again: str) -> None:
    """Its secret has replaced the old one, so whoever is not told it is logged out."""
    async with open_shop() as shop:
        browser = await shop.logged_in()
        before = browser.twin()
        shop.clock.advance(1)
        begun, go = asyncio.Event(), asyncio.Event()
        inner = shop.memory.apply

        async def slow(changes: Any, events: Any = ()) -> Any:
            begun.set()
            await go.wait()
            return await inner(changes, events)

        async def interrupted(session: Session) -> None:
            session["a"] = 1
            waiting = asyncio.ensure_future(PROOFS[verb](session))
            await begun.wait()
            waiting.cancel()
            go.set()
            session["b"] = 2
            if again == "the same":
                await PROOFS[verb](session)
            elif again == "the other":
                await PROOFS["login" if verb == "step_up" else "step_up"](session)

        with mock.patch.object(shop.memory, "apply", slow):
            assert (await browser.do(interrupted)).cookie == "set"
        assert [await before.user(), await browser.user()] == [None, "ann"]
        assert await browser.read() == {"a": 1, "b": 2}
        assert (await browser.do(lambda session: session.auth.level)).result == 2


async def test_a_sign_in_with_the_previous_token_is_shared_with_nobody_who_holds_the_current_one() -> None:
    async with open_shop() as shop:
        thief, browser = await rotated(shop, confirmed=True)
        old = browser.twin()
        reply = await browser.do(lambda session: session.login("ann"))
        assert (reply.status, reply.cookie) == (200, "set")
        assert [await thief.user(), await old.user(), await browser.user()] == [None, None, "ann"]
        assert browser.sid == old.sid


async def test_two_verbs_in_one_request_send_one_token() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        async def twice(session: Session) -> None:
            await session.rotate()
            await session.rotate()
            await session.login("ann")

        assert (await browser.do(twice)).cookie == "set"
        assert await browser.user() == "ann"


# -- Policy(rotate_every) -------------------------------------------------------------------------------------


@pytest.mark.security("L3")
async def test_a_session_rotates_by_itself_when_its_secret_is_old_enough() -> None:
    async with open_shop(policy=Policy(rotate_every=HOUR)) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(HOUR - 1)
        assert (await browser.do(dict)).cookie is None
        shop.clock.advance(1)
        assert (await browser.ignore()).cookie is None
        reply = await browser.do(dict)
        assert (reply.cookie, reply.calls) == ("set", {"load": 1, "apply": 1})
        assert (await browser.do(dict)).cookie is None
        shop.clock.advance(HOUR)
        assert (await browser.do(put(a=1))).cookie == "set"
        assert await browser.read() == {"a": 1}
        assert await browser.user() == "ann"


async def test_a_rotation_is_not_due_before_the_client_has_had_the_secret_of_the_one_before_for_as_long() -> None:
    async with open_shop(policy=Policy(rotate_every=HOUR)) as shop:
        _, browser = await rotated(shop)
        shop.clock.advance(10 * HOUR)
        # The response was lost. Two requests are told the secret again, and the second of these responses is late.
        late = browser.twin()
        assert [(await one.do(dict)).cookie for one in (browser, late)] == ["set", "set"]
        for _ in range(3):
            # Else the late one would put a retired secret over the newest, and its holder would be taken for a thief.
            shop.clock.advance(20)
            assert (await browser.do(dict)).cookie is None
        shop.clock.advance(MINUTE)
        assert (late.token, await late.user()) == (browser.token, "ann")
        shop.clock.advance(HOUR)
        assert (await late.do(dict)).cookie == "set"


async def test_a_rotation_that_is_due_comes_with_the_handshake_of_a_websocket() -> None:
    async with open_shop(policy=Policy(rotate_every=HOUR)) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(HOUR)
        sent: list[Any] = []

        async def chat(scope: Any, receive: Any, send: Any) -> None:
            socket = WebSocket(scope, receive, send)
            assert socket.session.user_id == "ann"  # type: ignore[attr-defined]
            await socket.accept()
            await socket.close()

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        app = SessionMiddleware(chat, shop.db, cookie=Cookie(secure=False))
        headers = [(b"cookie", f"sid={browser.token}".encode())]
        await app({"type": "websocket", "path": "/", "headers": headers}, receive, send)
        assert sent[0]["type"] == "websocket.accept"
        [value] = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
        fresh = shop.browser(value.partition(";")[0].removeprefix("sid="))
        assert fresh.token != browser.token
        assert await fresh.user() == "ann"
        assert await shop.events("session_renewed") != []


async def test_only_a_rotation_that_took_place_is_an_event() -> None:
    async with open_shop(policy=Policy(rotate_every=HOUR)) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(2 * HOUR)
        results = await both_at_once(shop, browser, *[dict] * 5)
        [winner] = [tab for tab, reply in results if reply.cookie == "set"]
        loser = next(tab for tab, reply in results if reply.cookie is None)
        assert await winner.user() == "ann"
        # Served in the grace, but with nothing to rotate: no write at all.
        assert (await loser.do(rotate)).calls == {"load": 1}
        assert [event.sid for event in await shop.events("session_renewed")] == [browser.sid]
        assert shop.db.counters["session_renewed"] == 1


async def test_many_requests_at_the_moment_of_a_rotation_are_all_served() -> None:
    async with open_shop(policy=Policy(rotate_every=HOUR)) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(2 * HOUR)
        results = await both_at_once(shop, browser, *[put(**{f"k{i}": i}) for i in range(8)])
        assert [reply.status for _, reply in results] == [200] * 8
        assert [reply.cookie for _, reply in results].count("set") == 1
        [winner] = [tab for tab, reply in results if reply.cookie == "set"]
        assert await winner.read() == {f"k{i}": i for i in range(8)}
