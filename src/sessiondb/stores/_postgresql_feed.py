"""What others write, told by PostgreSQL: triggers notify, and a connection of its own listens.

Why a plain question proves that nothing is missing: a transaction that notifies signals those who listen before its
own client is answered, and a server process sends what it was signalled before it is ready for the next query. So
whatever had been answered to its writer when the question was sent comes before the answer. No notification is sent
to ask: each one would wake every listener of every worker, wait for the lock that commits queue up for, and use up a
transaction id.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg

from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.stores._postgresql_errors import state_of, translated
from sessiondb.stores._postgresql_triggers import EVERYTHING, Triggers, channel_of, triggers_sql
from sessiondb.stores._postgresql_url import Settings
from sessiondb.stores.feed import Listener

_GREETING = "hello "
_NOT_ALLOWED = "42501"
_LOCKED = "55P03"

_unwanted: set[asyncio.Future[Any]] = set()

Write = Callable[[], AbstractAsyncContextManager[Any]]


class PostgreSQLFeed:
    """The feed of one table. ``write`` gives a connection on which the store's changes are written."""

    def __init__(self, settings: Settings, write: Write) -> None:
        self._settings = settings
        self._write = write
        self._channel = channel_of(settings.prefix)
        self._triggers = Triggers(settings.prefix)

    def __repr__(self) -> str:
        return f"PostgreSQLFeed({self._settings.feed})"

    async def listen(self, listener: Listener, every: float) -> None:
        """See ``Feed.listen``. The triggers are installed, if they are not there.

        Raises ``ConfigurationError`` where nobody can listen: behind a pooler, or for a user who may make no triggers.
        """
        loop = asyncio.get_running_loop()
        line: _Line | None = None
        try:
            async with self._translating():
                line = _Line(await _connect(self._settings.feed_arguments), listener)
                async with asyncio.timeout(self._settings.connect_timeout):
                    await self._begin(line)
                    stamp = await self._triggers.stamp(line.connection)
                while True:
                    since = loop.time()
                    if await line.ask(self._triggers.stamp, every) != stamp or stamp is None:
                        raise StoreUnavailable(
                            f"The triggers of {self._settings.prefix}sessions at {self._settings.feed} that tell of "
                            "changes were dropped, disabled or made anew. They are installed again."
                        )
                    listener.alive(since)
                    await line.lost_within(every)
        finally:
            if line is not None:
                line.connection.terminate()

    async def _begin(self, line: _Line) -> None:
        """Listen, and see that what the store writes is heard here."""
        connection = line.connection
        if await connection.fetchval("SELECT pg_backend_pid()") != connection.get_server_pid():
            raise ConfigurationError(
                f"There is a pooler before PostgreSQL at {self._settings.feed}, which may lose notifications. Name "
                "the server itself, percent-encoded, in ?feed= of the URL."
            )
        await self._install(connection)
        await connection.add_listener(self._channel, line.notified)
        greeting = f"{_GREETING}{secrets.token_hex(8)}"
        heard = line.expect(greeting)
        async with self._write() as writing:
            await writing.execute("SELECT pg_notify($1, $2)", self._channel, greeting)
        try:
            async with asyncio.timeout(self._settings.connect_timeout / 2):
                await heard
        except TimeoutError:
            raise ConfigurationError(
                f"What is notified on {self._settings.where} is not heard on {self._settings.feed}. ?feed= must name "
                "the same database of the same server; and the server must know LISTEN, as PostgreSQL does."
            ) from None

    async def _install(self, connection: Any) -> None:
        try:
            await self._triggers.install(connection)
        except asyncpg.PostgresError as error:
            if state_of(error) == _NOT_ALLOWED:
                raise ConfigurationError(
                    f"PostgreSQL at {self._settings.feed} does not let this user make the triggers that tell a near "
                    "cache of changes. Have the owner of the tables run this once (it is also what 'sessiondb init "
                    f"--sql' ends with):\n{triggers_sql(self._settings.prefix)}"
                ) from error
            if state_of(error) == _LOCKED:
                raise StoreUnavailable(
                    f"The triggers that tell a near cache of changes wait for a transaction that holds "
                    f"{self._settings.prefix}sessions at {self._settings.feed}. End it (look at pg_stat_activity)."
                ) from error
            raise

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            found = translated(error, self._settings.feed, "not_applied")
            raise found from (error if found is not error else error.__cause__)


async def _connect(arguments: dict[str, Any]) -> Any:
    connecting = asyncio.get_running_loop().create_task(asyncpg.connect(**arguments))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        # asyncpg leaves futures behind that nobody waits for if it is cut off while it connects.
        _unwanted.add(connecting)
        connecting.add_done_callback(_drop)
        raise


def _drop(connecting: asyncio.Future[Any]) -> None:
    _unwanted.discard(connecting)
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().terminate()


class _Line:
    """A connection that listens."""

    def __init__(self, connection: Any, listener: Listener) -> None:
        self.connection = connection
        self._listener = listener
        self._expected: tuple[str, asyncio.Future[None]] | None = None
        self._lost = asyncio.Event()
        connection.add_termination_listener(lambda _: self._lost.set())

    def expect(self, greeting: str) -> asyncio.Future[None]:
        """Done when ``greeting`` is notified."""
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected = (greeting, heard)
        return heard

    def notified(self, connection: object, pid: int, channel: str, payload: str) -> None:
        """What the triggers have notified; anything else, by whomever, is taken for everything."""
        if payload.startswith(_GREETING):
            if self._expected is not None and self._expected[0] == payload and not self._expected[1].done():
                self._expected[1].set_result(None)
        elif payload == EVERYTHING or "-" not in payload:
            self._listener.everything_changed()
        else:
            sids: list[Any] = payload.split(",")
            self._listener.changed(sids)

    async def ask(self, question: Callable[[Any], Any], patience: float) -> Any:
        """The answer. After ``patience`` seconds (or if the caller is cancelled) the connection is dropped."""
        silent = False

        def give_up() -> None:
            nonlocal silent
            silent = True
            self.connection.terminate()

        watch = asyncio.get_running_loop().call_later(patience, give_up)
        try:
            return await question(self.connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if silent:
                raise StoreUnavailable(
                    f"PostgreSQL has not answered who listens to it within {patience:g} s. If it goes on, look at its "
                    "load, and at what is between (a firewall)."
                ) from error
            raise
        finally:
            watch.cancel()

    async def lost_within(self, seconds: float) -> None:
        """Wait so long, or until the connection is lost."""
        try:
            async with asyncio.timeout(seconds):
                await self._lost.wait()
        except TimeoutError:
            pass
