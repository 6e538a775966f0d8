"""What in a MySQL or MariaDB server and its tables would lose sessions."""

from __future__ import annotations

from sessiondb.ops.doctor.report import APP_ENDS, POWER_CUT, SERVER_KILLED, Report, check_schema, measure_clock
from sessiondb.ops.doctor.schema import check_columns, check_indexes, check_tables, tables_and_indexes
from sessiondb.stores._mysql_connection import Connection, connect, text
from sessiondb.stores._mysql_errors import translated
from sessiondb.stores._mysql_rows import NOW
from sessiondb.stores._mysql_schema import SCHEMA_VERSION, check_server, columns_in, schema_sql
from sessiondb.stores._mysql_url import parse

_VARIABLES = (
    "innodb_flush_log_at_trx_commit",
    "innodb_doublewrite",
    "sync_binlog",
    "log_bin",
    "read_only",
    "super_read_only",
    "innodb_read_only",
    "max_allowed_packet",
    "tx_isolation",
    "transaction_isolation",
)
_MIB = 1 << 20
# A batch is one packet: 32 changes of 64 KiB, as hexadecimal digits.
_PACKET = 8 * _MIB


async def examine(url: str) -> Report:
    """See ``sessiondb.ops.doctor.examine``."""
    settings = parse(url)
    report = Report("MySQL", settings.where)
    try:
        connection = await connect(settings.arguments, settings.lock_timeout)
        try:
            await _examine(report, connection, settings.prefix)
        finally:
            connection.terminate()
    except Exception as error:
        raise translated(error, settings.where, "not_applied") from error.__cause__
    return report


async def _examine(report: Report, connection: Connection, prefix: str) -> None:
    server = connection.server.removeprefix("5.5.5-")
    check_server(connection.server)
    report.database = f"{'MariaDB' if 'mariadb' in server.lower() else 'MySQL'} {server.partition('-')[0]}"

    async def clock() -> int:
        [found] = await connection.run([f"SELECT {NOW}"])
        return int(found.rows[0][0])

    await measure_clock(report, clock)
    names = ", ".join(text(name) for name in _VARIABLES)
    globally, here = await connection.run(
        [f"SHOW GLOBAL VARIABLES WHERE variable_name IN ({names})", "SHOW SESSION VARIABLES LIKE 't%\\_isolation'"]
    )
    values = {name.decode(): value.decode() for name, value in globally.rows}
    _check_durability(report, values)
    check_isolation(report, values, {value.decode() for _, value in here.rows})
    read_only = [
        name for name in ("read_only", "super_read_only", "innodb_read_only") if values.get(name, "OFF") != "OFF"
    ]
    if read_only:
        report.add(
            "problem",
            "role",
            f"{' and '.join(read_only)} on",
            "Nothing can be stored here: a replica, or a server that was closed for writing.",
            f"Name the primary in the URL, or SET GLOBAL {read_only[0]} = OFF;",
        )
    else:
        report.ok("role", "takes writes")
    packet = int(values["max_allowed_packet"])
    if packet < _PACKET:
        report.add(
            "warning",
            "max_allowed_packet",
            f"{packet / _MIB:.1f} MiB",
            "A batch of large sessions is refused.",
            f"SET GLOBAL max_allowed_packet = {2 * _PACKET}; and in the [mysqld] section of my.cnf",
        )
    else:
        report.ok("max_allowed_packet", f"{packet / _MIB:.0f} MiB")
    await _check_schema(report, connection, prefix)


