"""Sessions in PostgreSQL 13 to 18: one row a session, one statement a batch, asyncpg on connections of our own.

What was answered is as durable as the server's ``synchronous_commit`` says. Updates lock rows in the order of their
sids, so batches of several workers wait for each other and never deadlock.

What is in sessions can be asked in SQL. With an index on it, which costs every write of data but no touch::

    CREATE INDEX sessiondb_sessions_data ON sessiondb_sessions USING gin (data jsonb_path_ops)
    SELECT user_id FROM sessiondb_sessions WHERE data @> '{"cart": [{"id": 7}]}' AND ended_at IS NULL
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg

from sessiondb.core.change import Change
from sessiondb.core.errors import WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.core.usage import DAYS, HOURS
from sessiondb.stores import _postgresql_sets as sets
from sessiondb.stores import _postgresql_sweeping as sweeping
from sessiondb.stores import _postgresql_trail as trail
from sessiondb.stores import _postgresql_watching as watching
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._pool import Loan, Pool
from sessiondb.stores._postgresql_applying import Applying
from sessiondb.stores._postgresql_errors import lost_tables, not_copied, translated
from sessiondb.stores._postgresql_feed import PostgreSQLFeed
from sessiondb.stores._postgresql_partitions import keep_partitions, month_of
from sessiondb.stores._postgresql_schema import LOCK, prepare
from sessiondb.stores._postgresql_statements import NOW, Statements
from sessiondb.stores._postgresql_url import parse
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Counter,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Position,
    Profile,
    Query,
    Sheet,
    Stats,
    Stream,
    Swept,
)

log = logging.getLogger("sessiondb")

LARGE_PAGE = 100  # whoever verifies the trail asks for more, and requests for less


class _Pools:
    """The connections of one event loop; those to the replica are the primary's, if there is none."""

    def __init__(self, primary: Pool[Any], replica: Pool[Any] | None) -> None:
        self.primary = primary
        self.replica = replica or primary

    async def close(self) -> None:
        """Close all."""
        await self.primary.close()
        await self.replica.close()


class _Loan(Loan[Any]):
    """A connection for one use, whose errors come out as ours; a lost connection with ``outcome``."""

    __slots__ = ("_on_replica", "_outcome", "_store")

    def __init__(self, store: PostgreSQLStore, outcome: WriteOutcome, reading: bool) -> None:
        pools = store._pools.current()
        super().__init__(pools.replica if reading else pools.primary)
        self._on_replica = self.pool is not pools.primary
        self._outcome = outcome
        self._store = store

    async def mend(self, error: Exception) -> None:
        if isinstance(error, asyncpg.InternalClientError):
            self.connection.terminate()  # it is dying, and does not know yet that it is closed

    def instead_of(self, error: Exception, *, connected: bool) -> Exception:
        settings = self._store._settings
        if lost_tables(error):
            self.pool.drop_idle()
            if self._on_replica:
                return not_copied(str(settings.replica))
            # Made anew, by the next connection.
            self._store._prepared = False
        where = str(settings.replica) if self._on_replica else settings.where
        # What fails before there is a connection has written nothing.
        return translated(error, where, self._outcome if connected else "not_applied")


