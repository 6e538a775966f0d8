"""What a connection makes of a server's bytes, however they are cut, and of a server that says too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.stores._redis_connection import Connection, ConnectionLost


@asynccontextmanager
async def answered(pieces: Sequence[bytes]) -> AsyncIterator[Connection]:
    """A connection whose server answers the first command with ``pieces``."""

    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        try:
            await reader.read()
        except ConnectionError:
            pass
        writer.transport.abort()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connection = Connection(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        try:
            yield connection
        finally:
            connection.terminate()
            await connection.close()
            await served.wait()


def encoded(texts: Sequence[bytes]) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)


@given(
    texts=st.lists(st.binary(max_size=64) | st.integers(3000, 9000).map(bytes), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 60_000), max_size=5),
)
def test_replies_are_the_same_however_they_are_cut(texts: list[bytes], cuts: list[int]) -> None:
    whole = encoded(texts)
    at = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]

    async def replies() -> list[object]:
        async with answered([whole[one:other] for one, other in pairwise(at)]) as connection:
            async with asyncio.timeout(10):
                return await connection.run([("PING",)] * len(texts))

    assert asyncio.run(replies()) == texts


@pytest.mark.parametrize("too_much", [b"+OK\r\n", b"+O", b"$5000\r\n" + bytes(4990)], ids=["a reply", "a part", "long"])
async def test_a_server_that_says_more_than_it_was_asked_is_left(too_much: bytes) -> None:
    """Else the next caller would be given what was said to this one."""
    async with answered([encoded([b"mine"]) + too_much]) as connection:
        with pytest.raises(ConnectionLost, match="more than it was asked"):
            await connection.run([("PING",)])
        assert connection.is_closed()
