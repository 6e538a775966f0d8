"""What looks at many sessions at once: the limit per user, searching, ending by user or link.

Each works inside a transaction of its caller's.
"""

from __future__ import annotations

import sqlite3

from sessiondb.core.change import Applied, apply
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._limit import not_before_of, takes_place, too_late
from sessiondb.stores._sqlite_rows import Rows, to_record
from sessiondb.stores._terms import end_of, is_in_state
from sessiondb.stores.base import Admission, Ended, Login, Page, Query

CHUNK = 500


def admit(rows: Rows, connection: sqlite3.Connection, login: Login) -> Admission:
    """See ``Store.admit``."""
    own = rows.load(connection, [login.sid]).get(login.sid)
    names = (login.user_id, *login.also)
    where = f"WHERE user_id IN ({', '.join('?' * len(names))})"
    found = connection.execute(f"SELECT not_before FROM {rows.users} {where}", names)
    forbidden = not_before_of(login, (row[0] for row in found))
    if own is None or own.ended_at is not None:
        return too_late(own, forbidden)
    if forbidden is not None:
        return Admission("revoked", [_end(rows, connection, own, EndReason.REFUSED, login.now, login)], forbidden)
    if login.per_user is None:
        return Admission()
    # A session that has idled out must not push a living one out, so the real deadlines count.
    unended = connection.execute(f"{rows.select} WHERE user_id = ? AND ended_at IS NULL ORDER BY sid", (login.user_id,))
    living = (record for record in map(to_record, unended) if login.caps.deadline(record) > login.now)
    rivals = [record for record in living if takes_place(record)]
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
            if not is_in_state(record, query):
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
        conditions.append("sid IN (SELECT value FROM json_each(?))")
        values.append(rows.sids_json(query.sids))
    if query.link is not None:
        conditions.append(f"sid IN (SELECT sid FROM {rows.links} WHERE link = ?)")
        values.append(query.link)
    if before is not None:
        conditions.append("sid < ?")
        values.append(before)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    found = connection.execute(f"{rows.select} {where} ORDER BY sid DESC LIMIT {CHUNK}", values)
    return [to_record(row) for row in found]


def end_where(rows: Rows, connection: sqlite3.Connection, query: Query, reason: EndReason) -> list[Ended]:
    """See ``Store.end_where``."""
    if query.not_before is not None and query.user_id is not None:
        latest = "min" if query.lift else "max"
        connection.execute(
            f"INSERT INTO {rows.users} (user_id, not_before) VALUES (?, ?) "
            f"ON CONFLICT (user_id) DO UPDATE SET not_before = {latest}(not_before, excluded.not_before)",
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
    terms: Login | Query,
) -> Ended:
    written, outcome = apply(record, end_of(record, reason, at, terms), at)
    if written is None or not isinstance(outcome, Applied):
        raise RuntimeError("a session that had not been ended could not be ended")
    rows.write_all(connection, written)
    return Ended(record.sid, record.user_id, reason.value, at)
