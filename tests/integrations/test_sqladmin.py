"""sqladmin, and Starlette's own sessions, on an app whose sessions are ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.responses import RedirectResponse, Response

from sessiondb import Cookie, CurrentSession, SessionDB, SessionMiddleware
from sessiondb import Session as OurSession
from sessiondb.core.token import parse
from sessiondb.testing import login


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class ProductAdmin(ModelView, model=Product):
    column_list = ["id", "name"]  # noqa: RUF012  as in sqladmin's documentation


class DocumentedAuth(AuthenticationBackend):
    """The backend of sqladmin's documentation: its sessions are Starlette's, in a signed cookie."""

    async def login(self, request: Request) -> bool:
        form = await request.form()
        if form["password"] != "right":
            return False
        request.session.update({"token": "a token", "user_id": form["username"]})
        return True

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return True

    async def authenticate(self, request: Request) -> bool:
        return "token" in request.session


class StoredAuth(DocumentedAuth):
    """The same, with its login in the database: no middleware of its own, so the app's session is used."""

    def __init__(self) -> None:
        super().__init__(secret_key="")
        self.middlewares = []


def ours(request: Request) -> OurSession:
    """``request.session`` is declared as a plain dictionary."""
    session = request.session
    assert isinstance(session, OurSession)
    return session


class UserAuth(StoredAuth):
    """With the verbs: a new session at login, listed and revoked by user."""

    async def login(self, request: Request) -> bool:
        form = await request.form()
        if form["password"] != "right":
            return False
        await ours(request).login(str(form["username"]), methods=["pwd"])
        return True

    async def logout(self, request: Request) -> Response | bool:  # type: ignore[override]
        await ours(request).logout()
        return RedirectResponse(request.url_for("admin:login"), 302)

    async def authenticate(self, request: Request) -> bool:
        return ours(request).user_id is not None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/app.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Product(name="Espresso machine"))
        session.commit()
    yield engine
    engine.dispose()


@pytest.fixture
async def db(engine: Engine) -> AsyncIterator[SessionDB]:
    # The sessions live in the file of the app's own tables.
    async with SessionDB(engine, sweep_every=None) as db:
        yield db


def shop(db: SessionDB) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))

    @app.post("/cart/{item}")
    async def add(item: str, session: CurrentSession) -> list[str]:
        items: list[str] = session.setdefault("cart", [])
        items.append(item)
        return items

    @app.get("/mine")
    async def mine(session: CurrentSession, request: Request) -> dict[str, Any]:
        return {"user": session.user_id, "data": session, "request": request.session}

    return app


def add_admin(app: FastAPI, engine: Engine, backend: AuthenticationBackend) -> None:
    Admin(app, engine, authentication_backend=backend).add_view(ProductAdmin)


