"""``sessiondb.testing.login``: one line signs a client in, or says what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from quiet_testclient import TestClient
from sessiondb import (
    ConfigurationError,
    Cookie,
    CurrentSession,
    LoginRefused,
    Policy,
    RequireLogin,
    Session,
    SessionDataError,
    SessionDB,
    SessionInfo,
    SessionMiddleware,
)
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock, login

HTTPS = "https://testserver"


SECURE = Cookie()


def shop(db: SessionDB, cookie: Cookie = SECURE, *, lifespan: bool = True) -> FastAPI:
    app = FastAPI(lifespan=db.lifespan if lifespan else None)
    app.add_middleware(SessionMiddleware, db=db, cookie=cookie)

    @app.get("/me")
    async def me(user_id: RequireLogin, session: CurrentSession) -> dict[str, Any]:
        return {"user": user_id, "data": session, "methods": session.auth.methods, "agent": session.client.user_agent}

    @app.post("/add/{item}")
    def add(item: str, session: CurrentSession) -> list[str]:
        items: list[str] = session.setdefault("items", [])
        items.append(item)
        return items

    @app.post("/logout")
    def logout(session: CurrentSession) -> None:
        session.logout()

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        await websocket.send_text(session.user_id or "nobody")
        await websocket.close()

    return app


@pytest.fixture
def db() -> SessionDB:
    return SessionDB("memory://", sweep_every=None)


@pytest.fixture
async def open_db() -> AsyncIterator[SessionDB]:
    async with SessionDB("memory://", sweep_every=None) as db:
        yield db


def http(app: ASGIApp, base_url: str = HTTPS) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base_url)


# -- TestClient -------------------------------------------------------------------------------------------


def test_one_line_signs_a_test_client_in(db: SessionDB) -> None:
    with TestClient(shop(db), base_url=HTTPS) as client:
        assert client.get("/me").status_code == 401
        info = login(client, "ann", data={"theme": "dark"}, methods=["pwd", "otp"])
        assert isinstance(info, SessionInfo)
        assert info.user_id == "ann"
        answer = client.get("/me").json()
    assert answer == {"user": "ann", "data": {"theme": "dark"}, "methods": ["pwd", "otp"], "agent": "testclient"}


def test_without_a_context_manager_each_request_has_its_own_event_loop(db: SessionDB) -> None:
    client = TestClient(shop(db), base_url=HTTPS)
    login(client, "ann")
    client.post("/add/apple")
    client.post("/add/pear")
    assert client.get("/me").json()["data"] == {"items": ["apple", "pear"]}
    client.post("/logout")
    assert client.get("/me").status_code == 401


def test_signing_in_before_and_after_the_app_runs_is_the_same(db: SessionDB) -> None:
    client = TestClient(shop(db), base_url=HTTPS)
    login(client, "ann")
    with client:
        assert client.get("/me").json()["user"] == "ann"
        login(client, "bob")
        assert client.get("/me").json()["user"] == "bob"
    assert client.get("/me").json()["user"] == "bob"


def test_middleware_can_still_be_added_afterwards(db: SessionDB) -> None:
    app = shop(db)
    client = TestClient(app, base_url=HTTPS)
    login(client, "ann")
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie("second"))
    assert client.get("/me").json()["user"] == "ann"


async def test_a_test_client_works_inside_an_async_test(db: SessionDB) -> None:
    client = TestClient(shop(db), base_url=HTTPS)
    login(client, "ann")
    assert client.get("/me").json()["user"] == "ann"
    assert asyncio.get_running_loop() not in db._runtimes


def test_a_file_is_shared_by_all_loops(tmp_path: Path) -> None:
    db = SessionDB(f"sqlite:///{tmp_path}/sessions.db", sweep_every=None)
    client = TestClient(shop(db), base_url=HTTPS)
    login(client, "ann")
    client.post("/add/apple")
    with client:
        client.post("/add/pear")
    client.post("/add/plum")
    assert client.get("/me").json()["data"] == {"items": ["apple", "pear", "plum"]}


def test_logging_in_again_replaces_the_cookie(db: SessionDB) -> None:
    with TestClient(shop(db), base_url=HTTPS) as client:
        first = login(client, "ann")
        second = login(client, "bob")
        assert first.sid != second.sid
        assert len(client.cookies) == 1
        assert client.get("/me").json()["user"] == "bob"


def test_a_cookie_that_was_set_by_hand_is_replaced(db: SessionDB) -> None:
    # Two cookies of one name would be a collision, and the client anonymous.
    with TestClient(shop(db), base_url=HTTPS, cookies={"__Host-sid": "stale", "other": "1"}) as client:
        login(client, "ann")
        assert client.get("/me").json()["user"] == "ann"
        assert sorted(client.cookies) == ["__Host-sid", "other"]


def test_a_client_can_log_out_and_the_cookie_goes(db: SessionDB) -> None:
    with TestClient(shop(db), base_url=HTTPS) as client:
        login(client, "ann")
        client.post("/logout")
        assert "__Host-sid" not in client.cookies


def test_websockets_are_signed_in_too(db: SessionDB) -> None:
    with TestClient(shop(db), base_url=HTTPS) as client:
        login(client, "ann")
        with client.websocket_connect("wss://testserver/socket") as socket:
            assert socket.receive_text() == "ann"


def test_two_clients_are_two_browsers(db: SessionDB) -> None:
    app = shop(db)
    ann, bob, nobody = (TestClient(app, base_url=HTTPS) for _ in range(3))
    login(ann, "ann")
    login(bob, "bob")
    assert ann.get("/me").json()["user"] == "ann"
    assert bob.get("/me").json()["user"] == "bob"
    assert nobody.get("/me").status_code == 401


# -- AsyncClient ------------------------------------------------------------------------------------------


async def test_an_async_client_is_awaited(open_db: SessionDB) -> None:
    async with http(shop(open_db)) as client:
        info = await login(client, "ann", data={"theme": "dark"})
        answer = (await client.get("/me")).json()
    assert (answer["user"], answer["data"]) == ("ann", {"theme": "dark"})
    assert await open_db.get(info.sid) is not None
    assert [one.sid for one in await open_db.sessions_of("ann")] == [info.sid]


async def test_nothing_is_closed_under_an_async_client(open_db: SessionDB) -> None:
    runtime = open_db.runtime
    async with http(shop(open_db)) as client:
        await login(client, "ann")
    assert open_db.runtime is runtime


async def test_the_client_of_a_real_server_needs_the_database(open_db: SessionDB) -> None:
    client = httpx.AsyncClient(base_url="https://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"login\(client, user_id, db=db"):
        await login(client, "ann")
    await login(client, "ann", db=open_db)
    assert list(client.cookies) == ["__Host-sid"]
    await client.aclose()


def test_a_plain_client_of_a_real_server_needs_the_database(db: SessionDB) -> None:
    with httpx.Client(base_url="https://127.0.0.1:1") as client:
        login(client, "ann", db=db, cookie=Cookie("shop"))
        assert list(client.cookies) == ["__Host-shop"]


# -- the cookie -------------------------------------------------------------------------------------------


def only_cookie(client: Any) -> Any:
    (cookie,) = client.cookies.jar
    return cookie


async def test_the_cookie_is_what_a_login_would_have_set(open_db: SessionDB) -> None:
    cookie = Cookie("shop", domain="example.com", path="/me")
    async with http(shop(open_db, cookie), "https://www.example.com") as client:
        await login(client, "ann")
        held = only_cookie(client)
        assert (held.name, held.domain, held.path, held.secure) == ("__Secure-shop", ".example.com", "/me", True)
        assert held.discard
        assert (await client.get("/me")).json()["user"] == "ann"
        assert (await client.get("https://api.example.com/me")).json()["user"] == "ann"
        assert "cookie" not in client.build_request("GET", "/other").headers


async def test_a_remembered_login_has_a_cookie_that_lasts(open_db: SessionDB) -> None:
    async with http(shop(open_db)) as client:
        info = await login(client, "ann", remember=True)
        held = only_cookie(client)
    assert info.remembered
    assert not held.discard
    assert held.expires is not None


async def test_over_plain_http_the_error_names_both_cures(open_db: SessionDB) -> None:
    app = shop(open_db)
    with pytest.raises(ConfigurationError) as caught:
        login(TestClient(app), "ann")
    message = str(caught.value)
    assert "'__Host-sid' is Secure" in message
    assert "http://testserver" in message
    assert "TestClient(app, base_url='https://testserver')" in message
    assert "cookie=Cookie(secure=False)" in message
    async with http(app, "http://testserver") as client:
        with pytest.raises(ConfigurationError, match=r"AsyncClient\(transport=.*base_url='https://testserver'\)"):
            await login(client, "ann")
    assert (await open_db.stats()).live == 0, "no session is left behind by the error"


def test_an_insecure_cookie_works_over_plain_http(db: SessionDB) -> None:
    with TestClient(shop(db, Cookie(secure=False))) as client:
        login(client, "ann")
        assert client.get("/me").json()["user"] == "ann"
        assert list(client.cookies) == ["sid"]


async def test_a_cookie_for_another_domain_is_an_error(open_db: SessionDB) -> None:
    async with http(shop(open_db, Cookie(domain="example.com"))) as client:
        with pytest.raises(ConfigurationError, match=r"base_url='https://example\.com'") as caught:
            await login(client, "ann")
    assert "Domain=example.com" in str(caught.value)
    assert "__Secure-sid=" not in str(caught.value)


async def test_a_client_without_an_address_is_an_error(open_db: SessionDB) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=shop(open_db))) as client:
        with pytest.raises(ConfigurationError, match="no base_url"):
            await login(client, "ann")


# -- finding the app's sessions ---------------------------------------------------------------------------


async def who(request: Request) -> JSONResponse:
    session: Session = request.scope["session"]
    return JSONResponse(session.user_id)


def starlette(db: SessionDB, cookie: Cookie = SECURE, **settings: Any) -> Starlette:
    return Starlette(
        routes=[Route("/who", who)], middleware=[Middleware(SessionMiddleware, db, cookie=cookie)], **settings
    )


async def test_starlette_with_a_list_of_middleware(open_db: SessionDB) -> None:
    async with http(starlette(open_db)) as client:
        await login(client, "ann")
        assert (await client.get("/who")).json() == "ann"


async def test_an_app_inside_the_middleware(open_db: SessionDB) -> None:
    app = SessionMiddleware(Starlette(routes=[Route("/who", who)]), db=open_db)
    async with http(app) as client:
        await login(client, "ann")
        assert (await client.get("/who")).json() == "ann"


async def test_a_subclass_with_settings_of_its_own(open_db: SessionDB) -> None:
    class Ours(SessionMiddleware):
        def __init__(self, app: ASGIApp) -> None:
            super().__init__(app, open_db, cookie=Cookie("ours"))

    app = Starlette(routes=[Route("/who", who)], middleware=[Middleware(Ours)])
    async with http(app) as client:
        await login(client, "ann")
        assert (await client.get("/who")).json() == "ann"


async def test_a_mounted_app_and_the_outer_one(open_db: SessionDB) -> None:
    async with SessionDB("memory://", sweep_every=None) as staff:
        inner = starlette(staff, Cookie("admin"))
        app = Starlette(
            routes=[Mount("/admin", inner), Route("/who", who)], middleware=[Middleware(SessionMiddleware, db=open_db)]
        )
        async with http(app) as client:
            await login(client, "ann")
            await login(client, "root", cookie="admin")
            assert (await client.get("/who")).json() == "ann"
            assert (await client.get("/admin/who")).json() == "root"
        assert [one.user_id for one in await staff.sessions_of("root")] == ["root"]
        only_inner = Starlette(routes=[Mount("/admin", inner)])
        async with http(only_inner) as client:
            await login(client, "root")
            assert (await client.get("/admin/who")).json() == "root"


async def test_middleware_on_a_mount(open_db: SessionDB) -> None:
    mount = Mount("/in", routes=[Route("/who", who)], middleware=[Middleware(SessionMiddleware, db=open_db)])
    async with http(Starlette(routes=[mount])) as client:
        await login(client, "ann")
        assert (await client.get("/in/who")).json() == "ann"


async def test_several_cookies_must_be_told_apart(open_db: SessionDB) -> None:
    app = shop(open_db)
    app.add_middleware(SessionMiddleware, db=open_db, cookie=Cookie("admin"))
    async with http(app) as client:
        with pytest.raises(ConfigurationError, match=r"__Host-admin, __Host-sid\); name one.*cookie='__Host-admin'"):
            await login(client, "ann")
        with pytest.raises(ConfigurationError, match="no SessionMiddleware with the cookie 'shop'"):
            await login(client, "ann", cookie="shop")
        await login(client, "ann", cookie="__Host-admin")
        await login(client, "bob", cookie="sid")
        assert sorted(client.cookies) == ["__Host-admin", "__Host-sid"]
        assert (await client.get("/me")).json()["user"] == "bob", "the one added first is the inner one"


async def test_an_app_in_a_function_needs_to_be_told(open_db: SessionDB) -> None:
    app = shop(open_db, Cookie("shop"))

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    async with http(wrapped) as client:
        with pytest.raises(ConfigurationError, match=r"db=db, cookie=Cookie\(...\)"):
            await login(client, "ann")
        await login(client, "ann", db=open_db, cookie=Cookie("shop"))
        assert (await client.get("/me")).json()["user"] == "ann"


async def test_an_app_without_sessions_is_an_error(open_db: SessionDB) -> None:
    async with http(FastAPI()) as client:
        with pytest.raises(ConfigurationError, match=r"add_middleware\(SessionMiddleware, db=db\)"):
            await login(client, "ann")


async def test_another_handle_on_the_same_database(open_db: SessionDB) -> None:
    store = MemoryStore()
    served = SessionDB(store, sweep_every=None)
    async with SessionDB(store, sweep_every=None) as mine, http(shop(served, Cookie("shop"))) as client:
        await login(client, "ann", db=mine)
        assert list(client.cookies) == ["__Host-shop"], "what is not given is the app's"
        assert (await client.get("/me")).json()["user"] == "ann"
        await served.close()


# -- what the database says -------------------------------------------------------------------------------


@pytest.mark.parametrize("user_id", [7, "7"])
async def test_the_user_id_is_text(open_db: SessionDB, user_id: int | str) -> None:
    async with http(shop(open_db)) as client:
        assert (await login(client, user_id)).user_id == "7"


async def test_refusals_reach_the_test() -> None:
    policy = Policy(per_user=1, on_limit="refuse")
    async with SessionDB("memory://", policy=policy, sweep_every=None) as db, http(shop(db)) as client:
        await login(client, "ann")
        with pytest.raises(LoginRefused):
            await login(client, "ann")
        with pytest.raises(SessionDataError, match=r"session\['at'\]"):
            await login(client, "bob", data={"at": timedelta(1)})


async def test_the_session_expires_by_the_injected_clock() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    async with SessionDB(store, clock=clock, sweep_every=None) as db, http(shop(db)) as client:
        info = await login(client, "ann")
        assert info.created_at == clock.now
        clock.advance(timedelta(days=15).total_seconds())
        assert (await client.get("/me")).status_code == 401
