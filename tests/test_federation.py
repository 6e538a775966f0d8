"""Sessions that began at an identity provider are found by its issuer, session and user, and end by its logout."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Browser, Shop, open_shop
from sessiondb import IdP, LoginRefused, Session, SessionDataError, SessionDB
from sessiondb.core.record import LINK_BYTES
from sessiondb.ending import link_name
from sessiondb.federation import links_of

ISSUER = "https://idp.example"


async def from_idp(shop: Shop, user_id: str, **idp: Any) -> Browser:
    shop.clock.advance(1)
    return await shop.logged_in(user_id, idp=IdP(**{"issuer": ISSUER, **idp}))


async def living(shop: Shop, *browsers: Browser) -> list[bool]:
    return [await browser.user() is not None for browser in browsers]


async def test_a_logout_by_sid_ends_that_session_alone() -> None:
    async with open_shop() as shop:
        one = await from_idp(shop, "ann", sid="s1", sub="a")
        other = await from_idp(shop, "ann", sid="s2", sub="a")
        elsewhere = await from_idp(shop, "ann", issuer="https://other.example", sid="s1", sub="a")
        here = await shop.logged_in("ann")
        assert await shop.db.revoke_idp(ISSUER, sid="s1") == 1
        assert await living(shop, one, other, elsewhere, here) == [False, True, True, True]
        assert (await one.do(lambda session: session.ended_reason)).result == "idp_logout"
        assert await shop.db.revoke_idp(ISSUER, sid="s1") == 0
        event = (await shop.events("idp_logout"))[0]
        assert dict(event.details) == {"issuer": ISSUER, "ended": 1}


async def test_a_logout_by_sub_ends_all_of_that_user_there() -> None:
    async with open_shop() as shop:
        mine = [await from_idp(shop, "ann", sid="s1", sub="a"), await from_idp(shop, "ann", sub="a")]
        other = await from_idp(shop, "bob", sid="s3", sub="b")
        assert await shop.db.revoke_idp(ISSUER, sub="a") == 2
        assert await living(shop, *mine, other) == [False, False, True]


async def test_a_logout_of_both_ends_that_session_and_those_of_which_no_sid_was_told() -> None:
    async with open_shop() as shop:
        meant = await from_idp(shop, "ann", sid="s1", sub="a")
        unknown = await from_idp(shop, "ann", sub="a")
        other = await from_idp(shop, "ann", sid="s2", sub="a")
        assert await shop.db.revoke_idp(ISSUER, sid="s1", sub="a") == 2
        assert await living(shop, meant, unknown, other) == [False, False, True]


async def test_sessions_made_outside_requests_are_found_too() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create("ann", idp=IdP(issuer=ISSUER, sid="s1"))
        assert await shop.db.revoke_idp(ISSUER, sid="s1") == 1
        assert (await shop.db.get(issued.session.sid)).end_reason == "idp_logout"  # type: ignore[union-attr]


async def test_signing_in_again_from_there_adds_where_it_came_from() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")
        sid = browser.sid
        reply = await browser.do(lambda session: session.login("ann", idp=IdP(issuer=ISSUER, sid="s1")))
        assert (reply.cookie, browser.sid) == ("set", sid)
        assert await shop.db.revoke_idp(ISSUER, sid="s1") == 1
        assert await living(shop, browser) == [False]


async def test_a_login_without_a_provider_costs_nothing_more() -> None:
    async with open_shop() as shop:
        assert (await shop.browser().do(lambda session: session.login("ann"))).calls == {"apply": 1, "admit": 1}
        assert [change.links for change in shop.store.creates] == [()]
        idp = IdP(issuer=ISSUER, sid="s1", sub="a")
        assert (await shop.browser().do(lambda session: session.login("ann", idp=idp))).calls == {
            "apply": 1,
            "admit": 1,
        }


@pytest.mark.parametrize("gone", [{"sid": "s1"}, {"sub": "a"}, {"sid": "s1", "sub": "a"}])
@pytest.mark.parametrize("signed_in", [False, True])
async def test_a_login_under_way_from_there_does_not_stay(gone: dict[str, str], signed_in: bool) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann") if signed_in else await shop.with_cart()
        shop.clock.advance(1)

        async def late(session: Session) -> Any:
            # The provider has signed the user in, and out again, before the app was told.
            shop.clock.advance(1)
            await shop.db.revoke_idp(ISSUER, **gone)
            with pytest.raises(LoginRefused) as refused:
                await session.login("ann", idp=IdP(issuer=ISSUER, sid="s1", sub="a"))
            return [refused.value.reason, session.user_id]

        reply = await browser.do(late)
        assert reply.result == ["revoked", None]
        assert await browser.user() is None
        assert await shop.db.sessions_of("ann") == []
        # From then on it works again, and logins from elsewhere were never hindered.
        shop.clock.advance(1)
        assert await living(shop, await from_idp(shop, "ann", sid="s1", sub="a")) == [True]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"issuer": ISSUER}, "neither sid nor sub"),
        ({"issuer": "", "sub": "a"}, "issuer is ''"),
        ({"issuer": ISSUER, "sub": ""}, "sub is ''"),
        ({"issuer": ISSUER, "sid": 7}, "sid is 7"),
        ({"issuer": ISSUER, "sub": "x" * 2049}, "sub is 'xxx"),
        ({"issuer": ISSUER, "sub": "\ud800"}, "lone surrogate"),
        ({"issuer": None, "sub": "a"}, "issuer is None"),
    ],
)
def test_what_no_provider_can_have_told_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SessionDataError, match=says):
        IdP(**wrong)


async def test_a_provider_by_name_alone_is_refused_and_nobody_is_logged_in() -> None:
    provider: Any = "google"
    async with SessionDB("memory://") as db:
        with pytest.raises(SessionDataError, match=r"idp is a str; use IdP\(issuer="):
            await db.create("ann", idp=provider)
        assert await db.sessions_of("ann") == []


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
idps = st.builds(IdP, issuer=text, sid=text, sub=text)


@given(idps, idps)
def test_links_are_alike_only_where_what_they_name_is(one: IdP, other: IdP) -> None:
    of_one, of_other = links_of(one), links_of(other)
    assert {len(link) for link in (*of_one, *of_other)} == {LINK_BYTES}
    assert (of_one[0] == of_other[0]) == ((one.issuer, one.sid) == (other.issuer, other.sid))
    assert (of_one[1] == of_other[1]) == ((one.issuer, one.sub) == (other.issuer, other.sub))
    # A session there is never taken for a user there.
    assert not {of_one[0], of_other[0]} & {of_one[1], of_other[1]}


async def test_no_users_id_can_be_that_of_a_link() -> None:
    async with open_shop() as shop:
        [link] = links_of(IdP(issuer=ISSUER, sub="a"))[:1]
        await shop.db.lock_user(link_name(link).removeprefix("\x1f"))
        with pytest.raises(SessionDataError, match="U\\+001F"):
            await shop.db.lock_user(link_name(link))
        assert await living(shop, await from_idp(shop, "ann", sub="a")) == [True]
