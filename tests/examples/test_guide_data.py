"""The code in the guide's sections on typed sessions, flash messages and CSRF tokens does what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from guide import app_of, blocks, browser

from sessiondb import CurrentSession, SessionDB


def raw_browser(db: SessionDB, heading: str) -> httpx.AsyncClient:
    """The section's app, whose session can be written to as it is too."""
    app = app_of(db, heading)

    @app.post("/raw")
    async def raw(values: dict[str, Any], session: CurrentSession) -> dict[str, Any]:
        session.update(values)
        return session

    return browser(app)


async def test_typed_sessions() -> None:
    async with SessionDB("memory://") as db, raw_browser(db, "Typed sessions") as http:
        await http.post("/order/tea")
        assert (await http.post("/order/jug")).json()["lines"] == [
            {"sku": "tea", "count": 1},
            {"sku": "jug", "count": 1},
        ]
        await http.post("/raw", json={"lines": 3, "items": ["tea", "jug", "tea"], "theme": "dark"})
        assert (await http.get("/basket")).json() == {"lines": {"tea": 2, "jug": 1}}
        assert (await http.post("/raw", json={})).json() == {
            "lines": {"tea": 2, "jug": 1},
            "theme": "dark",
            "_version.Basket": 2,
        }
        # The order has the same key in another shape.
        assert (await http.post("/order/tea")).status_code == 303
        assert "lines" not in (await http.post("/raw", json={})).json()


async def test_flash_messages() -> None:
    async with SessionDB("memory://") as db, raw_browser(db, "Flash messages") as http:
        assert (await http.post("/orders", follow_redirects=True)).json() == ["success: Thank you."]
        assert (await http.get("/orders")).json() == []


async def test_csrf_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    [form] = blocks("CSRF tokens", "html")
    (tmp_path / "templates" / "transfer.html").write_text(form, encoding="utf-8")
    async with SessionDB("memory://") as db, raw_browser(db, "CSRF tokens") as http:
        page = (await http.get("/transfer")).text
        [token] = re.findall(r'name="csrf_token" value="(.*?)"', page)
        assert (await http.post("/transfer", data={"amount": "3", "csrf_token": token})).json() == 3
        assert (await http.post("/transfer", data={"amount": "3"})).status_code == 403
