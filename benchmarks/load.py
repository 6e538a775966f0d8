"""A load generator: keep-alive connections, each with its own share of the sessions."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What one burst of requests took. Times in seconds."""

    seconds: float
    requests: int
    latencies: list[float] = field(repr=False)

    def quantile(self, share: float) -> float:
        """The latency that ``share`` of the requests stayed below, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that has one request under way at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiter: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[: head_end + 2]
        at = head.lower().find(b"content-length: ")
        length = int(head[at + 16 : head.find(b"\r\n", at)])
        if len(self._buffer) >= head_end + 4 + length and self._waiter is not None:
            self._buffer = self._buffer[head_end + 4 + length :]
            waiter, self._waiter = self._waiter, None
            waiter.set_result(head)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error or ConnectionError("the server closed the connection"))

    async def request(self, method: bytes, path: bytes, cookie: bytes) -> bytes:
        """The head of the response."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(
            method
            + b" "
            + path
            + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark\r\nContent-Length: 0\r\n"
            + (b"Cookie: " + cookie + b"\r\n" if cookie else b"")
            + b"\r\n"
        )
        return await self._waiter

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def new_cookie(head: bytes, cookie: bytes) -> bytes:
    """The cookie to send next: as the response sets it, or as before."""
    at = head.find(b"set-cookie: ")
    return cookie if at < 0 else head[at + 12 : head.find(b";", at)]


async def run(port: int, path: str, cookies: list[bytes], requests: int, connections: int) -> Outcome:
    """``requests`` requests over ``connections`` connections; ``cookies`` is kept up to date in place."""
    loop = asyncio.get_running_loop()
    target = path.encode()
    method = b"POST" if path == "/write" else b"GET"
    latencies: list[float] = []

    async def client(number: int) -> None:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        mine = range(number, len(cookies), connections)
        for turn in range(requests // connections):
            index = mine[turn % len(mine)]
            before = time.perf_counter()
            head = await connection.request(method, target, cookies[index])
            latencies.append(time.perf_counter() - before)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{path} answered {head[:200]!r}")
            cookies[index] = new_cookie(head, cookies[index])
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(connections)))
    return Outcome(time.perf_counter() - started, len(latencies), latencies)
