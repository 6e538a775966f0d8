"""A database server that is killed: how often it is still asked, what requests get meanwhile, and that all goes on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import pytest

from databases import NETWORK, Breakable, had, start
from provision.valkey import ValkeyCluster, ask
from sessiondb import CircuitBreaker, SessionDB, StoreUnavailable
from sessiondb.core.token import Sid
from sessiondb.stores._redis_slots import slot_of

REQUESTS = 400
QUICK = CircuitBreaker(failures=3, window=0.2, first_pause=0.05, longest_pause=0.4)


@pytest.fixture(params=NETWORK)
def own(request: pytest.FixtureRequest) -> Iterator[Breakable]:
    """A server that this test may break."""
    server = cast("Breakable", start(request.param))
    yield server
    server.stop()
    gc.collect()  # what a driver has dropped is found here, not by another test


class Ruin:
    """Listens where the server was, and closes every connection at once."""

    def __init__(self) -> None:
        self.visits = 0

    async def close(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.close()


@asynccontextmanager
async def ruin_of(server: Breakable) -> AsyncIterator[Ruin]:
    """Kill the server, and count who comes."""
    port = urlsplit(server.url).port
    server.process.kill()
    ruin = Ruin()
    listener = await asyncio.start_server(ruin.close, "127.0.0.1", port)
    try:
        yield ruin
    finally:
        listener.close()
        await listener.wait_closed()


async def until_it_works(db: SessionDB, sid: str, limit: float = 30.0) -> None:
    async with asyncio.timeout(limit):
        while True:
            try:
                assert await db.get(sid) is not None
                return
            except StoreUnavailable:
                await asyncio.sleep(0.02)


@pytest.mark.security("S5")
async def test_a_dead_server_is_visited_now_and_then_and_not_by_every_request(own: Breakable) -> None:
    async with SessionDB(own.url, breaker=QUICK, sweep_every=None) as db:
        issued = await db.create("ann", {"cart": ["tea"]})
        runtime = db.runtime

        async def request(number: int) -> bool:
            """Whether it was refused without asking."""
            await asyncio.sleep(number * 0.005)
            with pytest.raises(StoreUnavailable) as failed:
                await (db.revoke(issued.session.sid) if number % 2 else db.get(issued.session.sid))
            return failed.value.retry_after is not None

        async with ruin_of(own) as ruin:
            async with asyncio.timeout(30):
                while not (runtime.read_circuit.is_open and runtime.write_circuit.is_open):
                    await asyncio.gather(*(request(number) for number in range(20)))
            ruin.visits = 0
            refused = await asyncio.gather(*(request(number) for number in range(REQUESTS)))
            # What a driver does on its own, such as PyMongo's monitor, is counted too.
            assert sum(refused) > REQUESTS * 0.9
            assert ruin.visits < REQUESTS / 4, ruin.visits
        own.process.start()
        await until_it_works(db, issued.session.sid)
        async with db.session(issued.token) as session:
            assert (session.user_id, session) == ("ann", {"cart": ["tea"]})
            session["cart"].append("milk")
        assert await db.revoke(issued.session.sid)
        assert not runtime.read_circuit.is_open
        assert not runtime.write_circuit.is_open


async def test_a_server_that_stands_still_is_waited_for_by_few(own: Breakable) -> None:
    async with SessionDB(own.url, breaker=QUICK, timeout=0.3, sweep_every=None) as db:
        issued = await db.create("ann")

        async def request(number: int) -> bool:
            """Whether it was refused without waiting."""
            await asyncio.sleep(number * 0.005)
            with pytest.raises(StoreUnavailable) as failed:
                await db.get(issued.session.sid)
            return failed.value.retry_after is not None

        own.process.pause()
        try:
            async with asyncio.timeout(30):
                while not db.runtime.read_circuit.is_open:
                    await asyncio.gather(*(request(number) for number in range(20)))
            assert sum(await asyncio.gather(*(request(number) for number in range(REQUESTS)))) > REQUESTS * 0.9
        finally:
            own.process.resume()
        await until_it_works(db, issued.session.sid)


async def test_readiness_follows_the_server(own: Breakable) -> None:
    async with SessionDB(own.url, breaker=QUICK, sweep_every=None) as db:
        assert (await db.ready()).ok
        async with ruin_of(own):
            async with asyncio.timeout(20):
                while (answer := await db.ready()).ok:
                    await asyncio.sleep(0.05)
            assert answer.why is not None
            assert "127.0.0.1" not in answer.why
            assert str(urlsplit(own.url).port) not in answer.why
        own.process.start()
        async with asyncio.timeout(30):
            while not (await db.ready()).ok:
                await asyncio.sleep(0.05)


async def test_one_dead_node_of_a_cluster_stops_nobody_whose_session_is_on_another() -> None:
    cluster, opened = had(ValkeyCluster), AsyncExitStack()
    try:
        for _, port in cluster.nodes:
            ask(port, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        # Trips at the third failure, and would stay open for the rest of the test.
        impatient = CircuitBreaker(failures=3, window=0.0, first_pause=300, longest_pause=300)
        db = await opened.enter_async_context(SessionDB(cluster.url, breaker=impatient, sweep_every=None))
        issued = [await db.create(None, {"n": number}) for number in range(60)]
        store = db._store

        def is_dead(sid: str) -> bool:
            return 16384 // 3 < slot_of(store.keys.session(Sid(sid))) <= 10923  # type: ignore[attr-defined]

        dead = [one for one in issued if is_dead(one.session.sid)]
        living = [one for one in issued if not is_dead(one.session.sid)]
        assert len(dead) > 5
        assert len(living) > 5
        cluster.nodes[1][0].kill()
        # All at once, so that each batch has sessions of every node; then the dead ones alone, again and again.
        for _ in range(10):
            found = await asyncio.gather(*(db.get(one.session.sid) for one in issued), return_exceptions=True)
            for one, info in zip(issued, found, strict=True):
                if one in living:
                    assert info is not None, one
                    assert not isinstance(info, BaseException), info
                else:
                    assert isinstance(info, StoreUnavailable), info
        for _ in range(10):
            for one in dead[:3]:
                with pytest.raises(StoreUnavailable) as failed:
                    await db.get(one.session.sid)
                assert failed.value.retry_after is None
        for one in living:
            async with db.session(one.token) as session:
                session["after"] = True
        assert db.counters["breaker_opened"] == 0
        assert (await db.ready()).ok
    finally:
        await opened.aclose()
        cluster.stop()
        gc.collect()
