"""What looks at many sessions at once: the limit per user, searching, ending by user or link, counting."""

from __future__ import annotations

from typing import Any

from sessiondb.core.record import EndReason, Record
from sessiondb.stores._limit import not_before_of, rivals_of, too_late
from sessiondb.stores._postgresql_statements import Statements, columns, deadline, expiry_reason, with_caps
from sessiondb.stores.base import (
    Admission,
    Ended,
    Login,
    Page,
    Query,
    Stats,
)

COUNT_EXACTLY = 1_000_000
_SAMPLE = 1  # percent


async def admit(sql: Statements, connection: Any, login: Login) -> Admission:
    """See ``Store.admit``.

    The first statement sees every login whose session was written before it. Only if that makes too many are they
    locked and counted again, so that concurrent logins do not end each other.
    """
    found = await connection.fetch(
        f"SELECT (SELECT max(not_before) FROM {sql.users} WHERE user_id = ANY($3)) AS not_before, "
        f"{columns(data=False)} FROM {sql.sessions} WHERE user_id = $1 AND (ended_at IS NULL OR sid = $2)",
        login.user_id,
        login.sid,
        [login.user_id, *login.also],
    )
    records = [Record(*row[1:]) for row in found]
    own = next((record for record in records if record.sid == login.sid), None)
    forbidden = not_before_of(login, (row[0] for row in found[:1]))
    if own is None or own.ended_at is not None:
        return too_late(own, forbidden)
    if forbidden is not None:
        ended = await _end_surplus(sql, connection, login, [own], 0, EndReason.REFUSED)
        return Admission("revoked", ended, forbidden)
    if login.per_user is None:
        return Admission()
    rivals, most = rivals_of(login, login.per_user, records)
    if len(rivals) <= most:
        return Admission()
    if login.on_limit == "refuse":
        ended = await _end_surplus(sql, connection, login, rivals[::-1], most, EndReason.REFUSED)
        return Admission("limit" if ended else None, ended)
    ended = await _end_surplus(sql, connection, login, rivals, most, EndReason.LIMIT)
    if not ended:
        # Nothing to end: either somebody left meanwhile, or a newer login has ended this one.
        rows = await connection.fetch(f"SELECT {columns(data=False)} FROM {sql.sessions} WHERE sid = $1", login.sid)
        own = Record(*rows[0]) if rows else None
        if own is None or own.ended_at is not None:
            return too_late(own, None)
    return Admission(None, ended)


async def _end_surplus(
    sql: Statements, connection: Any, login: Login, rivals: list[Record], keep: int, reason: EndReason
) -> list[Ended]:
    """End the first of ``rivals`` until no more than ``keep`` are left; nobody, once ``login`` itself has been ended.

    With ``EndReason.REFUSED`` it is only ever ``login`` that is ended.
    """
    values: list[object] = [
        [record.sid for record in rivals],
        login.sid,
        keep,
        reason == EndReason.REFUSED,
        login.now,
        str(reason),
        login.purge_at,
        login.announce_at,
    ]
    ending = sql.end(ended_at="$5::bigint", reason="$6::text", purge_at="$7::bigint", announce_at="$8::bigint")
    statement = (
        f"WITH locked AS MATERIALIZED ("
        f"SELECT sid FROM {sql.sessions} WHERE sid = ANY($1::uuid[]) AND ended_at IS NULL "
        f"ORDER BY sid FOR NO KEY UPDATE), "
        f"surplus AS (SELECT sid FROM locked WHERE EXISTS (SELECT FROM locked WHERE sid = $2::uuid) "
        f"ORDER BY array_position($1::uuid[], sid) LIMIT greatest((SELECT count(*) FROM locked) - $3::bigint, 0)) "
        f"UPDATE {sql.sessions} AS s SET {ending} FROM surplus "
        f"WHERE s.sid = surplus.sid AND s.ended_at IS NULL AND (s.sid = $2::uuid OR NOT $4::boolean) "
        f"RETURNING s.sid::text, s.user_id, s.end_reason, s.ended_at"
    )
    return [Ended(*row) for row in await connection.fetch(statement.format(), *values)]


