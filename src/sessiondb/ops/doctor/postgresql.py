"""What in a PostgreSQL server, its tables and what is before it would lose sessions."""

from __future__ import annotations

from typing import Any

from sessiondb.ops.doctor import postgresql_pooler as pooler
from sessiondb.ops.doctor.report import (
    APP_ENDS,
    MACHINE_LOST,
    POWER_CUT,
    SERVER_KILLED,
    Report,
    check_schema,
    measure_clock,
)
from sessiondb.ops.doctor.schema import check_columns, check_indexes, check_tables, tables_and_indexes
from sessiondb.stores._postgresql_errors import translated
from sessiondb.stores._postgresql_schema import SCHEMA_VERSION, check_server, columns_in, schema_sql
from sessiondb.stores._postgresql_statements import NOW
from sessiondb.stores._postgresql_url import Settings, parse

_SETTINGS = (
    "server_version",
    "synchronous_commit",
    "fsync",
    "full_page_writes",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "autovacuum",
    "server_encoding",
    "synchronous_standby_names",
)


async def examine(url: str) -> Report:
    """See ``sessiondb.ops.doctor.examine``."""
    settings = parse(url)
    report = Report("PostgreSQL", settings.where)
    try:
        connection = await pooler.connect(report, settings)
        try:
            await _examine(report, settings, connection)
        finally:
            connection.terminate()
    except Exception as error:
        raise translated(error, settings.where, "not_applied") from error.__cause__
    return report


async def _examine(report: Report, settings: Settings, connection: Any) -> None:
    values = dict(
        await connection.fetch("SELECT name, current_setting(name) FROM unnest($1::text[]) AS name", _SETTINGS)
    )
    check_server(connection)
    report.database = f"PostgreSQL {values['server_version']}"

    async def clock() -> int:
        return int(await connection.fetchval(f"SELECT {NOW}"))

    await measure_clock(report, clock)
    _check_durability(report, values)
    _check_settings(report, values, pooled="server_settings" not in settings.arguments)
    await _check_role(report, connection, values)
    await _check_schema(report, connection, settings)


def _check_durability(report: Report, values: dict[str, str]) -> None:
    commit, fsync, pages = (values[name] for name in ("synchronous_commit", "fsync", "full_page_writes"))
    if commit == "off":
        report.add(
            "problem",
            "synchronous_commit",
            commit,
            "A login or logout that was answered is lost when the server crashes within the next 0.6 s.",
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();",
        )
    else:
        report.ok("synchronous_commit", commit)
    for name, value in (("fsync", fsync), ("full_page_writes", pages)):
        if value == "off":
            report.add(
                "problem",
                name,
                value,
                "A power cut can damage the whole database.",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
            )
        else:
            report.ok(name, value)
    report.survives(APP_ENDS, True)
    report.survives(SERVER_KILLED, commit != "off", "" if commit != "off" else "synchronous_commit is off")
    off = [name for name in ("synchronous_commit", "fsync", "full_page_writes") if values[name] == "off"]
    report.survives(POWER_CUT, not off, f"{' and '.join(off)} off" if off else "")


def _check_settings(report: Report, values: dict[str, str], *, pooled: bool) -> None:
    isolation = values["default_transaction_isolation"]
    # PostgreSQL has no READ UNCOMMITTED, it reads committed rows then too. The store sets its own, where it can.
    if isolation.startswith("read ") or not pooled:
        report.ok("isolation", "read committed")
    else:
        report.add(
            "warning",
            "isolation",
            isolation,
            "Writers of one session fail instead of waiting for each other.",
            "ALTER ROLE ... SET default_transaction_isolation = 'read committed'; for the URL's user.",
        )
    if values["autovacuum"] == "off":
        report.add(
            "warning",
            "autovacuum",
            "off",
            "Each touch leaves a dead row behind: the table grows and reads get slow.",
            "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
        )
    else:
        report.ok("autovacuum", "on")
    if values["server_encoding"] != "UTF8":
        report.add(
            "problem",
            "encoding",
            values["server_encoding"],
            "Sessions with other characters are refused.",
            "Make a database with ENCODING 'UTF8' TEMPLATE template0, and name it in the URL.",
        )
    else:
        report.ok("encoding", "UTF8")


