"""What looks at many sessions at once: the limit per user, searching, ending by user or link, counting.

A secondary index is never read with a lock: InnoDB would lock its entries before the rows, in another order than
everybody else. So sids are read first, and their rows locked or changed one by one in the order of the sids.
"""

from __future__ import annotations

from collections.abc import Sequence

from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import format_sid
from sessiondb.stores._limit import not_before_of, rivals_of, too_late
from sessiondb.stores._mysql_connection import Connection, blob, text
from sessiondb.stores._mysql_parts import Again
from sessiondb.stores._mysql_rows import Statements, deadline, sid_sql, to_record
from sessiondb.stores._terms import end_of
from sessiondb.stores.base import (
    Admission,
    Ended,
    Login,
    Page,
    Query,
    Stats,
)

CHUNK = 200
_PASSES = 3


async def admit(sql: Statements, connection: Connection, login: Login) -> Admission:
    """See ``Store.admit``."""
    user = blob(login.user_id.encode())
    names = ", ".join((user, *(blob(name.encode()) for name in login.also)))
    where = f"user_id = {user} AND (ended_at IS NULL OR sid = {sid_sql(login.sid)})"
    locks, found = await connection.run(
        [f"SELECT not_before FROM {sql.users} WHERE user_id IN ({names})", sql.select(where, data=False)]
    )
    records = [to_record(row) for row in found.rows]
    own = next((record for record in records if record.sid == login.sid), None)
    forbidden = not_before_of(login, (row[0] for row in locks.rows))
    if own is None or own.ended_at is not None:
        return too_late(own, forbidden)
    if forbidden is not None:
        return Admission("revoked", await _end(sql, connection, [own], EndReason.REFUSED, login), forbidden)
    if login.per_user is None:
        return Admission()
    rivals, most = rivals_of(login, login.per_user, records)
    if len(rivals) <= most:
        return Admission()
    return await _push_out(sql, connection, login, rivals, most)


async def _push_out(
    sql: Statements, connection: Connection, login: Login, rivals: list[Record], most: int
) -> Admission:
    """Lock the rivals and count them again, so that concurrent logins do not end each other."""
    where = f"{sql.by_sid(sorted(record.sid for record in rivals))}"
    _, found = await connection.run(
        ["START TRANSACTION", f"SELECT sid, ended_at FROM {sql.sessions} WHERE {where} ORDER BY sid FOR UPDATE"]
    )
    living = {format_sid(sid) for sid, ended_at in found.rows if ended_at is None}
    if login.sid not in living:
        await connection.run(["ROLLBACK"])
        return Admission("limit")  # a newer login has pushed this one out
    surplus = [record for record in rivals if record.sid in living][: max(0, len(living) - most)]
    refuses = login.on_limit == "refuse"
    if refuses:
        surplus = [record for record in rivals if record.sid == login.sid] if surplus else []
    reason = EndReason.REFUSED if refuses else EndReason.LIMIT
    statements = _ends(sql, surplus, reason, login)
    await connection.run([*statements, "COMMIT"])
    ended = [Ended(record.sid, record.user_id, reason.value, login.now) for record in surplus]
    return Admission("limit" if refuses and surplus else None, ended)


def _ends(sql: Statements, records: Sequence[Record], reason: EndReason, login: Login) -> list[str]:
    ordered = sorted(records, key=lambda record: record.sid)
    return [sql.end(end_of(record, reason, login.now, login)) for record in ordered]


async def _end(
    sql: Statements, connection: Connection, records: Sequence[Record], reason: EndReason, login: Login
) -> list[Ended]:
    answers = await connection.transaction(_ends(sql, records, reason, login))
    return [
        Ended(record.sid, record.user_id, reason.value, login.now)
        for record, answer in zip(records, answers, strict=True)
        if answer.affected
    ]


async def find(sql: Statements, connection: Connection, query: Query) -> Page:
    """See ``Store.find``."""
    conditions = [_condition(sql, query)]
    if query.before is not None:
        conditions.append(f"sid < {sid_sql(query.before)}")
    if query.state != "all":
        living = f"(ended_at IS NULL AND {deadline(query.caps)} > {query.now:d})"
        conditions.append(living if query.state == "live" else f"NOT {living}")
    where = " AND ".join(conditions)
    [found] = await connection.run([f"{sql.select(where)} ORDER BY sid DESC LIMIT {query.limit + 1:d}"])
    records = [to_record(row) for row in found.rows[: query.limit]]
    return Page(records, records[-1].sid if len(found.rows) > len(records) > 0 else None)


