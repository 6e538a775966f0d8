"""A load generator: keep-alive connections, each of which sends its next request when it has its answer.

It works in callbacks, without a task or a future a request, so that it takes a fraction of what the app takes.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import cast

LONGEST = 10.0


@dataclass(frozen=True)
class Kind:
    """A kind of request, and a part of each right answer."""

    name: str
    method: bytes
    path: bytes
    answer: bytes


READ = Kind("read", b"GET", b"/read", b'"items":3}')
WRITE = Kind("write", b"POST", b"/write", b'{"seen":')
LOGIN = Kind("login", b"POST", b"/login", b'{"ok":true}')
LOGOUT = Kind("logout", b"POST", b"/logout", b'{"ok":true}')
KINDS = {kind.name: kind for kind in (READ, WRITE, LOGIN, LOGOUT)}


@dataclass
class Outcome:
    """What one burst of requests took. Times in seconds; ``own_cpu`` is the generator's, as a share of a core."""

    seconds: float
    requests: int
    own_cpu: float
    latencies: list[float] = field(repr=False)

    def quantile(self, share: float) -> float:
        """The latency that ``share`` of the requests stayed below, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    @classmethod
    def of(cls, parts: Sequence[Outcome]) -> Outcome:
        """Several bursts as one."""
        seconds = sum(part.seconds for part in parts)
        return cls(
            seconds,
            sum(part.requests for part in parts),
            sum(part.own_cpu * part.seconds for part in parts) / seconds,
            [latency for part in parts for latency in part.latencies],
        )


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with one request under way at a time."""

    def __init__(self, kind: Kind, take: Callable[[], int | None], cookies: list[bytes]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self._start = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: benchmark\r\nContent-Length: 0\r\n" % (
            kind.method,
            kind.path,
        )
        self._kind = kind
        self._take = take
        self._cookies = cookies
        self._buffer = b""
        self._index = 0
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods alone

    def send(self) -> None:
        """Send the next request, or end."""
        index = self._take()
        if index is None:
            self._end(None)
            return
        self._index = index
        cookie = self._cookies[index]
        self._sent_at = time.perf_counter()
        assert self._transport is not None
        self._transport.write(
            b"%sCookie: %s\r\n\r\n" % (self._start, cookie) if cookie else b"%s\r\n" % self._start,
        )

    def data_received(self, data: bytes) -> None:
        answer = self._buffer + data if self._buffer else data
        head_end = answer.find(b"\r\n\r\n") + 4
        if head_end < 4:
            self._buffer = answer
            return
        at = answer.find(b"content-length: ", 0, head_end)
        if at < 0 or len(answer) < head_end + int(answer[at + 16 : answer.find(b"\r\n", at)]):
            self._buffer = answer
            return
        self.latencies.append(time.perf_counter() - self._sent_at)
        self._buffer = b""
        if not answer.startswith(b"HTTP/1.1 200") or self._kind.answer not in answer[head_end:]:
            self._end(RuntimeError(f"{self._kind.path.decode()} answered {answer[:400]!r}"))
            return
        at = answer.find(b"et-cookie: ", 0, head_end)
        if at >= 0:
            self._cookies[self._index] = answer[at + 11 : answer.find(b";", at)]
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self._end(error or ConnectionError("the server closed the connection"))

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
        if self._transport is not None:
            self._transport.close()


async def run(
    port: int, kind: Kind, cookies: list[bytes], requests: int, connections: int, longest: float = LONGEST
) -> Outcome:
    """Up to ``requests`` requests over ``connections`` connections; after ``longest`` seconds, no more are sent.

    ``cookies`` is kept up to date in place. Reads and writes take them in turn, each connection its own, so that no
    session has two requests at once. Logins need an empty cookie each, and logouts end each session once, so there are
    no more of these than cookies. Raises ``RuntimeError`` for an answer that is not right.
    """
    loop = asyncio.get_running_loop()
    once = kind in (LOGIN, LOGOUT)
    left = iter(range(min(requests, len(cookies)) if once else requests))
    end = time.perf_counter() + longest

    def shares(number: int) -> Callable[[], int | None]:
        mine: Iterator[int] = left if once else cycle(range(number % len(cookies), len(cookies), connections))

        first = True

        def take() -> int | None:
            nonlocal first
            is_late = time.perf_counter() > end and not first
            first = False
            if is_late or (not once and next(left, None) is None):
                return None
            return next(mine, None)

        return take

    opened = []
    for number in range(connections):
        connection = Connection(kind, shares(number), cookies)
        await loop.create_connection(lambda made=connection: made, "127.0.0.1", port)  # type: ignore[misc]
        opened.append(connection)
    # A pause of this process's garbage collector would be seen as the server's.
    gc.collect()
    gc.disable()
    try:
        cpu, started = time.process_time(), time.perf_counter()
        for connection in opened:
            connection.send()
        await asyncio.gather(*(connection.ended for connection in opened))
        seconds, own = time.perf_counter() - started, time.process_time() - cpu
    finally:
        gc.enable()
    latencies = [latency for connection in opened for latency in connection.latencies]
    return Outcome(seconds, len(latencies), own / seconds, latencies)


async def one(port: int, kind: Kind, cookie: bytes) -> bytes:
    """Send one request; the cookie to send next. Raises ``RuntimeError`` for an answer that is not right."""
    cookies = [cookie]
    await run(port, kind, cookies, 1, 1)
    return cookies[0]
