"""MongoDB: what is said of each change when an answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from databases import new_prefix, url_of
from sessiondb import StoreUnavailable, open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit

BEYOND_BSON = 2**70


class LosesAnswers:
    """Before the server: passes on what the client asks, and hangs up instead of answering ``command``."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[object]] = set()
        self.command = b""
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
                if self.command and self.command in data:
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


async def test_a_change_that_may_have_landed_is_not_undone_by_events_that_cannot() -> None:
    """The events say for certain that they were not written; the change beside them has landed."""
    async with lossy() as (proxy, kit):
        store = await kit.store()
        record = kit.record("ann")
        await kit.put_in(store, record)
        proxy.command = b"findAndModify"
        event = kit.event(details={"n": BEYOND_BSON})
        with pytest.raises(StoreUnavailable) as caught:
            await store.apply([kit.update(record, {"n": 1})], [event])
        assert proxy.lost == 1
        assert caught.value.outcome == "unknown"
        proxy.command = b""
        assert await kit.data_of(store, record.sid) == {"n": 1}


async def test_events_that_cannot_be_written_beside_nothing_are_told() -> None:
    """Nothing has landed, so the caller may repeat it all."""
    async with lossy() as (_, kit):
        store = await kit.store()
        event = kit.event(details={"n": BEYOND_BSON})
        with pytest.raises(StoreError) as caught:
            await store.apply([kit.update(kit.record("ann"), {"n": 1})], [event])
        assert caught.value.outcome == "not_applied"


async def test_what_has_landed_is_said_though_nobody_can_look_after_the_rest() -> None:
    """One change is confirmed; another matched nothing, and the look that would tell why is lost."""
    async with lossy() as (proxy, kit):
        store = await kit.store()
        record = kit.record("ann")
        await kit.put_in(store, record)
        proxy.command = b"\x02find\x00"
        landed, unclear = await store.apply([kit.update(record, {"n": 1}), kit.update(kit.record("ann"), {"n": 1})])
        assert proxy.lost == 1
        assert landed == Applied(2)
        assert isinstance(unclear, StoreUnavailable)
        assert unclear.outcome == "unknown"
