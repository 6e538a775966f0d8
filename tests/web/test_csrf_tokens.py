"""CSRF tokens in forms: good for one session as long as that lives, and for nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from pages import PLAIN, app_on, browser
from racing import arrived, gate, open_gate
from serving import Browser, Server, raw_request, serving
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect

from databases import new_url
from sessiondb import (
    ConfigurationError,
    CsrfTokenRefused,
    CurrentSession,
    HeadersSent,
    RequireCsrfToken,
    SessionDB,
    SessionDBError,
    SessionMiddleware,
    check_csrf_token,
    csrf_token,
)
from sessiondb.core import token as tokens
from sessiondb.core.record import Record
from sessiondb.core.reserved import CSRF
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore
from sessiondb.web import csrf_tokens

Checked = Depends(RequireCsrfToken())


class Pages:
    """An app with forms, and a browser for it."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.store = CountingStore(self.memory)
        self.db = SessionDB(self.store, sweep_every=None)
        self.app = app_on(self.db)
        self.http = browser(self.app)
        add_pages(self.app)

    async def token(self, action: str = "") -> str:
        answer = await self.http.get("/form", params={"action": action})
        assert answer.status_code == 200
        found: str = answer.json()
        return found

    async def send(self, token: str | None, path: str = "/sent", **headers: str) -> httpx.Response:
        data = {"name": "tea"} if token is None else {"name": "tea", "csrf_token": token}
        return await self.http.post(path, data=data, headers=headers)

    async def raw(self) -> dict[str, Any]:
        data: dict[str, Any] = (await self.http.get("/raw")).json()
        return data

    def stored(self) -> list[Record]:
        return list(self.memory._table.records.values())

    async def reason(self, token: str | None, path: str = "/sent") -> str:
        """Why it is refused."""
        answer = await self.send(token, path)
        assert answer.status_code == 403, answer.text
        reason: str = answer.json()["reason"]
        return reason


def add_pages(app: FastAPI) -> None:
    @app.exception_handler(CsrfTokenRefused)
    async def refused(request: Request, error: CsrfTokenRefused) -> JSONResponse:
        return JSONResponse({"reason": error.reason, "detail": error.detail}, error.status_code)

    @app.get("/form")
    async def form(request: Request, action: str = "") -> str:
        return csrf_token(request, action)

    @app.post("/sent", dependencies=[Checked])
    async def sent(name: Annotated[str, Form()]) -> str:
        return name

    @app.post("/transfer", dependencies=[Depends(RequireCsrfToken(action="/transfer"))])
    async def transfer(name: Annotated[str, Form()]) -> str:
        return name

    @app.post("/uploaded", dependencies=[Checked])
    async def uploaded(file: UploadFile, name: Annotated[str, Form()]) -> list[Any]:
        return [name, file.filename, len(await file.read())]

    @app.post("/read/{how}", dependencies=[Checked])
    async def read(how: str, request: Request) -> str:
        if how == "form":
            return str((await request.form())["name"])
        if how == "stream":
            return b"".join([chunk async for chunk in request.stream()]).decode()
        return (await request.body()).decode()

    @app.post("/json", dependencies=[Checked])
    async def json(body: dict[str, str]) -> str:
        return body["name"]

    @app.post("/checked-login/{user}", dependencies=[Checked])
    def checked_login(user: str, session: CurrentSession) -> None:
        session.login(user)

    @app.post("/checked-logout", dependencies=[Checked])
    def checked_logout(session: CurrentSession) -> None:
        session.logout()

    @app.post("/login-and-form/{user}")
    async def login_and_form(user: str, session: CurrentSession, request: Request, wait: bool = False) -> str:
        staged = session.login(user)
        if wait:
            await staged
        return csrf_token(request)

    @app.post("/rotate")
    async def rotate(session: CurrentSession) -> None:
        await session.rotate()


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    pages = Pages()
    async with pages.db, pages.http:
        yield pages


# -- forms ----------------------------------------------------------------------------------------------------


@pytest.mark.security("W1")
async def test_a_form_with_its_token_reaches_the_endpoint_whole(pages: Pages) -> None:
    answer = await pages.send(await pages.token())
    assert (answer.status_code, answer.json()) == (200, "tea")


