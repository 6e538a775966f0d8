"""The line between workers and Redis, of which only the connections that tell of changes are broken: the feeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

MARK = b"TRACKING"


class _Side(asyncio.Protocol):
    """One end of a connection."""

    def __init__(self, line: FeedLine, other: _Side | None = None) -> None:
        self.line = line
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []
        self.is_feed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.line.sides.add(self)
        if self.other is None:
            self.line.reach(self)
        else:
            self.transport.writelines(self.early)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if MARK in data:
            self.is_feed = self.other.is_feed = True
            self.line.begun += 1
        if self.is_feed and self.line.is_cut and self.transport is not None:
            self.transport.abort()
        elif self.is_feed and self.line.stalled is not None:
            self.line.stalled.append((self, data))
        else:
            self.other.send(data)

    def send(self, data: bytes) -> None:
        if self.transport is None:
            self.early.append(data)
        else:
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.line.sides.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class FeedLine:
    """A port of 127.0.0.1 behind which a server is. ``begun``: how many feeds have asked to be told."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._reaching: set[asyncio.Task[object]] = set()
        self.sides: set[_Side] = set()
        self.is_cut = False
        self.stalled: list[tuple[_Side, bytes]] | None = None
        self.begun = 0
        self.port = 0

    def reach(self, client: _Side) -> None:
        server = client.other = _Side(self, client)
        connecting = asyncio.get_running_loop().create_connection(lambda: server, *self._server)
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(connecting)
        self._reaching.add(task)
        task.add_done_callback(self._reaching.discard)

    def cut(self) -> None:
        """The feeds are lost, and new ones are too."""
        self.is_cut = True
        for side in list(self.sides):
            if side.is_feed and side.transport is not None:
                side.transport.abort()

    def stall(self) -> None:
        """Nothing goes through the feeds any more, and nobody is told so."""
        self.stalled = []

    def mend(self) -> None:
        """All is well again."""
        self.is_cut = False
        stalled, self.stalled = self.stalled or [], None
        for side, data in stalled:
            if side.transport is not None and not side.transport.is_closing():
                side.data_received(data)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[FeedLine]:
        listener = await asyncio.get_running_loop().create_server(lambda: _Side(self), "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            await asyncio.gather(*self._reaching, return_exceptions=True)
            for side in list(self.sides):
                if side.transport is not None:
                    side.transport.abort()
            await asyncio.sleep(0)
