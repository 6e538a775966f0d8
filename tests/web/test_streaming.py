"""Streams: what changes while a body is sent is stored before its end can be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from racing import arrived, cart, gate, logged_in, open_gate, user
from serving import LAST, Browser, Server, browsing
from surfing import living, noticed, seen, sid_of, stored, surfaces


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with surfaces(tmp_path_factory.mktemp("streaming")) as servers:
        yield servers


@pytest.mark.parametrize("path", ["/stream", "/thread/stream"])
async def test_who_has_read_the_last_byte_sees_what_was_written_meanwhile(
    servers: list[Server], client: httpx.AsyncClient, path: str
) -> None:
    browser = await cart(client, servers[0], n=-1)
    for n in range(50):
        here, there = servers[n % 2], servers[1 - n % 2]
        answer = await browser.post(path, {"during": {"n": n}}, at=here.url)
        assert (answer.text, answer.value) == ("first last", None)
        assert await browser.data(there.url) == {"n": n}


async def test_streams_of_one_session_lose_nothing_of_each_other(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser, name = await cart(client, servers[0], first=0), gate()
    streams = [
        asyncio.create_task(
            browser.post("/stream", {"before": {f"b{n}": n}, "during": {f"d{n}": n}, "gate": name}, at=server.url)
        )
        for n, server in enumerate(servers * 10)
    ]
    for server in servers:
        await arrived(client, server, name, 10)
    for server in servers:
        await open_gate(client, server, name)
    assert {answer.text for answer in await asyncio.gather(*streams)} == {"first last"}
    expected = {"first": 0} | {f"{kind}{n}": n for kind in "bd" for n in range(20)}
    for server in servers:
        assert await browser.data(server.url) == expected


async def test_a_write_before_the_first_byte_sets_the_cookie(servers: list[Server], client: httpx.AsyncClient) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await visitor.post("/stream", {"before": {"a": 1}, "during": {"b": 2}})
    assert answer.value
    assert answer.headers["cache-control"] == "no-store"
    assert await visitor.data(servers[1].url) == {"a": 1, "b": 2}


async def test_what_a_stream_saves_is_there_before_the_stream_ends(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser, name = await cart(client, servers[0], n=0), gate()
    script = {"during": {"n": 1}, "verb": "save", "gate": name}
    stream = asyncio.create_task(browser.twin().post("/stream", script))
    await arrived(client, servers[0], name)
    assert await browser.data(servers[1].url) == {"n": 1}
    await open_gate(client, servers[0], name)
    assert (await stream).text == "first last"


@pytest.mark.security("S6")
@pytest.mark.parametrize(
    "script",
    [
        {"during": {"late": 1}},
        {"verb": "login:eve"},
        {"verb": "await:login:eve"},
        {"verb": "remember:eve"},
    ],
    ids=["write", "login", "awaited login", "remembered login"],
)
async def test_a_session_that_would_be_new_is_refused_once_the_headers_have_left(
    servers: list[Server], client: httpx.AsyncClient, script: dict[str, object]
) -> None:
    visitor, name, before = Browser(client, servers[0].url), gate(), await living(client, servers[0])
    async with client.stream("POST", f"{servers[0].url}/stream", json={**script, "name": name}, headers=LAST) as answer:
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        received = b""
        with pytest.raises(httpx.RemoteProtocolError):
            async for chunk in answer.aiter_raw():
                received += chunk
        # The client can tell that the answer is not whole.
        assert received == b"first "
    assert "stopped by HeadersSent" in await seen(client, servers[0], name)
    assert await living(client, servers[1]) == before
    assert await visitor.session() == {"sid": None, "user": None, "data": {}, "reason": None, "new": True}


@pytest.mark.parametrize("verb", ["rotate", "await:rotate", "login", "await:login"])
async def test_a_new_token_is_refused_once_the_headers_have_left(
    servers: list[Server], client: httpx.AsyncClient, verb: str
) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, servers[0], who)
    held = browser.token
    script = {
        "name": name,
        "before": {"a": 1},
        "during": {"b": 2},
        "verb": f"{verb}:{who}" if verb.endswith("login") else verb,
    }
    with pytest.raises(httpx.RemoteProtocolError):
        await browser.post("/stream", script, headers=LAST)
    assert (await seen(client, servers[0], name))[0] == "HeadersSent"
    after = await browser.session(servers[1].url)
    # The old token is good, and what the failed half had staged is gone.
    assert (after["user"], after["data"]) == (who, {"a": 1})
    assert browser.token == held


async def test_a_stream_can_log_out_and_leaves_a_cookie_that_opens_nothing(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await logged_in(client, servers[0], user())
    answer = await browser.post("/stream", {"during": {"late": 1}, "verb": "logout"})
    assert (answer.text, answer.value) == ("first last", None)
    after = await browser.session(servers[1].url)
    assert (after["user"], after["data"], after["reason"]) == (None, {}, "logout")


async def test_a_stream_that_fails_half_way_keeps_what_left_with_its_headers(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    visitor = Browser(client, servers[0].url)
    script = {"before": {"a": 1}, "during": {"b": 2}, "fail": True}
    async with client.stream("POST", f"{servers[0].url}/stream", json=script, headers=LAST) as answer:
        token = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    visitor.token = token
    assert await visitor.data(servers[1].url) == {"a": 1}
    assert (await visitor.post("/put", {"c": 3})).value is None
    assert await visitor.data(servers[1].url) == {"a": 1, "c": 3}


async def test_a_stream_that_fails_after_it_saved_keeps_what_it_saved(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0], n=0)
    with pytest.raises(httpx.RemoteProtocolError):
        await browser.post("/stream", {"during": {"n": 1}, "verb": "save", "fail": True}, headers=LAST)
    assert await browser.data(servers[1].url) == {"n": 1}


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing_half_written(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    here, there = servers
    browser = await cart(client, here, n=0)
    sid = await sid_of(browser)
    for n in range(1, 11):
        name = gate()
        changes = {f"one{n}": n, f"two{n}": n, f"three{n}": n}
        async with client.stream(
            "POST",
            f"{here.url}/stream",
            json={"name": name, "before": {"n": n}, "during": changes, "gate": name},
            headers={"cookie": f"sid={browser.token}", "x-name": name},
        ) as answer:
            async for chunk in answer.aiter_raw():
                assert chunk == b"first "
                break
            await arrived(client, here, name)
            # What was staged before the headers is there although the body never ends.
            assert (await stored(client, there, sid))["n"] == n
        await noticed(client, here, name, "stopped by CancelledError")
        await noticed(client, here, name, "returned")
        data = await stored(client, there, sid)
        # The app has returned in order, so the whole change is there.
        assert {key: data.get(key) for key in changes} == changes
    assert (await browser.post("/put", {"after": True})).value is None
    assert (await browser.data(there.url))["after"] is True


async def test_new_visitors_who_go_away_in_the_middle_leave_the_server_well(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    here = servers[0]
    name = gate()
    async with browsing() as impatient:
        for n in range(10):
            script = {"before": {"n": n}, "during": {"late": n}, "gate": name}
            request = impatient.build_request("POST", f"{here.url}/stream", json=script, headers={"x-name": name})
            answer = await impatient.send(request, stream=True)
            assert "set-cookie" in answer.headers
            await arrived(client, here, name, n + 1)
    await noticed(client, here, name, "returned", 10)
    visitor = Browser(client, here.url)
    assert (await visitor.post("/stream", {"before": {"a": 1}})).text == "first last"
    assert await visitor.data(servers[1].url) == {"a": 1}
