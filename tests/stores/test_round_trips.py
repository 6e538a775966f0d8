"""The round-trip budget: what a request waits for on the wire between this process and the database.

A whole request through app, middleware, ``SessionDB`` and store, against the real server behind a wire that counts
flights (``wire.py`` says what that is). Connections are warm: their set-up and their prepared statements are not
counted. The table stands at the end of the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast
from unittest import mock
from urllib.parse import urlsplit

import pytest
from wire import Meter, everything, wire, wires

from databases import drop, new_prefix, start, url_of, with_option
from harness import MINUTE, Shop, put
from provision.valkey import ValkeyCluster, ask
from sessiondb import Policy, Session, open_store
from sessiondb.core import token
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock
from summary import note

TABLE = "Sequential round trips on the wire: counted/allowed"
PER_USER = 3


class Bench:
    """A shop on one store, and the meter on its wire."""

    def __init__(self, shop: Shop, meter: Meter) -> None:
        self.shop = shop
        self.meter = meter
        self._users = 0

    def new_user(self) -> str:
        self._users += 1
        return f"user{self._users}"

    async def user_with_sessions(self, count: int) -> str:
        user = self.new_user()
        for _ in range(count):
            await self.shop.db.create(user)
        return user

    async def count(self, work: Callable[[], Awaitable[object]]) -> int:
        """The flights of ``work``, with nothing left over from before."""
        await self.shop.flush()
        self.meter.reset()
        await work()
        return self.meter.flights

    def once_loaded(self, action: Callable[[Session], object]) -> Callable[[Session], object]:
        """``action``, counted from where the app is called: the session has been loaded by then."""

        def run(session: Session) -> object:
            self.meter.reset()
            return action(session)

        return run


async def nobody(bench: Bench) -> int:
    return await bench.count(lambda: bench.shop.browser().do(dict))


async def malformed(bench: Bench) -> int:
    return await bench.count(lambda: bench.shop.browser("not.a.token").do(dict))


async def unknown(bench: Bench) -> int:
    stranger = bench.shop.browser(token.mint(bench.shop.clock()).encode())
    return await bench.count(lambda: stranger.do(dict))


async def read(bench: Bench) -> int:
    browser = await bench.shop.with_cart()
    return await bench.count(browser.read)


async def read_with_touch(bench: Bench) -> int:
    browser = await bench.shop.with_cart()
    background = bench.shop.db.runtime.background
    bench.shop.clock.advance(2 * MINUTE)
    flights = await bench.count(browser.read)
    bench.shop.clock.advance(-2 * MINUTE)
    assert background.waiting.touches
    await bench.shop.flush()
    assert not background.waiting.touches
    assert bench.meter.flights > flights, "the touch has not been written"
    return flights


async def write(bench: Bench) -> int:
    browser = await bench.shop.with_cart()
    return await bench.count(lambda: browser.do(put(cart=["tea", "jug"])))


async def modify(bench: Bench) -> int:
    browser = await bench.shop.with_cart(visits=1)

    def one_more(data: dict[str, int]) -> None:
        data["visits"] += 1

    flights = await bench.count(lambda: browser.do(lambda session: session.modify(one_more)))
    assert (await browser.read())["visits"] == 2
    return flights


async def login(bench: Bench) -> int:
    user, browser = bench.new_user(), bench.shop.browser()
    return await bench.count(lambda: browser.do(lambda session: session.login(user)))


async def login_with_cart(bench: Bench) -> int:
    user, browser = bench.new_user(), await bench.shop.with_cart()
    flights = await bench.count(lambda: browser.do(bench.once_loaded(lambda session: session.login(user))))
    assert await browser.read() == {"cart": ["tea"]}
    return flights


async def login_at_the_limit(bench: Bench) -> int:
    user, browser = await bench.user_with_sessions(PER_USER), await bench.shop.with_cart()
    flights = await bench.count(lambda: browser.do(bench.once_loaded(lambda session: session.login(user))))
    assert len(await bench.shop.db.sessions_of(user)) == PER_USER
    return flights


async def logout(bench: Bench) -> int:
    browser = await bench.shop.logged_in(bench.new_user())
    return await bench.count(lambda: browser.do(bench.once_loaded(Session.logout)))


async def list_sessions(bench: Bench) -> int:
    user = await bench.user_with_sessions(PER_USER)
    return await bench.count(lambda: bench.shop.db.sessions_of(user))


async def revoke_all(bench: Bench) -> int:
    user = await bench.user_with_sessions(PER_USER)
    flights = await bench.count(lambda: bench.shop.db.revoke_all(user))
    assert await bench.shop.db.sessions_of(user) == []
    return flights


@dataclass(frozen=True)
class Scenario:
    """``budget``: the flights that it may take; ``others``: on which stores it is another."""

    name: str
    run: Callable[[Bench], Awaitable[int]]
    budget: int
    others: Mapping[str, int] = field(default_factory=dict)

    def allowed(self, kind: str) -> int:
        # A statement that is not prepared is described in one flight, and run in the next.
        return self.others.get(kind, self.budget * 2 if kind == "pgbouncer" else self.budget)


SCENARIOS = [
    Scenario("no cookie", nobody, 0),
    Scenario("malformed cookie", malformed, 0),
    Scenario("unknown cookie", unknown, 1),
    Scenario("read", read, 1),
    Scenario("read with a touch due", read_with_touch, 1),
    Scenario("write", write, 2),
    Scenario("modify", modify, 2),
    Scenario("login", login, 3),
    Scenario("login with a cart (after load)", login_with_cart, 3),
    Scenario("login at the limit (after load)", login_at_the_limit, 5),
    Scenario("logout (after load)", logout, 1),
    Scenario("list a user's sessions", list_sessions, 1, {"redis": 2, "redis_cluster": 2}),
    Scenario("revoke all", revoke_all, 2),
]

STORES = ("postgresql", "pgbouncer", "mysql", "redis", "redis_cluster", "mongodb")
# A replica set names its members, and clients would go to them past the wire.
OPTIONS = {"pgbouncer": ("pooler=transaction",), "mongodb": ("directConnection=true",)}


def is_no_greeting(data: bytes) -> bool:
    """MongoDB's driver greets on each new connection, and now and then on one of its own."""
    return not any(word in data[:64].lower() for word in (b"hello", b"ismaster"))


