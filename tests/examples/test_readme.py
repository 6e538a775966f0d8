"""What the README says can be pasted, and works."""

from __future__ import annotations

import re
import sqlite3
import textwrap
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from sessiondb import SessionDB

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


async def test_the_quick_start_works_when_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(blocks("python")[0], "README.md", "exec", dont_inherit=True), names)
    app: FastAPI = names["app"]
    transport = httpx.ASGITransport(app=app, client=("203.0.113.7", 4711))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="https://shop.example", headers={"user-agent": "Test/1"}
        ) as ann,
    ):
        assert (await ann.get("/devices")).status_code == 401
        assert (await ann.post("/cart/jug")).json() == ["jug"]
        assert (await ann.post("/login", data={"name": "ann"})).json() == {"hello": "ann"}
        assert (await ann.post("/cart/bowl")).json() == ["jug", "bowl"], "the anonymous cart comes along"
        devices = (await ann.get("/devices")).json()
        assert [device["client"]["ip"] for device in devices] == ["203.0.113.7"]
        assert [device["client"]["user_agent"] for device in devices] == ["Test/1"]
        carts = sqlite3.connect("sessions.db")
        results = [
            carts.execute(statement).fetchall() for statement in blocks("sql")[0].split(";") if statement.strip()
        ]
        carts.close()
        assert [row[0] for row in results[0]] == ["ann"], "who is signed in"
        assert results[0][0][3:] == ("203.0.113.7", "Test/1"), "from where"
        assert [row[1:] for row in results[1]] == [("ann", 2)], "what sessions hold"
        assert results[2] == [("login", 1)], "why sessions ended"
        assert (await ann.post("/logout-everywhere")).json() == 1
        assert (await ann.get("/devices")).status_code == 401


async def test_the_typed_session_works_when_pasted_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(blocks("python")[0] + blocks("python")[1], "README.md", "exec", dont_inherit=True), names)
    app: FastAPI = names["app"]
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="https://shop.example") as ann,
    ):
        assert (await ann.post("/items/jug")).json() == {"items": ["jug"], "opened_at": None}
        assert (await ann.post("/items/bowl")).json() == {"items": ["jug", "bowl"], "opened_at": None}


async def test_the_script_works_when_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    script = textwrap.indent(blocks("python")[3], "    ")
    exec(f"from sessiondb import SessionDB\n\nasync def script():\n{script}    return issued\n", names)
    issued = await names["script"]()
    async with SessionDB("sqlite:///sessions.db") as db:
        session = await db.get(issued.session.sid)
    assert session is not None
    assert (session.user_id, session.end_reason, session.data) == ("ann", "revoked", {})
