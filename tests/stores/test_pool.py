"""The pool of connections that the stores have of their own, on real connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from databases import url_of
from sessiondb.stores._pool import Loan, Pool
from sessiondb.stores._redis_connection import Connection
from sessiondb.stores._redis_nodes import SingleServer
from sessiondb.stores._redis_url import parse


def make_pool(size: int = 4) -> tuple[Pool[Connection], list[Connection]]:
    made: list[Connection] = []
    server = parse(url_of("redis")).make()
    assert isinstance(server, SingleServer)
    connect = server._connect

    async def new() -> Connection:
        made.append(await connect())
        return made[-1]

    return Pool(new, size=size), made


async def lend(pool: Pool[Connection], count: int) -> None:
    """``count`` connections at once, so that as many are idle afterwards."""
    all_there = asyncio.Barrier(count)

    async def use() -> None:
        async with pool.connection() as connection:
            await all_there.wait()
            assert await connection.run([("PING",)]) == [b"PONG"]

    await asyncio.gather(*(use() for _ in range(count)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, TimeoutError, GeneratorExit, OSError])
async def test_who_was_interrupted_leaves_no_answer_to_the_next(error: type[BaseException]) -> None:
    pool, made = make_pool()
    await lend(pool, 2)
    with pytest.raises(error):
        async with pool.connection() as connection:
            connection._writer.write(b"*2\r\n$4\r\nECHO\r\n$5\r\nalice\r\n")
            raise error
    assert all(one.is_closed() for one in made)
    async with pool.connection() as connection:
        assert await connection.run([("ECHO", "bob")]) == [b"bob"]
    await pool.close()


async def test_an_error_of_its_own_costs_no_connection() -> None:
    pool, made = make_pool()
    with pytest.raises(ValueError, match="mine"):
        async with pool.connection():
            raise ValueError("mine")
    await lend(pool, 1)
    assert len(made) == 1
    await pool.close()
    assert made[0].is_closed()


async def test_an_interrupted_answer_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever interrupts it: memory, a bug, the keyboard."""
    pool, made = make_pool()
    await lend(pool, 1)
    [connection] = made

    async def interrupted(_: int) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(connection._stream, "read", interrupted)
        with pytest.raises(MemoryError):
            async with pool.connection() as same:
                assert same is connection
                await same.run([("ECHO", "alice")])
    async with pool.connection() as other:
        assert await other.run([("ECHO", "bob")]) == [b"bob"]
    await pool.close()


async def test_closing_that_is_given_up_leaves_no_connection_open() -> None:
    pool, made = make_pool()
    await lend(pool, 3)
    never = asyncio.Event()

    async def silent(*_: Any) -> None:
        await never.wait()

    for one in made:
        one._writer.wait_closed = silent  # type: ignore[method-assign]
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert all(one.is_closed() for one in made)


async def test_no_failure_takes_a_slot_along() -> None:
    pool, made = make_pool(size=1)
    right, pool._connect = pool._connect, refused
    with pytest.raises(ConnectionRefusedError):
        async with pool.connection():
            pass
    pool._connect = right
    for error in (ValueError, OSError, asyncio.CancelledError):
        with pytest.raises(error):
            async with pool.connection():
                raise error
    await asyncio.wait_for(lend(pool, 1), 5)
    assert len(made) == 3  # one for the first two, and one after each that was interrupted
    await pool.close()


async def refused() -> Connection:
    raise ConnectionRefusedError


@pytest.mark.parametrize("worse", [OSError, asyncio.CancelledError, RuntimeError])
async def test_what_fails_while_a_connection_is_mended_takes_the_place_of_the_error(
    worse: type[BaseException],
) -> None:
    failures: list[Exception] = []

    class Mended(Loan[Connection]):
        async def mend(self, error: Exception) -> None:
            assert isinstance(error, ValueError)
            raise worse

        def instead_of(self, error: Exception, *, connected: bool) -> Exception:
            assert connected
            failures.append(error)
            return error

    pool, made = make_pool(size=1)
    with pytest.raises(worse) as raised:
        async with Mended(pool):
            raise ValueError("mine")
    assert isinstance(raised.value.__context__, ValueError)
    assert failures == ([raised.value] if isinstance(raised.value, Exception) else [])
    assert made[0].is_closed() is (worse is not RuntimeError)
    await asyncio.wait_for(lend(pool, 1), 5)
    await pool.close()
