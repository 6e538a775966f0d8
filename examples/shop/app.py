"""The app: one database, one middleware, and the pages.

``uvicorn --factory examples.shop.app:create_app`` runs it by itself.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from examples.shop import cart, catalogue, devices, open_page, pages, race, sign_in
from sessiondb import Cookie, SessionDB, SessionEnded, SessionMiddleware

HERE = Path(__file__).parent
SECURE = Cookie()


def create_app(db: SessionDB | None = None, *, cookie: Cookie = SECURE) -> FastAPI:
    """The shop on ``db`` (by default ``$SESSIONDB_URL``, else ``sqlite:///sessions.db``)."""
    db = db if db is not None else SessionDB()
    app = FastAPI(title="Slip & Salt", lifespan=db.lifespan)
    # Static files and the health check have no session: they stay up when the database is away.
    # Open pages hear of an end in this process at once, of one elsewhere within two seconds (by default a minute).
    app.add_middleware(SessionMiddleware, db=db, cookie=cookie, skip=("/static", "/healthz"), recheck=2)
    app.state.db = db
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for module in (catalogue, cart, sign_in, devices, open_page, race):
        app.include_router(module.router)
    app.add_exception_handler(SessionEnded, signed_out_meanwhile)
    app.add_exception_handler(404, pages.not_found)
    app.add_api_route("/healthz", healthz, include_in_schema=False)
    return app


async def healthz() -> PlainTextResponse:
    """Whether this process is up."""
    return PlainTextResponse("ok")


async def signed_out_meanwhile(request: Request, error: Exception) -> Response:
    """An awaited verb found that another device had just ended this session: the sign-in page says why."""
    return RedirectResponse("/sign-in", status_code=303)
