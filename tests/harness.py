"""A shop in this process: ``SessionDB`` on memory behind a small app; clock and faults under the tests' control."""

from __future__ import annotations

import http.cookiejar
import inspect
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sessiondb import Cookie, Event, Session, SessionDB, SessionMiddleware
from sessiondb.core import token as tokens
from sessiondb.core.change import Change, Create, End, Update
from sessiondb.core.record import Record
from sessiondb.core.risk import Verdict
from sessiondb.core.token import Sid, Token
from sessiondb.stores.base import ChangeResult
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, FaultyStore, ManualClock

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

Action = Callable[[Session], Any]

_NOT_TRAFFIC = ("open", "close", "clock")


class WatchedStore(CountingStore):
    """Counts the calls, and keeps what was written: the database as its wire sees it."""

    def __init__(self, store: FaultyStore) -> None:
        super().__init__(store)
        self.changes: list[Change] = []

    async def apply(self, changes: Any, events: Any = ()) -> list[ChangeResult]:
        self.changes.extend(changes)
        return await super().apply(changes, events)

    @property
    def updates(self) -> list[Update]:
        return [change for change in self.changes if isinstance(change, Update)]

    @property
    def creates(self) -> list[Create]:
        return [change for change in self.changes if isinstance(change, Create)]

    @property
    def ends(self) -> list[End]:
        return [change for change in self.changes if isinstance(change, End)]

    def traffic(self) -> Counter[str]:
        return Counter({method: count for method, count in self.calls.items() if method not in _NOT_TRAFFIC})

    def reset(self) -> None:
        super().reset()
        self.changes.clear()


class Reply:
    """A response, what it did to the cookie, and the store calls that it took."""

    def __init__(self, response: httpx.Response, calls: Counter[str], cookie: str = "sid") -> None:
        self.response = response
        self.status = response.status_code
        self.headers = response.headers
        self.calls = dict(calls)
        self.set_cookies = [one for one in response.headers.get_list("set-cookie") if one.startswith(f"{cookie}=")]
        assert len(self.set_cookies) <= 1
        self.value = self.set_cookies[0].partition(";")[0].partition("=")[2] if self.set_cookies else None

    @property
    def cookie(self) -> str | None:
        """``"set"``, ``"deleted"`` or ``None``: untouched."""
        if not self.set_cookies:
            return None
        if self.value:
            assert tokens.parse(self.value.encode()) is not None
            return "set"
        assert "Max-Age=0" in self.set_cookies[0]
        return "deleted"

    @property
    def max_age(self) -> int | None:
        for part in self.set_cookies[0].split("; "):
            if part.startswith("Max-Age="):
                return int(part[8:])
        return None

    @property
    def result(self) -> Any:
        assert self.status == 200, (self.status, self.response.text)
        return self.response.json()["result"]


class Browser:
    """Holds one cookie. ``do`` makes a request whose endpoint runs ``action`` on ``request.session``."""

    def __init__(self, shop: Shop, token: str | None = None) -> None:
        self._shop = shop
        self.token = token

    async def do(self, action: Action | None = None, *, path: str | None = None, **headers: str) -> Reply:
        """``action(session)``, awaited if it can be; what it returns is the reply's ``result``."""
        shop = self._shop
        key = str(next(shop.keys))
        if action is not None:
            shop.actions[key] = action
        if self.token is not None:
            headers["cookie"] = f"sid={self.token}"
        before = shop.store.traffic()
        response = await shop.http.post(path or f"/do/{key}", headers=headers)
        reply = Reply(response, shop.store.traffic() - before)
        if reply.value is not None:
            self.token = reply.value or None
        return reply

    async def ignore(self) -> Reply:
        """A page that does not use the session."""
        return await self.do(path="/plain")

    async def read(self) -> dict[str, Any]:
        """The session's data."""
        data: dict[str, Any] = (await self.do(dict)).result
        return data

    async def user(self) -> str | None:
        """Who is logged in."""
        user: str | None = (await self.do(lambda session: session.user_id)).result
        return user

    def twin(self) -> Browser:
        """Another holder of the same cookie: a second tab, or a thief."""
        return Browser(self._shop, self.token)

    @property
    def parsed(self) -> Token:
        assert self.token is not None
        parsed = tokens.parse(self.token.encode())
        assert parsed is not None
        return parsed

    @property
    def sid(self) -> Sid:
        return self.parsed.sid


