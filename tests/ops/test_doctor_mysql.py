"""What the doctor says of MySQL and MariaDB servers, good and bad."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from findings import finding, problems, survives

from databases import had, new_prefix, with_option
from provision.mariadb import MariaDB
from sessiondb import ConfigurationError, open_store
from sessiondb.ops.doctor import examine
from sessiondb.ops.doctor.mysql import check_isolation
from sessiondb.ops.doctor.report import POWER_CUT, SERVER_KILLED, Report
from sessiondb.stores._mysql_connection import Connection, connect
from sessiondb.stores._mysql_url import parse


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDB]:
    server = had(MariaDB)
    yield server
    server.stop()


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture
async def url(server: MariaDB, prefix: str) -> str:
    """Empty tables of the store."""
    url = with_option(server.url, f"prefix={prefix}")
    store = open_store(url)
    await store.open()
    await store.close()
    return url


@pytest.fixture
async def connection(server: MariaDB) -> AsyncIterator[Connection]:
    connection = await connect(parse(server.url).arguments, 5)
    yield connection
    await connection.close()


async def test_a_server_with_its_defaults_loses_nothing(url: str) -> None:
    report = await examine(url)
    assert problems(report) == []
    assert report.database.startswith(("MariaDB ", "MySQL "))
    assert [one.survives for one in report.durability] == [True, True, True]
    assert finding(report, "indexes").found == "all 12 there"


async def test_a_database_without_tables_stays_without(server: MariaDB, prefix: str, connection: Connection) -> None:
    report = await examine(with_option(server.url, f"prefix={prefix}"))
    assert finding(report, "schema").level == "note"
    [found] = await connection.run([f"SHOW TABLES LIKE '{prefix}%'"])
    assert not found.rows


async def test_a_server_that_is_started_wrongly_is_told_so() -> None:
    server = had(
        lambda: MariaDB(
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--log-bin",
            "--sync-binlog=0",
            "--transaction-isolation=READ-UNCOMMITTED",
            "--max-allowed-packet=1M",
        )
    )
    try:
        report = await examine(server.url)
    finally:
        server.stop()
    for check, level, mend in (
        ("innodb_flush_log_at_trx_commit", "problem", "SET GLOBAL innodb_flush_log_at_trx_commit = 1"),
        ("innodb_doublewrite", "problem", "innodb_doublewrite = ON"),
        ("sync_binlog", "warning", "SET GLOBAL sync_binlog = 1"),
        ("isolation", "note", "SET GLOBAL TRANSACTION ISOLATION LEVEL READ COMMITTED"),
        ("max_allowed_packet", "warning", "SET GLOBAL max_allowed_packet"),
    ):
        assert finding(report, check).level == level
        assert mend in finding(report, check).mend
    assert survives(report, SERVER_KILLED) is False
    assert survives(report, POWER_CUT) is False


@pytest.mark.parametrize(
    ("wrong", "right", "check", "level", "power"),
    [
        ("innodb_flush_log_at_trx_commit = 2", "1", "innodb_flush_log_at_trx_commit", "warning", False),
        ("read_only = ON", "OFF", "role", "problem", True),
    ],
)
async def test_settings_that_lose_sessions_are_found(
    url: str, connection: Connection, wrong: str, right: str, check: str, level: str, power: bool
) -> None:
    name = wrong.partition(" ")[0]
    await connection.run([f"SET GLOBAL {wrong}"])
    try:
        report = await examine(url)
    finally:
        await connection.run([f"SET GLOBAL {name} = {right}"])
    assert [(one.check, one.level) for one in problems(report)] == [(check, level)]
    assert f"SET GLOBAL {name} = {right}" in finding(report, check).mend
    assert survives(report, SERVER_KILLED) is True
    assert survives(report, POWER_CUT) is power


@pytest.mark.parametrize(
    ("statements", "check", "mend"),
    [
        (["DROP INDEX {p}sessions_user ON {p}sessions"], "index", "ALTER TABLE {p}sessions ADD KEY {p}sessions_user"),
        (["DROP TABLE {p}users"], "tables", "sessiondb init"),
        (["UPDATE {p}meta SET value = '99'"], "schema", "Install the sessiondb"),
        (["ALTER TABLE {p}events ENGINE = MyISAM"], "engine", "ALTER TABLE {p}events ENGINE = InnoDB"),
        (
            ["ALTER TABLE {p}sessions MODIFY user_id VARCHAR(255)"],
            "user_id",
            "ALTER TABLE {p}sessions MODIFY user_id VARBINARY(255);",
        ),
    ],
    ids=["index", "table", "version", "engine", "user_id"],
)
async def test_what_is_wrong_with_the_tables_is_found(
    url: str, prefix: str, connection: Connection, statements: Sequence[str], check: str, mend: str
) -> None:
    await connection.run([statement.format(p=prefix) for statement in statements])
    found = finding(await examine(url), check)
    assert found.level == "problem"
    assert mend.format(p=prefix) in found.mend


async def test_the_statement_that_mends_a_missing_index_does(url: str, prefix: str, connection: Connection) -> None:
    await connection.run([f"DROP INDEX {prefix}events_sid ON {prefix}events"])
    await connection.run([finding(await examine(url), "index").mend.rstrip(";")])
    assert finding(await examine(url), "indexes").level == "ok"


async def test_the_statement_that_mends_a_missing_column_does(url: str, prefix: str, connection: Connection) -> None:
    await connection.run([f"ALTER TABLE {prefix}sessions DROP COLUMN purge_at"])
    await connection.run([finding(await examine(url), "column").mend.rstrip(";")])
    assert finding(await examine(url), "columns").level == "ok"


def test_a_proxy_that_undoes_the_isolation_of_the_session_is_a_problem() -> None:
    report = Report("MariaDB", "")
    check_isolation(report, {"tx_isolation": "REPEATABLE-READ"}, {"REPEATABLE-READ"})
    assert finding(report, "isolation").level == "problem"


async def test_a_wrong_password_is_a_configuration_error_that_does_not_show_it(server: MariaDB) -> None:
    with pytest.raises(ConfigurationError, match="refused user or password") as caught:
        await examine(server.url.replace("throw-away", "hunter2"))
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_is_not_there_is_a_problem() -> None:
    report = await examine("mysql://ada:hunter2@127.0.0.1:9/sessions")
    assert report.has_problems
    assert "Start it" in finding(report, "usable").means
    assert "hunter2" not in str(report)
