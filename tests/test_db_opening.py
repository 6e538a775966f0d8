"""When the database opens and closes: with the app, around it, on first use, and in several event loops."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from harness import open_shop, put
from sessiondb import ConfigurationError, Cookie, SessionDB, SessionMiddleware, StoreUnavailable
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, Fail, FaultyStore, Hang


async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(request.session["n"])


async def plain(_: Request) -> Response:
    return JSONResponse("hello")


def counter(db: SessionDB, **app: Any) -> Starlette:
    return Starlette(
        routes=[Route("/count", count), Route("/plain", plain)],
        middleware=[Middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))],
        **app,
    )


@asynccontextmanager
async def running(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """``app`` as a server runs it: its lifespan around its requests."""
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


def client_of(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.test")


async def counts(client: httpx.AsyncClient, times: int) -> list[int]:
    return [(await client.get("/count")).json() for _ in range(times)]


def counted_db(**settings: Any) -> tuple[CountingStore, SessionDB]:
    store = CountingStore(MemoryStore())
    return store, SessionDB(store, **settings)


# -- opening --------------------------------------------------------------------------------------------------


async def test_as_a_context_manager_it_is_open_inside_and_closed_after() -> None:
    store, db = counted_db()
    async with db as opened:
        assert opened is db
        assert store.calls["open"] == 1
        await db.create()
    assert (store.calls["open"], store.calls["close"]) == (1, 1)


async def test_opening_twice_opens_once_and_closing_twice_closes_once() -> None:
    store, db = counted_db()
    await asyncio.gather(*(db.open() for _ in range(5)))
    await db.open()
    await db.close()
    await db.close()
    assert (store.calls["open"], store.calls["close"]) == (1, 1)


async def test_making_a_database_opens_nothing() -> None:
    store, db = counted_db()
    assert store.calls == {}
    await db.close()
    assert store.calls == {}


@pytest.mark.parametrize(
    "use",
    [
        lambda db: db.create(),
        lambda db: db.sessions_of("ann"),
        lambda db: db.revoke("01a2097d-faad-70df-a636-9356478a8049"),
        lambda db: db.revoke_all("ann"),
        lambda db: db.get("01a2097d-faad-70df-a636-9356478a8049"),
        lambda db: db.sweep(),
        lambda db: db.stats(),
        lambda db: db.events(),
    ],
    ids=["create", "sessions_of", "revoke", "revoke_all", "get", "sweep", "stats", "events"],
)
async def test_it_opens_on_first_use(use: Any) -> None:
    store, db = counted_db()
    await use(db)
    assert store.calls["open"] == 1
    await db.close()


async def test_it_opens_on_the_first_request_that_needs_it() -> None:
    async with open_shop() as shop:
        await shop.browser().ignore()
        assert shop.store.calls["open"] == 0
        browser = shop.browser()
        assert (await browser.do(put(a=1))).status == 200
        assert shop.store.calls["open"] == 1


async def test_many_first_requests_at_once_open_it_once() -> None:
    async with open_shop() as shop:
        await asyncio.gather(*(shop.browser().do(put(a=1)) for _ in range(20)))
        assert shop.store.calls["open"] == 1


async def test_it_can_be_used_again_after_it_was_closed() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        await shop.db.close()
        assert await browser.user() == "ann"


async def test_closing_during_a_sweep_leaves_no_timer_that_would_open_it_again() -> None:
    store, db = counted_db(sweep_every=0.1)
    begun = asyncio.Event()

    async def long_sweep(*_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    await db.open()
    runtime = db.runtime
    with mock.patch.object(store, "sweep", long_sweep):
        await begun.wait()
        await db.close()
    assert runtime.timers.names == frozenset()
    assert (store.calls["open"], store.calls["close"]) == (1, 1)


async def test_bad_configuration_found_on_opening_is_raised_as_such() -> None:
    broken = FaultyStore(MemoryStore())
    broken.always["open"] = Fail(ConfigurationError("The schema is from the future."))
    db = SessionDB(broken)
    with pytest.raises(ConfigurationError, match="future"):
        await db.open()
    with pytest.raises(ConfigurationError, match="future"):
        async with db.lifespan(None):
            pass
    await db.close()


# -- with an app ----------------------------------------------------------------------------------------------


async def test_the_lifespan_opens_with_the_app_and_closes_with_it() -> None:
    store, db = counted_db()
    async with running(counter(db, lifespan=db.lifespan)) as client:
        assert store.calls["open"] == 1
        assert await counts(client, 3) == [1, 2, 3]
        assert store.calls["close"] == 0
    assert (store.calls["open"], store.calls["close"]) == (1, 1)


async def test_the_lifespan_wraps_the_apps_own_and_passes_its_state() -> None:
    store, db = counted_db()
    seen: list[tuple[str, int, int]] = []

    @asynccontextmanager
    async def mine(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        assert isinstance(app, Starlette)
        seen.append(("start", store.calls["open"], store.calls["close"]))
        await db.create("started")
        yield {"colour": "red"}
        await db.create("stopping")
        seen.append(("stop", store.calls["open"], store.calls["close"]))

    app = Starlette(lifespan=db.lifespan.wrap(mine))
    async with app.router.lifespan_context(app) as state:
        assert state == {"colour": "red"}
    assert seen == [("start", 1, 0), ("stop", 1, 0)]
    assert store.calls["close"] == 1


async def test_a_failure_of_the_apps_own_lifespan_still_closes_the_database() -> None:
    store, db = counted_db()

    @asynccontextmanager
    async def broken(_: Any) -> AsyncIterator[None]:
        raise LookupError("no settings")
        yield

    with pytest.raises(LookupError):
        async with running(Starlette(lifespan=db.lifespan.wrap(broken))):
            pass
    assert (store.calls["open"], store.calls["close"]) == (1, 1)


def test_without_a_lifespan_every_event_loop_opens_for_itself() -> None:
    store, db = counted_db()
    client = client_of(counter(db))
    assert [asyncio.run(counts(client, 1)) for _ in range(4)] == [[1], [2], [3], [4]]
    assert asyncio.run(client_of(counter(db)).get("/plain")).json() == "hello"
    assert store.calls["open"] == 4


def test_what_is_kept_for_event_loops_that_are_over_is_let_go() -> None:
    _, db = counted_db()
    for _ in range(5):
        asyncio.run(db.create())  # type: ignore[arg-type]
    assert len(db._runtimes) == 1


def test_event_loops_in_several_threads_share_one_database() -> None:
    _, db = counted_db()
    ready = threading.Barrier(4)
    tokens: list[str] = []
    failures: list[BaseException] = []

    async def work() -> None:
        async with db:
            issued = await db.create("ann", {"n": 0})
            tokens.append(issued.token)
            ready.wait(30)
            for _ in range(10):
                for token in tokens:
                    async with db.session(token) as session:
                        await session.modify(lambda data: data.update(n=data["n"] + 1))
            ready.wait(30)

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []

    async def total() -> list[int]:
        async with db:
            return [info.data["n"] for info in await db.sessions_of("ann")]

    assert asyncio.run(total()) == [40] * 4


async def test_a_mounted_app_uses_the_session_of_the_outer_one() -> None:
    _, db = counted_db()
    inner = Starlette(routes=[Route("/count", count)])
    outer = Starlette(
        routes=[Mount("/inner", inner), Route("/count", count)],
        middleware=[Middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))],
        lifespan=db.lifespan,
    )
    async with running(outer) as client:
        assert await counts(client, 1) == [1]
        assert (await client.get("/inner/count")).json() == 2


# -- away at start-up -----------------------------------------------------------------------------------------


async def test_an_app_whose_database_is_away_starts_serves_and_recovers_by_itself(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiondb.runtime.REOPEN_PAUSE", 0.0)
    store = FaultyStore(MemoryStore())
    store.down = True
    db = SessionDB(store)
    with caplog.at_level(logging.WARNING, "sessiondb"):
        async with running(counter(db, lifespan=db.lifespan)) as client:
            assert "away at start-up" in caplog.text
            assert (await client.get("/plain")).json() == "hello"
            reply = await client.get("/count")
            assert (reply.status_code, "set-cookie" in reply.headers) == (503, False)
            assert reply.headers["retry-after"] == "1"
            store.down = False
            assert await counts(client, 2) == [1, 2]


async def test_after_a_failed_opening_the_next_try_waits_so_that_no_storm_hits_the_database() -> None:
    faulty = FaultyStore(MemoryStore())
    store = CountingStore(faulty)
    db = SessionDB(store)
    faulty.down = True
    for _ in range(10):
        with pytest.raises(StoreUnavailable, match="away"):
            await db.create()
    assert store.calls["open"] == 1
    faulty.down = False
    started = time.monotonic()
    while True:
        try:
            await db.create()
            break
        except StoreUnavailable:
            assert time.monotonic() - started < 30
            await asyncio.sleep(0.05)
    assert store.calls["open"] == 2
    await db.close()


async def test_each_failure_of_the_same_outage_is_an_exception_of_its_own() -> None:
    faulty = FaultyStore(MemoryStore())
    db = SessionDB(faulty)
    faulty.down = True
    errors = []
    for _ in range(3):
        with pytest.raises(StoreUnavailable) as raised:
            await db.create()
        errors.append(raised.value)
    depths = []
    for error in errors:
        depth, traceback = 0, error.__traceback__
        while traceback is not None:
            depth, traceback = depth + 1, traceback.tb_next
        depths.append(depth)
    # One exception that is raised again and again grows by a traceback each time.
    assert max(depths) < 20
    assert len({id(error) for error in errors}) == 3
    await db.close()


async def test_a_store_that_never_opens_fails_in_time() -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.always["open"] = Hang()
    db = SessionDB(faulty, timeout=0.01)
    with pytest.raises(StoreUnavailable, match="did not open in time"):
        await db.open()
    await db.close()
