"""The command ``sessiondb``: what it prints, to whom, and with which exit code."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from databases import had
from provision.valkey import Valkey
from sessiondb import Policy, SessionDB
from sessiondb.ops.commands import app


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database without sessions, named in the environment."""
    url = f"sqlite:///{tmp_path}/sessions.db"
    monkeypatch.setenv("SESSIONDB_URL", url)
    assert run("init").exit_code == 0
    return url


def run(*arguments: str) -> Result:
    # As into a pipe, also where whoever runs the tests has named the width of a terminal.
    return CliRunner(env={"COLUMNS": None}).invoke(app, arguments)


def run_json(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def sessions_for(url: str, *users: str | None) -> list[str]:
    """The sids of new sessions, made by a program of its own, as an app is."""
    code = (
        "import asyncio, json, sys\n"
        "from sessiondb import SessionDB\n"
        "async def main():\n"
        "    async with SessionDB(sys.argv[1], sweep_every=None) as db:\n"
        "        for user in json.loads(sys.argv[2]):\n"
        "            made = await db.create(user, {'note': 'private'}, ip='192.0.2.7', user_agent='Browser/1')\n"
        "            print(made.session.sid)\n"
        "asyncio.run(main())\n"
    )
    done = in_a_process("-c", code, url, json.dumps(users))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    assert in_a_process("-m", "sessiondb", "init", url).returncode == 0
    done = in_a_process("-m", "sessiondb", "doctor", SESSIONDB_URL=url)
    assert done.returncode == 0, done.stderr
    assert "What was answered survives" in done.stdout
    assert done.stderr == ""


def test_without_typer_it_says_how_to_get_it() -> None:
    done = in_a_process("-c", "import sys; sys.modules['typer'] = None; from sessiondb.ops.cli import main; main()")
    assert done.returncode == 2
    assert "pip install 'sessiondb[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_library_does_not_load_the_command_line() -> None:
    done = in_a_process("-c", "import sys, sessiondb; print(sorted({'typer', 'rich'} & set(sys.modules)))")
    assert done.stdout == "[]\n"


def test_the_doctor_tells_problems_by_its_exit_code(url: str, tmp_path: Path) -> None:
    assert run("doctor").exit_code == 0
    (tmp_path / "sessions.db").chmod(0o666)
    result = run("doctor", url)
    assert result.exit_code == 1
    assert "chmod 600" in result.stdout
    assert result.stdout.index("problem") < result.stdout.index("ok ")
    report = json.loads(run("doctor", "--json").stdout)
    assert report["problems"] == 1
    assert [one["check"] for one in report["findings"] if one["level"] == "problem"] == ["file mode"]
    assert {"event": "a power cut", "survives": True, "why": ""} in report["durability"]


@pytest.mark.parametrize("command", ["doctor", "init", "stats", "sweep", "repair"])
@pytest.mark.parametrize(
    "wrong",
    [
        "oracle://ada:hunter2@host/db",
        "postgresql://ada:hunter2@host:port/db",
        "mysql://ada:hunter2@host",
        "redis://ada:hunter2@host/zero",
        "redis://ada:hunter2@host?colour=red",
        "ada:hunter2@host",
    ],
)
def test_a_url_that_cannot_work_is_one_line_without_its_password(command: str, wrong: str) -> None:
    result = run(command, wrong)
    assert result.exit_code == 2
    assert "hunter2" not in result.output
    assert result.stderr.startswith("sessiondb: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["stats", "sweep", "init"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis"])
def test_a_server_that_is_away_is_one_line_with_the_cure(command: str, scheme: str) -> None:
    path = "/0" if scheme == "redis" else "/sessions"
    result = run(command, f"{scheme}://ada:hunter2@127.0.0.1:9{path}")
    assert result.exit_code == 1
    assert "Start it" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hunter2" not in result.output