class Shop:
    """``db`` on ``memory``, seen through ``faults`` and counted in ``store``; ``clock`` is everybody's clock."""

    def __init__(self, clock: ManualClock, memory: MemoryStore, **settings: Any) -> None:
        self.clock = clock
        self.memory = memory
        self.faults = FaultyStore(memory)
        self.store = WatchedStore(self.faults)
        # A stalled machine must not look like a slow database.
        # And the next request is to ask it again, however many have failed.
        settings = {"timeout": 60.0, "breaker": None, "sweep_every": None, "clock": clock, "risk": None, **settings}
        self.db = SessionDB(self.store, **settings)
        self.keys = itertools.count()
        self.actions: dict[str, Action] = {}
        routes = [Route("/do/{key}", self._do, methods=["POST"]), Route("/plain", _plain, methods=["POST"])]
        self.app = Starlette(
            routes=routes, middleware=[Middleware(SessionMiddleware, db=self.db, cookie=Cookie(secure=False))]
        )
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        # The browsers keep the cookies, so that two of them can hold the same one.
        no_cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://shop.test", cookies=no_cookies)

    async def _do(self, request: Request) -> Response:
        result = self.actions.pop(request.path_params["key"])(request.session)  # type: ignore[arg-type]
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, Verdict):
            result = result.level
        return result if isinstance(result, Response) else JSONResponse({"result": result})

    def browser(self, token: str | None = None) -> Browser:
        return Browser(self, token)

    async def logged_in(self, user_id: str = "ann", **login: Any) -> Browser:
        """A browser that has just logged in."""
        browser = self.browser()
        reply = await browser.do(lambda session: session.login(user_id, **login))
        assert (reply.status, reply.cookie) == (200, "set")
        return browser

    async def with_cart(self, **data: Any) -> Browser:
        """A browser with an anonymous session."""
        browser = self.browser()
        assert (await browser.do(lambda session: session.update(data or {"cart": ["tea"]}))).cookie == "set"
        return browser

    async def flush(self) -> None:
        """Write what waits in the background."""
        await self.db.runtime.background.flush()

    def record(self, sid: str | None) -> Record:
        """What is stored."""
        return self.memory._table.records[Sid(str(sid))]

    def put_record(self, record: Record) -> None:
        """Store ``record``, past all rules."""
        self.memory._table.put(record)

    @property
    def stored(self) -> int:
        return len(self.memory._table.records)

    async def events(self, type_: str | None = None) -> list[Event]:
        """The audit stream, oldest first."""
        return list(reversed((await self.db.events(type=type_)).events))

    def another_db(self, **settings: Any) -> SessionDB:
        """Another process on the same database."""
        settings = {"timeout": 60.0, "breaker": None, "sweep_every": None, "clock": self.clock, **settings}
        return SessionDB(self.store, **settings)


async def _plain(_: Request) -> Response:
    return PlainTextResponse("hello")


@asynccontextmanager
async def open_shop(**settings: Any) -> AsyncIterator[Shop]:
    """A shop for the length of a test. The background is written when the test says so, not by the second."""
    clock = ManualClock()
    shop = Shop(clock, MemoryStore(clock=clock), **settings)
    with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
        try:
            async with shop.http:
                yield shop
        finally:
            await shop.db.close()


def put(**data: Any) -> Action:
    """An action that sets keys."""
    return lambda session: session.update(data)


def unawaited(action: Action) -> Action:
    """``action`` as a ``def`` endpoint would do it: what it returns is not awaited."""

    def run(session: Session) -> None:
        action(session)

    return run
