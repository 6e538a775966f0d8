"""Sessions in MySQL 8 and MariaDB 10.6 or newer: one row a session, one packet a batch.

What nothing stands against is written at once. The rest is read under a lock, changed in Python by the same rules as
everywhere (``core.change.apply``) and written back, so no function for JSON in the server has a say. Rows are locked in
the order of their sids. What was answered is as durable as ``innodb_flush_log_at_trx_commit`` says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from sessiondb.core.change import Change, Update, all_touch
from sessiondb.core.errors import SessionDataError, StoreError, WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.stores import _mysql_rows as rows
from sessiondb.stores import _mysql_sets as sets
from sessiondb.stores import _mysql_sweeping as sweeping
from sessiondb.stores import _mysql_touching as touching
from sessiondb.stores import _mysql_trail as trail
from sessiondb.stores import _mysql_watching as watching
from sessiondb.stores import _mysql_writing as writing
from sessiondb.stores._mysql_connection import Connection, connect
from sessiondb.stores._mysql_errors import (
    is_about_data,
    is_about_rows,
    is_deadlock,
    keeps_connection,
    lost_tables,
    refusal,
    translated,
)
from sessiondb.stores._mysql_parts import Parts
from sessiondb.stores._mysql_schema import prepare
from sessiondb.stores._mysql_url import parse
from sessiondb.stores._mysql_writing import Refused, Results
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._pool import Loan, Pool
from sessiondb.stores._touching import settled, touch_all
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
    NotTogether,
    Page,
    Position,
    Profile,
    Query,
    Sheet,
    Stats,
    Stream,
    Swept,
)

TRIES = 4
Answer = TypeVar("Answer")


class _Loan(Loan[Connection]):
    """A connection for one use, whose errors come out as ours; a lost connection with ``outcome``."""

    __slots__ = ("_outcome", "_store")

    def __init__(self, store: MySQLStore, outcome: WriteOutcome) -> None:
        super().__init__(store._pools.current())
        self._outcome = outcome
        self._store = store

    async def mend(self, error: Exception) -> None:
        if keeps_connection(error) or isinstance(error, (Refused, StoreError, SessionDataError)):
            await self.connection.roll_back()
        else:
            # The others may be as lost as this one.
            self.connection.terminate()
            self.pool.drop_idle()

    def instead_of(self, error: Exception, *, connected: bool) -> Exception:
        store = self._store
        if lost_tables(error):
            # Made anew, by the next connection.
            store._prepared = False
            self.pool.drop_idle()
        # What fails before there is a connection has written nothing.
        return translated(error, store._settings.where, self._outcome if connected else "not_applied")


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

    def _connection(self, outcome: WriteOutcome = "not_applied") -> _Loan:
        """A connection; errors come out as ours, a lost connection with ``outcome``."""
        return _Loan(self, outcome)

    async def _again(self, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """What ``work`` returns, which writes; tried again where the server rolled it back only because of others."""
        for attempt in range(TRIES):
            async with self._connection("unknown") as connection:
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
        """See ``Store.apply``; with events it is one transaction."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        if events:
            return await self._apply_together(changes, events)
        if len(changes) > 1 and all_touch(changes):
            return await self._touch(changes)
        return await self._apply(changes)

    async def _touch(self, changes: Sequence[Update]) -> list[ChangeResult]:
        """One statement that waits for no row. Only those that stay held are waited for, and nobody else with them."""
        try:
            return await touch_all(changes, self._touch_free, self._touch_held)
        except Refused as refused:
            return await self._apart(changes, refused)

    def _touch_free(self, changes: Sequence[Update]) -> Awaitable[Results]:
        return self._write(lambda connection: touching.touch_free(self._sql, connection, changes))

    async def _touch_held(self, changes: Sequence[Update]) -> Results:
        try:
            landed = await self._write(lambda connection: writing.at_once(self._sql, connection, changes))
        except Refused as refused:
            return {change.sid: refused.error for change in changes}
        return settled(changes, {*landed}, {}, set())

    async def _apply(self, changes: Sequence[Change]) -> list[ChangeResult]:
        try:
            results = await self._write(lambda connection: writing.at_once(self._sql, connection, changes))
        except Refused as refused:
            return await self._apart(changes, refused)
        rest = [change for change in changes if change.sid not in results]
        if rest:
            results |= await self._settle(rest, others_landed=bool(results))
        return [results[change.sid] for change in changes]

    async def _settle(self, rest: Sequence[Change], *, others_landed: bool) -> Results:
        """By sid, what becomes of those that something stood against.

        Raises only where nothing of the call has been written: what has landed stays, whatever becomes of the rest.
        """
        try:
            return await self._write(lambda connection: writing.locked(self._sql, connection, rest))
        except Refused as refused:
            results = await self._apart(rest, refused)
            return {change.sid: result for change, result in zip(rest, results, strict=True)}
        except StoreError as error:
            if not others_landed:
                raise
            return {change.sid: error for change in rest}

    async def _apart(self, changes: Sequence[Change], refused: Refused) -> list[ChangeResult]:
        """Each change by itself, one of which may be why all were refused."""
        if len(changes) == 1:
            return [refused.error]
        results: list[ChangeResult] = []
        for change in changes:
            try:
                results += await self.apply([change])
            except StoreError as error:
                results.append(error)
        return results

    async def _apply_together(self, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
        try:
            results = await self._write(lambda connection: writing.together(self._sql, connection, changes, events))
        except Refused as refused:
            if len(changes) > 1:
                message = f"One of the changes or events cannot be written, so none was: {refused.error}"
                raise NotTogether(message) from refused.error.__cause__
            if not changes:
                raise refused.error from None
            return [refused.error]
        return [results[change.sid] for change in changes]

    async def _write(self, work: Callable[[Connection], Awaitable[Results]]) -> Results:
        """What ``work`` returns. Raises ``Refused`` where one of its changes or events may be at fault."""

        async def judged(connection: Connection) -> Results:
            try:
                return await work(connection)
            except Exception as error:
                if is_about_rows(error) and not is_deadlock(error):
                    raise Refused(refusal(error, self._settings.where)) from None
                raise

        return await self._again(judged)

    # -- by user ------------------------------------------------------------------------------------------

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``; one round trip, two more where somebody has to go."""
        return await self._again(lambda connection: sets.admit(self._sql, connection, login))

    async def find(self, query: Query) -> Page:
        """See ``Store.find``."""
        async with self._connection() as connection:
            return await sets.find(self._sql, connection, query)

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``; ``not_before`` is committed before the sessions are looked for."""
        ended: list[Ended] = []
        await self._again(lambda connection: sets.end_where(self._sql, connection, query, reason, ended))
        return ended

    # -- sweeping, counts ---------------------------------------------------------------------------------

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``; rows that somebody else holds are left for the next pass."""
        done = sweeping.Done()
        return await self._again(lambda connection: sweeping.sweep(self._sql, connection, cutoffs, limit, done))

    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        await self._again(lambda connection: sweeping.announced(self._sql, connection, sids))

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``."""
        return await self._again(lambda connection: sweeping.lower_checks(self._sql, connection, caps, after, limit))

    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        async with self._connection() as connection:
            return await sweeping.recall(self._sql, connection, name)

    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        await self._again(lambda connection: sweeping.remember(self._sql, connection, name, text))

    # -- the audit trail ----------------------------------------------------------------------------------

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``. Raises ``SessionDataError`` where the tables have no room for one of them."""
        statements = trail.insert(self._sql, events, again=True)

        async def write(connection: Connection) -> None:
            try:
                await connection.transaction(statements)
            except Exception as error:
                if is_about_data(error):
                    raise refusal(error, self._settings.where) from None
                raise

        if statements:
            await self._again(write)

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        async with self._connection() as connection:
            return await trail.page(self._sql, connection, query)

    async def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        async with self._connection() as connection:
            return await trail.streams(self._sql, connection)

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        async with self._connection() as connection:
            return await trail.trail(self._sql, connection, stream, after, limit)

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``."""
        return await trail.purge(self._sql, Parts(self._again), through)

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``; docs/databases.md says what of it stays in the server's files, and how it goes."""
        return await trail.blank(self._sql, Parts(self._again), places, groups)

    async def forget_user(self, user_id: str) -> int:
        """See ``Store.forget_user``, and ``blank``."""
        return await sets.forget_user(self._sql, Parts(self._again), user_id)

    # -- histories, counters, sheets ----------------------------------------------------------------------

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        async with self._connection() as connection:
            return await watching.profile(self._sql, connection, user_id, counters)

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``."""
        await watching.record_logins(self._sql, Parts(self._again), logins, expires_at)

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        return await self._again(lambda connection: watching.drop_login(self._sql, connection, user_id, entry))

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """See ``Store.count``."""
        await self._again(lambda connection: watching.count(self._sql, connection, bucket, adds, most, expires_at))

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``."""
        await watching.publish(self._sql, Parts(self._again), sheets)

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        async with self._connection() as connection:
            return await watching.sheets(self._sql, connection, kind, since, until)

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``."""
        await watching.withdraw(self._sql, Parts(self._again), sheets)

    async def expire(self, now: int, limit: int) -> int:
        """See ``Store.expire``."""
        return await watching.expire(self._sql, Parts(self._again), now, limit)

    async def stats(self) -> Stats:
        """See ``Store.stats``; exact, by counting."""
        async with self._connection() as connection:
            return await sets.stats(self._sql, connection)


def mysql_from_url(url: str) -> MySQLStore:
    """The store of ``mysql://user:password@host:3306/database``, see ``Settings`` for the options."""
    return MySQLStore(url)
