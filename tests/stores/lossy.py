"""MongoDB, whose answers are lost on their way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from databases import new_prefix, url_of
from sessiondb import open_store
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit


class LosesAnswers:
    """Before the server: passes on all that is asked, and hangs up instead of answering ``command``, so many times."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[object]] = set()
        self.command = b""
        self.times = 1000
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        from_server, to_server = await asyncio.open_connection(*self._server)
        loses = False

        async def back() -> None:
            while data := await from_server.read(1 << 20):
                if loses:
                    break  # what was asked has been done
                writer.write(data)
            writer.close()

        answering = asyncio.create_task(back())
        try:
            while data := await reader.read(1 << 20):
                if self.command and self.command in data and self.lost < self.times:
                    loses = True
                    self.lost += 1
                to_server.write(data)
        finally:
            answering.cancel()
            for end in (to_server, writer):
                end.close()
            self._tasks.discard(task)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def lossy() -> AsyncIterator[tuple[LosesAnswers, Kit]]:
    parts = urlsplit(url_of("mongodb"))
    proxy = LosesAnswers((parts.hostname or "", parts.port or 27017))
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    # Without the driver's own repeating, which would mend what is to be seen.
    options = f"directConnection=true&retryWrites=false&retryReads=false&prefix={new_prefix()}"
    own = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}", query=options).geturl()
    kit = Kit(lambda: open_store(own), ManualClock())
    try:
        yield proxy, kit
    finally:
        await kit.close_all()
        listener.close()
        await proxy.close()
