"""``CurrentSession``, ``RequireLogin`` and their kin, in the hands of FastAPI."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from pages import PLAIN, app_on, browser
from starlette.types import Message

from sessiondb import (
    ConfigurationError,
    Cookie,
    CurrentSession,
    RequireLogin,
    RequireRecentLogin,
    Session,
    SessionDB,
    SessionMiddleware,
    current_session,
    require_login,
)
from sessiondb.core.change import Create
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock, login

PageLogin = Annotated[str, Depends(require_login(redirect="/login"))]
Recent = Annotated[str, Depends(RequireRecentLogin(300))]
RecentPage = Annotated[str, Depends(RequireRecentLogin(timedelta(minutes=5), redirect="/again?step=up"))]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def db(clock: ManualClock) -> AsyncIterator[SessionDB]:
    async with SessionDB(MemoryStore(clock=clock), clock=clock, sweep_every=None) as db:
        yield db


@pytest.fixture
def app(db: SessionDB) -> FastAPI:
    app = app_on(db)

    @app.get("/me")
    async def me(user_id: RequireLogin) -> str:
        return user_id

    @app.get("/me-sync")
    def me_sync(user_id: RequireLogin, session: CurrentSession) -> dict[str, Any]:
        return {"user": user_id, "seen": session.get("seen")}

    @app.get("/page/{rest:path}")
    async def page(user_id: PageLogin) -> str:
        return user_id

    @app.post("/page/{rest:path}")
    async def post_page(user_id: PageLogin) -> str:
        return user_id

    @app.get("/pay")
    async def pay(user_id: Recent) -> str:
        return user_id

    @app.get("/pay-page")
    async def pay_page(user_id: RecentPage) -> str:
        return user_id

    return app


# -- RequireLogin -----------------------------------------------------------------------------------------


async def test_a_visitor_gets_401_and_is_told_how(app: FastAPI) -> None:
    async with browser(app) as visitor:
        answer = await visitor.get("/me")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Cookie realm="session", cookie-name="sid"'
    assert answer.json() == {"detail": "Log in first."}
    assert answer.headers["vary"] == "Cookie"
    assert answer.headers["cache-control"] == "private"
    assert "set-cookie" not in answer.headers


async def test_a_user_passes_until_the_logout(app: FastAPI) -> None:
    async with browser(app) as visitor:
        await visitor.post("/login/ann")
        assert (await visitor.get("/me")).json() == "ann"
        await visitor.post("/logout")
        assert (await visitor.get("/me")).status_code == 401


async def test_an_anonymous_session_is_no_login(app: FastAPI, db: SessionDB) -> None:
    issued = await db.create(data={"cart": [1]})
    async with browser(app, cookies={"sid": issued.token}) as visitor:
        assert (await visitor.get("/raw")).json() == {"cart": [1]}
        assert (await visitor.get("/me")).status_code == 401


async def test_a_revoked_user_is_out_at_once(app: FastAPI, db: SessionDB) -> None:
    async with browser(app) as visitor:
        await login(visitor, "ann")
        await db.revoke_all("ann")
        assert (await visitor.get("/me")).status_code == 401


async def test_it_guards_whole_routers_and_apps(db: SessionDB) -> None:
    router = APIRouter(prefix="/private", dependencies=[Depends(require_login())])

    @router.get("/")
    async def private() -> str:
        return "secret"

    app = app_on(db)
    app.include_router(router)
    async with browser(app) as visitor:
        assert (await visitor.get("/private/")).status_code == 401
        await login(visitor, "ann")
        assert (await visitor.get("/private/")).json() == "secret"


async def test_it_can_be_overridden_in_tests(app: FastAPI, db: SessionDB) -> None:
    guard = require_login()

    @app.get("/guarded")
    async def guarded(user_id: str = Depends(guard)) -> str:
        return user_id

    app.dependency_overrides[guard] = lambda: "tester"
    async with browser(app) as visitor:
        assert (await visitor.get("/guarded")).json() == "tester"


async def test_a_dependency_may_stand_on_it(app: FastAPI) -> None:
    async def upper(user_id: RequireLogin, session: CurrentSession) -> str:
        session["seen"] = True
        return user_id.upper()

    @app.get("/upper")
    async def endpoint(session: CurrentSession, name: str = Depends(upper)) -> list[Any]:
        return [name, session["seen"]]

    async with browser(app) as visitor:
        await login(visitor, "ann")
        assert (await visitor.get("/upper")).json() == ["ANN", True]
        assert (await visitor.get("/raw")).json() == {"seen": True}


# -- def endpoints ----------------------------------------------------------------------------------------


async def test_def_endpoints_run_in_a_thread_and_work(app: FastAPI) -> None:
    @app.post("/enter/{user_id}")
    def enter(user_id: str, session: CurrentSession) -> bool:
        session["seen"] = 1
        session.login(user_id)
        return session.user_id == user_id

    @app.post("/leave")
    def leave(session: CurrentSession) -> None:
        session.logout()

    async with browser(app) as visitor:
        assert (await visitor.get("/me-sync")).status_code == 401
        assert (await visitor.post("/enter/ann")).json() is True
        assert (await visitor.get("/me-sync")).json() == {"user": "ann", "seen": 1}
        await visitor.post("/leave")
        assert (await visitor.get("/me-sync")).status_code == 401


async def test_request_session_and_the_dependency_are_one(app: FastAPI) -> None:
    @app.get("/same")
    async def same(request: Request, session: CurrentSession) -> list[bool]:
        return [request.session is session, request.scope["session"] is session, isinstance(session, Session)]

    async with browser(app) as visitor:
        assert (await visitor.get("/same")).json() == [True, True, True]


# -- redirects --------------------------------------------------------------------------------------------


def destination(location: str) -> str:
    """Where the login page sends the user after the login."""
    (target,) = parse_qs(urlsplit(location).query)["next"]
    return target


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("/page/", "/page/"),
        ("/page/a?b=c&d=%20e", "/page/a?b=c&d=%20e"),
        ("/page/%3Fno=query", "/page/%3Fno=query"),
        ("/page/stra%C3%9Fe%20%23", "/page/stra%C3%9Fe%20%23"),
        ("/page/x:y@z", "/page/x:y@z"),
    ],
)
async def test_pages_redirect_to_the_login_and_back(app: FastAPI, asked: str, expected: str) -> None:
    async with browser(app) as visitor:
        answer = await visitor.get(asked)
        assert answer.status_code == 303
        location = answer.headers["location"]
        assert urlsplit(location).path == "/login"
        assert destination(location) == expected
        assert "www-authenticate" not in answer.headers
        await login(visitor, "ann")
        assert (await visitor.get(destination(location))).json() == "ann"


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/", "/\\/evil.example", "///evil.example"])
async def test_next_never_names_another_site(db: SessionDB, path: str) -> None:
    app = app_on(db)

    @app.get("/{rest:path}")
    async def anything(user_id: PageLogin) -> str:
        return user_id

    async def at_path(scope: Any, receive: Any, send: Any) -> None:
        # As a server would hand it over; the client library would tidy it up.
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    async with browser(at_path) as visitor:
        location = (await visitor.get("/")).headers["location"]
    assert destination(location).startswith("/evil.example")


async def test_a_form_that_was_posted_cannot_be_repeated_by_a_link(app: FastAPI) -> None:
    async with browser(app) as visitor:
        answer = await visitor.post("/page/a?b=c")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/login"


async def test_a_redirect_with_a_query_is_extended(app: FastAPI) -> None:
    async with browser(app) as visitor:
        assert (await visitor.get("/pay-page")).headers["location"] == "/again?step=up&next=/pay-page"


@pytest.mark.parametrize("redirect", ["login", "javascript:alert(1)", "", "ftp://x/login"])
def test_a_redirect_must_be_a_path_or_an_address(redirect: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redirect is .*use a path such as '/login'"):
        require_login(redirect=redirect)


# -- RequireRecentLogin -----------------------------------------------------------------------------------


async def test_an_old_login_must_be_renewed(app: FastAPI, clock: ManualClock) -> None:
    async with browser(app) as visitor:
        assert (await visitor.get("/pay")).status_code == 401
        await visitor.post("/login/ann")
        clock.advance(300)
        assert (await visitor.get("/pay")).json() == "ann", "exactly as old as it may be"
        clock.advance(1)
        answer = await visitor.get("/pay")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == (
            'Cookie realm="session", cookie-name="sid", error="insufficient_user_authentication", '
            'error_description="A more recent login is required.", max_age="300"'
        )
        assert "300 s" in answer.json()["detail"]
        assert (await visitor.get("/me")).json() == "ann", "still logged in"
        before = (await visitor.get("/pay-page")).headers["location"]
        assert before == "/again?step=up&next=/pay-page"
        await visitor.post("/login/ann")
        assert (await visitor.get("/pay")).json() == "ann"
        assert (await visitor.get("/pay-page")).json() == "ann"


async def test_use_does_not_make_a_login_recent(app: FastAPI, clock: ManualClock) -> None:
    async with browser(app) as visitor:
        await visitor.post("/login/ann")
        for _ in range(10):
            clock.advance(60)
            await visitor.get("/me")
        assert (await visitor.get("/pay")).status_code == 401


async def test_a_login_in_the_same_request_is_recent(app: FastAPI, clock: ManualClock) -> None:
    async def from_proxy(session: CurrentSession) -> None:
        session.login("ann")

    @app.get("/sso", dependencies=[Depends(from_proxy)])
    async def sso(user_id: Recent) -> str:
        return user_id

    async with browser(app) as visitor:
        assert (await visitor.get("/sso")).json() == "ann", "a new login"
        clock.advance(3600)
        assert (await visitor.get("/sso")).json() == "ann", "the same user signs in again"


async def test_a_session_that_never_proved_anything_is_not_recent(clock: ManualClock) -> None:
    class Importing(MemoryStore):
        async def apply(self, changes: Any, events: Any = ()) -> Any:
            return await super().apply([_without_proof(change) for change in changes], events)

    async with SessionDB(Importing(clock=clock), clock=clock, sweep_every=None) as db:
        app = app_on(db)

        @app.get("/pay")
        async def pay(user_id: Recent) -> str:
            return user_id

        issued = await db.create("ann")
        async with browser(app, cookies={"sid": issued.token}) as visitor:
            assert (await visitor.get("/pay")).status_code == 401


def _without_proof(change: Any) -> Any:
    if not isinstance(change, Create):
        return change
    return msgspec.structs.replace(change, record=msgspec.structs.replace(change.record, authenticated_at=None))


@pytest.mark.parametrize("max_age", [0, -1, timedelta(0), "300", None, float("nan"), float("inf")])
def test_a_limit_that_makes_no_sense_is_refused(max_age: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"RequireRecentLogin: max_age is .*more than 0"):
        RequireRecentLogin(max_age)


# -- declared without being called ------------------------------------------------------------------------


@pytest.mark.parametrize("dependency", [require_login, RequireRecentLogin, current_session])
def test_a_guard_that_was_not_called_would_guard_nothing(dependency: Any) -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=r"called where it is declared: Depends\(require_login\(\)\)"):
        app.get("/", dependencies=[Depends(dependency)])(lambda: None)


# -- WebSockets -------------------------------------------------------------------------------------------


async def test_websockets_have_sessions_and_guards(app: FastAPI, db: SessionDB) -> None:
    @app.websocket("/socket")
    async def socket(websocket: WebSocket, user_id: RequireLogin, session: CurrentSession) -> None:
        assert websocket.session is session
        await websocket.accept()
        await websocket.send_text(user_id)
        await websocket.close()

    issued = await db.create("ann")
    assert await handshake(app, f"sid={issued.token}") == ["websocket.accept", "websocket.send", "websocket.close"]
    assert (await handshake(app, ""))[0] == "websocket.http.response.start"


async def handshake(app: FastAPI, cookie: str) -> list[str]:
    scope = {
        "type": "websocket",
        "scheme": "ws",
        "path": "/socket",
        "raw_path": b"/socket",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"shop.test"), (b"cookie", cookie.encode())],
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app(scope, receive, send)
    return sent


# -- several sessions -------------------------------------------------------------------------------------


@pytest.fixture
async def staff() -> AsyncIterator[SessionDB]:
    async with SessionDB("memory://", sweep_every=None) as staff:
        yield staff


AdminSession = Annotated[Session, Depends(current_session(cookie="admin"))]
ShopSession = Annotated[Session, Depends(current_session(cookie="sid"))]
AdminLogin = Annotated[str, Depends(require_login(cookie="admin"))]
ShopLogin = Annotated[str, Depends(require_login(cookie="sid"))]


def two_sessions(db: SessionDB, staff: SessionDB, admin: Cookie) -> FastAPI:
    app = app_on(db)
    app.add_middleware(SessionMiddleware, db=staff, cookie=admin)

    @app.post("/admin/login/{user_id}")
    async def admin_login(user_id: str, session: AdminSession) -> None:
        await session.login(user_id)

    @app.get("/admin/me")
    async def admin_me(user_id: AdminLogin) -> str:
        return user_id

    @app.get("/both")
    async def both(shop: ShopSession, admin: AdminSession, session: CurrentSession) -> list[Any]:
        return [shop.user_id, admin.user_id, session is shop]

    @app.get("/shop/me")
    async def shop_me(user_id: ShopLogin) -> str:
        return user_id

    return app


@pytest.mark.parametrize("admin", [Cookie("admin", secure=False), Cookie("admin"), Cookie("admin", path="/admin")])
async def test_two_sessions_side_by_side(db: SessionDB, staff: SessionDB, admin: Cookie) -> None:
    app = two_sessions(db, staff, admin)
    async with browser(app, "https://shop.test") as visitor:
        refused = await visitor.get("/admin/me")
        assert refused.headers["www-authenticate"] == f'Cookie realm="session", cookie-name="{admin.full_name}"'
        await visitor.post("/login/ann")
        assert (await visitor.get("/admin/me")).status_code == 401, "a customer is no admin"
        await visitor.post("/admin/login/root")
        assert (await visitor.get("/admin/me")).json() == "root"
        assert (await visitor.get("/shop/me")).json() == "ann"
        if admin.path == "/":
            assert (await visitor.get("/both")).json() == ["ann", "root", True]
    assert [one.user_id for one in await staff.sessions_of("root")] == ["root"]
    assert not await db.sessions_of("root")


async def test_a_name_that_ends_alike_is_another_cookie(db: SessionDB, staff: SessionDB) -> None:
    app = app_on(db)
    app.add_middleware(SessionMiddleware, db=staff, cookie=Cookie("id", secure=False))

    @app.get("/who")
    async def who(user_id: Annotated[str, Depends(require_login(cookie="id"))]) -> str:
        return user_id

    async with browser(app) as visitor:
        answer = await visitor.get("/who")
    assert answer.headers["www-authenticate"] == 'Cookie realm="session", cookie-name="id"'


async def test_a_mounted_app_uses_the_outer_session(db: SessionDB) -> None:
    inner = FastAPI()

    @inner.get("/me")
    async def me(user_id: RequireLogin) -> str:
        return user_id

    app = app_on(db)
    app.mount("/inner", inner)
    async with browser(app) as visitor:
        await visitor.post("/login/ann")
        assert (await visitor.get("/inner/me")).json() == "ann"


# -- what is configured wrongly ---------------------------------------------------------------------------


async def test_without_the_middleware_the_error_has_the_line_to_add() -> None:
    app = FastAPI()

    @app.get("/me")
    async def me(user_id: RequireLogin) -> str:
        return user_id

    @app.get("/raw")
    async def raw(session: CurrentSession) -> None: ...

    async with browser(app) as visitor:
        for path in ("/me", "/raw"):
            with pytest.raises(ConfigurationError, match=r"app\.add_middleware\(SessionMiddleware, db=db\)") as caught:
                await visitor.get(path)
            assert repr(path) in str(caught.value)


async def test_a_cookie_that_no_middleware_has(app: FastAPI) -> None:
    @app.get("/admin")
    async def admin(user_id: AdminLogin) -> str:
        return user_id

    async with browser(app) as visitor:
        with pytest.raises(ConfigurationError, match=r"in the cookie 'admin'.*cookie=Cookie\('admin'\)"):
            await visitor.get("/admin")


async def test_a_path_that_is_skipped_has_no_session(db: SessionDB) -> None:
    app = app_on(db, skip=["/healthz", "/static"])

    @app.get("/healthz")
    async def healthz() -> str:
        return "well"

    @app.get("/static/page")
    async def page(session: CurrentSession) -> None: ...

    async with browser(app) as visitor:
        assert (await visitor.get("/healthz")).json() == "well"
        with pytest.raises(ConfigurationError, match=r"take the path out of its skip="):
            await visitor.get("/static/page")
        assert (await visitor.get("/raw")).json() == {}


async def test_paths_are_those_of_the_app_wherever_it_is_mounted(db: SessionDB) -> None:
    inner = FastAPI()
    inner.add_middleware(SessionMiddleware, db=db, cookie=PLAIN, skip=["/healthz"])

    @inner.get("/{name}")
    async def endpoint(request: Request, name: str) -> bool:
        return "session" in request.scope

    outer = FastAPI()
    outer.mount("/in", inner)
    async with browser(outer) as visitor:
        assert (await visitor.get("/in/healthz")).json() is False
        assert (await visitor.get("/in/page")).json() is True


@pytest.mark.parametrize("second", [PLAIN, Cookie("sid", secure=False, samesite="strict")])
async def test_two_middlewares_on_one_cookie(db: SessionDB, second: Cookie) -> None:
    app = app_on(db)
    app.add_middleware(SessionMiddleware, db=db, cookie=second)
    async with browser(app) as visitor:
        with pytest.raises(ConfigurationError, match=r"share the cookie 'sid'.*cookie=Cookie\(name='admin'\)"):
            await visitor.get("/raw")


async def lived(app: FastAPI, sent: list[Message]) -> None:
    """A server starts ``app`` and ends it; ``sent`` is what the app answers."""
    asked = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(asked)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)


async def test_two_middlewares_on_one_cookie_stop_the_start(db: SessionDB) -> None:
    app = app_on(db)
    app.add_middleware(SessionMiddleware, db=db, cookie=PLAIN)
    sent: list[Message] = []
    with pytest.raises(ConfigurationError, match="share the cookie 'sid'") as caught:
        await lived(app, sent)
    # Without this a server takes the exception for an app that knows no lifespan, and starts it.
    assert sent == [{"type": "lifespan.startup.failed", "message": str(caught.value)}]


async def test_two_middlewares_on_two_cookies_start(db: SessionDB) -> None:
    app = app_on(db)
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie("admin", secure=False))
    sent: list[Message] = []
    await lived(app, sent)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_mounted_app_with_a_middleware_of_its_own_on_the_same_cookie(db: SessionDB) -> None:
    app = app_on(db)
    app.mount("/inner", app_on(db))
    async with browser(app) as visitor:
        with pytest.raises(ConfigurationError, match="a mounted app uses the outer one's session"):
            await visitor.get("/inner/raw")


# -- without FastAPI --------------------------------------------------------------------------------------

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fastapi", "pydantic"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_without_fastapi(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_fastapi_the_error_names_the_extra() -> None:
    output = run_without_fastapi(
        """
        import sessiondb

        for name in ("CurrentSession", "RequireLogin", "RequireRecentLogin", "current_session", "require_login",
                     "session_of"):
            try:
                getattr(sessiondb, name)
            except sessiondb.ConfigurationError as error:
                print(error)
        """
    )
    lines = output.splitlines()
    assert len(lines) == 6
    assert all("pip install 'sessiondb[fastapi]'" in line and "request.session" in line for line in lines)


def test_starlette_alone_is_enough() -> None:
    output = run_without_fastapi(
        """
        import asyncio
        import dataclasses
        import httpx
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from sessiondb import Cookie, SessionDB, SessionMiddleware
        from sessiondb.testing import login

        async def count(request):
            request.session["n"] = request.session.get("n", 0) + 1
            return PlainTextResponse(f"{request.session.user_id} {request.session['n']}")

        async def main():
            async with SessionDB("memory://") as db:
                app = Starlette(routes=[Route("/", count, methods=["GET", "POST"])])
                app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
                    await client.get("/")
                    print((await client.get("/")).text)
                    await login(client, "ann")
                    print((await client.post("/")).text)

        asyncio.run(main())
        """
    )
    assert output.splitlines() == ["None 2", "ann 1"]
