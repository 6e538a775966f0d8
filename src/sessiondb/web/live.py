"""Connections that end with their session: WebSockets are closed with 4401, event streams are ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from sessiondb.core.errors import SessionEnded
from sessiondb.core.record import EndReason
from sessiondb.core.token import Sid
from sessiondb.parked import own_sid
from sessiondb.session import Session, state_of
from sessiondb.state import State
from sessiondb.watching import UNKNOWN, Watch

SESSION_ENDED = 4401
TRY_AGAIN_LATER = 1013
EVENT_STREAM = b"text/event-stream"


class ConnectionEnded(OSError):
    """The connection was ended with its session: the app may send nothing more (ASGI: an ``OSError``)."""


class _Guard:
    """Watches the session of one connection while somebody is logged in, and says when it is over.

    ``cut`` is called once, on the event loop; ``reason`` is then that of the end, or ``None`` when nobody could say
    for too long whether the session lives. An app that logs out by itself knows what it does, and is left alone.
    """

    __slots__ = ("_cut", "_every", "_own", "_state", "_watch", "ended", "is_over", "reason")

    def __init__(self, state: State, every: float, cut: Callable[[], None]) -> None:
        self._state = state
        self._every = every
        self._cut = cut
        self._watch: Watch | None = None
        self._own: Watch | None = None
        self.ended = False
        self.is_over = False
        self.reason: str | None = None

    def follow(self, *, unsure: bool = False) -> None:
        """Watch the session that the connection has now."""
        record = self._state.record
        sid = record.sid if record is not None and record.user_id is not None else None
        if self.is_over or self.ended or (self._watch is not None and self._watch.sid == sid):
            return
        self._leave()
        if sid is None or record is None:
            return
        watching = self._state.runtime.watching
        self._watch = Watch(sid, self._every, partial(self._on_end, sid))
        watching.begin(self._watch, unsure=unsure)
        own = own_sid(record)
        if own is not None:
            # An impersonation ends with the own session of whoever impersonates.
            self._own = Watch(own, self._every, partial(self._on_own_end, sid))
            watching.begin(self._own, unsure=unsure)

    def used(self) -> None:
        """The client has sent something, which is use of its session."""
        for watch in (self._watch, self._own):
            if watch is not None:
                watch.used_at = self._state.runtime.now()

    def stop(self) -> None:
        """The connection is over."""
        self.is_over = True
        self._leave()

    def _leave(self) -> None:
        for watch in (self._watch, self._own):
            if watch is not None:
                self._state.runtime.watching.end(watch)
        self._watch = self._own = None

    def _on_end(self, sid: Sid, reason: str | None) -> None:
        if self._watch is None or self._watch.sid != sid:
            return
        state = self._state
        self._leave()
        if state.record is None:
            if state.ended_reason is None:
                # Its own logout, or its own login as somebody else.
                return
        elif state.record.sid != sid:
            return
        self.end(reason)

    def _on_own_end(self, sid: Sid, reason: str | None) -> None:
        self._on_end(sid, None if reason is None else EndReason.IMPERSONATION_ENDED.value)

    def end(self, reason: str | None) -> None:
        """The session has ended."""
        self._leave()
        if not self.ended:
            self.ended, self.reason = True, reason
            self._cut()


class LiveSocket:
    """A WebSocket as the app sees it. When its session ends it is closed: the app receives a disconnect.

    ``response`` is the committing side, ``receive`` and ``send`` are the server's.
    """

    def __init__(
        self, session: Session, response: Send, scope: Scope, receive: Receive, send: Send, recheck: float
    ) -> None:
        self._state = state_of(session)
        self._response = response
        self._scope = scope
        self._receive = receive
        self._send = send
        self._guard = _Guard(self._state, recheck, self._on_end)
        self._receiving: dict[asyncio.Task[object], int] = {}
        self._accepted = False
        self._closing: asyncio.Task[None] | None = None
        self._guard.follow()

    def ends(self, error: BaseException) -> bool:
        """Whether ``error``, with which the app has failed, is nothing but the end of the connection."""
        if isinstance(error, SessionEnded) and self._accepted:
            # What a request would be answered 401.
            self._guard.end(error.reason or UNKNOWN)
            return self._closing is not None
        return self._closing is not None and _is_disconnect(error)

    async def receive(self) -> Message:
        """The app's ``receive``. Interrupted as ``asyncio.timeout`` would: no task and no future per message."""
        self._look()
        if self._closing is not None:
            return self._disconnect()
        task = asyncio.current_task()
        assert task is not None
        self._receiving[task] = task.cancelling()
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._closing is None or task.uncancel() > self._receiving[task]:
                raise
            return self._disconnect()
        finally:
            del self._receiving[task]
        if message["type"] == "websocket.receive":
            self._guard.used()
        elif message["type"] == "websocket.disconnect":
            self._guard.stop()
        return message

    async def send(self, message: Message) -> None:
        """The app's ``send``."""
        kind = message["type"]
        if self._accepted and kind == "websocket.http.response.start" and self._state.ended_reason is not None:
            # Starlette answers an exception with a response, also where it is too late for one.
            self._guard.end(self._state.ended_reason)
        self._look()
        if self._closing is not None:
            raise ConnectionEnded("The WebSocket was closed, because its session has ended.")
        if kind == "websocket.accept" and self._guard.ended and self._state.handed_out:
            # It ended during the handshake: what the app sends from now on goes nowhere, and it receives a disconnect.
            self._close(self._deny())
            return
        if kind == "websocket.close" or kind == "websocket.http.response.start":
            self._guard.stop()
        await self._response(message)
        if kind == "websocket.accept":
            self._accepted = True
            # The handshake may have logged somebody in.
            self._guard.follow()
            self._look()

    async def finish(self) -> None:
        """The app has returned."""
        self._guard.stop()
        if self._closing is not None:
            await self._closing

    def _look(self) -> None:
        # The app may have asked for the session only now, when it had ended already.
        if self._guard.ended and self._accepted and self._closing is None and self._state.handed_out:
            self._close(self._send_close())

    def _on_end(self) -> None:
        self._look()

    def _close(self, closing: Coroutine[Any, Any, None]) -> None:
        self._state.runtime.counters["sockets_ended"] += 1
        self._closing = asyncio.get_running_loop().create_task(closing)
        for task in self._receiving:
            task.cancel()

    async def _send_close(self) -> None:
        # Whatever a server raises here means that the client has gone already.
        with contextlib.suppress(Exception):
            await self._send({"type": "websocket.close", "code": self._code, "reason": self._guard.reason or ""})

    async def _deny(self) -> None:
        from sessiondb.web.response import refuse

        reason = self._guard.reason
        with contextlib.suppress(Exception):
            error = SessionEnded("The session has ended during the handshake of its WebSocket.", reason=reason)
            await refuse(self._scope, self._receive, self._send, error)

    @property
    def _code(self) -> int:
        return SESSION_ENDED if self._guard.reason is not None else TRY_AGAIN_LATER

    def _disconnect(self) -> Message:
        return {"type": "websocket.disconnect", "code": self._code, "reason": self._guard.reason or ""}


