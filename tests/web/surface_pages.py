"""Pages for every way in which an app can use its session: streams, files, background tasks, sockets, threads."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import anyio.from_thread
from fastapi import APIRouter, BackgroundTasks, HTTPException, Request, WebSocket
from pydantic import BaseModel
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sessiondb import CurrentSession, Session

Seen = defaultdict[str, list[str]]
ASSET = Path(__file__)


class Waiting(Protocol):
    async def wait(self, name: str) -> None: ...


class Script(BaseModel):
    """What a handler does: ``before`` the response, and ``during`` it or after it."""

    name: str = ""
    before: dict[str, Any] = {}
    during: dict[str, Any] = {}
    verb: str | None = None
    gate: str | None = None
    fail: bool = False


async def act(session: Session, verb: str | None) -> None:
    """Do as ``verb`` says, such as ``login:ada`` (staged) or ``await:login:ada`` (stored at once)."""
    if verb is None or verb == "none":
        return
    if verb == "save":
        await session.save()
        return
    awaited = verb.startswith("await:")
    what, _, user = verb.removeprefix("await:").partition(":")
    if what in ("login", "remember"):
        staged = session.login(user, remember=what == "remember")
    else:
        staged = {"logout": session.logout, "rotate": session.rotate}[what]()
    if awaited:
        await staged


class Late(Response):
    """Changes the session when its headers have left, and then has the server send a file."""

    def __init__(self, session: Session, values: dict[str, Any]) -> None:
        super().__init__(headers={"content-length": str(ASSET.stat().st_size)})
        self.session = session
        self.values = values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self.session.update(self.values)
        await send({"type": "http.response.pathsend", "path": str(ASSET)})


def pages(gates: Waiting, seen: Seen) -> APIRouter:
    """The pages. What handlers noticed is kept in ``seen`` by name."""
    router = APIRouter()

    async def late(session: Session, script: Script) -> None:
        """What happens during a response or after it."""
        session.update(script.during)
        try:
            await act(session, script.verb)
        except Exception as error:
            seen[script.name].append(type(error).__name__)
            raise
        if script.gate is not None:
            await gates.wait(script.gate)
        if script.fail:
            raise RuntimeError("the handler failed half-way")

    @router.post("/stream")
    async def stream(script: Script, session: CurrentSession) -> StreamingResponse:
        session.update(script.before)

        async def body() -> AsyncIterator[bytes]:
            yield b"first "
            try:
                await late(session, script)
            except BaseException as error:
                seen[script.name].append(f"stopped by {type(error).__name__}")
                raise
            yield b"last"

        return StreamingResponse(body())

    @router.post("/thread/stream")
    def stream_in_thread(script: Script, session: CurrentSession) -> StreamingResponse:
        def body() -> Iterator[bytes]:
            yield b"first "
            session.update(script.during)
            yield b"last"

        return StreamingResponse(body())

    @router.api_route("/file", methods=["GET", "HEAD"])
    async def file(session: CurrentSession, put: str = "{}") -> FileResponse:
        session.update(json.loads(put))
        return FileResponse(ASSET, headers={"cache-control": "public, max-age=60"} if put == "{}" else None)

    @router.post("/late-file")
    async def late_file(values: dict[str, Any], session: CurrentSession) -> Late:
        return Late(session, values)

    @router.post("/background")
    async def background(script: Script, session: CurrentSession, tasks: BackgroundTasks) -> str:
        session.update(script.before)
        tasks.add_task(late, session, script)
        return "answered"

    @router.post("/background/two")
    async def background_two(scripts: list[Script], session: CurrentSession, tasks: BackgroundTasks) -> str:
        for script in scripts:
            tasks.add_task(late, session, script)
        return "answered"

    @router.api_route("/answer", methods=["GET", "HEAD", "OPTIONS", "POST"])
    async def answer(
        request: Request, verb: str = "none", put: str = "", status: int = 200, headers: str = "[]"
    ) -> Response:
        if verb != "skip":
            session = request.session
            assert isinstance(session, Session)
            session.update(json.loads(put or "{}"))
            await act(session, verb)
        response = Response(b"" if status in (204, 304) else b"answer", status)
        response.raw_headers += [(name.encode(), value.encode()) for name, value in json.loads(headers)]
        return response

    @router.post("/go/{user}")
    async def go(user: str, session: CurrentSession) -> RedirectResponse:
        session.login(user)
        return RedirectResponse("/session", 303)

    @router.post("/refuse/{status}")
    async def refuse(status: int, script: Script, session: CurrentSession) -> None:
        session.update(script.before)
        await act(session, script.verb)
        raise HTTPException(status, "refused by the handler", {"x-refused": "yes"})

    @router.post("/broken")
    async def broken(script: Script, session: CurrentSession) -> None:
        session.update(script.before)
        await act(session, script.verb)
        session.update(script.during)
        raise KeyError("nobody expects this")

    @router.post("/waiting")
    async def waiting(script: Script, session: CurrentSession) -> str:
        session.update(script.before)
        await act(session, script.verb)
        seen[script.name].append("waits")
        try:
            if script.gate is not None:
                await gates.wait(script.gate)
        except asyncio.CancelledError:
            seen[script.name].append("cancelled")
            raise
        session.update(script.during)
        return "answered"

    return router


def thread_pages() -> APIRouter:
    """Endpoints that run in worker threads."""
    router = APIRouter(prefix="/thread")

    @router.post("/put")
    def put(values: dict[str, Any], session: CurrentSession) -> None:
        session.update(values)

    @router.post("/append/{item}")
    def append(item: str, session: CurrentSession) -> None:
        session.setdefault("list", []).append(item)

    @router.post("/login/{user}")
    def login(user: str, session: CurrentSession) -> str | None:
        session.login(user)
        return session.user_id

    @router.post("/logout")
    def logout(session: CurrentSession) -> str | None:
        session.logout()
        return session.user_id

    @router.post("/rotate")
    def rotate(session: CurrentSession) -> None:
        session.rotate()

    @router.post("/save")
    def save(values: dict[str, Any], session: CurrentSession) -> None:
        session.update(values)
        anyio.from_thread.run(session.save)
        raise RuntimeError("after the save")

    @router.post("/increment")
    def increment(session: CurrentSession) -> int:
        def change(data: dict[str, Any]) -> int:
            data["n"] = data.get("n", 0) + 1
            return int(data["n"])

        return anyio.from_thread.run(session.modify, change)

    return router


def socket_pages(gates: Waiting) -> APIRouter:
    """A WebSocket that does what it is told."""
    router = APIRouter()

    async def obey(session: Session, command: dict[str, Any]) -> Any:
        session.update(command.get("put", {}))
        if "gate" in command:
            await gates.wait(command["gate"])
        await act(session, command.get("verb"))
        if command.get("fail"):
            raise RuntimeError("the socket failed")
        return {"sid": session.sid, "user": session.user_id, "data": dict(session)}

    @router.websocket("/socket")
    async def socket(ws: WebSocket, put: str = "{}", verb: str = "none", deny: int = 0, close: bool = False) -> None:
        session = ws.session
        assert isinstance(session, Session)
        session.update(json.loads(put))
        await act(session, verb)
        if deny:
            await ws.send_denial_response(PlainTextResponse("denied by the app", deny))
            return
        if close:
            await ws.close()
            return
        await ws.accept()
        async for command in ws.iter_json():
            try:
                await ws.send_json(await obey(session, command))
            except RuntimeError:
                raise
            except Exception as error:
                await ws.send_json({"error": type(error).__name__})
            if command.get("last"):
                await ws.close()
                return

    @router.websocket("/quiet-socket")
    async def quiet(ws: WebSocket) -> None:
        # Never asks for the session.
        await ws.accept()
        await ws.send_json({"cookie": ws.headers.get("cookie")})

    return router
