"""Connections that stay open: sockets and streams of somebody who is logged in."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response, StreamingResponse

from sessiondb import CurrentSession, Session, SessionDB


class Waiting(Protocol):
    async def wait(self, name: str) -> None: ...


class Between(BaseHTTPMiddleware):
    """Starlette's kind of middleware, between ours and the app."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


def session_of(ws: WebSocket) -> Session:
    session = ws.session
    assert isinstance(session, Session)
    return session


def live_pages(gates: Waiting, db: SessionDB) -> APIRouter:
    """The pages; what becomes of each connection is noted by name."""
    router = APIRouter()
    noted: defaultdict[str, list[str]] = defaultdict(list)

    @router.get("/noted/{name}")
    async def read_noted(name: str) -> list[str]:
        return noted[name]

    @router.post("/revoke-one/{sid}")
    async def revoke_one(sid: str) -> bool:
        return await db.revoke(sid)

    @router.websocket("/echo/{name}")
    async def echo(ws: WebSocket, name: str) -> None:
        await ws.accept()
        session = session_of(ws)
        await ws.send_json({"user": session.user_id})
        try:
            while True:
                command: dict[str, Any] = await ws.receive_json()
                if command.get("logout"):
                    await session.logout()
                if command.get("revoke"):
                    await db.revoke(str(session.sid))
                if command.get("save"):
                    session["saved"] = True
                    await session.save()
                await ws.send_json({"user": session.user_id})
        except WebSocketDisconnect as gone:
            noted[name].append(f"disconnect {gone.code} {gone.reason}")

    @router.websocket("/unguarded/{name}")
    async def unguarded(ws: WebSocket, name: str) -> None:
        # As most endpoints are written: nothing is caught.
        session = session_of(ws)
        await ws.accept()
        try:
            while True:
                await ws.receive_text()
                await ws.send_json({"user": session.user_id})
        finally:
            noted[name].append("left")

    @router.websocket("/feed/{name}")
    async def feed(ws: WebSocket, name: str) -> None:
        # Sends, and never receives.
        session = session_of(ws)
        await ws.accept()
        number = 0
        try:
            while True:
                await ws.send_json({"user": session.user_id, "number": number})
                number += 1
                await asyncio.sleep(0.01)
        except WebSocketDisconnect as gone:
            noted[name].append(f"disconnect {gone.code}")

    @router.websocket("/stranger/{name}")
    async def stranger(ws: WebSocket, name: str) -> None:
        # Asks for the session only when it is told to.
        await ws.accept()
        try:
            while True:
                text = await ws.receive_text()
                await ws.send_json({"user": session_of(ws).user_id if text == "who" else text})
        except WebSocketDisconnect as gone:
            noted[name].append(f"disconnect {gone.code}")

    @router.websocket("/handshake/{name}")
    async def handshake(ws: WebSocket, name: str, login: str | None = None) -> None:
        session = session_of(ws)
        if login is not None:
            await session.login(login)
        await gates.wait(name)
        await ws.accept()
        try:
            await ws.send_json({"user": session.user_id})
            await ws.receive_text()
        except WebSocketDisconnect as gone:
            noted[name].append(f"disconnect {gone.code}")

    async def ticks(name: str, quiet: bool = False) -> AsyncIterator[bytes]:
        number = 0
        try:
            while True:
                yield f"data: {number}\n\n".encode()
                number += 1
                await (gates.wait(f"{name} never") if quiet else asyncio.sleep(0.01))
        finally:
            noted[name].append("stopped")

    @router.get("/events/{name}")
    async def events(name: str, session: CurrentSession, quiet: bool = False) -> StreamingResponse:
        return StreamingResponse(ticks(name, quiet), media_type="text/event-stream")

    @router.get("/strange-events/{name}")
    async def strange_events(name: str) -> StreamingResponse:
        return StreamingResponse(ticks(name), media_type="text/event-stream")

    @router.get("/download/{name}")
    async def download(name: str, session: CurrentSession) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first "
            await gates.wait(name)
            yield b"last"

        return StreamingResponse(body(), media_type="text/csv")

    return router


def with_live_pages(app: FastAPI, between: bool) -> FastAPI:
    """``app`` (the shop), and the pages."""
    if between:
        # Added last is outermost; ours must stay around it.
        app.user_middleware.append(_between())
    app.include_router(live_pages(app.state.gates, app.state.db))
    return app


def _between() -> Any:
    from starlette.middleware import Middleware

    return Middleware(Between)