class PostgreSQLStore:
    """The store for one database; see ``postgresql_from_url`` for the URL and its options.

    Usable from several event loops, each with connections of its own. Raises ``ConfigurationError``.
    """

    name = "postgresql"
    batching = Batching(loads=128, changes=32, in_flight=4, touches=128)

    def __init__(self, url: str) -> None:
        self._settings = parse(url)
        self._sql = Statements(self._settings.prefix)
        self._pools = PerLoop("PostgreSQL", self._make_pools)
        self._applying = Applying(self._sql, self._settings.where, self._connection, self._load)
        self._prepared = False
        self._partitioned = 0  # the month whose partitions, and the next ones, are known to be there
        self._said_why = False

    def __repr__(self) -> str:
        return f"PostgreSQLStore({self._settings.where})"

    # -- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``Store.open``. Raises ``ConfigurationError`` for a wrong password, database or schema version."""
        self._pools.open()
        try:
            async with self._connection() as connection:
                self._prepared = False
                await self._prepare(connection)
                if self._settings.partitions:
                    await self._keep_partitions(connection, await connection.fetchval(f"SELECT {NOW}"))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Store.close``."""
        pools = self._pools.close()
        if pools is not None:
            await pools.close()

    def _make_pools(self) -> _Pools:
        size = self._settings.pool_size
        replica = None if self._settings.replica is None else Pool(self._connect_to_replica, size=size)
        return _Pools(Pool(self._connect, size=size), replica)

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(**self._settings.arguments)
        try:
            if not self._prepared:
                await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _connect_to_replica(self) -> Any:
        return await asyncpg.connect(**self._settings.replica_arguments)

    async def _prepare(self, connection: Any) -> None:
        await prepare(connection, self._settings.prefix, partitions=self._settings.partitions)
        self._prepared = True

    async def _keep_partitions(self, connection: Any, now: int) -> None:
        if self._partitioned != month_of(now) and await keep_partitions(connection, self._sql.sessions, now, LOCK):
            self._partitioned = month_of(now)

    def _connection(self, outcome: WriteOutcome = "not_applied", *, reading: bool = False) -> _Loan:
        """A connection; errors come out as ours, a lost connection with ``outcome``."""
        return _Loan(self, outcome, reading)

    def feed(self) -> PostgreSQLFeed | None:
        """See ``HasFeed.feed``. There is none behind a pooler, unless ``?feed=`` leads past it."""
        if self._settings.can_listen:
            return PostgreSQLFeed(self._settings, self._connection)
        if not self._said_why:
            self._said_why = True
            log.warning(
                "PostgreSQL at %s is behind a pooler in transaction mode, through which nobody can LISTEN, so a near "
                "cache holds sessions for a bounded time only. Name the server itself, percent-encoded, in ?feed= of "
                "the URL.",
                self._settings.where,
            )
        return None

    async def clock(self) -> int:
        """The server's clock."""
        async with self._connection() as connection:
            return int(await connection.fetchval(f"SELECT {NOW}"))

    # -- one by one ---------------------------------------------------------------------------------------

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        if not sids:
            return []
        found = await self._load(sids)
        return [found.get(sid) for sid in sids]

    async def _load(self, sids: Sequence[Sid]) -> dict[Sid, Record]:
        async with self._connection() as connection:
            if len(sids) == 1:
                rows = await connection.fetch(self._sql.load_one, sids[0])
            else:
                rows = await connection.fetch(self._sql.load, sids)
        return {row[0]: Record(*row) for row in rows}

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``; changes and events are one statement, unless one of them cannot be written."""
        return await self._applying.apply(changes, events)

    # -- by user ------------------------------------------------------------------------------------------

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``; two statements, the second only where somebody has to go."""
        async with self._connection("unknown") as connection:
            return await sets.admit(self._sql, connection, login)

    async def find(self, query: Query) -> Page:
        """See ``Store.find``; asks the replica, if there is one."""
        async with self._connection(reading=True) as connection:
            return await sets.find(self._sql, connection, query)

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``; ``not_before`` is committed before the sessions are looked for."""
        async with self._connection("unknown") as connection:
            return await sets.end_where(self._sql, connection, query, reason)

    # -- sweeping, events, counts -------------------------------------------------------------------------

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``; rows that somebody else holds are left for the next pass."""
        async with self._connection("unknown") as connection:
            if self._settings.partitions:
                try:
                    await self._keep_partitions(connection, cutoffs.now)
                except asyncpg.PostgresError as error:
                    # Nothing fails for want of a partition, and the next sweep tries again.
                    log.warning("partitions of %s were not kept: %s", self._sql.sessions, type(error).__name__)
            return await sweeping.sweep(self._sql, connection, cutoffs, limit)

    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        if sids:
            async with self._connection("unknown") as connection:
                await sweeping.announced(self._sql, connection, sids)

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``."""
        async with self._connection("unknown") as connection:
            return await sweeping.lower_checks(self._sql, connection, caps, after, limit)

    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        async with self._connection() as connection:
            return await sweeping.recall(self._sql, connection, name)

    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        async with self._connection("unknown") as connection:
            await sweeping.remember(self._sql, connection, name, text)

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        await self._applying.append(events)

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``; asks the replica, if there is one.

        But not for one user, session or actor: who is forgotten goes by the answer, and a replica may be behind.
        """
        on_replica = query.user_id is None and query.sid is None and query.actor is None
        async with self._connection(reading=on_replica) as connection:
            return await trail.events(self._sql, connection, query)

    async def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        async with self._connection() as connection:
            return await trail.streams(self._sql, connection)

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``; asks the replica, if there is one, for large pages.

        Not for the last page of a stream, which the replica may not have yet.
        """
        if self._settings.replica is not None and limit >= LARGE_PAGE:
            async with self._connection(reading=True) as connection:
                found = await trail.trail(self._sql, connection, stream, after, limit)
            if len(found) == limit:
                return found
        async with self._connection() as connection:
            return await trail.trail(self._sql, connection, stream, after, limit)

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``."""
        async with self._connection("unknown") as connection:
            return await trail.purge_events(self._sql, connection, through)

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``; ``VACUUM`` takes away what was overwritten, see docs/databases.md."""
        async with self._connection("unknown") as connection:
            return await trail.blank(self._sql, connection, places, groups)

    # -- watching -----------------------------------------------------------------------------------------

    async def forget_user(self, user_id: str) -> int:
        """See ``Store.forget_user``; ``VACUUM`` takes away what was deleted, see docs/databases.md."""
        async with self._connection("unknown") as connection:
            return await watching.forget_user(self._sql, connection, user_id)

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        async with self._connection() as connection:
            return await watching.profile(self._sql, connection, user_id, counters)

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``."""
        async with self._connection("unknown") as connection:
            await watching.record_logins(self._sql, connection, logins, expires_at)

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        async with self._connection("unknown") as connection:
            return await watching.drop_login(self._sql, connection, user_id, entry)

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """See ``Store.count``."""
        async with self._connection("unknown") as connection:
            await watching.count(self._sql, connection, bucket, adds, most, expires_at)

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``."""
        async with self._connection("unknown") as connection:
            await watching.publish(self._sql, connection, sheets)

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``; asks the replica, if there is one, for those of usage, which come late anyway."""
        async with self._connection(reading=kind in (HOURS, DAYS)) as connection:
            return await watching.sheets(self._sql, connection, kind, since, until)

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``."""
        async with self._connection("unknown") as connection:
            await watching.withdraw(self._sql, connection, sheets)

    async def expire(self, now: int, limit: int) -> int:
        """See ``Store.expire``; what somebody else holds is left for the next pass."""
        async with self._connection("unknown") as connection:
            return await watching.expire(self._sql, connection, now, limit)

    async def stats(self) -> Stats:
        """See ``Store.stats``; asks the replica, if there is one."""
        async with self._connection(reading=True) as connection:
            return await sets.stats(self._sql, connection)


def postgresql_from_url(url: str) -> PostgreSQLStore:
    """The store of ``postgresql://user:password@host:5432/database``, see ``Settings`` for the options."""
    return PostgreSQLStore(url)