def browser(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop.test", follow_redirects=True)


async def sign_in(client: httpx.AsyncClient, password: str = "right") -> httpx.Response:
    return await client.post("/admin/login", data={"username": "root", "password": password})


async def is_in(client: httpx.AsyncClient) -> bool:
    answer = await client.get("/admin/product/list")
    assert answer.status_code == 200
    return "Espresso machine" in answer.text


def sid_of(client: httpx.AsyncClient) -> str:
    token = parse(client.cookies["sid"].encode())
    assert token is not None
    return token.sid


# -- with its own cookie beside ours ----------------------------------------------------------------------


async def test_its_own_cookie_lives_beside_ours(db: SessionDB, engine: Engine) -> None:
    app = shop(db)
    add_admin(app, engine, DocumentedAuth("key"))
    async with browser(app) as client:
        await client.post("/cart/apple")
        sid = sid_of(client)
        assert not await is_in(client)
        assert (await sign_in(client, "wrong")).status_code == 400
        assert not await is_in(client)
        await sign_in(client)
        assert await is_in(client)
        assert sorted(client.cookies) == ["session", "sid"], "two sessions, two names"
        mine = {"user": None, "data": {"cart": ["apple"]}, "request": {"cart": ["apple"]}}
        assert (await client.get("/mine")).json() == mine, "nothing of the admin's is in ours"

        await login(client, "ann", data={"cart": ["apple"]})
        assert await is_in(client), "ours may change"
        sid = sid_of(client)
        await client.get("/admin/logout")
        assert not await is_in(client)
        assert (await client.get("/mine")).json() == {**mine, "user": "ann"}, "clear() cleared the admin's alone"
        assert sid_of(client) == sid


async def test_pages_of_the_admin_make_no_session_of_ours(db: SessionDB, engine: Engine) -> None:
    app = shop(db)
    add_admin(app, engine, DocumentedAuth("key"))
    async with browser(app) as client:
        await sign_in(client)
        assert await is_in(client)
        assert list(client.cookies) == ["session"]
    assert (await db.stats()).live == 0


# -- with its login in the database -----------------------------------------------------------------------


async def test_without_middleware_of_its_own_the_login_is_in_the_database(db: SessionDB, engine: Engine) -> None:
    app = shop(db)
    add_admin(app, engine, StoredAuth())
    async with browser(app) as client:
        await client.post("/cart/apple")
        assert not await is_in(client)
        await sign_in(client)
        assert await is_in(client)
        assert list(client.cookies) == ["sid"]
        info = await db.get(sid_of(client))
        assert info is not None
        assert info.data == {"cart": ["apple"], "token": "a token", "user_id": "root"}
        await client.get("/admin/logout")
        assert not await is_in(client)
        assert (await client.get("/mine")).json()["data"] == {}, "clear() clears what the app put there, too"


async def test_with_the_verbs_an_admin_is_a_user(db: SessionDB, engine: Engine) -> None:
    app = shop(db)
    add_admin(app, engine, UserAuth())
    async with browser(app) as client:
        await client.post("/cart/apple")
        before = sid_of(client)
        assert (await sign_in(client, "wrong")).status_code == 400
        await sign_in(client)
        assert await is_in(client)
        assert sid_of(client) != before, "a login is a border"
        (listed,) = await db.sessions_of("root")
        assert listed.sid == sid_of(client)
        assert listed.auth.methods == ("pwd",)
        assert (await client.get("/mine")).json()["user"] == "root"
        await client.get("/admin/logout")
        assert not await is_in(client)
        ended = await db.get(listed.sid)
        assert ended is not None
        assert ended.end_reason == "logout"


async def test_an_admin_who_is_revoked_is_out_at_once(db: SessionDB, engine: Engine) -> None:
    app = shop(db)
    add_admin(app, engine, UserAuth())
    async with browser(app) as client:
        await login(client, "root")
        assert await is_in(client)
        assert await db.revoke_all("root") == 1
        assert not await is_in(client)


async def test_the_login_survives_a_restart(db: SessionDB, engine: Engine) -> None:
    app = shop(db)
    add_admin(app, engine, StoredAuth())
    async with browser(app) as client:
        await sign_in(client)
        cookies = client.cookies
    await db.close()
    async with SessionDB(engine, sweep_every=None) as reopened:
        app = shop(reopened)
        add_admin(app, engine, StoredAuth())
        async with browser(app) as client:
            client.cookies = cookies
            assert await is_in(client)


# -- Starlette's own sessions on the same app -------------------------------------------------------------


def with_both(db: SessionDB, *, ours_outside: bool) -> FastAPI:
    app = FastAPI()
    # The one that is added last is the outer one.
    if not ours_outside:
        app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))
    app.add_middleware(StarletteSessions, secret_key="key")
    if ours_outside:
        app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))

    @app.post("/write")
    async def write(request: Request, session: CurrentSession) -> bool:
        session["ours"] = 1
        request.session["n"] = request.session.get("n", 0) + 1
        return request.session is session

    @app.get("/read")
    async def read(request: Request, session: CurrentSession) -> list[Any]:
        return [session, request.session]

    @app.post("/clear")
    async def clear(request: Request) -> None:
        request.session.clear()

    return app


async def test_starlettes_sessions_inside_ours(db: SessionDB) -> None:
    async with browser(with_both(db, ours_outside=True)) as client:
        assert (await client.post("/write")).json() is False
        answer = await client.post("/write")
        assert answer.headers.get_list("vary") == ["Cookie"]
        assert sorted(client.cookies) == ["session", "sid"]
        assert (await client.get("/read")).json() == [{"ours": 1}, {"n": 2}]
        await client.post("/clear")
        assert (await client.get("/read")).json() == [{"ours": 1}, {}]


async def test_ours_inside_starlettes_sessions(db: SessionDB) -> None:
    async with browser(with_both(db, ours_outside=False)) as client:
        assert (await client.post("/write")).json() is True
        await client.post("/write")
        assert list(client.cookies) == ["sid"], "nothing of ours is in a cookie"
        assert (await client.get("/read")).json() == [{"ours": 1, "n": 2}] * 2
