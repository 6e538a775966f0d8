"""One server with many apps on one database: each of them wraps the session middleware in its own way."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from surface_pages import Seen, Waiting, pages, socket_pages, thread_pages

from sessiondb import Cookie, CrossOrigin, SessionDB, SessionMiddleware

PLAIN = Cookie(secure=False)
COOKIES: dict[str, Cookie] = {
    "host": Cookie(),
    "plain": PLAIN,
    "strict": Cookie(samesite="strict"),
    "none": Cookie(samesite="none"),
    "partitioned": Cookie(samesite="none", partitioned=True),
    "domain": Cookie(domain="example.com"),
    "path": Cookie(path="/cookie/path"),
    "all": Cookie("shop", samesite="strict", path="/cookie", domain="example.com", partitioned=True),
    "plain-path": Cookie("shop", secure=False, samesite="strict", path="/cookie"),
    "prefixed": Cookie("__Secure-own"),
}


class Notes:
    """Outermost: notes when the app has returned, under the name that the request gives."""

    def __init__(self, app: ASGIApp, seen: Seen) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = Headers(scope=scope).get("x-name") if scope["type"] in ("http", "websocket") else None
        try:
            await self.app(scope, receive, send)
        except BaseException as error:
            if name is not None:
                self.seen[name].append(f"raised {type(error).__name__}")
            raise
        if name is not None:
            self.seen[name].append("returned")


class PathSend:
    """A server that sends files by their path, and looks at the session just before."""

    def __init__(self, app: ASGIApp, db: SessionDB, seen: Seen) -> None:
        self.app = app
        self.db = db
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sends(message: Message) -> None:
            if message["type"] != "http.response.pathsend":
                await send(message)
                return
            headers = Headers(scope=scope)
            stored = await self.db.get(headers["x-sid"]) if "x-sid" in headers else None
            self.seen[headers["x-name"]].append(f"pathsend with {stored.data if stored else None}")
            with open(message["path"], "rb") as file:
                await send({"type": "http.response.body", "body": file.read()})

        announced = {**scope.get("extensions", {}), "http.response.pathsend": {}}
        await self.app({**scope, "extensions": announced}, receive, sends)


class Deadline:
    """Cancels a request when the gate ``x-deadline`` opens."""

    def __init__(self, app: ASGIApp, gates: Waiting) -> None:
        self.app = app
        self.gates = gates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = Headers(scope=scope).get("x-deadline") if scope["type"] == "http" else None
        if name is None:
            await self.app(scope, receive, send)
            return
        request = asyncio.ensure_future(self.app(scope, receive, send))
        await self.gates.wait(name)
        request.cancel()
        try:
            await request
        except asyncio.CancelledError:
            await Response("out of time", 504)(scope, receive, send)


class Copies:
    """Hands a copy of the scope to the app, with a plain dictionary for its session if ``replace`` says so."""

    def __init__(self, app: ASGIApp, replace: bool = False) -> None:
        self.app = app
        self.replace = replace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = dict(scope)
        if self.replace:
            scope["session"] = {"not": "ours"}
        await self.app(scope, receive, send)


class Inside(BaseHTTPMiddleware):
    """Writes into the session before the handler and after it."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        asked = request.headers.get("x-layer")
        if asked == "before":
            request.session["layer before"] = True
        response = await call_next(request)
        if asked == "after":
            request.session["layer after"] = True
        response.headers["x-layer"] = "passed"
        return response