@pytest.mark.security("W1")
async def test_an_upload_reaches_the_endpoint_whole(pages: Pages) -> None:
    data = {"name": "tea", "csrf_token": await pages.token()}
    content = b"x" * 3_000_000  # More than Starlette keeps in memory.
    answer = await pages.http.post("/uploaded", data=data, files={"file": ("a.bin", content)})
    assert answer.json() == ["tea", "a.bin", 3_000_000]
    data["csrf_token"] = "x" * 64
    answer = await pages.http.post("/uploaded", data=data, files={"file": ("a.bin", content)})
    assert answer.status_code == 403


@pytest.mark.parametrize("how", ["form", "body", "stream"])
async def test_the_endpoint_may_read_the_body_as_it_likes(pages: Pages, how: str) -> None:
    answer = await pages.send(await pages.token(), f"/read/{how}")
    assert answer.status_code == 200
    assert "tea" in answer.json()


async def test_an_endpoint_may_read_a_multipart_form_itself(pages: Pages) -> None:
    data = {"name": "tea", "csrf_token": await pages.token()}
    answer = await pages.http.post("/read/form", data=data, files={"file": ("a", b"x" * 2_000_000)})
    assert answer.json() == "tea"


@pytest.mark.security("W1")
async def test_scripts_send_the_token_in_a_header(pages: Pages) -> None:
    token = await pages.token()
    answer = await pages.http.post("/json", json={"name": "tea"}, headers={"X-CSRF-Token": token})
    assert (answer.status_code, answer.json()) == (200, "tea")
    assert (await pages.http.post("/json", json={"name": "tea"})).json()["reason"] == "missing"
    # The header decides where there is one, and the body is left to the endpoint.
    answer = await pages.http.post("/read/stream", content=b"any", headers={"X-CSRF-Token": token})
    assert answer.json() == "any"
    assert (await pages.send(token, **{"X-CSRF-Token": "x" * 64})).json()["reason"] == "wrong"


@pytest.mark.security("W1")
@pytest.mark.parametrize("with_session", [True, False])
async def test_a_refusal_is_403_counted_logged_and_in_the_stream(
    pages: Pages, caplog: pytest.LogCaptureFixture, with_session: bool
) -> None:
    if with_session:
        await pages.http.post("/login/ann")
    with caplog.at_level(logging.WARNING, "sessiondb"):
        reason = await pages.reason(None)
    assert reason == ("missing" if with_session else "no_session")
    assert pages.db.counters["malicious_csrf"] == 1
    assert "/sent" in caplog.text
    assert ("{{ csrf_input() }}" if with_session else "without a living session") in caplog.text
    await pages.db.close()
    events = (await pages.db.events(type="malicious_csrf")).events
    # An event names a session; without one there is only the count.
    assert [(one.user_id, one.reason) for one in events] == ([("ann", "missing")] if with_session else [])


async def test_the_answer_tells_the_visitor_what_to_do_and_nothing_of_the_app(pages: Pages) -> None:
    answer = await pages.send(None)
    assert "reload the page" in answer.json()["detail"]
    assert "template" not in answer.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_safe_methods_pass(pages: Pages, method: str) -> None:
    @pages.app.api_route("/safe", methods=["GET", "HEAD", "OPTIONS"], dependencies=[Checked])
    async def safe() -> None: ...

    assert (await pages.http.request(method, "/safe")).status_code == 200
    assert pages.store.calls["load"] == 0


# -- what a token is good for ---------------------------------------------------------------------------------


@pytest.mark.security("W1")
async def test_each_response_has_another_one_and_all_are_good(pages: Pages) -> None:
    found = [await pages.token() for _ in range(5)]
    assert len(set(found)) == 5
    # No part of it stays the same, so a compressed page tells nothing of it (BREACH).
    assert all(len({token[at : at + 22] for token in found}) == 5 for at in range(0, 64, 22))
    for token in reversed(found):
        assert (await pages.send(token)).status_code == 200
        assert (await pages.send(token)).status_code == 200, "a form may be sent again, as after the back button"


