"""``?partitions=monthly``: a month's sessions in a table of their own, dropped as a whole once they are all gone.

A sid begins with its time (UUIDv7), so a month is a range of sids. Partitions are made months ahead; what belongs to
none of them goes to ``..._sessions_rest``, so nothing ever waits for a partition.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import asyncpg

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policy import SECOND

AHEAD = 2  # months that are made beside the one under way
REST = "rest"
# Everybody waits behind who waits for a lock on all sessions, so that is not for long: there is another sweep.
_PATIENCE = "SET LOCAL lock_timeout = '100ms'"
_MONTH = re.compile(r"_(\d{4})_(\d\d)").fullmatch


def month_of(now: int) -> int:
    """The month of ``now`` (microseconds since the epoch, UTC), counted from year 0."""
    day = datetime.fromtimestamp(now / SECOND, UTC)
    return day.year * 12 + day.month - 1


async def check_partitioned(connection: Any, table: str) -> None:
    """Raise ``ConfigurationError`` for a table that was made without partitions."""
    kind = await connection.fetchval("SELECT relkind FROM pg_class WHERE oid = to_regclass(quote_ident($1))", table)
    if kind != b"p":
        raise ConfigurationError(
            f"The table {table} was made without partitions. Leave ?partitions= out, or open another ?prefix=new_ with "
            f"it and copy the rows: INSERT INTO new_sessions SELECT * FROM {table}; and the other tables likewise."
        )


async def keep_partitions(connection: Any, table: str, now: int, lock: int) -> bool:
    """Make the months to come, and drop those that are over and empty.

    Returns whether all of it was done: where somebody holds the table, the next call goes on. ``lock`` keeps two
    workers from doing it at once. Raises the driver's error for a role that does not own the table.
    """
    found = await connection.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = to_regclass(quote_ident($1))",
        table,
    )
    there = {row[0] for row in found}
    current = month_of(now)
    wanted = [month for month in range(current, current + AHEAD + 1) if _name(table, month) not in there]
    over = [name for name in sorted(there) if current > (_month_of_name(table, name) or current)]
    try:
        for month in wanted:
            await _make(connection, table, month, lock)
        for name in over:
            await _drop_if_empty(connection, table, name, lock)
    except asyncpg.LockNotAvailableError:
        return False
    return True


async def _make(connection: Any, table: str, month: int, lock: int) -> None:
    name, rest = _name(table, month), f"{table}_{REST}"
    low, high = _first_sid(month), _first_sid(month + 1)
    async with connection.transaction():
        await connection.execute(f"{_PATIENCE}; SELECT pg_advisory_xact_lock({lock})")
        if await _exists(connection, name):
            return
        # The parent is locked although ATTACH can do without: a statement that was planned before it would look for
        # the sessions that move where they are no more.
        await connection.execute(
            f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE; "
            f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS) WITH (fillfactor = 80); "
            f"WITH moved AS (DELETE FROM {rest} WHERE sid >= '{low}' AND sid < '{high}' RETURNING *) "
            f"INSERT INTO {name} SELECT * FROM moved; "
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"
        )


async def _drop_if_empty(connection: Any, table: str, name: str, lock: int) -> None:
    async with connection.transaction():
        await connection.execute(f"{_PATIENCE}; SELECT pg_advisory_xact_lock({lock})")
        if not await _exists(connection, name) or await _has_rows(connection, name):
            return
        # The parent first, as every statement locks them.
        await connection.execute(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
        if not await _has_rows(connection, name):
            await connection.execute(f"DROP TABLE {name}")


async def _exists(connection: Any, name: str) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass(quote_ident($1)) IS NOT NULL", name))


async def _has_rows(connection: Any, name: str) -> bool:
    return bool(await connection.fetchval(f"SELECT EXISTS (SELECT FROM {name})"))


def _name(table: str, month: int) -> str:
    return f"{table}_{month // 12:04}_{month % 12 + 1:02}"


def _month_of_name(table: str, name: str) -> int | None:
    found = _MONTH(name.removeprefix(table))
    return None if found is None else int(found[1]) * 12 + int(found[2]) - 1


def _first_sid(month: int) -> str:
    """A UUID that sorts before every sid of that month, and after all of the months before."""
    began = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
    digits = f"{int(began.timestamp()) * 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"
