"""What SQLite's errors mean for sessions, and how to mend each."""

from __future__ import annotations

import sqlite3

from sessiondb.core.errors import StoreUnavailable, WriteOutcome

_CURES = {
    sqlite3.SQLITE_BUSY: (
        "is locked by another process for longer than the busy timeout. Find it (lsof {path}), shorten its "
        "transaction, or raise ?busy_timeout="
    ),
    sqlite3.SQLITE_LOCKED: "is locked by another connection. Close tools that keep a transaction open on it",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full. Free space on it, or raise the quota",
    sqlite3.SQLITE_IOERR: (
        "cannot be read or written (input/output error). Check the disk, its free space, file size limits (ulimit -f) "
        "and the system log"
    ),
    sqlite3.SQLITE_READONLY: (
        "cannot be written. Give the server's user write permission on the file and on its folder (SQLite keeps -wal "
        "and -shm files there)"
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened. Check that it is a file, and that the server's user may read and write it and its folder"
    ),
    sqlite3.SQLITE_PERM: "may not be accessed. Give the server's user permission on the file and its folder",
    sqlite3.SQLITE_CORRUPT: (
        "is damaged. Restore a backup, or move the file and its -wal and -shm files away: sessions then start anew"
    ),
    sqlite3.SQLITE_NOTADB: (
        "is no SQLite database. Name another file, or move it away: a new one is made in its place"
    ),
}
_OTHER = (
    "failed with {kind} ({code}). If it goes on, restart the process and check the file with 'PRAGMA integrity_check'"
)

# After these the connection may be of no use any more: the next call opens another one.
_KEEP_CONNECTION = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})


def code_of(error: sqlite3.Error) -> int:
    """The primary result code, 0 if there is none."""
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def unavailable(error: sqlite3.Error, path: str, outcome: WriteOutcome = "not_applied") -> StoreUnavailable:
    """``error`` as a ``StoreUnavailable`` that says how to mend it.

    SQLite's own text stays out of the message: it may quote what was stored.
    """
    code = code_of(error)
    missing_table = code == sqlite3.SQLITE_ERROR and "no such" in str(error)
    if missing_table:
        cure = "has lost tables. The next call makes them anew, empty; restore a backup to have the sessions back"
    else:
        cure = _CURES.get(code, _OTHER)
    name = getattr(error, "sqlite_errorname", "no code")
    text = cure.format(path=path, kind=type(error).__name__, code=name)
    found = StoreUnavailable(f"The SQLite file {path} {text}.", outcome=outcome)
    found.__cause__ = error
    return found


def breaks_connection(error: sqlite3.Error) -> bool:
    """Whether to open another connection after ``error``."""
    return code_of(error) not in _KEEP_CONNECTION
