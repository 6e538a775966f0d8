"""What a request gets while the database is away, slow or forgetful, and that nothing is ever half done."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from harness import HOUR, MINUTE, Reply, Shop, open_shop, put, unawaited
from sessiondb import Policy, Session, SessionUnavailable, StoreUnavailable
from sessiondb.core.record import EndReason
from sessiondb.testing import Fail, Hang, LoseReply


def is_unavailable(reply: Reply) -> bool:
    """A 503 that tells when to come back and leaves the cookie alone."""
    return (
        reply.status == 503
        and reply.headers["retry-after"] == "1"
        and reply.headers["cache-control"] == "no-store"
        and reply.cookie is None
    )


# -- loading --------------------------------------------------------------------------------------------------


async def test_whoever_needs_a_session_gets_503_and_everybody_else_is_served() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.faults.down = True
        for action in (dict, put(a=1), lambda s: s.get("a"), lambda s: s.login("ann"), unawaited(lambda s: s.logout())):
            assert is_unavailable(await browser.do(action))
        for reply in (await browser.ignore(), await shop.browser().ignore(), await shop.browser().do(dict)):
            assert (reply.status, reply.cookie) == (200, None)
        assert (await shop.browser("nonsense").do(dict)).status == 200
        shop.faults.down = False
        assert await browser.user() == "ann"


async def test_every_access_says_unavailable_even_to_an_app_that_catches_it() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.faults.down = True
        caught: list[SessionUnavailable] = []

        async def stubborn(session: Session) -> Response:
            for _ in range(2):
                try:
                    session["a"] = 1
                except SessionUnavailable as error:
                    caught.append(error)
            return PlainTextResponse("served without", 200)

        # The app reaches the session past request.session, which would have raised already.
        async def app_endpoint(request: Any) -> Response:
            return await stubborn(request.scope["session"])

        shop.app.router.routes[0].app = _asgi(app_endpoint)  # type: ignore[attr-defined]
        reply = await browser.do(path="/do/x")
        assert (reply.status, reply.cookie) == (200, None)
        assert len(caught) == 2
        assert caught[0] is not caught[1]
        assert isinstance(caught[0].__cause__, StoreUnavailable)
        shop.faults.down = False


@pytest.mark.security("S5")
async def test_anonymous_on_load_error_serves_everybody_and_touches_no_cookie() -> None:
    async with open_shop(on_load_error="anonymous") as shop:
        browser = await shop.logged_in()
        shop.faults.down = True
        reply = await browser.do(lambda session: [session.user_id, dict(session)])
        assert (reply.result, reply.cookie) == ([None, {}], None)
        assert is_unavailable(await browser.do(put(a=1)))
        shop.faults.down = False
        assert await browser.user() == "ann"


async def test_outside_a_request_the_failure_is_raised() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create("ann")
        shop.faults.down = True
        for call in (
            lambda: shop.db.create(),
            lambda: shop.db.get(issued.session.sid),
            lambda: shop.db.sessions_of("ann"),
            lambda: shop.db.revoke(issued.session.sid),
            lambda: shop.db.revoke_all("ann"),
            lambda: shop.db.sweep(),
            lambda: shop.db.stats(),
            lambda: shop.db.events(),
        ):
            with pytest.raises(StoreUnavailable):
                await call()  # type: ignore[no-untyped-call]
        with pytest.raises(StoreUnavailable):
            async with shop.db.session(issued.token):
                pass
        shop.faults.down = False
        async with shop.db.session(issued.token) as session:
            assert session.user_id == "ann"


# -- committing -----------------------------------------------------------------------------------------------


@pytest.mark.security("S5", "S6")
@pytest.mark.parametrize(
    "action",
    [
        put(a=1),
        lambda s: s.clear(),
        unawaited(lambda s: s.rotate()),
        unawaited(lambda s: s.logout()),
        unawaited(lambda s: s.login("ann")),
        unawaited(lambda s: s.login("bob")),
    ],
    ids=["keys", "clear", "rotate", "logout", "login again", "login as another"],
)
async def test_a_commit_that_fails_is_a_503_before_the_first_byte_and_changes_nothing(action: Any) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        await browser.do(put(cart=["tea"]))
        before = shop.record(browser.sid)
        shop.faults.next("apply", Fail())
        assert is_unavailable(await browser.do(action))
        assert shop.record(browser.sid) == before
        assert await browser.read() == {"cart": ["tea"]}
        assert await browser.user() == "ann"


@pytest.mark.parametrize("action", [put(a=1), unawaited(lambda s: s.login("ann"))], ids=["create", "login"])
async def test_a_new_session_that_cannot_be_stored_sets_no_cookie(action: Any) -> None:
    async with open_shop() as shop:
        shop.faults.next("apply", Fail())
        browser = shop.browser()
        assert is_unavailable(await browser.do(action))
        assert browser.token is None
        assert (await browser.do(action)).cookie == "set"


@pytest.mark.parametrize(
    ("action", "cookie", "user"),
    [
        (put(a=1), None, "ann"),
        (unawaited(lambda s: s.rotate()), "set", "ann"),
        (unawaited(lambda s: s.logout()), "deleted", None),
        (unawaited(lambda s: s.login("bob")), "set", "bob"),
        (unawaited(lambda s: s.login("ann")), "set", "ann"),
    ],
    ids=["keys", "rotate", "logout", "login", "login again"],
)
async def test_a_lost_reply_is_found_out_and_the_request_goes_well(
    action: Any, cookie: str | None, user: str | None
) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.faults.next("apply", LoseReply())
        reply = await browser.do(action)
        assert (reply.status, reply.cookie) == (200, cookie)
        assert await browser.user() == user
        assert (await shop.db.stats()).live == (0 if user is None else 1)


async def test_a_login_that_cannot_be_admitted_leaves_nobody_logged_in() -> None:
    async with open_shop() as shop:
        browser = shop.browser()
        shop.faults.next("admit", Fail())
        assert is_unavailable(await browser.do(unawaited(lambda session: session.login("ann"))))
        await shop.flush()
        [ended] = await shop.db.sessions_of("ann", include_ended=True)
        assert ended.end_reason == EndReason.UNDELIVERED


async def test_a_commit_failure_that_the_app_swallows_is_still_a_503() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()

        async def swallow(scope: Any, receive: Any, send: Any) -> None:
            scope["session"]["a"] = 1
            try:
                await PlainTextResponse("fine")(scope, receive, send)
            except Exception:
                pass

        shop.app.router.routes[0].app = swallow  # type: ignore[attr-defined]
        shop.faults.next("apply", Fail())
        assert is_unavailable(await browser.do(path="/do/x"))


async def test_an_awaited_verb_raises_what_the_app_can_handle() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=0)

        async def save(session: Session) -> Any:
            session["a"] = 1
            try:
                await session.save()
            except StoreUnavailable as error:
                return error.outcome
            return None

        shop.faults.next("apply", Fail())
        assert (await browser.do(save)).result == "not_applied"
        # What could not be saved then was saved before the response.
        assert await browser.read() == {"a": 1}


# -- slow -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "action"), [("load", dict), ("apply", put(a=1))])
async def test_a_database_that_does_not_answer_is_a_503_in_time_and_recovers(method: str, action: Any) -> None:
    async with open_shop(timeout=0.1) as shop:
        browser = await shop.with_cart()
        shop.faults.always[method] = Hang()
        # Awaiting it would hang the test if the deadline did not hold.
        assert is_unavailable(await browser.do(action))
        assert (await browser.ignore()).status == 200
        del shop.faults.always[method]
        for _ in range(100):
            reply = await browser.do(action)
            if reply.status == 200:
                break
            await asyncio.sleep(0.05)
        assert reply.status == 200


# -- the log --------------------------------------------------------------------------------------------------


async def test_an_outage_is_one_line_when_it_begins_and_one_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        with caplog.at_level(logging.INFO, "sessiondb"):
            shop.faults.down = True
            await asyncio.gather(*(browser.twin().do(dict) for _ in range(50)))
            for _ in range(20):
                await browser.do(dict)
                await shop.browser().do(put(a=1))
            shop.faults.down = False
            for _ in range(5):
                await browser.do(dict)
                await browser.do(put(a=shop.clock.advance(1)))
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 4
        assert [line for line in lines if "reading" in line and "planned outage" in line] == lines[:1]
        assert [line for line in lines if "writing" in line and "planned outage" in line] == lines[1:2]
        assert lines[2] == "memory, reading: works again after 70 failed calls."
        assert lines[3] == "memory, writing: works again after 20 failed calls."


async def test_no_secret_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        with caplog.at_level(logging.DEBUG):
            shop.faults.down = True
            await browser.do(dict)
            await browser.do(lambda session: session.rotate())
            shop.faults.down = False
            await browser.do(lambda session: session.rotate())
            await browser.twin().do(lambda session: session.login("bob"))
        for part in str(browser.token).split(".")[1:]:
            assert part not in caplog.text


# -- data that cannot be read ---------------------------------------------------------------------------------


async def _spoil(shop: Shop, sid: str, data: bytes) -> None:
    shop.put_record(msgspec.structs.replace(shop.record(sid), data=data))


@pytest.mark.parametrize("data", [b"", b"not json", b"[1]", b'{"a":', b"\xff\xfe", b'"text"', b"null", b"[" * 100_000])
async def test_a_session_whose_data_cannot_be_read_is_quarantined_and_its_holder_anonymous(data: bytes) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        sid = browser.sid
        await _spoil(shop, sid, data)
        for _ in range(2):
            reply = await browser.do(lambda session: [session.user_id, dict(session)])
            assert (reply.result, reply.cookie) == ([None, {}], None)
        assert (await browser.ignore()).status == 200
        events = await shop.events("session_quarantined")
        assert {event.sid for event in events} == {sid}
        assert shop.record(sid).data == data
        assert (await browser.do(put(a=1))).cookie == "set"
        assert browser.sid != sid


async def test_a_quarantined_session_can_be_listed_and_revoked() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        await _spoil(shop, browser.sid, b"not json")
        [info] = await shop.db.sessions_of("ann")
        assert (info.sid, info.data) == (browser.sid, {})
        assert await shop.db.get(browser.sid) is not None
        assert await shop.db.revoke(browser.sid) is True


# -- the background -------------------------------------------------------------------------------------------


async def test_touches_and_ends_and_events_that_cannot_be_written_wait_until_they_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_shop(policy=Policy(idle=HOUR)) as shop:
        touched = await shop.logged_in("ann")
        shop.clock.advance(50 * MINUTE)
        await touched.do(dict)
        await shop.flush()
        expired = await shop.logged_in("bob")
        shop.clock.advance(59 * MINUTE)
        await touched.do(dict)
        shop.clock.advance(MINUTE)
        await expired.do(dict)
        shop.faults.always.update(apply=Fail(), append=Fail())
        for _ in range(3):
            await shop.flush()
        assert shop.record(expired.sid).ended_at is None
        assert shop.db.counters["background_write_failures"] == 6
        assert [record.getMessage() for record in caplog.records if "tried again" in record.getMessage()] == [
            "memory, writing touches and events, which are kept and tried again: "
            "The database did not take the call (a planned fault)."
        ]
        shop.faults.always.clear()
        await shop.flush()
        assert shop.record(touched.sid).last_seen_at == shop.clock.now - round(MINUTE * 1e6)
        assert shop.record(expired.sid).end_reason == EndReason.EXPIRED_IDLE
        assert "tried again: works again" in caplog.text
        assert [event.sid for event in await shop.events("session_ended")] == [expired.sid]
        shop.store.reset()
        await shop.flush()
        assert shop.store.total == 0


async def test_a_failed_touch_is_retried_by_the_timer_without_anybody_asking() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.clock.advance(MINUTE)
        await browser.do(dict)
        background = shop.db.runtime.background
        background.stop()
        shop.faults.next("apply", Fail())
        await shop.flush()
        assert background._timer is not None


async def test_a_newer_touch_is_not_replaced_by_an_older_one_that_failed() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.clock.advance(MINUTE)
        await browser.do(dict)
        shop.faults.next("apply", Fail())
        await shop.flush()
        shop.clock.advance(MINUTE)
        await browser.do(dict)
        await shop.flush()
        assert shop.record(browser.sid).last_seen_at == shop.clock.now


@pytest.mark.parametrize("method", ["apply", "append"])
async def test_whoever_gives_up_waiting_for_a_flush_loses_nothing_of_it(method: str) -> None:
    async with open_shop(timeout=1.0) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(MINUTE)
        await browser.do(dict)
        await shop.db.revoke_all("bob")
        shop.faults.next(method, Hang())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await shop.flush()
        assert [event.user_id for event in await shop.events("user_revoked")] == ["bob"]
        if method == "append":
            assert shop.record(browser.sid).last_seen_at == shop.clock.now


async def test_queues_are_bounded_while_the_database_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.background.MOST_EVENTS", 5)
    monkeypatch.setattr("sessiondb.background.MOST_ENDS", 5)
    monkeypatch.setattr("sessiondb.touches.MOST_TOUCHES", 5)
    async with open_shop() as shop:
        browsers = [await shop.logged_in(f"user{number}") for number in range(8)]
        stolen = [await shop.logged_in(f"user{number}") for number in range(8)]
        shop.clock.advance(MINUTE)
        shop.faults.always.update(apply=Fail(), append=Fail())
        for browser in browsers:
            await browser.do(dict)
        for browser in stolen:
            stranger = msgspec.structs.replace(browser.parsed, secret=b"x" * 32)
            await shop.browser(stranger.encode()).do(dict)
        await shop.flush()
        background = shop.db.runtime.background
        # An end has its event with it.
        assert background.waiting == (5, 5, 10)
        assert shop.db.counters["dropped_touches"] >= 3
        assert shop.db.counters["dropped_events"] == 16 - 10
        shop.faults.always.clear()
        await shop.flush()
        assert background.waiting == (0, 0, 0)


async def test_closing_while_the_database_is_away_takes_no_longer_than_allowed() -> None:
    async with open_shop(timeout=0.05) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(MINUTE)
        await browser.do(dict)
        shop.faults.always.update(apply=Hang(), append=Hang())
        async with asyncio.timeout(30):
            await shop.db.close()


def _asgi(endpoint: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)

    return app
