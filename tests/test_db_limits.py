"""Limits against abuse, seen from a request: who is refused, who is not, what is told, and that nothing is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import msgspec
import pytest

from harness import MINUTE, Browser, Reply, Shop, open_shop, put, unawaited
from sessiondb import Limits, RateLimited, Session, SessionDataError, StoreUnavailable
from sessiondb.core import token
from sessiondb.core.change import Create


@asynccontextmanager
async def shop_with(address: str | None = "192.0.2.7", **limits: Any) -> AsyncIterator[Shop]:
    """A shop whose visitors all come from ``address``."""
    async with open_shop(limits=Limits(**limits)) as shop:
        come_from(shop, address)
        yield shop


def come_from(shop: Shop, address: str | None) -> None:
    transport: Any = shop.http._transport
    transport.client = None if address is None else (address, 50_000)


def is_limited(reply: Reply, seconds: int) -> bool:
    return (
        reply.status == 429
        and reply.headers["retry-after"] == str(seconds)
        and reply.headers["cache-control"] == "no-store"
        and reply.cookie is None
    )


# -- anonymous sessions ---------------------------------------------------------------------------------------


@pytest.mark.security("D2")
async def test_a_network_that_begins_too_many_sessions_is_told_to_wait_and_nothing_is_stored() -> None:
    async with shop_with(anonymous_per_minute=3) as shop:
        for number in range(3):
            come_from(shop, f"192.0.2.{number}")
            assert (await shop.browser().do(put(a=1))).cookie == "set"
        shop.store.reset()
        visitor = shop.browser()
        for number in range(5):
            come_from(shop, f"192.0.2.{number}")
            assert is_limited(await visitor.do(put(a=1)), 20)
        assert (shop.store.total, shop.stored) == (0, 3)
        assert shop.db.counters["anonymous_refused"] == 5
        come_from(shop, "198.51.100.1")
        assert (await shop.browser().do(put(a=1))).cookie == "set"
        come_from(shop, "192.0.2.9")
        shop.clock.advance(20)
        assert (await visitor.do(put(a=1))).cookie == "set"
        assert is_limited(await shop.browser().do(put(a=1)), 20)


@pytest.mark.security("D1", "D2")
async def test_only_who_writes_is_counted_and_sessions_that_are_there_go_on() -> None:
    async with shop_with(anonymous_per_minute=1) as shop:
        for _ in range(20):
            for action in (dict, lambda s: s.pop("a", None), lambda s: s.clear(), unawaited(lambda s: s.logout())):
                reply = await shop.browser().do(action)
                assert (reply.status, reply.cookie) == (200, None)
        assert shop.stored == 0
        browser = await shop.with_cart()
        for number in range(20):
            assert (await browser.do(put(a=number))).status == 200
        assert is_limited(await shop.browser().do(put(a=1)), 60)


async def test_logins_are_never_held_up_by_those_who_do_not() -> None:
    async with shop_with(anonymous_per_minute=1) as shop:
        await shop.with_cart()
        assert is_limited(await shop.browser().do(put(a=1)), 60)
        for number in range(10):
            assert await (await shop.logged_in(f"user{number}")).user() == f"user{number}"
        # A job is no visitor.
        assert (await shop.db.create()).session.user_id is None
        async with shop.db.session() as session:
            session["a"] = 1
        assert session.sid is not None


async def test_each_verb_that_would_begin_a_session_is_counted() -> None:
    async with shop_with(anonymous_per_minute=1) as shop:
        await shop.with_cart()

        async def save(session: Session) -> None:
            session["a"] = 1
            await session.save()

        async def modify(session: Session) -> None:
            await session.modify(lambda data: data.update(a=1))

        for action in (save, modify, put(a=1)):
            assert is_limited(await shop.browser().do(action), 60)
        assert shop.stored == 1


async def test_an_app_can_handle_it_and_answer_without_a_session() -> None:
    async with shop_with(anonymous_per_minute=1) as shop:
        await shop.with_cart()

        async def handled(session: Session) -> int:
            session["a"] = 1
            try:
                await session.save()
            except RateLimited as error:
                session.clear()
                return error.retry_after
            return 0

        reply = await shop.browser().do(handled)
        assert (reply.result, reply.cookie) == (60, None)


async def test_it_is_told_once_a_minute_by_network() -> None:
    async with shop_with(anonymous_per_minute=1) as shop:
        for _ in range(5):
            await shop.browser().do(put(a=1))
        shop.clock.advance(MINUTE)
        for _ in range(5):
            await shop.browser().do(put(a=1))
        events = await shop.events("excess_rate_limit_exceeded")
        assert [(event.ip, dict(event.details), dict(event.personal)) for event in events] == [
            ("192.0.2.7", {"max": 1}, {"network": "192.0.2.0/24"})
        ] * 2
        [network] = shop.db.suspicious_networks()
        assert (network.network, network.refused, network.unknown) == ("192.0.2.0/24", 8, 0)


async def test_without_an_address_nobody_is_limited_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with shop_with(None, anonymous_per_minute=1) as shop:
        with caplog.at_level(logging.WARNING, "sessiondb"):
            for _ in range(3):
                assert (await shop.browser().do(put(a=1))).cookie == "set"
        assert [record.getMessage()[:45] for record in caplog.records] == [
            "Limits(anonymous_per_minute=...) limits nobod"
        ]


async def test_a_forwarded_address_is_the_servers_business_and_not_believed_here() -> None:
    async with shop_with(anonymous_per_minute=1) as shop:
        await shop.with_cart()
        for number in range(5):
            headers = {"x-forwarded-for": f"198.51.100.{number}", "forwarded": f"for=198.51.100.{number}"}
            assert is_limited(await shop.browser().do(put(a=1), **headers), 60)


async def test_by_default_nobody_is_limited() -> None:
    async with shop_with() as shop:
        for _ in range(200):
            assert (await shop.browser().do(put(a=1))).cookie == "set"


# -- tokens that open nothing ---------------------------------------------------------------------------------


def stranger(shop: Shop) -> Browser:
    return shop.browser(token.mint(shop.clock.now).encode())


def forger(browser: Browser, shop: Shop) -> Browser:
    return shop.browser(msgspec.structs.replace(browser.parsed, series=b"x" * 16).encode())


@pytest.mark.security("T6")
async def test_unknown_forged_and_ended_tokens_are_counted_by_network() -> None:
    async with shop_with("2001:db8::1") as shop:
        browser = await shop.logged_in()
        ended = await shop.logged_in()
        gone = ended.twin()
        await ended.do(unawaited(lambda session: session.logout()))
        for _ in range(3):
            assert (await stranger(shop).do(dict)).cookie is None
        for _ in range(2):
            await forger(browser, shop).do(dict)
        await gone.do(dict)
        await forger(gone, shop).do(dict)
        [network] = shop.db.suspicious_networks()
        assert network.network == "2001:db8::/56"
        assert (network.unknown, network.forged, network.ended, network.refused) == (3, 3, 1, 0)
        assert shop.db.counters["token_unknown"] == 3
        assert shop.db.counters["token_forged"] == 3
        assert shop.db.counters["token_ended"] == 1
        assert await browser.user() == "ann"


async def test_many_guesses_in_a_minute_are_one_event_and_everybody_is_still_served() -> None:
    async with shop_with(guesses_per_minute=5) as shop:
        browser = await shop.logged_in()
        await asyncio.gather(*(stranger(shop).do(dict) for _ in range(20)))
        assert await browser.user() == "ann"
        [event] = await shop.events("token_guessing")
        assert (event.ip, dict(event.details), dict(event.personal)) == (
            "192.0.2.7",
            {"max": 5},
            {"network": "192.0.2.0/24"},
        )
        shop.clock.advance(MINUTE)
        await asyncio.gather(*(stranger(shop).do(dict) for _ in range(5)))
        assert len(await shop.events("token_guessing")) == 1
        await stranger(shop).do(dict)
        assert len(await shop.events("token_guessing")) == 2
        come_from(shop, "198.51.100.1")
        await stranger(shop).do(dict)
        assert len(await shop.events("token_guessing")) == 2


async def test_no_token_is_in_what_is_told_of_guesses() -> None:
    async with shop_with(guesses_per_minute=1) as shop:
        strangers = [stranger(shop) for _ in range(3)]
        for one in strangers:
            await one.do(dict)
        told = repr(await shop.events()) + repr(shop.db.suspicious_networks())
        for one in strangers:
            assert not any(part in told for part in str(one.token).split("."))


# -- what one session may hold --------------------------------------------------------------------------------


@pytest.mark.security("D2")
@pytest.mark.parametrize("living", [False, True], ids=["new", "living"])
async def test_too_many_keys_are_refused_before_anything_is_stored(living: bool) -> None:
    async with open_shop(limits=Limits(max_keys=3)) as shop:
        browser = await shop.with_cart(a=1, b=2) if living else shop.browser()
        shop.store.reset()

        async def save(session: Session) -> Any:
            session.update(a=1, b=2, c=3, d=4)
            try:
                await session.save()
            except SessionDataError as error:
                session.pop("d")
                return [error.key, str(error)]
            return None

        key, message = (await browser.do(save)).result
        assert key == "d"
        assert "4 keys, more than the 3 allowed" in message
        assert "max_keys" in message
        assert len(shop.store.changes) == 1  # what was left is stored before the response
        assert await browser.read() == {"a": 1, "b": 2, "c": 3}


@pytest.mark.security("D2")
async def test_modify_and_login_and_create_keep_the_limit_too() -> None:
    async with open_shop(limits=Limits(max_keys=2)) as shop:
        browser = await shop.with_cart(a=1)

        def too_much(data: dict[str, Any]) -> None:
            data.update(b=2, c=3)

        async def modify(session: Session) -> str:
            with pytest.raises(SessionDataError, match="max_keys"):
                await session.modify(too_much)
            return str(sorted(session))

        await browser.do(modify)
        assert await browser.read() == {"a": 1}
        with pytest.raises(SessionDataError, match="max_keys"):
            await shop.db.create("ann", {"a": 1, "b": 2, "c": 3})

        async def login(session: Session) -> None:
            session.update(b=2, c=3)
            with pytest.raises(SessionDataError, match="max_keys"):
                await session.login("ann")
            session.logout()

        await browser.do(login)
        assert await shop.db.sessions_of("ann", include_ended=True) == []


async def test_a_session_over_a_lowered_limit_can_be_read_and_emptied_but_not_filled() -> None:
    async with open_shop(limits=Limits(max_keys=2)) as shop:
        issued = await shop.another_db().create(None, {"a": 1, "b": 2, "c": 3})
        browser = shop.browser(issued.token)
        assert await browser.read() == {"a": 1, "b": 2, "c": 3}
        assert (await browser.do(put(a=2))).status == 500
        assert (await browser.do(lambda session: session.pop("c"))).status == 200
        assert (await browser.do(put(a=2))).status == 200
        assert await browser.read() == {"a": 2, "b": 2}


# -- refused logins -------------------------------------------------------------------------------------------


@pytest.mark.security("D2")
@pytest.mark.parametrize("how", [unawaited, lambda action: action])
async def test_a_refused_login_costs_nobody_their_cart_for_the_sake_of_the_limit(how: Any) -> None:
    async with shop_with(anonymous_per_minute=1) as shop:
        visitor = await shop.with_cart(cart=["tea"])
        await shop.db.lock_user("ann")
        for _ in range(3):
            # It puts one session in the place of another; the network has begun no more than before.
            reply = await visitor.do(how(lambda session: session.login("ann")))
            assert (reply.status, reply.cookie) == (409, "set")
            assert await visitor.read() == {"cart": ["tea"]}
        assert (await shop.browser().do(put(a=1))).status == 429


async def test_when_the_answer_to_a_refused_login_cannot_be_stored_that_is_said_instead() -> None:
    async with open_shop() as shop:
        visitor = await shop.with_cart(cart=["tea"])
        await shop.db.lock_user("ann")

        inner = shop.memory.apply

        async def full(changes: Any, events: Any = ()) -> Any:
            if isinstance(changes[0], Create) and changes[0].record.user_id is None:
                raise StoreUnavailable("full")
            return await inner(changes, events)

        with mock.patch.object(shop.memory, "apply", full):
            reply = await visitor.do(unawaited(lambda session: session.login("ann")))
        assert (reply.status, reply.cookie) == (503, None)
