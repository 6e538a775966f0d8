"""Tokens in headers: for clients that are no browsers, alone and beside the cookie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import httpx
import pytest
from asgi import Connection
from fastapi import Depends, FastAPI, Request, WebSocket
from hypothesis import given
from hypothesis import strategies as st

from sessiondb import (
    Bearer,
    ConfigurationError,
    Cookie,
    CurrentSession,
    Header,
    RequireLogin,
    RequireRecentLogin,
    SessionDB,
    SessionMiddleware,
    require_login,
)
from sessiondb.core import token as tokens
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, ManualClock
from sessiondb.web.transports import present

PLAIN = Cookie(secure=False)
EVIL = {"origin": "https://evil.test", "sec-fetch-site": "cross-site"}


class Api:
    """An app that takes tokens in several ways, and a database whose calls are counted."""

    def __init__(self, **settings: Any) -> None:
        clock = ManualClock()
        self.store = CountingStore(MemoryStore(clock=clock))
        self.db = SessionDB(self.store, clock=clock, sweep_every=None, timeout=60)
        self.app = FastAPI()
        settings = {"cookie": PLAIN, "headers": [Bearer(), Header("X-Session")], **settings}
        self.app.add_middleware(SessionMiddleware, db=self.db, **settings)
        self._routes()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://api.test")

    def _routes(self) -> None:
        app = self.app

        @app.get("/who")
        @app.post("/who", include_in_schema=False)
        async def who(session: CurrentSession) -> str | None:
            return session.user_id

        @app.post("/login/{user}")
        async def login(user: str, session: CurrentSession) -> str | None:
            await session.login(user)
            return session.sid

        @app.post("/put")
        async def put(session: CurrentSession) -> None:
            session["a"] = 1

        @app.post("/rotate")
        async def rotate(session: CurrentSession) -> None:
            session.rotate()

        @app.post("/logout")
        async def logout(session: CurrentSession) -> None:
            session.logout()

        @app.get("/me")
        async def me(user_id: RequireLogin) -> str:
            return user_id

        @app.get("/machine")
        async def machine(user_id: Annotated[str, Depends(require_login(transport=Bearer()))]) -> str:
            return user_id

        @app.get("/either")
        async def either(user_id: Annotated[str, Depends(require_login(transport=[PLAIN, Bearer()]))]) -> str:
            return user_id

        @app.get("/recent")
        async def recent(
            user_id: Annotated[str, Depends(RequireRecentLogin(300, transport=[Header("X-Session"), Bearer()]))],
        ) -> str:
            return user_id

        @app.post("/form")
        async def form(request: Request, session: CurrentSession) -> str | None:
            await request.form()
            return session.user_id

    async def token(self, user: str = "ann") -> str:
        return (await self.db.create(user)).token

    async def ask(self, method: str, path: str, headers: Any = None, **settings: Any) -> httpx.Response:
        """One request, of a client that keeps nothing."""
        self.http.cookies.clear()
        return await self.http.request(method, path, headers=headers, **settings)

    async def who(self, headers: Any, path: str = "/who") -> Any:
        response = await self.ask("GET", path, headers)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    await api.db.open()
    yield api
    await api.db.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# -- the way in -----------------------------------------------------------------------------------------------


async def test_a_token_comes_in_by_each_way(api: Api) -> None:
    token = await api.token()
    for headers in (
        {"authorization": f"Bearer {token}"},
        {"Authorization": f"bearer {token}"},
        {"authorization": f"BEARER   {token}  "},
        {"x-session": token},
        {"X-SESSION": f" {token}\t"},
        {"cookie": f"sid={token}"},
    ):
        assert await api.who(headers) == "ann", headers


@pytest.mark.security("T5")
@pytest.mark.parametrize(
    "make",
    [
        lambda token: [("authorization", "Bearer")],
        lambda token: [("authorization", "Bearer ")],
        lambda token: [("authorization", "Bearer new")],
        lambda token: [("authorization", f"Bearer {token}=")],
        lambda token: [("authorization", f'Bearer "{token}"')],
        lambda token: [("authorization", f"Bearer {token}, Bearer {token}")],
        lambda token: [("authorization", f"Bearer {token[:-1]}")],
        lambda token: [("authorization", f"Bearer {token * 800}")],
        lambda token: [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")],
        lambda token: [("authorization", f"Bearer {token}"), ("authorization", "Basic YTpi")],
        lambda token: [("authorization", "Basic YTpi"), ("authorization", f"Bearer {token}")],
        lambda token: [("x-session", "")],
        lambda token: [("x-session", f"Bearer {token}")],
        lambda token: [("x-session", f"{token} {token}")],
        lambda token: [("x-session", f"{token},{token}")],
        lambda token: [("x-session", token), ("x-session", token)],
    ],
)
async def test_what_is_no_token_is_nobody_without_a_store_call_also_beside_a_good_cookie(
    api: Api, make: Callable[[str], list[tuple[str, str]]]
) -> None:
    token = await api.token()
    api.store.reset()
    headers = make(token)
    assert await api.who([*headers, ("cookie", f"sid={token}")]) is None
    assert api.store.total == 0
    assert api.db.counters["token_malformed"] == 1


async def test_another_scheme_is_none_of_ours(api: Api) -> None:
    token = await api.token()
    for scheme in (f"Basic {token}", f"Bearertoken {token}", token, "", f"Token Bearer {token}"):
        assert await api.who({"authorization": scheme, "cookie": f"sid={token}"}) == "ann"
        assert await api.who({"authorization": scheme}) is None


async def test_the_order_is_stated_and_one_way_serves_alone(api: Api) -> None:
    ann, bob, eve = [await api.token(user) for user in ("ann", "bob", "eve")]
    every = {**bearer(ann), "x-session": bob, "cookie": f"sid={eve}"}
    api.store.reset()
    assert await api.who(every) == "ann"
    del every["authorization"]
    assert await api.who(every) == "bob"
    del every["x-session"]
    assert await api.who(every) == "eve"
    # Only the one that serves is looked up.
    assert api.store.calls["load"] == 3
    # A dead token in the first way is no reason to try the next.
    await api.db.revoke_all("ann")
    assert await api.who({**bearer(ann), "x-session": bob, "cookie": f"sid={eve}"}) is None


@pytest.mark.security("T8")
async def test_a_token_anywhere_else_opens_nothing(api: Api) -> None:
    token = await api.token()
    api.store.reset()
    for name in ("sid", "token", "session", "access_token", "authorization", "x-session", "Session-Token"):
        assert (await api.ask("GET", "/who", params={name: token})).json() is None
        assert (await api.ask("POST", "/form", data={name: token})).json() is None
        assert (await api.ask("POST", "/who", json={name: token})).json() is None
    for header in ("session-token", "x-auth-token", "sid", "proxy-authorization", "x-session-token", "set-cookie"):
        assert (await api.ask("GET", "/who", {header: f"sid={token}"})).json() is None
        assert (await api.ask("GET", "/who", {header: token})).json() is None
    assert (await api.ask("GET", f"/who;sid={token}")).status_code == 404
    assert api.store.total == 0


@pytest.mark.security("T8")
async def test_headers_are_opt_in() -> None:
    api = Api(headers=[])
    token = await api.token()
    assert await api.who({**bearer(token), "x-session": token}) is None
    assert await api.who({**bearer("nonsense"), "cookie": f"sid={token}"}) == "ann"
    await api.db.close()


@given(st.lists(st.tuples(st.sampled_from([b"authorization", b"x-session", b"cookie", b"x"]), st.binary(max_size=200))))
def test_any_bytes_are_read_without_an_exception(headers: list[tuple[bytes, bytes]]) -> None:
    found = present([Bearer(), Header("X-Session")], headers)
    if found is not None:
        way, presented = found
        assert len(presented) <= 1
        assert any(name == way.name.lower().encode() for name, _ in headers)


# -- cross-origin ---------------------------------------------------------------------------------------------


@pytest.mark.security("W2")
async def test_a_token_in_a_header_needs_no_cross_origin_check_and_a_cookie_does(api: Api) -> None:
    token = await api.token()
    assert (await api.ask("POST", "/who", {**bearer(token), **EVIL})).json() == "ann"
    assert (await api.ask("POST", "/who", {"x-session": token, **EVIL})).json() == "ann"
    assert (await api.ask("POST", "/who", {"cookie": f"sid={token}", **EVIL})).status_code == 403
    assert (await api.ask("POST", "/login/eve", EVIL)).status_code == 403


@pytest.mark.security("W2")
async def test_a_header_that_holds_no_token_gets_no_cookie_past_the_check(api: Api) -> None:
    """Another site that could set the header would log in nobody's browser with it."""
    token = await api.token()
    answer = await api.ask("POST", "/login/eve", {**bearer("x"), "cookie": f"sid={token}", **EVIL})
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert tokens.parse(answer.headers["session-token"].encode()) is not None
    assert await api.who({"cookie": f"sid={token}"}) == "ann"


