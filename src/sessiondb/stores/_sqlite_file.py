"""The file of the SQLite store, and the two threads that have a connection to it."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.stores._sqlite_schema import prepare
from sessiondb.stores._sqlite_threads import Worker

Result = TypeVar("Result")

OLDEST_SQLITE = (3, 35, 0)
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}", re.ASCII).fullmatch


class SQLiteFile:
    """One file, opened by this process: ``writer`` and a reader. See ``SQLiteStore`` for the settings."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: str,
        prefix: str,
        busy_timeout: float,
        clock: Callable[[], int],
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
        self._opened = 0
        self._pid = os.getpid()
        self.writer = Worker(
            "sessiondb-sqlite-writer", self.path, self._connect, writes=True, busy_timeout=busy_timeout
        )
        self._reader = Worker(
            "sessiondb-sqlite-reader", self.path, self._connect, writes=False, busy_timeout=busy_timeout
        )

    async def open(self) -> None:
        """See ``Store.open``. Raises ``ConfigurationError`` for a missing folder or a newer schema."""
        self._after_fork()
        self._opened += 1
        try:
            await self.writer.run(lambda connection: None)
        except BaseException:
            # Its thread may just be making the file, and would go on.
            await self.close()
            raise

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
            # What is deleted is overwritten; it is SQLite's default in some builds and not in others.
            connection.execute("PRAGMA secure_delete = ON")
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


def parse(url: str) -> tuple[str, dict[str, Any]]:
    """The path in ``url``, and the settings of ``SQLiteStore``."""
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
    return unquote(location[1:]), {
        "synchronous": options.get("synchronous", "FULL"),
        "prefix": options.get("prefix", "sessiondb_"),
        "busy_timeout": busy_timeout,
    }


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