async def test_forms_outlive_the_rotation_of_the_session(pages: Pages) -> None:
    await pages.http.post("/login/ann")
    token, cookie = await pages.token(), pages.http.cookies["sid"]
    await pages.http.post("/rotate")
    assert pages.http.cookies["sid"] != cookie
    assert (await pages.send(token)).status_code == 200


@pytest.mark.security("W1", "L2")
async def test_a_login_makes_the_tokens_from_before_worthless(pages: Pages) -> None:
    before = await pages.token()
    assert (await pages.send(before)).status_code == 200
    await pages.http.post("/login/ann")
    assert await pages.reason(before) == "wrong"
    as_ann = await pages.token()
    assert (await pages.send(as_ann)).status_code == 200
    await pages.http.post("/login/bob")
    assert await pages.reason(as_ann) == "wrong"


@pytest.mark.security("W1", "L1")
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("first", ["ann", "bob", None])
async def test_a_login_and_a_form_in_one_response(pages: Pages, wait: bool, first: str | None) -> None:
    # Also where the same user signs in again, and the session stays.
    if first is not None:
        await pages.http.post(f"/login/{first}")
    before = await pages.token()
    made = (await pages.http.post("/login-and-form/ann", params={"wait": wait})).json()
    assert await pages.reason(before) == "wrong"
    assert (await pages.send(made)).status_code == 200
    assert (await pages.send(await pages.token())).status_code == 200


@pytest.mark.security("W1", "W2")
async def test_the_tokens_of_another_session_are_refused(pages: Pages) -> None:
    mallory = browser(pages.app)
    async with mallory:
        theirs: str = (await mallory.get("/form")).json()
        assert (await mallory.post("/sent", data={"name": "x", "csrf_token": theirs})).status_code == 200
        await pages.token()
        assert await pages.reason(theirs) == "wrong"
        # Login CSRF: a login form of the attacker's, with their token, from the victim's browser.
        assert await pages.reason(theirs, "/checked-login/mallory") == "wrong"


@pytest.mark.security("W2")
async def test_login_and_logout_forms_are_protected_too(pages: Pages) -> None:
    assert await pages.reason(None, "/checked-login/ann") == "no_session"
    assert (await pages.send(await pages.token(), "/checked-login/ann")).status_code == 200
    assert len(await pages.db.sessions_of("ann")) == 1
    assert await pages.reason(None, "/checked-logout") == "missing"
    assert len(await pages.db.sessions_of("ann")) == 1
    assert (await pages.send(await pages.token(), "/checked-logout")).status_code == 200
    assert await pages.db.sessions_of("ann") == []


async def test_a_session_that_has_ended_is_named_in_the_log(pages: Pages, caplog: pytest.LogCaptureFixture) -> None:
    await pages.http.post("/login/ann")
    token = await pages.token()
    await pages.db.revoke_all("ann")
    with caplog.at_level(logging.WARNING, "sessiondb"):
        assert await pages.reason(token) == "no_session"
    assert "(it was ended: revoked)" in caplog.text


@pytest.mark.security("W1")
async def test_a_token_for_one_action_is_not_good_for_another(pages: Pages) -> None:
    assert (await pages.send(await pages.token("/transfer"), "/transfer")).status_code == 200
    assert await pages.reason(await pages.token(), "/transfer") == "wrong"
    assert await pages.reason(await pages.token("/other"), "/transfer") == "wrong"
    assert await pages.reason(await pages.token("/transfer"), "/sent") == "wrong"


@given(data=st.data())
def test_no_changed_token_is_good(data: st.DataObject) -> None:
    key = b"k" * 32
    nonce = data.draw(st.binary(min_size=16, max_size=16))
    action = data.draw(st.text(max_size=20))
    token = urlsafe_b64encode(nonce + csrf_tokens._digest(key, nonce, action)).decode()
    assert csrf_tokens._is_good(token, key, action)
    at = data.draw(st.integers(0, 63))
    other = data.draw(st.characters(codec="utf-8").filter(lambda one: one != token[at]))
    assert not csrf_tokens._is_good(token[:at] + other + token[at + 1 :], key, action)
    assert not csrf_tokens._is_good(token, b"K" * 32, action)
    another = data.draw(st.text(max_size=20).filter(lambda one: one != action))
    assert not csrf_tokens._is_good(token, key, another)


