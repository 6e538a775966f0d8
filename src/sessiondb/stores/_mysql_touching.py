"""Many lone touches in one call."""

from __future__ import annotations

from collections.abc import Sequence

from sessiondb.core.change import Applied, Update
from sessiondb.core.token import format_sid
from sessiondb.stores._mysql_connection import Connection
from sessiondb.stores._mysql_rows import Statements
from sessiondb.stores._touching import Results, settled


async def touch_free(sql: Statements, connection: Connection, changes: Sequence[Update]) -> Results:
    """Touch those that nobody holds. One statement, whose count says whether that was all; two packets more if not."""
    [answer] = await connection.run([sql.touch(changes)])
    if answer.affected == len(changes):
        return {change.sid: Applied(0) for change in changes}
    where = sql.by_sid(sorted(change.sid for change in changes))
    _, there, locked = await connection.run(
        [
            "START TRANSACTION",
            f"SELECT sid, ended_at, end_reason FROM {sql.sessions} WHERE {where}",
            f"SELECT sid FROM {sql.sessions} WHERE {where} AND ended_at IS NULL ORDER BY sid FOR UPDATE SKIP LOCKED",
        ]
    )
    touched = {format_sid(sid) for (sid,) in locked.rows}
    free = [change for change in changes if change.sid in touched]
    await connection.run([*([sql.touch(free, free=False)] if free else []), "COMMIT"])
    reasons = {format_sid(sid): None if reason is None else reason.decode() for sid, _, reason in there.rows}
    living = {format_sid(sid) for sid, ended_at, _ in there.rows if ended_at is None}
    return settled(changes, touched, reasons, living)
