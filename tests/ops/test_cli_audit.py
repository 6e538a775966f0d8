"""``sessiondb audit`` and ``sessiondb forget``: what an auditor and a data protection officer type."""

from __future__ import annotations

import asyncio
import csv
import json
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli import run, run_json

from sessiondb import SessionDB
from sessiondb.core.keys import generate_key
from sessiondb.core.signing import Ed25519Signer


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/sessions.db"
    monkeypatch.setenv("SESSIONDB_URL", url)

    async def fill(db: SessionDB) -> None:
        for user in ("ann", "bob", "ann"):
            await db.create(user, ip="192.0.2.7", user_agent="Firefox")
        await db.revoke_all("bob")

    with_db(url, fill)
    return url


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    key = generate_key()
    monkeypatch.setenv("SESSIONDB_AUDIT_KEY", f"ed25519:{key}")
    return key


def with_db(url: str, work: Callable[[SessionDB], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with SessionDB(url, sweep_every=None) as db:
            return await work(db)

    return asyncio.run(main())


def tamper(tmp_path: Path, statement: str) -> int:
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        changed = connection.execute(statement).rowcount
    connection.close()
    return changed


def test_an_auditor_verifies_with_the_exported_line_and_the_public_key(
    url: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "checkpoints.jsonl"
    made = run("audit", "checkpoint", "--to", str(lines))
    assert made.exit_code == 0
    assert lines.read_text() == made.stdout
    assert "Nothing has happened" in run("audit", "checkpoint").stderr
    monkeypatch.delenv("SESSIONDB_AUDIT_KEY")
    arguments = ["audit", "verify", "--checkpoints", str(lines), "--public-key", Ed25519Signer(key).public_key]
    found = run(*arguments)
    assert found.exit_code == 0, found.stdout
    assert "The trail is what was written." in found.stdout
    assert "Checkpoint 1 of" in found.stdout
    mapping = run_json(*arguments)
    assert (mapping["sound"], mapping["signed"], mapping["exported"], mapping["beyond"]) == (True, True, True, 1)

    assert (
        tamper(tmp_path, "UPDATE sessiondb_events SET ip = '203.0.113.9' WHERE user_id = 'bob' AND ip IS NOT NULL") == 1
    )
    found = run(*arguments)
    assert found.exit_code == 1
    assert "1 problem:" in found.stdout
    assert "personal fields (address and personal details) are not those that were written" in found.stdout
    [problem] = json.loads(run(*arguments, "--json").stdout)["problems"]
    assert (problem["kind"], problem["seq"]) == ("altered", 2)


def test_without_key_and_checkpoint_it_says_what_it_cannot_tell(url: str) -> None:
    found = run("audit", "verify")
    assert found.exit_code == 0
    assert "There is no checkpoint" in found.stdout
    assert "signatures were not verified" in found.stdout
    assert "No key" in run("audit", "checkpoint").stderr
    assert "whoever can write there can replace" in run("audit", "verify").stdout


def test_a_line_of_a_log_is_read_and_any_other_is_told(url: str, key: str, tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text(f"2026-03-01 INFO checkpoint {run('audit', 'checkpoint').stdout}\n")
    assert run("audit", "verify", "--checkpoints", str(log)).exit_code == 0
    log.write_text("hello\n")
    found = run("audit", "verify", "--checkpoints", str(log))
    assert (found.exit_code, "line 1" in found.stderr) == (2, True)
    assert run("audit", "verify", "--checkpoints", str(tmp_path / "none")).exit_code == 2


@pytest.mark.parametrize("text", ["secret", "rsa:abc", "ed25519:short", "hmac:"])
def test_a_key_that_is_none_is_told_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SESSIONDB_AUDIT_KEY", text)
    found = run("audit", "checkpoint")
    assert found.exit_code == 2
    assert "short" not in found.stderr
    assert "secret" not in found.stderr


def test_a_key_in_a_file(url: str, tmp_path: Path) -> None:
    file = tmp_path / "audit.key"
    file.write_text(f"hmac:{generate_key()}\n")
    made = run("audit", "checkpoint", "--key", str(file))
    assert json.loads(made.stdout)["key"].startswith("hmac:")
    assert run("audit", "verify", "--key", str(file)).exit_code == 0


@pytest.mark.parametrize("format", ["jsonl", "otel", "ocsf"])
def test_events_are_exported_in_each_format(url: str, format: str) -> None:
    found = run("audit", "export", "--format", format)
    assert found.exit_code == 0
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(lines) == 5
    assert '"ann"' in found.stdout


def test_a_file_is_for_its_owner_alone_and_never_overwritten(url: str, tmp_path: Path) -> None:
    to = tmp_path / "events.csv"
    assert run("audit", "export", "--format", "csv", "--to", str(to)).exit_code == 0
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    with open(to, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["type"] for row in rows].count("authn_login_success") == 3
    found = run("audit", "export", "--to", str(to))
    assert (found.exit_code, "exists already" in found.stderr) == (2, True)


def test_events_are_chosen(url: str) -> None:
    assert len(run("audit", "export", "--user", "ann").stdout.splitlines()) == 2
    assert len(run("audit", "export", "--type", "user_revoked").stdout.splitlines()) == 1
    assert run("audit", "export", "--until", "2001-01-01").stdout == ""
    assert run("audit", "export", "--format", "xml").exit_code == 2
    assert run("audit", "export", "--since", "yesterday").exit_code == 2


def test_more_events_than_a_page(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.ops.audit.PAGE", 2)
    lines = run("audit", "export").stdout.splitlines()
    assert len(set(lines)) == len(lines) == 5


def test_a_person_is_forgotten(url: str, key: str, tmp_path: Path) -> None:
    lines = tmp_path / "checkpoints.jsonl"
    run("audit", "checkpoint", "--to", str(lines))
    refused = run("forget", "ann")
    assert (refused.exit_code, "--yes" in refused.stderr) == (2, True)
    found = run_json("forget", "ann", "--yes")
    assert found["sessions"] == 2
    assert found["events"] >= 2
    assert b"ann" not in (tmp_path / "sessions.db").read_bytes()
    assert run("audit", "verify", "--checkpoints", str(lines)).exit_code == 0
    assert run("forget", "ann", "--yes").stdout.startswith("0 sessions deleted")