def _check_durability(report: Report, values: dict[str, str]) -> None:
    flush, doublewrite = values["innodb_flush_log_at_trx_commit"], values["innodb_doublewrite"]
    cure = "SET GLOBAL innodb_flush_log_at_trx_commit = 1; and in the [mysqld] section of my.cnf"
    if flush == "0":
        report.add(
            "problem",
            "innodb_flush_log_at_trx_commit",
            flush,
            "A killed server loses what was answered in its last second: logins and logouts.",
            cure,
        )
    elif flush == "2":
        report.add(
            "warning",
            "innodb_flush_log_at_trx_commit",
            flush,
            "A power cut loses what was answered in the last second.",
            cure,
        )
    else:
        report.ok("innodb_flush_log_at_trx_commit", flush)
    if doublewrite in ("OFF", "0", "DETECT_ONLY"):
        report.add(
            "problem",
            "innodb_doublewrite",
            doublewrite,
            "A power cut can damage tables, unless the file system writes whole pages (ZFS).",
            "innodb_doublewrite = ON in the [mysqld] section of my.cnf, and restart",
        )
    else:
        report.ok("innodb_doublewrite", doublewrite)
    unsynced = values.get("log_bin", "OFF") != "OFF" and values["sync_binlog"] != "1"
    if unsynced:
        report.add(
            "warning",
            "sync_binlog",
            values["sync_binlog"],
            "After a power cut, what is not in the binary log is rolled back, and replicas differ.",
            "SET GLOBAL sync_binlog = 1; and in the [mysqld] section of my.cnf",
        )
    elif values.get("log_bin", "OFF") != "OFF":
        report.ok("sync_binlog", values["sync_binlog"])
    report.survives(APP_ENDS, True)
    report.survives(SERVER_KILLED, flush != "0", "" if flush != "0" else "up to a second is lost")
    causes = [f"innodb_flush_log_at_trx_commit is {flush}"] if flush in "02" else []
    causes += ["no doublewrite"] if doublewrite in ("OFF", "0", "DETECT_ONLY") else []
    causes += ["sync_binlog is not 1"] if unsynced else []
    report.survives(POWER_CUT, not causes, ", ".join(causes))


def check_isolation(report: Report, values: dict[str, str], here: set[str]) -> None:
    """Add what the server's default (in ``values``) and the isolation of our own connection (``here``) mean."""
    default = values.get("transaction_isolation") or values.get("tx_isolation", "")
    if here != {"READ-COMMITTED"}:
        report.add(
            "problem",
            "isolation",
            ", ".join(sorted(here)),
            "sessiondb sets READ COMMITTED, and something between undoes it: sessions are judged by wrong rows.",
            "Let the proxy keep the settings of a session, or: SET GLOBAL TRANSACTION ISOLATION LEVEL READ COMMITTED;",
        )
    elif default == "READ-UNCOMMITTED":
        report.add(
            "note",
            "isolation",
            "READ COMMITTED here; the server's default is READ UNCOMMITTED",
            "sessiondb sets its own. Other programs see logins that are then rolled back.",
            "SET GLOBAL TRANSACTION ISOLATION LEVEL READ COMMITTED;",
        )
    else:
        report.ok("isolation", "READ COMMITTED, set by sessiondb")


async def _check_schema(report: Report, connection: Connection, prefix: str) -> None:
    ddl = schema_sql(prefix)
    tables, indexes = tables_and_indexes(ddl)
    ours = f"table_schema = DATABASE() AND table_name IN ({', '.join(text(name) for name in tables)})"
    engines, keys, columns = await connection.run(
        [
            f"SELECT table_name, engine FROM information_schema.tables WHERE {ours}",
            f"SELECT DISTINCT index_name FROM information_schema.statistics WHERE {ours}",
            f"SELECT table_name, data_type FROM information_schema.columns WHERE {ours} AND column_name = 'user_id'",
        ]
    )
    present = {name.decode(): engine.decode() for name, engine in engines.rows}
    version = None
    if f"{prefix}meta" in present:
        [found] = await connection.run([f"SELECT value FROM {prefix}meta WHERE name = 'schema_version'"])
        version = found.rows[0][0].decode() if found.rows else None
    if not check_schema(report, version, SCHEMA_VERSION):
        return
    check_tables(report, tables, present)
    check_columns(report, ddl, await columns_in(connection, tables))
    check_indexes(report, indexes, {name.decode() for (name,) in keys.rows})
    for name, engine in present.items():
        if engine.lower() != "innodb":
            report.add(
                "problem",
                "engine",
                f"{name} is {engine}",
                "It has no transactions, and is damaged by a crash.",
                f"ALTER TABLE {name} ENGINE = InnoDB;",
            )
    for name, kind in ((name.decode(), kind.decode().lower()) for name, kind in columns.rows):
        if kind != "varbinary":
            needed = " NOT NULL" if name.endswith(("users", "histories")) else ""
            report.add(
                "problem",
                "user_id",
                f"{kind} in {name}",
                "Users whose ids differ in case or accents only are one: revoking one ends the other's sessions.",
                f"ALTER TABLE {name} MODIFY user_id VARBINARY(255){needed};",
            )
