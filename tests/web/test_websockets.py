"""WebSockets: the session in the handshake, in a long socket and at its end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from racing import arrived, cart, events, gate, logged_in, open_gate, user
from serving import Browser, Server, eventually
from surfing import living, noticed, sid_of, stored, surfaces
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with surfaces(tmp_path_factory.mktemp("websockets")) as servers:
        yield servers


@asynccontextmanager
async def socket(
    server: Server, browser: Browser | None = None, path: str = "/socket", headers: Any = (), **settings: Any
) -> AsyncIterator[ClientConnection]:
    sent = dict(headers)
    if browser is not None and browser.token is not None:
        sent["cookie"] = f"sid={browser.token}"
    query = urlencode({key: json.dumps(value) if key == "put" else value for key, value in settings.items()})
    url = f"{server.url.replace('http', 'ws', 1)}{path}?{query}"
    async with connect(url, additional_headers=sent, open_timeout=30, proxy=None) as ws:
        yield ws


async def told(ws: ClientConnection, **command: Any) -> dict[str, Any]:
    await ws.send(json.dumps(command))
    answer: dict[str, Any] = json.loads(await ws.recv())
    return answer


def cookies(headers: Any) -> list[str]:
    return [one for one in headers.get_all("set-cookie") if one.startswith("sid=")]


def token_in(headers: Any) -> str:
    (cookie,) = cookies(headers)
    value: str = cookie.partition(";")[0].removeprefix("sid=")
    return value


async def test_the_session_is_there_in_the_handshake(servers: list[Server], client: httpx.AsyncClient) -> None:
    who = user()
    browser = await logged_in(client, servers[0], who)
    await browser.post("/put", {"a": 1})
    for server in servers:
        async with socket(server, browser) as ws:
            assert cookies(ws.response.headers) == []
            seen = await told(ws)
            assert (seen["user"], seen["data"]) == (who, {"a": 1})


async def test_a_socket_that_writes_nothing_leaves_nothing(servers: list[Server], client: httpx.AsyncClient) -> None:
    before = await living(client, servers[0])
    async with socket(servers[0]) as ws:
        assert cookies(ws.response.headers) == []
        assert await told(ws) == {"sid": None, "user": None, "data": {}}
    async with socket(servers[0], path="/quiet-socket") as ws:
        assert cookies(ws.response.headers) == []
        assert "vary" not in ws.response.headers
        assert json.loads(await ws.recv()) == {"cookie": None}
    assert await living(client, servers[1]) == before


async def test_a_session_made_at_accept_comes_with_the_handshake(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    async with socket(servers[0], put={"a": 1}) as ws:
        browser = Browser(client, servers[1].url, token_in(ws.response.headers))
        # Stored before the handshake was answered.
        assert await browser.data() == {"a": 1}
    who = user()
    async with socket(servers[0], browser, verb=f"login:{who}") as ws:
        assert token_in(ws.response.headers) != browser.token
        browser.token = token_in(ws.response.headers)
        seen = await browser.session()
        assert (seen["user"], seen["data"]) == (who, {"a": 1})


async def test_changes_before_accept_are_stored_when_it_is_answered(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0], n=0)
    async with socket(servers[0], browser, put={"n": 1}) as ws:
        assert cookies(ws.response.headers) == []
        assert await browser.data(servers[1].url) == {"n": 1}


async def test_a_rotation_at_accept_comes_with_the_handshake(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await cart(client, servers[0], n=0)
    async with socket(servers[0], browser, verb="rotate") as ws:
        fresh = Browser(client, servers[1].url, token_in(ws.response.headers))
        assert fresh.token != browser.token
        assert await fresh.data() == {"n": 0}


async def test_a_logout_at_accept_removes_the_cookie(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await logged_in(client, servers[0], user())
    async with socket(servers[0], browser, verb="logout") as ws:
        assert token_in(ws.response.headers) == ""
        assert "Max-Age=0" in cookies(ws.response.headers)[0]
        assert (await browser.session(servers[1].url))["reason"] == "logout"


async def test_a_long_socket_saves_at_its_own_points(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await cart(client, servers[0], n=0)
    async with socket(servers[0], browser) as ws:
        for n in range(1, 21):
            await told(ws, put={"n": n}, verb="save")
            assert await browser.data(servers[1].url) == {"n": n}
        await told(ws, put={"n": -1})
        assert await browser.data(servers[1].url) == {"n": 20}


@pytest.mark.parametrize("who_closes", ["client", "server"])
async def test_what_a_socket_changed_is_stored_at_its_end(
    servers: list[Server], client: httpx.AsyncClient, who_closes: str
) -> None:
    browser, name = await cart(client, servers[0], n=0), gate()
    sid = await sid_of(browser)
    async with socket(servers[0], browser, headers={"x-name": name}) as ws:
        await told(ws, put={"n": 1, "m": 2}, last=who_closes == "server")
        if who_closes == "server":
            await ws.wait_closed()
    await noticed(client, servers[0], name, "returned")
    assert await stored(client, servers[1], sid) == {"n": 1, "m": 2}


async def test_a_connection_that_breaks_ends_as_one_that_closes(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser, name = await cart(client, servers[0], n=0), gate()
    async with socket(servers[0], browser, headers={"x-name": name}) as ws:
        await told(ws, put={"n": 1})
        ws.transport.abort()
    await noticed(client, servers[0], name, "returned")
    assert await browser.data(servers[1].url) == {"n": 1}


async def test_a_socket_that_fails_loses_what_it_had_not_saved(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser, name = await cart(client, servers[0], n=0), gate()
    async with socket(servers[0], browser, headers={"x-name": name}) as ws:
        await told(ws, put={"saved": 1}, verb="save")
        with pytest.raises(ConnectionClosedError):
            await told(ws, put={"staged": 1}, fail=True)
    await noticed(client, servers[0], name, "raised RuntimeError")
    assert await browser.data(servers[1].url) == {"n": 0, "saved": 1}


async def test_sockets_and_requests_of_one_session_all_land(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await cart(client, servers[0], first=0)
    async with socket(servers[0], browser) as here, socket(servers[1], browser) as there:
        await told(here, put={"here": 1}, verb="save")
        await told(there, put={"there": 1}, verb="save")
        await browser.post("/put", {"request": 1})
        await told(here, put={"here": 2}, verb="save")
    assert await browser.data() == {"first": 0, "here": 2, "there": 1, "request": 1}


@pytest.mark.security("W3")
@pytest.mark.parametrize("script", [{"verb": "login:eve"}, {"verb": "rotate"}, {"put": {"a": 1}}])
async def test_nothing_that_needs_a_cookie_works_in_an_open_socket(
    servers: list[Server], client: httpx.AsyncClient, script: dict[str, Any]
) -> None:
    before = await living(client, servers[0])
    async with socket(servers[0]) as ws:
        assert await told(ws, **script) == {"error": "HeadersSent"}
        assert (await told(ws))["user"] is None
    assert await living(client, servers[1]) == before


@pytest.mark.security("L7", "L8")
@pytest.mark.parametrize("how", ["logout", "revoke"])
async def test_an_open_socket_cannot_write_into_a_session_that_was_ended(
    servers: list[Server], client: httpx.AsyncClient, how: str
) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, servers[0], who)
    sid, late = await sid_of(browser), browser.twin()
    async with (
        socket(servers[0], late) as saving,
        socket(servers[0], late, headers={"x-name": name}) as ending,
    ):
        assert (await told(ending, put={"late": True}))["user"] == who
        await browser.post("/logout" if how == "logout" else f"/revoke/{who}", at=servers[1].url)
        assert await told(saving, put={"late": True}, verb="save") == {"error": "SessionEnded"}
        # It may say so, and is closed.
        with pytest.raises(ConnectionClosedError) as closed:
            await told(saving)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
    await noticed(client, servers[0], name, "returned")
    reason = "logout" if how == "logout" else "revoked"
    assert [one["reason"] for one in await events(client, servers[0], sid, "write_after_end")] == [reason, reason]
    assert "late" not in await stored(client, servers[1], sid)


async def test_a_handshake_with_a_dead_token_is_anonymous(servers: list[Server], client: httpx.AsyncClient) -> None:
    who = user()
    browser = await logged_in(client, servers[0], who)
    await browser.post(f"/revoke/{who}", at=servers[1].url)
    async with socket(servers[0], browser) as ws:
        assert cookies(ws.response.headers) == []
        assert (await told(ws))["user"] is None


@pytest.mark.security("W3")
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://sub.shop.test"},
    ],
)
async def test_another_site_cannot_open_a_socket_with_our_cookie(
    servers: list[Server], client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    browser = await logged_in(client, servers[0], user())
    with pytest.raises(InvalidStatus) as refused:
        async with socket(servers[0], browser, headers=headers, put={"stolen": True}):
            pass
    assert refused.value.response.status_code == 403
    assert cookies(refused.value.response.headers) == []
    assert "stolen" not in await browser.data()
    # Without the cookie it is a stranger's socket like any other.
    async with socket(servers[0], headers=headers) as ws:
        assert (await told(ws))["user"] is None


async def test_our_own_pages_can_open_a_socket(servers: list[Server], client: httpx.AsyncClient) -> None:
    who = user()
    browser = await logged_in(client, servers[0], who)
    for headers in ({"origin": servers[0].url}, {"sec-fetch-site": "same-origin", "origin": servers[0].url}):
        async with socket(servers[0], browser, headers=headers) as ws:
            assert (await told(ws))["user"] == who


async def test_a_denial_commits_like_any_answer(servers: list[Server], client: httpx.AsyncClient) -> None:
    with pytest.raises(InvalidStatus) as denied:
        async with socket(servers[0], put={"denied": 1}, deny=402):
            pass
    response = denied.value.response
    assert (response.status_code, response.body) == (402, b"denied by the app")
    assert response.headers["cache-control"] == "no-store"
    browser = Browser(client, servers[1].url, token_in(response.headers))
    assert await browser.data() == {"denied": 1}
    with pytest.raises(InvalidStatus) as denied:
        async with socket(servers[0], browser, put={"denied": 2}, deny=402):
            pass
    assert cookies(denied.value.response.headers) == []
    assert await browser.data() == {"denied": 2}


async def test_an_awaited_login_in_a_handshake_that_is_closed_is_ended(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    who, name = user(), gate()
    with pytest.raises(InvalidStatus) as closed:
        async with socket(servers[0], verb=f"await:login:{who}", close="1", headers={"x-name": name}):
            pass
    assert closed.value.response.status_code == 403
    await noticed(client, servers[0], name, "returned")

    async def gone() -> bool:
        return bool((await client.get(f"{servers[1].url}/live/{who}")).json() == [])

    await eventually(gone)


async def test_a_gate_in_a_socket_holds_up_nobody_else(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser, name = await cart(client, servers[0], n=0), gate()
    async with socket(servers[0], browser) as ws:
        await ws.send(json.dumps({"put": {"slow": 1}, "gate": name, "verb": "save"}))
        await arrived(client, servers[0], name)
        await browser.post("/put", {"n": 1})
        await open_gate(client, servers[0], name)
        # The socket's own view is that of its handshake, and only what it changed is written.
        assert json.loads(await ws.recv())["data"] == {"n": 0, "slow": 1}
    assert await browser.data() == {"n": 1, "slow": 1}
