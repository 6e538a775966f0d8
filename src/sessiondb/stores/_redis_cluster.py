"""The nodes of a cluster: each key's commands go to the node that has its slot, and redirections are followed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import hiredis

from sessiondb.stores._pool import Pool
from sessiondb.stores._redis_connection import Access, Command, Connection, ConnectionLost, NotConnected, connect
from sessiondb.stores._redis_nodes import Address, Keyed, Wait, begins, is_moving, run_on, scan
from sessiondb.stores._redis_slots import slot_of

_ATTEMPTS = 6


class Cluster:
    """One pool of connections a node. What one node does not do fails alone; the others' replies stand."""

    is_cluster = True

    def __init__(self, seeds: Sequence[Address], access: Access, size: int) -> None:
        self._known = list(dict.fromkeys(seeds))
        self.access = access
        self._size = size
        self._pools: dict[Address, Pool[Connection]] = {}
        self._slots: list[tuple[int, int, Address]] = []

    async def run(self, commands: Sequence[Keyed], wait: Wait | None = None) -> list[Any]:
        """The replies, in order; those that are errors as exceptions, also ``ConnectionLost`` and ``OSError``."""
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        asked: dict[int, Address] = {}
        for attempt in range(_ATTEMPTS):
            if not self._slots:
                await self._look_at_slots()
            await self._run_once(commands, left, asked, replies, wait)
            moved = [at for at in left if begins(replies[at], "MOVED")]
            asking = [at for at in left if begins(replies[at], "ASK ")]
            later = [at for at in left if is_moving(replies[at])]
            left = sorted(moved + asking + later)
            if not left:
                break
            asked = {at: self._told_to_ask(replies[at], commands[at][0]) for at in asking}
            if moved:
                self._slots = []
            if later:
                await asyncio.sleep(0.02 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        return replies

    async def _run_once(
        self,
        commands: Sequence[Keyed],
        left: Sequence[int],
        asked: dict[int, Address],
        replies: list[Any],
        wait: Wait | None,
    ) -> None:
        by_node: dict[Address, list[int]] = {}
        for at in left:
            address = asked.get(at) or self._node_of(commands[at][0])
            if address is None:
                replies[at] = NotConnected("no node serves a slot")
                replies[at].__cause__ = hiredis.ReplyError("CLUSTERDOWN Hash slot not served")
                self._slots = []
            else:
                by_node.setdefault(address, []).append(at)

        async def one(address: Address, places: list[int]) -> None:
            batch: list[Command] = []
            for at in places:
                batch += [("ASKING",), commands[at][1]] if at in asked else [commands[at][1]]
            try:
                answers = iter(await run_on(self._pool(address), batch, wait))
            except (OSError, ConnectionLost) as error:
                self._slots = []
                for at in places:
                    replies[at] = error
                return
            except BaseException:
                # Given up: perhaps the node stands still, and has a successor.
                self._slots = []
                raise
            for at in places:
                if at in asked:
                    next(answers)
                replies[at] = next(answers)

        if len(by_node) == 1:
            await one(*by_node.popitem())
            return
        # All are awaited, also where we are cancelled: no connection is left in the middle of an answer.
        outcomes = await asyncio.gather(*(one(*node) for node in by_node.items()), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def scan(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """All keys like ``pattern``, in parts; a key may come twice."""
        for address in await self.primaries():
            async for keys in scan(self._pool(address), pattern):
                yield keys

    async def on_each(self, commands: Sequence[Command]) -> dict[str, list[Any]]:
        """The replies of every primary to ``commands`` that are about no key, by ``host:port``."""
        return {
            f"{host}:{port}": await run_on(self._pool((host, port)), commands) for host, port in await self.primaries()
        }

    def drop_idle(self) -> None:
        """Look at the slots again before the next call."""
        self._slots = []

    async def close(self) -> None:
        """Close all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.close()

    async def primaries(self) -> list[Address]:
        """Who takes writes now, as one of the nodes sees it."""
        await self._look_at_slots()
        return list(dict.fromkeys(address for _, _, address in self._slots))

    def _node_of(self, key: bytes) -> Address | None:
        slot = slot_of(key)
        for first, last, address in self._slots:
            if first <= slot <= last:
                return address
        return None

    def _told_to_ask(self, redirection: object, key: bytes) -> Address:
        host, _, port = str(redirection).split()[2].rpartition(":")
        own = self._node_of(key)
        return host or (own[0] if own else ""), int(port)

    def _pool(self, address: Address) -> Pool[Connection]:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(lambda: connect(*address, self.access), size=self._size)
        return pool

    async def _look_at_slots(self) -> None:
        """Ask any node that answers who serves what. Raises ``NotConnected``."""
        error: Exception | None = None
        for address in list(self._known):
            # Whatever becomes of this one, even if it takes all our time: the next call begins with another.
            self._known.append(self._known.pop(self._known.index(address)))
            try:
                async with asyncio.timeout(self.access.timeout):
                    [answer] = await run_on(self._pool(address), [("CLUSTER", "SLOTS")])
            except (OSError, ConnectionLost) as caught:
                error = caught
                continue
            if isinstance(answer, hiredis.ReplyError):
                error = NotConnected(str(answer))
                error.__cause__ = answer
                continue
            self._slots = [(first, last, endpoint(primary, address)) for first, last, primary, *_ in answer]
            serving = dict.fromkeys(found for _, _, found in self._slots)
            self._known = list(dict.fromkeys([*self._known, *serving]))
            for left in self._pools.keys() - serving.keys():
                self._pools[left].drop_idle()
            return
        if isinstance(error, NotConnected):
            raise error
        raise NotConnected("no node answers") from error


def endpoint(node: Sequence[Any], asked: Address) -> Address:
    """Where a node of CLUSTER SLOTS is. Without a host: on that of the one who was asked."""
    host, port = node[0], node[1]
    return (host.decode() if host and host != b"?" else asked[0]), port
