"""What looks at many sessions at once: the limit per user, searching, ending by user, sweeping.

Each works inside a transaction of its caller's.
"""

from __future__ import annotations

import sqlite3

from sessiondb.core.change import Applied, End, apply, new_change_id
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._sqlite_rows import Rows, to_record
from sessiondb.stores.base import SWEEP_GRACE, Admission, Cutoffs, Ended, Login, Page, Query, Swept

CHUNK = 500


def admit(rows: Rows, connection: sqlite3.Connection, login: Login) -> Admission:
    """See ``Store.admit``."""
    own = rows.load(connection, [login.sid]).get(login.sid)
    if own is None or own.ended_at is not None:
        by_limit = own is not None and own.end_reason == EndReason.LIMIT
        return Admission("limit" if by_limit else "revoked")
    row = connection.execute(f"SELECT not_before FROM {rows.users} WHERE user_id = ?", (login.user_id,)).fetchone()
    if row is not None and row[0] > login.began_at:
        return Admission("revoked", [_end(rows, connection, own, EndReason.REFUSED, login.now, login)])
    if login.per_user is None:
        return Admission()
    # A session that has idled out must not push a living one out, so the real deadlines count.
    unended = connection.execute(f"{rows.select} WHERE user_id = ? AND ended_at IS NULL ORDER BY sid", (login.user_id,))
    rivals = [record for record in map(to_record, unended) if login.caps.deadline(record) > login.now]
    if login.on_limit == "refuse":
        if len(rivals) <= login.per_user:
            return Admission()
        return Admission("limit", [_end(rows, connection, own, EndReason.REFUSED, login.now, login)])
    # The one that asks counts as the newest: sids of one millisecond are in no order.
    rivals.sort(key=lambda record: (record.sid == login.sid, record.sid))
    surplus = rivals[: -login.per_user]
    ended = [_end(rows, connection, record, EndReason.LIMIT, login.now, login) for record in surplus]
    return Admission(None, ended)


def find(rows: Rows, connection: sqlite3.Connection, query: Query) -> Page:
    """See ``Store.find``."""
    found: list[Record] = []
    before = query.before
    while True:
        chunk = _chunk(rows, connection, query, before)
        for record in chunk:
            if not _in_state(record, query):
                continue
            if len(found) == query.limit:
                return Page(found, found[-1].sid if found else None)
            found.append(record)
        if len(chunk) < CHUNK:
            return Page(found)
        before = chunk[-1].sid


def _chunk(rows: Rows, connection: sqlite3.Connection, query: Query, before: Sid | None) -> list[Record]:
    """The next records by user and sids, newest first, whatever their state."""
    conditions: list[str] = []
    values: list[object] = []
    if query.user_id is not None:
        conditions.append("user_id = ?")
        values.append(query.user_id)
    if query.sids is not None:
        # One parameter whatever the number of sids: SQLite bounds the number of parameters.
        conditions.append("sid IN (SELECT value FROM json_each(?))")
        values.append("[" + ",".join(f'"{sid}"' for sid in query.sids) + "]")
    if before is not None:
        conditions.append("sid < ?")
        values.append(before)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    found = connection.execute(f"{rows.select} {where} ORDER BY sid DESC LIMIT {CHUNK}", values)
    return [to_record(row) for row in found]


def end_where(rows: Rows, connection: sqlite3.Connection, query: Query, reason: EndReason) -> list[Ended]:
    """See ``Store.end_where``."""
    if query.not_before is not None and query.user_id is not None:
        connection.execute(
            f"INSERT INTO {rows.users} (user_id, not_before) VALUES (?, ?) "
            "ON CONFLICT (user_id) DO UPDATE SET not_before = max(not_before, excluded.not_before)",
            (query.user_id, query.not_before),
        )
    ended: list[Ended] = []
    before: Sid | None = None
    while True:
        chunk = _chunk(rows, connection, query, before)
        for record in chunk:
            if record.ended_at is not None or record.sid == query.keep:
                continue
            deadline = query.caps.deadline(record)
            if deadline <= query.now:
                _end(rows, connection, record, query.caps.expiry_reason(record), deadline, query)
            else:
                ended.append(_end(rows, connection, record, reason, query.now, query))
        if len(chunk) < CHUNK:
            return ended
        before = chunk[-1].sid


def _end(
    rows: Rows,
    connection: sqlite3.Connection,
    record: Record,
    reason: EndReason,
    at: int,
    terms: Login | Query | Cutoffs,
) -> Ended:
    purge_at = terms.now + terms.keep_ended if isinstance(terms, Cutoffs) else terms.purge_at
    change = End(record.sid, new_change_id(), reason, at, purge_at, None, terms.announce_at)
    written, outcome = apply(record, change, at)
    if written is None or not isinstance(outcome, Applied):
        raise RuntimeError("a session that had not been ended could not be ended")
    rows.write_all(connection, written)
    return Ended(record.sid, record.user_id, reason.value, at)


def sweep(rows: Rows, connection: sqlite3.Connection, cutoffs: Cutoffs, limit: int) -> Swept:
    """See ``Store.sweep``."""
    if not _take_turn(rows, connection, cutoffs):
        return Swept()
    past = connection.execute(f"{rows.select} WHERE check_at <= ? ORDER BY check_at LIMIT ?", (cutoffs.now, limit))
    due = [to_record(row) for row in past]
    ended: list[Ended] = []
    tombstones: list[tuple[Sid]] = []
    later: list[tuple[int, Sid]] = []
    for record in due:
        deadline = cutoffs.caps.deadline(record)
        if record.ended_at is not None:
            tombstones.append((record.sid,))
        elif deadline + SWEEP_GRACE <= cutoffs.now:
            reason = cutoffs.caps.expiry_reason(record)
            ended.append(_end(rows, connection, record, reason, deadline, cutoffs))
        else:
            later.append((deadline + SWEEP_GRACE, record.sid))
    connection.executemany(f"DELETE FROM {rows.sessions} WHERE sid = ?", tombstones)
    connection.executemany(f"UPDATE {rows.sessions} SET check_at = ? WHERE sid = ?", later)
    return Swept(ended, len(tombstones), len(due) == limit)


def _take_turn(rows: Rows, connection: sqlite3.Connection, cutoffs: Cutoffs) -> bool:
    if cutoffs.worker is None:
        return True
    row = connection.execute(f"SELECT value FROM {rows.meta} WHERE key = 'sweeper'").fetchone()
    if row is not None:
        until, _, holder = row[0].partition(" ")
        if holder != cutoffs.worker and int(until) > cutoffs.now:
            return False
    connection.execute(
        f"INSERT INTO {rows.meta} (key, value) VALUES ('sweeper', ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (f"{cutoffs.now + cutoffs.turn} {cutoffs.worker}",),
    )
    return True


def _in_state(record: Record, query: Query) -> bool:
    if query.state == "all":
        return True
    is_live = record.ended_at is None and query.caps.deadline(record) > query.now
    return is_live == (query.state == "live")