# -- the way out ----------------------------------------------------------------------------------------------


@pytest.mark.security("H2", "L1", "L6")
@pytest.mark.parametrize("way", ["authorization", "x-session"])
async def test_a_client_logs_in_rotates_and_logs_out_by_its_header(api: Api, way: str) -> None:
    def with_token(token: str) -> dict[str, str]:
        return bearer(token) if way == "authorization" else {way: token}

    held = "new"
    for path in ("/put", "/login/ann", "/rotate", "/login/bob"):
        answer = await api.ask("POST", path, with_token(held))
        assert answer.status_code == 200
        fresh = answer.headers["session-token"]
        assert fresh != held
        held = fresh
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
    assert await api.who(with_token(held)) == "bob"
    # Nothing is repeated where nothing has changed.
    answer = await api.ask("POST", "/put", with_token(held))
    assert "session-token" not in answer.headers
    assert answer.headers["cache-control"] == "private"
    answer = await api.ask("POST", "/logout", with_token(held))
    assert (answer.headers["session-token"], answer.headers["cache-control"]) == ("", "no-store")
    assert "set-cookie" not in answer.headers
    assert held not in str(answer.headers)
    assert await api.who(with_token(held)) is None


@pytest.mark.security("H1")
async def test_a_response_varies_by_every_way_in(api: Api) -> None:
    for headers in ({}, bearer("x"), {"cookie": "sid=x"}):
        answer = await api.ask("GET", "/who", headers)
        assert answer.headers["vary"] == "Authorization, X-Session, Cookie"
    alone = Api(cookie=None, headers=[Bearer()])
    answer = await alone.ask("GET", "/who")
    assert answer.headers["vary"] == "Authorization"
    await alone.db.close()