async def _check_role(report: Report, connection: Any, values: dict[str, str]) -> None:
    """Whether this is the primary, and who follows it."""
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        report.add(
            "problem",
            "role",
            "a replica",
            "Nothing can be stored here.",
            "Name the primary in the URL; a replica belongs in ?replica=.",
        )
        return
    if values["default_transaction_read_only"] == "on":
        report.add(
            "problem",
            "role",
            "read-only (default_transaction_read_only)",
            "Nothing can be stored here.",
            "ALTER SYSTEM SET default_transaction_read_only = off; SELECT pg_reload_conf();",
        )
        return
    followers = await connection.fetch("SELECT sync_state FROM pg_stat_replication")
    if not followers:
        report.ok("role", "primary, without replicas")
        return
    report.ok("role", f"primary of {len(followers)}")
    waits = bool(values["synchronous_standby_names"]) and values["synchronous_commit"] not in ("off", "local")
    report.survives(MACHINE_LOST, waits, "" if waits else "replication is asynchronous")
    if not waits:
        report.add(
            "note",
            "replication",
            "asynchronous",
            "After a failover the last writes are missing: a logout may be undone.",
            "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'; SELECT pg_reload_conf();",
        )


async def _check_schema(report: Report, connection: Any, settings: Settings) -> None:
    prefix = settings.prefix
    ddl = schema_sql(prefix, partitions=settings.partitions)
    tables, indexes = tables_and_indexes(ddl)
    # What is found by these names is what the store finds: by the search path.
    found = await connection.fetch(
        "SELECT name, c.relkind = 'r' AS plain, c.reloptions, i.indisvalid FROM unnest($1::text[]) AS name "
        "JOIN pg_class c ON c.oid = to_regclass(quote_ident(name)) LEFT JOIN pg_index i ON i.indexrelid = c.oid",
        [*tables, *indexes],
    )
    present = {row["name"]: row for row in found}
    version = None
    if f"{prefix}meta" in present:
        version = await connection.fetchval(f"SELECT value FROM {prefix}meta WHERE key = 'schema_version'")
    if not check_schema(report, version, SCHEMA_VERSION):
        return
    check_tables(report, tables, present)
    check_columns(report, ddl, await columns_in(connection, tables))
    if not settings.partitions:  # of a table in partitions, PostgreSQL makes no index concurrently
        indexes = {name: made.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY") for name, made in indexes.items()}
    check_indexes(report, indexes, present)
    for name, row in present.items():
        if row["indisvalid"] is False:
            report.add(
                "problem",
                "index",
                f"{name} is invalid",
                "It was not finished, and no query uses it.",
                f"REINDEX INDEX CONCURRENTLY {name};",
            )
    sessions = present.get(f"{prefix}sessions")
    # Of a table in partitions, each has its own storage and counts.
    if sessions is not None and sessions["plain"]:
        await _check_touches(report, connection, f"{prefix}sessions", sessions["reloptions"] or [])


async def _check_touches(report: Report, connection: Any, table: str, options: list[str]) -> None:
    """Whether "seen just now" stays an update within the page."""
    if not any(option.startswith("fillfactor=") for option in options):
        report.add(
            "note",
            "fillfactor",
            "100",
            "Touches find no room in their page, and write every index.",
            f"ALTER TABLE {table} SET (fillfactor = 80);",
        )
    row = await connection.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(quote_ident($1))", table
    )
    if row is None or row["n_tup_upd"] < 1000:
        return
    share = row["n_tup_hot_upd"] / row["n_tup_upd"]
    if share < 0.5:
        report.add(
            "warning",
            "HOT updates",
            f"{share:.0%}",
            "Touches write every index: an index of your own holds a column that they write, or pages are full.",
            f"Drop indexes on last_seen_at, data or client_last; VACUUM {table};",
        )
    else:
        report.ok("HOT updates", f"{share:.0%}")
