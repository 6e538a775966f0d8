"""``sessiondb bench``: it measures, and leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

from databases import had, new_url, url_of
from provision.valkey import Valkey, ask
from sessiondb import SessionDB, StoreError
from sessiondb.ops.bench import VERBS, Work
from sessiondb.ops.bench_scratch import is_local, scratch
from sessiondb.ops.commands import app

QUICK = ("--seconds", "0.05", "--sessions", "100")


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": None}).invoke(app, ["bench", *arguments])


@contextmanager
def begun(url: str) -> Iterator[subprocess.Popen[str]]:
    """A bench that takes for ever, or as long as the test."""
    bench = subprocess.Popen(
        [sys.executable, "-m", "sessiondb", "bench", url, "--seconds", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield bench
    finally:
        bench.kill()
        bench.communicate()


def wait_until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


async def left_in(kind: str, url: str) -> list[str]:
    """What the server holds under the prefix of ``url``."""
    prefix = url.rpartition("prefix=")[2]
    if kind == "redis":
        reply = ask(urlsplit(url).port or 0, "KEYS", f"{prefix}*")
        return [] if reply == "*0\r\n" else [reply]
    if kind == "mongodb":
        from sessiondb.stores._mongodb_url import parse

        collections = parse(url).connect()
        names = await collections.database.list_collection_names()
        await collections.close()
        return [name for name in names if name.startswith(prefix)]
    if kind == "postgresql":
        import asyncpg

        connection = await asyncpg.connect(url.partition("?")[0])
        found = await connection.fetch("SELECT relname FROM pg_class WHERE starts_with(relname, $1)", prefix)
        found += await connection.fetch("SELECT proname FROM pg_proc WHERE starts_with(proname, $1)", prefix)
        await connection.close()
        return [str(one[0]) for one in found]
    from sessiondb.stores._mysql_connection import connect
    from sessiondb.stores._mysql_url import parse as parse_mysql

    mysql = await connect(parse_mysql(url).arguments, 5)
    [tables] = await mysql.run([f"SELECT table_name FROM information_schema.tables WHERE table_name LIKE '{prefix}%'"])
    await mysql.close()
    return [str(row[0]) for row in tables.rows]


def test_every_verb_is_measured_by_every_number_of_callers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    result = run(url, *QUICK, "--callers", "1", "--callers", "8", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["database"] == "sqlite"
    assert found["plan"] == {"seconds": 0.05, "callers": [1, 8], "sessions": 100}
    assert [(one["callers"], one["verb"]) for one in found["results"]] == [(n, verb) for n in (1, 8) for verb in VERBS]
    for one in found["results"]:
        assert one["calls"] >= one["callers"]
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["per_second"] > 0
        assert one["cpu_us"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_database_of_the_app_is_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    assert CliRunner().invoke(app, ["init", url]).exit_code == 0
    before = (tmp_path / "sessions.db").read_bytes()
    assert run(f"{url}?synchronous=normal", *QUICK, "--callers", "4").exit_code == 0
    assert (tmp_path / "sessions.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["sessions.db"]


@pytest.mark.parametrize("kind", ["redis", "postgresql", "mysql", "mongodb"])
def test_a_server_is_left_as_it_was(kind: str, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    result = run(url, *QUICK, "--callers", "4")
    assert result.exit_code == 0, result.output
    assert [line.split()[-5] for line in result.stdout.splitlines() if line.count(".") >= 2][:5] == list(VERBS)
    assert asyncio.run(left_in(kind, url)) == []


@pytest.mark.parametrize("kind", ["redis", "postgresql", "mysql"])
def test_what_is_looked_for_would_be_found(kind: str, tmp_path: Path) -> None:
    url = new_url(kind, tmp_path)
    part = scratch(url)
    assert CliRunner().invoke(app, ["init", part.url]).exit_code == 0
    assert asyncio.run(left_in(kind, url)) != []
    asyncio.run(part.remove())
    assert asyncio.run(left_in(kind, url)) == []
    asyncio.run(part.remove())


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_what_was_made_is_removed_when_it_is_interrupted(tmp_path: Path, told: signal.Signals) -> None:
    with begun(f"sqlite:///{tmp_path}/sessions.db") as bench:
        wait_until(lambda: list(tmp_path.glob("*-wal")))
        bench.send_signal(told)
        _, said = bench.communicate(timeout=60)
    assert bench.returncode == 130, said
    assert said == "Interrupted; what was made is removed.\n"
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_on_a_server_is_removed_when_it_is_interrupted(tmp_path: Path) -> None:
    url = new_url("redis", tmp_path)
    with begun(url) as bench:
        wait_until(lambda: asyncio.run(left_in("redis", url)))
        bench.send_signal(signal.SIGINT)
        bench.communicate(timeout=60)
    assert bench.returncode == 130
    assert asyncio.run(left_in("redis", url)) == []


def test_what_cannot_be_removed_is_named() -> None:
    server = had(Valkey)
    try:
        with begun(server.url) as bench:
            wait_until(lambda: ask(server.port, "KEYS", "*") != "*0\r\n")
            server.process.kill()
            _, said = bench.communicate(timeout=100)
        assert bench.returncode == 1
        assert "Remove yourself what begins with 'sessiondb:bench:" in said
        assert "Traceback" not in said
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("memory://", True),
        ("sqlite:////var/lib/sessions.db", True),
        ("redis://127.0.0.1:6379/0", True),
        ("redis://ada:p@ss@localhost", True),
        ("rediss://[::1]:6379", True),
        ("postgresql:///app?host=/run/postgresql", True),
        ("mysql://root@127.0.0.7:3306/app", True),
        ("mongodb://127.0.0.1:1,127.0.0.1:2/app", True),
        ("redis://cache.internal:6379", False),
        ("redis://127.0.0.1@cache.internal", False),
        ("redis://127.0.0.1.example.com", False),
        ("redis+cluster://127.0.0.1:1,10.0.0.7:1", False),
        ("postgresql:///app?host=db.internal", False),
        ("postgresql://127.0.0.1/app?replica=postgresql%3A%2F%2Fdb.internal%2Fapp", False),
        ("mongodb+srv://localhost/app", False),
        ("redis://0.0.0.0", False),
        ("redis://[2001:db8::1]:6379", False),
    ],
)
def test_what_is_this_machine(url: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    assert is_local(url) is local


def test_a_host_that_only_the_environment_names_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.internal")
    assert not is_local("postgresql:///app")
    assert is_local("postgresql://127.0.0.1/app")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "redis", "mongodb"])
def test_another_machine_is_not_loaded_without_being_told_to(scheme: str) -> None:
    result = run(f"{scheme}://ada:hunter2@db.internal/{0 if scheme == 'redis' else 'app'}", *QUICK)
    assert result.exit_code == 2
    assert "use --yes" in result.stderr
    assert "db.internal" in result.stderr
    assert "hunter2" not in result.output
    assert result.stderr.count("\n") == 1


def test_another_machine_is_loaded_when_told_to() -> None:
    there = urlsplit(url_of("postgresql"))
    # The second host is never asked: the first one answers.
    url = there._replace(netloc=f"{there.netloc},203.0.113.9:{there.port}").geturl()
    assert run(url, *QUICK).exit_code == 2
    result = run(url, *QUICK, "--callers", "2", "--yes")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "arguments",
    [("--seconds", "0"), ("--callers", "0"), ("--sessions", "0"), ("--seconds", "nan")],
    ids=lambda pair: " ".join(pair),
)
def test_numbers_that_cannot_work_are_refused(tmp_path: Path, arguments: tuple[str, str]) -> None:
    result = run(f"sqlite:///{tmp_path}/sessions.db", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("sessiondb: bench: ")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_one_line_with_the_cure() -> None:
    result = run("redis://ada:hunter2@127.0.0.1:9/0", *QUICK)
    assert result.exit_code == 1
    assert "Start it" in result.stderr
    assert "hunter2" not in result.output


async def test_a_session_that_goes_missing_beside_it_is_told() -> None:
    async with SessionDB("memory://", sweep_every=None) as db:
        work = Work(db)
        await work.fill(10)
        await work.load()
        await work.list_sessions()
        await db.revoke_everyone()
        with pytest.raises(StoreError, match="not there any more"):
            await work.load()
        with pytest.raises(StoreError, match="not there any more"):
            await work.list_sessions()
