"""Sessions in PostgreSQL 13 to 18: one row a session, one statement a batch, asyncpg on connections of our own.

What was answered is as durable as the server's ``synchronous_commit`` says. Updates lock rows in the order of their
sids, so batches of several workers wait for each other and never deadlock.

What is in sessions can be asked in SQL. With an index on it, which costs every write of data but no touch::

    CREATE INDEX sessiondb_sessions_data ON sessiondb_sessions USING gin (data jsonb_path_ops)
    SELECT user_id FROM sessiondb_sessions WHERE data @> '{"cart": [{"id": 7}]}' AND ended_at IS NULL
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from sessiondb.core.change import Applied, Change, Create, Update, all_touch, apply
from sessiondb.core.errors import SessionDataError, StoreError, WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _postgresql_rows as rows
from sessiondb.stores import _postgresql_sets as sets
from sessiondb.stores import _postgresql_sweeping as sweeping
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._pool import Pool
from sessiondb.stores._postgresql_errors import is_about_rows, is_deadlock, lost_tables, not_copied, refusal, translated
from sessiondb.stores._postgresql_feed import PostgreSQLFeed
from sessiondb.stores._postgresql_partitions import keep_partitions, month_of
from sessiondb.stores._postgresql_schema import LOCK, prepare
from sessiondb.stores._postgresql_statements import NOW, Statements
from sessiondb.stores._postgresql_url import parse
from sessiondb.stores._touching import Results, settled, touch_all
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Query,
    Stats,
    Swept,
)

log = logging.getLogger("sessiondb")

TRIES = 3
NO_TIME = 0  # only whether a change can land is asked, not what it makes of the record


class _Pools:
    """The connections of one event loop; those to the replica are the primary's, if there is none."""

    def __init__(self, primary: Pool[Any], replica: Pool[Any] | None) -> None:
        self.primary = primary
        self.replica = replica or primary

    async def close(self) -> None:
        """Close all."""
        await self.primary.close()
        await self.replica.close()


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

    @asynccontextmanager
    async def _connection(self, outcome: WriteOutcome = "not_applied", *, reading: bool = False) -> AsyncIterator[Any]:
        """A connection; errors come out as ours, a lost connection with ``outcome``."""
        pools = self._pools.current()
        pool = pools.replica if reading else pools.primary
        on_replica = pool is not pools.primary
        connected = False
        try:
            async with pool.connection() as connection:
                connected = True
                yield connection
        except Exception as error:
            if lost_tables(error):
                pool.drop_idle()
                if on_replica:
                    raise not_copied(str(self._settings.replica)) from error
                # Made anew, by the next connection.
                self._prepared = False
            where = str(self._settings.replica) if on_replica else self._settings.where
            # What fails before there is a connection has written nothing.
            found = translated(error, where, outcome if connected else "not_applied")
            raise found from (error if found is not error else error.__cause__)

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
            return {row[0]: Record(*row) for row in await connection.fetch(self._sql.load, sids)}

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``; changes and events are one statement, unless one of them cannot be written."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        if len(changes) > 1 and not events and all_touch(changes):
            return await self._touch(changes)
        return await self._apply(changes, events, TRIES)

    async def _touch(self, changes: Sequence[Update]) -> list[ChangeResult]:
        """One statement that waits for no row. Only those that stay held are waited for, and nobody else with them."""
        try:
            return await touch_all(changes, self._touch_free, self._touch_held)
        except _Refused:
            return await self._apply(changes, (), TRIES)  # one of them is at fault: that finds out which

    async def _touch_free(self, changes: Sequence[Update]) -> Results:
        parameters = rows.touch_columns(changes)
        statement = self._sql.touch if len(parameters) == 2 else self._sql.touch_with_clients
        async with self._connection("unknown") as connection:
            try:
                missed = await connection.fetch(statement, *parameters)
            except asyncpg.PostgresError as error:
                if is_about_rows(error):
                    raise _Refused(refusal(error, self._settings.where)) from None
                raise
        found = dict(missed)
        living = {sid for sid, state in found.items() if state is not None and state[0] == "true"}
        reasons = {sid: state[1] for sid, state in found.items() if state is not None}
        return settled(changes, {change.sid for change in changes} - found.keys(), reasons, living)

    async def _touch_held(self, changes: Sequence[Update]) -> Results:
        try:
            return settled(changes, {*await self._write(changes, ())}, {}, set())
        except _Refused as refused:
            return {change.sid: refused.error for change in changes}

    async def _apply(self, changes: Sequence[Change], events: Sequence[Event], tries: int) -> list[ChangeResult]:
        if not changes and not events:
            return []
        try:
            landed = await self._write(changes, events)
        except _Refused as refused:
            if not changes:
                raise refused.error from None
            if len(changes) == 1:
                return [refused.error]
            return await self._one_by_one(changes, events, tries)
        if len(landed) == len(changes):
            return [Applied(landed[change.sid]) for change in changes]
        return await self._with_reasons(changes, landed, tries)

    async def _write(self, changes: Sequence[Change], events: Sequence[Event]) -> dict[Sid, int]:
        """By sid, the revisions of those that landed. Raises ``_Refused`` where one of them may be at fault."""
        statement, parameters = self._statement(changes, events)
        for attempt in range(TRIES):
            async with self._connection("unknown") as connection:
                try:
                    return {row[0]: row[1] for row in await connection.fetch(statement, *parameters)}
                except asyncpg.PostgresError as error:
                    if not is_about_rows(error):
                        raise
                    if not is_deadlock(error) or attempt == TRIES - 1:
                        raise _Refused(refusal(error, self._settings.where)) from None
            # The rows of another program's transaction are free by now, or will be shortly.
            await asyncio.sleep(0.005 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("unreachable")

    def _statement(self, changes: Sequence[Change], events: Sequence[Event]) -> tuple[str, list[object]]:
        if len(changes) == 1 and not events and rows.is_ordinary(change := changes[0]):
            return self._sql.update, rows.update_values(change)
        creates = [change for change in changes if isinstance(change, Create)]
        parameters: list[object] = []
        if len(creates) < len(changes):
            parameters.append(rows.updates_json(changes))
        if creates:
            parameters.append(rows.creates_json(creates))
        links = rows.links_json(changes)
        if links:
            parameters.append(links)
        if events:
            parameters.append(rows.events_json(events))
        kinds = {"updates": len(creates) < len(changes), "creates": bool(creates)}
        return self._sql.apply(**kinds, links=bool(links), events=bool(events)), parameters

    async def _one_by_one(self, changes: Sequence[Change], events: Sequence[Event], tries: int) -> list[ChangeResult]:
        """Each change by itself; the events go with the first that the database takes."""
        results: list[ChangeResult] = []
        for change in changes:
            try:
                result = (await self._apply([change], events, tries))[0]
            except StoreError as error:
                result = error
            if not isinstance(result, (StoreError, SessionDataError)):
                events = ()
            results.append(result)
        return results

    async def _with_reasons(self, changes: Sequence[Change], landed: dict[Sid, int], tries: int) -> list[ChangeResult]:
        """The results; what has not landed is judged by what the rows show now.

        Never raises: whatever happens to the others, those in ``landed`` have been written.
        """
        results: dict[Sid, ChangeResult] = {sid: Applied(rev) for sid, rev in landed.items()}
        rest = [change for change in changes if change.sid not in landed]
        try:
            records = await self._load([change.sid for change in rest])
            again: list[Change] = []
            for change in rest:
                written, outcome = apply(records.get(change.sid), change, NO_TIME)
                if written is None:
                    results[change.sid] = outcome
                else:
                    again.append(change)  # its row changed between the two statements: nothing stands against it now
            if again and tries == 1:
                raise StoreError(
                    f"PostgreSQL at {self._settings.where}: a session kept changing while it was written; try again.",
                    outcome="conflict",
                )
            for change, result in zip(again, await self._apply(again, (), tries - 1), strict=True):
                results[change.sid] = result
        except StoreError as error:
            for change in rest:
                results.setdefault(change.sid, error)
        return [results[change.sid] for change in changes]

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
        async with self._connection("unknown") as connection:
            if events:
                await connection.execute(self._sql.insert_events(), rows.events_json(events))

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``; asks the replica, if there is one."""
        async with self._connection(reading=True) as connection:
            return await sets.events(self._sql, connection, query)

    async def stats(self) -> Stats:
        """See ``Store.stats``; asks the replica, if there is one."""
        async with self._connection(reading=True) as connection:
            return await sets.stats(self._sql, connection)


class _Refused(Exception):
    """A statement was rolled back, and one of its changes may be the reason."""

    def __init__(self, error: StoreError | SessionDataError) -> None:
        super().__init__(str(error))
        self.error = error


def postgresql_from_url(url: str) -> PostgreSQLStore:
    """The store of ``postgresql://user:password@host:5432/database``, see ``Settings`` for the options."""
    return PostgreSQLStore(url)