@given(text=st.text(st.characters(exclude_categories=()), max_size=100))
def test_no_text_is_an_error(text: str) -> None:
    assert not csrf_tokens._is_good(text, b"k" * 32, "")


@pytest.mark.security("T4")
def test_tokens_are_compared_in_constant_time() -> None:
    source = inspect.getsource(csrf_tokens._is_good)
    assert "compare_digest(" in source
    assert " == " not in source and " != " not in source


# -- kept apart from session tokens ---------------------------------------------------------------------------


@pytest.mark.security("T7")
async def test_a_session_token_is_no_csrf_token_and_the_other_way_round(pages: Pages) -> None:
    await pages.http.post("/login/ann")
    csrf, cookie = await pages.token(), pages.http.cookies["sid"]
    sid, series, secret = cookie.split(".")
    for wrong in (cookie, sid, series, secret, cookie[:64], cookie[-64:], (secret + series)[:64]):
        assert await pages.reason(wrong) == "wrong"
    before = pages.store.calls["load"]
    async with browser(pages.app) as thief:
        for wrong in (csrf, f"{csrf}{csrf}"[:89], f"{csrf[:22]}.{csrf[:22]}.{csrf[:43]}"):
            answer = await thief.get("/raw", headers={"cookie": f"sid={wrong}"})
            assert answer.json() == {}
    # A text of the right shape may be looked up, and is nobody's.
    assert pages.store.calls["load"] - before <= 1


@pytest.mark.security("T7")
async def test_its_key_is_no_other_use_of_the_same_parts(pages: Pages) -> None:
    await pages.http.post("/login/ann")
    token = tokens.parse(pages.http.cookies["sid"].encode())
    assert token is not None
    nonce = b"n" * 16
    for key in (
        token.series,
        token.secret,
        tokens.digest(token.series),
        tokens.digest(token.secret),
        tokens.derive(token.secret, nonce * 2),
        tokens.derive(token.series, nonce * 2),
    ):
        forged = urlsafe_b64encode(nonce + hmac.digest(key, nonce, "sha256")).decode()
        assert await pages.reason(forged) == "wrong"


@pytest.mark.security("T3")
async def test_the_database_has_nothing_to_make_one_of(pages: Pages) -> None:
    token = await pages.token()
    [record] = pages.stored()
    assert record.data == b'{"_csrf":1}'
    nonce = urlsafe_b64decode(token)[:16]
    stored = [record.series_hash, record.secret_hash, record.sid.encode(), record.last_changes]
    for start in [*stored, hashlib.sha256(record.series_hash).digest()]:
        held = tokens.Token(record.sid, start, b"")
        for key in (start, csrf_tokens._derive(held), csrf_tokens._derive(held, record.created_at)):
            forged = urlsafe_b64encode(nonce + hmac.digest(key, nonce, "sha256")).decode()
            assert await pages.reason(forged) == "wrong"
    assert (await pages.send(token)).status_code == 200


# -- what it costs --------------------------------------------------------------------------------------------


@pytest.mark.security("D1")
async def test_only_a_form_makes_a_session_for_a_visitor(pages: Pages) -> None:
    await pages.http.get("/raw")
    await pages.send(None)
    assert not pages.http.cookies
    assert pages.store.calls["apply"] == 0
    token = await pages.token()
    assert "sid" in pages.http.cookies
    assert await pages.raw() == {CSRF: 1}
    assert (await pages.send(token)).status_code == 200
    assert pages.store.calls["apply"] == 1


async def test_a_session_that_exists_is_not_written_to(pages: Pages) -> None:
    await pages.http.post("/login/ann")
    before = pages.store.calls["apply"]
    for _ in range(3):
        assert (await pages.send(await pages.token())).status_code == 200
    assert pages.store.calls["apply"] == before


async def test_a_page_with_a_token_is_kept_by_no_shared_cache(pages: Pages) -> None:
    await pages.http.post("/login/ann")
    answer = await pages.http.get("/form")
    assert answer.headers["vary"] == "Cookie"
    assert answer.headers["cache-control"] == "private"


# -- beside the other verbs -----------------------------------------------------------------------------------


