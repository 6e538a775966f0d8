"""Connections of one event loop to one server: as few as needed, at most ``size``, none kept that may be bad."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, NoReturn, Protocol, TypeVar


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

    def connection(self) -> Loan[C]:
        """A connection for one use: ``async with pool.connection() as connection``."""
        return Loan(self)

    async def borrow(self) -> C:
        """A connection, which has to be given back whatever happens."""
        await self._slots.acquire()
        try:
            return await self._take()
        except BaseException:
            self._slots.release()
            raise

    def give_back(self, connection: C, error: BaseException | None) -> None:
        """``error``: what its use ended with."""
        try:
            if error is not None and (isinstance(error, OSError) or not isinstance(error, Exception)):
                # Interrupted, cancelled, timed out: the answer has not been read, and would be taken for the next one.
                connection.terminate()
                self.drop_idle()
            if connection.is_closed() or self._closed:
                connection.terminate()
            else:
                self._idle.append(connection)
        finally:
            self._slots.release()

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


class Loan(Generic[C]):
    """A connection for one use. A class, because a generator costs each call three times as much."""

    __slots__ = ("connection", "pool")

    connection: C

    def __init__(self, pool: Pool[C]) -> None:
        self.pool = pool

    async def __aenter__(self) -> C:
        try:
            self.connection = connection = await self.pool.borrow()
        except Exception as error:
            self._raise(error, connected=False)
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.pool.give_back(self.connection, None)
            return
        ended_with = error
        if isinstance(error, Exception):
            try:
                await self.mend(error)
            except BaseException as worse:
                ended_with = worse
        self.pool.give_back(self.connection, ended_with)
        if isinstance(ended_with, Exception):
            self._raise(ended_with, connected=True)
        raise ended_with

    def _raise(self, error: Exception, *, connected: bool) -> NoReturn:
        found = self.instead_of(error, connected=connected)
        if found is error:
            raise error
        raise found from error

    async def mend(self, error: Exception) -> None:
        """Make the connection fit for others after ``error``, or terminate it; what this raises takes its place."""

    def instead_of(self, error: Exception, *, connected: bool) -> Exception:
        """What to raise instead of ``error``; ``connected``: it came while the connection was in use."""
        return error
