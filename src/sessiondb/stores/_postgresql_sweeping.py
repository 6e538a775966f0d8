"""Sweeping: ends, announcements and purges that are due, the walk after a lifetime was lowered; what is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sessiondb.core.policy import Caps
from sessiondb.core.token import Sid
from sessiondb.stores._postgresql_statements import Statements, deadline, expiry_reason, with_caps
from sessiondb.stores._terms import FORGOTTEN_AT_ONCE, forgotten_before
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Ended, Swept

_FIRST = "00000000-0000-0000-0000-000000000000"


async def sweep(sql: Statements, connection: Any, cutoffs: Cutoffs, limit: int) -> Swept:
    """See ``Store.sweep``."""
    if not await _take_turn(sql, connection, cutoffs):
        return Swept()
    values: list[object] = [
        cutoffs.now,
        limit,
        cutoffs.now + cutoffs.keep_ended,
        cutoffs.announce_at,
        forgotten_before(cutoffs),
    ]
    ending = sql.end(ended_at="due.deadline", reason="due.reason", purge_at="$3::bigint", announce_at="$4::bigint")
    told = "s.sid, s.user_id, s.end_reason, s.ended_at"
    # Who holds a row that is due keeps it until the next pass, and who comes second finds it moved on: what is claimed
    # here is claimed once. A sign-in adds links under the lock of a living row, so none comes after its purge.
    statement = with_caps(
        f"WITH due AS MATERIALIZED (SELECT sid, ended_at, purge_at, {deadline()} AS deadline, "
        f"{expiry_reason()} AS reason, ended_at IS NOT NULL AND coalesce(purge_at, 0) <= $1::bigint AS is_over "
        f"FROM {sql.sessions} WHERE check_at <= $1::bigint ORDER BY check_at LIMIT $2::bigint "
        f"FOR UPDATE SKIP LOCKED), "
        f"purged AS (DELETE FROM {sql.sessions} AS s WHERE {_named('s', 'is_over')} RETURNING s.sid), "
        f"unlinked AS (DELETE FROM {sql.links} AS l WHERE {_named('l', 'is_over')}), "
        f"claimed AS (UPDATE {sql.sessions} AS s SET check_at = least($4::bigint, due.purge_at) FROM due "
        f"WHERE s.sid = due.sid AND {_named('s', 'ended_at IS NOT NULL AND NOT is_over')} RETURNING {told}), "
        f"ended AS (UPDATE {sql.sessions} AS s SET {ending} FROM due WHERE s.sid = due.sid "
        f"AND {_named('s', f'ended_at IS NULL AND deadline + {SWEEP_GRACE} <= $1::bigint')} RETURNING {told}), "
        f"later AS (UPDATE {sql.sessions} AS s SET check_at = due.deadline + {SWEEP_GRACE} FROM due "
        f"WHERE s.sid = due.sid "
        f"AND {_named('s', f'ended_at IS NULL AND deadline + {SWEEP_GRACE} > $1::bigint')}), "
        f"forgotten AS (DELETE FROM {sql.users} WHERE not_before < $5::bigint AND user_id = ANY (ARRAY("
        f"SELECT user_id FROM {sql.users} WHERE not_before < $5::bigint LIMIT {FORGOTTEN_AT_ONCE} "
        f"FOR UPDATE SKIP LOCKED))) "
        f"SELECT sid::text, user_id, end_reason, ended_at, true, NULL::bigint, NULL::bigint FROM ended UNION ALL "
        f"SELECT sid::text, user_id, end_reason, ended_at, false, NULL, NULL FROM claimed "
        f"WHERE $4::bigint IS NOT NULL UNION ALL "
        f"SELECT NULL, NULL, NULL, NULL, NULL, (SELECT count(*) FROM purged), (SELECT count(*) FROM due)",
        cutoffs.caps,
        values,
    )
    *rows, (*_, purged, due) = await connection.fetch(statement, *values)
    ended = [Ended(*row[:4]) for row in rows if row[4]]
    return Swept(ended, purged, due == limit, [Ended(*row[:4]) for row in rows if not row[4]])


def _named(table: str, condition: str) -> str:
    """Those of ``due``. As an array: a planner that misjudges how many there are would look through all for them."""
    return f"{table}.sid = ANY (ARRAY(SELECT due.sid FROM due WHERE {condition}))"


async def _take_turn(sql: Statements, connection: Any, cutoffs: Cutoffs) -> bool:
    if cutoffs.worker is None:
        return True
    row = await connection.fetchrow(
        f"INSERT INTO {sql.meta} AS m (key, value) VALUES ('sweeper', $1) ON CONFLICT (key) DO UPDATE "
        "SET value = excluded.value WHERE split_part(m.value, ' ', 2) = $2 "
        "OR split_part(m.value, ' ', 1)::bigint <= $3 "
        "RETURNING 1",
        f"{cutoffs.now + cutoffs.turn} {cutoffs.worker}",
        cutoffs.worker,
        cutoffs.now,
    )
    return row is not None


async def announced(sql: Statements, connection: Any, sids: Sequence[Sid]) -> None:
    """See ``Store.announced``."""
    await connection.execute(
        f"WITH locked AS MATERIALIZED (SELECT sid FROM {sql.sessions} WHERE sid = ANY($1::uuid[]) "
        f"AND ended_at IS NOT NULL AND check_at < purge_at ORDER BY sid FOR NO KEY UPDATE) "
        f"UPDATE {sql.sessions} AS s SET check_at = s.purge_at FROM locked WHERE s.sid = locked.sid "
        f"AND s.check_at < s.purge_at",
        list(sids),
    )


async def lower_checks(sql: Statements, connection: Any, caps: Caps, after: str | None, limit: int) -> str | None:
    """See ``Store.lower_checks``; by sid. Only what is found late is locked and written."""
    values: list[object] = [_FIRST if after is None else after, limit]
    statement = with_caps(
        f"WITH part AS MATERIALIZED (SELECT sid, ended_at IS NULL AND check_at > {deadline()} + {SWEEP_GRACE} AS late "
        f"FROM {sql.sessions} WHERE sid > $1::uuid ORDER BY sid LIMIT $2::bigint), "
        f"locked AS MATERIALIZED (SELECT sid FROM {sql.sessions} "
        f"WHERE sid = ANY (ARRAY(SELECT sid FROM part WHERE late)) ORDER BY sid FOR NO KEY UPDATE), "
        f"lowered AS (UPDATE {sql.sessions} AS s SET check_at = least(s.check_at, {deadline('s.')} + {SWEEP_GRACE}) "
        f"FROM locked WHERE s.sid = locked.sid AND s.ended_at IS NULL) "
        f"SELECT count(*), (SELECT sid::text FROM part ORDER BY sid DESC LIMIT 1) FROM part",
        caps,
        values,
    )
    looked_at, last = await connection.fetchrow(statement, *values)
    return last if looked_at == limit else None


async def recall(sql: Statements, connection: Any, name: str) -> str | None:
    """See ``Store.recall``."""
    found: str | None = await connection.fetchval(f"SELECT value FROM {sql.meta} WHERE key = $1", f"note:{name}")
    return found


async def remember(sql: Statements, connection: Any, name: str, text: str) -> None:
    """See ``Store.remember``."""
    await connection.execute(
        f"INSERT INTO {sql.meta} (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        f"note:{name}",
        text,
    )
