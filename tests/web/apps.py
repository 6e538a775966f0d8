"""The apps that the tests serve. As a program: ``apps.py APP FD SETTINGS`` serves one on an open socket."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from ending_app import with_endings
from fastapi import FastAPI, Request
from forms import with_forms
from live_app import with_live_pages
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp
from surface_app import around

from sessiondb import (
    Client,
    Cookie,
    CrossOrigin,
    CurrentSession,
    KeyRing,
    Limits,
    NearCache,
    Policy,
    Session,
    SessionDB,
    SessionMiddleware,
    TrustedProxies,
    background,
    open_store,
    readiness,
)
from sessiondb.stores.near_cache import NearCacheStore
from sessiondb.testing import Fail, FaultyStore, LoseReply

PLAIN = Cookie(secure=False)


class Gates:
    """Where handlers wait until a test lets them go on."""

    def __init__(self) -> None:
        self._open: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.arrived: defaultdict[str, int] = defaultdict(int)

    async def wait(self, name: str) -> None:
        self.arrived[name] += 1
        async with asyncio.timeout(60):
            await self._open[name].wait()

    def open(self, name: str) -> None:
        self._open[name].set()


def database(settings: dict[str, Any]) -> SessionDB:
    """The session database of a server process."""
    source: Any = settings.get("url", "memory://")
    if "flush_every" in settings:
        background.FLUSH_EVERY = settings["flush_every"]
    rates: dict[Any, float] = {}
    if "lost_replies" in settings:
        rates[LoseReply()] = settings["lost_replies"]
    if "refused" in settings:
        rates[Fail()] = settings["refused"]
    if rates:
        # Another seed in each process.
        source = FaultyStore(open_store(source), rates=rates, seed=os.getpid(), methods=frozenset({"apply"}))
    limits = Limits(**settings.get("limits", {}))
    keys = KeyRing(*settings["keys"]) if "keys" in settings else None
    policy = Policy(**settings.get("policy", {}))
    near = NearCache(**settings["near_cache"]) if "near_cache" in settings else None
    if settings.get("deaf"):
        # A bug: a feed that was heard once is heard for ever.
        NearCacheStore.feed_lost = lambda self: False  # type: ignore[method-assign]
        NearCacheStore.alive = _believe  # type: ignore[method-assign]
    return SessionDB(source, policy=policy, limits=limits, keys=keys, near_cache=near, **settings.get("db", {}))


_alive = NearCacheStore.alive


def _believe(near: NearCacheStore, since: float) -> None:
    _alive(near, since)
    near._proven_until = float("inf")


def shop(settings: dict[str, Any]) -> FastAPI:
    """Everything that the races need, by name."""
    db = database(settings)
    app = FastAPI(lifespan=db.lifespan)
    csrf = CrossOrigin(**settings["csrf"]) if "csrf" in settings else CrossOrigin()
    proxies = TrustedProxies(**settings["proxies"]) if "proxies" in settings else None
    app.add_middleware(
        SessionMiddleware, db=db, cookie=PLAIN, csrf=csrf, proxies=proxies, **settings.get("middleware", {})
    )
    app.state.db = db
    gates = app.state.gates = Gates()

    @app.get("/up")
    async def up() -> str:
        return "up"

    @app.get("/session")
    async def session_(session: CurrentSession) -> dict[str, Any]:
        return {
            "sid": session.sid,
            "user": session.user_id,
            "data": session,
            "reason": session.ended_reason,
            "new": session.is_new,
        }

    @app.get("/client")
    async def client(session: CurrentSession) -> Client:
        return session.client

    @app.post("/put")
    async def put(values: dict[str, Any], session: CurrentSession) -> None:
        session.update(values)

    @app.post("/slow/put/{gate}")
    async def slow_put(gate: str, values: dict[str, Any], session: CurrentSession) -> dict[str, Any]:
        before = dict(session)
        await gates.wait(gate)
        session.update(values)
        return before

    @app.post("/slow/save/{gate}")
    async def slow_save(gate: str, values: dict[str, Any], session: CurrentSession) -> None:
        await gates.wait(gate)
        session.update(values)
        await session.save()

    @app.get("/slow/read/{gate}")
    async def slow_read(gate: str, session: CurrentSession) -> dict[str, Any]:
        await gates.wait(gate)
        return dict(session)

    @app.post("/slow/login/{gate}/{user}")
    async def slow_login(gate: str, user: str, session: CurrentSession) -> str | None:
        await gates.wait(gate)
        await session.login(user)
        return session.sid

    @app.post("/slow/rotate/{gate}")
    async def slow_rotate(gate: str, session: CurrentSession) -> None:
        await gates.wait(gate)
        session.rotate()

    @app.post("/slow/stream/{gate}")
    async def slow_stream(gate: str, values: dict[str, Any], session: CurrentSession) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            await gates.wait(gate)
            session.update(values)
            yield b"last"

        return StreamingResponse(body())

    @app.post("/raise")
    async def raise_(values: dict[str, Any], session: CurrentSession) -> None:
        session.update(values)
        raise RuntimeError("the handler failed")

    @app.post("/login-then-raise/{user}")
    async def login_then_raise(user: str, session: CurrentSession) -> None:
        await session.login(user)
        raise RuntimeError("the handler failed")

    @app.post("/save-then-raise")
    async def save_then_raise(values: dict[str, Any], session: CurrentSession) -> None:
        session.update(values)
        await session.save()
        session["staged"] = True
        raise RuntimeError("the handler failed")

    @app.post("/increment")
    async def increment(session: CurrentSession) -> int:
        def change(data: dict[str, Any]) -> int:
            data["n"] = data.get("n", 0) + 1
            return int(data["n"])

        return await session.modify(change)

    @app.post("/login/{user}")
    async def login(user: str, session: CurrentSession, remember: bool = False) -> str | None:
        await session.login(user, remember=remember)
        return session.sid

    @app.post("/staged-login/{user}")
    def staged_login(user: str, session: CurrentSession) -> str | None:
        session.login(user)
        return session.sid

    @app.post("/logout")
    async def logout(session: CurrentSession) -> None:
        session.logout()

    @app.post("/rotate")
    async def rotate(session: CurrentSession) -> None:
        await session.rotate()

    @app.post("/revoke/{user}")
    async def revoke(user: str) -> int:
        return await db.revoke_all(user)

    @app.get("/live/{user}")
    async def live(user: str) -> list[str]:
        return [one.sid for one in await db.sessions_of(user)]

    @app.get("/info/{sid}")
    async def info(sid: str) -> dict[str, Any] | None:
        found = await db.get(sid)
        return None if found is None else {"reason": found.end_reason, "user": found.user_id, "data": found.data}

    @app.get("/events")
    async def events(type: str | None = None, sid: str | None = None) -> list[dict[str, Any]]:
        page = await db.events(type=type, sid=sid, limit=1000)
        return [{"type": one.type, "sid": one.sid, "reason": one.reason} for one in page.events]

    @app.get("/suspicious")
    async def suspicious() -> list[str]:
        return [one.network for one in db.suspicious_networks()]

    app.add_api_route("/readyz", readiness(db))

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        counted = await db.stats()
        return {"live": counted.live, "ended": counted.ended, "events": counted.events, **db.counters}

    @app.get("/gates/{name}")
    async def arrived(name: str) -> int:
        return gates.arrived[name]

    @app.post("/gates/{name}")
    async def open_gate(name: str) -> None:
        gates.open(name)

    return app


def outside(settings: dict[str, Any]) -> FastAPI:
    """The shop, with a plain ``/error`` page and an app's own handlers for our errors."""
    app = shop(settings)

    @app.get("/boom")
    async def boom(request: Request) -> None:
        held: Session = request.session  # type: ignore[assignment]
        held["seen"] = True
        raise ValueError("what a handler says when it fails")

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        return PlainTextResponse("well")

    return app


