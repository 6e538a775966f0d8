"""Stories of logins, each with the rule that must fire at its end, or must not: ``tests/scenarios``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from harness import Shop
from sessiondb import Geo, Place, RiskPolicy, Session
from sessiondb.core import token as tokens
from sessiondb.core.risk import Rule
from sessiondb.stores.memory import MemoryStore
from sessiondb.suspicions import Suspicion
from sessiondb.testing import ManualClock

FOLDER = Path(__file__).parent / "scenarios"
UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}


@dataclass(frozen=True)
class Story:
    rule: str
    text: str
    fires: bool
    steps: list[dict[str, Any]]


def stories() -> Iterator[Story]:
    for path in sorted(FOLDER.glob("*.jsonl")):
        story: Story | None = None
        for line in path.read_text(encoding="utf-8").splitlines():
            step = json.loads(line)
            if "story" not in step:
                assert story is not None
                story.steps.append(step)
                continue
            if story is not None:
                yield story
            [(way, rule)] = [(way, step[way]) for way in ("fires", "silent") if way in step]
            assert rule == path.stem
            story = Story(rule, step["story"], way == "fires", [])
        assert story is not None
        yield story


class ToldGeo(Geo):
    """Places as the stories tell them."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self._places = {
            step["ip"]: Place(step.get("country"), step.get("lat"), step.get("lon"), step.get("km")) for step in steps
        }

    def place(self, ip: str | None) -> Place:
        return self._places.get(ip or "", Place())


class Stage:
    """One story, played on a shop."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        clock = ManualClock()
        self.shop = Shop(clock, MemoryStore(clock=clock), risk=RiskPolicy(), geo=ToldGeo(steps))
        self.found: list[Suspicion] = []
        self.shop.db.on_risk(self.found.append)
        self.cookies: dict[str, str] = {}
        self.old: dict[str, str] = {}

    async def play(self, step: dict[str, Any]) -> None:
        count, unit = step["after"].split()
        self.shop.clock.advance(float(count) * UNITS[unit.rstrip("s")])
        self.found.clear()
        await getattr(self, f"_{step['do']}")(step)
        runtime = self.shop.db.runtime
        running = [task for task in (*runtime.suspicions._tasks, runtime.suspicions._task) if task is not None]
        for task in running:
            await task
        if runtime.suspicions._task is not None:
            await runtime.suspicions._task
        await runtime.assessing.counting.flush()
        await self.shop.flush()

    async def _ask(self, step: dict[str, Any], action: Any, token: str | None) -> str | None:
        """Make a request; the new cookie, if there is one."""
        key = str(next(self.shop.keys))
        self.shop.actions[key] = action
        headers = {"user-agent": step["agent"]}
        if token is not None:
            headers["cookie"] = f"sid={token}"
        transport = httpx.ASGITransport(self.shop.app, client=(step["ip"], 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.test") as client:
            answer = await client.post(f"/do/{key}", headers=headers)
        assert answer.status_code == 200, answer.text
        found = answer.headers.get("set-cookie", "")
        return found.partition(";")[0].partition("=")[2] or None

    async def _login(self, step: dict[str, Any]) -> None:
        user = step["user"]

        async def act(session: Session) -> Response:
            await session.login(user)
            return JSONResponse({})

        cookie = await self._ask(step, act, None)
        assert cookie is not None
        self.cookies[user] = cookie

    async def _request(self, step: dict[str, Any]) -> None:
        user = step["user"]
        self.cookies[user] = await self._ask(step, dict, self.cookies[user]) or self.cookies[user]

    async def _fail(self, step: dict[str, Any]) -> None:
        agent = step["agent"].encode()
        request = Request({"type": "http", "headers": [(b"user-agent", agent)], "client": (step["ip"], 1)})
        await self.shop.db.login_failed(step["user"], request)

    async def _rotate(self, step: dict[str, Any]) -> str:
        """The token that is replaced; the client has the new one, and has shown it."""
        old = self.cookies[step["user"]]
        home = {**step, "ip": "83.20.0.10"}

        def rotate(session: Session) -> None:
            session.rotate()

        cookie = await self._ask(home, rotate, old)
        assert cookie is not None
        await self._ask(home, dict, cookie)
        self.cookies[step["user"]] = cookie
        return old

    async def _late(self, step: dict[str, Any]) -> None:
        old = await self._rotate(step)
        self.found.clear()
        await self._ask(step, dict, old)

    async def _reuse(self, step: dict[str, Any]) -> None:
        old = await self._rotate(step)
        self.shop.clock.advance(3600)
        self.found.clear()
        await self._ask(step, dict, old)

    async def _guess(self, step: dict[str, Any]) -> None:
        for _ in range(step["count"]):
            await self._ask(step, dict, tokens.mint(self.shop.clock.now).encode())


@pytest.mark.parametrize("story", list(stories()), ids=lambda story: f"{story.rule}: {story.text}")
@pytest.mark.security("A7", "A8")
async def test_what_must_fire_and_what_must_not(story: Story) -> None:
    stage = Stage(story.steps)
    with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
        try:
            for step in story.steps:
                await stage.play(step)
            fired = {rule.value for suspicion in stage.found for rule in suspicion.verdict.rules}
            assert (story.rule in fired) is story.fires, fired
            for suspicion in stage.found:
                assert suspicion.headline
                assert suspicion.alert().text
        finally:
            await stage.shop.db.close()
            await stage.shop.http.aclose()


def test_every_rule_has_a_story_of_both_kinds() -> None:
    told = {(story.rule, story.fires) for story in stories()}
    assert told == {(rule.value, fires) for rule in Rule for fires in (True, False)}
