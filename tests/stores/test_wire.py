"""The wire counts what a caller waits for, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from wire import Filter, Meter, everything, wire

Ask = Callable[[bytes], Awaitable[bytes]]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


@asynccontextmanager
async def connections(meter: Meter, count: int, counts: Filter = everything) -> AsyncIterator[list[Ask]]:
    """Some through one wire, to a server that answers every line."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    async with server, wire(server.sockets[0].getsockname()[:2], meter, counts) as port:
        writers: list[asyncio.StreamWriter] = []

        async def connect() -> Ask:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)

            async def ask(text: bytes) -> bytes:
                writer.write(text)
                return b"".join([await reader.readline() for _ in range(text.count(b"\n"))])

            return ask

        yield [await connect() for _ in range(count)]
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_one_after_the_other_are_two() -> None:
    meter = Meter()
    async with connections(meter, 2) as (first, second):
        assert await first(b"a\n") == b"A\n"
        assert await second(b"b\n") == b"B\n"
    assert (meter.flights, meter.bursts) == (2, 2)


@pytest.mark.parametrize("text", [b"a\n", b"a\nb\nc\n" * 1000])
async def test_side_by_side_are_one(text: bytes) -> None:
    meter = Meter()
    async with connections(meter, 3) as asks:
        assert set(await asyncio.gather(*(ask(text) for ask in asks))) == {text.upper()}
    assert (meter.flights, meter.bursts) == (1, 3)


async def test_the_longest_chain_counts() -> None:
    meter = Meter()

    async def thrice(ask: Ask) -> None:
        for _ in range(3):
            await ask(b"a\n")

    async with connections(meter, 2) as (first, second):
        await asyncio.gather(thrice(first), second(b"b\n"))
        assert meter.flights == 3
        meter.reset()
        await first(b"a\n")
    assert (meter.flights, meter.bursts) == (1, 1)


async def test_what_is_no_traffic_is_not_counted() -> None:
    meter = Meter()
    async with connections(meter, 1, lambda data: not data.startswith(b"hello")) as (ask,):
        assert await ask(b"hello\n") == b"HELLO\n"
        assert meter.flights == 0
        await ask(b"a\n")
    assert meter.flights == 1