def surfaces(settings: dict[str, Any]) -> ASGIApp:
    """The shop, and the same pages under many other middlewares."""
    return around(shop(settings))


def forms(settings: dict[str, Any]) -> FastAPI:
    """The shop, and pages with forms."""
    return with_forms(shop(settings))


def live(settings: dict[str, Any]) -> FastAPI:
    """The shop, with connections that stay open."""
    return with_live_pages(shop(settings), settings.get("between", False))


def endings(settings: dict[str, Any]) -> ASGIApp:
    """The shop, with what ends sessions."""
    return with_endings(shop(settings), settings)


def main() -> None:
    """Serve until told to stop."""
    import uvicorn

    name, descriptor, text = sys.argv[1:]
    settings: dict[str, Any] = json.loads(text)
    level = settings.get("log_level", "info")
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(name)s %(message)s")
    if "umask" in settings:
        os.umask(settings["umask"])
    listener = socket.socket(fileno=int(descriptor))
    apps: dict[str, Callable[[dict[str, Any]], ASGIApp]] = {
        "shop": shop,
        "outside": outside,
        "surfaces": surfaces,
        "forms": forms,
        "live": live,
        "endings": endings,
    }
    app = apps[name](settings)
    config = uvicorn.Config(app, log_level=level, timeout_graceful_shutdown=5, **settings.get("uvicorn", {}))
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    if "" in sys.path:
        sys.path.remove("")
    sys.path[:] = [one for one in sys.path if Path(one) != Path(__file__).parent]
    main()
