"""How the app is used: what is counted where, when it is published, and what that costs a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from harness import DAY, HOUR, MINUTE, Shop, open_shop, put
from sessiondb import ConfigurationError, LoginRefused, Policy, SessionDB
from sessiondb.core.change import Create
from sessiondb.core.policy import SECOND
from sessiondb.core.token import Sid
from sessiondb.core.usage_series import UsagePoint
from sessiondb.testing import Delay, Fail, Hang

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.4 Mobile/15E148 Safari/604.1"
)


async def now(db: SessionDB) -> UsagePoint:
    """The numbers of this hour."""
    return (await db.usage(by="hour")).points[-1]


# -- what is counted ------------------------------------------------------------------------------------------


async def test_logins_are_counted_by_where_they_come_from() -> None:
    async with open_shop() as shop:
        for user, agent in (("ann", FIREFOX), ("bob", SAFARI), ("ann", FIREFOX), ("cy", "Googlebot/2.1"), ("dee", "")):
            browser = shop.browser()
            await browser.do(lambda session, user=user: session.login(user), **{"user-agent": agent})
        await shop.db.create("eve")
        found = await now(shop.db)
        assert (found.logins, found.active_users, found.active_sessions, found.new_sessions) == (6, 5, 6, 6)
        assert found.logins_by_device == {"desktop": 2, "unknown": 2, "bot": 1, "mobile": 1}
        assert found.logins_by_agent == {
            "Firefox on Linux": 2,
            "unknown": 2,
            "Bot": 1,
            "Safari on iPhone": 1,
        }
        assert sum(found.logins_by_country.values()) == 6
        assert (found.sessions_per_user.count, found.sessions_per_user.mean) == (5, 1.2)
        assert found.sessions_per_user.most == 2.0


async def test_a_login_that_is_refused_is_counted_as_refused_too() -> None:
    async with open_shop(policy=Policy(per_user=1, on_limit="refuse")) as shop:
        await shop.db.create("ann")
        with pytest.raises(LoginRefused):
            await shop.db.create("ann")
        found = await now(shop.db)
        assert (found.logins, found.refused_logins, found.ended_by_reason) == (2, 1, {"refused": 1})
        assert found.session_length.count == 0
        assert found.logins == len(await shop.events("authn_login_success"))
        assert found.refused_logins == len(await shop.events("login_refused"))


async def test_signing_in_again_is_a_login_of_the_same_session() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        await browser.do(lambda session: session.login("ann"))
        found = await now(shop.db)
        assert (found.logins, found.new_sessions, found.active_users, found.active_sessions) == (2, 1, 1, 1)
        assert found.logins == len(await shop.events("authn_login_success"))
        assert sum(found.logins_by_agent.values()) == 2


async def test_who_is_impersonated_is_not_active() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("admin")
        await browser.do(lambda session: session.impersonate("bob"))
        shop.clock.advance(2 * MINUTE)
        await browser.read()
        found = await now(shop.db)
        assert (found.logins, found.active_users, found.active_sessions, found.new_sessions) == (1, 1, 1, 2)


async def test_anonymous_sessions_are_made_and_are_nobody_active() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        shop.clock.advance(2 * MINUTE)
        await browser.read()
        found = await now(shop.db)
        assert (found.new_sessions, found.active_users, found.active_sessions, found.logins) == (1, 0, 0, 0)
        assert found.idle_gap.count == 1


async def test_use_is_noted_where_a_touch_is_due() -> None:
    async with open_shop() as shop:
        ann, bob = await shop.logged_in("ann"), await shop.logged_in("bob")
        shop.clock.advance(3 * HOUR)
        await ann.read()
        await bob.do(put(cart=1))
        for _ in range(5):
            await ann.read()
            await bob.do(put(cart=2))
        shop.clock.advance(30)
        await ann.read()
        found = await now(shop.db)
        assert (found.active_users, found.active_sessions) == (2, 2)
        assert (found.idle_gap.count, found.idle_gap.mean) == (2, 3 * HOUR)
        # A touch is not due yet, so nobody knows of this use.
        shop.clock.advance(HOUR - 31)
        await shop.flush()
        assert (await now(shop.db)).active_users == 2


async def test_a_page_with_many_requests_is_one_use() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.clock.advance(10 * MINUTE)
        shop.faults.always["load"] = shop.faults.always["apply"] = Delay()
        await asyncio.gather(*(browser.twin().do(put(**{f"key{number}": 1})) for number in range(6)))
        await asyncio.gather(*(browser.twin().read() for _ in range(6)))
        assert (await now(shop.db)).idle_gap.count == 1


async def test_ends_are_counted_by_reason_whoever_writes_them() -> None:
    async with open_shop(policy=Policy(idle=HOUR, absolute=DAY, remember=None, per_user=2)) as shop:
        ann = await shop.with_cart()
        shop.clock.advance(10)
        await ann.do(lambda session: session.login("ann"))  # ends the anonymous one
        shop.clock.advance(50)
        await ann.do(lambda session: session.logout())
        bob = []
        for _ in range(3):  # the third ends the first
            bob.append(await shop.db.create("bob"))
            shop.clock.advance(1)
        await shop.db.revoke(bob[1].session.sid)
        await shop.db.lock_user("bob")
        cy, dee = await shop.logged_in("cy"), await shop.logged_in("dee")
        found = await now(shop.db)
        assert found.ended_by_reason == {"limit": 1, "locked": 1, "login": 1, "logout": 1, "revoked": 1}
        assert (found.session_length.count, found.session_length.most) == (4, 50.0)
        shop.clock.advance(HOUR + 5 * MINUTE)
        await cy.read()  # finds that it is over, twice
        await cy.twin().read()
        await shop.flush()
        await shop.db.sweep()
        hours = (await shop.db.usage(by="hour")).points[-2:]
        assert sum(point.ended_by_reason.get("expired_idle", 0) for point in hours) == 2, dee
        assert sum(point.expired_length.count for point in hours) == 2
        # When they were over, not when that was found.
        assert [point.expired_length.mean for point in hours if point.expired_length.count] == [HOUR]
        total = (await shop.db.usage(by="day")).total
        assert total.ended == 7
        assert len(await shop.events("session_ended")) == 6, "a login that ends the session before it is one event"


async def test_what_ended_long_ago_counts_when_it_is_found() -> None:
    async with open_shop(policy=Policy(idle=HOUR, absolute=DAY, remember=None)) as shop:
        await shop.logged_in()
        shop.clock.advance(5 * HOUR)
        await shop.db.sweep()
        points = (await shop.db.usage(by="hour")).points
        assert [point.ended for point in points[-6:]] == [0, 0, 0, 0, 0, 1]
        assert points[-1].expired_length.mean == HOUR


async def test_an_end_is_counted_once_though_two_workers_find_it() -> None:
    async with open_shop(policy=Policy(idle=HOUR, absolute=DAY, remember=None)) as shop:
        browser = await shop.logged_in()
        other = shop.another_db(policy=Policy(idle=HOUR, absolute=DAY, remember=None))
        async with other:
            shop.clock.advance(2 * HOUR)
            await browser.read()
            async with other.session(browser.token):
                pass
            await shop.flush()
            await other.runtime.background.flush()
            await other.usage()
            found = (await shop.db.usage(by="day")).total
            assert found.ended_by_reason == {"expired_idle": 1}


async def test_a_session_that_somebody_has_made_by_hand_ends_like_any_other() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        for sid in ("no sid", "", "550e8400-e29b-41d4-a716-446655440000"):
            shop.put_record(replace(shop.record(browser.sid), sid=Sid(sid), last_seen_at=0, check_at=0))
        await shop.db.sweep()
        total = (await shop.db.usage()).total
        assert (total.ended, total.expired_length.count, total.expired_length.most) == (3, 3, 0.0)


async def test_an_open_socket_that_is_used_keeps_its_user_active() -> None:
    from sessiondb.watching import Watch

    async with open_shop() as shop:
        browser = await shop.logged_in()
        await now(shop.db)
        shop.clock.advance(2 * HOUR + 10 * MINUTE)
        watch = Watch(browser.sid, 60.0, lambda reason: None)
        watch.used_at = shop.clock.now - 5 * SECOND
        await shop.db.runtime.watching.check([watch])
        found = await now(shop.db)
        assert (found.active_users, found.idle_gap.mean) == (1, 2 * HOUR + 10 * MINUTE - 5)


async def test_what_lives_now_is_exact() -> None:
    async with open_shop() as shop:
        await shop.with_cart()
        for user in ("ann", "ann", "bob"):
            await shop.logged_in(user)
        usage = await shop.db.usage()
        stats = await shop.db.stats()
        assert (usage.live_sessions, usage.live_users) == (stats.live, stats.users) == (4, 2)


async def test_what_lives_is_looked_at_now_and_then() -> None:
    async with open_shop() as shop:
        for lives in (1, 2, 3):
            await shop.logged_in(f"user{lives}")
            await shop.db.sweep()
            await shop.db.sweep()
            shop.clock.advance(11 * MINUTE)
        level = (await now(shop.db)).live_sessions
        assert level is not None
        assert (level.mean, level.least, level.most, level.last) == (2.0, 1, 3, 3)


async def test_nothing_is_counted_where_nobody_wants_it() -> None:
    async with open_shop(keep_usage=None) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(HOUR)
        await browser.do(lambda session: session.logout())
        await shop.db.sweep()
        usage = await shop.db.usage(by="hour")
        assert (usage.total.logins, usage.total.ended, usage.total.active_users) == (0, 0, 0)
        assert "publish" not in shop.store.calls
        assert await shop.memory.recall("usage_merging") is None


@pytest.mark.parametrize("keep", [0, 3600, 4000 * DAY, "400 days", True, float("nan")])
def test_a_time_that_cannot_be_meant_is_refused(keep: Any) -> None:
    with pytest.raises(ConfigurationError, match="use a timedelta or seconds"):
        SessionDB("memory://", keep_usage=keep)


# -- time series ----------------------------------------------------------------------------------------------


async def test_users_of_many_days_are_counted_once_a_period() -> None:
    async with open_shop() as shop:
        shop.clock.now = 1_000_000 * round(datetime(2027, 1, 25, 12, tzinfo=UTC).timestamp())
        browsers = {user: await shop.logged_in(user) for user in ("ann", "bob")}
        await shop.db.usage()
        for day in range(14):
            shop.clock.advance(DAY)
            await browsers["ann"].read()
            if day % 2:
                await browsers["bob"].read()
            await shop.db.usage()
        since = datetime(2027, 1, 25, tzinfo=UTC)
        days = await shop.db.usage(since, by="day")
        assert [point.active_users for point in days.points] == [2, *([1, 2] * 7)]
        weeks = await shop.db.usage(since, by="week")
        assert [point.active_users for point in weeks.points] == [2, 2, 2]
        months = await shop.db.usage(since, by="month")
        assert [(point.start, point.active_users) for point in months.points] == [
            (datetime(2027, month, 1, tzinfo=UTC).timestamp() * 1_000_000, 2) for month in (1, 2)
        ]
        assert days.total.active_users == 2
        assert days.total.logins == sum(point.logins for point in days.points) == 2
        assert (days.points[0].start, days.points[-1].end) == (days.since, days.until)


async def test_it_may_be_asked_of_a_part() -> None:
    async with open_shop() as shop:
        for _ in range(4):
            await shop.logged_in()
            shop.clock.advance(HOUR)
            await shop.db.usage()
        end = shop.clock.now - 3600 * SECOND
        found = await shop.db.usage(end - 7200 * SECOND, end, by="hour")
        assert [point.logins for point in found.points] == [1, 1]


@pytest.mark.parametrize(
    "wrong", [{"by": "year"}, {"since": datetime(2027, 1, 1)}, {"since": 2**62}, {"since": -5}, {"until": 0}], ids=str
)
async def test_what_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    async with open_shop() as shop:
        with pytest.raises(ValueError):
            await shop.db.usage(**wrong)


async def test_workers_add_up_and_users_are_the_same_everywhere() -> None:
    async with open_shop() as shop, shop.another_db() as other:
        await shop.db.create("ann")
        await shop.db.create("bob")
        await other.create("ann")
        await other.usage()
        found = await now(shop.db)
        assert (found.logins, found.active_users, found.active_sessions) == (3, 2, 3)


# -- publishing -----------------------------------------------------------------------------------------------


async def test_no_request_waits_for_it() -> None:
    async with open_shop(keep_usage=DAY) as shop, shop_without() as plain:
        costs = []
        for one in (shop, plain):
            browser = one.browser()
            replies = [await browser.do(put(cart=1)), await browser.do(lambda session: session.login("ann"))]
            one.clock.advance(HOUR)
            replies += [await browser.do(dict), await browser.do(put(cart=2))]
            one.clock.advance(10 * HOUR)
            replies += [await browser.do(lambda session: session.logout())]
            costs.append([reply.calls for reply in replies])
        assert costs[0] == costs[1]


@asynccontextmanager
async def shop_without() -> AsyncIterator[Shop]:
    async with open_shop(keep_usage=None) as shop:
        yield shop


async def test_it_is_published_about_once_a_minute_and_only_if_it_has_changed() -> None:
    with mock.patch("sessiondb.usage.EVERY", 0.02):
        async with open_shop() as shop:
            await shop.logged_in()
            while shop.store.calls["publish"] < 1:
                await asyncio.sleep(0.01)
            assert len(await shop.memory.sheets("usage", 0, 2**40)) == 1
            await asyncio.sleep(0.2)
            assert shop.store.calls["publish"] == 1
            await shop.logged_in("bob")
            while shop.store.calls["publish"] < 2:
                await asyncio.sleep(0.01)
            [sheet] = await shop.memory.sheets("usage", 0, 2**40)
            assert sheet.bucket == shop.clock.now // (3600 * SECOND)
            assert sheet.expires_at == (sheet.bucket + 1) * 3600 * SECOND + 400 * 86_400 * SECOND


async def test_what_was_counted_is_published_when_it_closes() -> None:
    async with open_shop() as shop:
        async with shop.another_db() as other:
            await other.create("ann")
        assert (await now(shop.db)).logins == 1


async def test_what_cannot_be_published_is_kept_and_tried_again() -> None:
    async with open_shop() as shop:
        await shop.logged_in("ann")
        shop.faults.next("publish", Fail(), Fail(), None)
        await now(shop.db)
        await shop.logged_in("bob")
        assert (await now(shop.db)).logins == 0
        assert shop.db.counters["usage_not_published"] == 2
        assert (await now(shop.db)).logins == 2


async def test_what_cannot_be_published_for_hours_is_lost_and_counted() -> None:
    async with open_shop() as shop:
        await shop.logged_in("ann")
        shop.faults.always["publish"] = Fail()
        for hours in range(1, 10):
            shop.clock.advance(HOUR)
            await shop.logged_in("bob")
            await now(shop.db)
            assert len(shop.db.runtime.usage._tallies) <= 5
            assert shop.db.counters["lost_usage_hours"] == max(0, hours - 3)
        del shop.faults.always["publish"]
        assert (await shop.db.usage(by="hour")).total.logins == 4


async def test_a_clock_that_goes_back_loses_nothing() -> None:
    async with open_shop() as shop:
        shop.clock.advance(30 * MINUTE)
        await shop.logged_in("ann")
        await now(shop.db)
        shop.clock.advance(3 * HOUR)
        await shop.logged_in("bob")
        await now(shop.db)
        shop.clock.advance(-3 * HOUR)
        await shop.logged_in("cy")
        await now(shop.db)
        shop.clock.advance(3 * HOUR)
        points = (await shop.db.usage(by="hour")).points
        assert [point.logins for point in points[-4:]] == [2, 0, 0, 1]


async def test_a_database_that_hangs_does_not_hold_up_the_end() -> None:
    async with open_shop() as shop:
        other = shop.another_db(timeout=0.05)
        await other.create("ann")
        shop.faults.always["publish"] = Hang()
        async with asyncio.timeout(5):
            await other.close()
        assert other.counters["lost_usage_hours"] == 1


async def test_publications_do_not_overtake_each_other() -> None:
    async with open_shop() as shop:
        await shop.logged_in("ann")
        shop.faults.next("publish", Delay(0.05))
        first = asyncio.create_task(shop.db.usage(by="hour"))
        while not shop.faults.injected:
            await asyncio.sleep(0)
        await shop.logged_in("bob")
        assert (await now(shop.db)).logins == 2
        await first
        assert (await now(shop.db)).logins == 2


async def test_a_sheet_that_nobody_can_read_is_left_out() -> None:
    async with open_shop() as shop:
        await shop.logged_in()
        await now(shop.db)
        [sheet] = await shop.memory.sheets("usage", 0, 2**40)
        await shop.memory.publish([replace(sheet, writer="x", data=b"\xff"), replace(sheet, writer="y", data=b"")])
        assert (await now(shop.db)).logins == 1
        assert shop.db.counters["unreadable_usage"] >= 2


async def test_the_user_is_not_in_what_is_published() -> None:
    async with open_shop() as shop:
        await shop.logged_in("a-name-to-look-for", methods=["pwd"])
        await now(shop.db)
        [sheet] = await shop.memory.sheets("usage", 0, 2**40)
        created = next(change for change in shop.store.changes if isinstance(change, Create))
        for text in ("a-name-to-look-for", created.sid, created.sid.replace("-", "")):
            assert text.encode() not in sheet.data
        assert bytes.fromhex(created.sid.replace("-", "")) not in sheet.data
