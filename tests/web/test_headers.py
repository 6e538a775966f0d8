"""What a response says of the session in its headers, whatever its method and status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from racing import cart, logged_in, user
from serving import LAST, Answer, Browser, Server, eventually
from surfing import living, sid_of, surfaces


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with surfaces(tmp_path_factory.mktemp("headers")) as servers:
        yield servers


async def ask(browser: Browser, method: str = "GET", path: str = "/answer", **params: Any) -> Answer:
    for name in ("put", "headers"):
        if name in params:
            params[name] = json.dumps(params[name])
    return await browser.send(method, path, params=params)


def fields(answer: Answer, name: str) -> list[str]:
    return answer.headers.get_list(name, split_commas=True)


# -- methods and statuses -------------------------------------------------------------------------------------


@pytest.mark.security("H1", "H2", "H4")
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
@pytest.mark.parametrize("status", [200, 204, 301, 304, 404, 422, 500])
async def test_every_answer_commits_and_carries_the_cookie(
    servers: list[Server], client: httpx.AsyncClient, method: str, status: int
) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await ask(visitor, method, put={"a": 1}, status=status)
    assert answer.status == status
    assert answer.value
    assert answer.headers["cache-control"] == "no-store"
    assert fields(answer, "vary") == ["Cookie"]
    assert await visitor.data(servers[1].url) == {"a": 1}
    answer = await ask(visitor, method, put={"b": 2}, status=status)
    assert (answer.status, answer.value) == (status, None)
    assert answer.headers["cache-control"] == "private"
    assert await visitor.data(servers[1].url) == {"a": 1, "b": 2}


@pytest.mark.parametrize("status", [200, 304])
@pytest.mark.parametrize("verb", ["logout", "await:logout"])
async def test_a_head_or_an_unmodified_page_can_log_out(
    servers: list[Server], client: httpx.AsyncClient, status: int, verb: str
) -> None:
    browser = await logged_in(client, servers[0], user())
    held = browser.twin()
    answer = await ask(browser, "HEAD", verb=verb, status=status)
    assert (answer.status, answer.text, answer.value) == (status, "", "")
    assert (await held.session(servers[1].url))["reason"] == "logout"


async def test_a_redirect_after_a_login_carries_the_cookie(servers: list[Server], client: httpx.AsyncClient) -> None:
    visitor, who = Browser(client, servers[0].url), user()
    answer = await visitor.post(f"/go/{who}")
    assert (answer.status, answer.headers["location"], bool(answer.value)) == (303, "/session", True)
    assert (await visitor.session(servers[1].url))["user"] == who


# -- caching --------------------------------------------------------------------------------------------------


@pytest.mark.security("H3")
async def test_an_answer_that_did_not_use_the_session_says_nothing_of_it(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0])
    caching = [["Cache-Control", "public, max-age=60"], ["Vary", "Accept-Language"]]
    answer = await ask(browser, verb="skip", headers=caching)
    assert answer.value is None
    assert answer.headers["cache-control"] == "public, max-age=60"
    assert fields(answer, "vary") == ["Accept-Language"]
    answer = await ask(browser, verb="skip")
    assert "cache-control" not in answer.headers
    assert "vary" not in answer.headers


@pytest.mark.security("H1", "H4")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([["Vary", "Accept"]], ["Accept", "Cookie"]),
        ([["vary", "accept, cookie"]], ["accept", "cookie"]),
        ([["Vary", "*"]], ["*"]),
        ([["VARY", "COOKIE"]], ["COOKIE"]),
    ],
)
async def test_vary_names_the_cookie_once(
    servers: list[Server], client: httpx.AsyncClient, given: list[list[str]], expected: list[str]
) -> None:
    browser = await cart(client, servers[0])
    assert fields(await ask(browser, headers=given), "vary") == expected


@pytest.mark.security("H2")
async def test_the_app_s_own_caching_stands_unless_a_cookie_is_set(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0])
    public = [["Cache-Control", "public, max-age=60"]]
    answer = await ask(browser, headers=public)
    assert fields(answer, "cache-control") == ["public", "max-age=60"]
    answer = await ask(Browser(client, servers[0].url), put={"a": 1}, headers=public)
    assert answer.value
    assert fields(answer, "cache-control") == ["no-store"]
    await eventually(lambda: "was sent with no-store instead" in servers[0].logged())


@pytest.mark.security("H4")
async def test_cookies_of_the_app_are_left_alone(servers: list[Server], client: httpx.AsyncClient) -> None:
    own = [["Set-Cookie", "theme=dark"], ["Set-Cookie", "lang=sv; Path=/"]]
    answer = await ask(Browser(client, servers[0].url), put={"a": 1}, headers=own)
    assert [one.partition(";")[0].partition("=")[0] for one in answer.headers.get_list("set-cookie")] == [
        "theme",
        "lang",
        "sid",
    ]


# -- the cookie itself ----------------------------------------------------------------------------------------


@pytest.mark.security("C1", "C10")
@pytest.mark.parametrize(
    ("name", "full_name", "attributes"),
    [
        ("host", "__Host-sid", "Path=/; Secure; HttpOnly; SameSite=Lax"),
        ("plain", "sid", "Path=/; HttpOnly; SameSite=Lax"),
        ("strict", "__Host-sid", "Path=/; Secure; HttpOnly; SameSite=Strict"),
        ("none", "__Host-sid", "Path=/; Secure; HttpOnly; SameSite=None"),
        ("partitioned", "__Host-sid", "Path=/; Secure; HttpOnly; SameSite=None; Partitioned"),
        ("domain", "__Secure-sid", "Path=/; Domain=example.com; Secure; HttpOnly; SameSite=Lax"),
        ("path", "__Secure-sid", "Path=/cookie/path; Secure; HttpOnly; SameSite=Lax"),
        (
            "all",
            "__Secure-shop",
            "Path=/cookie; Domain=example.com; Secure; HttpOnly; SameSite=Strict; Partitioned",
        ),
        ("plain-path", "shop", "Path=/cookie; HttpOnly; SameSite=Strict"),
        ("prefixed", "__Secure-own", "Path=/; Secure; HttpOnly; SameSite=Lax"),
    ],
)
async def test_the_cookie_has_the_attributes_it_was_given_also_when_it_is_deleted(
    servers: list[Server], client: httpx.AsyncClient, name: str, full_name: str, attributes: str
) -> None:
    url = f"{servers[0].url}/cookie/{name}/answer"
    response = await client.get(url, params={"put": '{"a": 1}'})
    pair, _, rest = response.headers["set-cookie"].partition("; ")
    assert pair.partition("=")[0] == full_name
    assert rest == attributes
    response = await client.get(url, params={"verb": "logout"}, headers={"cookie": pair})
    deleted = response.headers["set-cookie"]
    assert deleted == f"{full_name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; {attributes}"


@pytest.mark.security("C11")
async def test_only_a_remembered_login_outlives_the_browser(servers: list[Server], client: httpx.AsyncClient) -> None:
    for verb, lasting in ((f"login:{user()}", False), (f"remember:{user()}", True)):
        answer = await ask(Browser(client, servers[0].url), verb=verb)
        [cookie] = answer.set_cookies
        assert ("Max-Age=" in cookie) is lasting
        assert "Expires" not in cookie


# -- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 503])
async def test_an_http_exception_is_an_answer_and_commits(
    servers: list[Server], client: httpx.AsyncClient, status: int
) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await visitor.post(f"/refuse/{status}", {"before": {"tries": 1}})
    assert (answer.status, answer.headers["x-refused"]) == (status, "yes")
    assert answer.value
    assert await visitor.data(servers[1].url) == {"tries": 1}


async def test_a_handled_exception_is_an_answer_and_its_handler_may_write(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    visitor = Browser(client, servers[0].url)
    answer = await visitor.post("/handlers/broken", {"before": {"tries": 1}})
    assert (answer.status, answer.text) == (400, '"handled"')
    assert await visitor.data(servers[1].url) == {"tries": 1, "handled": "KeyError"}


async def test_a_handler_of_every_exception_sees_the_session_and_stores_nothing(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    # Starlette runs it outside of all middlewares, when the request has failed already.
    who = user()
    browser = await logged_in(client, servers[0], who)
    answer = await browser.post("/handlers/thread/save", {"a": 1}, headers=LAST)
    assert (answer.status, answer.text, answer.value) == (500, f'"RuntimeError of {who}"', None)
    # What was saved before the failure stays saved.
    assert await browser.data(servers[1].url) == {"a": 1}


async def test_a_failure_after_an_awaited_login_ends_it_and_sets_no_cookie(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser, who = await cart(client, servers[0], n=0), user()
    answer = await browser.post("/broken", {"verb": f"await:login:{who}"}, headers=LAST)
    assert (answer.status, answer.value) == (500, None)

    async def nobody_left() -> bool:
        return bool((await client.get(f"{servers[1].url}/live/{who}")).json() == [])

    await eventually(nobody_left)


# -- cross-origin ---------------------------------------------------------------------------------------------


@pytest.mark.security("W1")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.test"}, 403),
        ({"origin": "https://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://{host}"}, 200),
        ({"origin": "https://{host}"}, 200),
        ({"origin": "http://{host}.evil.test"}, 403),
        ({"origin": "http://evil.test/{host}"}, 403),
        ({"origin": "http://{host}@evil.test"}, 403),
    ],
)
async def test_a_write_that_another_site_asks_for_is_refused(
    servers: list[Server], client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    browser = await cart(client, servers[0], n=0)
    host = servers[0].url.removeprefix("http://")
    sent = {name: value.replace("{host}", host) for name, value in headers.items()}
    answer = await browser.post("/put", {"n": 1}, headers=sent)
    assert (answer.status, answer.value) == (status, None)
    assert await browser.data() == {"n": 1 if status == 200 else 0}
    # Reading is for everybody: browsers show the answer only to the site itself.
    assert (await browser.get("/session", headers=sent)).status == 200


@pytest.mark.security("W2")
async def test_a_refused_write_says_on_the_log_how_to_let_it_pass_and_nobody_is_made(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    evil = {"origin": "https://evil.test"}
    before = await living(client, servers[0])
    assert (await Browser(client, servers[0].url).post("/put", {"n": 1}, headers=evil)).status == 403
    assert await living(client, servers[0]) == before
    assert "trusted_origins" in servers[0].logged()
    browser = await logged_in(client, servers[0], user())
    sid = await sid_of(browser)
    for path in ("/logout", "/rotate"):
        assert (await browser.post(path, headers=evil)).status == 403
    assert (await browser.session())["sid"] == sid