async def test_a_form_after_a_logout(pages: Pages) -> None:
    @pages.app.post("/leave")
    async def leave(session: CurrentSession, request: Request) -> str:
        await session.logout()
        return csrf_token(request)

    @pages.app.post("/leave-at-once")
    def leave_at_once(session: CurrentSession, request: Request) -> None:
        session.logout()
        with pytest.raises(SessionDBError, match=r"await session\.logout\(\)"):
            csrf_token(request)

    await pages.http.post("/login/ann")
    made = (await pages.http.post("/leave")).json()
    assert (await pages.send(made)).status_code == 200
    await pages.http.post("/login/ann")
    assert (await pages.http.post("/leave-at-once")).status_code == 200


async def test_a_token_cannot_be_promised_once_the_headers_have_left(pages: Pages) -> None:
    @pages.app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield "<form>"
            try:
                yield csrf_token(request)
            except HeadersSent:
                yield "too late"

        return StreamingResponse(body())

    assert (await pages.http.get("/stream")).text == "<form>too late"
    await pages.http.post("/login/ann")
    assert (await pages.send((await pages.http.get("/stream")).text.removeprefix("<form>"))).status_code == 200


@pytest.mark.security("W1")
async def test_the_cross_origin_check_comes_first(pages: Pages) -> None:
    token = await pages.token()
    answer = await pages.send(token, **{"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert "Cross-origin" in answer.text
    assert (await pages.send(token, **{"sec-fetch-site": "same-origin"})).status_code == 200
    assert await pages.reason(None) == "missing", "passing the one check does not replace the other"


async def test_a_client_whose_token_no_other_site_can_send_needs_none() -> None:
    from sessiondb import Bearer

    db = SessionDB("memory://")
    app = FastAPI()
    app.add_middleware(SessionMiddleware, db=db, cookie=PLAIN, headers=[Bearer()])
    add_pages(app)
    async with db, browser(app) as http:
        issued = await db.create("ann")
        bearer = {"authorization": f"Bearer {issued.token}"}
        assert (await http.post("/sent", data={"name": "tea"}, headers=bearer)).status_code == 200
        http.cookies["sid"] = issued.token
        assert (await http.post("/sent", data={"name": "tea"})).status_code == 403


# -- settings and faces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"action": None}, {"field": ""}, {"field": 7}, {"header": "X CSRF"}, {"header": ""}, {"header": b"x"}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"RequireCsrfToken: {next(iter(settings))} is"):
        RequireCsrfToken(**settings)


def test_the_class_instead_of_an_instance_is_refused() -> None:
    # FastAPI would make an instance by the query, and check nothing.
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=r"Depends\(RequireCsrfToken\(\)\)"):

        @app.post("/open", dependencies=[Depends(RequireCsrfToken)])
        async def endpoint() -> None: ...


async def test_field_header_and_cookie_can_have_other_names() -> None:
    from sessiondb import Cookie

    db = SessionDB("memory://")
    app = FastAPI()
    app.add_middleware(SessionMiddleware, db=db, cookie=PLAIN)
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie("admin", secure=False))
    require = RequireCsrfToken(field="_token", header="X-XSRF", cookie="admin")

    @app.get("/form")
    async def form(request: Request) -> list[str]:
        return [csrf_token(request, cookie="admin"), csrf_token(request)]

    @app.post("/sent", dependencies=[Depends(require)])
    async def sent() -> str:
        return "sent"

    async with db, browser(app) as http:
        admin, plain = (await http.get("/form")).json()
        for good, token in ((True, admin), (False, plain)):
            status = 200 if good else 403
            assert (await http.post("/sent", data={"_token": token})).status_code == status
            assert (await http.post("/sent", headers={"X-XSRF": token})).status_code == status
            assert (await http.post("/sent", data={"csrf_token": token})).status_code == 403


async def test_starlette_alone_has_the_function() -> None:
    db = SessionDB("memory://")

    async def page(request: Request) -> PlainTextResponse:
        await check_csrf_token(request)
        if request.method == "GET":
            return PlainTextResponse(csrf_token(request))
        return PlainTextResponse(str((await request.form())["name"]))

    app = SessionMiddleware(Starlette(routes=[Route("/", page, methods=["GET", "POST"])]), db, cookie=PLAIN)
    async with db, browser(app) as http:
        token = (await http.get("/")).text
        assert (await http.post("/", data={"name": "tea", "csrf_token": token})).text == "tea"
        assert (await http.post("/", data={"name": "tea"})).status_code == 403


