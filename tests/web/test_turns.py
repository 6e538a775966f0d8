"""Requests that come together move in step: all are handled before any is answered, and open before any is handled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from asgi import Connection
from starlette.types import Receive, Scope, Send

from sessiondb import Cookie, NearCache, SessionDB, SessionMiddleware
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore

COMPANY = 8


class Noting:
    """An app whose requests note when they are handled and when their answers are let through."""

    def __init__(self, db: SessionDB, handle: Callable[[Any], None]) -> None:
        self.noted: list[str] = []
        self._handle = handle
        self._inner = SessionMiddleware(self._app, db=db, cookie=Cookie(secure=False))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.noted.append("answered")
            await send(message)

        self.noted.append("begun")
        await self._inner(scope, receive, noting)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.noted.append("handled")
        self._handle(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def serve(self, cookies: list[str]) -> list[str]:
        """Serve one request with each of ``cookies`` at the same time; the cookies that are set."""
        self.noted.clear()
        opened = [Connection(self, "http", "/", [("cookie", cookie)] if cookie else []) for cookie in cookies]
        await asyncio.gather(*(one.done for one in opened))
        return [
            value.decode().split(";")[0]
            for one in opened
            for name, value in one.sent[0]["headers"]
            if name == b"set-cookie"
        ]


async def test_all_are_handled_before_the_first_is_answered() -> None:
    async with SessionDB("memory://") as db:
        app = Noting(db, lambda session: session.get("name"))
        await app.serve([""] * COMPANY)
        in_step = ["handled"] * COMPANY + ["answered"] * COMPANY
        assert [what for what in app.noted if what != "begun"] == in_step


async def test_pages_from_the_near_cache_are_all_open_before_the_first_is_handled() -> None:
    async with SessionDB("memory://", near_cache=NearCache()) as db:
        app = Noting(db, lambda session: session.setdefault("name", "Ada"))
        cookies = await app.serve([""] * COMPANY)
        await app.serve(cookies)  # now they are held
        await app.serve(cookies)
        assert app.noted == [what for what in ("begun", "handled", "answered") for _ in range(COMPANY)]
        assert db.counters["near_hits"] == COMPANY


async def test_new_sessions_of_requests_in_company_are_one_call_of_the_store() -> None:
    store = CountingStore(MemoryStore())
    async with SessionDB(store) as db:
        app = Noting(db, lambda session: session.update(name="Ada"))
        await app.serve([""])  # opens the store
        before = store.calls["apply"]
        cookies = await app.serve([""] * COMPANY)
        assert len(set(cookies)) == COMPANY
        assert store.calls["apply"] == before + 1


async def test_who_is_cancelled_in_its_turn_stores_nothing_and_holds_nobody_up() -> None:
    async with SessionDB("memory://") as db:
        app = Noting(db, lambda session: session.update(name="Ada"))
        cancelled, served = Connection(app, "http", "/"), Connection(app, "http", "/")
        async with asyncio.timeout(30):
            while app.noted.count("handled") < 2:
                await asyncio.sleep(0)
        cancelled.done.cancel()
        await served.done
        await asyncio.gather(cancelled.done, return_exceptions=True)
        assert cancelled.done.cancelled()
        assert not cancelled.sent
        assert served.sent[0]["type"] == "http.response.start"
        assert (await db.stats()).live == 1
