"""A server in the test's own process: an app's connection as ASGI messages, one by one, and no clock but the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message


class Connection:
    """One request or WebSocket. ``given`` is what the app receives next, ``sent`` what it has sent so far."""

    def __init__(
        self, app: ASGIApp, kind: str, path: str, headers: Iterable[tuple[str, str]] = (), spec_version: str = "2.4"
    ) -> None:
        self.given: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        self._news = asyncio.Event()
        scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "scheme": "ws" if kind == "websocket" else "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"a.test"), *((name.encode(), value.encode()) for name, value in headers)],
            "client": ("192.0.2.7", 1),
        }
        if kind == "websocket":
            scope |= {"subprotocols": [], "extensions": {"websocket.http.response": {}}}
            self.given.put_nowait({"type": "websocket.connect"})
        else:
            scope["method"] = "GET"
            self.given.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.done = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self.given.get, self._send)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._news.set()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            # As the ASGI specification has it.
            self.given.put_nowait({"type": "http.disconnect"})
        await asyncio.sleep(0)

    async def sends(self, kind: str, **parts: Any) -> Message:
        """Wait for a message of that type with these parts."""
        async with asyncio.timeout(30):
            while True:
                for message in self.sent:
                    if message["type"] == kind and all(message.get(name) == value for name, value in parts.items()):
                        return message
                self._news.clear()
                await self._news.wait()

    def says(self, text: str) -> None:
        """The client sends a text message."""
        self.given.put_nowait({"type": "websocket.receive", "text": text})

    async def leaves(self) -> None:
        """The client goes away, and the app returns."""
        self.given.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(30):
            await self.done