async def test_the_response_header_has_the_name_it_was_given() -> None:
    api = Api(headers=[Bearer(respond="X-New-Token"), Header("X-Session", respond="X-Session")])
    assert "x-new-token" in (await api.ask("POST", "/login/ann", bearer(""))).headers
    assert "x-session" in (await api.ask("POST", "/login/ann", {"x-session": "new"})).headers
    await api.db.close()


async def test_clients_that_are_never_told_a_token_can_use_theirs_and_log_out() -> None:
    api = Api(headers=[Bearer(respond=None)])
    token = await api.token()
    api.store.reset()
    assert (await api.ask("POST", "/put", bearer(token))).status_code == 200
    told_a_token = [("/login/eve", token), ("/login/ann", token), ("/rotate", token), ("/login/eve", "x"), ("/put", "")]
    for path, held in told_a_token:
        answer = await api.ask("POST", path, bearer(held))
        assert answer.status_code == 400, path
        assert "session-token" not in answer.headers
    assert len(await api.db.sessions_of("eve")) == 0
    assert await api.who(bearer(token)) == "ann"
    assert (await api.ask("POST", "/logout", bearer(token))).status_code == 200
    assert await api.who(bearer(token)) is None
    # Browsers are not concerned.
    assert (await api.ask("POST", "/login/eve")).status_code == 200
    await api.db.close()


async def test_an_app_without_a_cookie_sets_none_and_answers_in_its_first_header() -> None:
    api = Api(cookie=None, headers=[Bearer(), Header("X-Session")])
    token = await api.token()
    assert await api.who({"cookie": f"__Host-sid={token}; sid={token}"}) is None
    answer = await api.ask("POST", "/login/ann", EVIL)
    assert "set-cookie" not in answer.headers
    assert await api.who(bearer(answer.headers["session-token"])) == "ann"
    assert (await api.ask("GET", "/me")).headers["www-authenticate"] == 'Bearer realm="session"'
    await api.db.close()


