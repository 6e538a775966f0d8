"""The feed of Redis and Valkey: client-side caching in broadcast mode, on connections of its own.

The server names every key under the prefix of the sessions that was changed, expired or deleted, to whoever has asked
(``CLIENT TRACKING ... BCAST``, RESP3). In a cluster every primary is listened to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import hiredis

from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.core.token import Sid
from sessiondb.stores._redis_cluster import endpoint
from sessiondb.stores._redis_connection import Access, Command, ConnectionLost
from sessiondb.stores._redis_errors import translated, word_of
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_line import Line, connect
from sessiondb.stores._redis_nodes import Address, NoPrimary
from sessiondb.stores.feed import Listener

# What they say who speak no RESP3 or know no tracking, and who forbid it to this user.
_REFUSALS = frozenset({"ERR", "NOPROTO", "NOPERM"})
_TOPOLOGY = (b"cluster_current_epoch:", b"cluster_my_epoch:", b"cluster_size:", b"cluster_slots_assigned:")


class Nodes(Protocol):
    """``SingleServer`` or ``Cluster``."""

    @property
    def is_cluster(self) -> bool: ...
    @property
    def access(self) -> Access: ...
    async def primaries(self) -> list[Address]: ...


class RedisFeed:
    """What others write, as ``Feed``. ``nodes`` gives those of the running loop; ``where`` is for messages."""

    def __init__(self, nodes: Callable[[], Nodes], keys: Keys, where: str) -> None:
        self._nodes = nodes
        self._keys = keys
        self._where = where

    async def listen(self, listener: Listener, every: float) -> None:
        """As ``Feed``."""
        nodes = self._nodes()
        lines: list[Line] = []
        try:
            try:
                async with asyncio.timeout(2 * nodes.access.timeout):
                    for address in await nodes.primaries():
                        # One by one, so that those that are there are closed if the next one is not.
                        lines.append(await connect(address, nodes.access, self._told(listener)))  # noqa: PERF401
                    await self._track(lines)
            except TimeoutError as error:
                raise ConnectionLost("no answer in time") from error
            await self._follow(lines, listener, every, nodes.is_cluster)
        except (OSError, ConnectionLost, hiredis.ReplyError, NoPrimary) as error:
            raise translated(error, self._where, "not_applied") from error
        finally:
            for line in lines:
                line.close()

    def _told(self, listener: Listener) -> Callable[[Any], None]:
        begins = len(self._keys.session(""))

        def told(push: Sequence[Any]) -> None:
            if push[0] != b"invalidate":
                return
            if push[1] is None:
                listener.everything_changed()  # FLUSHALL
            else:
                listener.changed([Sid(key[begins:].decode("ascii", "replace")) for key in push[1]])

        return told

    async def _track(self, lines: Sequence[Line]) -> None:
        prefix = self._keys.session("")
        for reply in await _all(lines, ("HELLO", 3), ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix)):
            if isinstance(reply, hiredis.ReplyError):
                if word_of(reply) in _REFUSALS:
                    raise ConfigurationError(
                        f"Redis at {self._where} does not tell this client what others write ({reply}). It takes Redis "
                        "6.2 or Valkey, no proxy that speaks RESP2 only, and a user who may: ACL SETUSER "
                        "+client|tracking."
                    ) from reply
                raise reply

    async def _follow(self, lines: Sequence[Line], listener: Listener, every: float, is_cluster: bool) -> None:
        """Ask again and again whether all that is behind the lines has been told."""
        loop = asyncio.get_running_loop()
        asked: list[Command] = [("HELLO", 3), ("CLUSTER", "INFO")] if is_cluster else [("HELLO", 3)]
        known: list[Any] = []
        while True:
            since = loop.time()
            try:
                async with asyncio.timeout(every):
                    replies = await _all(lines, *asked)
                    self._check_roles(replies[:: len(asked)])
                    if is_cluster:
                        seen = [_topology(reply) for reply in replies[1::2]]
                        if seen != known:
                            await self._check_primaries(lines)
                            known = seen
                    # What was written before the first question was run may be told after its reply, in the same turn
                    # of the server's loop; but before the reply to a question that was asked after that.
                    self._check(await _all(lines, ("PING",)))
            except TimeoutError as error:
                raise StoreUnavailable(
                    f"Redis at {self._where} has not answered for {every:g} s on the connection that tells of changes."
                ) from error
            listener.alive(since)
            await _pause(lines, since + every - loop.time())

    def _check_roles(self, replies: Sequence[Any]) -> None:
        """A replica tells late of what its primary takes."""
        self._check(replies)
        for hello in replies:
            if hello[b"role"] != b"master":
                raise ConnectionLost(f"its role is {hello[b'role'].decode()} now")

    async def _check_primaries(self, lines: Sequence[Line]) -> None:
        """Every node must see the primaries that are listened to, and no other."""
        listened = {line.address for line in lines}
        for line, slots in zip(lines, await _all(lines, ("CLUSTER", "SLOTS")), strict=True):
            self._check([slots])
            if {endpoint(primary, line.address) for _, _, primary, *_ in slots} != listened:
                raise ConnectionLost("the primaries of the cluster have changed")

    def _check(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise reply


def _topology(info: Any) -> Any:
    """What changes in ``CLUSTER INFO`` when another node may have become a primary."""
    if isinstance(info, hiredis.ReplyError):
        raise info
    return [row for row in info.splitlines() if row.startswith(_TOPOLOGY)]


async def _all(lines: Sequence[Line], *commands: Command) -> list[Any]:
    """The replies of each line to ``commands``, line by line."""
    waiting: list[Awaitable[Any]] = [reply for line in lines for reply in line.ask(commands)]
    return [await reply for reply in waiting]


async def _pause(lines: Sequence[Line], seconds: float) -> None:
    """Raises where a line is lost meanwhile."""
    lost, _ = await asyncio.wait(
        [line.lost for line in lines], timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
    )
    for one in lost:
        raise one.result()
