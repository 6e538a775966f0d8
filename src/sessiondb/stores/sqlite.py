"""Sessions in an SQLite file: embedded, durable, shared by all processes of one machine.

Write-ahead logging lets readers go on while one writes. Each process has one writer thread, whose transactions take
along all that waits (group commit), and one reader thread, so no event loop is ever blocked. With
``synchronous=FULL`` (the default) what was acknowledged survives a power cut; with ``NORMAL`` it survives the end of
the process only.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote

from sessiondb.core.change import Change
from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _sqlite_sweeping as sweeping
from sessiondb.stores._sqlite_rows import Rows, to_event
from sessiondb.stores._sqlite_schema import prepare
from sessiondb.stores._sqlite_sets import admit, end_where, find
from sessiondb.stores._sqlite_threads import Worker
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

Result = TypeVar("Result")

OLDEST_SQLITE = (3, 35, 0)
CHUNK = 32  # sids that are loaded at once, so that one slow read on the spot does not hold up more than it must
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}", re.ASCII).fullmatch


class SQLiteStore:
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
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ConfigurationError(
                f"This Python has SQLite {sqlite3.sqlite_version}; sessiondb needs 3.35 or newer: use a newer Python."
            )
        if synchronous.upper() not in ("NORMAL", "FULL", "EXTRA"):
            raise ConfigurationError(
                f"SQLite: synchronous is {synchronous!r}; use 'full' (survives a power cut), 'extra' or 'normal'."
            )
        if not _PREFIX(prefix):
            raise ConfigurationError(f"SQLite: prefix is {prefix!r}; use at most 32 letters, digits and '_'.")
        if not 0 <= busy_timeout <= 60:
            raise ConfigurationError(f"SQLite: busy_timeout is {busy_timeout!r}; use 0 to 60 seconds.")
        text = os.fspath(path)
        if text in ("", ":memory:") or text.startswith("file:") or "\0" in text:
            raise ConfigurationError(
                f"SQLite: {text!r} is not a path; use 'sqlite:///sessions.db', or 'memory://' for a database in memory."
            )
        self.path = os.path.abspath(text)
        self.synchronous = synchronous.upper()
        self.prefix = prefix
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._rows = Rows(prefix)
        self._opened = 0
        self._pid = os.getpid()
        self.writer = Worker(
            "sessiondb-sqlite-writer", self.path, self._connect, writes=True, busy_timeout=busy_timeout
        )
        self._reader = Worker(
            "sessiondb-sqlite-reader", self.path, self._connect, writes=False, busy_timeout=busy_timeout
        )

    # -- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``Store.open``. Raises ``ConfigurationError`` for a missing folder or a newer schema."""
        self._after_fork()
        await self.writer.run(lambda connection: None)
        self._opened += 1

    async def close(self) -> None:
        """See ``Store.close``."""
        self._after_fork()
        if self._opened == 0:
            return
        self._opened -= 1
        if self._opened == 0:
            self.writer.stop()
            self._reader.stop()

    async def clock(self) -> int:
        """This machine's clock: the database has no other."""
        self._check_open()
        return self._clock()

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._opened = 0
            self.writer.forget()
            self._reader.forget()

    def _check_open(self) -> None:
        if self._opened == 0 or self._pid != os.getpid():
            raise StoreUnavailable(
                "The SQLite store is not open in this process; use 'async with SessionDB(...)' or await open()."
            )

    def _connect(self) -> sqlite3.Connection:
        _make_file(Path(self.path))
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")
            connection.execute("PRAGMA temp_store = MEMORY")
            prepare(connection, self.prefix)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        self._check_open()
        return await self._reader.run(work)

    async def _write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        self._check_open()
        return await self.writer.run(work)

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
        return await self.writer.run(
            lambda connection: self._rows.apply(connection, changes, events, self._clock()),
            alone=None if events else lambda connection: self._rows.apply_alone(connection, changes, self._clock()),
        )

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

    # -- events and counts --------------------------------------------------------------------------------

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        if events:
            await self._write(lambda connection: self._rows.append(connection, events))
        else:
            self._check_open()

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``."""
        return await self._read(lambda connection: self._find_events(connection, query))

    def _find_events(self, connection: sqlite3.Connection, query: EventQuery) -> EventPage:
        conditions = ["1"]
        values: list[object] = []
        for condition, value in (
            ("user_id = ?", query.user_id),
            ("sid = ?", query.sid),
            ("type = ?", query.type),
            ("at >= ?", query.since),
            ("at < ?", query.until),
            ("id < ?", query.after),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        rows = connection.execute(
            f"SELECT id, at, type, sid, user_id, reason, ip, details FROM {self._rows.events} "
            f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
            (*values, query.limit + 1),
        ).fetchall()
        shown = rows[: query.limit]
        return EventPage([to_event(row[1:]) for row in shown], shown[-1][0] if len(rows) > len(shown) > 0 else None)

    async def stats(self) -> Stats:
        """See ``Store.stats``; exact, by counting."""
        return await self._read(self._count)

    def _count(self, connection: sqlite3.Connection) -> Stats:
        live, ended, users = connection.execute(
            "SELECT count(*) FILTER (WHERE ended_at IS NULL), count(*) FILTER (WHERE ended_at IS NOT NULL), "
            f"count(DISTINCT user_id) FILTER (WHERE ended_at IS NULL) FROM {self._rows.sessions}"
        ).fetchone()
        events = connection.execute(f"SELECT count(*) FROM {self._rows.events}").fetchone()[0]
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
        return Stats(live=live, ended=ended, users=users, events=events, size_bytes=pages * page_size)


def sqlite_from_url(url: str) -> SQLiteStore:
    """The store of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, see ``SQLiteStore``.

    Options: ``?synchronous=normal``, ``?prefix=my_``, ``?busy_timeout=3`` (seconds).
    """
    rest = url.partition("://")[2]
    location, _, query = rest.partition("?")
    if location and not location.startswith("/"):
        raise ConfigurationError(
            f"{url!r} names the host {location.partition('/')[0]!r}, and SQLite has none; write three slashes for a "
            f"relative path (sqlite:///{location}), four for an absolute one."
        )
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = options.keys() - {"synchronous", "prefix", "busy_timeout"}
    if unknown:
        raise ConfigurationError(
            f"sqlite:// does not know the option {min(unknown)!r}; it has synchronous, prefix and busy_timeout."
        )
    try:
        busy_timeout = float(options.get("busy_timeout", "1.5"))
    except ValueError:
        raise ConfigurationError(
            f"SQLite: busy_timeout is {options['busy_timeout']!r}; use a number of seconds."
        ) from None
    return SQLiteStore(
        unquote(location[1:]),
        synchronous=options.get("synchronous", "FULL"),
        prefix=options.get("prefix", "sessiondb_"),
        busy_timeout=busy_timeout,
    )


def _make_file(path: Path) -> None:
    """Make the file, for its owner alone: SQLite gives its -wal and -shm files the same mode."""
    if not path.parent.is_dir():
        raise ConfigurationError(f"SQLite: the folder {path.parent} does not exist; make it (mkdir -p {path.parent}).")
    if path.is_dir():
        raise ConfigurationError(f"SQLite: {path} is a folder; name a file in it, such as {path}/sessions.db.")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreUnavailable(
            f"The SQLite file {path} cannot be made: {error.strerror}. Give the server's user write permission on the "
            "folder, and see that its disk has space."
        ) from error