async def test_a_websocket_takes_a_token_in_a_header(api: Api) -> None:
    @api.app.websocket("/socket")
    async def socket(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_json(getattr(ws.session, "user_id", "none"))
        await ws.close()

    token = await api.token()
    headers = [*bearer(token).items(), *EVIL.items()]
    connection = Connection(api.app, "websocket", "/socket", headers)
    await connection.sends("websocket.send", text='"ann"')
    await connection.done
    # A page of another site cannot set that header, and its cookie does not get in.
    refused = Connection(api.app, "websocket", "/socket", [("cookie", f"sid={token}"), *EVIL.items()])
    await refused.sends("websocket.http.response.start", status=403)


# -- guards and OpenAPI ---------------------------------------------------------------------------------------


async def test_a_guard_tells_each_client_in_its_own_words(api: Api) -> None:
    for headers, challenge in (
        ({}, 'Cookie realm="session", cookie-name="sid"'),
        (bearer("x"), 'Bearer realm="session"'),
        ({"x-session": "x"}, 'APIKey realm="session", header-name="X-Session"'),
    ):
        answer = await api.ask("GET", "/me", headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, challenge)


async def test_a_guard_that_names_its_ways_takes_no_other(api: Api) -> None:
    token = await api.token()
    cookie = {"cookie": f"sid={token}"}
    assert await api.who(bearer(token), "/machine") == "ann"
    for headers in (cookie, {"x-session": token}, {}):
        answer = await api.ask("GET", "/machine", headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="session"')
    assert await api.who(bearer(token), "/either") == await api.who(cookie, "/either") == "ann"
    answer = await api.ask("GET", "/either", {"x-session": token})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Cookie realm="session", cookie-name="sid", Bearer realm="session"'
    assert await api.who({"x-session": token}, "/recent") == await api.who(bearer(token), "/recent") == "ann"
    assert (await api.ask("GET", "/recent", cookie)).status_code == 401


def test_openapi_shows_the_ways_that_each_guard_takes() -> None:
    description = Api().app.openapi()
    security = {path: next(iter(each.values())).get("security") for path, each in description["paths"].items()}
    assert security["/who"] is None
    assert security["/me"] == [{"session": []}]
    assert security["/machine"] == [{"session-bearer": []}]
    # Any of them is enough.
    assert {name for one in security["/either"] for name in one} == {"session", "session-bearer"}
    assert [len(one) for one in security["/either"]] == [1, 1]
    assert {name for one in security["/recent"] for name in one} == {"session-header-x-session", "session-bearer"}
    schemes = description["components"]["securitySchemes"]
    assert (schemes["session-bearer"]["type"], schemes["session-bearer"]["scheme"]) == ("http", "bearer")
    header = schemes["session-header-x-session"]
    assert (header["type"], header["in"], header["name"]) == ("apiKey", "header", "X-Session")
    for each in description["paths"].values():
        for operation in each.values():
            assert [one["name"] for one in operation.get("parameters", [])] in ([], ["user"])


async def test_a_guard_that_nobody_can_pass_is_a_configuration_error() -> None:
    api = Api(headers=[])
    token = await api.token()
    api.http = httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api.test")
    with pytest.raises(ConfigurationError, match="headers="):
        await api.ask("GET", "/machine", bearer(token))
    await api.db.close()


# -- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Header(""),
        lambda: Header("two words"),
        lambda: Header("a:b"),
        lambda: Header("x\r\ny"),
        lambda: Header("Authorization"),
        lambda: Header("cookie"),
        lambda: Header("Accept-Language"),
        lambda: Header("Content-Type"),
        lambda: Header("Range"),
        lambda: Header("Sec-Session"),
        lambda: Header("Origin"),
        lambda: Header(3),  # type: ignore[arg-type]
        lambda: Header("X-Session", respond="Set-Cookie"),
        lambda: Header("X-Session", respond="a b"),
        lambda: Bearer(respond="Location"),
        lambda: Bearer(respond=""),
        lambda: Bearer(respond=True),  # type: ignore[arg-type]
        lambda: require_login(transport="bearer"),  # type: ignore[arg-type]
        lambda: require_login(transport=[]),
        lambda: require_login(transport=[Bearer(), "x"]),  # type: ignore[list-item]
        lambda: require_login(cookie="admin", transport=Bearer()),
        *(
            (lambda settings=settings: SessionMiddleware(FastAPI(), SessionDB("memory://"), **settings))
            for settings in (
                {"headers": Bearer()},
                {"headers": "Authorization"},
                {"headers": ["X-Session"]},
                {"headers": [Bearer(), Bearer()]},
                {"headers": [Header("X-Session"), Header("x-session")]},
                {"headers": None},
                {"cookie": None},
                {"recheck": 0},
                {"recheck": 61},
                {"recheck": None},
                {"recheck": True},
            )
        ),
    ],
)
def test_what_cannot_work_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()


async def test_two_middlewares_on_one_header_are_refused() -> None:
    api = Api()
    api.app.add_middleware(SessionMiddleware, db=api.db, cookie=Cookie("other", secure=False), headers=[Bearer()])
    api.http = httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api.test")
    with pytest.raises(ConfigurationError, match="share the header 'authorization'"):
        await api.ask("GET", "/who")
    await api.db.close()
