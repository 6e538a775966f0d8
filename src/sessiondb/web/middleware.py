"""``SessionMiddleware``: the session of each request and WebSocket, committed before anybody can see it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Any, Self

from starlette.types import ASGIApp, Receive, Scope, Send

from sessiondb.core.errors import (
    ConfigurationError,
    CrossOriginRefused,
    CsrfTokenRefused,
    LoginRefused,
    RateLimited,
    SessionEnded,
    SessionUnavailable,
    StoreError,
)
from sessiondb.core.events import EventType
from sessiondb.core.presented import Presented
from sessiondb.db import SessionDB
from sessiondb.opening import open_closely, open_loaded, open_near, open_session
from sessiondb.runtime import Runtime
from sessiondb.session import Session, new_session
from sessiondb.state import State, Visitor
from sessiondb.web.cookie import Cookie
from sessiondb.web.csrf import SAFE_METHODS, CrossOrigin
from sessiondb.web.live import LiveSocket
from sessiondb.web.paths import matches_path, path_of, paths
from sessiondb.web.proxies import Client, Headers, TrustedProxies, Unread
from sessiondb.web.response import SessionResponse, refuse
from sessiondb.web.transports import Face, HeaderWay, header_ways, present
from sessiondb.web.turns import take_turn

log = logging.getLogger("sessiondb")

SCOPE_KEY = "sessiondb.sessions"
_NONE: dict[str, Session] = {}
# What an app that handles no exceptions is spared.
_ANSWERED = (SessionUnavailable, CrossOriginRefused, CsrfTokenRefused, LoginRefused, RateLimited, SessionEnded)

_OF_STARLETTE = frozenset(
    {"secret_key", "session_cookie", "max_age", "same_site", "https_only", "path", "domain", "partitioned"}
)


class SessionMiddleware:
    """Gives every request ``request.session``, kept in ``db``. Pure ASGI.

    * ``cookie`` (``Cookie()``): how the token travels for browsers; ``None``: this app is for other clients alone.
    * ``headers`` (none): how it travels for other clients, in order: ``headers=[Bearer(), Header("X-Session")]``. A
      request is served by the first of these that it brings, else by its cookie; never by two of them.
    * ``csrf`` (``CrossOrigin()``): the cross-origin check of what a cookie carries; ``None`` turns it off.
    * ``skip``: paths (and what is below) that have no session: ``skip=("/static", "/healthz")``.
    * ``proxies`` (``None``: the server's peer is the client): whose word is taken for the client's address:
      ``proxies=TrustedProxies(count=1)``.
    * ``recheck`` (60 s, which is the most): how often the session of an open WebSocket or event stream is looked up.

    The session is also in ``scope["session"]``. Two middlewares on one cookie or header: ``ConfigurationError``.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Say what is missing better than a ``TypeError`` would; type checkers go by ``__init__``."""
        if cls.__init__ is SessionMiddleware.__init__:
            _check_settings(len(args) > 1 or "db" in kwargs, kwargs.keys() & _OF_STARLETTE)
        return super().__new__(cls)

    def __init__(
        self,
        app: ASGIApp,
        db: SessionDB,
        *,
        cookie: Cookie | None = Cookie(),  # noqa: B008  frozen
        headers: Iterable[HeaderWay] = (),
        csrf: CrossOrigin | None = CrossOrigin(),  # noqa: B008  frozen
        skip: Iterable[str] = (),
        proxies: TrustedProxies | None = None,
        recheck: float = 60.0,
    ) -> None:
        if not isinstance(db, SessionDB):
            raise ConfigurationError(
                f"SessionMiddleware: db is a {type(db).__name__}; pass a SessionDB: "
                "app.add_middleware(SessionMiddleware, db=SessionDB('sqlite:///sessions.db'))."
            )
        given: dict[str, tuple[object, type]] = {
            "cookie": (cookie, Cookie),
            "csrf": (csrf, CrossOrigin),
            "proxies": (proxies, TrustedProxies),
        }
        for name, (value, kind) in given.items():
            if value is not None and not isinstance(value, kind):
                raise ConfigurationError(
                    f"SessionMiddleware: {name} is {value!r:.100}; use {name}={kind.__name__}(...), or None."
                )
        ways = header_ways(headers)
        if cookie is None and not ways:
            raise ConfigurationError(
                "SessionMiddleware: without cookie and headers no token could travel; use cookie=Cookie(), or "
                "headers=[Bearer()]."
            )
        if not isinstance(recheck, (int, float)) or isinstance(recheck, bool) or not 0.1 <= recheck <= 60:
            raise ConfigurationError(f"SessionMiddleware: recheck is {recheck!r:.100}; use 0.1 to 60 seconds.")
        self.app = app
        self.db = db
        self.cookie = cookie
        self.csrf = csrf
        self._headers = ways
        self._tokens = cookie.tokens if cookie is not None else _no_tokens
        vary = ", ".join([*(way.name for way in ways), *(["Cookie"] if cookie is not None else [])]).encode("ascii")
        self._face = Face(cookie if cookie is not None else ways[0], vary, recheck)
        # No cookie has a colon in its name.
        self._names = [f"{way.name.lower()}:" for way in ways] + ([cookie.full_name] if cookie is not None else [])
        self._skip = paths("SessionMiddleware: skip", skip)
        self._unread = Unread()
        self._client_of: Callable[[Client, Headers], Client] | None = (
            self._note_unread if proxies is None else proxies.client
        )
        self._warned_plain_http = cookie is None or not cookie.secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, WebSocket or lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._start(scope, receive, send)
            return
        if kind not in ("http", "websocket") or (self._skip and matches_path(path_of(scope), self._skip)):
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        runtime = self.db.runtime
        client = scope.get("client")
        if self._client_of is not None:
            client = self._client_of(client, headers)
        state = State(runtime, runtime.now(), Visitor(client, headers))
        if self._headers:
            face, tokens = self._present(state, headers)
        else:
            face, tokens = self._face, self._tokens(headers, runtime.counters)
        if state.via is not None:
            # A token in a header is no ambient authority, and the answer goes out in one too.
            pass
        elif kind == "http":
            if self.csrf is not None and scope["method"] not in SAFE_METHODS:
                state.block = self._cross_origin_check(scope, runtime)
        elif tokens and self.csrf is not None:
            refusal = self.csrf.refusal(path_of(scope), headers)
            if refusal is not None:
                _note_refusal(runtime, refusal)
                await refuse(scope, receive, send, CrossOriginRefused(refusal))
                return
        try:
            session = None
            if not tokens:
                session = new_session(state)
            else:
                if len(tokens) > 1:
                    session = await open_session(state, tokens)
                elif runtime.near is not None and kind == "http" and scope["method"] in SAFE_METHODS:
                    # Who is about to write sees what is stored: what it makes of that takes the place of it.
                    session = open_near(state, tokens[0])
                if session is None:
                    # Here and not in a function: another coroutine costs every request that waits.
                    loaded = await runtime.load_soon(tokens[0].sid)
                    session = open_loaded(state, tokens[0], loaded)
                    if session is None:
                        session = await open_closely(state, tokens[0], loaded)
                await take_turn()
        except StoreError as error:
            session = new_session(state)
            if self.db.on_load_error == "error":
                unavailable = SessionUnavailable.because_of(error)
                if kind == "websocket":
                    await refuse(scope, receive, send, unavailable)
                    return
                state.block = _raiser(unavailable)
        self._register(scope, session)
        response = SessionResponse(face, session, scope, send)
        if scope.get("scheme") in ("http", "ws") and not self._warned_plain_http and face is self._face:
            response.on_set_cookie = self._warn_plain_http
        try:
            if kind == "websocket":
                response.live = socket = LiveSocket(session, response, scope, receive, send, face.recheck)
                await self.app(scope, socket.receive, socket.send)
            else:
                await self.app(scope, receive, response)
            await response.finish()
        except BaseException as error:
            if response.live is not None and response.live.ends(error):
                await response.finish()
                return
            response.abandon()
            answer = response.failure or error
            if isinstance(answer, StoreError) and not isinstance(answer, SessionUnavailable):
                # An awaited verb failed, and the app did not handle it. Failures of the database have been logged.
                if answer.outcome == "conflict":
                    log.warning("%s: %s", path_of(scope), answer)
                answer = SessionUnavailable.because_of(answer)
            if response.started or not isinstance(answer, _ANSWERED):
                raise
            await response.answer(scope, receive, answer)
        finally:
            if response.live is not None:
                await response.live.finish()

    def _present(self, state: State, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Face, list[Presented]]:
        """Which way the request came, where there are several, and the tokens that it brought."""
        found = present(self._headers, headers)
        if found is None:
            if self.cookie is not None:
                return self._face, self._tokens(headers, state.runtime.counters)
            found = self._headers[0], []
        elif not found[1]:
            state.runtime.counters["token_malformed"] += 1
        way, tokens = found
        state.via = way.name
        if way.respond is None:
            state.untold = state.headers_sent = True
        return Face(way, self._face.vary, self._face.recheck), tokens

    def _note_unread(self, peer: Client, headers: Headers) -> Client:
        self._unread.look(peer, headers)
        if self._unread.done:
            self._client_of = None
        return peer

    async def _start(self, scope: Scope, receive: Receive, send: Send) -> None:
        outer = scope.get(SCOPE_KEY, _NONE)
        try:
            self._check_name(outer)
        except ConfigurationError as error:
            # Servers take an exception alone for an app without a lifespan, and start it.
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        scope[SCOPE_KEY] = {**outer, **dict.fromkeys(self._names)}
        await self.app(scope, receive, send)

    def _register(self, scope: Scope, session: Session) -> None:
        # Inner middlewares may replace scope["session"]; dependencies find theirs by the name of its cookie.
        outer: dict[str, Session] | None = scope.get(SCOPE_KEY)
        mine = dict.fromkeys(self._names, session)
        if outer:
            self._check_name(outer)
            mine = {**outer, **mine}
        scope[SCOPE_KEY] = mine
        scope["session"] = session

    def _check_name(self, outer: Collection[str]) -> None:
        for name in self._names:
            if name in outer:
                what = f"header {name[:-1]!r}" if name.endswith(":") else f"cookie {name!r}"
                raise ConfigurationError(
                    f"Two SessionMiddlewares share the {what}; remove one (a mounted app uses the outer one's "
                    "session), or give it another name: cookie=Cookie(name='admin'), headers=[Header('X-Admin')]."
                )

    def _cross_origin_check(self, scope: Scope, runtime: Runtime) -> Callable[[], None]:
        csrf, path, headers = self.csrf, path_of(scope), scope["headers"]
        assert csrf is not None

        def check() -> None:
            refusal = csrf.refusal(path, headers)
            if refusal is not None:
                _note_refusal(runtime, refusal)
                raise CrossOriginRefused(refusal)

        return check

    def _warn_plain_http(self) -> None:
        self._warned_plain_http = True
        log.warning(
            "A Secure session cookie was set over plain http. Chromium and Firefox keep it on localhost; Safari, "
            "plain clients and other hosts drop it. For development: "
            "app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))."
        )


def _no_tokens(headers: Iterable[tuple[bytes, bytes]], counters: Counter[str]) -> list[Presented]:
    return []


def _check_settings(has_db: bool, of_starlette: Iterable[str]) -> None:
    for name in sorted(of_starlette):
        raise ConfigurationError(
            f"SessionMiddleware: {name} is a setting of Starlette's own; here no key is needed, the cookie is set by "
            "cookie=Cookie(...) and lifetimes by SessionDB(policy=Policy(...))."
        )
    if not has_db:
        raise ConfigurationError(
            "SessionMiddleware: db is missing; pass a SessionDB: "
            "app.add_middleware(SessionMiddleware, db=SessionDB('sqlite:///sessions.db'))."
        )


def _note_refusal(runtime: Runtime, refusal: str) -> None:
    runtime.counters[EventType.CROSS_ORIGIN.value] += 1
    log.warning("%s", refusal)


def _raiser(error: SessionUnavailable) -> Callable[[], None]:
    message, outcome, retry_after, cause = str(error), error.outcome, error.retry_after, error.__cause__

    def block() -> None:
        # A new one each time: an exception that is raised again gathers tracebacks.
        raise SessionUnavailable(message, outcome=outcome, retry_after=retry_after) from cause

    return block
