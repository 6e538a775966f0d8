"""Sweeping: ends, announcements and purges that are due, the walk after a lifetime was lowered; what is remembered.

As in ``_mysql_sets``, rows are read first and then changed in the order of their sids, each guarded by what was read:
of two sweepers, one finds nothing left to do. What is the same for many is one statement, which takes the server less
than half the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sessiondb.core.change import End
from sessiondb.core.policy import Caps
from sessiondb.core.record import CHANGE_ID_BYTES, REMEMBERED_CHANGES, Record
from sessiondb.core.token import Sid, format_sid
from sessiondb.stores._mysql_connection import Connection, blob, text
from sessiondb.stores._mysql_rows import Statements, deadline, joined_rows, sid_sql, to_record
from sessiondb.stores._mysql_sets import CHUNK
from sessiondb.stores._terms import FORGOTTEN_AT_ONCE, end_of, forgotten_before, is_to_be_purged, next_announcement
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Ended, Swept

Row = dict[str, str]


class Done:
    """What a sweep has committed so far: it stays, should a later part fail and the sweep begin anew."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.unannounced: list[Ended] = []
        self.purged = 0


async def sweep(sql: Statements, connection: Connection, cutoffs: Cutoffs, limit: int, done: Done) -> Swept:
    """See ``Store.sweep``; adds to ``done`` as it goes."""
    if not await _take_turn(sql, connection, cutoffs):
        return Swept()
    found, past = await connection.run(
        [
            sql.select(f"check_at <= {cutoffs.now:d} ORDER BY check_at LIMIT {limit:d}", data=False),
            f"SELECT user_id FROM {sql.users} WHERE not_before < {forgotten_before(cutoffs):d} "
            f"LIMIT {FORGOTTEN_AT_ONCE}",
        ]
    )
    due = sorted(map(to_record, found.rows), key=lambda record: record.sid)
    for start in range(0, len(due), CHUNK):
        await _look_at(sql, connection, cutoffs, due[start : start + CHUNK], done)
    if past.rows:
        await _forget(sql, connection, cutoffs, sorted(row[0] for row in past.rows))
    return Swept(done.ended, done.purged, len(due) == limit, done.unannounced)


async def _look_at(
    sql: Statements, connection: Connection, cutoffs: Cutoffs, due: Sequence[Record], done: Done
) -> None:
    expired: list[End] = []
    over: list[Sid] = []
    claims: list[Record] = []
    later: list[Row] = []
    for record in due:
        if record.ended_at is not None:
            if is_to_be_purged(record, cutoffs):
                over.append(record.sid)
            else:
                claims.append(record)
            continue
        deadline = cutoffs.caps.deadline(record)
        if deadline + SWEEP_GRACE <= cutoffs.now:
            expired.append(end_of(record, cutoffs.caps.expiry_reason(record), deadline, cutoffs))
        else:
            later.append(
                {"sid": sid_sql(record.sid), "old": f"{record.check_at:d}", "at": f"{deadline + SWEEP_GRACE:d}"}
            )
    records = {record.sid: record for record in due}
    statements = [_ending(sql, expired, records)] if expired else []
    if over:
        statements.append(f"DELETE FROM {sql.sessions} WHERE {sql.by_sid(over)} AND ended_at IS NOT NULL")
        # No end is undone, so whoever deletes the session, its links go.
        statements.append(f"DELETE FROM {sql.links} WHERE {sql.by_sid(over)}")
    if later:
        changes = "s.check_at = v.at WHERE s.ended_at IS NULL AND s.check_at = v.old"
        statements.append(f"UPDATE {_joined(sql, later)} SET {changes}")
    statements += [_claim(sql, record, cutoffs) for record in claims]
    answers = list(await connection.transaction(statements))
    if expired:
        landed = await _landed(sql, connection, expired, answers.pop(0).affected)
        done.ended += [Ended(end.sid, records[end.sid].user_id, end.reason.value, end.at) for end in landed]
    if over:
        done.purged += answers.pop(0).affected
    if claims and cutoffs.announce_at is not None:
        done.unannounced += [
            Ended(record.sid, record.user_id, record.end_reason or "", record.ended_at or 0)
            for record, answer in zip(claims, answers[-len(claims) :], strict=True)
            if answer.affected
        ]


def _ending(sql: Statements, ends: Sequence[End], records: Mapping[Sid, Record]) -> str:
    """End all of ``ends`` that nobody has seen or written since: signing in gives a session another life."""
    rows = [
        {
            "sid": sid_sql(end.sid),
            "id": blob(end.id),
            "at": f"{end.at:d}",
            "reason": text(end.reason.value),
            "rev": f"{records[end.sid].rev:d}",
            "seen": f"{records[end.sid].last_seen_at:d}",
        }
        for end in ends
    ]
    check_at = ends[0].purge_at if ends[0].announce_at is None else min(ends[0].announce_at, ends[0].purge_at)
    return (
        f"UPDATE {_joined(sql, rows)} SET s.rev = s.rev + 1, "
        f"s.last_changes = LEFT(CONCAT(v.id, s.last_changes), {CHANGE_ID_BYTES * REMEMBERED_CHANGES}), "
        f"s.ended_at = v.at, s.end_reason = v.reason, s.check_at = {check_at:d}, s.purge_at = {ends[0].purge_at:d}, "
        "s.salt = NULL, s.data = '{}' WHERE s.ended_at IS NULL AND s.rev = v.rev AND s.last_seen_at = v.seen"
    )


