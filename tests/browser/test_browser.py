"""The laws in a real browser: headless Chromium, real cookies, real tabs, sites that are up to no good."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.async_api import BrowserContext, Page

Serve = Callable[..., int]
ATTACKERS = ["\\xa0__Host-sid", "\\x85__Host-sid", "__host-sid", "\\u3000__Host-sid", "__Host-sid "]


async def opened(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    return page


async def who(page: Page) -> str:
    """Whom the server takes this tab for."""
    return str(await page.evaluate("fetch('/who').then(answer => answer.json())"))


async def hit(page: Page, path: str) -> str:
    return str(await page.evaluate("path => hit(path)", path))


@pytest.mark.security("C1", "C3", "C10", "C11", "L6")
@pytest.mark.parametrize("https", [False, True])
async def test_signed_in_and_out_in_two_tabs(context: BrowserContext, serve: Serve, https: bool) -> None:
    port = serve(https=https)
    url = f"http{'s' if https else ''}://localhost:{port}"
    one, two = await opened(context, url), await opened(context, url)
    assert await hit(one, "/login?user=ada") == '200 "ada"'
    [cookie] = await context.cookies()
    assert (cookie["name"], cookie["secure"], cookie["httpOnly"]) == ("__Host-sid", True, True)
    assert (cookie["path"], cookie["sameSite"], cookie["expires"]) == ("/", "Lax", -1)
    assert await two.evaluate("document.cookie") == ""
    assert [await who(one), await who(two)] == ["ada", "ada"]
    assert await hit(one, "/logout") == '200 "bye"'
    assert await context.cookies() == []
    await two.reload()
    assert await two.inner_text("#who") == "nobody"
    # Who kept the cookie holds nothing.
    kept = await context.request.get(f"{url}/who", headers={"cookie": f"__Host-sid={cookie['value']}"})
    assert await kept.json() == "nobody"


@pytest.mark.security("C11", "C8")
async def test_only_a_remembered_login_outlives_the_browser(context: BrowserContext, serve: Serve) -> None:
    port = serve(https=True)
    page = await opened(context, f"https://localhost:{port}")
    now = await page.evaluate("Date.now() / 1000")
    await hit(page, "/login?user=ada&remember=true")
    [cookie] = await context.cookies()
    assert abs(cookie["expires"] - now - 90 * 86400) < 3600


async def test_rotations_under_load_lose_nobody(context: BrowserContext, serve: Serve) -> None:
    """Two tabs, and in each ten requests at once around every rotation: all are served, and every count is kept."""
    port = serve(https=True)
    url = f"https://localhost:{port}"
    tabs = [await opened(context, url), await opened(context, url)]
    await hit(tabs[0], "/login?user=ada")
    seen = {(await context.cookies())[0]["value"]}
    for _ in range(8):
        for tab in tabs:
            await tab.evaluate(
                """() => {
                  const some = [...Array(9).keys()].map(at => at % 3 ? hit('/who', 'GET') : hit('/count'));
                  return Promise.all([hit('/rotate'), ...some]);
                }"""
            )
        seen.add((await context.cookies())[0]["value"])
    for tab in tabs:
        log = await tab.evaluate("log")
        assert [line for line in log if not line.startswith("200") or "nobody" in line] == []
        assert await who(tab) == "ada"
    assert len(seen) == 9
    assert await hit(tabs[0], "/count") == "200 49"


@pytest.mark.security("H3", "L7")
async def test_a_late_answer_does_not_undo_a_new_login(context: BrowserContext, serve: Serve) -> None:
    """An answer that began before a logout arrives after the next login, and leaves that alone."""
    port = serve(https=True)
    page = await opened(context, f"https://localhost:{port}")
    await hit(page, "/login?user=ada")
    await page.evaluate("window.slow = fetch('/late').then(answer => answer.text()); null")
    await hit(page, "/logout")
    await hit(page, "/login?user=bob")
    await hit(page, "/late/open")
    assert await page.evaluate("slow") == '"ada"'
    assert await who(page) == "bob"


@pytest.mark.security("C3", "C4", "C5", "C6")
@pytest.mark.parametrize("name", ATTACKERS)
async def test_a_sibling_domain_tosses_no_cookie(context: BrowserContext, serve: Serve, name: str) -> None:
    """A sibling sets a look-alike of the session cookie, with its own session in it, for the whole domain."""
    port = serve(https=True)
    attacker = await opened(context, f"https://evil.example.test:{port}")
    await hit(attacker, "/login?user=mallory")
    [own] = await context.cookies()
    page = await opened(context, f"https://app.example.test:{port}")
    await attacker.evaluate(
        f"token => {{ document.cookie = `{name}=${{token}}; Domain=example.test; Path=/; Secure` }}", own["value"]
    )
    assert await who(page) == "nobody"
    await hit(page, "/login?user=ada")
    await attacker.evaluate(
        f"token => {{ document.cookie = `{name}=${{token}}; Domain=example.test; Path=/; Secure` }}", own["value"]
    )
    assert await who(page) == "ada"
    assert await page.evaluate("fetch('/who').then(answer => answer.json())") == "ada"


@pytest.mark.security("C3")
async def test_the_prefix_keeps_siblings_and_plain_http_out(context: BrowserContext, serve: Serve) -> None:
    """Neither with a domain, nor over http, nor by a script, can anybody set or replace the cookie."""
    port, plain = serve(https=True), serve(https=False)
    page = await opened(context, f"https://app.example.test:{port}")
    await hit(page, "/login?user=ada")
    [mine] = await context.cookies()
    for url, attributes in (
        (f"https://evil.example.test:{port}/plain", "Domain=example.test; Path=/; Secure"),
        (f"http://app.example.test:{plain}/plain", "Path=/"),
        (f"http://app.example.test:{plain}/plain", "Path=/; Secure"),
        (f"https://app.example.test:{port}/plain", "Path=/; Secure"),
    ):
        other = await opened(context, url)
        await other.evaluate(f"document.cookie = '__Host-sid=tossed; {attributes}'")
    kept = [one for one in await context.cookies() if one["domain"] == "app.example.test"]
    assert [(one["name"], one["value"]) for one in kept] == [("__Host-sid", mine["value"])]
    assert await who(page) == "ada"


@pytest.mark.security("W1", "W2")
@pytest.mark.parametrize("path", ["/login?user=mallory", "/logout", "/count"])
async def test_forms_of_other_sites_are_refused(context: BrowserContext, serve: Serve, path: str) -> None:
    """Another site, and a sibling that the browser takes for the same site, post a form: 403, and nothing happened."""
    port = serve(https=True)
    page = await opened(context, f"https://app.example.test:{port}")
    await hit(page, "/login?user=ada")
    for host in ("evil.test", "evil.example.test"):
        attack = await context.new_page()
        target = f"https://app.example.test:{port}{path}".replace("?", "%3F").replace("=", "%3D")
        async with attack.expect_response(lambda answer: answer.request.method == "POST") as answered:
            await attack.goto(f"https://{host}:{port}/attack?action={target}")
        assert (await answered.value).status == 403
    assert await who(page) == "ada"
    assert await hit(page, "/count") == "200 1"


@pytest.mark.security("C7")
async def test_an_embedded_app_keeps_its_session_in_each_site(context: BrowserContext, serve: Serve) -> None:
    """``SameSite=None; Partitioned``: in a frame of another site the app has a session, and another one elsewhere."""
    port = serve(https=True, cookie={"samesite": "none", "partitioned": True})
    users = {"shop.test": "ada", "news.test": "bob"}
    pages: dict[str, Page] = {}
    for host, user in users.items():
        page = pages[host] = await opened(context, f"https://{host}:{port}/frame?src=https://app.example.test:{port}/")
        frame = page.frames[1]
        await frame.wait_for_selector("#who")
        assert await frame.evaluate("path => hit(path)", f"/login?user={user}") == f'200 "{user}"'
    for host, user in users.items():
        await pages[host].reload()
        frame = pages[host].frames[1]
        await frame.wait_for_selector("#who")
        assert await frame.inner_text("#who") == user
    alone = await opened(context, f"https://app.example.test:{port}")
    assert await who(alone) == "nobody"
    await hit(alone, "/login?user=carol")
    assert await pages["shop.test"].frames[1].evaluate("hit('/who', 'GET')") == '200 "ada"'


@pytest.mark.security("C10")
async def test_a_partitioned_cookie_is_deleted_from_its_jar(context: BrowserContext, serve: Serve) -> None:
    port = serve(https=True, cookie={"samesite": "none", "partitioned": True})
    page = await opened(context, f"https://localhost:{port}")
    await hit(page, "/login")
    assert len(await context.cookies()) == 1
    await hit(page, "/logout")
    assert await context.cookies() == []


@pytest.mark.security("W3", "L8")
async def test_a_socket_and_a_stream_end_with_the_session(context: BrowserContext, serve: Serve) -> None:
    """Signed out in one tab, the WebSocket and the event stream of another are closed at once."""
    port = serve(https=True)
    url = f"https://localhost:{port}"
    one, two = await opened(context, url), await opened(context, url)
    await hit(one, "/login?user=ada")
    await two.evaluate(
        """() => new Promise(ready => {
          window.socket = new WebSocket(location.origin.replace('http', 'ws') + '/ws');
          window.over = new Promise(done => { socket.onclose = event => done(event.code) });
          socket.onopen = () => socket.send('who');
          socket.onmessage = event => { window.heard = event.data; ready() };
        })"""
    )
    assert await two.evaluate("heard") == "ada"
    await two.evaluate(
        """() => fetch('/events').then(async answer => {
          const reader = answer.body.getReader();
          await reader.read();
          window.ended = (async () => { while (!(await reader.read()).done); return 'ended' })();
          return null;
        })"""
    )
    await hit(one, "/logout")
    assert await two.evaluate("over") == 4401
    assert await two.evaluate("ended") == "ended"


@pytest.mark.security("W3")
async def test_another_site_gets_no_socket_of_the_user(context: BrowserContext, serve: Serve) -> None:
    port = serve(https=True, cookie={"samesite": "none"})
    page = await opened(context, f"https://app.example.test:{port}")
    await hit(page, "/login?user=ada")
    for host in ("evil.test", "evil.example.test"):
        other = await opened(context, f"https://{host}:{port}/plain")
        answer = await other.evaluate(
            """url => new Promise(done => {
              const socket = new WebSocket(url);
              socket.onopen = () => socket.send('who');
              socket.onmessage = event => done(event.data);
              socket.onclose = event => done('refused');
            })""",
            f"wss://app.example.test:{port}/ws",
        )
        # Where the browser sends no cookie along, the socket is nobody's.
        assert answer in ("refused", "nobody")
    own = await page.evaluate(
        """() => new Promise(done => {
          const socket = new WebSocket(location.origin.replace('https', 'wss') + '/ws');
          socket.onopen = () => socket.send('who');
          socket.onmessage = event => done(event.data);
        })"""
    )
    assert own == "ada"
