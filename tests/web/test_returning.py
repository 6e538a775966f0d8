"""Endpoints may return what ``SessionDB`` shows, as they return a dataclass: FastAPI writes it, and describes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from sessiondb import Client, RequireLogin, SessionDB, SessionInfo, SessionMiddleware, UsedFrom
from sessiondb.stores.base import EventPage, Stats
from sessiondb.testing import login

db = SessionDB("memory://")
app = FastAPI(lifespan=db.lifespan)
app.add_middleware(SessionMiddleware, db=db)


@app.get("/described")
async def described(user_id: RequireLogin) -> list[SessionInfo]:
    return await db.sessions_of(user_id)


@app.get("/plain", response_model=None)
async def plain(user_id: RequireLogin) -> Any:
    return await db.sessions_of(user_id)


@app.get("/nested", response_model=None)
async def nested(user_id: RequireLogin) -> Any:
    return [{"client": one.client, "auth": one.auth, "risk": one.risk} for one in await db.sessions_of(user_id)]


@app.get("/stats")
async def stats() -> Stats:
    return await db.stats()


@app.get("/events")
async def events(user_id: RequireLogin) -> EventPage:
    return await db.events(user_id=user_id)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="https://a") as client:
        yield client


@pytest.mark.parametrize("path", ["/described", "/plain"])
async def test_sessions_are_returned_whole(client: httpx.AsyncClient, path: str) -> None:
    await login(client, "ann", data={"theme": "dark"}, methods=["pwd"])
    answer = await client.get(path)
    assert answer.status_code == 200
    one = answer.json()[0]
    assert one["user_id"] == "ann"
    assert one["data"] == {"theme": "dark"}
    auth = one["auth"]
    assert (auth["methods"], auth["step_ups"]) == (["pwd"], [])
    assert all(auth[name] is None for name in ("level", "level_at", "impersonator", "impersonator_sid"))
    assert one["client"].keys() == Client.__dataclass_fields__.keys()
    assert one.keys() == SessionInfo.__dataclass_fields__.keys()
    db_secrets = {"series_hash", "secret_hash", "previous_hash", "salt"}
    assert not db_secrets & one.keys()


async def test_places_are_returned_with_their_client(client: httpx.AsyncClient) -> None:
    await login(client, "ann")
    made = await db.create("ann", ip="203.0.113.7")
    answer = await client.get("/described")
    [one] = [one for one in answer.json() if one["sid"] == made.session.sid]
    [place] = one["client"]["places"]
    assert place.keys() == UsedFrom.__dataclass_fields__.keys()
    assert (place["network"], place["requests"]) == ("203.0.113.0/24", 1)


async def test_the_parts_of_a_session_are_returned_inside_other_answers(client: httpx.AsyncClient) -> None:
    await login(client, "ann")
    answer = await client.get("/nested")
    assert answer.status_code == 200
    assert answer.json()[0]["risk"] == {"level": None, "reasons": [], "action": None}


async def test_counts_and_events_are_returned(client: httpx.AsyncClient) -> None:
    await login(client, "ann")
    assert (await client.get("/stats")).json()["live"] >= 1
    page = (await client.get("/events")).json()
    assert page["events"][0]["user_id"] == "ann"
    assert page["next"] is None


async def test_the_open_api_page_describes_sessions(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert schemas["SessionInfo"]["properties"]["expires_at"]["type"] == "integer"
    assert {"SessionInfo", "Client", "Stats", "Event"} <= schemas.keys()