class LiveStream:
    """The sending side of an event stream (``text/event-stream``), which ends when its session does.

    After the last message of a response a server answers ``receive`` with ``http.disconnect``, which is how
    responses learn that they may stop; servers of ASGI 2.4 say it by an ``OSError`` from ``send``.
    """

    def __init__(self, state: State, scope: Scope, send: Send, recheck: float) -> None:
        self._state = state
        self._send = send
        version = scope.get("asgi", {}).get("spec_version", "2.0")
        self._raises = tuple(int(part) for part in version.split(".")) >= (2, 4)
        self._sending = False
        self._started = self._done = False
        self._closing: asyncio.Task[None] | None = None
        self._guard = _Guard(state, recheck, self._on_end)
        # Since the load, which may be long ago, it may have ended unseen.
        self._guard.follow(unsure=True)

    def ends(self, error: BaseException) -> bool:
        """As ``LiveSocket``."""
        return self._guard.ended and _is_disconnect(error)

    async def send(self, message: Message) -> None:
        """What is sent after the end is dropped, as a server does when the client has gone."""
        if self._guard.ended:
            if self._raises:
                raise ConnectionEnded("The stream was ended, because its session has.")
            return
        self._sending = True
        try:
            await self._send(message)
        finally:
            self._sending = False
            self._started = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._done = True
            self._guard.stop()
        elif self._guard.ended:
            self._close()

    async def finish(self) -> None:
        """The app has returned."""
        self._guard.stop()
        if self._guard.ended and self._started and not self._done and self._closing is None:
            self._close()
        if self._closing is not None:
            await self._closing

    def _on_end(self) -> None:
        # A message on its way is finished first, headers above all.
        if self._started and not self._sending:
            self._close()

    def _close(self) -> None:
        self._state.runtime.counters["streams_ended"] += 1
        self._closing = asyncio.get_running_loop().create_task(self._send_end())

    async def _send_end(self) -> None:
        # As with sockets.
        with contextlib.suppress(Exception):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


Live = LiveSocket | LiveStream


def _is_disconnect(error: BaseException) -> bool:
    """Whether ``error`` is how an app says that its connection is gone."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_disconnect(one) for one in error.exceptions)
    return isinstance(error, (ConnectionEnded, ClientDisconnect, WebSocketDisconnect))