async def _landed(sql: Statements, connection: Connection, ends: Sequence[End], affected: int) -> Sequence[End]:
    """Which of ``ends`` were written, of which ``affected`` is the number."""
    if affected in (0, len(ends)):
        return ends if affected else ()
    where = sql.by_sid(end.sid for end in ends)
    [found] = await connection.run([f"SELECT sid, last_changes FROM {sql.sessions} WHERE {where}"])
    newest = {format_sid(sid): changes[:CHANGE_ID_BYTES] for sid, changes in found.rows}
    return [end for end in ends if newest.get(end.sid) == end.id]


def _claim(sql: Statements, record: Record, cutoffs: Cutoffs) -> str:
    return (
        f"UPDATE {sql.sessions} SET check_at = {next_announcement(record, cutoffs):d} "
        f"WHERE sid = {sid_sql(record.sid)} AND ended_at IS NOT NULL AND check_at = {record.check_at:d}"
    )


def _joined(sql: Statements, rows: Sequence[Row]) -> str:
    """``rows`` as a table ``v``, and the sessions ``s`` of its sids, locked in its order."""
    given = joined_rows([*rows[0]], [[*row.values()] for row in rows])
    return f"{given} AS v STRAIGHT_JOIN {sql.sessions} AS s ON s.sid = v.sid"


async def _forget(sql: Statements, connection: Connection, cutoffs: Cutoffs, users: Sequence[bytes]) -> None:
    # One by one, by the key: a search by time would lock the index before the rows.
    past = f"not_before < {forgotten_before(cutoffs):d}"
    await connection.run([f"DELETE FROM {sql.users} WHERE user_id = {blob(user)} AND {past}" for user in users])


async def _take_turn(sql: Statements, connection: Connection, cutoffs: Cutoffs) -> bool:
    if cutoffs.worker is None:
        return True
    mine = text(f"{cutoffs.now + cutoffs.turn} {cutoffs.worker}")
    worker = text(cutoffs.worker)
    _, found = await connection.run(
        [
            f"INSERT INTO {sql.meta} (name, value) VALUES ('sweeper', {mine}) ON DUPLICATE KEY UPDATE value = "
            f"IF(SUBSTRING_INDEX(value, ' ', -1) = {worker} "
            f"OR CAST(SUBSTRING_INDEX(value, ' ', 1) AS SIGNED) <= {cutoffs.now:d}, {mine}, value)",
            f"SELECT SUBSTRING_INDEX(value, ' ', -1) = {worker} FROM {sql.meta} WHERE name = 'sweeper'",
        ]
    )
    return bool(found.rows and found.rows[0][0])


async def announced(sql: Statements, connection: Connection, sids: Sequence[Sid]) -> None:
    """See ``Store.announced``."""
    statements = [
        f"UPDATE {sql.sessions} SET check_at = purge_at WHERE sid = {sid_sql(sid)} AND ended_at IS NOT NULL "
        "AND check_at < purge_at"
        for sid in sorted(sids)
    ]
    for start in range(0, len(statements), CHUNK):
        await connection.transaction(statements[start : start + CHUNK])


async def lower_checks(
    sql: Statements, connection: Connection, caps: Caps, after: str | None, limit: int
) -> str | None:
    """See ``Store.lower_checks``; by sid. Only what is found late is locked and written."""
    time = f"{deadline(caps)} + {SWEEP_GRACE}"
    where = "TRUE" if after is None else f"sid > {sid_sql(after)}"
    [found] = await connection.run(
        [
            f"SELECT sid, {time}, ended_at IS NULL AND check_at > {time} FROM {sql.sessions} WHERE {where} "
            f"ORDER BY sid LIMIT {limit:d}"
        ]
    )
    late: list[Row] = [{"sid": blob(sid), "at": f"{at:d}"} for sid, at, is_late in found.rows if is_late]
    for start in range(0, len(late), CHUNK):
        joined = _joined(sql, late[start : start + CHUNK])
        await connection.run([f"UPDATE {joined} SET s.check_at = v.at WHERE s.ended_at IS NULL AND s.check_at > v.at"])
    return format_sid(found.rows[-1][0]) if len(found.rows) == limit else None


async def recall(sql: Statements, connection: Connection, name: str) -> str | None:
    """See ``Store.recall``."""
    [found] = await connection.run([f"SELECT value FROM {sql.meta} WHERE name = {text(f'note:{name}')}"])
    return found.rows[0][0].decode() if found.rows else None


async def remember(sql: Statements, connection: Connection, name: str, value: str) -> None:
    """See ``Store.remember``."""
    written = text(value)
    await connection.run(
        [
            f"INSERT INTO {sql.meta} (name, value) VALUES ({text(f'note:{name}')}, {written}) "
            f"ON DUPLICATE KEY UPDATE value = {written}"
        ]
    )
