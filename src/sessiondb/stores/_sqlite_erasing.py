"""That what was erased is nowhere in the files any more.

Deleted bytes are overwritten at once (``secure_delete``), but the write-ahead log has what stood there until it is
emptied. And where SQLite has split or joined pages, what moved within one can be left in its unused bytes; only
writing all anew removes that for certain, which is done for small files when a user is forgotten.
"""

from __future__ import annotations

import logging
import sqlite3
import time

from sessiondb.core.errors import StoreUnavailable
from sessiondb.stores._sqlite_rows import Rows
from sessiondb.stores._sqlite_watching import Watched

log = logging.getLogger("sessiondb")

AT_ONCE = 500  # sessions that one transaction deletes, so that other processes get their turn
SMALL = 16 << 20  # bytes of a file that is written anew: no longer than other writers wait for a lock


def forget(rows: Rows, watched: Watched, connection: sqlite3.Connection, user_id: str) -> int:
    """Delete ``AT_ONCE`` sessions of ``user_id``, and all else of the user if they were the last; how many there were.

    Inside a transaction of its caller's.
    """
    found = connection.execute(f"SELECT sid FROM {rows.sessions} WHERE user_id = ? LIMIT {AT_ONCE}", (user_id,))
    sids = [sid for (sid,) in found]
    rows.delete(connection, sids)
    if len(sids) < AT_ONCE:
        connection.execute(f"DELETE FROM {rows.users} WHERE user_id = ?", (user_id,))
        watched.forget(connection, user_id)
    return len(sids)


def write_anew(connection: sqlite3.Connection, path: str, prefix: str) -> None:
    """Write the file anew, if it is small and all tables in it are ours: others' row ids could change by that."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    size = pages * connection.execute("PRAGMA page_size").fetchone()[0]
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    # SQLite's own, such as the statistics of ANALYZE, are nobody's.
    ours = all(name.startswith((prefix, "sqlite_")) for name in names)
    if ours and size <= SMALL:
        connection.execute("VACUUM")
        return
    why = f"is larger than {SMALL >> 20} MiB" if ours else "has tables that are not sessiondb's"
    log.warning(
        "A user was forgotten, and %s was not written anew, because it %s: remains can be left in unused bytes of its "
        "pages. To remove them for certain, at a quiet hour: sqlite3 %s VACUUM",
        path,
        why,
        path,
    )


def empty_log(connection: sqlite3.Connection, path: str, patience: float) -> None:
    """Empty the write-ahead log. Raises ``StoreUnavailable`` if others read the file for longer than ``patience``."""
    end = time.monotonic() + patience
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() >= end:
            raise StoreUnavailable(
                f"The SQLite file {path} shows no more of what was to be erased, but {path}-wal still has it, because "
                "another program has been reading the file for longer than the busy timeout. Find it (lsof "
                f"{path}), have it end its transaction, and repeat this call.",
                outcome="unknown",
            )
        time.sleep(0.002)
