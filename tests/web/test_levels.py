"""``RequireLevel`` and ``RequireRecentLogin(methods=...)``: who may pass, and what those are told who may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, WebSocket
from pages import app_on, browser

from sessiondb import ConfigurationError, CurrentSession, Policy, RequireLevel, RequireRecentLogin, SessionDB
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock, login

Level2 = Annotated[str, Depends(RequireLevel(2))]
FreshLevel2 = Annotated[str, Depends(RequireLevel(2, max_age=timedelta(minutes=5)))]
Level2Page = Annotated[str, Depends(RequireLevel(2, redirect="/step-up"))]
RecentKey = Annotated[str, Depends(RequireRecentLogin(300, methods=("hwk", "otp")))]
REALM = 'Cookie realm="session", cookie-name="sid"'
ERROR = 'error="insufficient_user_authentication", error_description="A higher level of authentication is required."'


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def db(clock: ManualClock) -> AsyncIterator[SessionDB]:
    policy = Policy(step_up=3600)
    async with SessionDB(MemoryStore(clock=clock), clock=clock, sweep_every=None, policy=policy) as db:
        yield db


@pytest.fixture
def app(db: SessionDB) -> FastAPI:
    app = app_on(db)

    @app.get("/level2")
    async def level2(user_id: Level2) -> str:
        return user_id

    @app.get("/fresh")
    async def fresh(user_id: FreshLevel2) -> str:
        return user_id

    @app.get("/page")
    async def page(user_id: Level2Page) -> str:
        return user_id

    @app.get("/key")
    async def key(user_id: RecentKey) -> str:
        return user_id

    @app.post("/step-up/{method}")
    async def step_up(method: str, session: CurrentSession, level: int | None = None) -> None:
        session.step_up((method,), level)

    @app.post("/step-up-sync")
    def step_up_sync(session: CurrentSession) -> int | None:
        session.step_up(("otp",), 2)
        return session.auth.level

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, user_id: Level2) -> None:
        await websocket.accept()
        await websocket.close()

    return app


async def status(visitor: httpx.AsyncClient, path: str) -> int:
    return (await visitor.get(path)).status_code


@pytest.mark.security("L10")
async def test_a_level_is_asked_for_and_what_is_missing_is_told(app: FastAPI, clock: ManualClock) -> None:
    async with browser(app) as visitor:
        answer = await visitor.get("/level2")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, REALM)
        await login(visitor, "ann", methods=("pwd",), level=1)
        answer = await visitor.get("/level2")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == f'{REALM}, {ERROR}, acr_values="2"'
        assert "level 2" in answer.json()["detail"]
        answer = await visitor.get("/fresh")
        assert answer.headers["www-authenticate"] == f'{REALM}, {ERROR}, acr_values="2", max_age="300"'
        await visitor.post("/step-up/otp?level=2")
        assert (await visitor.get("/level2")).json() == (await visitor.get("/fresh")).json() == "ann"
        clock.advance(300)
        assert await status(visitor, "/fresh") == 200, "exactly as old as it may be"
        clock.advance(1)
        assert [await status(visitor, path) for path in ("/fresh", "/level2")] == [401, 200]
        clock.advance(3600 - 301)
        assert await status(visitor, "/level2") == 401, "a step-up counts for an hour"


async def test_a_login_of_that_level_passes_for_the_life_of_the_session(app: FastAPI, clock: ManualClock) -> None:
    async with browser(app) as visitor:
        await login(visitor, "ann", methods=("hwk",), level=3)
        clock.advance(86_400)
        assert [await status(visitor, path) for path in ("/level2", "/fresh")] == [200, 401]


@pytest.mark.security("L10")
async def test_a_proof_of_a_lower_level_does_not_make_a_higher_one_fresh(app: FastAPI, clock: ManualClock) -> None:
    async with browser(app) as visitor:
        await login(visitor, "ann", methods=("hwk",), level=3)
        clock.advance(600)
        await visitor.post("/step-up/pwd?level=1")
        assert await status(visitor, "/fresh") == 401
        await visitor.post("/step-up/pwd")
        assert await status(visitor, "/fresh") == 401


async def test_pages_are_sent_to_where_one_steps_up_and_back(app: FastAPI) -> None:
    async with browser(app) as visitor:
        await login(visitor, "ann")
        answer = await visitor.get("/page?tab=2")
        assert (answer.status_code, answer.headers["location"]) == (303, "/step-up?next=/page%3Ftab%3D2")
        await visitor.post("/step-up-sync")
        assert (await visitor.get("/page?tab=2")).json() == "ann"


@pytest.mark.security("L10")
async def test_a_recent_proof_may_be_asked_for_by_its_method(app: FastAPI, clock: ManualClock) -> None:
    async with browser(app) as visitor:
        await login(visitor, "ann", methods=("pwd",))
        answer = await visitor.get("/key")
        assert answer.status_code == 401
        assert "hwk or otp" in answer.json()["detail"]
        assert 'max_age="300"' in answer.headers["www-authenticate"]
        await visitor.post("/step-up/otp")
        assert await status(visitor, "/key") == 200
        clock.advance(200)
        await visitor.post("/step-up/pwd")
        clock.advance(101)
        assert await status(visitor, "/key") == 401, "the password is recent, the one-time code is not"


async def test_it_guards_websockets(app: FastAPI, db: SessionDB) -> None:
    async def first_answer(token: str) -> Any:
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": "/socket",
            "raw_path": b"/socket",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"shop.test"), (b"cookie", b"sid=" + token.encode())],
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        received = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])
        sent: list[Any] = []

        async def receive() -> Any:
            return next(received)

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["type"], sent[0].get("status")

    answers = [await first_answer((await db.create("ann", level=level)).token) for level in (1, 2)]
    assert answers == [("websocket.http.response.start", 401), ("websocket.accept", None)]


@pytest.mark.parametrize("level", [0, 101, True, "2", 2.5, None])
def test_a_level_that_makes_no_sense_is_refused(level: Any) -> None:
    with pytest.raises(ConfigurationError, match="RequireLevel: level is"):
        RequireLevel(level)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_age": 0}, "max_age is 0"), ({"max_age": "5"}, "max_age is '5'"), ({"redirect": "login"}, "redirect")],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RequireLevel(2, **settings)


def test_methods_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"RequireRecentLogin: methods is the text 'otp'"):
        RequireRecentLogin(300, methods="otp")


@pytest.mark.parametrize("guard", [RequireLevel, RequireRecentLogin])
def test_a_guard_that_was_not_called_stops_the_start(guard: Any) -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match="is called where it is declared"):

        @app.get("/")
        async def page(request: Request, user_id: str = Depends(guard)) -> str:
            return user_id
