"""The code in the guide's page on suspicious logins does what it says, and its table has every rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from guide import SECTIONS, app_of, blocks, browser, run

from sessiondb import CurrentSession, Rule, SessionDB, Suspicion

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_what_you_get_and_telling_people(capsys: pytest.CaptureFixture[str]) -> None:
    async with SessionDB("memory://") as db:
        app = app_of(db, "What you get")
        names = run("Telling people", db=db, Suspicion=Suspicion)

        async def enter(agent: str) -> Any:
            async with browser(app) as http:
                answer = (await http.post("/enter", params={"user": "ann"}, headers={"user-agent": agent})).json()
            await db.events()
            if db.runtime.suspicions._task is not None:
                await db.runtime.suspicions._task
            return answer

        assert (await enter(FIREFOX))["level"] == "none"
        answer = await enter(CHROME)
        assert "new_device" in answer["rules"]
        assert "New sign-in from Chrome on Windows" in capsys.readouterr().out
        if answer["level"] != "low":
            [(user, subject, text, html)] = names["sent"]
            assert (user, subject) == ("ann", "New sign-in: Example Shop")
            assert "https://shop.example/devices" in text
            assert "https://shop.example/devices" in html


async def test_doing_something() -> None:
    what, verify = blocks("Doing something about it", "python")[0], blocks("Doing something about it", "python")[1]
    names: dict[str, Any] = {}
    exec(what, names)
    async with names["guarded"] as guarded:
        assert guarded.runtime.assessing.enforces
        await guarded.create("ann")
        exec(blocks("Doing something about it", "python")[2], names)
        logins, actions, found = await names["what_if"]()
        assert (logins, found) == (1, [])
        assert sum(actions.values()) == 1
    assert "step_up" in verify


async def test_failed_logins() -> None:
    async with SessionDB("memory://") as db:
        app = app_of(db, "Failed logins", CurrentSession=CurrentSession)
        async with browser(app) as http:

            async def sign_in(password: str) -> int:
                typed = {"name": "ann", "password": password}
                return (await http.post("/sign-in-with-password", params=typed)).status_code

            assert [await sign_in("wrong") for _ in range(10)] == [403] * 9 + [429]
            assert await sign_in("right") == 200


def test_every_rule_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", SECTIONS["Which rule fires when"], re.MULTILINE)) == {*Rule}
