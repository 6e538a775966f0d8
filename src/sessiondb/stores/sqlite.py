"""Sessions in an SQLite file: embedded, durable, shared by all processes of one machine.

Write-ahead logging lets readers go on while one writes. Each process has one writer thread, whose transactions take
along all that waits (group commit), and one reader thread, so no event loop is ever blocked. With
``synchronous=FULL`` (the default) what was acknowledged survives a power cut; with ``NORMAL`` it survives the end of
the process only.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from sessiondb.core.change import Change
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.stores import _sqlite_erasing as erasing
from sessiondb.stores import _sqlite_sweeping as sweeping
from sessiondb.stores._sqlite_file import SQLiteFile, parse
from sessiondb.stores._sqlite_rows import Rows
from sessiondb.stores._sqlite_sets import admit, end_where, find
from sessiondb.stores._sqlite_trail import AT_ONCE, Trail, place_of
from sessiondb.stores._sqlite_watching import Watched
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

CHUNK = 32  # sids that are loaded at once, so that one slow read on the spot does not hold up more than it must


class SQLiteStore(SQLiteFile):
    """The store for one file.

    * ``path``: made if absent, with mode 0600; its folder must exist.
    * ``synchronous`` (``"FULL"``): ``"EXTRA"``, ``"FULL"`` or ``"NORMAL"``, see SQLite's documentation.
    * ``prefix`` (``"sessiondb_"``): begins the name of every table and index.
    * ``busy_timeout`` (1.5 s): how long to wait for another process that writes.
    * ``clock``: microseconds since the epoch; for tests.

    Usable from several event loops at once: ``open`` and ``close`` are counted. Raises ``ConfigurationError``.
    """

    name = "sqlite"
    # One call under way: what comes meanwhile makes the next batch, and two would only compete for the interpreter.
    # And while one process sweeps, no other can write.
    batching = Batching(loads=128, changes=256, in_flight=1, sweep=100)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: str = "FULL",
        prefix: str = "sessiondb_",
        busy_timeout: float = 1.5,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        super().__init__(path, synchronous=synchronous, prefix=prefix, busy_timeout=busy_timeout, clock=clock)
        self._rows = Rows(prefix)
        self._trail = Trail(prefix)
        self._watched = Watched(prefix)

    # -- one by one ---------------------------------------------------------------------------------------

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        if not sids:
            return []
        self._check_open()
        found: dict[Sid, Record] = {}
        for start in range(0, len(sids), CHUNK):
            part = sids[start : start + CHUNK]

            def load(connection: sqlite3.Connection, part: Sequence[Sid] = part) -> dict[Sid, Record]:
                return self._rows.load(connection, part)

            records = self._reader.now(load)
            found.update(records if records is not None else await self._reader.run(load))
        return [found.get(sid) for sid in sids]

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``; changes and events are one transaction."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        if not changes and not events:
            return []
        self._check_open()
        if not events:
            return await self.writer.run(
                lambda connection: self._rows.apply(connection, changes, self._clock()),
                alone=lambda connection: self._rows.apply_alone(connection, changes, self._clock()),
            )
        for event in events:
            place_of(event)
        try:
            return await self.writer.run(lambda connection: self._apply(connection, changes, events))
        except _Refused as refused:
            return [refused.error]

    def _apply(
        self, connection: sqlite3.Connection, changes: Sequence[Change], events: Sequence[Event]
    ) -> list[ChangeResult]:
        """All or nothing: whatever is raised here has the transaction rolled back."""
        results = self._rows.apply(connection, changes, self._clock())
        error = next((result for result in results if isinstance(result, (StoreError, SessionDataError))), None)
        if error is None:
            error = self._trail.write(connection, events)
        if error is None:
            return results
        if not changes:
            raise error
        if len(changes) > 1:
            raise NotTogether(
                "SQLite: one of the changes cannot be written, so neither they nor their events were."
            ) from error
        raise _Refused(error)

    # -- by user ------------------------------------------------------------------------------------------

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``; one transaction, so that concurrent logins count each other."""
        return await self._write(lambda connection: admit(self._rows, connection, login))

    async def find(self, query: Query) -> Page:
        """See ``Store.find``."""
        return await self._read(lambda connection: find(self._rows, connection, query))

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``; one transaction."""
        return await self._write(lambda connection: end_where(self._rows, connection, query, reason))

    # -- sweeping -----------------------------------------------------------------------------------------

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``; one transaction."""
        return await self._write(lambda connection: sweeping.sweep(self._rows, connection, cutoffs, limit))

    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        await self._write(lambda connection: sweeping.announced(self._rows, connection, sids))

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``; by sid. Only what is found late is written."""
        late, last = await self._read(
            lambda connection: sweeping.late_checks(self._rows, connection, caps, after, limit)
        )
        if late:
            await self._write(lambda connection: self._rows.lower_checks(connection, late))
        return last

    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        return await self._read(lambda connection: sweeping.recall(self._rows, connection, name))

    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        await self._write(lambda connection: sweeping.remember(self._rows, connection, name, text))

    # -- events -------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        for event in events:
            place_of(event)
        if events:
            await self._write(lambda connection: self._trail.append(connection, events))
        else:
            self._check_open()

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        return await self._read(lambda connection: self._trail.page(connection, query))

    async def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        return await self._read(self._trail.streams)

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        return await self._read(lambda connection: self._trail.read(connection, stream, after, limit))

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``; 500 a transaction, from the start of each stream."""
        purged = 0
        for stream, last in through.items():

            def purge(connection: sqlite3.Connection, stream: str = stream, last: int = last) -> int:
                return self._trail.purge(connection, stream, last)

            while True:
                gone = await self._write(purge)
                purged += gone
                if gone < AT_ONCE:
                    break
        return purged

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``; 500 a transaction. Raises ``StoreUnavailable`` while another program keeps the log."""
        self._check_open()
        blanked = 0
        wanted = [*dict.fromkeys(places)]
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]

            def blank(connection: sqlite3.Connection, part: Sequence[Position] = part) -> int:
                return self._trail.blank(connection, part, groups)

            blanked += await self._write(blank)
        if wanted:
            await self._outside(self._empty_log)
        return blanked

    async def forget_user(self, user_id: str) -> int:
        """See ``Store.forget_user``; 500 sessions a transaction. Raises as ``blank``."""
        forgotten = 0
        while True:
            gone = await self._write(lambda connection: erasing.forget(self._rows, self._watched, connection, user_id))
            forgotten += gone
            if gone < erasing.AT_ONCE:
                break
        await self._outside(lambda connection: erasing.write_anew(connection, self.path, self.prefix))
        await self._outside(self._empty_log)
        return forgotten

    async def _outside(self, work: Callable[[sqlite3.Connection], None]) -> None:
        self._check_open()
        await self.writer.run(work, outside=True)

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        erasing.empty_log(connection, self.path, self._busy_timeout)

    # -- logins, counters and sheets ----------------------------------------------------------------------

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        self._check_open()

        def read(connection: sqlite3.Connection) -> Profile:
            return self._watched.profile(connection, user_id, counters)

        found = self._reader.now(read)
        return found if found is not None else await self._reader.run(read)

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``; one transaction."""
        await self._write(lambda connection: self._watched.record_logins(connection, logins, expires_at))

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        return await self._write(lambda connection: self._watched.drop_login(connection, user_id, entry))

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """See ``Store.count``; one transaction."""
        await self._write(lambda connection: self._watched.count(connection, bucket, adds, most, expires_at))

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``; one transaction."""
        await self._write(lambda connection: self._watched.publish(connection, sheets))

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        return await self._read(lambda connection: self._watched.sheets(connection, kind, since, until))

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``; one transaction."""
        await self._write(lambda connection: self._watched.withdraw(connection, sheets))

    async def expire(self, now: int, limit: int) -> int:
        """See ``Store.expire``; one transaction."""
        return await self._write(lambda connection: self._watched.expire(connection, now, limit))

    async def stats(self) -> Stats:
        """See ``Store.stats``; exact, by counting."""
        return await self._read(self._count)

    def _count(self, connection: sqlite3.Connection) -> Stats:
        live, ended, users = connection.execute(
            "SELECT count(*) FILTER (WHERE ended_at IS NULL), count(*) FILTER (WHERE ended_at IS NOT NULL), "
            f"count(DISTINCT user_id) FILTER (WHERE ended_at IS NULL) FROM {self._rows.sessions}"
        ).fetchone()
        events = connection.execute(f"SELECT count(*) FROM {self._trail.events}").fetchone()[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        return Stats(live=live, ended=ended, users=users, events=events, size_bytes=pages * page_size)


def sqlite_from_url(url: str) -> SQLiteStore:
    """The store of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, see ``SQLiteStore``.

    Options: ``?synchronous=normal``, ``?prefix=my_``, ``?busy_timeout=3`` (seconds).
    """
    path, settings = parse(url)
    return SQLiteStore(path, **settings)


class _Refused(Exception):
    """Takes the answer of a lone change past a transaction that is rolled back."""

    def __init__(self, error: StoreError | SessionDataError) -> None:
        super().__init__(str(error))
        self.error = error
