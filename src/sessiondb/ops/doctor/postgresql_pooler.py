"""Whether a pooler such as PgBouncer is between us and PostgreSQL, and in which mode."""

from __future__ import annotations

from typing import Any

import asyncpg

from sessiondb.ops.doctor.report import Report
from sessiondb.stores._postgresql_url import Settings

_LOOKS = 4


async def connect(report: Report, settings: Settings) -> Any:
    """A connection that works whatever is between; adds what that is."""
    connection = await _connect_plainly(settings)
    try:
        told = "server_settings" not in settings.arguments
        if not await _has_transactions(settings):
            report.add(
                "problem",
                "pooler",
                "statement mode",
                "It takes transactions apart, so sessiondb cannot make its tables nor trust its writes.",
                "Set pool_mode = transaction in the pooler, and add ?pooler=transaction to the URL.",
            )
        elif await _is_shared(settings, connection):
            if told:
                report.ok("pooler", "transaction mode")
            else:
                _not_told(report, "transaction mode")
        elif not told and not await _takes_settings(settings):
            _not_told(report, "one that refuses settings of the session")
        elif told:
            report.add(
                "note",
                "pooler",
                "none found, and the URL has ?pooler=transaction",
                "Every statement costs a round trip more, and lock_timeout is not set.",
                "Leave ?pooler=transaction out of the URL, if it is not there for another reason.",
            )
        else:
            report.ok("pooler", "none that shares connections")
    except BaseException:
        connection.terminate()
        raise
    return connection


def _not_told(report: Report, found: str) -> None:
    report.add(
        "problem",
        "pooler",
        found,
        "The app cannot connect through it, or its statements fail at random.",
        "Add ?pooler=transaction to the URL.",
    )


async def _connect_plainly(settings: Settings) -> Any:
    """Without settings for the session, which PgBouncer refuses, and without prepared statements, which it mixes up."""
    arguments = {name: value for name, value in settings.arguments.items() if name != "server_settings"}
    return await asyncpg.connect(**arguments | {"statement_cache_size": 0})


async def _has_transactions(settings: Settings) -> bool:
    connection = await _connect_plainly(settings)
    try:
        await connection.execute("BEGIN")
    except asyncpg.PostgresError as error:
        if "statement pooling" in str(error):  # PgBouncer says so, and hangs up
            return False
        raise
    finally:
        connection.terminate()
    return True


async def _is_shared(settings: Settings, connection: Any) -> bool:
    """Whether two connections of ours are served by one of the server's: only behind a pooler."""
    other = await _connect_plainly(settings)
    try:
        mine, theirs = set(), set()
        for _ in range(_LOOKS):
            mine.add(await connection.fetchval("SELECT pg_backend_pid()"))
            theirs.add(await other.fetchval("SELECT pg_backend_pid()"))
    finally:
        other.terminate()
    return len(mine) > 1 or bool(mine & theirs)


async def _takes_settings(settings: Settings) -> bool:
    """Whether a connection as the store makes it comes about."""
    try:
        connection = await asyncpg.connect(**settings.arguments)
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" in str(error):
            return False
        raise
    connection.terminate()
    return True