def test_a_mistyped_file_is_not_made(tmp_path: Path) -> None:
    result = run("stats", f"sqlite:///{tmp_path}/sesions.db")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("sqlite:///never.db?prefix=my_", "CREATE TABLE IF NOT EXISTS my_sessions"),
        ("postgresql://ada:hunter2@nowhere/db?prefix=my_", "user_id          text COLLATE"),
        ("mariadb://ada:hunter2@nowhere/db?prefix=my_", "ENGINE=InnoDB"),
        ("redis://ada:hunter2@nowhere?prefix=my_", "need no schema"),
        ("mongodb://ada:hunter2@nowhere/db?prefix=my_", "my_sessions: user, check, links, purge"),
    ],
)
def test_the_statements_are_printed_without_a_connection(url: str, part: str) -> None:
    result = run("init", "--sql", url)
    assert result.exit_code == 0
    assert part in result.stdout
    assert "my_" in result.stdout
    assert "hunter2" not in result.output
    assert not Path("never.db").exists()


def test_the_printed_statements_make_what_the_doctor_looks_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/own.db"
    connection = sqlite3.connect(tmp_path / "own.db")
    connection.executescript(run("init", "--sql", url).stdout)
    connection.close()
    found = {one["check"]: one["level"] for one in json.loads(run("doctor", url, "--json").stdout)["findings"]}
    assert (found["schema"], found["tables"], found["indexes"]) == ("ok", "ok", "ok")


def test_sessions_are_counted_listed_and_revoked(url: str) -> None:
    first, second, other = sessions_for(url, "ada", "ada", "bob")
    assert run_json("stats")["live"] == 3
    assert [one["sid"] for one in run_json("list", "--user", "ada")] == [second, first]
    assert first in run("list", "--user", "ada").stdout
    assert "192.0.2.7" in run("list", "--user", "ada").stdout

    assert run_json("revoke", first) == {"ended": 1}
    again = run("revoke", first)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "No living session" in again.stderr
    assert [one["sid"] for one in run_json("list", "--user", "ada")] == [second]
    assert {one["end_reason"] for one in run_json("list", "--user", "ada", "--ended")} == {None, "admin"}

    assert run_json("revoke", "--user", "ada") == {"ended": 1}
    assert run("list", "--user", "ada").stdout == "User ada has no living session.\n"
    assert [one["sid"] for one in run_json("list", "--user", "bob")] == [other]
    assert run_json("stats")["ended"] == 2


def test_what_is_listed_holds_neither_secrets_nor_what_the_app_stores(url: str) -> None:
    sessions_for(url, "ada")
    shown = run("list", "--user", "ada", "--json").stdout + run("list", "--user", "ada").stdout
    assert "private" not in shown
    assert "hash" not in shown
    assert "secret" not in shown


@pytest.mark.parametrize("arguments", [(), ("one", "--user", "ada")])
def test_revoke_wants_one_of_session_and_user(url: str, arguments: tuple[str, ...]) -> None:
    result = run("revoke", *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


async def _live_for(url: str, seconds: float) -> None:
    async with SessionDB(url, policy=Policy(idle=seconds, absolute=seconds), sweep_every=None) as db:
        await db.create("ada")


def test_a_sweep_leaves_sessions_that_an_app_lets_live_for_longer_than_the_default(url: str) -> None:
    year = 365 * 86_400
    asyncio.run(_live_for(url, year))
    # As if made 40 days ago: the default policy would have ended it after 30.
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    for name in ("created_at", "last_seen_at", "check_at"):
        connection.execute(f"UPDATE sessiondb_sessions SET {name} = {name} - 40 * 86400 * 1000000")
    connection.execute("UPDATE sessiondb_sessions SET check_at = 0")
    connection.commit()
    connection.close()
    assert run_json("sweep") == {"ended": 0, "purged": 0}
    assert len(run_json("list", "--user", "ada")) == 1


def test_a_sweep_ends_what_has_expired(url: str) -> None:
    asyncio.run(_live_for(url, 3600))
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    for name in ("created_at", "last_seen_at", "check_at"):
        connection.execute(f"UPDATE sessiondb_sessions SET {name} = {name} - 7200 * 1000000")
    connection.commit()
    connection.close()
    assert run("sweep").stdout == "1 ended, 0 deleted.\n"
    assert run_json("stats")["live"] == 0


def test_repair_is_for_redis(url: str) -> None:
    result = run("repair", url)
    assert result.exit_code == 2
    assert "Redis" in result.stderr


def test_repair_lists_sessions_anew() -> None:
    server = had(Valkey)
    try:
        sessions_for(server.url, "ada", None)
        assert run_json("repair", server.url) == {"sessions": 2}
        assert run("repair", server.url).stdout == "2 sessions listed.\n"
    finally:
        server.stop()
