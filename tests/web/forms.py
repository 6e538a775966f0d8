"""The shop with pages that have forms: flash messages, and CSRF tokens."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, UploadFile, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse

from sessiondb import CurrentSession, RequireCsrfToken, csrf_token, flash, flashes

Checked = Depends(RequireCsrfToken())


def with_forms(app: FastAPI) -> FastAPI:
    """``app`` (with the gates of the shop) and these pages."""
    gates: Any = app.state.gates

    @app.post("/flash")
    async def flash_(texts: list[str], request: Request) -> None:
        for text in texts:
            flash(request, text)

    @app.post("/slow/flash/{gate}")
    async def slow_flash(gate: str, text: str, session: CurrentSession) -> None:
        await gates.wait(gate)
        flash(session, text)

    @app.get("/flashes")
    async def flashes_(request: Request) -> list[str]:
        return [one.message for one in flashes(request)]

    @app.get("/slow/flashes/{gate}")
    async def slow_flashes(gate: str, request: Request, session: CurrentSession) -> list[str]:
        await gates.wait(gate)
        return [one.message for one in flashes(request)]

    @app.get("/form")
    async def form(request: Request, action: str = "") -> str:
        return csrf_token(request, action)

    @app.get("/slow/form/{gate}")
    async def slow_form(gate: str, request: Request, session: CurrentSession) -> str:
        await gates.wait(gate)
        return csrf_token(request)

    @app.post("/sent", dependencies=[Checked])
    async def sent(name: Annotated[str, Form()]) -> str:
        return name

    @app.post("/uploaded", dependencies=[Checked])
    async def uploaded(file: UploadFile, name: Annotated[str, Form()]) -> list[Any]:
        return [name, file.filename, len(await file.read())]

    @app.post("/checked-login/{user}", dependencies=[Checked])
    async def checked_login(user: str, session: CurrentSession) -> RedirectResponse:
        session.login(user)
        return RedirectResponse("/form", 303)

    @app.post("/again/{user}")
    async def again(user: str, session: CurrentSession, request: Request) -> HTMLResponse:
        await asyncio.sleep(0)
        session.login(user)
        return HTMLResponse(csrf_token(request))

    @app.websocket("/checked-socket", dependencies=[Checked])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    return app
