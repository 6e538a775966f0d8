"""What the doctor says of SQLite files, good and bad."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from findings import finding, survives

from sessiondb import ConfigurationError, SessionDB
from sessiondb.ops.doctor import examine
from sessiondb.ops.doctor.report import POWER_CUT
from sessiondb.ops.doctor.sqlite import file_system


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "sessions.db"
    async with SessionDB(f"sqlite:///{path}", sweep_every=None) as db:
        await db.create("ada", {"cart": [1]})
    return path


async def test_a_file_that_the_store_has_made_has_no_problem(path: Path) -> None:
    report = await examine(f"sqlite:///{path}")
    # Where the tests keep their files is not the file's fault.
    wrong = [one for one in report.findings if one.level != "ok" and one.check not in ("file system", "free space")]
    assert wrong == []
    assert finding(report, "file mode").found == "0600"
    assert finding(report, "indexes").found == "all 12 there"


async def test_a_database_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    report = await examine(f"sqlite:///{tmp_path}/new.db")
    assert finding(report, "schema").level == "note"
    assert "sessiondb init" in finding(report, "schema").mend
    assert list(tmp_path.iterdir()) == []


def execute(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()

    return change


def damage(path: Path) -> None:
    execute("PRAGMA journal_mode = delete")(path)  # so that all is in the file itself
    with path.open("r+b") as file:
        file.seek(4096 + 8)
        file.write(b"\xff" * 64)


@pytest.mark.parametrize(
    ("spoil", "check", "level", "mend"),
    [
        (lambda path: path.chmod(0o644), "file mode", "warning", "chmod 600"),
        (lambda path: path.chmod(0o666), "file mode", "problem", "chmod 600"),
        (execute("DROP INDEX sessiondb_sessions_user"), "index", "problem", "CREATE INDEX sessiondb_sessions_user ON"),
        (execute("DROP TABLE sessiondb_users"), "tables", "problem", "sessiondb init"),
        (execute("UPDATE sessiondb_meta SET value = '99'"), "schema", "problem", "Install the sessiondb"),
        (execute("PRAGMA journal_mode = delete"), "journal mode", "note", "journal_mode = wal"),
        (damage, "integrity", "problem", "backup"),
    ],
    ids=["readable", "writable", "index", "table", "version", "journal", "damage"],
)
async def test_what_is_wrong_with_a_file_is_found(
    path: Path, spoil: Callable[[Path], None], check: str, level: str, mend: str
) -> None:
    spoil(path)
    found = finding(await examine(f"sqlite:///{path}"), check)
    assert found.level == level
    assert mend in found.mend


async def test_the_statement_that_mends_a_missing_index_does(path: Path) -> None:
    execute("DROP INDEX sessiondb_events_sid")(path)
    execute(finding(await examine(f"sqlite:///{path}"), "index").mend)(path)
    assert finding(await examine(f"sqlite:///{path}"), "indexes").level == "ok"


async def test_the_statement_that_mends_a_missing_column_does(path: Path) -> None:
    execute("ALTER TABLE sessiondb_sessions DROP COLUMN purge_at")(path)
    execute(finding(await examine(f"sqlite:///{path}"), "column").mend)(path)
    assert finding(await examine(f"sqlite:///{path}"), "columns").level == "ok"


async def test_a_file_that_is_none_of_sqlite_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear sir or madam, " * 100)
    report = await examine(f"sqlite:///{tmp_path}/letter.db")
    assert report.has_problems
    assert "no SQLite database" in finding(report, "usable").means


async def test_synchronous_normal_is_said_to_lose_writes_in_a_power_cut(path: Path) -> None:
    report = await examine(f"sqlite:///{path}?synchronous=normal")
    assert finding(report, "synchronous").level == "warning"
    assert survives(report, POWER_CUT) is False


async def test_a_file_in_memory_is_a_problem(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path("/dev/shm")
    if file_system(folder) != "tmpfs":
        pytest.skip("needs /dev/shm on a tmpfs, as Linux has it")
    own = folder / tmp_path_factory.mktemp("doctor").name
    own.mkdir()
    try:
        report = await examine(f"sqlite:///{own}/sessions.db")
    finally:
        shutil.rmtree(own)
    assert finding(report, "file system").level == "problem"
    assert survives(report, POWER_CUT) is False


def test_the_innermost_mount_decides(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n/dev/b {tmp_path}/a\\040disk xfs rw 0 0\n"
    )
    (tmp_path / "a disk").mkdir()
    assert file_system(tmp_path, mounts) == "nfs4"
    assert file_system(tmp_path / "a disk", mounts) == "xfs"
    assert file_system(Path("/etc"), mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "nowhere") is None


async def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    report = await examine(f"sqlite:///{tmp_path}/nowhere/sessions.db")
    assert "mkdir -p" in finding(report, "usable").means


async def test_sessions_in_memory_are_a_problem() -> None:
    report = await examine("memory://")
    assert report.has_problems
    assert not any(one.survives for one in report.durability)


async def test_an_unknown_scheme_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="oracle"):
        await examine("oracle://host/sessions")
