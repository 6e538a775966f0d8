"""The server behind one URL: a single one, or the primary that Sentinels name. For clusters see ``_redis_cluster``.

Both take commands with the key that each is about, send what belongs to one server as one burst, and give the replies
in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis

from sessiondb.stores._pool import Pool
from sessiondb.stores._redis_connection import Access, Command, Connection, ConnectionLost, NotConnected, connect
from sessiondb.stores._redis_script import Script
from sessiondb.stores._redis_scripts import ALL

Address = tuple[str, int]
Keyed = tuple[bytes, Command]
_LOADS = 3
_FINE = frozenset({list, bytes, int, type(None)})


class NoPrimary(Exception):
    """No Sentinel says who the primary is."""


class TooFewReplicas(Exception):
    """A command was done, with ``reply``, but fewer replicas than ``wanted`` have it."""

    def __init__(self, reply: Any, had: int, wanted: int) -> None:
        super().__init__(f"{had} of {wanted} replicas")
        self.reply = reply
        self.had = had
        self.wanted = wanted


@dataclass(frozen=True, slots=True)
class Wait:
    """For how many replicas to wait after a burst of commands, and for how long."""

    replicas: int
    milliseconds: int

    @property
    def command(self) -> Command:
        """Counts the replicas that have everything which this connection has been answered."""
        return "WAIT", self.replicas, self.milliseconds

    def judged(self, replies: Sequence[Any], count: Any) -> list[Any]:
        """``replies``, those of commands that were done as ``TooFewReplicas`` where ``count`` is too low."""
        # An error: whoever may not ask has no answer.
        had = count if isinstance(count, int) else 0
        if had >= self.replicas:
            return list(replies)
        return [one if isinstance(one, Exception) else TooFewReplicas(one, had, self.replicas) for one in replies]


def plain(reply: Any) -> Any:
    """``reply``, whoever has confirmed it."""
    return reply.reply if isinstance(reply, TooFewReplicas) else reply


def call(script: Script, keys: Sequence[bytes], *arguments: bytes | str | int) -> Keyed:
    """A script's call, and the key that says where it runs."""
    return keys[0], ("EVALSHA", script.sha, len(keys), *keys, *arguments)


class SingleServer:
    """One server, found anew for each connection, so that a failover is followed."""

    is_cluster = False

    def __init__(self, find: Callable[[], Awaitable[Address]], access: Access, size: int) -> None:
        self._find = find
        self.access = access
        self._pool: Pool[Connection] = Pool(self._connect, size=size)

    async def _connect(self) -> Connection:
        return await connect(*await self._find(), self.access)

    async def run(self, commands: Sequence[Keyed], wait: Wait | None = None) -> list[Any]:
        """The replies, in order; those that are errors as ``hiredis.ReplyError`` or ``TooFewReplicas``."""
        return await run_on(self._pool, [command for _, command in commands], wait)

    async def scan(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """All keys like ``pattern``, in parts; a key may come twice."""
        async for keys in scan(self._pool, pattern):
            yield keys

    async def on_each(self, commands: Sequence[Command]) -> dict[str, list[Any]]:
        """The replies of every server to ``commands`` that are about no key, by address; there is one, without."""
        return {"": await run_on(self._pool, commands)}

    async def primaries(self) -> list[Address]:
        """Who takes writes now."""
        return [await self._find()]

    def drop_idle(self) -> None:
        """After a failover: the old primary may still answer."""
        self._pool.drop_idle()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()


async def run_on(pool: Pool[Connection], commands: Sequence[Command], wait: Wait | None = None) -> list[Any]:
    """Run ``commands`` on one server; scripts that it does not know are loaded, and only those calls sent again.

    They were not run, so nothing is done twice; but they are done after what followed them. So no two commands of one
    burst may depend on their order where the first is a script.
    """
    last: list[Command] = [] if wait is None else [wait.command]
    async with pool.connection() as connection:
        replies = await connection.run([*commands, *last])
        for attempt in range(_LOADS):
            unknown = (
                [at for at, reply in enumerate(replies) if begins(reply, "NOSCRIPT")]
                if may_have_failed(replies)
                else []
            )
            if not unknown:
                break
            # All that it may be asked for; but where somebody makes it forget again and again, what is needed now.
            wanted = ALL if attempt == 0 else {commands[at][1] for at in unknown}
            loads: list[Command] = [("SCRIPT", "LOAD", one.text) for sha, one in ALL.items() if sha in wanted]
            again = await connection.run([*loads, *(commands[at] for at in unknown), *last])
            for at, reply in zip(unknown, again[len(loads) :], strict=False):
                replies[at] = reply
            if wait is not None:
                replies[-1] = again[-1]
    return replies if wait is None else wait.judged(replies[:-1], replies[-1])


async def scan(pool: Pool[Connection], pattern: bytes) -> AsyncIterator[list[bytes]]:
    """All keys like ``pattern`` on one server. Raises ``hiredis.ReplyError`` too."""
    cursor: bytes = b"0"
    while True:
        [reply] = await run_on(pool, [("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)])
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        cursor, keys = reply
        if keys:
            yield keys
        if cursor == b"0":
            return


def sentinel(addresses: Sequence[Address], name: str, access: Access) -> Callable[[], Awaitable[Address]]:
    """Who asks Sentinels, with ``access`` to each, for the address of the primary ``name``."""
    turns = list(addresses)

    async def find() -> Address:
        error: Exception | None = None
        for host, port in list(turns):
            # Whatever becomes of this one, even if it takes all our time: the next call begins with another.
            turns.append(turns.pop(turns.index((host, port))))
            try:
                found = await _ask_sentinel(host, port, name, access)
            except (ConnectionLost, OSError, hiredis.ReplyError) as caught:
                error = caught.__cause__ if isinstance(caught.__cause__, hiredis.ReplyError) else caught
                continue
            if found is not None:
                return found
            error = error or NoPrimary(f"no Sentinel knows a primary named {name!r}; correct the URL")
        raise NotConnected("no primary") from _no_primary(error)

    return find


async def _ask_sentinel(host: str, port: int, name: str, access: Access) -> Address | None:
    connection = await connect(host, port, access)
    try:
        async with asyncio.timeout(access.timeout):
            [found] = await connection.run([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)])
    finally:
        connection.terminate()
    if isinstance(found, hiredis.ReplyError):
        raise found
    return (found[0].decode(), int(found[1])) if found else None


def _no_primary(error: Exception | None) -> Exception:
    text = str(error)
    if isinstance(error, NoPrimary) or "unknown command" in text:
        return error or NoPrimary(text)
    if isinstance(error, hiredis.ReplyError):
        found = NoPrimary(
            f"the Sentinels refuse us ({text.partition(' ')[0]}); give ?sentinel_password= and, for a user, "
            "?sentinel_username="
        )
        found.__cause__ = error
        return found
    return NoPrimary(f"no Sentinel answers ({text}); start them, or correct their hosts and ports in the URL")


def may_have_failed(replies: Sequence[Any]) -> bool:
    """Whether there may be errors among ``replies``. Quick to say no, which is what it mostly says."""
    return not _FINE.issuperset(map(type, replies))


def begins(reply: object, word: str) -> bool:
    """Whether ``reply`` is the error that ``word`` names."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith(word)


def is_moving(reply: object) -> bool:
    """Whether ``reply`` says that some of its keys are on their way to another node; nothing was done."""
    return begins(reply, "TRYAGAIN") or (isinstance(reply, hiredis.ReplyError) and "non local key" in str(reply))
