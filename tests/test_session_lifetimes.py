"""How long sessions live, who moves their end, and what is told about those that are over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness import DAY, HOUR, MINUTE, Browser, Shop, open_shop, put
from sessiondb import Policy, Session
from sessiondb.core.record import EndReason

TICK = 0.000001
SHORT = Policy(idle=HOUR, absolute=DAY, remember=30 * DAY)


async def alive(shop: Shop, browser: Browser) -> bool:
    """Whether the session is living, asked without using it."""
    info = await shop.db.get(browser.sid)
    assert info is not None
    return info.ended_at is None


async def ended_reason(browser: Browser) -> str | None:
    reason: str | None = (await browser.do(lambda session: session.ended_reason)).result
    return reason


# -- deadlines ------------------------------------------------------------------------------------------------


@pytest.mark.security("L3")
async def test_a_session_that_is_not_used_ends_at_its_idle_lifetime_to_the_microsecond() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(HOUR - TICK)
        assert await alive(shop, browser)
        shop.clock.advance(TICK)
        assert not await alive(shop, browser)
        assert await browser.user() is None
        assert await ended_reason(browser) == EndReason.EXPIRED_IDLE


@pytest.mark.security("L3")
async def test_a_session_that_is_used_lives_on_until_its_absolute_lifetime() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = await shop.logged_in()
        for _ in range(47):
            shop.clock.advance(DAY / 48)
            assert await browser.user() == "ann"
            await shop.flush()
        shop.clock.advance(DAY / 48 - TICK)
        assert await browser.user() == "ann"
        await shop.flush()
        shop.clock.advance(TICK)
        assert await browser.user() is None
        assert await ended_reason(browser) == EndReason.EXPIRED_ABSOLUTE


async def test_expires_at_is_the_nearer_of_the_two_ends() -> None:
    async with open_shop(policy=Policy(idle=HOUR, absolute=2 * HOUR)) as shop:
        browser = await shop.logged_in()
        start = shop.clock.now

        def tell(session: Session) -> list[Any]:
            return [session.expires_at, session.last_seen_at]

        assert (await browser.do(tell)).result == [start + int(HOUR * 1e6), start]
        shop.clock.advance(0.99 * HOUR)
        await browser.ignore()
        await browser.do(dict)
        await shop.flush()
        shop.clock.advance(0.5 * HOUR)
        assert (await browser.do(tell)).result == [start + int(1.99 * HOUR * 1e6), start + int(0.99 * HOUR * 1e6)]
        await shop.flush()
        assert (await browser.do(tell)).result[0] == start + int(2 * HOUR * 1e6)


@pytest.mark.security("L3")
async def test_a_page_that_does_not_use_the_session_does_not_keep_it_alive() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = await shop.logged_in()
        for _ in range(4):
            shop.clock.advance(HOUR / 4)
            await browser.ignore()
            await shop.flush()
        assert await browser.user() is None


async def test_a_write_to_an_expired_session_starts_a_new_one() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = await shop.with_cart(cart=["tea"])
        old = browser.sid
        shop.clock.advance(2 * HOUR)
        reply = await browser.do(put(a=1))
        assert (reply.cookie, reply.calls) == ("set", {"load": 1, "apply": 1})
        assert browser.sid != old
        assert await browser.read() == {"a": 1}


async def test_an_expiry_that_was_seen_is_written_with_the_time_of_the_deadline() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = await shop.with_cart()
        shop.clock.advance(DAY)
        await browser.ignore()
        await shop.flush()
        record = shop.record(browser.sid)
        assert (record.end_reason, record.data) == (EndReason.EXPIRED_IDLE, b"{}")
        assert record.ended_at == record.created_at + int(HOUR * 1e6)
        [event] = await shop.events("session_ended")
        assert (event.sid, event.reason) == (browser.sid, EndReason.EXPIRED_IDLE)


# -- remembered -----------------------------------------------------------------------------------------------


async def test_a_remembered_login_outlives_the_browser_and_both_lifetimes() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = shop.browser()
        reply = await browser.do(lambda session: session.login("ann", remember=True))
        assert reply.max_age == 30 * DAY
        [info] = await shop.db.sessions_of("ann")
        assert info.remembered
        shop.clock.advance(30 * DAY - 1)
        assert await browser.user() == "ann"
        await shop.flush()
        shop.clock.advance(1)
        assert await browser.user() is None


async def test_a_login_that_is_not_remembered_gets_a_cookie_for_the_browser_session_only() -> None:
    async with open_shop(policy=SHORT) as shop:
        reply = await shop.browser().do(lambda session: session.login("ann"))
        assert reply.cookie == "set"
        assert reply.max_age is None


async def test_the_cookie_of_a_remembered_login_is_renewed_with_what_is_left() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = shop.browser()
        await browser.do(lambda session: session.login("ann", remember=True))
        shop.clock.advance(10 * DAY)
        assert (await browser.do(lambda session: session.rotate())).max_age == 20 * DAY


async def test_a_cookie_never_lasts_over_400_days() -> None:
    async with open_shop(policy=Policy(remember=1000 * DAY)) as shop:
        reply = await shop.browser().do(lambda session: session.login("ann", remember=True))
        assert reply.max_age == 400 * DAY


async def test_remember_none_gives_a_lasting_cookie_and_no_longer_life() -> None:
    async with open_shop(policy=SHORT.with_(remember=None)) as shop:
        browser = shop.browser()
        reply = await browser.do(lambda session: session.login("ann", remember=True))
        assert reply.max_age == DAY
        shop.clock.advance(HOUR)
        assert await browser.user() is None


@pytest.mark.parametrize("remember", [False, True])
async def test_signing_in_again_decides_anew_whether_to_be_remembered(remember: bool) -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = shop.browser()
        await browser.do(lambda session: session.login("ann", remember=not remember))
        reply = await browser.do(lambda session: session.login("ann", remember=remember))
        assert reply.max_age == (30 * DAY if remember else None)
        shop.clock.advance(2 * HOUR)
        assert await alive(shop, browser) is remember


# -- presets --------------------------------------------------------------------------------------------------


@pytest.mark.security("L4")
@pytest.mark.parametrize(
    ("preset", "idle", "absolute"),
    [
        (Policy.nist_aal1(), 30 * DAY, 30 * DAY),
        (Policy.nist_aal2(), HOUR, DAY),
        (Policy.nist_aal3(), HOUR / 4, DAY / 2),
    ],
    ids=["AAL1", "AAL2", "AAL3"],
)
async def test_a_preset_keeps_the_limits_of_its_level_and_activity_moves_the_idle_one_alone(
    preset: Policy, idle: float, absolute: float
) -> None:
    async with open_shop(policy=preset) as shop:
        idling = shop.browser()
        await idling.do(lambda session: session.login("ann", remember=True))
        shop.clock.advance(idle - TICK)
        assert await alive(shop, idling)
        shop.clock.advance(TICK)
        assert await idling.user() is None
        busy = await shop.logged_in("ann")
        steps = int(absolute / idle * 2)
        for step in range(steps):
            shop.clock.advance(absolute / steps - (TICK if step == steps - 1 else 0))
            if step % 5 == 4:
                await busy.do(lambda session: session.rotate())
            assert await busy.user() == "ann"
            await shop.flush()
        shop.clock.advance(TICK)
        assert await busy.user() is None
        assert await ended_reason(busy) == EndReason.EXPIRED_ABSOLUTE


# -- another policy -------------------------------------------------------------------------------------------


@pytest.mark.security("L3")
async def test_lowering_the_policy_ends_old_sessions() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(0.5 * HOUR)
        lower = shop.another_db(policy=Policy(idle=0.25 * HOUR, absolute=DAY))
        async with lower.session(browser.token) as session:
            assert session.user_id is None
            assert session.ended_reason == EndReason.EXPIRED_IDLE
        assert await lower.sessions_of("ann") == []
        await lower.close()
        assert await browser.user() is None


@pytest.mark.security("L3")
async def test_raising_the_policy_neither_revives_nor_extends() -> None:
    async with open_shop(policy=SHORT) as shop:
        seen, unseen, living = [await shop.logged_in(user) for user in ("seen", "unseen", "living")]
        shop.clock.advance(0.5 * HOUR)
        await living.do(dict)
        await shop.flush()
        shop.clock.advance(0.5 * HOUR)
        assert await seen.user() is None
        await shop.flush()
        higher = shop.another_db(policy=Policy(idle=DAY, absolute=30 * DAY))
        for browser, user in ((seen, None), (unseen, None), (living, "living")):
            async with higher.session(browser.token) as session:
                assert session.user_id == user
        await higher.runtime.background.flush()
        shop.clock.advance(0.5 * HOUR)
        async with higher.session(living.token) as session:
            assert session.user_id == "living"
        await higher.runtime.background.flush()
        shop.clock.advance(HOUR)
        async with higher.session(living.token) as session:
            assert session.user_id is None
        await higher.close()


async def test_an_expiry_under_a_lowered_policy_stays_when_the_policy_is_raised_again() -> None:
    async with open_shop(policy=SHORT) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(0.5 * HOUR)
        async with shop.another_db(policy=Policy(idle=0.25 * HOUR, absolute=DAY)) as lower:
            async with lower.session(browser.token):
                pass
        assert await browser.user() is None
        assert await ended_reason(browser) == EndReason.EXPIRED_IDLE


# -- touches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("idle", "interval"), [(14 * DAY, MINUTE), (HOUR, MINUTE), (5 * MINUTE, MINUTE / 2)])
async def test_a_touch_is_due_after_a_minute_or_a_tenth_of_the_idle_lifetime(idle: float, interval: float) -> None:
    async with open_shop(policy=Policy(idle=idle)) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(interval - TICK)
        await browser.do(dict)
        await shop.flush()
        assert shop.store.updates == []
        shop.clock.advance(TICK)
        await browser.do(dict)
        await shop.flush()
        [update] = shop.store.updates
        assert update.only_touches
        assert shop.record(browser.sid).last_seen_at == shop.clock.now


@pytest.mark.security("D4")
async def test_many_reads_in_one_interval_make_one_touch_even_before_it_is_written() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.clock.advance(MINUTE)
        for _ in range(5):
            await browser.do(dict)
            shop.clock.advance(1)
        await asyncio.gather(*(browser.twin().do(dict) for _ in range(20)))
        await shop.flush()
        assert len(shop.store.updates) == 1


@pytest.mark.security("D4")
async def test_touches_of_many_sessions_are_written_in_batches() -> None:
    async with open_shop() as shop:
        browsers = [await shop.logged_in(f"user{number}") for number in range(40)]
        shop.clock.advance(MINUTE)
        for browser in browsers:
            await browser.do(dict)
        shop.store.reset()
        await shop.flush()
        assert shop.store.traffic() == {"apply": 1}
        assert len(shop.store.updates) == 40


async def test_last_seen_is_shown_before_it_is_written() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.clock.advance(5 * MINUTE)
        await browser.do(dict)
        [info] = await shop.db.sessions_of("ann")
        assert info.last_seen_at == shop.clock.now
        assert shop.record(browser.sid).last_seen_at < shop.clock.now


async def test_a_touch_carries_where_the_session_is_now_used_from() -> None:
    async with open_shop() as shop:
        browser = shop.browser()
        await browser.do(lambda session: session.login("ann"), **{"user-agent": "Phone"})
        shop.clock.advance(MINUTE)
        await browser.do(dict, **{"user-agent": "Laptop"})
        await shop.flush()
        [info] = await shop.db.sessions_of("ann")
        assert (info.first_client.user_agent, info.client.user_agent) == ("Phone", "Laptop")
        assert info.client.ip == "127.0.0.1"


async def test_what_waits_is_written_when_the_database_is_closed() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.clock.advance(MINUTE)
        await browser.do(dict)
        await shop.db.close()
        assert shop.record(browser.sid).last_seen_at == shop.clock.now


# -- why it ended ---------------------------------------------------------------------------------------------


async def _logout(shop: Shop, browser: Browser) -> None:
    await browser.twin().do(lambda session: session.logout())


async def _revoke(shop: Shop, browser: Browser) -> None:
    assert await shop.db.revoke(browser.sid)


async def _revoke_all(shop: Shop, browser: Browser) -> None:
    assert await shop.db.revoke_all("ann") == 1


async def _log_in_over(shop: Shop, browser: Browser) -> None:
    await browser.twin().do(lambda session: session.login("bob"))


async def _limit(shop: Shop, browser: Browser) -> None:
    shop.clock.advance(1)
    await shop.logged_in("ann")


async def _idle(shop: Shop, browser: Browser) -> None:
    shop.clock.advance(HOUR)


async def _steal(shop: Shop, browser: Browser) -> None:
    thief = browser.twin()
    await thief.do(lambda session: session.rotate())
    await thief.user()
    shop.clock.advance(31)
    await browser.user()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (_logout, EndReason.LOGOUT),
        (_revoke, EndReason.REVOKED),
        (_revoke_all, EndReason.REVOKED),
        (_log_in_over, EndReason.LOGIN),
        (_limit, EndReason.LIMIT),
        (_idle, EndReason.EXPIRED_IDLE),
        (_steal, EndReason.REUSE),
    ],
)
async def test_whoever_held_the_session_is_told_why_it_ended(end: Any, reason: EndReason) -> None:
    async with open_shop(policy=SHORT.with_(per_user=1)) as shop:
        browser = await shop.logged_in()
        assert await ended_reason(browser) is None
        await end(shop, browser)
        reply = await browser.do(lambda session: [session.ended_reason, session.user_id, session.sid])
        assert (reply.result, reply.cookie) == ([reason, None, None], None)
        await shop.flush()
        assert shop.record(browser.sid).end_reason == reason
        assert await ended_reason(browser) == reason


async def test_a_tombstone_tells_the_reason_until_it_is_purged() -> None:
    async with open_shop(policy=SHORT.with_(keep_ended=DAY)) as shop:
        browser = await shop.logged_in()
        await shop.db.revoke(browser.sid)
        shop.clock.advance(DAY - 1)
        await shop.db.sweep()
        assert await ended_reason(browser) == EndReason.REVOKED
        shop.clock.advance(32)
        await shop.db.sweep()
        assert await ended_reason(browser) is None
        assert await shop.db.get(browser.sid) is None