@asynccontextmanager
async def behind_wire(kind: str, meter: Meter) -> AsyncIterator[str]:
    """The URL of the shared server of that kind behind a wire, with an empty database."""
    prefix, parts = new_prefix(), urlsplit(url_of(kind))
    assert parts.hostname is not None
    assert parts.port is not None
    counts = is_no_greeting if kind == "mongodb" else everything
    async with wire((parts.hostname, parts.port), meter, counts) as port:
        before, at, _ = parts.netloc.rpartition("@")
        url = parts._replace(netloc=f"{before}{at}127.0.0.1:{port}").geturl()
        try:
            yield with_option(url, "&".join((f"prefix={prefix}", *OPTIONS.get(kind, ()))))
        finally:
            await drop(kind, prefix)


@asynccontextmanager
async def cluster_behind_wires(meter: Meter) -> AsyncIterator[str]:
    """A cluster of its own, whose nodes name the wires as their addresses: clients are never sent past them."""
    cluster = cast("ValkeyCluster", await asyncio.to_thread(start, "redis_cluster"))
    try:
        nodes = [port for _, port in cluster.nodes]
        async with wires([("127.0.0.1", port) for port in nodes], meter) as ports:
            for node, port in zip(nodes, ports, strict=True):
                assert ask(node, "CONFIG", "SET", "cluster-announce-port", str(port)).startswith("+OK")
            async with asyncio.timeout(20):
                # The nodes tell each other in their own time.
                while not all(f":{port}\r" in ask(node, "CLUSTER", "SLOTS") for node in nodes for port in ports):
                    await asyncio.sleep(0.05)
            yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    finally:
        await asyncio.to_thread(cluster.stop)


@asynccontextmanager
async def open_bench(kind: str) -> AsyncIterator[Bench]:
    meter = Meter()
    behind = cluster_behind_wires(meter) if kind == "redis_cluster" else behind_wire(kind, meter)
    async with behind as url:
        store = cast("MemoryStore", open_store(url))  # what the shop needs of it, every store has
        shop = Shop(ManualClock(), store, policy=Policy(per_user=PER_USER))
        # The background is written when a scenario says so.
        with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
            async with shop.http:
                await shop.db.open()
                try:
                    yield Bench(shop, meter)
                finally:
                    await shop.db.close()


@pytest.mark.parametrize("kind", STORES)
async def test_every_scenario_keeps_its_budget(kind: str) -> None:
    over: list[str] = []
    async with open_bench(kind) as bench:
        # So many sids that every node of a cluster is connected and knows the scripts.
        await asyncio.gather(*(bench.user_with_sessions(1) for _ in range(64)))
        for scenario in SCENARIOS:
            allowed = scenario.allowed(kind)
            for _ in range(2):
                await scenario.run(bench)  # prepares statements
            flights = max([await scenario.run(bench) for _ in range(3)])
            note(TABLE, scenario.name, kind, f"{flights}/{allowed}")
            if not min(allowed, 1) <= flights <= allowed:
                over.append(f"{scenario.name}: {flights} flights, allowed are {allowed}")
    assert over == []
