"""Histories of logins, counters and sheets in MySQL and MariaDB.

Rows are locked in the order of their keys, those of a bucket after the bucket itself, so writers wait for each other
and never deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TypeVar

from sessiondb.stores._mysql_connection import Connection, blob
from sessiondb.stores._mysql_parts import Again
from sessiondb.stores._mysql_rows import Statements, joined_rows
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet

PART = 200
MOST_DELETED = 5000

T = TypeVar("T")


async def profile(sql: Statements, connection: Connection, user_id: str | None, counters: Sequence[Counter]) -> Profile:
    """See ``Store.profile``."""
    statements = []
    if user_id is not None:
        statements.append(f"SELECT logins FROM {sql.histories} WHERE {_of(user_id)}")
    if counters:
        where = " OR ".join(
            f"(bucket = {blob(bucket.encode())} AND item IN ({', '.join(blob(one.key) for one in group)}))"
            for bucket, group in groupby(sorted(set(counters)), key=lambda one: one.bucket)
        )
        statements.append(f"SELECT bucket, item, total FROM {sql.counters} WHERE {where}")
    answers = await connection.run(statements) if statements else []
    history = b""
    if user_id is not None:
        found, *answers = answers
        history = found.rows[0][0] if found.rows else b""
    totals = {Counter(bucket.decode(), item): total for answer in answers for bucket, item, total in answer.rows}
    return Profile(history, [totals.get(one, 0) for one in counters])


async def record_logins(sql: Statements, again: Again, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
    """See ``Store.record_logins``; the logins of a user are written in one transaction."""
    most = HISTORY_ENTRIES * HISTORY_ENTRY_BYTES
    statements = []
    # Sorting keeps the order of a user's own.
    for user_id, group in groupby(sorted(logins, key=lambda login: login[0]), key=lambda login: login[0]):
        newest = blob(b"".join(reversed([entry for _, entry in group]))[:most])
        statements.append(
            f"INSERT INTO {sql.histories} (user_id, logins, expires_at) "
            f"VALUES ({blob(user_id.encode())}, {newest}, {expires_at:d}) "
            f"ON DUPLICATE KEY UPDATE logins = LEFT(CONCAT({newest}, logins), {most}), expires_at = {expires_at:d}"
        )
    for part in _parts(statements):
        await again(partial(Connection.transaction, statements=part))


async def drop_login(sql: Statements, connection: Connection, user_id: str, entry: bytes) -> bool:
    """See ``Store.drop_login``."""
    _, found = await connection.run(
        ["START TRANSACTION", f"SELECT logins FROM {sql.histories} WHERE {_of(user_id)} FOR UPDATE"]
    )
    logins = found.rows[0][0] if found.rows else b""
    entries = [logins[at : at + HISTORY_ENTRY_BYTES] for at in range(0, len(logins), HISTORY_ENTRY_BYTES)]
    if entry not in entries:
        await connection.run(["ROLLBACK"])
        return False
    entries.remove(entry)
    left = blob(b"".join(entries))
    await connection.run([f"UPDATE {sql.histories} SET logins = {left} WHERE {_of(user_id)}", "COMMIT"])
    return True


async def count(
    sql: Statements, connection: Connection, bucket: str, adds: Mapping[bytes, int], most: int, expires_at: int
) -> None:
    """See ``Store.count``."""
    name = blob(bucket.encode())
    # Zeros are left out: the server would take such a row for one that was inserted.
    items = sorted(item for item, add in adds.items() if add)
    sized, *known = await connection.run(
        [
            f"SELECT items FROM {sql.buckets} WHERE bucket = {name}",
            *(
                f"SELECT item FROM {sql.counters} WHERE bucket = {name} AND item IN ({', '.join(map(blob, part))})"
                for part in _parts(items)
            ),
        ]
    )
    there = {item for answer in known for (item,) in answer.rows}
    room = max(0, most - (sized.rows[0][0] if sized.rows else 0))
    new = set([item for item, add in adds.items() if add and item not in there][:room])
    counted = [item for item in items if item in there or item in new]
    statements = [
        f"INSERT INTO {sql.buckets} (bucket, items, expires_at) VALUES ({name}, 0, {expires_at:d}) "
        f"ON DUPLICATE KEY UPDATE expires_at = {expires_at:d}"
    ]
    for part in _parts(counted):
        given = joined_rows(["item", "total"], [[blob(item), f"{adds[item]:d}"] for item in part])
        statements += [
            f"INSERT INTO {sql.counters} (bucket, item, total) SELECT {name}, v.item, v.total FROM {given} AS v "
            f"ON DUPLICATE KEY UPDATE total = {sql.counters}.total + v.total",
            # A row that is inserted counts as one there, a row that is updated as two.
            f"UPDATE {sql.buckets} SET items = items + {2 * len(part)} - ROW_COUNT() WHERE bucket = {name}",
        ]
    await connection.transaction(statements)


async def publish(sql: Statements, again: Again, sheets: Sequence[Sheet]) -> None:
    """See ``Store.publish``."""
    statements = [
        f"REPLACE INTO {sql.sheets} (kind, bucket, writer, data, expires_at) VALUES ({blob(sheet.kind.encode())}, "
        f"{sheet.bucket:d}, {blob(sheet.writer.encode())}, {blob(sheet.data)}, {sheet.expires_at:d})"
        for sheet in _in_order(sheets)
    ]
    for part in _parts(statements):
        await again(partial(Connection.transaction, statements=part))


async def sheets(sql: Statements, connection: Connection, kind: str, since: int, until: int) -> list[Sheet]:
    """See ``Store.sheets``."""
    [found] = await connection.run(
        [
            f"SELECT bucket, writer, data, expires_at FROM {sql.sheets} WHERE kind = {blob(kind.encode())} "
            f"AND bucket >= {since:d} AND bucket < {until:d} ORDER BY bucket, writer"
        ]
    )
    return [Sheet(kind, bucket, writer.decode(), data, expires_at) for bucket, writer, data, expires_at in found.rows]


async def withdraw(sql: Statements, again: Again, sheets: Sequence[Sheet]) -> None:
    """See ``Store.withdraw``."""
    statements = [
        f"DELETE FROM {sql.sheets} WHERE {_at(sheet.kind.encode(), sheet.bucket, sheet.writer.encode())}"
        for sheet in _in_order(sheets)
    ]
    for part in _parts(statements):
        await again(partial(Connection.transaction, statements=part))


async def expire(sql: Statements, again: Again, now: int, limit: int) -> int:
    """See ``Store.expire``. The keys are read first: a search by time would lock the index before the rows."""
    over = f"expires_at <= {now:d}"
    histories, buckets, sheets = await again(
        lambda connection: connection.run(
            [
                f"SELECT user_id FROM {sql.histories} WHERE {over} LIMIT {limit:d}",
                f"SELECT bucket FROM {sql.buckets} WHERE {over} LIMIT {limit:d}",
                f"SELECT kind, bucket, writer FROM {sql.sheets} WHERE {over} LIMIT {limit:d}",
            ]
        )
    )
    doomed = [
        f"DELETE FROM {sql.histories} WHERE user_id = {blob(user)} AND {over}" for (user,) in sorted(histories.rows)
    ]
    doomed += [f"DELETE FROM {sql.sheets} WHERE {_at(*place)} AND {over}" for place in sorted(sheets.rows)]
    gone = 0
    for part in _parts(doomed):
        answers = await again(partial(Connection.transaction, statements=part))
        gone += sum(answer.affected for answer in answers)
    for (bucket,) in sorted(buckets.rows):
        gone += await _expire_bucket(sql, again, bucket, over)
    return gone


async def _expire_bucket(sql: Statements, again: Again, bucket: bytes, over: str) -> int:
    """Delete ``bucket`` and its counters, so many at a time, unless somebody gives it another time to go meanwhile."""
    name = f"bucket = {blob(bucket)}"
    statements = [
        f"UPDATE {sql.buckets} SET items = items WHERE {name} AND {over}",  # locks it
        f"DELETE FROM {sql.counters} WHERE {name} AND EXISTS (SELECT 1 FROM {sql.buckets} WHERE {name} AND {over}) "
        f"LIMIT {MOST_DELETED}",
        f"UPDATE {sql.buckets} SET items = items - ROW_COUNT() WHERE {name}",
        f"DELETE FROM {sql.buckets} WHERE {name} AND {over} AND NOT EXISTS (SELECT 1 FROM {sql.counters} WHERE {name})",
    ]
    while True:
        over_still, counters, _, deleted = await again(partial(Connection.transaction, statements=statements))
        if deleted.affected or not over_still.affected or not counters.affected:
            return deleted.affected


def _of(user_id: str) -> str:
    return f"user_id = {blob(user_id.encode())}"


def _at(kind: bytes, bucket: int, writer: bytes) -> str:
    return f"kind = {blob(kind)} AND bucket = {bucket:d} AND writer = {blob(writer)}"


def _in_order(sheets: Sequence[Sheet]) -> list[Sheet]:
    """``sheets`` in the order of their keys; of those in one place the latest stays the last."""
    return sorted(sheets, key=lambda sheet: (sheet.kind, sheet.bucket, sheet.writer))


def _parts(values: Sequence[T]) -> list[Sequence[T]]:
    return [values[start : start + PART] for start in range(0, len(values), PART)]
