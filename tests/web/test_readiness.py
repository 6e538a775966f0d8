"""What a load balancer is told: ready or not, without a secret, in time, and at no cost for the database."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route

from harness import Shop, open_shop, put
from sessiondb import CircuitBreaker, SessionDB, StoreUnavailable, readiness
from sessiondb.testing import Delay, Fail, Hang

AT_ONCE = CircuitBreaker(failures=1, window=0.0, first_pause=300.0, longest_pause=300.0)
SECRET = "host=db.internal user=app password=hunter2"


@pytest.fixture(autouse=True)
def every_question_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that want the answer of a moment ago say so."""
    monkeypatch.setattr("sessiondb.probing.FRESH", 0.0)


async def ask(shop: Shop, app: Any = None) -> httpx.Response:
    if app is None:
        app = Starlette(routes=[Route("/readyz", readiness(shop.db))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://lb") as client:
        return await client.get("/readyz")


async def test_ready_is_200_with_how_long_it_took() -> None:
    async with open_shop() as shop:
        answer = await ask(shop)
        assert answer.status_code == 200
        body = answer.json()
        assert body.pop("latency_ms") >= 0
        assert body == {"ok": True, "writable": True, "why": None}
        assert answer.headers["cache-control"] == "no-store"
        assert shop.stored == 0


@pytest.mark.security("S5", "S8")
async def test_away_is_503_and_says_nothing_that_an_outsider_should_not_know() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        shop.faults.always["load"] = Fail(StoreUnavailable(f"PostgreSQL at {SECRET} cannot be reached."))
        answer = await ask(shop)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {
            "ok": False,
            "writable": False,
            "why": "The session database cannot be read; see the log.",
            "latency_ms": None,
        }
        shop.faults.always.clear()
        assert (await ask(shop)).status_code == 200


async def test_a_database_that_was_never_there_is_503_and_is_opened_by_being_asked() -> None:
    async with open_shop() as shop:
        shop.faults.down = True
        assert (await ask(shop)).status_code == 503
        shop.faults.down = False
        shop.db.runtime._failed_at = 0.0  # a second later
        assert (await ask(shop)).status_code == 200


async def test_it_mounts_in_fastapi_and_stays_out_of_the_way_of_sessions() -> None:
    async with open_shop() as shop:
        app = FastAPI()
        app.add_api_route("/readyz", readiness(shop.db))
        answer = await ask(shop, app)
        assert (answer.status_code, answer.json()["ok"]) == (200, True)
        assert "set-cookie" not in answer.headers
        assert app.openapi()["paths"]["/readyz"]


async def test_a_database_that_does_not_answer_is_told_in_time_and_the_probe_is_one() -> None:
    async with open_shop(timeout=0.1) as shop:
        await shop.db.open()
        shop.faults.always["load"] = Hang()
        shop.store.reset()
        answers = await asyncio.gather(*(ask(shop) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert shop.store.calls["load"] == 1


async def test_opening_that_takes_its_time_is_not_ready_yet_and_goes_on() -> None:
    async with open_shop(timeout=0.1) as shop:
        shop.faults.next("open", Delay(0.3))
        answer = await ask(shop)
        assert (answer.status_code, answer.json()["why"]) == (503, "The session database does not answer in time.")
        for _ in range(100):
            if (await ask(shop)).status_code == 200:
                break
            await asyncio.sleep(0.02)
        assert shop.store.calls["open"] == 1
        assert (await ask(shop)).status_code == 200


async def test_it_asks_at_most_once_a_second_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.probing.FRESH", 3600.0)
    async with open_shop() as shop:
        for _ in range(3):
            await asyncio.gather(*(ask(shop) for _ in range(10)))
        assert shop.store.calls["load"] == 1
        # A failure is remembered as long as a success.
        monkeypatch.setattr("sessiondb.probing.FRESH", 0.0)
        shop.faults.down = True
        await ask(shop)
        monkeypatch.setattr("sessiondb.probing.FRESH", 3600.0)
        shop.faults.down = False
        assert (await ask(shop)).status_code == 503
        assert shop.store.calls["load"] == 2


async def test_an_open_breaker_is_told_without_asking_and_the_probe_closes_it() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.with_cart()
        shop.faults.always["load"] = Fail()
        assert (await browser.do(dict)).status == 503
        shop.store.reset()
        answer = await ask(shop)
        assert answer.json()["why"] == "The session database is away, and is asked again shortly; see the log."
        assert shop.store.calls["load"] == 0
        shop.faults.always.clear()
        shop.db.runtime.read_circuit.probe_now()
        assert (await ask(shop)).status_code == 200
        assert await browser.read() == {"cart": ["tea"]}


async def test_a_database_that_cannot_be_written_is_ready_for_those_who_read() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.with_cart()
        shop.faults.always["apply"] = Fail()
        assert (await browser.do(put(a=1))).status == 503
        answer = await ask(shop)
        assert answer.status_code == 200
        assert (answer.json()["ok"], answer.json()["writable"]) == (True, False)


async def test_one_part_of_a_database_that_is_away_takes_nobody_out() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        shop.faults.always["load"] = Fail(StoreUnavailable("one node", partial=True))
        assert (await ask(shop)).status_code == 200


async def test_the_same_from_python_and_it_shows_no_secret() -> None:
    async with open_shop() as shop:
        assert (await shop.db.ready()).ok
        shop.faults.always["load"] = Fail(StoreUnavailable(f"at {SECRET}"))
        answer = await shop.db.ready()
        assert (answer.ok, answer.writable, answer.latency) == (False, False, None)
        assert "hunter2" not in repr(answer)


async def test_closing_ends_a_probe_that_is_under_way() -> None:
    async with open_shop(timeout=0.1) as shop:
        await shop.db.open()
        runtime = shop.db.runtime
        shop.faults.always["load"] = Hang()
        asking = asyncio.create_task(shop.db.ready())
        await asyncio.sleep(0)
        await shop.db.close()
        assert not (await asking).ok
        task = runtime.prober._task
        assert task is None or task.done()


def test_it_says_what_was_found_as_json_and_no_more() -> None:
    db = SessionDB("memory://")

    async def call() -> bytes:
        async with db:
            response = await readiness(db)(None)  # type: ignore[arg-type]
            return bytes(response.body)

    assert set(json.loads(asyncio.run(call()))) == {"ok", "writable", "why", "latency_ms"}
