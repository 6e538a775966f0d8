"""What the generated API description says of sessions."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from pages import app_on
from pydantic import BaseModel

from sessiondb import (
    CurrentSession,
    RequireLogin,
    RequireRecentLogin,
    SessionDB,
    SessionOf,
    current_session,
    require_login,
    session_of,
)


class CartData(BaseModel):
    items: list[str] = []


Cart = Annotated[SessionOf[CartData], Depends(session_of(CartData))]


@pytest.fixture
def app() -> FastAPI:
    app = app_on(SessionDB("memory://"))

    @app.get("/open")
    async def open_() -> None: ...

    @app.get("/read")
    async def read(session: CurrentSession) -> None: ...

    @app.get("/named", dependencies=[Depends(current_session(cookie="admin"))])
    async def named() -> None: ...

    @app.get("/cart")
    async def cart(cart: Cart) -> None: ...

    @app.get("/me")
    async def me(user_id: RequireLogin) -> None: ...

    @app.get("/page")
    async def page(user_id: Annotated[str, Depends(require_login(redirect="/login"))]) -> None: ...

    @app.get("/pay")
    async def pay(user_id: Annotated[str, Depends(RequireRecentLogin(300))]) -> None: ...

    @app.get("/admin", dependencies=[Depends(require_login(cookie="admin"))])
    async def admin() -> None: ...

    @app.get("/twice", dependencies=[Depends(RequireRecentLogin(300))])
    async def twice(user_id: RequireLogin) -> None: ...

    router = APIRouter(prefix="/router", dependencies=[Depends(require_login())])

    @router.get("/below")
    async def below() -> None: ...

    app.include_router(router)
    return app


def security(app: FastAPI) -> dict[str, Any]:
    return {
        path: operation.get("security")
        for path, operations in app.openapi()["paths"].items()
        for operation in operations.values()
    }


def test_only_what_asks_for_a_login_is_shown_as_protected(app: FastAPI) -> None:
    ours, staff = [{"session": []}], [{"session-admin": []}]
    assert security(app) == {
        "/login/{user_id}": None,
        "/logout": None,
        "/raw": None,
        "/open": None,
        "/read": None,
        "/named": None,
        "/cart": None,
        "/me": ours,
        "/page": ours,
        "/pay": ours,
        "/twice": ours,
        "/router/below": ours,
        "/admin": staff,
    }


def test_each_cookie_is_a_scheme(app: FastAPI) -> None:
    description = "The session cookie, set by the login."
    assert app.openapi()["components"]["securitySchemes"] == {
        "session": {"type": "apiKey", "in": "cookie", "name": "__Host-sid", "description": description},
        "session-admin": {"type": "apiKey", "in": "cookie", "name": "__Host-admin", "description": description},
    }


def test_nothing_of_a_session_is_a_parameter(app: FastAPI) -> None:
    for operations in app.openapi()["paths"].values():
        for operation in operations.values():
            assert [one["name"] for one in operation.get("parameters", [])] in ([], ["user_id"])
            assert "requestBody" not in operation


def test_a_model_of_the_session_is_no_schema(app: FastAPI) -> None:
    assert "CartData" not in app.openapi()["components"].get("schemas", {})


def test_an_app_without_guards_has_no_scheme() -> None:
    app = app_on(SessionDB("memory://"))
    assert "securitySchemes" not in app.openapi()["components"]
