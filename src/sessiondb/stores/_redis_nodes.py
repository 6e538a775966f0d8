"""The servers behind one URL: a single one, the primary that Sentinels name, or the nodes of a cluster.

All take commands with the key that each is about, send what belongs to one server as one burst, and give the replies
in order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import hiredis

from sessiondb.stores._pool import Pool
from sessiondb.stores._redis_connection import Access, Command, Connection, ConnectionLost, connect
from sessiondb.stores._redis_scripts import ALL, Script
from sessiondb.stores._redis_slots import slot_of

Address = tuple[str, int]
Keyed = tuple[bytes, Command]
_REDIRECTS = 5


def call(script: Script, keys: Sequence[bytes], *arguments: bytes | str | int) -> Keyed:
    """A script's call, and the key that says where it runs."""
    return keys[0], ("EVALSHA", script.sha, len(keys), *keys, *arguments)


class SingleServer:
    """One server, found anew for each connection, so that a failover is followed."""

    is_cluster = False

    def __init__(self, find: Callable[[], Awaitable[Address]], access: Access, size: int) -> None:
        self._find = find
        self._access = access
        self._pool: Pool[Connection] = Pool(self._connect, size=size)

    async def _connect(self) -> Connection:
        return await connect(*await self._find(), self._access)

    async def run(self, commands: Sequence[Keyed]) -> list[Any]:
        """The replies, in order; those that are errors as ``hiredis.ReplyError``."""
        return await run_on(self._pool, [command for _, command in commands])

    async def scan(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """All keys like ``pattern``, in parts; a key may come twice."""
        async for keys in _scan(self._pool, pattern):
            yield keys

    def drop_idle(self) -> None:
        """After a failover: the old primary may still answer."""
        self._pool.drop_idle()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()


async def run_on(pool: Pool[Connection], commands: Sequence[Command]) -> list[Any]:
    """Run ``commands`` on one server; scripts that it does not know are loaded, and only those calls sent again."""
    async with pool.connection() as connection:
        replies = await connection.run(commands)
        unknown = [at for at, reply in enumerate(replies) if _begins(reply, "NOSCRIPT")]
        if unknown:
            loads: list[Command] = [("SCRIPT", "LOAD", script.text) for script in ALL.values()]
            again = await connection.run([*loads, *(commands[at] for at in unknown)])
            for at, reply in zip(unknown, again[len(loads) :], strict=True):
                replies[at] = reply
        return replies


async def _scan(pool: Pool[Connection], pattern: bytes) -> AsyncIterator[list[bytes]]:
    cursor: bytes = b"0"
    while True:
        [(cursor, keys)] = await run_on(pool, [("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)])
        if keys:
            yield keys
        if cursor == b"0":
            return


class Cluster:
    """The nodes of a cluster. Keys are sent to the node that has their slot; redirections are followed."""

    is_cluster = True

    def __init__(self, seeds: Sequence[Address], access: Access, size: int) -> None:
        self._seeds = list(seeds)
        self._access = access
        self._size = size
        self._pools: dict[Address, Pool[Connection]] = {}
        self._slots: list[tuple[int, int, Address]] = []

    async def run(self, commands: Sequence[Keyed]) -> list[Any]:
        """The replies, in order; those that are errors as ``hiredis.ReplyError``."""
        if not self._slots:
            await self._look_at_slots()
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        asked: dict[int, Address] = {}
        for attempt in range(_REDIRECTS):
            await self._run_once(commands, left, asked, replies)
            moved = [at for at in left if _begins(replies[at], "MOVED")]
            asking = [at for at in left if _begins(replies[at], "ASK ")]
            later = [at for at in left if _begins(replies[at], "TRYAGAIN")]
            left = sorted(moved + asking + later)
            if not left:
                break
            asked = {at: _address(replies[at]) for at in asking}
            if moved:
                await self._look_at_slots()
            if later:
                await asyncio.sleep(0.02 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        return replies

    async def _run_once(
        self, commands: Sequence[Keyed], left: list[int], asked: dict[int, Address], replies: list[Any]
    ) -> None:
        by_node: dict[Address, list[int]] = {}
        for at in left:
            by_node.setdefault(asked.get(at) or self._node_of(commands[at][0]), []).append(at)

        async def one(address: Address, places: list[int]) -> None:
            batch: list[Command] = []
            for at in places:
                if at in asked:
                    batch.append(("ASKING",))
                batch.append(commands[at][1])
            found = await run_on(self._pool(address), batch)
            answers = iter(found)
            for at in places:
                if at in asked:
                    next(answers)
                replies[at] = next(answers)

        if len(by_node) == 1:
            [(address, places)] = by_node.items()
            try:
                await one(address, places)
            except (OSError, ConnectionLost):
                self._slots = []
                raise
            return
        outcomes = await asyncio.gather(*(one(*node) for node in by_node.items()), return_exceptions=True)
        for places, outcome in zip(by_node.values(), outcomes, strict=True):
            if isinstance(outcome, (OSError, ConnectionLost)):
                # This node's changes fail; what the others have answered stands.
                self._slots = []
                for at in places:
                    replies[at] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome

    async def scan(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """All keys like ``pattern``, in parts; a key may come twice."""
        await self._look_at_slots()
        for address in {address for _, _, address in self._slots}:
            async for keys in _scan(self._pool(address), pattern):
                yield keys

    def drop_idle(self) -> None:
        """Look at the slots again before the next call."""
        self._slots = []

    async def close(self) -> None:
        """Close all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close()

    def _node_of(self, key: bytes) -> Address:
        slot = slot_of(key)
        for first, last, address in self._slots:
            if first <= slot <= last:
                return address
        raise ConnectionLost("the cluster serves no node for a slot: check CLUSTER NODES")

    def _pool(self, address: Address) -> Pool[Connection]:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(lambda: connect(*address, self._access), size=self._size)
        return pool

    async def _look_at_slots(self) -> None:
        """Ask any node that answers who serves what."""
        error: Exception = ConnectionLost("no node of the cluster answers")
        for address in dict.fromkeys([*self._pools, *self._seeds]):
            try:
                [answer] = await run_on(self._pool(address), [("CLUSTER", "SLOTS")])
            except (OSError, ConnectionLost, TimeoutError, hiredis.ReplyError) as caught:
                error = caught
                continue
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            self._slots = [(first, last, (node[0].decode() or address[0], node[1])) for first, last, node, *_ in answer]
            return
        raise error


def sentinel(addresses: Sequence[Address], name: str, access: Access) -> Callable[[], Awaitable[Address]]:
    """Who asks Sentinels for the address of the primary ``name``."""
    own = Access(tls=access.tls, timeout=access.timeout)

    async def find() -> Address:
        error: Exception = ConnectionLost("no Sentinel answers")
        for host, port in addresses:
            try:
                connection = await connect(host, port, own)
            except (OSError, ConnectionLost, TimeoutError) as caught:
                error = caught
                continue
            try:
                [found] = await connection.run([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)])
            except (OSError, ConnectionLost) as caught:
                error = caught
                continue
            finally:
                connection.terminate()
            if isinstance(found, list):
                return found[0].decode(), int(found[1])
            error = ConnectionLost(f"no Sentinel knows a primary named {name!r}")
        raise error

    return find


def _begins(reply: object, word: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(word)


def _address(reply: object) -> Address:
    host, _, port = str(reply).split()[2].rpartition(":")
    return host, int(port)
