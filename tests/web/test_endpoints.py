"""``def`` endpoints: they run in threads, and cannot await."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from racing import cart, logged_in, user
from serving import LAST, Browser, Server
from surfing import sid_of, surfaces


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with surfaces(tmp_path_factory.mktemp("endpoints")) as servers:
        yield servers


async def test_a_write_in_a_thread_is_stored_before_the_answer(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    visitor = Browser(client, servers[0].url)
    assert (await visitor.post("/thread/put", {"n": 0})).value
    for n in range(20):
        assert (await visitor.post("/thread/put", {"n": n}, at=servers[n % 2].url)).value is None
        await visitor.post(f"/thread/append/{n}", at=servers[1 - n % 2].url)
        assert await visitor.data(servers[n % 2].url) == {"n": n, "list": [str(one) for one in range(n + 1)]}


async def test_fifty_writes_in_threads_all_land(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await cart(client, servers[0], first=0)
    answers = await asyncio.gather(
        *(browser.post("/thread/put", {f"k{n}": n}, at=servers[n % 2].url) for n in range(50))
    )
    assert {(answer.status, answer.value) for answer in answers} == {(200, None)}
    assert await browser.data() == {"first": 0} | {f"k{n}": n for n in range(50)}


async def test_fifty_visitors_in_threads_get_a_session_each(servers: list[Server], client: httpx.AsyncClient) -> None:
    visitors = [Browser(client, servers[n % 2].url) for n in range(50)]
    await asyncio.gather(*(one.post("/thread/put", {"me": n}) for n, one in enumerate(visitors)))
    assert len({one.token for one in visitors}) == 50
    data = await asyncio.gather(*(one.data(servers[n % 2].url) for n, one in enumerate(visitors)))
    assert data == [{"me": n} for n in range(50)]


async def test_fifty_logins_in_threads(servers: list[Server], client: httpx.AsyncClient) -> None:
    users = [user() for _ in range(50)]
    browsers = [await cart(client, servers[0], me=n) for n in range(50)]
    before = [one.token for one in browsers]
    answers = await asyncio.gather(*(one.post(f"/thread/login/{users[n]}") for n, one in enumerate(browsers)))
    assert [answer.json for answer in answers] == users
    assert all(one.token and one.token != old for one, old in zip(browsers, before, strict=True))
    seen = await asyncio.gather(*(one.session(servers[1].url) for one in browsers))
    assert [(one["user"], one["data"]) for one in seen] == [(users[n], {"me": n}) for n in range(50)]
    for old in before[:5]:
        assert (await Browser(client, servers[0].url, old).session())["reason"] == "login"


async def test_a_login_that_a_thread_staged_is_stored_before_its_answer(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    who = user()
    visitor = Browser(client, servers[0].url)
    answer = await visitor.post(f"/thread/login/{who}")
    assert (answer.json, bool(answer.value)) == (who, True)
    assert (await visitor.session(servers[1].url))["user"] == who


async def test_a_logout_that_a_thread_staged_is_stored_before_its_answer(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await logged_in(client, servers[0], user())
    held = browser.twin()
    answer = await browser.post("/thread/logout")
    assert (answer.json, answer.value) == (None, "")
    assert (await held.session(servers[1].url))["reason"] == "logout"


async def test_a_rotation_that_a_thread_staged_keeps_the_session(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    who = user()
    browser = await logged_in(client, servers[0], who)
    sid, before = await sid_of(browser), browser.token
    assert (await browser.post("/thread/rotate")).value
    seen = await browser.session(servers[1].url)
    assert (seen["sid"], seen["user"]) == (sid, who)
    assert browser.token != before


async def test_fifty_rotations_in_threads_log_nobody_out(servers: list[Server], client: httpx.AsyncClient) -> None:
    who = user()
    browser = await logged_in(client, servers[0], who)
    tabs = [browser.twin() for _ in range(50)]
    answers = await asyncio.gather(*(one.post("/thread/rotate", at=servers[n % 2].url) for n, one in enumerate(tabs)))
    assert {answer.status for answer in answers} == {200}
    tokens = {one.token for one in tabs}
    # Each of them derived the same secret, or came too late to rotate again.
    assert len(tokens - {browser.token}) == 1
    for one in tabs[:5]:
        assert (await one.session(servers[1].url))["user"] == who


async def test_a_thread_can_wait_for_a_save(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await cart(client, servers[0], n=0)
    assert (await browser.post("/thread/save", {"n": 1}, headers=LAST)).status == 500
    # The save had landed when the handler raised.
    assert await browser.data(servers[1].url) == {"n": 1}


async def test_fifty_threads_count_right(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await cart(client, servers[0], n=0)
    answers = await asyncio.gather(*(browser.post("/thread/increment", at=servers[n % 2].url) for n in range(50)))
    assert sorted(answer.json for answer in answers) == list(range(1, 51))
    assert await browser.data() == {"n": 50}
