"""Other middlewares and apps around ours, between ours and the app, and below it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from racing import arrived, cart, gate, logged_in, open_gate, user
from serving import LAST, Browser, Server, eventually
from surfing import living, noticed, seen, sid_of, stored, surfaces

LAYERS = [
    "gzip-inside",
    "gzip-outside",
    "base-inside",
    "base-outside",
    "base-around",
    "copied",
    "replaced",
    "starlette-inside",
    "starlette-outside",
    "two",
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with surfaces(tmp_path_factory.mktemp("wrapping")) as servers:
        yield servers


@pytest.mark.parametrize("layer", LAYERS)
async def test_a_session_lives_its_life_in_every_layer(
    servers: list[Server], client: httpx.AsyncClient, layer: str
) -> None:
    here, there = servers
    browser, who = Browser(client, here.url), user()
    answer = await browser.post(f"/{layer}/thread/put", {"a": 1})
    assert answer.value and answer.headers["cache-control"] == "no-store"
    assert await browser.data(there.url) == {"a": 1}
    for n in range(5):
        answer = await browser.post(f"/{layer}/stream", {"before": {"b": n}, "during": {"c": n}})
        assert (answer.text, answer.value) == ("first last", None)
        assert answer.headers["cache-control"] == "private"
        assert "Cookie" in answer.headers["vary"]
        assert await browser.data(there.url) == {"a": 1, "b": n, "c": n}
    anonymous = browser.token
    assert (await browser.post(f"/{layer}/thread/login/{who}")).value not in (None, "", anonymous)
    assert (await browser.session(there.url))["user"] == who
    assert (await browser.post(f"/{layer}/thread/rotate")).value
    assert (await browser.session(there.url))["user"] == who
    held = browser.twin()
    assert (await browser.post(f"/{layer}/thread/logout")).value == ""
    assert (await held.session(there.url))["reason"] == "logout"


@pytest.mark.parametrize("layer", LAYERS)
async def test_nothing_is_left_of_nobody_in_every_layer(
    servers: list[Server], client: httpx.AsyncClient, layer: str
) -> None:
    before = await living(client, servers[0])
    answer = await Browser(client, servers[0].url).get(f"/{layer}/answer", params={"verb": "skip"})
    assert (answer.text, answer.value) == ("answer", None)
    answer = await Browser(client, servers[0].url).post(f"/{layer}/stream", {})
    assert (answer.text, answer.value) == ("first last", None)
    assert await living(client, servers[1]) == before


@pytest.mark.parametrize("layer", LAYERS)
async def test_an_app_that_fails_leaves_nothing_in_every_layer(
    servers: list[Server], client: httpx.AsyncClient, layer: str
) -> None:
    browser = await cart(client, servers[0], n=0)
    answer = await browser.post(f"/{layer}/broken", {"before": {"n": 1}}, headers=LAST)
    assert (answer.status, answer.value) == (500, None)
    if not layer.startswith("base-"):
        with pytest.raises(httpx.RemoteProtocolError):
            await browser.post(f"/{layer}/stream", {"during": {"n": 2}, "fail": True}, headers=LAST)
    assert await browser.data(servers[1].url) == {"n": 0}


async def test_a_stream_that_breaks_under_a_base_http_middleware(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    """Starlette's ``BaseHTTPMiddleware`` ends a broken stream as if it were whole, and raises only afterwards.

    Outside ours, that changes nothing: we see the exception. Inside, what we see is a response that has succeeded.
    """
    for layer, left in {"base-outside": {"n": 0}, "base-inside": {"n": 2}, "base-around": {"n": 2}}.items():
        browser = await cart(client, servers[0], n=0)
        answer = await browser.post(f"/{layer}/stream", {"during": {"n": 2}, "fail": True}, headers=LAST)
        assert (answer.status, answer.text) == (200, "first ")
        assert await browser.data(servers[1].url) == left


@pytest.mark.parametrize("layer", LAYERS)
async def test_a_background_task_lands_in_every_layer(
    servers: list[Server], client: httpx.AsyncClient, layer: str
) -> None:
    browser, name = await cart(client, servers[0], n=0), gate()
    sid = await sid_of(browser)
    answer = await browser.post(f"/{layer}/background", {"during": {"n": 1}}, headers={"x-name": name})
    assert answer.json == "answered"
    await noticed(client, servers[0], name, "returned")
    assert await stored(client, servers[1], sid) == {"n": 1}


@pytest.mark.parametrize("layer", ["gzip-inside", "gzip-outside"])
async def test_compressed_answers_vary_by_both(servers: list[Server], client: httpx.AsyncClient, layer: str) -> None:
    answer = await (await cart(client, servers[0])).post(f"/{layer}/stream", {})
    assert answer.headers["content-encoding"] == "gzip"
    assert {one.strip() for one in answer.headers["vary"].split(",")} == {"Cookie", "Accept-Encoding"}


@pytest.mark.parametrize("layer", ["base-inside", "base-around"])
async def test_a_layer_can_write_before_the_handler_and_after_it(
    servers: list[Server], client: httpx.AsyncClient, layer: str
) -> None:
    for when in ("before", "after"):
        visitor = Browser(client, servers[0].url)
        answer = await visitor.get(f"/{layer}/answer", params={"verb": "skip"}, headers={"x-layer": when})
        assert answer.headers["x-layer"] == "passed"
        assert answer.value
        assert await visitor.data(servers[1].url) == {f"layer {when}": True}


async def test_a_layer_that_replaces_the_session_does_not_reach_ours(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    visitor = Browser(client, servers[0].url)
    await visitor.post("/replaced/thread/put", {"a": 1})
    assert await visitor.data(servers[1].url) == {"a": 1}
    # request.session is the layer's own dictionary there, which the page refuses.
    assert (await visitor.get("/replaced/answer", headers=LAST)).status == 500


@pytest.mark.parametrize("layer", ["starlette-inside", "starlette-outside"])
async def test_the_cookie_of_starlette_s_own_sessions_is_left_alone(
    servers: list[Server], client: httpx.AsyncClient, layer: str
) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await visitor.post(f"/{layer}/thread/put", {"a": 1})
    assert len(answer.headers.get_list("set-cookie")) == 1
    assert answer.value
    # What is in ours never travels in theirs.
    assert await visitor.data(servers[1].url) == {"a": 1}


async def test_two_of_ours_on_one_cookie_name_are_refused(servers: list[Server], client: httpx.AsyncClient) -> None:
    answer = await Browser(client, servers[0].url).post("/twice/thread/put", {"a": 1}, headers=LAST)
    assert (answer.status, answer.value) == (500, None)
    answer = await Browser(client, servers[0].url).post("/mounts/same/put", headers=LAST)
    assert (answer.status, answer.value) == (500, None)
    await eventually(lambda: "Two SessionMiddlewares share the cookie 'sid'" in servers[0].logged())


@pytest.mark.parametrize("path", ["/sub", "/sub/deeper"])
async def test_a_mounted_app_uses_the_session_of_the_outer_one(
    servers: list[Server], client: httpx.AsyncClient, path: str
) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await visitor.post(f"/mounts{path}/put")
    assert answer.json == {"from": f"/mounts{path}"}
    assert answer.value
    assert await visitor.data(servers[1].url) == {"from": f"/mounts{path}"}


async def test_a_mounted_app_with_its_own_database_opens_it_on_first_use(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0], a=1)
    answer = await browser.post("/mounts/own/put")
    # No server runs the lifespan of a mounted app.
    assert answer.json == {"from": "/mounts/own"}
    assert await seen(client, servers[0], "lifespan") == []
    (cookie,) = answer.headers.get_list("set-cookie")
    assert cookie.startswith("own=")
    assert await browser.data(servers[1].url) == {"a": 1}


async def test_settings_of_paths_do_not_see_where_an_app_is_mounted(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    evil = {"origin": "https://evil.test"}
    visitor = Browser(client, servers[0].url)
    assert (await visitor.post("/mounts/sub/put", headers=evil)).status == 403
    assert (await visitor.post("/mounts/hooks/put", headers=evil)).status == 200
    skipped = await visitor.post("/mounts/skipped/put", headers=LAST)
    assert skipped.status == 500
    # The traceback is logged after the response has left.
    await eventually(lambda: "SessionMiddleware must be installed" in servers[0].logged())


async def test_a_path_that_a_proxy_has_mounted_works_the_same(
    tmp_path_factory: pytest.TempPathFactory, client: httpx.AsyncClient
) -> None:
    with surfaces(tmp_path_factory.mktemp("proxied"), 1, uvicorn={"root_path": "/api"}) as (server,):
        visitor = Browser(client, server.url)
        assert (await visitor.post("/put", {"a": 1})).value
        assert await visitor.data() == {"a": 1}
        answer = await visitor.post("/mounts/sub/put")
        assert answer.json == {"a": 1, "from": "/api/mounts/sub"}
        evil = {"origin": "https://evil.test"}
        assert (await visitor.post("/mounts/sub/put", headers=evil)).status == 403
        assert (await visitor.post("/mounts/hooks/put", headers=evil)).status == 200


async def test_a_layer_that_cancels_a_request_leaves_nothing_half_written(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    here, there = servers
    browser = await logged_in(client, here, user())
    await browser.post("/put", {"n": 0})
    for verb in (None, "logout", "rotate"):
        name = gate()
        script = {"name": name, "before": {"n": 1, "m": 1}, "verb": verb, "gate": f"{name}-never"}
        request = asyncio.create_task(
            browser.twin().post("/deadline/waiting", script, headers={"x-deadline": name, "x-name": name})
        )
        await arrived(client, here, f"{name}-never")
        await open_gate(client, here, name)
        answer = await request
        assert (answer.status, answer.value) == (504, None)
        assert (await seen(client, here, name))[:2] == ["waits", "cancelled"]
        assert await browser.data(there.url) == {"n": 0}
        assert (await browser.session())["user"] is not None


async def test_a_login_that_was_stored_in_a_cancelled_request_is_ended(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    who, name = user(), gate()
    script = {"name": name, "verb": f"await:login:{who}", "gate": f"{name}-never"}
    visitor = Browser(client, servers[0].url)
    request = asyncio.create_task(visitor.post("/deadline/waiting", script, headers={"x-deadline": name}))
    await arrived(client, servers[0], f"{name}-never")
    assert len((await client.get(f"{servers[1].url}/live/{who}")).json()) == 1
    await open_gate(client, servers[0], name)
    assert (await request).status == 504

    async def nobody_left() -> bool:
        return bool((await client.get(f"{servers[1].url}/live/{who}")).json() == [])

    await eventually(nobody_left)
