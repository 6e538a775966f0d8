"""Redis and Valkey: ``SCAN`` and ``HGETALL``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis

from examples.demo.peek.base import Peek, Row, flat, split_prefix

# How each type of value is read.
READS = {
    b"hash": ("HGETALL",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
    b"string": ("GET",),
    b"set": ("SMEMBERS",),
    b"list": ("LRANGE", 0, -1),
}


class RedisPeek(Peek):
    """One connection."""

    def __init__(self, url: str, prefix: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        at = self._at = urlsplit(url)
        self._prefix = prefix
        self._reader = reader
        self._writer = writer
        self.where = f"the keys {prefix}session:* of {at.hostname}:{at.port or 6379}"
        self.means = f"HGETALL {prefix}session:..."

    @classmethod
    async def open(cls, url: str) -> RedisPeek:
        """Connect."""
        url, prefix = split_prefix(url, "sessiondb:")
        at = urlsplit(url)
        async with asyncio.timeout(5):
            peek = cls(url, prefix, *await asyncio.open_connection(at.hostname or "localhost", at.port or 6379))
            if at.password is not None:
                await peek._run("AUTH", *([unquote(at.username)] if at.username else []), unquote(at.password))
            await peek._run("SELECT", at.path.strip("/") or "0")
        return peek

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()

    @property
    def by_hand(self) -> str:
        """See ``Peek.by_hand``."""
        client = f"redis-cli -h {self._at.hostname} -p {self._at.port or 6379}"
        return f"{client} --scan --pattern '{self._prefix}session:*' | xargs -n 1 {client} HGETALL"

    async def read(self) -> Iterable[Row]:
        """See ``Peek.read``."""
        return [_row(await self._run("HGETALL", key)) for key in await self._keys(f"{self._prefix}session:*")]

    async def everything(self) -> bytes:
        """See ``Peek.everything``."""
        found: list[object] = []
        for key in await self._keys("*"):
            verb, *rest = READS[await self._run("TYPE", key)]
            found += [key, *_leaves(await self._run(verb, key, *rest))]
        return flat(found)

    async def _keys(self, pattern: str) -> list[bytes]:
        cursor, keys = b"0", set()
        while True:
            cursor, some = await self._run("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            keys.update(some)
            if cursor == b"0":
                return sorted(keys)

    async def _run(self, *command: Any) -> Any:
        self._writer.write(hiredis.pack_command(command))
        replies = hiredis.Reader()
        while (reply := replies.gets()) is False:
            received = await self._reader.read(1 << 16)
            if not received:
                raise ConnectionError("Redis has closed the connection of the peek.")
            replies.feed(received)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


def _row(reply: list[bytes]) -> Row:
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    texts = [fields.get(name) for name in (b"user_id", b"end_reason")]
    user, ended = (None if value is None else value.decode() for value in texts)
    data = {name.decode()[2:]: json.loads(value) for name, value in fields.items() if name.startswith(b"d:")}
    return Row(fields[b"sid"].decode(), user, int(fields[b"rev"]), ended, data)


def _leaves(reply: Any) -> Iterable[object]:
    if isinstance(reply, list):
        for item in reply:
            yield from _leaves(item)
    else:
        yield reply
