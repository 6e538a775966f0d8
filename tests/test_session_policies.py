"""Policies over HTTP: which one a login gets, what comes from it, and what changing them does to living sessions."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from databases import KINDS, new_url
from harness import DAY, HOUR, MINUTE, Browser, Shop, open_shop, unawaited
from sessiondb import ConfigurationError, Policy, Session, SessionDB
from sessiondb.core.record import EndReason
from sessiondb.testing import ManualClock

STAFF = Policy(idle=HOUR, absolute=8 * HOUR, remember=2 * DAY, per_user=1, keep_ended=DAY)
API = Policy(idle=10 * DAY, absolute=100 * DAY, remember=None, per_user=2, on_limit="refuse", rotate_every=HOUR)
NAMED = {"staff": STAFF, "api": API}


def role(user_id: str) -> str | None:
    """Who works here has a name that says so."""
    return "staff" if user_id.startswith("staff-") else None


def policy_of(info: Any) -> tuple[str, bool]:
    return info.policy, info.remembered


async def alive(shop: Shop, browser: Browser) -> bool:
    info = await shop.db.get(browser.sid)
    assert info is not None
    return info.ended_at is None


# -- which policy ---------------------------------------------------------------------------------------------


async def test_a_user_gets_the_policy_that_the_function_names() -> None:
    async with open_shop(policies=NAMED, policy_for=role) as shop:
        boss, guest = await shop.logged_in("staff-1"), await shop.logged_in("ann")
        assert [shop.record(one.sid).lifetime for one in (boss, guest)] == ["staff", "normal"]
        shop.clock.advance(HOUR)
        assert [await boss.user(), await guest.user()] == [None, "ann"]


async def test_the_function_may_be_async_and_is_given_the_id_as_text() -> None:
    asked: list[str] = []

    async def look_up(user_id: str) -> str:
        await asyncio.sleep(0)
        asked.append(user_id)
        return "api"

    async with open_shop(policies=NAMED, policy_for=look_up) as shop:
        browser = shop.browser()
        await browser.do(lambda session: session.login(7, remember=True))
        assert shop.record(browser.sid).lifetime == "api+remembered"
        issued = await shop.db.create(8)
        assert policy_of(issued.session) == ("api", False)
        assert asked == ["7", "8"]


@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
async def test_a_login_may_choose_and_comes_before_the_function(wait: bool) -> None:
    async with open_shop(policies=NAMED, policy_for=role) as shop:
        for chosen, lifetime in (("api", "api"), ("normal", "normal"), (None, "staff")):
            browser = shop.browser()

            def login(session: Session, chosen: str | None = chosen) -> Any:
                return session.login("staff-1", policy=chosen)

            await browser.do(login if wait else unawaited(login))
            assert shop.record(browser.sid).lifetime == lifetime
        issued = await shop.db.create("staff-2", policy="api", remember=True)
        assert policy_of(issued.session) == ("api", True)


async def test_anonymous_sessions_have_the_default_policy_unless_they_are_made_with_another() -> None:
    async with open_shop(policies=NAMED, policy_for=lambda user_id: "staff") as shop:
        browser = await shop.with_cart()
        assert shop.record(browser.sid).lifetime == "normal"
        assert policy_of((await shop.db.create(policy="api")).session) == ("api", False)


async def test_signing_in_again_and_another_user_choose_anew() -> None:
    async with open_shop(policies=NAMED, policy_for=role) as shop:
        browser = await shop.logged_in("ann")
        for user, chosen, lifetime in (("ann", "staff", "staff"), ("ann", None, "normal"), ("staff-1", None, "staff")):
            await browser.do(lambda session, user=user, chosen=chosen: session.login(user, policy=chosen))
            record = shop.record(browser.sid)
            caps = shop.db.runtime.caps.of(lifetime)
            assert (record.lifetime, record.idle, record.absolute) == (lifetime, caps.idle, caps.absolute)


@pytest.mark.parametrize("name", ["boss", "Staff", "staff+remembered", "remembered", ""])
async def test_a_login_with_a_name_that_nobody_knows_is_refused_at_once(name: str) -> None:
    async with open_shop(policies=NAMED) as shop, shop.db.session() as session:
        with pytest.raises(ConfigurationError, match="knows 'normal', 'staff', 'api'"):
            session.login("ann", policy=name)
        assert session.user_id is None
        with pytest.raises(ConfigurationError, match="knows 'normal', 'staff', 'api'"):
            await shop.db.create("ann", policy=name)
        assert shop.stored == 0


@pytest.mark.parametrize("wait", [False, True], ids=["unawaited", "awaited"])
@pytest.mark.parametrize(
    "result", ["boss", 7, RuntimeError("the directory is away")], ids=["unknown", "no name", "raises"]
)
async def test_a_function_that_names_no_policy_lets_nobody_in(result: Any, wait: bool) -> None:
    def broken(user_id: str) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    async with open_shop(policies=NAMED, policy_for=broken) as shop:
        browser = await shop.with_cart(cart=["tea"])

        def login(session: Session) -> Any:
            return session.login("ann")

        reply = await browser.do(login if wait else unawaited(login))
        assert (reply.status, reply.cookie) == (500, None)
        assert await browser.read() == {"cart": ["tea"]}
        assert await shop.db.sessions_of("ann", include_ended=True) == []
        with pytest.raises((ConfigurationError, RuntimeError)):
            await shop.db.create("ann")


def test_settings_that_cannot_work_stop_the_start() -> None:
    for settings, message in (
        ({"policies": {"normal": STAFF}}, "give that as policy="),
        ({"policies": {"staff": "strict"}}, r"policies\['staff'\]"),
        ({"policy_for": "staff"}, "policy_for"),
        ({"policy_for": lambda: "staff"}, "policy_for"),
        ({"policy": {"idle": 60}}, r"policy=Policy\(...\)"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            SessionDB("memory://", **settings)  # type: ignore[arg-type]


# -- what comes from it ---------------------------------------------------------------------------------------


async def test_remembered_logins_of_a_named_policy_have_its_lifetime_and_a_lasting_cookie() -> None:
    async with open_shop(policies=NAMED) as shop:
        browser = shop.browser()
        reply = await browser.do(lambda session: session.login("ann", remember=True, policy="staff"))
        assert reply.max_age == 2 * DAY
        [info] = await shop.db.sessions_of("ann")
        assert policy_of(info) == ("staff", True)
        shop.clock.advance(2 * DAY - 1)
        assert await browser.user() == "ann"
        shop.clock.advance(1)
        assert await browser.user() is None


@pytest.mark.security("L9")
async def test_the_limit_is_that_of_the_policy_of_the_new_login() -> None:
    async with open_shop(policies=NAMED) as shop:
        first, second = await shop.logged_in("ann"), await shop.logged_in("ann", policy="api")
        shop.clock.advance(1)
        # Two are as many as "api" allows, and it refuses.
        reply = await shop.browser().do(unawaited(lambda session: session.login("ann", policy="api")))
        assert (reply.status, reply.cookie) == (409, None)
        third = await shop.logged_in("ann")
        shop.clock.advance(1)
        assert [await one.user() for one in (first, second, third)] == ["ann"] * 3
        # "staff" allows one, and ends the others.
        fourth = await shop.logged_in("ann", policy="staff")
        assert [await one.user() for one in (first, second, third, fourth)] == [None, None, None, "ann"]
        assert shop.record(first.sid).end_reason == EndReason.LIMIT


@pytest.mark.security("L3")
async def test_only_sessions_of_a_policy_that_rotates_rotate() -> None:
    async with open_shop(policies=NAMED) as shop:
        normal, api = await shop.logged_in("ann"), await shop.logged_in("bob", policy="api")
        shop.clock.advance(HOUR)
        assert [(await one.do(dict)).cookie for one in (normal, api)] == [None, "set"]


async def test_a_tombstone_stays_as_long_as_the_sessions_own_policy_says() -> None:
    async with open_shop(policies=NAMED) as shop:
        for policy, days in (("normal", 7), ("staff", 1)):
            browser = await shop.logged_in("ann", policy=policy)
            sid = browser.sid
            await browser.do(lambda session: session.logout())
            assert shop.record(sid).purge_at == shop.clock.now + int(days * DAY * 1e6)


async def test_a_touch_is_due_by_what_the_policy_now_allows() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        # Touched once a minute, a session of one idle minute would end under the hands of its user.
        shop.db.set_policy(Policy(idle=MINUTE, absolute=DAY))
        for _ in range(20):
            shop.clock.advance(10)
            assert await browser.user() == "ann"
            await shop.flush()


# -- changing -------------------------------------------------------------------------------------------------

LOWER = Policy(idle=0.25 * HOUR, absolute=DAY, remember=None)


@pytest.mark.security("L3")
@pytest.mark.parametrize("named", [False, True], ids=["default", "named"])
async def test_lowering_at_run_time_ends_and_raising_again_revives_nobody(named: bool) -> None:
    before: dict[str, Any] = {"policies": {"staff": STAFF}} if named else {"policy": STAFF}
    async with open_shop(**before) as shop:
        seen, unseen, used = [
            await shop.logged_in(user, policy="staff" if named else "normal") for user in ("seen", "unseen", "used")
        ]
        shop.clock.advance(0.5 * HOUR)
        await used.do(dict)
        await shop.flush()
        shop.db.set_policy(**({"policies": {"staff": LOWER}} if named else {"policy": LOWER}))
        assert [await seen.user(), await used.user()] == [None, "used"]
        assert (await seen.do(lambda session: session.ended_reason)).result == EndReason.EXPIRED_IDLE
        await shop.flush()
        higher = Policy(idle=5 * DAY, absolute=30 * DAY)
        shop.db.set_policy(**({"policies": {"staff": higher}} if named else {"policy": higher}))
        assert await seen.user() is None
        # What nobody saw while it was over has its own old lifetime, and not a moment more.
        assert await unseen.user() == "unseen"
        await shop.flush()
        shop.clock.advance(HOUR)
        assert [await unseen.user(), await used.user()] == [None, None]


async def test_after_lowering_the_sweeper_ends_what_nobody_uses() -> None:
    async with open_shop(policies={"staff": STAFF}) as shop:
        staff, normal = await shop.logged_in("ann", policy="staff"), await shop.logged_in("bob")
        shop.clock.advance(0.5 * HOUR)
        shop.db.set_policy(policies={"staff": LOWER})
        while (await shop.db.sweep()).more:
            pass
        await shop.db.sweep()
        assert shop.record(staff.sid).end_reason == EndReason.EXPIRED_IDLE
        assert shop.record(normal.sid).end_reason is None


async def test_a_policy_that_is_not_configured_any_more_counts_as_the_default_one() -> None:
    async with open_shop(policy=Policy(idle=0.5 * HOUR, absolute=DAY), policies={"api": API}) as shop:
        browser = await shop.logged_in(policy="api")
        shop.clock.advance(0.4 * HOUR)
        shop.db.set_policy(policies={})
        assert await browser.user() == "ann"
        await shop.flush()
        [info] = await shop.db.sessions_of("ann")
        assert (info.policy, info.expires_at) == ("api", shop.clock.now + int(0.5 * HOUR * 1e6))
        # It does not rotate any more, and is over when the default policy says so.
        shop.clock.advance(0.5 * HOUR)
        assert await browser.user() is None
        with pytest.raises(ConfigurationError):
            await shop.db.create("ann", policy="api")


async def test_a_change_that_cannot_work_changes_nothing() -> None:
    async with open_shop(policies=NAMED) as shop:
        before = shop.db.policy, dict(shop.db.policies)
        for settings in ({"policy": "strict"}, {"policies": {"x y": STAFF}}, {"policy": STAFF, "policies": {"a": 1}}):
            with pytest.raises(ConfigurationError):
                shop.db.set_policy(**settings)  # type: ignore[arg-type]
        assert (shop.db.policy, dict(shop.db.policies)) == before
        shop.db.set_policy()
        assert (shop.db.policy, dict(shop.db.policies)) == before
        shop.db.set_policy(policy=STAFF)
        assert (shop.db.policy, set(shop.db.policies)) == (STAFF, {"staff", "api"})


def test_a_change_holds_in_every_event_loop_of_the_process(tmp_path: Path) -> None:
    db = SessionDB(f"sqlite:///{tmp_path}/sessions.db", sweep_every=None)
    changed, looked = threading.Event(), threading.Barrier(3)
    seen: list[float] = []

    async def lifetimes() -> float:
        info = (await db.create("ann")).session
        return (info.expires_at - info.created_at) / 1e6

    async def worker() -> None:
        seen.append(await lifetimes())
        looked.wait(30)
        assert changed.wait(30)
        seen.append(await lifetimes())
        await db.close()

    threads = [threading.Thread(target=asyncio.run, args=(worker(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    looked.wait(30)
    db.set_policy(LOWER)
    changed.set()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == [0.25 * HOUR] * 2 + [14 * DAY] * 2

    async def later() -> float:
        async with db:
            return await lifetimes()

    # Nor does a loop that comes later start from what was.
    assert asyncio.run(later()) == 0.25 * HOUR


# -- on real databases ----------------------------------------------------------------------------------------


@pytest.mark.security("L3")
@pytest.mark.parametrize("kind", KINDS)
async def test_named_policies_hold_on_real_databases(kind: str, tmp_path: Path) -> None:
    """Deadlines by name are computed in the database's own language, for lists, limits, revokes and the sweeper."""
    clock = ManualClock()
    settings: dict[str, Any] = {"clock": clock, "timeout": 60, "sweep_every": None}
    async with SessionDB(new_url(kind, tmp_path), policies=NAMED, **settings) as db:
        staff = await db.create("ann", policy="staff")
        clock.advance(1)
        long = await db.create("ann", policy="staff", remember=True)  # the limit of "staff" ends the first
        clock.advance(1)
        normal = await db.create("ann")
        assert [info.sid for info in await db.sessions_of("ann")] == [normal.session.sid, long.session.sid]
        assert [policy_of(info) for info in await db.sessions_of("ann")] == [("normal", False), ("staff", True)]
        first = await db.get(staff.session.sid)
        assert first is not None
        assert first.end_reason == EndReason.LIMIT
        # Both are idle for a day: too long for a mere "staff" session, not for these.
        clock.advance(DAY)
        assert len(await db.sessions_of("ann")) == 2
        db.set_policy(policies={"staff": LOWER})
        assert [info.sid for info in await db.sessions_of("ann")] == [normal.session.sid]
        async with db.session(long.token) as session:
            assert (session.user_id, session.ended_reason) == (None, EndReason.EXPIRED_IDLE)
        assert await db.revoke_all("ann") == 1
