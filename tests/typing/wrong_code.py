"""Mistakes that a type checker should catch. Every line that is marked must be an error, and no other."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from sessiondb import (
    Cookie,
    CrossOrigin,
    CurrentSession,
    Policy,
    RequireLevel,
    RequireLogin,
    RequireRecentLogin,
    SessionDB,
    SessionMiddleware,
    SessionOf,
    current_session,
    require_login,
    session_of,
)
from sessiondb.testing import login

app = FastAPI()
db = SessionDB("memory://")

app.add_middleware(SessionMiddleware)  # error
app.add_middleware(SessionMiddleware, db="sqlite:///sessions.db")  # error
app.add_middleware(SessionMiddleware, db=db, secret_key="key")  # error
app.add_middleware(SessionMiddleware, db=db, cookie="sid")  # error
app.add_middleware(SessionMiddleware, db=db, csrf=False)  # error
app.add_middleware(SessionMiddleware, db=db, skip=3)  # error
SessionMiddleware(app)  # error

SessionDB("memory://", policy={"idle": 60})  # error
SessionDB("memory://", timeout="2")  # error
SessionDB("memory://", on_load_error="ignore")  # error
SessionDB("memory://", Policy())  # error
Policy(idle="1h")  # error
Policy(idle=None)  # error
Policy(on_limit="end_newest")  # error
Cookie(samesite="Lax")  # error
Cookie(secure="false")  # error
Cookie(max_age=60)  # error
CrossOrigin(trusted_origins=7)  # error
Policy().per_user = 3  # error
Cookie().name = "x"  # error


class CartData(BaseModel):
    items: list[str] = []


Cart = Annotated[SessionOf[CartData], Depends(session_of(CartData))]

session_of(CartData())  # error
require_login("/login")  # error
require_login(redirect=7)  # error
current_session(cookie=b"sid")  # error
RequireRecentLogin()  # error
RequireRecentLogin("300")  # error
RequireRecentLogin(300, methods=7)  # error
RequireLevel()  # error
RequireLevel("2")  # error
SessionDB("memory://", policies={"staff": "strict"})  # error
SessionDB("memory://", policy_for=7)  # error
db.set_policy("strict")  # error
db.policy = Policy()  # error


async def endpoint(session: CurrentSession, user_id: RequireLogin, cart: Cart) -> None:
    session.login()  # error
    session.login(None)  # error
    session.login(object())  # error
    session.login("ann", keep=3)  # error
    session.login("ann", remember="yes")  # error
    session.login("ann", level="2")  # error
    session.login("ann", policy=Policy())  # error
    session.step_up(level="2")  # error
    session.step_up(7)  # error
    session[1] = "x"  # error
    session.user_id = "ann"  # error
    session.sid = "x"  # error
    session.nothing  # error  # noqa: B018
    user_id.sid  # error  # noqa: B018
    user_id + 1  # error
    cart.data.nothing  # error  # noqa: B018
    cart.data = {"items": []}  # error
    cart.data.items = "abc"  # error
    cart.login("ann")  # error
    number: int = await session.modify(lambda data: data.update(n=1))  # error
    await session.modify(3)  # error
    await session.modify(lambda: None)  # error
    late: int = session.created_at  # error
    await db.create(object())  # error
    (await db.create("ann")).sid  # error  # noqa: B018
    found = await db.get("01")
    found.sid  # error  # noqa: B018
    await db.sessions_of(None)  # error
    await db.revoke(7)  # error
    print(number, late)


def in_tests() -> None:
    client = TestClient(app)
    login(client)  # error
    login(client, "ann", remember="yes")  # error
    login(app, "ann")  # error
    login(client, "ann").nothing  # error  # noqa: B018
