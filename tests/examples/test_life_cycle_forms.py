"""The code in the guide's sections on typed sessions, flash messages and CSRF tokens does what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from sessiondb import Cookie, CurrentSession, SessionDB, SessionMiddleware

GUIDE = (Path(__file__).parents[2] / "docs" / "life-cycle.md").read_text(encoding="utf-8")


def blocks(heading: str, language: str) -> list[str]:
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, heading
    return found


def app_of(heading: str, db: SessionDB) -> FastAPI:
    """The app that the section's code makes."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))
    code = compile("\n".join(blocks(heading, "python")), "life-cycle.md", "exec", dont_inherit=True)
    exec(code, {"app": app, "__name__": "guide"})

    @app.post("/raw")
    async def raw(values: dict[str, Any], session: CurrentSession) -> dict[str, Any]:
        session.update(values)
        return session

    return app


def browser(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop.test")


async def test_typed_sessions() -> None:
    async with SessionDB("memory://") as db, browser(app_of("Typed sessions", db)) as http:
        await http.post("/cart/tea")
        assert (await http.post("/cart/jug")).json()["lines"] == [
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
        # The cart has the same key in another shape.
        assert (await http.post("/cart/tea")).status_code == 303
        assert "lines" not in (await http.post("/raw", json={})).json()


async def test_flash_messages() -> None:
    async with SessionDB("memory://") as db, browser(app_of("Flash messages", db)) as http:
        assert (await http.post("/orders", follow_redirects=True)).json() == ["success: Thank you."]
        assert (await http.get("/orders")).json() == []


async def test_csrf_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    [form] = blocks("CSRF tokens", "html")
    (tmp_path / "templates" / "transfer.html").write_text(form, encoding="utf-8")
    async with SessionDB("memory://") as db, browser(app_of("CSRF tokens", db)) as http:
        page = (await http.get("/transfer")).text
        [token] = re.findall(r'name="csrf_token" value="(.*?)"', page)
        assert (await http.post("/transfer", data={"amount": "3", "csrf_token": token})).json() == 3
        assert (await http.post("/transfer", data={"amount": "3"})).status_code == 403
