"""``sessiondb revoke``, ``lock`` and ``unlock``: what is ended, what is asked first; apps' hooks hear of it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from test_cli import run, run_json, sessions_for

from sessiondb import Ended, LoginRefused, SessionDB
from sessiondb.core.policy import SECOND


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/sessions.db"
    monkeypatch.setenv("SESSIONDB_URL", url)
    assert run("init").exit_code == 0
    return url


def with_db(url: str, work: Callable[[SessionDB], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with SessionDB(url, sweep_every=None) as db:
            return await work(db)

    return asyncio.run(main())


def living(url: str) -> set[str]:
    async def look(db: SessionDB) -> set[str]:
        return {one.sid async for one in db.find_sessions(created_after=0)}

    found: set[str] = with_db(url, look)
    return found


def reason_of(url: str, sid: str) -> str | None:
    async def look(db: SessionDB) -> str | None:
        found = await db.get(sid)
        return found.end_reason if found is not None else None

    reason: str | None = with_db(url, look)
    return reason


def at_a_terminal(answer: str, *arguments: str) -> tuple[int, str]:
    """The command's exit code and what it says, with somebody who types ``answer``."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        command = [sys.executable, "-m", "sessiondb", *arguments]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr


def between() -> str:
    """A moment after what has been made and before what will be, as people write it."""
    return datetime.now(UTC).isoformat()


@pytest.mark.security("L8")
def test_sessions_with_something_in_common_are_ended(url: str) -> None:
    sids = sessions_for(url, "ada", "bob", None)
    for option in (("--ip", "192.0.2.7"), ("--network", "192.0.2.0/24"), ("--user-agent", "Browser/")):
        assert run_json("revoke", *option, "--dry-run") == {"found": 3}
    assert run_json("revoke", "--ip", "192.0.2.8", "--dry-run") == {"found": 0}
    assert run_json("revoke", "--network", "192.0.2.0/24", "--user", "ada", "--yes") == {"ended": 1}
    assert living(url) == set(sids[1:])
    assert reason_of(url, sids[0]) == "admin"
    assert run("revoke", "--user-agent", "Browser/1", "--yes").stdout == "2 sessions ended.\n"
    assert living(url) == set()


def test_times_mean_what_the_help_says(url: str) -> None:
    [early] = sessions_for(url, "ada")
    moment = between()
    [late] = sessions_for(url, "ada")
    assert run_json("revoke", "--before", moment, "--dry-run") == {"found": 1}
    assert run_json("revoke", "--after", moment, "--dry-run") == {"found": 1}
    assert run_json("revoke", "--unused-since", moment, "--dry-run") == {"found": 1}
    assert run_json("revoke", "--before", "2001-01-01", "--dry-run") == {"found": 0}
    assert run_json("revoke", "--after", "2001-01-01T00:00+02:00", "--dry-run") == {"found": 2}
    # What a backup of that moment has brought back.
    assert run_json("revoke", "--active-at", moment, "--yes", "--reason", "revoked") == {"ended": 1}
    assert (living(url), reason_of(url, early)) == ({late}, "revoked")


@pytest.mark.security("L8")
def test_everyone_is_ended_only_by_name(url: str) -> None:
    sids = sessions_for(url, "ada", "bob", None)
    assert run_json("revoke", "--everyone", "--dry-run") == {"found": 3}
    assert living(url) == set(sids)
    assert run_json("revoke", "--everyone", "--yes") == {"ended": 3}
    assert living(url) == set()


def test_many_are_not_ended_before_somebody_has_agreed(url: str) -> None:
    sids = sessions_for(url, "ada", "bob")
    refused = run("revoke", "--everyone")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "2 living sessions are meant" in refused.stderr and "--yes" in refused.stderr
    assert living(url) == set(sids)
    for answer, expected in (("n", 1), ("y", 0)):
        status, shown = at_a_terminal(answer, "revoke", "--everyone")
        assert "2 living sessions are meant. End them?" in shown
        assert (status, living(url)) == (expected, set(sids) if expected else set())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say which sessions"),
        (("--everyone", "--user", "ada"), "say which sessions"),
        (("sid", "--ip", "192.0.2.7"), "say which sessions"),
        (("--dry-run",), "say which sessions"),
        (("--network", "192.0.2.7/24", "--yes"), "host bits"),
        (("--ip", "here", "--yes"), "ip is 'here'"),
        (("--before", "yesterday", "--yes"), "'yesterday' is no time"),
        (("--everyone", "--yes", "--reason", "limit"), "use one of EndReason"),
        (("--user-agent", "", "--yes"), "user_agent is ''"),
    ],
)
def test_what_is_asked_wrongly_ends_nobody_and_is_one_line(url: str, arguments: tuple[str, ...], says: str) -> None:
    [sid] = sessions_for(url, "ada")
    result = run("revoke", *arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert says in result.stderr
    assert living(url) == {sid}


def test_a_user_is_locked_and_unlocked(url: str) -> None:
    sessions_for(url, "ada", "ada")
    assert json.loads(run("lock", "ada", "--json").stdout) == {"ended": 2}

    async def log_in(db: SessionDB) -> str:
        try:
            await db.create("ada")
        except LoginRefused as error:
            return error.reason
        return "in"

    assert with_db(url, log_in) == "locked"
    assert run("unlock", "ada").stdout == "User ada may log in again.\n"
    assert with_db(url, log_in) == "in"
    assert run("lock", "ada", "--until", "2999-01-01").exit_code == 0
    assert with_db(url, log_in) == "locked"
    for wrong in ("2001-01-01", "soon"):
        result = run("lock", "bob", "--until", wrong)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_the_hooks_of_apps_hear_of_what_the_command_line_has_ended(url: str) -> None:
    one, other = sessions_for(url, "ada", "bob")
    assert run("revoke", one).exit_code == 0
    assert run("revoke", "--user", "bob").exit_code == 0
    assert run("sweep").exit_code == 0
    told: list[tuple[str, str]] = []

    async def main() -> None:
        # An app that sweeps more than a minute later.
        db = SessionDB(url, sweep_every=None, clock=lambda: time.time_ns() // 1000 + 130 * SECOND)

        @db.on_end
        async def hear(ended: Ended) -> None:
            told.append((ended.sid, ended.reason))

        async with db:
            db.runtime._offset = 0  # the file has no clock of its own
            await db.sweep()

    asyncio.run(main())
    assert sorted(told) == sorted([(one, "admin"), (other, "admin")])
