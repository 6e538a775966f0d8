"""What PostgreSQL keeps beside sessions and events: histories of logins, counters, sheets; and how users are forgotten.

Rows are locked in the order of their keys, by whoever locks several. Any number may hold a bucket while they count in
it; who takes it away holds it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sessiondb.stores._postgresql_statements import Statements
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet

TRIES = 3
_HISTORY = HISTORY_ENTRIES * HISTORY_ENTRY_BYTES


async def forget_user(sql: Statements, connection: Any, user_id: str) -> int:
    """See ``Store.forget_user``. A sign-in that this waits for brings links, so these are looked for afterwards."""
    async with connection.transaction(isolation="read_committed"):
        found = await connection.fetch(
            f"WITH locked AS MATERIALIZED (SELECT sid FROM {sql.sessions} WHERE user_id = $1 ORDER BY sid FOR UPDATE) "
            f"DELETE FROM {sql.sessions} AS s WHERE s.sid = ANY (ARRAY(SELECT sid FROM locked)) RETURNING s.sid",
            user_id,
        )
        await connection.execute(
            f"WITH unlinked AS (DELETE FROM {sql.links} WHERE sid = ANY ($2::uuid[])), "
            f"unlocked AS (DELETE FROM {sql.users} WHERE user_id = $1) "
            f"DELETE FROM {sql.histories} WHERE user_id = $1",
            user_id,
            [row[0] for row in found],
        )
    return len(found)


async def profile(sql: Statements, connection: Any, user_id: str | None, counters: Sequence[Counter]) -> Profile:
    """See ``Store.profile``."""
    history, counts = await connection.fetchrow(
        f"SELECT (SELECT logins FROM {sql.histories} WHERE user_id = $1), ARRAY(SELECT coalesce("
        f"(SELECT total FROM {sql.counters} AS c WHERE c.bucket = asked.bucket AND c.item = asked.item), 0) "
        f"FROM unnest($2::text[], $3::bytea[]) WITH ORDINALITY AS asked(bucket, item, number) ORDER BY number)",
        user_id,
        [one.bucket for one in counters],
        [one.key for one in counters],
    )
    return Profile(history or b"", counts)


# -- histories ------------------------------------------------------------------------------------------------


async def record_logins(sql: Statements, connection: Any, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
    """See ``Store.record_logins``."""
    by_user: dict[str, bytes] = {}
    for user_id, entry in logins:
        by_user[user_id] = (entry + by_user.get(user_id, b""))[:_HISTORY]
    await connection.execute(
        f"INSERT INTO {sql.histories} AS h (user_id, logins, expires_at) SELECT user_id, logins, $3::bigint "
        f'FROM unnest($1::text[], $2::bytea[]) AS given(user_id, logins) ORDER BY user_id COLLATE "C" '
        f"ON CONFLICT (user_id) DO UPDATE SET logins = substring(excluded.logins || h.logins FROM 1 FOR {_HISTORY}), "
        f"expires_at = excluded.expires_at",
        [*by_user.keys()],
        [*by_user.values()],
        expires_at,
    )


async def drop_login(sql: Statements, connection: Any, user_id: str, entry: bytes) -> bool:
    """See ``Store.drop_login``. What is left is made of the row as it is once nobody else writes it."""
    numbers = f"generate_series(0, octet_length(h.logins) / {HISTORY_ENTRY_BYTES} - 1)"
    one = f"substring(h.logins FROM number * {HISTORY_ENTRY_BYTES} + 1 FOR {HISTORY_ENTRY_BYTES})"
    found = await connection.fetchval(
        f"UPDATE {sql.histories} AS h SET logins = coalesce((SELECT string_agg({one}, '' ORDER BY number) "
        f"FROM {numbers} AS number WHERE number <> "
        f"(SELECT min(number) FROM {numbers} AS number WHERE {one} = $2::bytea)), '') "
        f"WHERE h.user_id = $1 AND EXISTS (SELECT FROM {numbers} AS number WHERE {one} = $2::bytea) RETURNING true",
        user_id,
        entry,
    )
    return found is not None


# -- counters -------------------------------------------------------------------------------------------------


async def count(
    sql: Statements, connection: Any, bucket: str, adds: Mapping[bytes, int], most: int, expires_at: int
) -> None:
    """See ``Store.count``. One statement, but where the bucket is new or goes at another time than it did.

    A bucket that goes each time before it can be held has expired, and so have these.
    """
    values = (bucket, [*adds.keys()], [*adds.values()], most, expires_at)
    for _ in range(TRIES):
        # Waits for whoever takes the bucket away, and for nobody who counts in it.
        held = await connection.fetchval(
            f"WITH held AS MATERIALIZED (SELECT items FROM {sql.buckets} WHERE bucket = $1 AND expires_at = $5 "
            f"FOR KEY SHARE), "
            f"given AS (SELECT item, add, number, EXISTS (SELECT FROM {sql.counters} AS c WHERE c.bucket = $1 "
            f"AND c.item = given.item) AS known FROM unnest($2::bytea[], $3::bigint[]) WITH ORDINALITY "
            f"AS given(item, add, number)), "
            f"ranked AS (SELECT item, add, known OR held.items + count(*) FILTER (WHERE NOT known) "
            f"OVER (ORDER BY number) <= $4::bigint AS fits FROM given CROSS JOIN held), "
            f"counted AS (INSERT INTO {sql.counters} AS c (bucket, item, total) "
            f"SELECT $1, item, add FROM ranked WHERE fits ORDER BY item "
            f"ON CONFLICT (bucket, item) DO UPDATE SET total = c.total + excluded.total RETURNING xmax = 0 AS is_new), "
            f"grown AS (UPDATE {sql.buckets} AS b SET items = b.items + more.items "
            f"FROM (SELECT count(*) AS items FROM counted WHERE is_new) AS more "
            f"WHERE b.bucket = $1 AND more.items > 0) "
            f"SELECT EXISTS (SELECT FROM held)",
            *values,
        )
        if held:
            return
        await connection.execute(
            f"INSERT INTO {sql.buckets} AS b (bucket, items, expires_at) VALUES ($1, 0, $2) "
            f"ON CONFLICT (bucket) DO UPDATE SET expires_at = excluded.expires_at",
            bucket,
            expires_at,
        )


# -- sheets ---------------------------------------------------------------------------------------------------


async def publish(sql: Statements, connection: Any, sheets: Sequence[Sheet]) -> None:
    """See ``Store.publish``."""
    latest = [*{(sheet.kind, sheet.bucket, sheet.writer): sheet for sheet in sheets}.values()]
    await connection.execute(
        f"INSERT INTO {sql.sheets} (kind, bucket, writer, data, expires_at) "
        f"SELECT kind, bucket, writer, data, expires_at "
        f"FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bytea[], $5::bigint[]) "
        f"AS given(kind, bucket, writer, data, expires_at) "
        f'ORDER BY kind COLLATE "C", bucket, writer COLLATE "C" '
        f"ON CONFLICT (kind, bucket, writer) DO UPDATE SET data = excluded.data, expires_at = excluded.expires_at",
        *_places(latest),
        [sheet.data for sheet in latest],
        [sheet.expires_at for sheet in latest],
    )


async def sheets(sql: Statements, connection: Any, kind: str, since: int, until: int) -> list[Sheet]:
    """See ``Store.sheets``."""
    found = await connection.fetch(
        f"SELECT kind, bucket, writer, data, expires_at FROM {sql.sheets} "
        f"WHERE kind = $1 AND bucket >= $2 AND bucket < $3 ORDER BY bucket, writer",
        kind,
        since,
        until,
    )
    return [Sheet(*row) for row in found]


async def withdraw(sql: Statements, connection: Any, sheets: Sequence[Sheet]) -> None:
    """See ``Store.withdraw``."""
    await connection.execute(
        f"WITH locked AS MATERIALIZED (SELECT s.kind, s.bucket, s.writer FROM {sql.sheets} AS s JOIN "
        f"unnest($1::text[], $2::bigint[], $3::text[]) AS given(kind, bucket, writer) USING (kind, bucket, writer) "
        f"ORDER BY s.kind, s.bucket, s.writer FOR UPDATE OF s) "
        f"DELETE FROM {sql.sheets} AS s USING locked WHERE s.kind = locked.kind AND s.bucket = locked.bucket "
        f"AND s.writer = locked.writer",
        *_places(sheets),
    )


def _places(sheets: Sequence[Sheet]) -> tuple[list[str], list[int], list[str]]:
    return [one.kind for one in sheets], [one.bucket for one in sheets], [one.writer for one in sheets]


# -- all of them ----------------------------------------------------------------------------------------------


async def expire(sql: Statements, connection: Any, now: int, limit: int) -> int:
    """See ``Store.expire``; what somebody else holds is left for the next time."""
    over = "WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2::bigint FOR UPDATE SKIP LOCKED"
    async with connection.transaction(isolation="read_committed"):
        alone = await connection.fetchval(
            f"WITH histories AS (DELETE FROM {sql.histories} WHERE user_id = ANY (ARRAY("
            f"SELECT user_id FROM {sql.histories} {over})) RETURNING 1), "
            # By where they are: a planner that misjudges how many there are would look through all for them.
            f"sheets AS (DELETE FROM {sql.sheets} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {sql.sheets} {over})) "
            f"RETURNING 1) "
            f"SELECT (SELECT count(*) FROM histories) + (SELECT count(*) FROM sheets)",
            now,
            limit,
        )
        buckets = [row[0] for row in await connection.fetch(f"SELECT bucket FROM {sql.buckets} {over}", now, limit)]
        if buckets:
            # By a statement of its own, which sees the counters of whoever held a bucket a moment ago.
            await connection.execute(
                f"WITH counters AS (DELETE FROM {sql.counters} WHERE bucket = ANY ($1::text[])) "
                f"DELETE FROM {sql.buckets} WHERE bucket = ANY ($1::text[])",
                buckets,
            )
    return int(alone) + len(buckets)
