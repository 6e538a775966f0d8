"""What users write. Never run: mypy and pyright, both strict, read it, and it has no errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, TypedDict, assert_type
from uuid import UUID

import httpx
import msgspec
from fastapi import APIRouter, Depends, FastAPI, Request, Security, WebSocket
from fastapi.templating import Jinja2Templates
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse

from sessiondb import (
    Auth,
    Client,
    ConfigurationError,
    Cookie,
    CrossOrigin,
    CsrfTokenRefused,
    CurrentSession,
    EndReason,
    Event,
    EventPage,
    EventType,
    Flash,
    Issued,
    LoginRefused,
    Policy,
    RequireCsrfToken,
    RequireLevel,
    RequireLogin,
    RequireRecentLogin,
    Risk,
    Session,
    SessionDataError,
    SessionDB,
    SessionEnded,
    SessionInfo,
    SessionMiddleware,
    SessionOf,
    SessionUnavailable,
    Stats,
    StepUp,
    Store,
    StoreError,
    StoreUnavailable,
    Swept,
    Verdict,
    check_csrf_token,
    csrf_token,
    current_session,
    flash,
    flashes,
    open_store,
    require_login,
    session_of,
)
from sessiondb.testing import CountingStore, FaultyStore, ManualClock, login
from sessiondb.web.templates import session_context, setup

# -- setting up -------------------------------------------------------------------------------------------

policy = Policy(idle=timedelta(hours=8), absolute=7 * 86_400, remember=None, per_user=5, on_limit="refuse")
db = SessionDB("sqlite:///sessions.db", policy=policy, timeout=1.5, on_load_error="anonymous", sweep_every=None)
SessionDB()
SessionDB(open_store("memory://"), policy=Policy.nist_aal2().with_(per_user=3))


def policy_for(user_id: str) -> str | None:
    return "staff" if user_id.startswith("staff-") else None


async def policy_from_directory(user_id: str) -> str:
    return "staff"


SessionDB(policies={"staff": Policy.nist_aal2(), "admin": Policy.nist_aal3()}, policy_for=policy_for)
SessionDB(policies={"staff": Policy.nist_aal1()}, policy_for=policy_from_directory)
db.set_policy(Policy(idle=60, step_up=timedelta(minutes=5)))
db.set_policy(policies={"staff": Policy()})
assert_type(db.policy, Policy)
assert_type(db.policies, Mapping[str, Policy])

app = FastAPI(lifespan=db.lifespan)
app.add_middleware(
    SessionMiddleware,
    db=db,
    cookie=Cookie(name="shop", samesite="strict", domain="example.com"),
    csrf=CrossOrigin(trusted_origins=["https://app.example.com"], exempt=("/webhooks",)),
    skip=("/static", "/healthz"),
)
app.add_middleware(SessionMiddleware, db)
app.add_middleware(SessionMiddleware, db=db, csrf=None)
Starlette(lifespan=db.lifespan, middleware=[Middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))])
wrapped_app = SessionMiddleware(app, db)


@asynccontextmanager
async def stateless(app: FastAPI) -> AsyncGenerator[None]:
    yield


class AppState(TypedDict):
    client: httpx.AsyncClient


@asynccontextmanager
async def stateful(app: FastAPI) -> AsyncGenerator[AppState]:
    async with httpx.AsyncClient() as client:
        yield {"client": client}


@asynccontextmanager
async def untyped_state(app: Starlette) -> AsyncGenerator[dict[str, Any]]:
    yield {}


FastAPI(lifespan=db.lifespan.wrap(stateless))
FastAPI(lifespan=db.lifespan.wrap(stateful))
Starlette(lifespan=db.lifespan.wrap(untyped_state))


# -- sessions ---------------------------------------------------------------------------------------------


@app.post("/login")
async def log_in(name: str, request: Request, session: CurrentSession) -> dict[str, str | None]:
    assert_type(session, Session)
    try:
        await session.login(name, remember=True, methods=["pwd", "otp"], keep={"cart"})
    except LoginRefused as error:
        return {"refused": error.reason}
    session.login(7)
    session.login(UUID(int=7), methods=("hwk",), level=3, policy="staff")
    assert_type(await session.login(name), Verdict)
    assert_type(session.user_id, str | None)
    return {"sid": session.sid, "user": session.user_id}


@app.post("/step-up")
async def step_up(session: CurrentSession) -> StepUp | None:
    session.step_up(("otp",), 2)
    assert_type(await session.step_up(methods=["otp"], level=2), None)
    assert_type(session.proved_at(level=2, methods=("otp", "hwk")), int | None)
    assert_type(session.auth.level_at, int | None)
    return session.auth.step_ups[0] if session.auth.step_ups else None


@app.post("/login-sync")
def log_in_sync(name: str, session: CurrentSession) -> None:
    session.login(name)
    session["seen"] = True


@app.post("/logout")
async def log_out(session: CurrentSession) -> None:
    await session.rotate()
    assert_type(await session.logout(), None)


@app.get("/info")
async def info(session: CurrentSession) -> dict[str, object]:
    assert_type(session.is_new, bool)
    assert_type(session.created_at, int | None)
    assert_type(session.expires_at, int | None)
    assert_type(session.authenticated_at, int | None)
    assert_type(session.client, Client)
    assert_type(session.client.ip, str | None)
    assert_type(session.auth, Auth)
    assert_type(session.auth.methods, tuple[str, ...])
    assert_type(session.risk, Risk)
    assert_type(session.risk.level, str | None)
    assert_type(session.ended_reason, str | None)
    return dict(session)


@app.post("/dict")
async def as_a_dict(session: CurrentSession, request: Request) -> int:
    session["cart"] = ["a"]
    session["cart"].append("b")
    session.update(theme="dark")
    session.update({"theme": "light"})
    session |= {"size": 3}
    size: int = session.get("size", 0)
    name: str | None = session.pop("name", None)
    items: list[str] = session.setdefault("items", [])
    items.append(name or "")
    copied: dict[str, Any] = session.copy()
    merged: dict[str, Any] = session | {"x": 1}
    del session["theme"]
    request.session["n"] = request.session.get("n", 0) + 1
    plain: dict[str, Any] = session
    return size + len(copied) + len(merged) + len(plain)


@app.post("/modify")
async def modify(session: CurrentSession) -> int:
    def increment(data: dict[str, Any]) -> int:
        n: int = data.get("n", 0) + 1
        data["n"] = n
        return n

    async def fetch(data: dict[str, Any]) -> str:
        data["fetched"] = True
        return "done"

    assert_type(await session.modify(increment), int)
    assert_type(await session.modify(fetch), str)
    await session.modify(lambda data: data.update(n=0))
    assert_type(await session.modify(lambda data: len(data)), int)
    anything: object = await session.modify(lambda data: data.get("n"))
    assert anything is None
    await session.save()
    return await session.revoke_others()


@app.websocket("/socket")
async def socket(websocket: WebSocket, session: CurrentSession, user_id: RequireLogin) -> None:
    await websocket.accept()
    session["seen"] = user_id
    await session.save()
    websocket.session["seen"] = None


# -- guards -----------------------------------------------------------------------------------------------

PageLogin = Annotated[str, Depends(require_login(redirect="/login"))]
RecentLogin = Annotated[str, Depends(RequireRecentLogin(timedelta(minutes=5)))]
RecentKey = Annotated[str, Depends(RequireRecentLogin(300, methods=("hwk",)))]
SecondFactor = Annotated[str, Depends(RequireLevel(2, max_age=timedelta(minutes=15), redirect="/step-up"))]
AdminSession = Annotated[Session, Depends(current_session(cookie="admin"))]
AdminLogin = Annotated[str, Security(require_login(cookie="admin"))]

router = APIRouter(dependencies=[Depends(require_login())])


@router.get("/devices")
async def devices(user_id: RequireLogin) -> list[dict[str, object]]:
    assert_type(user_id, str)
    return [{"sid": one.sid, "agent": one.client.user_agent} for one in await db.sessions_of(user_id)]


@router.get("/guards")
async def guards(page: PageLogin, recent: RecentLogin, admin: AdminLogin, session: AdminSession) -> RedirectResponse:
    assert_type(session, Session)
    return RedirectResponse(page + recent + admin)


@router.post("/pay", dependencies=[Depends(RequireRecentLogin(300, redirect="/login"))])
def pay() -> None: ...


# -- typed sessions ---------------------------------------------------------------------------------------


class CartData(BaseModel):
    items: list[str] = []
    opened_at: datetime | None = None


class PrefsData(msgspec.Struct):
    theme: str = "light"


@dataclass
class VisitData:
    pages: list[str] = field(default_factory=list[str])


Cart = Annotated[SessionOf[CartData], Depends(session_of(CartData))]
Prefs = Annotated[SessionOf[PrefsData], Depends(session_of(PrefsData, cookie="prefs"))]
Visit = Annotated[SessionOf[VisitData], Depends(session_of(VisitData))]


@app.post("/items/{item}")
async def add(item: str, cart: Cart, prefs: Prefs, visit: Visit) -> CartData:
    assert_type(cart, SessionOf[CartData])
    assert_type(cart.data, CartData)
    assert_type(cart.session, Session)
    cart.data.items.append(item)
    cart.data = CartData(items=[item])
    assert_type(prefs.data.theme, str)
    prefs.data.theme = "dark"
    visit.data.pages += ["/items"]
    await cart.session.login("ann")
    return cart.data


def migrate_cart(old_version: int, raw: dict[str, Any]) -> dict[str, Any]:
    if old_version < 2:
        raw["items"] = raw.pop("lines", [])
    return raw


OldCart = Annotated[
    SessionOf[CartData],
    Depends(session_of(CartData, version=2, migrate=migrate_cart, on_invalid="default", name="cart")),
]
session_of(PrefsData, version=1, migrate=lambda old, raw: raw)


@app.get("/old-cart")
def old_cart(cart: OldCart) -> list[str]:
    assert_type(cart.data, CartData)
    return cart.data.items


# -- forms ------------------------------------------------------------------------------------------------

templates = setup(Jinja2Templates("templates"), cookie="shop", field="_token")
assert_type(templates, Jinja2Templates)
Jinja2Templates("templates", context_processors=[session_context])
FastAPI(dependencies=[Depends(RequireCsrfToken())])


@app.post("/transfer", dependencies=[Depends(RequireCsrfToken(action="/transfer", field="_token", header="X-XSRF"))])
def transfer(request: Request, session: CurrentSession) -> RedirectResponse:
    flash(request, "done")
    flash(session, "done", "success")
    assert_type(csrf_token(request, "/transfer"), str)
    return RedirectResponse("/", 303)


@app.get("/messages")
async def messages(request: Request, session: CurrentSession) -> list[str]:
    await session.modify(lambda data: flash(data, "from within"))
    try:
        await check_csrf_token(request, "/transfer")
    except CsrfTokenRefused as error:
        print(error.reason)
    found = flashes(request, ["error"], cookie="shop")
    assert_type(found, list[Flash])
    return [one.message + one.category for one in found]


# -- outside requests -------------------------------------------------------------------------------------


async def script() -> None:
    async with SessionDB("sqlite:///sessions.db") as db:
        issued = await db.create("ann", {"theme": "dark"}, remember=True, methods=("pwd",), ip="192.0.2.1")
        await db.create("ann", level=2, policy="staff")
        assert_type(issued.session.policy, str)
        assert_type(issued, Issued)
        assert_type(issued.token, str)
        assert_type(issued.session, SessionInfo)
        found = await db.get(issued.session.sid)
        assert_type(found, SessionInfo | None)
        assert_type(await db.sessions_of("ann", include_ended=True, limit=5), list[SessionInfo])
        async with db.session(issued.token) as session:
            assert_type(session, Session)
            session["theme"] = "light"
        assert_type(await db.revoke("01"), bool)
        assert_type(await db.revoke_all(7, keep=session.sid), int)
        swept = await db.sweep(limit=10)
        assert_type(swept, Swept)
        assert_type(swept.purged, int)
        stats = await db.stats()
        assert_type(stats, Stats)
        assert_type(stats.live, int)
        page = await db.events(user_id="ann", type=EventType.LOGIN, since=0, limit=10)
        assert_type(page, EventPage)
        for event in page.events:
            assert_type(event, Event)
            print(event.at, event.type, event.details)
        if found is not None and found.end_reason == EndReason.LOGOUT:
            print(found.data["theme"])
        print(db.counters["authn_login_success"], db.policy.per_user)


async def by_hand() -> None:
    await db.open()
    try:
        await db.stats()
    except SessionUnavailable as error:
        print(error.status_code)
    except StoreUnavailable as error:
        print(error.outcome)
    except StoreError as error:
        assert_type(error.outcome, Literal["not_applied", "unknown", "unconfirmed", "conflict"])
    except (SessionEnded, SessionDataError, ConfigurationError) as error:
        print(error)
    finally:
        await db.close()


# -- in their tests ---------------------------------------------------------------------------------------


def in_tests() -> None:
    clock = ManualClock()
    store: Store = CountingStore(FaultyStore(open_store("memory://")))
    tested = SessionDB(store, clock=clock)
    with TestClient(app, base_url="https://testserver") as client:
        assert_type(login(client, "ann", data={"theme": "dark"}, remember=True, methods=["pwd"]), SessionInfo)
        login(client, 7, db=tested, cookie=Cookie("shop"))
    with httpx.Client(base_url="https://testserver") as plain:
        assert_type(login(plain, "ann", db=tested), SessionInfo)
    clock.advance(60)


async def in_async_tests() -> None:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
        signed_in = await login(client, "ann", cookie="admin")
        assert_type(signed_in, SessionInfo)