def _condition(sql: Statements, query: Query) -> str:
    conditions = ["TRUE"]
    if query.user_id is not None:
        conditions.append(f"user_id = {blob(query.user_id.encode())}")
    if query.sids is not None:
        conditions.append(sql.by_sid(query.sids))
    if query.link is not None:
        conditions.append(f"sid IN (SELECT sid FROM {sql.links} WHERE link = {blob(query.link)})")
    return " AND ".join(conditions)


async def end_where(
    sql: Statements, connection: Connection, query: Query, reason: EndReason, ended: list[Ended]
) -> None:
    """See ``Store.end_where``. Adds to ``ended`` as it goes: what is committed stays, should a later part fail."""
    first: list[str] = []
    if query.not_before is not None and query.user_id is not None:
        # Committed by itself: a login that does not see it yet has written a session that the next statement sees.
        latest = "LEAST" if query.lift else "GREATEST"
        first.append(
            f"INSERT INTO {sql.users} (user_id, not_before) "
            f"VALUES ({blob(query.user_id.encode())}, {query.not_before:d}) "
            f"ON DUPLICATE KEY UPDATE not_before = {latest}(not_before, {query.not_before:d})"
        )
    select = sql.select(f"{_condition(sql, query)} AND ended_at IS NULL", data=False)
    for passes_left in range(_PASSES, 0, -1):
        *_, found = await connection.run([*first, select])
        first = []
        records = sorted(map(to_record, found.rows), key=lambda record: record.sid)
        living = [record for record in records if record.sid != query.keep]
        missed = False
        for start in range(0, len(living), CHUNK):
            part = living[start : start + CHUNK]
            over = {record.sid for record in part if query.caps.deadline(record) <= query.now and passes_left > 1}
            endings = [
                _expiry(sql, record, query) if record.sid in over else sql.end(end_of(record, reason, query.now, query))
                for record in part
            ]
            for record, answer in zip(part, await connection.transaction(endings), strict=True):
                if record.sid in over:
                    missed = missed or not answer.affected
                elif answer.affected:
                    ended.append(Ended(record.sid, record.user_id, reason.value, query.now))
        if not missed:
            break
        # Somebody was there after the reading. Still so at the last look, they are ended for the reason that was given.


def _expiry(sql: Statements, record: Record, terms: Query) -> str:
    """End ``record`` as expired, unless it was seen or written since: signing in gives it another life."""
    guard = f" AND last_seen_at = {record.last_seen_at:d} AND rev = {record.rev:d}"
    reason = terms.caps.expiry_reason(record)
    return sql.end(end_of(record, reason, terms.caps.deadline(record), terms), guard)


async def forget_user(sql: Statements, again: Again, user_id: str) -> int:
    """See ``Store.forget_user``; until nobody is found any more."""
    forgotten, more = 0, True
    while more:
        more, deleted = await again(lambda connection: _forget_some(sql, connection, user_id))
        forgotten += deleted
    user = blob(user_id.encode())
    names = [f"DELETE FROM {table} WHERE user_id = {user}" for table in (sql.users, sql.histories)]
    await again(lambda connection: connection.transaction(names))
    return forgotten


async def _forget_some(sql: Statements, connection: Connection, user_id: str) -> tuple[bool, int]:
    """Delete some sessions of ``user_id``, and their links: whether there were any, and how many this call deleted."""
    [found] = await connection.run(
        [f"SELECT sid FROM {sql.sessions} WHERE user_id = {blob(user_id.encode())} LIMIT {CHUNK}"]
    )
    if not found.rows:
        return False, 0
    where = sql.by_sid(sorted(format_sid(sid) for (sid,) in found.rows))
    deleted, _ = await connection.transaction(
        [f"DELETE FROM {sql.sessions} WHERE {where}", f"DELETE FROM {sql.links} WHERE {where}"]
    )
    return True, deleted.affected


async def stats(sql: Statements, connection: Connection) -> Stats:
    """See ``Store.stats``."""
    names = ", ".join(map(text, sql.tables))
    counts, number, size = await connection.run(
        [
            "SELECT CAST(coalesce(sum(ended_at IS NULL), 0) AS SIGNED), count(ended_at), "
            f"count(DISTINCT IF(ended_at IS NULL, user_id, NULL)) FROM {sql.sessions}",
            f"SELECT count(*) FROM {sql.events}",
            "SELECT CAST(sum(data_length + index_length) AS SIGNED) FROM information_schema.tables "
            f"WHERE table_schema = DATABASE() AND table_name IN ({names})",
        ]
    )
    live, ended, users = counts.rows[0]
    return Stats(live=live, ended=ended, users=users, events=number.rows[0][0], size_bytes=size.rows[0][0])
