"""One small app, with each way to keep its sessions. ``python -m benchmarks.variants NAME FD`` serves one."""

from __future__ import annotations

import gc
import os
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

PROFILE = {
    "name": "Ada Lovelace",
    "email": "ada@example.com",
    "roles": ["customer", "beta"],
    "locale": "en-GB",
    "theme": "dark",
    "cart": [{"id": 1041, "quantity": 2}, {"id": 2207, "quantity": 1}, {"id": 88, "quantity": 4}],
    "csrf": "b7c1e5d09a4f4c0c8f9b1a2d3e4f5061",
    "seen": 1,
}
"""About 300 bytes as JSON."""


def make(name: str, folder: str, redis_url: str | None) -> FastAPI:
    """The app with sessions kept as ``name`` says."""
    app = FastAPI()
    if name == "none":

        @app.get("/read")
        async def read_none(request: Request) -> dict[str, Any]:
            return {"name": PROFILE["name"], "items": 3}

        @app.post("/write")
        async def write_none(request: Request) -> dict[str, Any]:
            return {"seen": 1}

        return app

    @app.get("/start")
    async def start(request: Request) -> dict[str, bool]:
        request.session.update(PROFILE)
        return {"ok": True}

    @app.get("/read")
    async def read(request: Request) -> dict[str, Any]:
        session = request.session
        return {"name": session.get("name"), "items": len(session.get("cart", ()))}

    @app.post("/write")
    async def write(request: Request) -> dict[str, Any]:
        session = request.session
        session["seen"] = session.get("seen", 0) + 1
        return {"seen": session["seen"]}

    add_sessions(app, name, folder, redis_url)
    return app


def add_sessions(app: FastAPI, name: str, folder: str, redis_url: str | None) -> None:
    if name == "cookie":
        from starlette.middleware.sessions import SessionMiddleware

        app.add_middleware(SessionMiddleware, secret_key="not-a-secret-but-long-enough-for-hmac")
    elif name.startswith("starsessions"):
        from starsessions import InMemoryStore, SessionAutoloadMiddleware, SessionMiddleware

        if name.endswith("redis"):
            import redis.asyncio
            from starsessions.stores.redis import RedisStore

            store = RedisStore(connection=redis.asyncio.Redis.from_url(str(redis_url)))
        else:
            store = InMemoryStore()
        # Added last, so outermost: the autoload middleware needs the session middleware around it.
        app.add_middleware(SessionAutoloadMiddleware)
        app.add_middleware(SessionMiddleware, store=store, lifetime=14 * 86400, cookie_https_only=False)
    else:
        from sessiondb import Cookie, SessionDB, SessionMiddleware

        url = "memory://" if name.endswith("memory") else f"sqlite:///{folder}/bench.db"
        db = SessionDB(url)
        app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))
        app.router.lifespan_context = db.lifespan


def serve() -> None:
    name, fd, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    listening = socket.socket(fileno=fd)
    app = make(name, folder, os.environ.get("BENCH_REDIS_URL"))
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    serve()
