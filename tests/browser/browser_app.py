"""What the browser visits. As a program: ``browser_app.py FD SETTINGS`` serves it on an open socket.

One app under several host names: a shop, the sites it is embedded in, and sites that mean it no good.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from starlette.responses import HTMLResponse, StreamingResponse

from sessiondb import Cookie, CurrentSession, SessionDB, SessionMiddleware

PAGE = """<!doctype html><title>{title}</title><body><h1 id="who">{who}</h1>
<script>
window.log = [];
async function hit(path, method) {{
  const answer = await fetch(path, {{method: method || "POST"}});
  const text = await answer.text();
  window.log.push(answer.status + " " + text);
  return answer.status + " " + text;
}}
</script>"""


def make(settings: dict[str, Any]) -> FastAPI:
    """The app, on the database and with the cookie of ``settings``."""
    db = SessionDB(settings["url"])
    app = FastAPI(lifespan=db.lifespan)
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(**settings.get("cookie", {})))
    late = asyncio.Event()

    @app.get("/up")
    async def up() -> str:
        return "up"

    @app.get("/favicon.ico")
    async def favicon() -> None:
        return None

    @app.get("/")
    async def page(session: CurrentSession) -> HTMLResponse:
        return HTMLResponse(PAGE.format(title="shop", who=session.user_id or "nobody"))

    @app.get("/who")
    async def who(session: CurrentSession) -> str:
        return session.user_id or "nobody"

    @app.get("/plain")
    async def plain() -> HTMLResponse:
        return HTMLResponse(PAGE.format(title="elsewhere", who="-"))

    @app.post("/login")
    async def login(session: CurrentSession, user: str = "ada", remember: bool = False) -> str:
        await session.login(user, remember=remember)
        return user

    @app.post("/logout")
    async def logout(session: CurrentSession) -> str:
        await session.logout()
        return "bye"

    @app.post("/rotate")
    async def rotate(session: CurrentSession) -> str:
        session.rotate()
        return session.user_id or "nobody"

    @app.post("/count")
    async def count(session: CurrentSession) -> int:
        def more(data: dict[str, Any]) -> int:
            data["count"] = data.get("count", 0) + 1
            return int(data["count"])

        return await session.modify(more)

    @app.get("/late")
    async def late_answer(session: CurrentSession) -> str:
        user = session.user_id or "nobody"
        async with asyncio.timeout(30):
            await late.wait()
        return user

    @app.post("/late/open")
    async def open_late() -> None:
        late.set()

    @app.get("/frame")
    async def frame(src: str) -> HTMLResponse:
        return HTMLResponse(f'<!doctype html><title>frame</title><iframe id="f" src="{src}"></iframe>')

    @app.get("/attack")
    async def attack(action: str) -> HTMLResponse:
        return HTMLResponse(
            f'<!doctype html><title>attack</title><form id="f" method="post" action="{action}"></form>'
            "<script>document.getElementById('f').submit()</script>"
        )

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.receive_text()
                await websocket.send_text(session.user_id or "nobody")
        except WebSocketDisconnect:
            pass

    @app.get("/events")
    async def events(session: CurrentSession) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield f"data: {session.user_id}\n\n"
            while True:
                await asyncio.sleep(0.2)
                yield ": still here\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    return app


def main() -> None:
    """Serve it, over TLS where the settings name a certificate."""
    settings = json.loads(sys.argv[2])
    tls = {"ssl_certfile": settings["certificate"], "ssl_keyfile": settings["key"]} if "certificate" in settings else {}
    config = uvicorn.Config(make(settings), log_level="warning", timeout_graceful_shutdown=2, **tls)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
