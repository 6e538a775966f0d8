"""The sending side of a request: commits, cookies and caching headers, each exactly when due."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from sessiondb.commit import commit, is_settled
from sessiondb.core.errors import LoginRefused, RateLimited, SessionEnded, SessionUnavailable, StoreError
from sessiondb.core.policies import is_remembered
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.core.token import Token
from sessiondb.session import Session, state_of
from sessiondb.web.live import EVENT_STREAM, Live, LiveStream
from sessiondb.web.transports import Face
from sessiondb.web.turns import take_turn
from sessiondb.writes import why_gone

log = logging.getLogger("sessiondb")

Refusal = SessionUnavailable | LoginRefused | RateLimited | SessionEnded

_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_PRIVATE = (b"cache-control", b"private")
_NO_STORE = (b"cache-control", b"no-store")
_ENDS = frozenset({"http.response.body", "websocket.http.response.body", "http.response.pathsend"})


class SessionResponse:
    """An ASGI ``send`` that commits the session before the response can be seen.

    What changed before the headers is stored before they leave; what changed while the body streams, before its
    last message leaves. ``finish`` stores what a background task or a WebSocket changed.
    """

    __slots__ = ("_face", "_scope", "_send", "_session", "_state", "failure", "live", "on_set_cookie", "started")

    def __init__(self, face: Face, session: Session, scope: Scope, send: Send) -> None:
        self._face = face
        self._scope = scope
        self._session = session
        self._state = state_of(session)
        self._send = send
        self.started = False
        self.failure: Refusal | None = None
        self.on_set_cookie: Callable[[], None] | None = None
        self.live: Live | None = None

    async def __call__(self, message: Message) -> None:
        """Send ``message``, after the commit that is due before it."""
        kind = message["type"]
        state = self._state
        starts = kind in _STARTS
        if starts:
            await take_turn()
        if (starts or (kind in _ENDS and not message.get("more_body", False))) and not is_settled(self._session, state):
            before = state.record
            try:
                gone = await commit(self._session, state)
            except (LoginRefused, RateLimited, StoreError) as error:
                raise self._failed(error)  # noqa: B904  it has its cause
            if gone is not None and before is not None and before.user_id is not None and _begins_stream(message):
                # What is over cannot be watched, so nothing would ever end the stream.
                raise self._failed(SessionEnded(why_gone(gone), reason=gone))
        if starts:
            if state.handed_out or state.outgoing is not None:
                message["headers"] = self._headers(message.get("headers", ()), state.outgoing)
            state.headers_sent = True
            self.started = True
        await self._send(message)

    async def finish(self) -> None:
        """The app has returned: store what changed after the last byte.

        Raises the failure of an earlier commit that the app has swallowed, if nothing was sent.
        """
        if not self.started:
            if self.failure is not None:
                raise self.failure
            self.abandon()
        if not is_settled(self._session, self._state):
            try:
                await commit(self._session, self._state)
            except (LoginRefused, RateLimited, StoreError) as error:
                raise self._failed(error)  # noqa: B904  it has its cause

    def abandon(self) -> None:
        """The app has failed: drop what is staged, and end a session whose token never left."""
        state = self._state
        state.staged = None
        if state.undelivered and not self.started and state.record is not None:
            state.runtime.end_later(state.record, EndReason.UNDELIVERED)
            if state.parked is not None:
                state.runtime.end_later(state.parked, EndReason.UNDELIVERED)

    async def answer(self, scope: Scope, receive: Receive, error: HTTPException) -> None:
        """Answer in the app's place, before anything was sent."""
        state = self._state
        if isinstance(error, LoginRefused):
            # The visitor goes on anonymously, with the cookie for that.
            state.handed_out = state.written = True
            try:
                await refuse(scope, receive, self, error)
            except (SessionUnavailable, RateLimited) as failure:
                if self.started:
                    raise
                await refuse(scope, receive, self._send, failure)
        else:
            await refuse(scope, receive, self._send, error)

    def _failed(self, error: Refusal | StoreError) -> Refusal:
        """Remember why a commit failed, as what the client is answered."""
        if isinstance(error, StoreError) and not isinstance(error, SessionUnavailable):
            error = SessionUnavailable.because_of(error)
        self.failure = error
        return error

    def _headers(
        self, given: Iterable[tuple[bytes, bytes]], outgoing: Token | Literal[False] | None
    ) -> list[tuple[bytes, bytes]]:
        """The headers of a response that depends on the session."""
        headers: list[tuple[bytes, bytes]] = []
        varies = caching = False
        vary = self._face.vary
        for name, value in given:
            length = len(name)
            if length == 4 and name.lower() == b"vary":
                varies = True
                value = _with_fields(value, vary)
            elif length == 13 and name.lower() == b"cache-control":
                if outgoing is not None:
                    _warn_if_public(value)
                    continue
                caching = True
            elif length == 12 and value[:17].lower() == EVENT_STREAM and name.lower() == b"content-type":
                self._watch_stream()
            headers.append((name, value))
        if not varies:
            headers.append((b"vary", vary))
        if self._state.clear_site_data is not None:
            headers.append((b"clear-site-data", self._state.clear_site_data))
        if outgoing is None:
            if not caching:
                headers.append(_PRIVATE)
            return headers
        headers.append(_NO_STORE)
        telling = self._telling(outgoing)
        if telling is not None:
            headers.append(telling)
        self._state.outgoing = None
        self._state.undelivered = False
        if self.on_set_cookie is not None:
            self.on_set_cookie()
        return headers

    def _watch_stream(self) -> None:
        record = self._state.record
        if record is not None and record.user_id is not None:
            self.live = stream = LiveStream(self._state, self._scope, self._send, self._face.recheck)
            self._send = stream.send

    def _telling(self, outgoing: Token | bool) -> tuple[bytes, bytes] | None:
        if not isinstance(outgoing, Token):
            return self._face.way.delete_header()
        state = self._state
        record = state.record
        max_age = None
        if record is not None and is_remembered(record.lifetime):
            runtime = state.runtime
            max_age = max(1, (runtime.caps.hard_end(record) - runtime.now()) // SECOND)
        return self._face.way.set_header(outgoing, max_age)


async def refuse(scope: Scope, receive: Receive, send: Send, error: HTTPException) -> None:
    """Answer ``error`` as plain text; a WebSocket handshake is denied with it where the server can say so."""
    response = PlainTextResponse(error.detail, status_code=error.status_code, headers=error.headers)
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008 if error.status_code in (401, 403) else 1013})
        return
    await response(scope, receive, send)


def _begins_stream(message: Message) -> bool:
    return message["type"] == "http.response.start" and any(
        name.lower() == b"content-type" and value[:17].lower() == EVENT_STREAM
        for name, value in message.get("headers", ())
    )


def _with_fields(vary: bytes, fields: bytes) -> bytes:
    listed = [part.strip().lower() for part in vary.split(b",")]
    if b"*" in listed:
        return vary
    return b", ".join([vary, *(field for field in fields.split(b", ") if field.lower() not in listed)])


def _warn_if_public(caching: bytes) -> None:
    if b"public" in caching.lower():
        log.warning(
            "A response with Cache-Control: %s sets the session cookie, which a shared cache would hand to others; it "
            "was sent with no-store instead. Do not write the session in cacheable responses.",
            caching.decode("latin-1"),
        )
