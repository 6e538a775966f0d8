"""Authlib's Starlette client keeps its state in our sessions, unchanged, whoever serves the callback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import oauth_apps
import pytest
from running import address_of, in_a_process, in_a_thread, listening

from sessiondb import SessionDB, SessionInfo
from sessiondb.core.token import parse

SCRIPT = Path(oauth_apps.__file__)


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    listener = listening()
    with in_a_thread(oauth_apps.provider(address_of(listener)), listener) as address:
        yield address


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/sessions.db"


@contextlib.contextmanager
def shop(url: str, provider: str, **settings: Any) -> Iterator[str]:
    listener = listening()
    with in_a_thread(oauth_apps.shop(url, provider, address_of(listener), **settings), listener) as address:
        yield address


@contextlib.contextmanager
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as client:
        yield client


def go(browser: httpx.Client, url: str) -> tuple[httpx.Response, str]:
    """One page, and where it sends the browser."""
    answer = browser.get(url)
    assert answer.status_code == 302, answer.text
    return answer, answer.headers["location"]


async def stored(url: str, browser: httpx.Client) -> SessionInfo:
    """The session whose cookie ``browser`` holds, as a third process sees it."""
    token = parse(browser.cookies["sid"].encode())
    assert token is not None
    async with SessionDB(url, sweep_every=None) as db:
        info = await db.get(token.sid)
    assert info is not None
    return info


def state_keys(info: SessionInfo) -> list[str]:
    return [key for key in info.data if key.startswith("_state_idp_")]


async def check_the_whole_flow(url: str, begins_at: str, ends_at: str) -> None:
    with browser() as visitor:
        visitor.get(f"{begins_at}/cart/apple")
        visitor.get(f"{ends_at}/cart/pear")
        _, to_provider = go(visitor, f"{begins_at}/login")
        before = await stored(url, visitor)
        (key,) = state_keys(before)
        kept = before.data[key]["data"]
        asked = {name: values[0] for name, values in parse_qs(urlsplit(to_provider).query).items()}
        assert kept["nonce"] == asked["nonce"]
        assert kept["redirect_uri"] == f"{ends_at}/callback"
        assert kept["code_verifier"], "PKCE"
        assert key == f"_state_idp_{asked['state']}"
        assert kept["code_verifier"] not in str(visitor.cookies), "the browser holds a token and nothing else"

        _, to_callback = go(visitor, to_provider)
        assert to_callback.startswith(f"{ends_at}/callback?code=")
        answer = visitor.get(to_callback)
        assert answer.status_code == 200, answer.text
        assert answer.json()["user"] == oauth_apps.SUBJECT

        after = await stored(url, visitor)
        assert after.sid == answer.json()["sid"] != before.sid
        assert state_keys(after) == []
        for address in (begins_at, ends_at):
            assert visitor.get(f"{address}/me").json() == {
                "user": oauth_apps.SUBJECT,
                "data": {"cart": ["apple", "pear"], "email": "ann@example.com"},
                "methods": ["fed"],
            }
        repeated = visitor.get(to_callback)
        assert repeated.status_code == 401
        assert "mismatching_state" in repeated.text
    async with SessionDB(url, sweep_every=None) as db:
        ended = await db.get(before.sid)
        assert ended is not None
        assert ended.end_reason == "login"
        assert [one.sid for one in await db.sessions_of(oauth_apps.SUBJECT)] == [after.sid]


async def test_the_whole_flow_on_one_server(url: str, provider: str) -> None:
    with shop(url, provider) as address:
        await check_the_whole_flow(url, address, address)


async def test_another_process_serves_the_callback(url: str, provider: str) -> None:
    here, there = listening(), listening()
    callback = address_of(there)
    with (
        in_a_thread(oauth_apps.shop(url, provider, callback), here) as begins_at,
        in_a_process(SCRIPT, there, url, provider, callback) as ends_at,
    ):
        await check_the_whole_flow(url, begins_at, ends_at)


async def test_the_server_restarts_while_the_user_is_at_the_provider(url: str, provider: str) -> None:
    here, there = listening(), listening()
    callback = address_of(there)
    with browser() as visitor:
        with in_a_thread(oauth_apps.shop(url, provider, callback), here) as begins_at:
            _, to_provider = go(visitor, f"{begins_at}/login")
        _, to_callback = go(visitor, to_provider)
        with in_a_thread(oauth_apps.shop(url, provider, callback), there):
            assert visitor.get(to_callback).json()["user"] == oauth_apps.SUBJECT


async def test_a_callback_in_another_browser_is_refused(url: str, provider: str) -> None:
    with shop(url, provider) as address:
        with browser() as attacker, browser() as victim:
            _, to_provider = go(attacker, f"{address}/login")
            _, to_callback = go(attacker, to_provider)
            victim.get(f"{address}/cart/apple")
            answer = victim.get(to_callback)
            assert answer.status_code == 401
            assert "mismatching_state" in answer.text
            assert victim.get(f"{address}/me").status_code == 401


async def test_a_logged_in_user_signs_in_again(url: str, provider: str) -> None:
    with shop(url, provider) as address, browser() as visitor:
        sids = set()
        for _ in range(2):
            _, to_provider = go(visitor, f"{address}/login")
            _, to_callback = go(visitor, to_provider)
            sids.add(visitor.get(to_callback).json()["sid"])
            assert visitor.get(f"{address}/me").status_code == 200
        assert len(sids) == 1, "the same user keeps the session"


@pytest.mark.parametrize(("exempt", "expected"), [((), 403), (("/callback",), 200)])
async def test_a_provider_that_posts_back_needs_an_exemption(
    url: str, provider: str, exempt: tuple[str, ...], expected: int
) -> None:
    # response_mode=form_post: another site makes an unsafe request with the session.
    with shop(url, provider, exempt=exempt) as address, browser() as visitor:
        _, to_provider = go(visitor, f"{address}/login")
        _, to_callback = go(visitor, to_provider)
        form = {name: values[0] for name, values in parse_qs(urlsplit(to_callback).query).items()}
        headers = {"origin": provider, "sec-fetch-site": "cross-site"}
        assert visitor.post(f"{address}/callback", data=form, headers=headers).status_code == expected
