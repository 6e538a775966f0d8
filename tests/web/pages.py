"""An app in this process and a browser for it."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from sessiondb import Cookie, CurrentSession, SessionDB, SessionMiddleware

PLAIN = Cookie(secure=False)


def browser(app: ASGIApp, base_url: str = "http://shop.test", **settings: Any) -> httpx.AsyncClient:
    """Keeps cookies, and does not follow redirects."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base_url, **settings)


def app_on(db: SessionDB, cookie: Cookie = PLAIN, **settings: Any) -> FastAPI:
    """An app with sessions, a login page and a logout page."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, db=db, cookie=cookie, **settings)

    @app.post("/login/{user_id}")
    async def login(user_id: str, session: CurrentSession) -> str | None:
        await session.login(user_id)
        return session.sid

    @app.post("/logout")
    async def logout(session: CurrentSession) -> None:
        await session.logout()

    @app.get("/raw")
    async def raw(session: CurrentSession) -> dict[str, Any]:
        return session

    return app