class Outside(BaseHTTPMiddleware):
    """Passes everything on."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-layer"] = "passed"
        return response


def with_handlers(app: FastAPI) -> FastAPI:
    """``app``, with handlers of exceptions that use the session."""

    @app.exception_handler(KeyError)
    async def handled(request: Request, error: Exception) -> Response:
        request.session["handled"] = type(error).__name__
        return JSONResponse("handled", 400)

    @app.exception_handler(Exception)
    async def last_resort(request: Request, error: Exception) -> Response:
        user = getattr(request.session, "user_id", None)
        request.session["last resort"] = True
        return JSONResponse(f"{type(error).__name__} of {user}", 500)

    return app


def with_mounts(app: FastAPI, db: SessionDB, seen: Seen) -> FastAPI:
    """``app``, with apps below it."""

    async def put(request: Request) -> Response:
        request.session["from"] = request.scope["root_path"]
        return JSONResponse(request.session)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        seen["lifespan"].append("ran")
        yield

    @app.post("/hooks/put")
    async def hook(request: Request) -> Response:
        return await put(request)

    sub = FastAPI(lifespan=lifespan)
    sub.add_api_route("/put", put, methods=["POST"])
    sub.mount("/deeper", Starlette(routes=[Route("/put", put, methods=["POST"])]))
    app.mount("/sub", sub)
    app.mount("/skipped", Starlette(routes=[Route("/put", put, methods=["POST"])]))
    own = SessionDB("memory://")
    separate = FastAPI(lifespan=own.lifespan)
    separate.add_api_route("/put", put, methods=["POST"])
    separate.add_middleware(SessionMiddleware, db=own, cookie=Cookie("own", secure=False))
    app.mount("/own", separate)
    same = FastAPI()
    same.add_api_route("/put", put, methods=["POST"])
    same.add_middleware(SessionMiddleware, db=db, cookie=PLAIN)
    app.mount("/same", same)
    return app


def around(shop: FastAPI) -> ASGIApp:
    """``shop``, and beside it the other apps."""
    db: SessionDB = shop.state.db
    gates: Waiting = shop.state.gates
    seen: Seen = defaultdict(list)

    def filled(app: FastAPI) -> FastAPI:
        for router in (pages(gates, seen), thread_pages(), socket_pages(gates)):
            app.include_router(router)
        return app

    def stack(*layers: Callable[[FastAPI], None]) -> FastAPI:
        """An app in the layers, from the inside out."""
        app = filled(FastAPI())
        for layer in layers:
            layer(app)
        return app

    def ours(cookie: Cookie = PLAIN, **settings: Any) -> Callable[[FastAPI], None]:
        return lambda app: app.add_middleware(SessionMiddleware, db=db, cookie=cookie, **settings)

    def other(layer: Any, **settings: Any) -> Callable[[FastAPI], None]:
        return lambda app: app.add_middleware(layer, **settings)

    theirs = other(StarletteSessions, secret_key="not a secret")
    gzip = other(GZipMiddleware, minimum_size=1)
    stacks: dict[str, ASGIApp] = {
        "gzip-inside": stack(gzip, ours()),
        "gzip-outside": stack(ours(), gzip),
        "base-inside": stack(other(Inside), ours()),
        "base-outside": stack(ours(), other(Outside)),
        "base-around": stack(other(Inside), ours(), other(Outside)),
        "copied": stack(other(Copies), ours()),
        "replaced": stack(other(Copies, replace=True), ours()),
        "twice": stack(ours(), ours()),
        "two": stack(ours(), ours(Cookie("admin", secure=False))),
        "starlette-inside": stack(theirs, ours()),
        "starlette-outside": stack(ours(), theirs),
        "deadline": stack(ours(), other(Deadline, gates=gates)),
        "pathsend": PathSend(stack(ours()), db, seen),
        "handlers": with_handlers(stack(ours())),
        "mounts": with_mounts(stack(ours(skip=["/skipped"], csrf=CrossOrigin(exempt=["/hooks"]))), db, seen),
        **{f"cookie/{name}": stack(ours(cookie)) for name, cookie in COOKIES.items()},
    }

    async def read_seen(request: Request) -> JSONResponse:
        return JSONResponse(seen[request.path_params["name"]])

    routes = [Mount(f"/{name}", app) for name, app in stacks.items()]
    root = Starlette(routes=[Route("/seen/{name}", read_seen), *routes, Mount("", filled(shop))], lifespan=db.lifespan)
    return Notes(root, seen)
