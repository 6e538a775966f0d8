"""One small app, with each way to keep its sessions. ``python -m benchmarks.variants NAME FD URL`` serves one."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks import peers
from benchmarks.peers import Verbs

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


@dataclass(frozen=True)
class Variant:
    """A way to keep sessions.

    ``database`` is the name of its server in ``benchmarks.servers``, ``"SQLite"``, or ``None``; ``package`` is what it
    comes from; ``is_revocable``: a copy of a session's cookie is worth nothing after the logout.
    """

    name: str
    install: Callable[[FastAPI, str], Verbs]
    database: str | None = None
    package: str | None = None
    is_revocable: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether it is this project's."""
        return self.package == "sessiondb"


def _sessiondb(app: FastAPI, url: str, **settings: Any) -> Verbs:
    from sessiondb import Cookie, SessionDB, SessionMiddleware

    db = SessionDB(url, **settings)
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))
    app.router.lifespan_context = db.lifespan
    return Verbs(lambda request, user: request.session.login(user), lambda request: request.session.logout())


def _near(app: FastAPI, url: str) -> Verbs:
    from sessiondb import NearCache

    return _sessiondb(app, url, near_cache=NearCache())


def _unwatched(app: FastAPI, url: str) -> Verbs:
    from sessiondb import Privacy

    # What remains is the audit trail, which cannot be turned off and has nothing to say of reads and writes.
    return _sessiondb(app, url, risk=None, keep_usage=None, privacy=Privacy(ip="none", user_agent=False))


def _patient(app: FastAPI, url: str) -> Verbs:
    # The stand-in of MongoDB takes seconds where requests come in company.
    return _sessiondb(app, url, timeout=60)


NONE = "none"
COOKIE = "cookie"

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(NONE, lambda app, url: Verbs(lambda request, user: None, lambda request: None), is_revocable=False),
        Variant(COOKIE, peers.signed_cookie, package="starlette", is_revocable=False),
        Variant("starsessions memory", peers.starsessions, package="starsessions"),
        Variant("starsessions redis", peers.starsessions, "Valkey", "starsessions"),
        Variant("fastapi-redis-sdk", peers.fastapi_redis_sdk, "Valkey", "fastapi-redis-sdk"),
        Variant("fastapi-alcazaba redis", peers.fastapi_alcazaba, "Valkey", "fastapi-alcazaba"),
        Variant("starlette-sessions redis", peers.starlette_sessions, "Valkey", "starlette-sessions"),
        Variant("sessiondb memory", _sessiondb, package="sessiondb"),
        Variant("sessiondb sqlite", _sessiondb, "SQLite", "sessiondb"),
        Variant("sessiondb sqlite unwatched", _unwatched, "SQLite", "sessiondb"),
        Variant("sessiondb sqlite near", _near, "SQLite", "sessiondb"),
        Variant("sessiondb redis", _sessiondb, "Valkey", "sessiondb"),
        Variant("sessiondb redis near", _near, "Valkey", "sessiondb"),
        Variant("sessiondb postgresql", _sessiondb, "PostgreSQL", "sessiondb"),
        Variant("sessiondb postgresql near", _near, "PostgreSQL", "sessiondb"),
        Variant("sessiondb mysql", _sessiondb, "MariaDB", "sessiondb"),
        Variant("sessiondb mongodb", _patient, "MongoDB", "sessiondb"),
    )
}


def make(variant: Variant, url: str) -> FastAPI:
    """The app with sessions kept as ``variant`` says, in the database of ``url`` if it has one."""
    app = FastAPI()
    verbs = variant.install(app, url)
    users = count()

    if variant.name == NONE:

        @app.get("/read")
        async def read_none(request: Request) -> dict[str, Any]:
            return {"name": PROFILE["name"], "items": 3}

        @app.post("/write")
        async def write_none(request: Request) -> dict[str, Any]:
            return {"seen": 1}

    else:

        @app.get("/read")
        async def read(request: Request) -> dict[str, Any]:
            session = request.session
            return {"name": session.get("name"), "items": len(session.get("cart", ()))}

        @app.post("/write")
        async def write(request: Request) -> dict[str, Any]:
            session = request.session
            session["seen"] = session.get("seen", 0) + 1
            return {"seen": session["seen"]}

    @app.post("/login")
    async def login(request: Request) -> dict[str, bool]:
        if variant.name != NONE:
            request.session.update(PROFILE)
        verbs.login(request, f"user{next(users)}")
        return {"ok": True}

    @app.post("/logout")
    async def logout(request: Request) -> dict[str, bool]:
        verbs.logout(request)
        return {"ok": True}

    return app


def serve() -> None:
    """What the process of a variant does until it is told to end."""
    name, fd, url = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    listening = socket.socket(fileno=fd)
    config = uvicorn.Config(make(VARIANTS[name], url), log_level="warning", access_log=False)
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    serve()
