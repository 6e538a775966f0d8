"""Cookies for subdomains, embedded apps and several apps on one site; and settings changed under living sessions."""

from __future__ import annotations

import http.cookiejar
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from sessiondb import Cookie, CurrentSession, SessionDB, SessionMiddleware
from sessiondb.stores.memory import MemoryStore


@pytest.fixture
async def db() -> AsyncIterator[SessionDB]:
    db = SessionDB(MemoryStore(), sweep_every=None, timeout=60)
    await db.open()
    yield db
    await db.close()


def app_on(db: SessionDB, cookie: Cookie, **settings: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, db=db, cookie=cookie, **settings)

    @app.get("/who")
    async def who(session: CurrentSession) -> str | None:
        return session.user_id

    @app.post("/login/{user}")
    async def login(user: str, session: CurrentSession) -> None:
        session.login(user)

    @app.post("/logout")
    async def logout(session: CurrentSession) -> None:
        session.logout()

    return app


def browser(app: FastAPI, url: str, jar: Any = None) -> httpx.AsyncClient:
    """A client with a cookie jar of its own, or with one that it shares."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url, cookies=jar)


async def who(client: httpx.AsyncClient, path: str = "/who", **settings: Any) -> Any:
    return (await client.get(path, **settings)).json()


@pytest.mark.security("C10")
async def test_the_apps_of_a_domain_share_a_session_and_a_logout(db: SessionDB) -> None:
    cookie = Cookie(domain="example.com")
    assert cookie.full_name == "__Secure-sid"
    jar = http.cookiejar.CookieJar()
    shop = browser(app_on(db, cookie), "https://shop.example.com", jar)
    account = browser(app_on(db, cookie), "https://account.example.com", jar)
    account._cookies.jar = shop._cookies.jar
    await shop.post("/login/ann")
    assert await who(account) == "ann"
    await account.post("/logout")
    assert await who(shop) is None
    # The browser has nothing left of it.
    assert len(shop.cookies.jar) == 0


@pytest.mark.security("C1")
async def test_without_a_domain_a_cookie_is_for_one_host_alone(db: SessionDB) -> None:
    shop = browser(app_on(db, Cookie()), "https://shop.example.com")
    other = browser(app_on(db, Cookie()), "https://account.example.com")
    await shop.post("/login/ann")
    other._cookies.jar = shop._cookies.jar
    assert await who(shop) == "ann"
    assert await who(other) is None


async def test_partitioned_can_be_switched_on_with_live_sessions(db: SessionDB) -> None:
    """Browsers keep the old cookie beside the new one, and send both."""
    before, after = Cookie(samesite="none"), Cookie(samesite="none", partitioned=True)
    assert before.full_name == after.full_name
    client = browser(app_on(db, after), "https://shop.example.com", None)
    name = before.full_name
    old, new = (await db.create("ann")).token, (await db.create("ann")).token
    both = {"cookie": f"{name}={old}; {name}={new}"}
    # The old cookie alone serves on.
    assert await who(client, headers={"cookie": f"{name}={old}"}) == "ann"
    # The same token under both, as browsers have it when nothing but the flag has changed.
    assert await who(client, headers={"cookie": f"{name}={old}; {name}={old}"}) == "ann"
    # A login has ended the old session: only one of the two is alive.
    async with db.session(old) as session:
        session.logout()
    assert await who(client, headers=both) == "ann"
    assert await who(client, headers={"cookie": f"{name}={new}; {name}={old}"}) == "ann"


@pytest.mark.security("C6")
async def test_two_living_sessions_under_one_name_are_nobody(db: SessionDB) -> None:
    client = browser(app_on(db, Cookie()), "https://shop.example.com")
    ann, eve = (await db.create("ann")).token, (await db.create("eve")).token
    for first, second in ((ann, eve), (eve, ann)):
        assert await who(client, headers={"cookie": f"__Host-sid={first}; __Host-sid={second}"}) is None
    assert [event.type.value for event in (await db.events(type="cookie_collision")).events] == ["cookie_collision"] * 4


async def test_a_renamed_cookie_starts_anew_and_the_old_one_opens_nothing(db: SessionDB) -> None:
    token = (await db.create("ann")).token
    client = browser(app_on(db, Cookie("login")), "https://shop.example.com")
    assert await who(client, headers={"cookie": f"__Host-sid={token}"}) is None
    assert await who(client, headers={"cookie": f"__Host-login={token}"}) == "ann"


async def test_apps_on_one_site_have_sessions_of_their_own(db: SessionDB) -> None:
    site = app_on(db, Cookie("shop"))
    admin = SessionDB(MemoryStore(), sweep_every=None)
    site.mount("/admin", app_on(admin, Cookie("admin", path="/admin")))
    client = browser(site, "https://example.com")
    await client.post("/login/ann")
    await client.post("/admin/login/root")
    assert (await who(client), await who(client, "/admin/who")) == ("ann", "root")
    assert {(cookie.name, cookie.path) for cookie in client.cookies.jar} == {
        ("__Host-shop", "/"),
        ("__Secure-admin", "/admin"),
    }
    await client.post("/logout")
    assert (await who(client), await who(client, "/admin/who")) == (None, "root")
    await admin.close()


@pytest.mark.security("C12")
async def test_over_plain_http_a_secure_cookie_stays_secure_and_the_log_says_so_once(
    db: SessionDB, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_on(db, Cookie())
    with caplog.at_level(logging.WARNING, "sessiondb"):
        for host in ("localhost", "127.0.0.1:8000", "shop.example.com"):
            client = browser(app, f"http://{host}")
            answer = await client.post("/login/ann", headers={"x-forwarded-proto": "https", "forwarded": "proto=https"})
            # Never guessed from Host, nor from headers that anybody can send.
            assert "__Host-sid=" in answer.headers["set-cookie"]
            assert "; Secure;" in answer.headers["set-cookie"]
            # The client does as browsers do, and does not send it back over plain http.
            assert await who(client) is None
    assert caplog.text.count("A Secure session cookie was set over plain http") == 1
    assert "Cookie(secure=False)" in caplog.text


async def test_over_https_there_is_nothing_to_say(db: SessionDB, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sessiondb"):
        client = browser(app_on(db, Cookie()), "https://shop.example.com")
        await client.post("/login/ann")
        plain = browser(app_on(db, Cookie(secure=False)), "http://shop.example.com")
        await plain.post("/login/ann")
    assert caplog.text == ""
