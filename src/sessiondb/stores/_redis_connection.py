"""One connection to a Redis or Valkey server: everything that is asked at once goes out as one burst of bytes.

hiredis parses; nothing is ever sent twice. A pipeline of a general client costs several times as much per command.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hiredis

Argument = bytes | str | int
Command = tuple[Any, ...]  # of Arguments
_READ = 1 << 16
# With each answer, hiredis moves what follows it to the front. Of much at once, that takes longer than the reading.
_FED = 1 << 12


class ConnectionLost(Exception):
    """The server closed the connection, or an answer made no sense."""


class NotConnected(ConnectionLost):
    """There is no connection, so nothing was sent. The cause says why."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to connect, but for the address."""

    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: ssl.SSLContext | None = None
    timeout: float = 2.0

    def __repr__(self) -> str:
        return f"Access(username={self.username!r}, database={self.database}, tls={self.tls is not None})"


class Connection:
    """Usable by one caller at a time. Error replies are returned, as ``hiredis.ReplyError``, not raised."""

    __slots__ = ("_reader", "_stream", "_writer")

    def __init__(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stream = stream
        self._writer = writer
        self._reader = hiredis.Reader()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to ``commands``, in order. Raises ``ConnectionLost`` and ``OSError``."""
        pack = hiredis.pack_command
        self._writer.write(b"".join([pack(command) for command in commands]))
        replies: list[Any] = []
        reader = self._reader
        try:
            while len(replies) < len(commands):
                received = await self._stream.read(_READ)
                if not received:
                    raise ConnectionLost("the server closed the connection")
                for at in range(0, len(received), _FED):
                    reader.feed(received, at, min(_FED, len(received) - at))
                    while (reply := reader.gets()) is not False:
                        replies.append(reply)
            if len(replies) > len(commands) or reader.has_data():
                raise ConnectionLost("the server has answered more than it was asked")
            return replies
        except BaseException as error:
            self.terminate()  # whatever it was: the next caller would be given the answers that are missing here
            if isinstance(error, hiredis.ProtocolError):
                raise ConnectionLost("the server does not speak the Redis protocol") from error
            raise

    def is_closed(self) -> bool:
        """Whether it is of no use any more."""
        return self._writer.transport.is_closing() or self._stream.at_eof()

    def terminate(self) -> None:
        """Drop it at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass


async def connect(host: str, port: int, access: Access) -> Connection:
    """A connection that has said who it is. Raises ``NotConnected``."""
    try:
        async with asyncio.timeout(access.timeout):
            return await _connect(host, port, access)
    except (OSError, ConnectionLost, hiredis.ReplyError) as error:
        raise NotConnected(f"{host}:{port}: {error}") from error


async def _connect(host: str, port: int, access: Access) -> Connection:
    stream, writer = await asyncio.open_connection(
        host, port, ssl=access.tls, server_hostname=host if access.tls else None, limit=_READ
    )
    connection = Connection(stream, writer)
    try:
        for reply in await connection.run(greeting(access)):
            if isinstance(reply, hiredis.ReplyError):
                raise reply
    except BaseException:
        connection.terminate()
        raise
    return connection


def greeting(access: Access) -> list[Command]:
    """What a connection says first."""
    commands: list[Command] = []
    if access.password is not None:
        user = () if access.username is None else (access.username,)
        commands.append(("AUTH", *user, access.password))
    if access.database:
        commands.append(("SELECT", access.database))
    # PING: an answer, even where nothing else is to be said.
    return [*commands, ("CLIENT", "SETNAME", "sessiondb"), ("PING",)]
