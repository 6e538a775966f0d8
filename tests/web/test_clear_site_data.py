"""``logout(clear_site_data=...)``: what the browser is asked to remove."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse

from harness import open_shop
from sessiondb import ConfigurationError, Session


@pytest.mark.security("L6")
@pytest.mark.parametrize(
    ("wanted", "header"),
    [
        (["cookies"], '"cookies"'),
        (("cookies", "storage", "cache"), '"cookies", "storage", "cache"'),
        (("storage", "storage"), '"storage"'),
        (["*"], '"*"'),
        (("executionContexts",), '"executionContexts"'),
        ([], None),
    ],
)
@pytest.mark.parametrize("awaited", [True, False])
async def test_the_response_to_the_logout_has_the_header(wanted: Any, header: str | None, awaited: bool) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        def log_out(session: Session) -> Any:
            leaving = session.logout(clear_site_data=wanted)
            return leaving if awaited else None

        reply = await browser.do(log_out)
        assert reply.cookie == "deleted"
        assert reply.headers.get("clear-site-data") == header
        assert reply.headers["cache-control"] == "no-store"
        # Only that response.
        assert "clear-site-data" not in (await browser.do(dict)).headers


async def test_a_plain_logout_asks_for_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        assert "clear-site-data" not in (await browser.do(lambda session: session.logout())).headers


async def test_whoever_is_logged_out_already_can_still_have_the_site_cleared() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        await shop.db.revoke(browser.sid)
        reply = await browser.do(lambda session: session.logout(clear_site_data=["storage"]))
        assert reply.headers["clear-site-data"] == '"storage"'


async def test_a_login_in_the_same_request_keeps_its_cookie() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in("ann")

        async def change_user(session: Session) -> None:
            await session.logout(clear_site_data=["cookies"])
            await session.login("bob")

        reply = await browser.do(change_user)
        assert reply.cookie == "set"
        assert "clear-site-data" not in reply.headers
        assert await browser.user() == "bob"


@pytest.mark.security("C9")
@pytest.mark.parametrize("wanted", ["cookies", ["Cookies"], ['cookies"'], ["cookies\r\nx: y"], [""], [None], 5, b"*"])
async def test_what_no_browser_knows_is_refused_and_logs_nobody_out(wanted: Any) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        async def log_out(session: Session) -> None:
            with pytest.raises(ConfigurationError, match="clear_site_data"):
                session.logout(clear_site_data=wanted)

        assert (await browser.do(log_out)).status == 200
        assert await browser.user() == "ann"


async def test_after_the_headers_it_logs_out_and_says_that_the_header_came_too_late(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        async def stream(session: Session) -> Response:
            async def body() -> Any:
                yield b"first"
                session.logout(clear_site_data=["storage"])

            return StreamingResponse(body())

        with caplog.at_level(logging.WARNING, "sessiondb"):
            reply = await browser.do(stream)
        assert "clear-site-data" not in reply.headers
        assert "too late" in caplog.text
        assert await browser.user() is None
