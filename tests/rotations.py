"""A browser, and perhaps a thief, for hours: parallel requests, slow lines, lost and late responses; all by one seed.

Time is an injected clock and a list of what happens when; what falls on the same moment runs side by side for real.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from sessiondb import Cookie, SessionDB, SessionMiddleware
from sessiondb.testing import ManualClock

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
GRACE = 30 * SECOND
TICK = SECOND // 20  # times fall on ticks, so that many of them coincide


# Mostly the next page within two minutes, at times lunch.
PAUSES = [(SECOND, 2 * MINUTE)] * 13 + [(SECOND, 15 * MINUTE)] * 6 + [(15 * MINUTE, 45 * MINUTE)]


class Holder:
    """Somebody who holds the cookie: a browser with its tabs, or a thief."""

    def __init__(self, name: str, token: str) -> None:
        self.name = name
        self.token = token


@dataclass(eq=False)
class Visit:
    """One request: what was presented, what the server said."""

    holder: Holder
    presented: str
    lost: bool
    user: str | None = None
    cookie: str | None = None
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    must_end: bool = False


class Simulation:
    """Requests of holders to one app. ``seen`` counts what happened, so that a test can tell that it did.

    ``parallel`` requests make a page. ``lost`` is the share of responses that never arrive, ``late`` the share of
    ways that take up to 20 s.
    """

    parallel = 10
    lost = 0.05
    late = 0.04

    def __init__(self, db: SessionDB, clock: ManualClock, token: str, seed: int) -> None:
        self.db = db
        self.clock = clock
        self.random = random.Random(seed)
        self.honest = Holder("honest", token)
        self.seen: Counter[str] = Counter()
        self.on_visit: Callable[[Visit], Any] = lambda visit: None
        self.on_page: Callable[[], None] = lambda: None
        self.pauses = PAUSES
        self.stopped = False
        self._started_at = clock.now
        self._app = SessionMiddleware(self._page, db, cookie=Cookie(secure=False))
        self._steps: list[tuple[int, int, str, Any]] = []
        self._numbers = itertools.count()
        # The rotations as one sees them from outside: when a token was first handed out, and first presented.
        self.tokens = [token]
        self.made_at = {token: clock.now}
        self.shown_at = {token: clock.now}

    # -- what happens when ------------------------------------------------------------------------------------

    def at(self, time: int, kind: str, what: Any) -> None:
        heapq.heappush(self._steps, (time - time % TICK, next(self._numbers), kind, what))

    async def run(self, length: int) -> None:
        """Until ``length`` microseconds are over, or somebody has called ``stop``."""
        end = self._started_at + length
        while self._steps and not self.stopped and self._steps[0][0] <= end:
            self.clock.now = now = self._steps[0][0]
            together: dict[str, list[Any]] = defaultdict(list)
            while self._steps and self._steps[0][0] == now:
                _, _, kind, what = heapq.heappop(self._steps)
                together[kind].append(what)
            for visit in together["deliver"]:
                self._deliver(visit)
            await asyncio.gather(*(self._finish(visit) for visit in together["finish"]))
            if any(visit.must_end for visit in together["finish"]):
                await self.db.runtime.background.flush()
            for visit in together["finish"]:
                await self._look(visit)
            await asyncio.gather(*(self._arrive(visit) for visit in together["arrive"]))
            for act in together["act"]:
                act()
        for visit in [what for _, _, kind, what in self._steps if kind == "finish"]:
            visit.go_on.set()
            await visit.task

    def send(self, holder: Holder, count: int = 1) -> None:
        """``count`` parallel requests, each with the cookie of now."""
        for _ in range(count):
            visit = Visit(holder, holder.token, lost=holder is self.honest and self.random.random() < self.lost)
            self.at(self.clock.now + self._line(), "arrive", visit)

    def _line(self) -> int:
        """How long something is on its way: mostly short, at times as long as a train in a tunnel."""
        if self.random.random() < self.late:
            return self.random.randrange(SECOND, 20 * SECOND)
        return self.random.randrange(SECOND // 20, SECOND // 3)

    # -- one request ------------------------------------------------------------------------------------------

    async def _page(self, scope: Any, receive: Any, send: Any) -> None:
        visit: Visit = scope["visit"]
        session = Request(scope).session
        visit.user = session.user_id  # type: ignore[attr-defined]
        visit.loaded.set()
        await visit.go_on.wait()
        await PlainTextResponse("page")(scope, receive, send)

    async def _arrive(self, visit: Visit) -> None:
        now, token = self.clock.now, visit.presented
        visit.must_end = self._is_retired(token, now)
        if self.tokens.index(token) < len(self.tokens) - 1:
            self.seen["presented an older token"] += 1
        elif token not in self.shown_at:
            self.shown_at[token] = now

        async def send(message: Any) -> None:
            for name, value in message.get("headers", ()):
                if name == b"set-cookie":
                    visit.cookie = value.decode().partition(";")[0].removeprefix("sid=")

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"cookie", f"sid={token}".encode())],
            "client": ("192.0.2.1", 1),
            "visit": visit,
        }
        visit.task = asyncio.create_task(self._app(scope, _nothing, send))  # type: ignore[arg-type]
        reached = asyncio.create_task(visit.loaded.wait())
        await asyncio.wait([visit.task, reached], return_when=asyncio.FIRST_COMPLETED)
        if visit.task.done():
            reached.cancel()
            visit.task.result()
        self.at(now + self._line() // 4, "finish", visit)

    async def _finish(self, visit: Visit) -> None:
        visit.go_on.set()
        assert visit.task is not None
        await visit.task
        self.seen["requests"] += 1
        if visit.cookie is not None:
            assert visit.cookie
            self._note(visit.cookie)

    async def _look(self, visit: Visit) -> None:
        result = self.on_visit(visit)
        if asyncio.iscoroutine(result):
            await result
        if visit.lost:
            self.seen["lost responses"] += 1
            self.seen["lost tokens"] += visit.cookie is not None
        else:
            self.at(self.clock.now + self._line(), "deliver", visit)

    def _note(self, token: str) -> None:
        if token not in self.made_at:
            self.tokens.append(token)
            self.made_at[token] = self.clock.now
            self.seen["rotations"] += 1
        else:
            self.seen["told again"] += 1

    def _deliver(self, visit: Visit) -> None:
        if visit.cookie is None:
            return
        if self.tokens.index(visit.cookie) < self.tokens.index(visit.holder.token):
            self.seen["late tokens"] += 1
        visit.holder.token = visit.cookie

    def _is_retired(self, token: str, now: int) -> bool:
        """Whether it is older than one that has been shown, and no race can be the reason: 30 s are over since."""
        place = self.tokens.index(token)
        newer = [one for one in self.tokens[place + 1 :] if one in self.shown_at]
        if not newer:
            return False
        return now > self.shown_at[newer[0]] + GRACE and now > self.made_at[self.tokens[-1]] + GRACE

    # -- people -----------------------------------------------------------------------------------------------

    def browse(self, tabs: int = 2) -> None:
        """Somebody uses pages that make many requests at once, in two tabs, with pauses of all lengths."""
        for _ in range(tabs):
            self.at(self.clock.now + self.random.randrange(10 * SECOND), "act", self._open_page)

    def _open_page(self) -> None:
        self.send(self.honest, self.parallel)
        self.on_page()
        shortest, longest = self.random.choice(self.pauses)
        self.at(self.clock.now + self.random.randrange(shortest, longest), "act", self._open_page)


async def _nothing() -> Any:
    raise AssertionError("nothing is received")
