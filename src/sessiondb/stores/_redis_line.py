"""A connection to a Redis or Valkey server on which the server speaks unasked, too (RESP3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from sessiondb.stores._redis_connection import Access, Command, ConnectionLost, NotConnected, greeting
from sessiondb.stores._redis_nodes import Address


class Line(asyncio.Protocol):
    """``told`` gets each push at once, as it arrives. ``lost`` has the exception when the connection is over."""

    def __init__(self, address: Address, told: Callable[[Sequence[Any]], None]) -> None:
        loop = asyncio.get_running_loop()
        self.address = address
        # Errors as results: an exception that nobody fetches would complain.
        self.lost: asyncio.Future[Exception] = loop.create_future()
        self._loop = loop
        self._told = told
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None

    def ask(self, commands: Sequence[Command]) -> list[asyncio.Future[Any]]:
        """The replies to come, in order; error replies as results. A lost connection is raised by each."""
        if self.lost.done() or self._transport is None:
            raise ConnectionLost("the server closed the connection")
        pack = hiredis.pack_command
        self._transport.write(b"".join([pack(command) for command in commands]))
        replies = [self._loop.create_future() for _ in commands]
        self._waiting += replies
        return replies

    def close(self) -> None:
        """Drop the connection; nothing is told after this."""
        self._lose(ConnectionLost("closed"))

    # -- as a Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pushes are told, replies given to who waits."""
        reader = self._reader
        reader.feed(data)
        try:
            while not self.lost.done() and (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    self._told(reply)
                    continue
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self._lose(ConnectionLost("the server does not speak the Redis protocol"))

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits is told."""
        self._lose(error or ConnectionLost("the server closed the connection"))

    def _lose(self, error: Exception) -> None:
        if self.lost.done():
            return
        self.lost.set_result(error)
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # it may have no reader any more, and then should not complain
        if self._transport is not None:
            self._transport.abort()


async def connect(address: Address, access: Access, told: Callable[[Sequence[Any]], None]) -> Line:
    """A line that has said who it is. Raises ``NotConnected``."""
    host, port = address
    line = Line(address, told)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: line, host, port, ssl=access.tls, server_hostname=host if access.tls else None
        )
        for waiting in line.ask(greeting(access)):
            reply = await waiting
            if isinstance(reply, hiredis.ReplyError):
                raise reply
    except (OSError, ConnectionLost, hiredis.ReplyError) as error:
        line.close()
        raise NotConnected(f"{host}:{port}: {error}") from error
    except BaseException:
        line.close()
        raise
    return line
