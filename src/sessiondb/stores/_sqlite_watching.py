"""Histories of logins, counters and sheets. What writes works inside a transaction of its caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from sessiondb.stores._sqlite_rows import MOST_ROWS, marks, run
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet

ITEMS_AT_ONCE = 10_000  # counters that go in one call: a bucket may have many more than other things have rows
_COUNTERS = 50  # that one statement reads


class Watched:
    """The statements for the tables with one prefix."""

    def __init__(self, prefix: str) -> None:
        self._histories = f"{prefix}histories"
        self._buckets = f"{prefix}buckets"
        self._counters = f"{prefix}counters"
        self._sheets = f"{prefix}sheets"
        # Joined blobs are a text to SQLite, whose bytes are those of the blobs.
        self._record = (
            f"INSERT INTO {self._histories} AS h (user_id, logins, expires_at) VALUES {{rows}} "
            "ON CONFLICT (user_id) DO UPDATE SET expires_at = excluded.expires_at, "
            f"logins = substr(CAST(excluded.logins || h.logins AS BLOB), 1, {HISTORY_ENTRIES * HISTORY_ENTRY_BYTES})"
        )
        self._history = f"(SELECT logins FROM {self._histories} WHERE user_id = ?)"
        self._total = f"(SELECT total FROM {self._counters} WHERE bucket = ? AND item = ?)"
        self._bucket = (
            f"INSERT INTO {self._buckets} (bucket, items, expires_at) VALUES (?, ?, ?) "
            "ON CONFLICT (bucket) DO UPDATE SET items = items + excluded.items, expires_at = excluded.expires_at"
        )
        self._count = (
            f"INSERT INTO {self._counters} AS c (bucket, item, total) VALUES {{rows}} "
            "ON CONFLICT (bucket, item) DO UPDATE SET total = c.total + excluded.total"
        )
        self._publish = (
            f"INSERT INTO {self._sheets} (kind, bucket, writer, data, expires_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (kind, bucket, writer) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at"
        )

    # -- logins -------------------------------------------------------------------------------------------

    def profile(self, connection: sqlite3.Connection, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``; one statement, unless there are very many counters."""
        history = b""
        counts: list[int] = []
        for start in range(0, max(1, len(counters)), _COUNTERS):
            part = counters[start : start + _COUNTERS]
            values = [user_id, *(value for counter in part for value in counter)]
            wanted = ", ".join([self._history, *[self._total] * len(part)])
            found, *totals = connection.execute(f"SELECT {wanted}", values).fetchone()
            history = found or b""
            counts += [total or 0 for total in totals]
        return Profile(history, counts)

    def record_logins(
        self, connection: sqlite3.Connection, logins: Sequence[tuple[str, bytes]], expires_at: int
    ) -> None:
        """See ``Store.record_logins``."""
        run(connection, self._record, [(user_id, entry, expires_at) for user_id, entry in logins])

    def drop_login(self, connection: sqlite3.Connection, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        row = connection.execute(f"SELECT logins FROM {self._histories} WHERE user_id = ?", (user_id,)).fetchone()
        history = b"" if row is None else row[0]
        entries = [history[at : at + HISTORY_ENTRY_BYTES] for at in range(0, len(history), HISTORY_ENTRY_BYTES)]
        if entry not in entries:
            return False
        entries.remove(entry)
        connection.execute(f"UPDATE {self._histories} SET logins = ? WHERE user_id = ?", (b"".join(entries), user_id))
        return True

    def forget(self, connection: sqlite3.Connection, user_id: str) -> None:
        """The history of ``user_id`` goes."""
        connection.execute(f"DELETE FROM {self._histories} WHERE user_id = ?", (user_id,))

    # -- counters -----------------------------------------------------------------------------------------

    def count(
        self, connection: sqlite3.Connection, bucket: str, adds: Mapping[bytes, int], most: int, expires_at: int
    ) -> None:
        """See ``Store.count``. Nobody else writes meanwhile, so a full bucket is full."""
        row = connection.execute(f"SELECT items FROM {self._buckets} WHERE bucket = ?", (bucket,)).fetchone()
        room = most - (0 if row is None else row[0])
        known = self._known(connection, bucket, list(adds))
        new = [key for key in adds if key not in known][: max(0, room)]
        connection.execute(self._bucket, (bucket, len(new), expires_at))
        run(connection, self._count, [(bucket, key, adds[key]) for key in (*known, *new)])

    def _known(self, connection: sqlite3.Connection, bucket: str, keys: Sequence[bytes]) -> set[bytes]:
        """Those of ``keys`` that the bucket has."""
        found: set[bytes] = set()
        for start in range(0, len(keys), MOST_ROWS):
            part = keys[start : start + MOST_ROWS]
            found.update(
                item
                for (item,) in connection.execute(
                    f"SELECT item FROM {self._counters} WHERE bucket = ? AND item IN ({marks(len(part))})",
                    (bucket, *part),
                )
            )
        return found

    # -- sheets -------------------------------------------------------------------------------------------

    def publish(self, connection: sqlite3.Connection, sheets: Iterable[Sheet]) -> None:
        """See ``Store.publish``."""
        connection.executemany(
            self._publish, [(one.kind, one.bucket, one.writer, one.data, one.expires_at) for one in sheets]
        )

    def sheets(self, connection: sqlite3.Connection, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        found = connection.execute(
            f"SELECT kind, bucket, writer, data, expires_at FROM {self._sheets} "
            "WHERE kind = ? AND bucket >= ? AND bucket < ? ORDER BY bucket, writer",
            (kind, since, until),
        )
        return [Sheet(*row) for row in found.fetchall()]

    def withdraw(self, connection: sqlite3.Connection, sheets: Iterable[Sheet]) -> None:
        """See ``Store.withdraw``."""
        connection.executemany(
            f"DELETE FROM {self._sheets} WHERE kind = ? AND bucket = ? AND writer = ?",
            [(one.kind, one.bucket, one.writer) for one in sheets],
        )

    # -- what is over -------------------------------------------------------------------------------------

    def expire(self, connection: sqlite3.Connection, now: int, limit: int) -> int:
        """See ``Store.expire``. A bucket goes when the last of its counters has gone, which may take several calls."""
        gone = 0
        for table in (self._histories, self._sheets):
            gone += connection.execute(
                f"DELETE FROM {table} WHERE rowid IN "
                f"(SELECT rowid FROM {table} WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                (now, limit),
            ).rowcount
        past = connection.execute(
            f"SELECT bucket, items FROM {self._buckets} WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (now, limit)
        ).fetchall()
        room = ITEMS_AT_ONCE
        for bucket, items in past:
            if room <= 0:
                break
            room -= self._empty(connection, bucket, items, room)
            gone += 1
        return gone

    def _empty(self, connection: sqlite3.Connection, bucket: str, items: int, most: int) -> int:
        """Delete so many of the counters of ``bucket``, and the bucket with the last; how many counters there were."""
        gone = connection.execute(
            f"DELETE FROM {self._counters} WHERE bucket = ? AND item IN "
            f"(SELECT item FROM {self._counters} WHERE bucket = ? LIMIT ?)",
            (bucket, bucket, most),
        ).rowcount
        if gone < items:
            connection.execute(f"UPDATE {self._buckets} SET items = ? WHERE bucket = ?", (items - gone, bucket))
        else:
            connection.execute(f"DELETE FROM {self._buckets} WHERE bucket = ?", (bucket,))
        return gone