async def find(sql: Statements, connection: Any, query: Query) -> Page:
    """See ``Store.find``."""
    values: list[object] = []
    conditions = _conditions(sql, query, values)
    if query.before is not None:
        values.append(query.before)
        conditions.append(f"sid < ${len(values)}::uuid")
    if query.state != "all":
        values.append(query.now)
        living = f"(ended_at IS NULL AND {deadline()} > ${len(values)}::bigint)"
        conditions.append(with_caps(living if query.state == "live" else f"NOT {living}", query.caps, values))
    values.append(query.limit + 1)
    found = await connection.fetch(
        f"SELECT {columns()} FROM {sql.sessions} WHERE {' AND '.join(conditions)} ORDER BY {sql.sessions}.sid DESC "
        f"LIMIT ${len(values)}::bigint",
        *values,
    )
    records = [Record(*row) for row in found[: query.limit]]
    return Page(records, records[-1].sid if len(found) > len(records) > 0 else None)


def _conditions(sql: Statements, query: Query, values: list[object]) -> list[str]:
    conditions = ["true"]
    if query.user_id is not None:
        values.append(query.user_id)
        conditions.append(f"user_id = ${len(values)}")
    if query.sids is not None:
        values.append(list(query.sids))
        conditions.append(f"sid = ANY(${len(values)}::uuid[])")
    if query.link is not None:
        # As an array: a planner that misjudges how many there are would look through all sessions for them.
        values.append(query.link)
        conditions.append(f"sid = ANY(ARRAY(SELECT sid FROM {sql.links} WHERE link = ${len(values)}))")
    return conditions


async def end_where(sql: Statements, connection: Any, query: Query, reason: EndReason) -> list[Ended]:
    """See ``Store.end_where``."""
    if query.not_before is not None and query.user_id is not None:
        # By itself: a login that does not see it yet has written a session that the next statement sees.
        latest = "least" if query.lift else "greatest"
        await connection.execute(
            f"INSERT INTO {sql.users} AS u (user_id, not_before) VALUES ($1, $2) "
            f"ON CONFLICT (user_id) DO UPDATE SET not_before = {latest}(u.not_before, excluded.not_before)",
            query.user_id,
            query.not_before,
        )
    values: list[object] = [query.now, str(reason), query.purge_at, query.announce_at]
    conditions = _conditions(sql, query, values)
    if query.keep is not None:
        values.append(query.keep)
        conditions.append(f"sid <> ${len(values)}::uuid")
    ending = sql.end(
        ended_at=f"least($1::bigint, {deadline('s.')})",
        reason=f"CASE WHEN {deadline('s.')} <= $1::bigint THEN {expiry_reason('s.')} ELSE $2::text END",
        purge_at="$3::bigint",
        announce_at="$4::bigint",
    )
    statement = with_caps(
        f"WITH locked AS MATERIALIZED (SELECT sid FROM {sql.sessions} "
        f"WHERE {' AND '.join(conditions)} AND ended_at IS NULL ORDER BY sid FOR NO KEY UPDATE) "
        f"UPDATE {sql.sessions} AS s SET {ending} FROM locked WHERE s.sid = locked.sid AND s.ended_at IS NULL "
        f"RETURNING s.sid::text, s.user_id, s.end_reason, s.ended_at",
        query.caps,
        values,
    )
    ended = [Ended(*row) for row in await connection.fetch(statement, *values)]
    return sorted((one for one in ended if one.reason == reason), key=lambda one: one.sid)


async def stats(sql: Statements, connection: Any) -> Stats:
    """See ``Store.stats``; above a million sessions from a sample of one page in a hundred."""
    rows, size, events = await connection.fetchrow(
        "WITH parts AS (SELECT to_regclass($1)::oid AS id "
        "UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass($1)) "
        "SELECT (SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class JOIN parts ON oid = id), "
        "(SELECT sum(pg_total_relation_size(id))::bigint FROM (SELECT id FROM parts "
        "UNION ALL SELECT to_regclass(name) FROM unnest($2::text[]) AS name) AS all_tables), "
        f"(SELECT CASE WHEN c.reltuples > {COUNT_EXACTLY} THEN c.reltuples::bigint "
        f"ELSE (SELECT count(*) FROM {sql.events}) END FROM pg_class c WHERE oid = to_regclass($3))",
        sql.sessions,
        [sql.users, sql.events, sql.histories, sql.counters, sql.sheets],
        sql.events,
    )
    sampled = rows > COUNT_EXACTLY
    sample = f" TABLESAMPLE SYSTEM ({_SAMPLE})" if sampled else ""
    live, ended, users = await connection.fetchrow(
        "SELECT count(*) FILTER (WHERE ended_at IS NULL), count(*) FILTER (WHERE ended_at IS NOT NULL), "
        f"count(DISTINCT user_id) FILTER (WHERE ended_at IS NULL) FROM {sql.sessions}{sample}"
    )
    scale = 100 // _SAMPLE if sampled else 1
    return Stats(live=live * scale, ended=ended * scale, users=users * scale, events=events, size_bytes=size)