async def test_an_app_that_handles_no_exceptions_answers_403_too() -> None:
    db = SessionDB("memory://")

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await check_csrf_token(Request(scope, receive, send))

    async with db, browser(SessionMiddleware(bare, db, cookie=PLAIN)) as http:
        assert (await http.post("/")).status_code == 403


async def test_a_body_that_was_read_before_says_what_to_do(pages: Pages) -> None:
    @pages.app.post("/late")
    async def late(request: Request) -> str:
        async for _ in request.stream():
            pass
        with pytest.raises(ConfigurationError, match="X-CSRF-Token"):
            await check_csrf_token(request)
        return "read"

    assert (await pages.send(await pages.token(), "/late")).json() == "read"


# -- under a real server, on two processes and each database --------------------------------------------------


@pytest.fixture(scope="module")
def pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers on one database."""
    folder: Path = tmp_path_factory.mktemp("csrf")
    with serving("forms", folder, count=2, url=new_url(kind, folder), db={"timeout": 30}) as servers:
        yield servers


async def sent(browser: Browser, token: str, at: str) -> int:
    return (await browser.send("POST", "/sent", at=at, data={"name": "tea", "csrf_token": token})).status


@pytest.mark.security("W1")
async def test_a_form_of_one_process_is_taken_by_another(pair: list[Server], client: httpx.AsyncClient) -> None:
    here, there = (server.url for server in pair)
    guest = Browser(client, here)
    anonymous = (await guest.get("/form")).json
    assert await sent(guest, anonymous, there) == 200
    assert (await guest.send("POST", "/checked-login/ann", data={"csrf_token": anonymous}, at=there)).status == 303
    assert await sent(guest, anonymous, here) == 403
    token = (await guest.get("/form", at=here)).json
    assert await sent(guest, token, there) == 200
    # The same user signs in again: the date of that is read back as it was written.
    again = (await guest.post("/again/ann", at=there)).text
    assert await sent(guest, token, here) == 403
    assert await sent(guest, again, here) == 200
    assert await sent(guest, (await guest.get("/form", at=here)).json, there) == 200


@pytest.mark.security("W1")
async def test_tabs_that_load_at_once_all_have_good_forms(pair: list[Server], client: httpx.AsyncClient) -> None:
    here, name = pair[0].url, gate()
    guest = Browser(client, here)
    assert (await guest.post("/login/ann")).value
    tabs = [asyncio.create_task(guest.get(f"/slow/form/{name}", at=server.url)) for server in pair * 2]
    for server in pair:
        await arrived(client, server, name, 2)
        await open_gate(client, server, name)
    for answer in await asyncio.gather(*tabs):
        assert await sent(guest, answer.json, here) == 200


async def test_an_upload_that_comes_in_pieces(tmp_path: Path, client: httpx.AsyncClient) -> None:
    with serving("forms", tmp_path) as [server]:
        guest = Browser(client, server.url)
        token = (await guest.get("/form")).json
        parts = [
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n',
            *[b"x" * 65_536] * 40,
            b'\r\n--b\r\nContent-Disposition: form-data; name="name"\r\n\r\ntea\r\n',
            b'--b\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n',
            *(token[at : at + 7].encode() for at in range(0, 64, 7)),
            b"\r\n--b--\r\n",
        ]
        head = (
            f"POST /uploaded HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: sid={guest.token}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        ).encode()
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        answer = await raw_request(server.url, head + body)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert answer.endswith(b'["tea","a.bin",2621440]')
        wrong = await raw_request(server.url, head + body.replace(token[:7].encode(), b"AAAAAAA"))
        assert wrong.startswith(b"HTTP/1.1 403")


async def test_websockets_are_left_to_the_cross_origin_check(tmp_path: Path, client: httpx.AsyncClient) -> None:
    # A dependency of the whole app meets them too, and no browser can send a token with them.
    with serving("forms", tmp_path) as [server]:
        async with connect(f"{server.url.replace('http', 'ws', 1)}/checked-socket", proxy=None) as socket:
            assert await socket.recv() == "hello"
