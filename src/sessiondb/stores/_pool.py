"""Connections of one event loop to one server: as few as needed, at most ``size``, none kept that may be bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar


class Connection(Protocol):
    """What a driver's connection must offer."""

    def is_closed(self) -> bool:
        """Whether it is of no use any more."""
        ...

    def terminate(self) -> None:
        """Drop it at once, without asking the server."""
        ...

    async def close(self) -> None:
        """End it in good order."""
        ...


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """Lends connections. A driver's own pool resets each one it gets back, which is a round trip per statement.

    A call that was cancelled or timed out leaves its connection in the middle of an answer, and the server may have
    gone silent on the others too: all idle ones are dropped with it, so the pool heals at the first failure.
    """

    def __init__(self, connect: Callable[[], Awaitable[C]], *, size: int) -> None:
        self._connect = connect
        self._slots = asyncio.Semaphore(size)
        self._idle: list[C] = []
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[C]:
        """A connection for one use."""
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except BaseException as error:
                # Interrupted, cancelled, timed out: the answer has not been read, and would be taken for the next one.
                if isinstance(error, OSError) or not isinstance(error, Exception):
                    connection.terminate()
                    self.drop_idle()
                raise
            finally:
                if connection.is_closed() or self._closed:
                    connection.terminate()
                else:
                    self._idle.append(connection)

    def drop_idle(self) -> None:
        """Use none of the idle connections again."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    async def close(self) -> None:
        """Close all connections; those in use when they come back."""
        self._closed = True
        idle, self._idle = self._idle, []
        try:
            while idle:
                await self._close(idle[-1])
                idle.pop()
        finally:
            for connection in idle:
                connection.terminate()  # nobody waits any more

    async def _close(self, connection: C) -> None:
        try:
            async with asyncio.timeout(0.5):
                await connection.close()
        except Exception:
            connection.terminate()

    async def _take(self) -> C:
        while self._idle:
            connection = self._idle.pop()  # the one used last: the others may time out in peace
            if not connection.is_closed():
                return connection
            connection.terminate()  # the server has closed its side only
        return await self._connect()
