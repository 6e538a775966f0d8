"""Under real uvicorn: a socket or event stream that is open ends with its session, whoever ends it, and where."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from racing import arrived, gate, logged_in, open_gate, user
from serving import LIMIT, Browser, Server, eventually, serving, sqlite_url
from surfing import sid_of
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


@pytest.fixture(scope="module")
def folder_url(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    folder = tmp_path_factory.mktemp("live")
    return folder, sqlite_url(folder)


@pytest.fixture(scope="module")
def slow(folder_url: tuple[Any, str]) -> Iterator[Server]:
    """A server that looks sessions up once a minute: what it notices sooner, it was told."""
    folder, url = folder_url
    with serving("live", folder, name="slow", url=url, db={"timeout": 30}) as (server,):
        yield server


@pytest.fixture(scope="module")
def quick(folder_url: tuple[Any, str]) -> Iterator[Server]:
    """Another process on the same database, which looks them up every second."""
    folder, url = folder_url
    settings = {"recheck": 1.0}
    with serving("live", folder, name="quick", url=url, db={"timeout": 30}, middleware=settings) as (server,):
        yield server


@asynccontextmanager
async def socket(server: Server, path: str, browser: Browser) -> AsyncIterator[ClientConnection]:
    url = f"{server.url.replace('http', 'ws', 1)}{path}"
    headers = {"cookie": f"sid={browser.token}"} if browser.token else {}
    async with connect(url, additional_headers=headers, open_timeout=30, proxy=None) as ws:
        yield ws


async def told(ws: ClientConnection, **command: Any) -> Any:
    await ws.send(json.dumps(command))
    return json.loads(await ws.recv())


async def closed(ws: ClientConnection) -> tuple[int | None, str]:
    """How it was closed; whatever is sent before is read."""
    with pytest.raises(ConnectionClosed) as gone:
        async with asyncio.timeout(LIMIT):
            while True:
                await ws.recv()
    assert gone.value.rcvd is not None
    return gone.value.rcvd.code, gone.value.rcvd.reason


async def noted(client: httpx.AsyncClient, server: Server, name: str, what: str) -> None:
    async def look() -> bool:
        return what in (await client.get(f"{server.url}/noted/{name}")).json()

    await eventually(look)


async def end(how: str, browser: Browser, who: str, at: Server) -> None:
    """End the session of ``browser`` in the process ``at``."""
    if how == "logout":
        assert (await browser.twin().post("/logout", at=at.url)).status == 200
    elif how == "revoke":
        assert (await browser.client.post(f"{at.url}/revoke-one/{await sid_of(browser)}")).json() is True
    elif how == "revoke all":
        assert (await browser.client.post(f"{at.url}/revoke/{who}")).json() == 1
    else:
        # The same browser logs in as somebody else.
        assert (await browser.twin().post(f"/login/{user()}", at=at.url)).status == 200


REASONS = {"logout": "logout", "revoke": "revoked", "revoke all": "revoked", "login": "login"}


# -- sockets --------------------------------------------------------------------------------------------------


@pytest.mark.security("W3", "L8")
@pytest.mark.parametrize("how", list(REASONS))
async def test_an_end_in_the_same_process_closes_a_socket_at_once(
    slow: Server, client: httpx.AsyncClient, how: str
) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)
    other = await logged_in(client, slow, user())
    async with socket(slow, f"/echo/{name}", browser) as ws, socket(slow, f"/echo/{gate()}", other) as another:
        assert json.loads(await ws.recv()) == {"user": who}
        await end(how, browser, who, slow)
        assert await closed(ws) == (4401, REASONS[how])
        # Nobody else's.
        await another.recv()
        assert (await told(another))["user"] is not None
    await noted(client, slow, name, f"disconnect 4401 {REASONS[how]}")


@pytest.mark.security("W3", "L8")
@pytest.mark.parametrize("path", ["echo", "feed", "unguarded"])
async def test_an_end_in_another_process_closes_it_when_it_is_looked_up(
    slow: Server, quick: Server, client: httpx.AsyncClient, path: str
) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)
    tracebacks = quick.logged().count("Traceback")
    async with socket(quick, f"/{path}/{name}", browser) as ws, socket(quick, f"/{path}/{name}", browser) as twin:
        await end("revoke all", browser, who, slow)
        assert await closed(ws) == (4401, "revoked")
        assert await closed(twin) == (4401, "revoked")
    left = {"echo": "disconnect 4401 revoked", "feed": "disconnect 1006", "unguarded": "left"}
    await noted(client, quick, name, left[path])
    # An endpoint that lets the disconnect through has done nothing wrong.
    assert quick.logged().count("Traceback") == tracebacks


@pytest.mark.security("W3")
async def test_a_socket_that_only_sends_is_stopped_at_once_too(slow: Server, client: httpx.AsyncClient) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)
    async with socket(slow, f"/feed/{name}", browser) as ws:
        assert json.loads(await ws.recv())["user"] == who
        await end("logout", browser, who, slow)
        assert await closed(ws) == (4401, "logout")
    await noted(client, slow, name, "disconnect 1006")


async def test_a_living_session_s_socket_stays_open_through_many_look_ups(
    quick: Server, client: httpx.AsyncClient
) -> None:
    who = user()
    browser = await logged_in(client, quick, who)
    async with socket(quick, f"/echo/{gate()}", browser) as ws:
        await ws.recv()

        async def looked_up() -> int:
            return int((await client.get(f"{quick.url}/stats")).json().get("rechecks", 0))

        before = await looked_up()

        async def three_times() -> bool:
            return await looked_up() >= before + 3

        await eventually(three_times)
        assert await told(ws) == {"user": who}
        # A rotation is no end.
        assert (await browser.post("/rotate")).value
        assert await told(ws) == {"user": who}


async def test_a_socket_that_logs_out_itself_may_say_goodbye(slow: Server, client: httpx.AsyncClient) -> None:
    who = user()
    browser = await logged_in(client, slow, who)
    async with (
        socket(slow, f"/echo/{gate()}", browser) as ws,
        socket(slow, f"/echo/{gate()}", browser) as twin,
    ):
        assert await ws.recv() == await twin.recv()
        assert await told(ws, logout=True) == {"user": None}
        # The other socket of that session did not ask for it.
        assert await closed(twin) == (4401, "logout")
        assert await told(ws) == {"user": None}


async def test_a_socket_that_revokes_its_own_session_by_the_database_is_closed(
    slow: Server, client: httpx.AsyncClient
) -> None:
    browser = await logged_in(client, slow, user())
    async with socket(slow, f"/echo/{gate()}", browser) as ws:
        await ws.recv()
        await ws.send(json.dumps({"revoke": True}))
        assert await closed(ws) == (4401, "revoked")


@pytest.mark.security("W3")
async def test_a_socket_that_learns_of_the_end_by_saving_is_closed(
    slow: Server, quick: Server, client: httpx.AsyncClient
) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)
    async with socket(slow, f"/unguarded/{gate()}", browser) as twin, socket(slow, f"/echo/{name}", browser) as ws:
        await ws.recv()
        await end("revoke all", browser, who, quick)
        await ws.send(json.dumps({"save": True}))
        # This process knows now, so all its sockets of that session are told.
        assert await closed(ws) == await closed(twin) == (4401, "revoked")


async def test_a_request_with_the_dead_token_tells_the_sockets_too(
    slow: Server, quick: Server, client: httpx.AsyncClient
) -> None:
    who = user()
    browser = await logged_in(client, slow, who)
    async with socket(slow, f"/echo/{gate()}", browser) as ws:
        await ws.recv()
        await end("revoke all", browser, who, quick)
        assert (await browser.session(slow.url))["user"] is None
        assert await closed(ws) == (4401, "revoked")


@pytest.mark.security("W3")
async def test_a_session_that_ends_during_the_handshake_is_denied(slow: Server, client: httpx.AsyncClient) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)

    async def shake_hands() -> int:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(slow, f"/handshake/{name}", browser):
                pass
        return refused.value.response.status_code

    shaking = asyncio.create_task(shake_hands())
    await arrived(client, slow, name)
    await end("revoke all", browser, who, slow)
    await open_gate(client, slow, name)
    assert await shaking == 401
    # The handler was let go on, to the first thing that it sends.
    await noted(client, slow, name, "disconnect 1006")


@pytest.mark.security("W3")
async def test_a_login_in_the_handshake_is_what_is_watched(slow: Server, client: httpx.AsyncClient) -> None:
    old, new, name = user(), user(), gate()
    browser = await logged_in(client, slow, old)
    await open_gate(client, slow, name)
    async with socket(slow, f"/handshake/{name}?login={new}", browser) as ws:
        # The old session has ended by this login, and this socket is not its any more.
        assert json.loads(await ws.recv()) == {"user": new}
        await client.post(f"{slow.url}/revoke/{new}")
        assert await closed(ws) == (4401, "revoked")


@pytest.mark.security("W3")
async def test_who_asks_for_the_session_when_it_has_ended_is_cut_off(slow: Server, client: httpx.AsyncClient) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)
    async with socket(slow, f"/stranger/{name}", browser) as ws:
        await ws.send("hello")
        assert json.loads(await ws.recv()) == {"user": "hello"}
        await end("logout", browser, who, slow)
        # It has not used the session, so it is nobody's socket yet.
        await ws.send("still there")
        assert json.loads(await ws.recv()) == {"user": "still there"}
        await ws.send("who")
        assert await closed(ws) == (4401, "logout")
    await noted(client, slow, name, "disconnect 1006")


async def test_an_anonymous_socket_is_left_alone(slow: Server, client: httpx.AsyncClient) -> None:
    visitor = Browser(client, slow.url)
    await visitor.post("/put", {"cart": ["tea"]})
    async with socket(slow, f"/echo/{gate()}", visitor) as ws:
        await ws.recv()
        await client.post(f"{slow.url}/revoke-one/{await sid_of(visitor)}")
        assert await told(ws) == {"user": None}


async def test_many_sockets_of_many_users(slow: Server, quick: Server, client: httpx.AsyncClient) -> None:
    names = [user() for _ in range(20)]
    browsers = [await logged_in(client, slow, who) for who in names]
    connections = [connection for browser in browsers for connection in [socket(quick, "/echo/many", browser)] * 1]
    sockets = [await connection.__aenter__() for connection in connections]
    try:
        for who in names[::2]:
            await client.post(f"{slow.url}/revoke/{who}")
        assert {await closed(ws) for ws in sockets[::2]} == {(4401, "revoked")}
        for ws, who in zip(sockets[1::2], names[1::2], strict=True):
            await ws.recv()
            assert await told(ws) == {"user": who}
    finally:
        for connection in connections:
            await connection.__aexit__(None, None, None)


# -- event streams --------------------------------------------------------------------------------------------


@asynccontextmanager
async def stream(server: Server, path: str, browser: Browser) -> AsyncIterator[httpx.Response]:
    headers = {"cookie": f"sid={browser.token}"}
    async with browser.client.stream("GET", f"{server.url}{path}", headers=headers) as response:
        yield response


async def rest(chunks: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(LIMIT):
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.security("L8")
@pytest.mark.parametrize("query", ["", "?quiet=1"])
@pytest.mark.parametrize("where", ["same process", "another"])
async def test_an_event_stream_ends_with_its_session(
    slow: Server, quick: Server, client: httpx.AsyncClient, where: str, query: str
) -> None:
    server = slow if where == "same process" else quick
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)
    async with stream(server, f"/events/{name}{query}", browser) as response:
        chunks = response.aiter_raw()
        assert (await anext(chunks)).startswith(b"data: 0")
        await end("revoke all", browser, who, slow)
        # It ends in order, as a response that is whole.
        await rest(chunks)
    # And the generator is not left behind.
    await noted(client, server, name, "stopped")
    assert "RuntimeError" not in server.logged()


async def test_a_living_session_s_stream_goes_on(quick: Server, client: httpx.AsyncClient) -> None:
    browser = await logged_in(client, quick, user())
    name = gate()
    async with stream(quick, f"/events/{name}", browser) as response:
        seen = 0
        async for chunk in response.aiter_raw():
            seen += chunk.count(b"data:")
            if seen > 200:
                break
    await noted(client, quick, name, "stopped")


async def test_other_streams_and_strangers_are_left_alone(slow: Server, client: httpx.AsyncClient) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, slow, who)
    async with (
        stream(slow, f"/download/{name}", browser) as download,
        stream(slow, f"/strange-events/{name}", browser) as events,
    ):
        body, ticks = download.aiter_raw(), events.aiter_raw()
        assert await anext(body) == b"first "
        await end("revoke all", browser, who, slow)
        await open_gate(client, slow, name)
        assert await rest(body) == b"last"
        for _ in range(20):
            await anext(ticks)


async def test_a_stream_below_starlette_s_base_middleware_ends_too(
    folder_url: tuple[Any, str], client: httpx.AsyncClient
) -> None:
    folder, url = folder_url
    with serving("live", folder, name="between", url=url, between=True) as (server,):
        who, name = user(), gate()
        browser = await logged_in(client, server, who)
        async with stream(server, f"/events/{name}", browser) as response:
            chunks = response.aiter_raw()
            await anext(chunks)
            await end("logout", browser, who, server)
            await rest(chunks)
        await noted(client, server, name, "stopped")
        async with socket(server, f"/echo/{name}", await logged_in(client, server, who)) as ws:
            await ws.recv()
            await client.post(f"{server.url}/revoke/{who}")
            assert await closed(ws) == (4401, "revoked")
