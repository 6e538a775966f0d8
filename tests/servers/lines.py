"""The line between this process and a real database: cut, stalled, and mended, as often as a test likes.

The server behind it is shared and never harmed; what a store sees is what it sees of one that has died or stands still.
SQLite has no line: its file is taken away and something else put in its place, or another program holds its lock.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit

from databases import drop, new_prefix, start, url_of, with_option
from provision.valkey import ValkeyCluster, ask

# A replica set names its members, and clients would go to them past the line.
OPTIONS = {"mongodb": ("directConnection=true",)}


class Line(Protocol):
    """``url`` leads through it."""

    url: str

    def listen(self) -> Callable[[], bytes]:
        """From now on, all that goes through; for SQLite: all that is in its files."""
        ...

    def cut(self) -> None:
        """Every connection is lost, and new ones are too."""
        ...

    def stall(self) -> None:
        """Nothing goes through any more; for SQLite: no write."""
        ...

    def stop_writes(self) -> None:
        """From this moment no write succeeds."""
        ...

    def mend(self) -> None:
        """All is well again."""
        ...


class _Side(asyncio.Protocol):
    """One end of a connection through a line."""

    def __init__(self, proxy: Proxy, other: _Side | None = None) -> None:
        self.proxy = proxy
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.proxy.sides.add(self)
        if self.other is None:
            if self.proxy.is_cut:
                self.transport.abort()
                return
            self.proxy.reach(self)
        elif self.proxy.is_cut:
            self.transport.abort()
        else:
            self.transport.writelines(self.early)
            self.early.clear()

    def data_received(self, data: bytes) -> None:
        if self.proxy.heard is not None:
            self.proxy.heard += data
        if self.proxy.stalled is not None:
            self.proxy.stalled.append((self, data))
        elif self.other is not None:
            self.other.send(data)

    def send(self, data: bytes) -> None:
        if self.transport is None:
            self.early.append(data)
        else:
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.proxy.sides.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Proxy:
    """A port of 127.0.0.1, behind which a server is."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._reaching: set[asyncio.Task[object]] = set()
        self.sides: set[_Side] = set()
        self.is_cut = False
        self.stalled: list[tuple[_Side, bytes]] | None = None
        self.heard: bytearray | None = None  # all that goes either way, where somebody listens
        self.port = 0

    def reach(self, client: _Side) -> None:
        server = _Side(self, client)
        client.other = server
        connecting = asyncio.get_running_loop().create_connection(lambda: server, *self._server)
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(connecting)
        self._reaching.add(task)
        task.add_done_callback(self._reaching.discard)

    def cut(self) -> None:
        self.is_cut = True
        for side in list(self.sides):
            if side.transport is not None:
                side.transport.abort()

    def stall(self) -> None:
        self.stalled = []

    def mend(self) -> None:
        self.is_cut = False
        stalled, self.stalled = self.stalled or [], None
        for side, data in stalled:
            side.data_received(data)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        listener = await asyncio.get_running_loop().create_server(lambda: _Side(self), "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            await asyncio.gather(*self._reaching, return_exceptions=True)
            self.cut()
            await asyncio.sleep(0)


class NetworkLine:
    """The lines to all the servers of one database."""

    def __init__(self, url: str, proxies: list[Proxy]) -> None:
        self.url = url
        self._proxies = proxies

    def listen(self) -> Callable[[], bytes]:
        for proxy in self._proxies:
            proxy.heard = bytearray()
        return lambda: b"".join(bytes(proxy.heard or b"") for proxy in self._proxies)

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def stall(self) -> None:
        for proxy in self._proxies:
            proxy.stall()

    def stop_writes(self) -> None:
        self.cut()

    def mend(self) -> None:
        for proxy in self._proxies:
            proxy.mend()


class FileLine:
    """An SQLite file."""

    def __init__(self, folder: Path, patience: float) -> None:
        self._file = folder / "sessions.db"
        self._aside = folder / "aside"
        self._aside.mkdir()
        self._lock: sqlite3.Connection | None = None
        self.url = f"sqlite:///{self._file}?busy_timeout={patience}"

    def listen(self) -> Callable[[], bytes]:
        return lambda: b"".join(file.read_bytes() for file in self._file.parent.glob("sessions.db*"))

    def cut(self) -> None:
        for file in self._file.parent.glob("sessions.db*"):
            file.rename(self._aside / file.name)
        self._file.write_bytes(b"This is a letter to my aunt. " * 1000)

    def stall(self) -> None:
        self._lock = sqlite3.connect(self._file, isolation_level=None)
        self._lock.execute("BEGIN IMMEDIATE")

    def stop_writes(self) -> None:
        self.stall()  # a file that is taken away is noticed with the next look only

    def mend(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if any(self._aside.iterdir()):
            for file in self._file.parent.glob("sessions.db*"):
                file.unlink()
            for file in self._aside.iterdir():
                file.rename(self._file.parent / file.name)


@asynccontextmanager
async def line_to(kind: str, folder: Path, patience: float = 0.2) -> AsyncIterator[Line]:
    """A line to an empty database of that kind. ``patience``: how long SQLite waits for a lock."""
    if kind == "sqlite":
        line = FileLine(folder, patience)
        try:
            yield line
        finally:
            line.mend()
        return
    if kind == "redis_cluster":
        async with _cluster_line() as cluster:
            yield cluster
        return
    prefix, parts = new_prefix(), urlsplit(url_of(kind))
    assert parts.hostname is not None
    assert parts.port is not None
    try:
        async with Proxy(parts.hostname, parts.port).listening() as proxy:
            before, at, _ = parts.netloc.rpartition("@")
            url = parts._replace(netloc=f"{before}{at}127.0.0.1:{proxy.port}").geturl()
            yield NetworkLine(with_option(url, "&".join((f"prefix={prefix}", *OPTIONS.get(kind, ())))), [proxy])
    finally:
        await drop(kind, prefix)


@asynccontextmanager
async def _cluster_line() -> AsyncIterator[NetworkLine]:
    """A cluster of its own, whose nodes name the lines as their addresses: clients are never sent past them."""
    cluster = cast("ValkeyCluster", await asyncio.to_thread(start, "redis_cluster"))
    try:
        nodes = [port for _, port in cluster.nodes]
        async with AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(Proxy("127.0.0.1", port).listening()) for port in nodes]
            for node, proxy in zip(nodes, proxies, strict=True):
                assert ask(node, "CONFIG", "SET", "cluster-announce-port", str(proxy.port)).startswith("+OK")
            async with asyncio.timeout(20):
                # The nodes tell each other in their own time.
                while not all(f":{one.port}\r" in ask(node, "CLUSTER", "SLOTS") for node in nodes for one in proxies):
                    await asyncio.sleep(0.05)
            url = "redis+cluster://" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
            yield NetworkLine(url, proxies)
    finally:
        await asyncio.to_thread(cluster.stop)
