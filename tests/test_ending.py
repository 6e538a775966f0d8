"""Ending sessions from outside them: by what they have in common, everybody's, locks; what the next visit is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from harness import DAY, HOUR, MINUTE, Browser, Shop, open_shop
from sessiondb import ConfigurationError, EndReason, LoginRefused, Policy, Session, ended_message
from sessiondb.core.policy import SECOND
from sessiondb.notices import ENDED_MESSAGES

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36"


async def found(shop: Shop, **criteria: Any) -> list[str]:
    return [one.sid async for one in shop.db.find_sessions(**criteria)]


async def made(shop: Shop, user_id: str | None = "ann", **settings: Any) -> str:
    shop.clock.advance(0.01)  # sids of one millisecond are in no order
    return (await shop.db.create(user_id, **settings)).session.sid


# -- by what they have in common ------------------------------------------------------------------------------


async def test_sessions_are_found_by_what_they_have_in_common() -> None:
    async with open_shop(policies={"staff": Policy.nist_aal2()}) as shop:
        first = await made(shop, "ann", ip="203.0.113.7", user_agent=FIREFOX)
        shop.clock.advance(10)
        second = await made(shop, "ann", ip="203.0.113.77", user_agent=CHROME, remember=True)
        shop.clock.advance(10)
        third = await made(shop, "bob", ip="2001:db8::7", user_agent=FIREFOX, policy="staff")
        shop.clock.advance(10)
        nobody = await made(shop, None, ip="::ffff:203.0.113.7")
        bare = await made(shop, "eve")
        newest_first = [bare, nobody, third, second, first]
        at = (await shop.db.get(second)).created_at  # type: ignore[union-attr]
        asked: list[tuple[dict[str, Any], list[str]]] = [
            ({"user_id": "ann"}, [second, first]),
            ({"ip": "203.0.113.7"}, [nobody, first]),
            ({"ip": "2001:DB8:0::7"}, [third]),
            ({"network": "203.0.113.0/24"}, [nobody, second, first]),
            ({"network": "203.0.113.64/26"}, [second]),
            ({"network": "2001:db8::/32"}, [third]),
            ({"network": "0.0.0.0/0"}, [nobody, second, first]),
            ({"user_agent": "Firefox/"}, [third, first]),
            ({"user_agent": "firefox/"}, []),
            ({"created_before": at}, [first]),
            ({"created_after": at}, newest_first[:-1]),
            ({"created_before": datetime.fromtimestamp(at / SECOND, UTC) + timedelta(microseconds=1)}, [second, first]),
            ({"active_at": at}, [second, first]),
            ({"policy": "staff"}, [third]),
            ({"policy": "normal", "remembered": True}, [second]),
            ({"remembered": False}, [bare, nobody, third, first]),
            ({"user_id": "ann", "ip": "203.0.113.7"}, [first]),
            ({"user_id": "ann", "user_agent": "Firefox", "network": "2001:db8::/32"}, []),
            ({"created_before": shop.clock() + 1}, newest_first),
        ]
        for criteria, expected in asked:
            assert await found(shop, **criteria) == expected, criteria
            assert await shop.db.revoke_where(dry_run=True, **criteria) == len(expected), criteria
        assert len(await found(shop, created_after=0)) == 5


async def test_an_address_counts_as_first_and_as_last_seen() -> None:
    async with open_shop() as shop:
        sid = await made(shop, ip="192.0.2.1", user_agent=FIREFOX)
        last = b'{"ip":"198.51.100.9","user_agent":"Safari/18"}'
        shop.put_record(msgspec.structs.replace(shop.record(sid), client_last=last, rev=2))
        for criteria in (
            {"ip": "192.0.2.1"},
            {"ip": "198.51.100.9"},
            {"user_agent": "Firefox"},
            {"user_agent": "Safari"},
        ):
            assert await found(shop, **criteria) == [sid]
        assert await found(shop, ip="192.0.2.2") == []


async def test_sessions_not_used_since_are_found() -> None:
    async with open_shop() as shop:
        idle, used = await shop.logged_in("ann"), await shop.logged_in("bob")
        shop.clock.advance(2 * HOUR)
        await used.read()
        await shop.flush()
        assert await found(shop, last_seen_before=shop.clock() - int(HOUR) * SECOND) == [idle.sid]


async def test_who_was_signed_in_at_a_moment_is_found_among_the_ended_too() -> None:
    async with open_shop() as shop:
        gone, stays = await made(shop, "ann"), await made(shop, "bob")
        shop.clock.advance(MINUTE)
        then = shop.clock()
        shop.clock.advance(MINUTE)
        assert await shop.db.revoke(gone)
        late = await made(shop, "eve")
        shop.clock.advance(MINUTE)
        assert set(await found(shop, active_at=then, include_ended=True)) == {gone, stays}
        assert set(await found(shop, active_at=then)) == {stays}
        assert set(await found(shop, active_at=shop.clock(), include_ended=True)) == {stays, late}
        # After a restored backup of that time: what it has brought back ends, who has signed in since stays.
        assert await shop.db.revoke_where(active_at=then) == 1
        assert await found(shop, created_after=0) == [late]


@pytest.mark.security("L8", "L6")
async def test_revoking_by_what_they_have_in_common_ends_these_and_no_others() -> None:
    async with open_shop() as shop:
        many = [await made(shop, f"user{n}", ip=f"203.0.113.{n}") for n in range(40)]
        spared = [await made(shop, f"user{n}", ip=f"198.51.100.{n}") for n in range(10)]
        holder = Browser(shop, (await shop.db.create("holder", ip="203.0.113.200")).token)
        assert await holder.user() == "holder"
        assert await shop.db.revoke_where(network="203.0.113.0/24", reason="admin", dry_run=True) == 41
        assert await holder.user() == "holder"
        assert await shop.db.revoke_where(network="203.0.113.0/24", reason="admin") == 41
        assert await shop.db.revoke_where(network="203.0.113.0/24", reason="admin") == 0
        assert {(await shop.db.get(sid)).end_reason for sid in many} == {"admin"}  # type: ignore[union-attr]
        assert sorted(await found(shop, created_after=0)) == sorted(spared)
        reply = await holder.do(lambda session: [session.user_id, session.ended_reason])
        assert (reply.result, reply.cookie) == ([None, "admin"], None)
        [event, *_] = await shop.events("sessions_revoked")
        assert (event.reason, dict(event.details)) == ("admin", {"ended": 41})


async def test_more_sessions_than_a_page_holds_are_all_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.listing.PAGE", 3)
    async with open_shop() as shop:
        sids = [await made(shop, "ann" if n % 2 else "bob") for n in range(20)]
        assert await found(shop, created_after=0) == sids[::-1]
        assert await shop.db.revoke_where(user_agent="nowhere") == 0
        assert await shop.db.revoke_where(created_after=shop.record(sids[5]).created_at, user_id="bob") == 7
        assert await shop.db.revoke_everyone() == 13


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "No criterion"),
    ({"ip": "203.0.113.0/24"}, "ip is '203.0.113.0/24'"),
    ({"ip": "localhost"}, "ip is 'localhost'"),
    ({"ip": 7}, "ip is 7"),
    ({"network": "203.0.113.7/24"}, "has host bits set"),
    ({"network": "all"}, "network is 'all'"),
    ({"user_agent": ""}, "user_agent is ''"),
    ({"created_before": datetime(2026, 1, 1)}, "without a time zone"),
    ({"created_after": -1}, "created_after is -1"),
    ({"active_at": "yesterday"}, "active_at is 'yesterday'"),
    ({"last_seen_before": True}, "last_seen_before is True"),
    ({"user_id": None}, "user_id is None"),
    ({"ip": "203.0.113.7", "remembered": None}, "remembered is None"),
    ({"policy": 7}, "policy is 7"),
    ({"remembered": "yes"}, "remembered is 'yes'"),
]


@pytest.mark.parametrize(("criteria", "says"), WRONG)
async def test_criteria_that_cannot_be_meant_end_nobody(criteria: dict[str, Any], says: str) -> None:
    async with open_shop() as shop:
        sid = await made(shop, ip="203.0.113.7")
        with pytest.raises(ValueError, match=says):
            await shop.db.revoke_where(**criteria)
        with pytest.raises(ValueError, match=says):
            shop.db.find_sessions(**criteria)
        with pytest.raises(TypeError, match="cannot be found by colour"):
            await shop.db.revoke_where(colour="red")  # type: ignore[call-arg]
        assert await found(shop, created_after=0) == [sid]


@pytest.mark.security("L8")
async def test_everyone_is_ended_whoever_it_is() -> None:
    async with open_shop() as shop:
        browsers = [await shop.logged_in(f"user{n}") for n in range(5)] + [await shop.with_cart()]
        assert await shop.db.revoke_everyone(dry_run=True) == 6
        assert await shop.db.revoke_everyone() == 6
        for browser in browsers:
            assert (await browser.do(lambda session: [session.user_id, session.ended_reason])).result == [
                None,
                "revoked",
            ]
        after = await shop.logged_in("user1")
        assert await after.user() == "user1"


# -- reasons --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["password_changed", EndReason.ADMIN, "locked", "logout"])
async def test_whoever_ends_a_session_says_why(reason: str) -> None:
    async with open_shop() as shop:
        verbs: list[Callable[[Browser], Any]] = [
            lambda browser: shop.db.revoke(browser.sid, reason=reason),
            lambda _: shop.db.revoke_all("ann", reason=reason),
            lambda _: shop.db.revoke_where(user_id="ann", reason=reason),
            lambda _: shop.db.revoke_everyone(reason=reason),
        ]
        for end in verbs:
            browser = await shop.logged_in("ann")
            await end(browser)
            assert (await browser.do(lambda session: session.ended_reason)).result == reason


@pytest.mark.parametrize(
    "reason", ["limit", EndReason.REUSE, "expired_idle", "impersonation_ended", "login", "bored", ""]
)
async def test_a_reason_that_only_the_library_can_know_is_refused(reason: str) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        for end in (
            shop.db.revoke(browser.sid, reason=reason),
            shop.db.revoke_all("ann", reason=reason),
            shop.db.revoke_everyone(reason=reason),
            shop.db.lock_user("ann", reason=reason),
            shop.db.revoke_idp("https://idp", sub="1", reason=reason),
        ):
            with pytest.raises(ValueError, match="use one of EndReason"):
                await end
        assert await browser.user() == "ann"


def test_every_reason_has_a_sentence() -> None:
    assert set(ENDED_MESSAGES) == set(EndReason)
    for reason in EndReason:
        told = ended_message(reason.value)
        assert told is not None and told.endswith(".") and told[0].isupper()
    assert ended_message(None) is None
    assert ended_message("something of a later version") == "Your session has ended. Please sign in again."
    german = {EndReason.LIMIT: "Abgemeldet, weil Sie sich auf einem anderen Gerät angemeldet haben."}
    assert ended_message("limit", german).startswith("Abgemeldet")  # type: ignore[union-attr]
    assert ended_message("logout", german) == "You have signed out."


@pytest.mark.security("L9")
async def test_who_was_pushed_out_by_the_limit_is_told_so_until_the_cookie_is_overwritten() -> None:
    async with open_shop(policy=Policy(per_user=1)) as shop:
        laptop = await shop.logged_in("ann")
        phone = await shop.logged_in("ann")
        for _ in range(2):
            reply = await laptop.do(lambda session: ended_message(session.ended_reason))
            assert reply.result == "You were signed out because you signed in on another device."
            assert reply.cookie is None
        assert (await laptop.do(lambda session: session.update(seen=True))).cookie == "set"
        assert (await laptop.do(lambda session: ended_message(session.ended_reason))).result is None
        assert await phone.user() == "ann"


# -- the limit ------------------------------------------------------------------------------------------------


@pytest.mark.security("L9")
async def test_with_ask_a_refused_login_brings_the_sessions_among_which_to_choose() -> None:
    async with open_shop(policy=Policy(per_user=2, on_limit="ask")) as shop:
        old = await shop.logged_in("ann")
        shop.clock.advance(1)
        new = await shop.logged_in("ann")
        await old.do(lambda session: session.update(secret="plans"))
        browser = await shop.with_cart(cart=["tea"])

        async def log_in(session: Session, **settings: Any) -> Any:
            try:
                await session.login("ann", **settings)
            except LoginRefused as error:
                return [error.reason, error.status_code, [[one.sid, one.data] for one in error.sessions]]
            return session.user_id

        assert (await browser.do(log_in)).result == ["limit", 409, [[new.sid, {}], [old.sid, {}]]]
        assert await browser.read() == {"cart": ["tea"]}
        shop.clock.advance(1)
        # One is chosen, and the login tried again.
        assert await shop.db.revoke(old.sid, user_id="ann")
        assert (await browser.do(log_in)).result == "ann"
        shop.clock.advance(1)
        # Or the user does not care which.
        other = shop.browser()
        assert (await other.do(lambda session: log_in(session, on_limit="end_oldest"))).result == "ann"
        assert (await new.user(), await browser.user(), await other.user()) == (None, "ann", "ann")
        assert (await new.do(lambda session: session.ended_reason)).result == "limit"


async def test_without_ask_a_refused_login_brings_no_list_and_costs_no_search() -> None:
    async with open_shop(policy=Policy(per_user=1, on_limit="refuse")) as shop:
        await shop.logged_in("ann")

        async def log_in(session: Session) -> list[Any]:
            with pytest.raises(LoginRefused) as refused:
                await session.login("ann")
            return [refused.value.reason, len(refused.value.sessions)]

        reply = await shop.browser().do(log_in)
        assert (reply.result, "find" in reply.calls) == (["limit", 0], False)


async def test_on_limit_is_checked_where_it_is_given() -> None:
    with pytest.raises(ConfigurationError, match="on_limit is 'deny'"):
        Policy(per_user=1, on_limit="deny")  # type: ignore[arg-type]
    async with open_shop() as shop:

        async def wrong(session: Session) -> str:
            with pytest.raises(ConfigurationError, match="login: on_limit is 'deny'"):
                session.login("ann", on_limit="deny")  # type: ignore[arg-type]
            return "refused"

        assert (await shop.browser().do(wrong)).result == "refused"


# -- a changed password ---------------------------------------------------------------------------------------


@pytest.mark.security("L8", "L1")
async def test_a_changed_password_ends_the_others_and_replaces_the_secret_of_this_one() -> None:
    async with open_shop() as shop:
        mine, other = await shop.logged_in("ann"), await shop.logged_in("ann")
        await mine.do(lambda session: session.update(cart=["tea"]))
        thief, sid = mine.twin(), mine.sid
        reply = await mine.do(lambda session: session.revoke_others(reason="password_changed"))
        assert (reply.result, reply.cookie) == (1, "set")
        assert (mine.sid, await mine.user(), await mine.read()) == (sid, "ann", {"cart": ["tea"]})
        # At once, and for good: there is no grace for the old token.
        assert await thief.user() is None
        assert (await other.do(lambda session: [session.user_id, session.ended_reason])).result == [
            None,
            "password_changed",
        ]
        shop.clock.advance(HOUR)
        assert await mine.user() == "ann"


async def test_a_thief_who_has_rotated_just_before_is_shut_out_too() -> None:
    async with open_shop() as shop:
        mine = await shop.logged_in("ann")
        thief = mine.twin()

        async def change(session: Session) -> int:
            await thief.do(lambda stolen: stolen.rotate())
            return await session.revoke_others()

        assert (await mine.do(change)).cookie == "set"
        assert (await thief.user(), await mine.user()) == (None, "ann")


async def test_signing_in_and_revoking_the_others_makes_one_secret() -> None:
    async with open_shop() as shop:
        other = await shop.logged_in("ann")

        async def both(session: Session) -> int:
            session.login("ann")
            session["cart"] = ["tea"]
            return await session.revoke_others()

        browser = shop.browser()
        reply = await browser.do(both)
        assert (reply.result, reply.cookie) == (1, "set")
        assert shop.store.updates == []
        assert (await other.user(), await browser.user(), await browser.read()) == (None, "ann", {"cart": ["tea"]})


async def test_a_response_that_is_lost_with_the_new_secret_ends_the_session() -> None:
    async with open_shop() as shop:
        mine = await shop.logged_in("ann")

        async def fails(session: Session) -> None:
            await session.revoke_others()
            raise RuntimeError("the handler fails")

        assert (await mine.do(fails)).status == 500
        await shop.flush()
        assert shop.record(mine.sid).end_reason == "undelivered"


# -- locks ----------------------------------------------------------------------------------------------------


async def refused(session: Session, user_id: str = "ann") -> list[Any]:
    try:
        await session.login(user_id)
    except LoginRefused as error:
        return [error.reason, error.until]
    return ["in", None]


@pytest.mark.security("L8")
async def test_a_locked_user_is_out_and_stays_out_until_unlocked() -> None:
    async with open_shop() as shop:
        browsers = [await shop.logged_in("ann") for _ in range(3)]
        assert await shop.db.lock_user("ann") == 3
        for browser in browsers:
            assert (await browser.do(lambda session: [session.user_id, session.ended_reason])).result == [
                None,
                "locked",
            ]
        for _ in range(2):
            assert (await shop.browser().do(refused)).result == ["locked", None]
            shop.clock.advance(400 * DAY)
        with pytest.raises(LoginRefused):
            await shop.db.create("ann")
        await shop.db.unlock_user("ann")
        assert (await shop.browser().do(refused)).result == ["in", None]
        assert (await shop.browser().do(lambda session: refused(session, "bob"))).result == ["in", None]
        types = [event.type for event in await shop.events() if event.type.startswith("authn_login_")]
        assert "authn_login_lock" in types and "authn_login_unlock" in types


async def test_a_lock_ends_by_itself() -> None:
    async with open_shop() as shop:
        until = datetime.fromtimestamp(shop.clock() / SECOND, UTC) + timedelta(hours=1)
        await shop.db.lock_user("ann", until)
        shop.clock.advance(HOUR - 10)
        assert (await shop.browser().do(refused)).result == ["locked", int(until.timestamp() * SECOND)]
        shop.clock.advance(11)
        assert (await shop.browser().do(refused)).result == ["in", None]


async def test_the_later_of_two_locks_stands_and_a_revoke_lifts_none() -> None:
    async with open_shop() as shop:
        await shop.db.lock_user("ann", shop.clock() + int(DAY) * SECOND)
        await shop.db.lock_user("ann", shop.clock() + int(HOUR) * SECOND)
        await shop.db.revoke_all("ann")
        shop.clock.advance(2 * HOUR)
        assert (await shop.browser().do(refused)).result[0] == "locked"


async def test_a_login_that_had_begun_before_the_lock_is_told_of_it() -> None:
    async with open_shop() as shop:
        reasons = []

        async def late(session: Session) -> Any:
            await shop.db.lock_user("ann")
            reasons.append(await refused(session))

        async def later_still(session: Session) -> Any:
            await shop.db.lock_user("ann")
            await shop.db.unlock_user("ann")
            reasons.append(await refused(session))

        await shop.browser().do(late)
        await shop.db.unlock_user("ann")
        shop.clock.advance(1)

        async def with_time(session: Session) -> Any:
            shop.clock.advance(1)
            await later_still(session)

        await shop.browser().do(with_time)
        # Unlocked meanwhile, it is a login that a revoke has overtaken.
        assert reasons == [["locked", None], ["revoked", None]]
        assert await found(shop, created_after=0) == []


@pytest.mark.parametrize("until", [0, 1, datetime(2001, 1, 1, tzinfo=UTC), datetime(2099, 1, 1), "tomorrow"])
async def test_a_lock_that_would_lock_nobody_is_refused(until: Any) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        with pytest.raises(ValueError, match="until"):
            await shop.db.lock_user("ann", until)
        assert await browser.user() == "ann"


async def test_unlocking_who_is_not_locked_ends_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        await shop.db.unlock_user("ann")
        assert await browser.user() == "ann"
        assert (await shop.browser().do(refused)).result == ["in", None]
