"""The wire between a store and its server, as a proxy that counts flights.

A *burst* is what a client sends on one connection until it is answered. *Flights* are the longest chain of bursts of
which each was sent after the one before had been answered: on a network whose latency is all that counts, what a
caller waits for. Bursts under way at once, on one connection or on several, are therefore one flight.

An answer travels for ``LATENCY``, so whatever the client sends without waiting is on its way before any answer is
back, however fast the server is. Client, proxy and clock share one event loop: no thread can change the order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

LATENCY = 0.005  # seconds

Address = tuple[str, int]
Filter = Callable[[bytes], bool]


def everything(data: bytes) -> bool:
    return True


class Meter:
    """Counts for all the connections of a client, to however many servers."""

    def __init__(self) -> None:
        self.flights = 0
        self.bursts = 0
        self._answered = 0

    def reset(self) -> None:
        """Count from nothing again. What is under way is still counted when it is answered."""
        self.flights = self.bursts = self._answered = 0

    def sent(self) -> int:
        """A burst leaves. Returns its place in the chain."""
        place = self._answered + 1
        self.bursts += 1
        self.flights = max(self.flights, place)
        return place

    def answered(self, place: int) -> None:
        """The burst of that place is answered."""
        self._answered = max(self._answered, min(place, self.flights))


class _Link:
    """One connection of the client, and the one to the server behind it."""

    def __init__(self, meter: Meter, counts: Filter) -> None:
        self.client: asyncio.Transport | None = None
        self.server: asyncio.Transport | None = None
        self._meter = meter
        self._counts = counts
        self._early: list[bytes] = []
        self._coming: deque[bytes] = deque()
        self._place = 0

    def from_client(self, data: bytes) -> None:
        if not self._place and self._counts(data):
            self._place = self._meter.sent()
        if self.server is None:
            self._early.append(data)
        else:
            self.server.write(data)

    def reached(self, server: asyncio.Transport) -> None:
        self.server = server
        server.writelines(self._early)
        self._early.clear()

    def from_server(self, data: bytes) -> None:
        self._coming.append(data)
        asyncio.get_running_loop().call_later(LATENCY, self._deliver)

    def _deliver(self) -> None:
        data = self._coming.popleft()
        if self._place:
            self._meter.answered(self._place)
            self._place = 0
        if self.client is not None:
            self.client.write(data)

    def close(self) -> None:
        for transport in (self.client, self.server):
            if transport is not None:
                transport.close()


class _Side(asyncio.Protocol):
    def __init__(
        self, link: _Link, made: Callable[[asyncio.Transport], None], received: Callable[[bytes], None]
    ) -> None:
        self._link = link
        self._made = made
        self.data_received = received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made(cast("asyncio.Transport", transport))

    def connection_lost(self, error: Exception | None) -> None:
        self._link.close()


@asynccontextmanager
async def wire(server: Address, meter: Meter, counts: Filter = everything) -> AsyncIterator[int]:
    """A port of 127.0.0.1 behind which ``server`` is. ``counts`` says which bursts are traffic of the client."""
    loop = asyncio.get_running_loop()
    links: list[_Link] = []
    reaching: set[asyncio.Task[object]] = set()

    def accept() -> asyncio.Protocol:
        link = _Link(meter, counts)
        links.append(link)

        def made(client: asyncio.Transport) -> None:
            link.client = client
            reach = loop.create_connection(lambda: _Side(link, link.reached, link.from_server), *server)
            task = loop.create_task(reach)
            reaching.add(task)
            task.add_done_callback(reaching.discard)

        return _Side(link, made, link.from_client)

    listener = await loop.create_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await asyncio.gather(*reaching, return_exceptions=True)
        for link in links:
            link.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def wires(servers: Sequence[Address], meter: Meter) -> AsyncIterator[list[int]]:
    """A port for each of several servers, counted together."""
    if not servers:
        yield []
        return
    async with wire(servers[0], meter) as port, wires(servers[1:], meter) as ports:
        yield [port, *ports]
