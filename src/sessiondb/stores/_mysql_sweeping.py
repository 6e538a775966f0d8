"""Sweeping: ends, announcements and purges that are due, the walk after a lifetime was lowered; what is remembered.

As in ``_mysql_sets``, rows are read first and then changed one by one in the order of their sids, each guarded by what
was read: of two sweepers, one finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from sessiondb.core.policy import Caps
from sessiondb.core.record import Record
from sessiondb.core.token import Sid, format_sid
from sessiondb.stores._mysql_connection import Connection, blob, text
from sessiondb.stores._mysql_rows import Statements, deadline, sid_sql, to_record
from sessiondb.stores._mysql_sets import CHUNK, expiry
from sessiondb.stores._terms import FORGOTTEN_AT_ONCE, forgotten_before, is_to_be_purged, next_announcement
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Ended, Swept


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
    statements = [_statement(sql, record, cutoffs) for record in due]
    over = [record.sid for record in due if record.ended_at is not None and is_to_be_purged(record, cutoffs)]
    if over:
        # No end is undone, so whoever deletes the session, its links go.
        statements.append(f"DELETE FROM {sql.links} WHERE {sql.by_sid(over)}")
    for record, answer in zip(due, await connection.transaction(statements), strict=False):
        if not answer.affected:
            continue
        over_at = cutoffs.caps.deadline(record)
        if record.ended_at is None:
            if over_at + SWEEP_GRACE <= cutoffs.now:
                reason = cutoffs.caps.expiry_reason(record)
                done.ended.append(Ended(record.sid, record.user_id, reason.value, over_at))
        elif is_to_be_purged(record, cutoffs):
            done.purged += 1
        elif cutoffs.announce_at is not None:
            done.unannounced.append(Ended(record.sid, record.user_id, record.end_reason or "", record.ended_at))


def _statement(sql: Statements, record: Record, cutoffs: Cutoffs) -> str:
    where = f"WHERE sid = {sid_sql(record.sid)}"
    over_at = cutoffs.caps.deadline(record)
    if record.ended_at is None:
        if over_at + SWEEP_GRACE <= cutoffs.now:
            return expiry(sql, record, cutoffs)
        check_at, state = over_at + SWEEP_GRACE, "ended_at IS NULL"
    elif is_to_be_purged(record, cutoffs):
        return f"DELETE FROM {sql.sessions} {where} AND ended_at IS NOT NULL"
    else:
        check_at, state = next_announcement(record, cutoffs), "ended_at IS NOT NULL"
    return f"UPDATE {sql.sessions} SET check_at = {check_at:d} {where} AND {state} AND check_at = {record.check_at:d}"


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
    late = [(format_sid(sid), int(at)) for sid, at, is_late in found.rows if is_late]
    for start in range(0, len(late), CHUNK):
        await connection.transaction(
            [
                f"UPDATE {sql.sessions} SET check_at = {at:d} WHERE sid = {sid_sql(sid)} AND ended_at IS NULL "
                f"AND check_at > {at:d}"
                for sid, at in late[start : start + CHUNK]
            ]
        )
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
