"""Sweeping: ends, announcements and purges that are due, the walk after a lifetime was lowered, and what is remembered.

Each works inside a transaction of its caller's, but ``late_checks``, which only reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from sessiondb.core.change import Applied, apply
from sessiondb.core.policy import Caps
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores._sqlite_rows import Rows, to_record
from sessiondb.stores._terms import FORGOTTEN_AT_ONCE, end_of, forgotten_before, is_to_be_purged, next_announcement
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Ended, Swept

_FIRST = ""  # sorts before every sid


def sweep(rows: Rows, connection: sqlite3.Connection, cutoffs: Cutoffs, limit: int) -> Swept:
    """See ``Store.sweep``."""
    if not _take_turn(rows, connection, cutoffs):
        return Swept()
    past = connection.execute(
        f"{rows.select_bare} WHERE check_at <= ? ORDER BY check_at LIMIT ?", (cutoffs.now, limit)
    ).fetchall()
    due = [to_record(row) for row in past]
    ended: list[Ended] = []
    unannounced: list[Ended] = []
    endings: list[Record] = []
    tombstones: list[Sid] = []
    later: list[tuple[int, Sid]] = []
    for record in due:
        if record.ended_at is not None:
            if is_to_be_purged(record, cutoffs):
                tombstones.append(record.sid)
                continue
            later.append((next_announcement(record, cutoffs), record.sid))
            if cutoffs.announce_at is not None:
                unannounced.append(Ended(record.sid, record.user_id, record.end_reason or "", record.ended_at))
            continue
        deadline = cutoffs.caps.deadline(record)
        if deadline + SWEEP_GRACE > cutoffs.now:
            later.append((deadline + SWEEP_GRACE, record.sid))
            continue
        reason = cutoffs.caps.expiry_reason(record)
        written, outcome = apply(record, end_of(record, reason, deadline, cutoffs), deadline)
        if written is None or not isinstance(outcome, Applied):
            raise RuntimeError("a session that had not been ended could not be ended")
        endings.append(written)
        ended.append(Ended(record.sid, record.user_id, reason.value, deadline))
    rows.write_ends(connection, endings)
    rows.delete(connection, tombstones)
    rows.move_checks(connection, later)
    connection.execute(
        f"DELETE FROM {rows.users} WHERE user_id IN (SELECT user_id FROM {rows.users} WHERE not_before < ? LIMIT ?)",
        (forgotten_before(cutoffs), FORGOTTEN_AT_ONCE),
    )
    return Swept(ended, len(tombstones), len(due) == limit, unannounced)


def _take_turn(rows: Rows, connection: sqlite3.Connection, cutoffs: Cutoffs) -> bool:
    if cutoffs.worker is None:
        return True
    row = connection.execute(f"SELECT value FROM {rows.meta} WHERE key = 'sweeper'").fetchone()
    if row is not None:
        until, _, holder = row[0].partition(" ")
        if holder != cutoffs.worker and int(until) > cutoffs.now:
            return False
    _put_meta(rows, connection, "sweeper", f"{cutoffs.now + cutoffs.turn} {cutoffs.worker}")
    return True


def announced(rows: Rows, connection: sqlite3.Connection, sids: Iterable[Sid]) -> None:
    """See ``Store.announced``."""
    connection.execute(
        f"UPDATE {rows.sessions} SET check_at = purge_at WHERE sid IN (SELECT value FROM json_each(?)) "
        "AND ended_at IS NOT NULL AND check_at < purge_at",
        (rows.sids_json(sids),),
    )


def late_checks(
    rows: Rows, connection: sqlite3.Connection, caps: Caps, after: str | None, limit: int
) -> tuple[list[tuple[int, Sid]], str | None]:
    """Which of the next ``limit`` sessions are looked at too late under ``caps``, and when they should be.

    And the last of the sessions, if there may be more.
    """
    part = connection.execute(
        f"{rows.select_bare} WHERE sid > ? ORDER BY sid LIMIT ?", (_FIRST if after is None else after, limit)
    ).fetchall()
    records = [to_record(row) for row in part]
    late = [
        (latest, record.sid)
        for record in records
        if record.ended_at is None and record.check_at > (latest := caps.deadline(record) + SWEEP_GRACE)
    ]
    return late, records[-1].sid if len(records) == limit else None


def recall(rows: Rows, connection: sqlite3.Connection, name: str) -> str | None:
    """See ``Store.recall``."""
    row = connection.execute(f"SELECT value FROM {rows.meta} WHERE key = ?", (f"note:{name}",)).fetchone()
    return None if row is None else str(row[0])


def remember(rows: Rows, connection: sqlite3.Connection, name: str, text: str) -> None:
    """See ``Store.remember``."""
    _put_meta(rows, connection, f"note:{name}", text)


def _put_meta(rows: Rows, connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute(
        f"INSERT INTO {rows.meta} (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )
