"""Files: sent by the app, by the server (``http.response.pathsend``), in whole or in part."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from racing import cart, gate
from serving import Browser, Server
from surface_pages import ASSET
from surfing import seen, sid_of, surfaces

FILE = ASSET.read_bytes()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with surfaces(tmp_path_factory.mktemp("files")) as servers:
        yield servers


async def test_a_file_sets_the_cookie_of_a_new_session(servers: list[Server], client: httpx.AsyncClient) -> None:
    for prefix in ("", "/pathsend"):
        visitor = Browser(client, servers[0].url)
        answer = await visitor.get(prefix + "/file", params={"put": '{"a": 1}'}, headers={"x-name": gate()})
        assert answer.response.content == FILE
        assert answer.value
        assert answer.headers["cache-control"] == "no-store"
        assert int(answer.headers["content-length"]) == len(FILE)
        assert await visitor.data(servers[1].url) == {"a": 1}


async def test_a_file_that_changes_nothing_keeps_its_own_caching(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    answer = await (await cart(client, servers[0])).get("/file")
    assert answer.value is None
    assert answer.headers["cache-control"] == "public, max-age=60"
    assert answer.headers["vary"] == "Cookie"
    assert answer.headers["etag"]


async def test_who_has_the_whole_file_sees_what_was_written(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser = await cart(client, servers[0], n=-1)
    for n in range(25):
        here, there = servers[n % 2], servers[1 - n % 2]
        prefix = ("", "/pathsend")[n // 2 % 2]
        params = {"put": f'{{"n": {n}}}'}
        answer = await browser.get(f"{prefix}/file", at=here.url, params=params, headers={"x-name": gate()})
        assert answer.response.content == FILE
        assert await browser.data(there.url) == {"n": n}


async def test_what_changed_after_the_headers_is_stored_before_the_server_sends_the_file(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0], n=0)
    sid = await sid_of(browser)
    for n in range(1, 11):
        name = gate()
        headers = {"x-name": name, "x-sid": sid}
        answer = await browser.post("/pathsend/late-file", {"n": n}, headers=headers)
        assert answer.response.content == FILE
        # Looked up when the message came, before one byte of the file had left.
        assert (await seen(client, servers[0], name))[0] == f"pathsend with {{'n': {n}}}"
        assert await browser.data(servers[1].url) == {"n": n}


@pytest.mark.parametrize("prefix", ["", "/pathsend"])
async def test_a_part_of_a_file_commits_like_the_whole(
    servers: list[Server], client: httpx.AsyncClient, prefix: str
) -> None:
    visitor = Browser(client, servers[0].url)
    params = {"put": '{"part": 1}'}
    answer = await visitor.get(f"{prefix}/file", params=params, headers={"range": "bytes=3-9", "x-name": gate()})
    assert (answer.status, answer.response.content) == (206, FILE[3:10])
    assert answer.headers["content-range"] == f"bytes 3-9/{len(FILE)}"
    assert answer.value
    assert await visitor.data(servers[1].url) == {"part": 1}
    params = {"put": '{"part": 2}'}
    answer = await visitor.get(f"{prefix}/file", params=params, headers={"range": "bytes=0-1,5-6", "x-name": gate()})
    assert answer.status == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    assert answer.value is None
    assert await visitor.data(servers[1].url) == {"part": 2}


async def test_a_part_that_is_not_there_commits_too(servers: list[Server], client: httpx.AsyncClient) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await visitor.get("/file", params={"put": '{"a": 1}'}, headers={"range": f"bytes={len(FILE)}-"})
    assert (answer.status, bool(answer.value)) == (416, True)
    assert await visitor.data(servers[1].url) == {"a": 1}


async def test_the_head_of_a_file_commits_too(servers: list[Server], client: httpx.AsyncClient) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await visitor.send("HEAD", "/file", params={"put": '{"a": 1}'})
    assert (answer.status, answer.text, bool(answer.value)) == (200, "", True)
    assert int(answer.headers["content-length"]) == len(FILE)
    assert await visitor.data(servers[1].url) == {"a": 1}


async def test_a_client_that_goes_away_in_a_file_leaves_the_session_well(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0], n=0)
    for n in range(1, 6):
        async with client.stream(
            "GET",
            f"{servers[0].url}/file",
            params={"put": f'{{"n": {n}}}'},
            headers={"cookie": f"sid={browser.token}"},
        ) as answer:
            assert answer.status_code == 200
        assert await browser.data(servers[1].url) == {"n": n}
