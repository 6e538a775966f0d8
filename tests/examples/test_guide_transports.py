"""The code in the guide's sections on headers, sockets, readiness and limits does what they say."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from guide import app_of, blocks, browser, run
from starlette.websockets import WebSocketDisconnect

from quiet_testclient import TestClient
from sessiondb import CurrentSession, SessionDB
from sessiondb.testing import login


async def test_a_token_in_a_header() -> None:
    async with SessionDB("memory://") as db:
        app = FastAPI()
        made = run("Cookies and headers", app=app, db=db)

        @app.post("/login")
        async def log_in(session: CurrentSession) -> None:
            await session.login("ann")

        app.get("/api")(_answer_with(made["ApiUser"]))
        app.get("/any")(_answer_with(made["AnyUser"]))
        async with browser(app) as http:
            answer = await http.post("/login", headers={"Authorization": "Bearer new"})
            by_header = {"Authorization": f"Bearer {answer.headers['session-token']}"}
            by_cookie = {"Cookie": f"__Host-sid={answer.headers['session-token']}"}
            assert not http.cookies
            for path, headers, status in (
                ("/api", by_header, 200),
                ("/any", by_header, 200),
                ("/any", by_cookie, 200),
                ("/api", by_cookie, 401),
            ):
                assert (await http.get(path, headers=headers)).status_code == status, (path, headers)


def _answer_with(user: type[str]):  # type: ignore[no-untyped-def]
    async def endpoint(user_id):  # type: ignore[no-untyped-def]
        return user_id

    endpoint.__annotations__ = {"user_id": user}
    return endpoint


def test_sockets_and_downloads(tmp_path: Path) -> None:
    db = SessionDB(f"sqlite:///{tmp_path}/sessions.db")
    with TestClient(app_of(db, "WebSockets and streams")) as client:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/chat"):
            pass
        login(client, "ann")
        assert client.get("/export").text.splitlines() == [str(part) for part in range(100)]
        with client.websocket_connect("/chat") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "ann: hello"
            assert client.portal is not None
            client.portal.call(db.revoke_all, "ann")
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
            assert (closed.value.code, closed.value.reason) == (4401, "revoked")


async def test_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONDB_URL", "memory://")
    breaking, ready = blocks("When the database fails", "python")
    app = FastAPI()
    names = {"app": app}
    exec(breaking + ready, names)
    async with names["db"], browser(app) as http:
        assert (await http.get("/livez")).json() == "alive"
        answer: httpx.Response = await http.get("/readyz")
        assert {key: answer.json()[key] for key in ("ok", "writable", "why")} == {
            "ok": True,
            "writable": True,
            "why": None,
        }


async def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONDB_URL", "memory://")
    db: SessionDB = run("Limits against abuse")["db"]
    async with db:
        assert db.suspicious_networks() == []
