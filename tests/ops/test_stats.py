"""``sessiondb stats``: what people and programs are shown of how the app was used."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sessiondb import SessionDB
from sessiondb.ops.commands import app
from sessiondb.ops.stats import label, length_text

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database in which Ann has logged in twice, Bob once, and one of three sessions was revoked."""
    url = f"sqlite:///{tmp_path}/sessions.db"
    monkeypatch.setenv("SESSIONDB_URL", url)

    async def use() -> None:
        async with SessionDB(url, sweep_every=None) as db:
            for user in ("ann", "ann", "bob"):
                issued = await db.create(user, user_agent=FIREFOX)
            await db.revoke(issued.session.sid)

    asyncio.run(use())
    return url


def run(*arguments: str) -> Result:
    # As into a pipe, also where whoever runs the tests has named the width of a terminal.
    return CliRunner(env={"COLUMNS": None}).invoke(app, arguments)


def run_json(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_without_a_period_it_counts(url: str) -> None:
    assert run_json("stats")["live"] == 2
    assert "living sessions" in run("stats", url).stdout


@pytest.mark.parametrize(("by", "points"), [("hour", 49), ("day", 31), ("week", 27), ("month", 13)])
def test_programs_are_told_all_there_is(url: str, by: str, points: int) -> None:
    found = run_json("stats", url, "--by", by)
    assert (found["by"], len(found["points"])) == (by, points)
    last = found["points"][-1]
    # The hour, or the day, may have ended since.
    if not last["logins"]:
        last = found["points"][-2]
    for one in (last, found["total"]):
        assert (one["logins"], one["active_users"], one["active_sessions"], one["ended"]) == (3, 2, 3, 1)
        assert one["ended_by_reason"] == {"revoked": 1}
        assert one["logins_by_agent"] == {"Firefox on Linux": 3}
        assert one["sessions_per_user"]["mean"] == 1.5
    assert (found["live_sessions"], found["live_users"]) == (2, 1)
    assert (found["since"], found["until"]) == (found["points"][0]["start"], found["points"][-1]["end"])


def test_people_are_shown_a_table(url: str) -> None:
    result = run("stats", "--by", "day")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["day", "users", "sessions"]
    total = next(line for line in lines if line.startswith("total"))
    assert total.split()[1:8] == ["2", "3", "1.5", "3", "0", "3", "1"]
    assert re.search(r"^\d{4}-\d\d-\d\d +2 +3", result.stdout, re.MULTILINE)
    assert "Firefox on Linux 3 (100%)" in result.stdout
    assert "revoked 1 (100%)" in result.stdout
    assert "now: 2 living sessions, 1 users with one" in result.stdout
    assert max(map(len, lines)) <= 120


def test_since_alone_is_by_day(url: str) -> None:
    since = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    found = run_json("stats", url, "--since", since)
    assert (found["by"], found["total"]["logins"]) == ("day", 3)
    assert len(found["points"]) in (3, 4)


def test_a_time_before_anything_has_no_numbers(url: str) -> None:
    found = run_json("stats", url, "--by", "week", "--since", "2020-01-01", "--until", "2020-03-01")
    assert found["total"]["logins"] == 0
    assert len(found["points"]) == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "year"], "by is 'year'; use 'hour', 'day', 'week' or 'month'"),
        (["--since", "yesterday"], "write it as 2026-03-01T14:30"),
        (["--since", "2999-01-01"], "use an earlier one"),
        (["--by", "hour", "--since", "2020-01-01"], "more than 2,000 hours"),
        (["--since", "2026-02-01", "--until", "2026-01-01"], "use an earlier one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_said_in_one_line(url: str, arguments: list[str], said: str) -> None:
    result = run("stats", url, *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1


def test_looking_counts_nothing(url: str) -> None:
    before = run_json("stats", url, "--by", "day")
    after = run_json("stats", url, "--by", "day")
    assert before["total"] == after["total"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59, "59 s"), (60, "1.0 min"), (5400, "1.5 h"), (86_400 * 30, "30 d"), (36_000, "10 h")],
)
def test_lengths_are_short(seconds: float, text: str) -> None:
    assert length_text(seconds) == text


@pytest.mark.parametrize(
    ("by", "text"), [("hour", "2027-01-01 00:00"), ("day", "2027-01-01"), ("week", "2026-W53"), ("month", "2027-01")]
)
def test_periods_have_names(by: str, text: str) -> None:
    assert label(by, round(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000) == text


# -- views ----------------------------------------------------------------------------------------------------


def test_views_are_printed_below_the_tables_and_answer(url: str, tmp_path: Path) -> None:
    result = run("init", "--sql", "--views", url)
    assert result.exit_code == 0, result.output
    with contextlib.closing(sqlite3.connect(tmp_path / "sessions.db")) as file:
        file.executescript(result.stdout)
        file.executescript(result.stdout)
        logins = "SELECT count(*), count(DISTINCT user_id) FROM sessiondb_usage_logins WHERE outcome = 'success'"
        assert file.execute(logins).fetchone() == (3, 2)
        assert file.execute("SELECT reason, length >= 0 FROM sessiondb_usage_ends").fetchall() == [("revoked", 1)]
    # The app minds them not.
    assert run_json("stats", url)["live"] == 2


def test_views_have_the_prefix_of_the_tables() -> None:
    for url in ("sqlite:///a.db?prefix=x_", "postgresql://host/a?prefix=x_", "mysql://host/a?prefix=x_"):
        printed = run("init", "--sql", "--views", url).stdout
        assert "x_usage_logins" in printed
        assert "sessiondb_" not in printed


@pytest.mark.parametrize(
    "arguments", [["--views"], ["--sql", "--views", "redis://host"], ["--sql", "--views", "mongodb://host/a"]], ids=str
)
def test_views_that_cannot_be_had_are_refused(arguments: list[str]) -> None:
    result = run("init", *arguments)
    assert result.exit_code == 2
    assert "views" in result.output
    assert result.output.count("\n") == 1
