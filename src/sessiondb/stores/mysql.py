"""Sessions in MySQL 8 and MariaDB 10.6 or newer: one row a session, one packet a batch.

What nothing stands against is written at once. The rest is read under a lock, changed in Python by the same rules as
everywhere (``core.change.apply``) and written back, so no function for JSON in the server has a say. Rows are locked in
the order of their sids. What was answered is as durable as ``innodb_flush_log_at_trx_commit`` says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from sessiondb.core.change import Applied, Change, Create, Update, all_touch, apply
from sessiondb.core.errors import SessionDataError, StoreError, WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _mysql_rows as rows
from sessiondb.stores import _mysql_sets as sets
from sessiondb.stores import _mysql_sweeping as sweeping
from sessiondb.stores import _mysql_touching as touching
from sessiondb.stores._mysql_connection import Connection, connect
from sessiondb.stores._mysql_errors import (
    is_about_rows,
    is_deadlock,
    is_duplicate,
    keeps_connection,
    lost_tables,
    refusal,
    translated,
)
from sessiondb.stores._mysql_schema import prepare
from sessiondb.stores._mysql_url import parse
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._pool import Pool
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

TRIES = 4
Answer = TypeVar("Answer")


class MySQLStore:
    """The store for one database; see ``Settings`` for the URL and its options.

    Usable from several event loops, each with connections of its own. Raises ``ConfigurationError``.
    """

    name = "mysql"
    batching = Batching(loads=128, changes=32, in_flight=4, touches=128)

    def __init__(self, url: str) -> None:
        self._settings = parse(url)
        self._sql = rows.Statements(self._settings.prefix)
        self._pools: PerLoop[Pool[Connection]] = PerLoop(
            "MySQL", lambda: Pool(self._connect, size=self._settings.pool_size)
        )
        self._prepared = False

    def __repr__(self) -> str:
        return f"MySQLStore({self._settings.where})"

    # -- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``Store.open``. Raises ``ConfigurationError`` for a wrong password, database or schema version."""
        self._pools.open()
        try:
            async with self._connection() as connection:
                await self._prepare(connection)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Store.close``."""
        pool = self._pools.close()
        if pool is not None:
            await pool.close()

    async def _connect(self) -> Connection:
        connection = await connect(self._settings.arguments, self._settings.lock_timeout)
        try:
            if not self._prepared:
                await self._prepare(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _prepare(self, connection: Connection) -> None:
        await prepare(connection, self._settings.prefix)
        self._prepared = True

    @asynccontextmanager
    async def _connection(self, outcome: WriteOutcome = "not_applied") -> AsyncIterator[Connection]:
        """A connection; errors come out as ours, a lost connection with ``outcome``."""
        pool = self._pools.current()
        connected = False
        try:
            async with pool.connection() as connection:
                connected = True
                try:
                    yield connection
                except Exception as error:
                    if keeps_connection(error) or isinstance(error, (_Refused, StoreError)):
                        await connection.roll_back()
                    else:
                        # The others may be as lost as this one.
                        connection.terminate()
                        pool.drop_idle()
                    raise
        except Exception as error:
            if lost_tables(error):
                # Made anew, by the next connection.
                self._prepared = False
                pool.drop_idle()
            # What fails before there is a connection has written nothing.
            found = translated(error, self._settings.where, outcome if connected else "not_applied")
            raise found from (error if found is not error else error.__cause__)

    async def _again_after_deadlock(
        self, outcome: WriteOutcome, work: Callable[[Connection], Awaitable[Answer]]
    ) -> Answer:
        """What ``work`` returns; tried again where the server rolled it back only because of others."""
        for attempt in range(TRIES):
            async with self._connection(outcome) as connection:
                try:
                    return await work(connection)
                except Exception as error:
                    if not is_deadlock(error) or attempt == TRIES - 1:
                        raise
                    await connection.roll_back()
            await asyncio.sleep(0.005 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("unreachable")

    async def clock(self) -> int:
        """The server's clock."""
        async with self._connection() as connection:
            [found] = await connection.run([f"SELECT {rows.NOW}"])
            return int(found.rows[0][0])

    # -- one by one ---------------------------------------------------------------------------------------

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        if not sids:
            return []
        async with self._connection() as connection:
            [answer] = await connection.run([self._sql.select(self._sql.by_sid(sids))])
        found = {record.sid: record for record in map(rows.to_record, answer.rows)}
        return [found.get(sid) for sid in sids]

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``; changes and events are one transaction, unless one of them cannot be written."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        if not changes:
            await self.append(events)
            return []
        if len(changes) > 1 and not events and all_touch(changes):
            return await self._touch(changes)
        return await self._apply(changes, events)

    async def _touch(self, changes: Sequence[Update]) -> list[ChangeResult]:
        """One statement that waits for no row. Only those that stay held are waited for, and nobody else with them."""
        try:
            return await touch_all(changes, self._touch_free, self._touch_held)
        except _Refused as refused:
            return await self._apart(changes, (), refused)

    def _touch_free(self, changes: Sequence[Update]) -> Awaitable[Results]:
        return self._write(lambda connection: touching.touch_free(self._sql, connection, changes))

    async def _touch_held(self, changes: Sequence[Update]) -> Results:
        try:
            landed = await self._write(lambda connection: self._at_once(connection, changes, ()))
        except _Refused as refused:
            return {change.sid: refused.error for change in changes}
        return settled(changes, {*landed}, {}, set())

    async def _apply(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        try:
            results = await self._write(lambda connection: self._at_once(connection, changes, events))
        except _Refused as refused:
            return await self._apart(changes, events, refused)
        rest = [change for change in changes if change.sid not in results]
        if rest:
            # What was tried at once took the events along; only a create that is left was rolled back with them.
            late = () if self._can_at_once(changes) and not isinstance(rest[0], Create) else events
            results |= await self._settle(rest, late, others_landed=bool(results))
        return [results[change.sid] for change in changes]

    async def _settle(
        self, rest: Sequence[Change], events: Sequence[Event], *, others_landed: bool
    ) -> dict[Sid, ChangeResult]:
        """By sid, what becomes of those that something stood against.

        Raises only where nothing of the call has been written: what has landed stays, whatever becomes of the rest.
        """
        try:
            return await self._write(lambda connection: self._locked(connection, rest, events))
        except _Refused as refused:
            results = await self._apart(rest, events, refused)
            return {change.sid: result for change, result in zip(rest, results, strict=True)}
        except StoreError as error:
            if not others_landed:
                raise
            return {change.sid: error for change in rest}

    async def _apart(self, changes: Sequence[Change], events: Sequence[Event], refused: _Refused) -> list[ChangeResult]:
        """Each change by itself, one of which may be why all were refused; the events go with the first taken."""
        if len(changes) == 1:
            return [refused.error]
        results: list[ChangeResult] = []
        for change in changes:
            try:
                result = (await self.apply([change], events))[0]
            except StoreError as error:
                result = error
            if not isinstance(result, (StoreError, SessionDataError)):
                events = ()
            results.append(result)
        return results

    def _can_at_once(self, changes: Sequence[Change]) -> bool:
        return any(self._sql.at_once(change) is not None for change in changes)

    async def _at_once(
        self, connection: Connection, changes: Sequence[Change], events: Sequence[Event]
    ) -> dict[Sid, ChangeResult]:
        """By sid, those that nothing stood against."""
        tried: list[tuple[Change, int]] = []
        statements: list[str] = []
        for change in sorted(changes, key=lambda change: change.sid):
            found = self._sql.at_once(change)
            if found is not None:
                statements.append(found[0])
                tried.append((change, found[1]))
        if not statements:
            return {}
        # Only a create is tried at once and brings links; they go back with it, should its sid exist.
        statements += self._sql.insert_links(change for change, _ in tried)
        statements += self._sql.insert_events(events)
        try:
            answers = await connection.transaction(statements)
        except Exception as error:
            if is_duplicate(error) and len(changes) == 1:
                await connection.roll_back()
                return {}  # a sid that exists: whose it is has to be looked at
            raise
        return {
            change.sid: Applied(answer.inserted or rev)
            for (change, rev), answer in zip(tried, answers, strict=False)
            if answer.affected
        }

    async def _locked(
        self, connection: Connection, changes: Sequence[Change], events: Sequence[Event]
    ) -> dict[Sid, ChangeResult]:
        """By sid, what became of all of ``changes``, judged and written while nobody else can."""
        where = self._sql.by_sid(sorted(change.sid for change in changes))
        _, time, answer = await connection.run(
            ["START TRANSACTION", f"SELECT {rows.NOW}", f"{self._sql.select(where)} ORDER BY sid FOR UPDATE"]
        )
        now = int(time.rows[0][0])
        held = {record.sid: record for record in map(rows.to_record, answer.rows)}
        results: dict[Sid, ChangeResult] = {}
        statements: list[str] = []
        for change in sorted(changes, key=lambda change: change.sid):
            try:
                written, results[change.sid] = apply(held.get(change.sid), change, now)
            except SessionDataError as error:
                results[change.sid] = error
                continue
            if written is not None:
                new = change.sid not in held
                statements.append(self._sql.insert(written) if new else self._sql.write_all(written))
        landed = [change for change in changes if isinstance(results[change.sid], Applied)]
        statements += self._sql.insert_links(landed)
        statements += self._sql.insert_events(events)
        await connection.run([*statements, "COMMIT"])
        return results

    async def _write(self, work: Callable[[Connection], Awaitable[dict[Sid, ChangeResult]]]) -> dict[Sid, ChangeResult]:
        """What ``work`` returns. Raises ``_Refused`` where one of its changes may be at fault."""

        async def judged(connection: Connection) -> dict[Sid, ChangeResult]:
            try:
                return await work(connection)
            except Exception as error:
                if is_about_rows(error) and not is_deadlock(error):
                    raise _Refused(refusal(error, self._settings.where)) from None
                raise

        return await self._again_after_deadlock("unknown", judged)

    # -- by user ------------------------------------------------------------------------------------------

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``; one round trip, two more where somebody has to go."""
        return await self._again_after_deadlock("unknown", lambda connection: sets.admit(self._sql, connection, login))

    async def find(self, query: Query) -> Page:
        """See ``Store.find``."""
        async with self._connection() as connection:
            return await sets.find(self._sql, connection, query)

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``; ``not_before`` is committed before the sessions are looked for."""
        ended: list[Ended] = []
        await self._again_after_deadlock(
            "unknown", lambda connection: sets.end_where(self._sql, connection, query, reason, ended)
        )
        return ended

    # -- sweeping, events, counts -------------------------------------------------------------------------

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``; rows that somebody else holds are left for the next pass."""
        done = sweeping.Done()
        return await self._again_after_deadlock(
            "unknown", lambda connection: sweeping.sweep(self._sql, connection, cutoffs, limit, done)
        )

    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        await self._again_after_deadlock("unknown", lambda connection: sweeping.announced(self._sql, connection, sids))

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``."""
        return await self._again_after_deadlock(
            "unknown", lambda connection: sweeping.lower_checks(self._sql, connection, caps, after, limit)
        )

    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        async with self._connection() as connection:
            return await sweeping.recall(self._sql, connection, name)

    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        await self._again_after_deadlock(
            "unknown", lambda connection: sweeping.remember(self._sql, connection, name, text)
        )

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        async with self._connection("unknown") as connection:
            if events:
                await connection.transaction(self._sql.insert_events(events))

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        async with self._connection() as connection:
            return await sets.events(self._sql, connection, query)

    async def stats(self) -> Stats:
        """See ``Store.stats``; exact, by counting."""
        async with self._connection() as connection:
            return await sets.stats(self._sql, connection)


class _Refused(Exception):
    """A transaction was rolled back, and one of its changes may be the reason."""

    def __init__(self, error: StoreError | SessionDataError) -> None:
        super().__init__(str(error))
        self.error = error


def mysql_from_url(url: str) -> MySQLStore:
    """The store of ``mysql://user:password@host:3306/database``, see ``Settings`` for the options."""
    return MySQLStore(url)
