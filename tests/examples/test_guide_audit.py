"""The code in the guide's page on the audit trail does what it says, and its tables are complete."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from guide import SECTIONS, app_of, blocks, browser, run

from sessiondb import Event, EventType, SessionDB, Webhook
from sessiondb.core.events import class_of


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_reading() -> None:
    async with SessionDB("memory://") as db:
        await db.create("ann", ip="192.0.2.1")
        async with browser(app_of(db, "Reading it")) as http:
            [event] = (await http.get("/audit", params={"user": "ann"})).json()
            assert (event["type"], event["ip"]) == ("authn_login_success", "192.0.2.1")
            assert (await http.get("/audit/staff", params={"member": "root"})).json() == []


async def test_the_sql_runs_on_the_tables() -> None:
    async with SessionDB("sqlite:///sessions.db") as db:
        await db.login_failed("bob", user_id="bob")
        await db.create("ann")
        await db.revoke_all("ann")
        await db.events()
        with sqlite3.connect("sessions.db") as connection:
            failed, staff, _ = [
                connection.execute(statement).fetchall()
                for statement in blocks("Reading it", "sql")[0].split(";")
                if statement.strip()
            ]
        connection.close()
    assert failed == [(None, 1, 1)]
    assert [row[1] for row in staff] == ["user_revoked"]


async def test_checkpoints() -> None:
    names = run("Checkpoints and verification")
    async with names["db"] as db:
        await db.create("ann")
        await db.checkpoint()
        assert await names["verify_the_trail"]() is True
        with sqlite3.connect("audited.db") as connection:
            connection.execute("DELETE FROM sessiondb_events WHERE stream LIKE 'l%'")
        connection.close()
        assert await names["verify_the_trail"]() is False


async def test_required() -> None:
    async with run("Required")["strict"] as strict:
        assert strict.runtime.audit_required


async def test_sinks() -> None:
    names = run("Sinks and exports")
    seen: list[Event] = []
    await names["to_my_queue"](seen)
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b"{}"
    timestamp = str(int(time.time()))
    signature = Webhook(url="https://a.test/", secret=secret).sign("msg_1", timestamp, body)

    async def read() -> bytes:
        return body

    headers = {"webhook-id": "msg_1", "webhook-timestamp": timestamp, "webhook-signature": signature}
    assert await names["hook"](SimpleNamespace(headers=headers, body=read))


async def test_forgetting() -> None:
    async with SessionDB("memory://") as db:
        await db.create("ann")
        async with browser(app_of(db, "Forgetting a person")) as http:
            answer: Any = (await http.delete("/users/ann", headers={"origin": "http://shop.test"})).json()
            assert (answer["sessions"], answer["events"] >= 1) == (1, True)


def test_every_event_is_in_the_table_with_its_class() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", SECTIONS["Every event"], re.MULTILINE)
    assert dict(rows) == {type_.value: class_of(type_).value for type_ in EventType}
