"""Settings that cannot work are refused at start-up, with the fix in the message."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Scope

from sessiondb import ConfigurationError, Cookie, CrossOrigin, Policy, SessionDB, SessionMiddleware, open_store
from sessiondb.stores.base import Batching
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.sqlite import SQLiteStore


def refused(make: Callable[[], object], *said: str) -> None:
    """``make`` is refused, and the message says all of ``said``."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    message = str(caught.value)
    for text in said:
        assert text in message, message
    assert "\n" not in message, "one line of a log"


# -- SessionDB --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgres//user:hunter2@host/db", ["no scheme", "'://'", "SessionDB('sqlite:///sessions.db')"]),
        ("sessions.db", ["no scheme", "sqlite:///sessions.db"]),
        ("", ["no scheme"]),
        ("://nothing", ["no scheme"]),
        ("oracle://user:hunter2@host/db", ["oracle://...", "memory://", "sqlite://"]),
        ("oracle+oracledb://host/db", ["oracle+oracledb://...", "sqlite://"]),
        ("postgress://host/db", ["postgress://...", "Is it postgresql:// that you mean?"]),
        ("sqllite:///file.db", ["Is it sqlite:// that you mean?"]),
        ("sqlite://file.db", ["names the host 'file.db'", "sqlite:///file.db"]),
        ("sqlite:///file.db?journal=wal", ["does not know the option 'journal'", "synchronous"]),
        ("sqlite:///file.db?synchronous=maybe", ["synchronous", "maybe"]),
        ("sqlite:///file.db?busy_timeout=soon", ["busy_timeout is 'soon'", "seconds"]),
        ("sqlite:///file.db?prefix=a-b", ["prefix"]),
        ("memory://host/", ["neither host nor path"]),
        ("memory://?size=3", ["does not know the option 'size'", "max_sessions"]),
        ("memory://?max_sessions=many", ["max_sessions is 'many'"]),
        ("memory://?max_sessions=0", ["max_sessions is 0"]),
    ],
)
def test_a_url_that_names_no_database(url: str, said: list[str]) -> None:
    refused(lambda: SessionDB(url), *said)
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value), "a URL may hold a password"


@pytest.mark.parametrize(
    ("scheme", "packages", "extra"),
    [
        *[
            (scheme, ["hiredis"], "redis")
            for scheme in ("redis", "rediss", "redis+cluster", "rediss+sentinel", "valkey", "valkeys+cluster")
        ],
        *[(scheme, ["asyncpg"], "postgresql") for scheme in ("postgresql", "postgres", "postgresql+asyncpg")],
        *[(scheme, ["asyncmy"], "mysql") for scheme in ("mysql", "mariadb", "mysql+asyncmy")],
        *[(scheme, ["pymongo", "bson"], "mongodb") for scheme in ("mongodb", "mongodb+srv")],
    ],
)
def test_without_its_driver_each_scheme_says_how_to_get_it(scheme: str, packages: list[str], extra: str) -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.modules.update(dict.fromkeys({packages}))\nimport sessiondb\n"
            f"try: sessiondb.open_store('{scheme}://host/name')\n"
            "except sessiondb.ConfigurationError as error: print(error)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == (
        f"{scheme}:// needs {packages[0]}, which is not installed: pip install 'sessiondb[{extra}]'.\n"
    )


def test_the_environment_names_the_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SESSIONDB_URL", "memory://")
    assert repr(SessionDB()) == "SessionDB(memory)"
    monkeypatch.setenv("SESSIONDB_URL", "")
    assert repr(SessionDB()) == "SessionDB(sqlite)"
    monkeypatch.setenv("SESSIONDB_URL", "redis//typo")
    refused(SessionDB, "no scheme")
    assert repr(SessionDB("memory://")) == "SessionDB(memory)", "what is given comes first"


class AnswersToAnything:
    """As MongoDB's clients do: any name is a database."""

    def __getattr__(self, name: str) -> object:
        return self


class HalfAStore:
    """A store that is being written."""

    name = "half"
    batching = Batching()
    open = close = clock = load = apply = admit = find = end_where = sweep = MemoryStore.load


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Path("sessions.db"), ["URL such as 'sqlite:///sessions.db'", "Path"]),
        (b"sqlite:///sessions.db", ["not bytes"]),
        (42, ["not int"]),
        ({"url": "memory://"}, ["not dict"]),
        (object(), ["a Store or an SQLAlchemy engine"]),
        (MemoryStore, ["not the class MemoryStore"]),
        (SessionDB, ["not the class SessionDB"]),
        (AnswersToAnything(), ["URL such as", "not AnswersToAnything"]),
        (
            HalfAStore(),
            [
                "HalfAStore is no Store yet: it lacks announced,",
                "append, events, streams",
                "sessiondb.Store",
            ],
        ),
    ],
)
def test_a_source_that_is_no_database(source: object, said: list[str]) -> None:
    refused(lambda: SessionDB(source), *said)


def test_a_store_is_taken_as_it_is() -> None:
    assert repr(SessionDB(MemoryStore())) == "SessionDB(memory)"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"timeout": 0}, ["timeout is 0", "0.01 to 300 seconds"]),
        ({"timeout": -1}, ["timeout is -1"]),
        ({"timeout": 301}, ["timeout is 301"]),
        ({"timeout": float("nan")}, ["timeout is nan"]),
        ({"timeout": "2"}, ["timeout is '2'"]),
        ({"timeout": None}, ["timeout is None"]),
        ({"timeout": True}, ["timeout is True"]),
        ({"on_load_error": "ignore"}, ["on_load_error is 'ignore'", "'error' or 'anonymous'"]),
        ({"on_load_error": None}, ["on_load_error is None"]),
        ({"max_session_bytes": 10}, ["max_session_bytes is 10", "256 bytes to 16 MiB"]),
        ({"max_session_bytes": 10**9}, ["max_session_bytes is 1000000000"]),
        ({"max_session_bytes": "64k"}, ["max_session_bytes is '64k'"]),
        ({"sweep_every": 0}, ["sweep_every is 0", "or None"]),
        ({"sweep_every": "1m"}, ["sweep_every is '1m'"]),
        ({"policy": {"idle": 60}}, ["policy is {'idle': 60}", "policy=Policy(...)"]),
        ({"policy": Policy}, ["policy=Policy(...)"]),
        ({"clock": 0}, ["clock is 0", "microseconds"]),
    ],
)
def test_settings_of_the_database(settings: dict[str, Any], said: list[str]) -> None:
    refused(lambda: SessionDB("memory://", **settings), "SessionDB: ", *said)


# -- an SQLAlchemy engine ---------------------------------------------------------------------------------


def test_the_url_of_an_engine_is_used(tmp_path: Path) -> None:
    for engine in (
        sqlalchemy.create_engine(f"sqlite:///{tmp_path}/app.db"),
        create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db"),
    ):
        assert repr(SessionDB(engine)) == "SessionDB(sqlite)"


async def test_sessions_live_beside_the_tables_of_the_app(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.execute(sqlalchemy.text("CREATE TABLE users (name TEXT)"))
    async with SessionDB(engine, sweep_every=None) as db:
        await db.create("ann", {"n": 1})
    async with engine.connect() as connection:
        tables = await connection.execute(sqlalchemy.text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        names = set(tables.scalars())
        users = await connection.execute(sqlalchemy.text("SELECT user_id FROM sessiondb_sessions"))
        assert users.scalars().all() == ["ann"]
    await engine.dispose()
    assert {"users", "sessiondb_sessions"} <= names


def test_an_engine_of_a_database_that_is_not_known() -> None:
    engine = sqlalchemy.create_mock_engine("oracle+oracledb://user:hunter2@host/db", lambda *_: None)
    with pytest.raises(ConfigurationError) as caught:
        SessionDB(engine)
    assert "hunter2" not in str(caught.value)


# -- Policy -----------------------------------------------------------------------------------------------

DAY = 86_400


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"idle": timedelta(days=40)}, ["idle", "longer than absolute", "lower idle or raise absolute"]),
        ({"absolute": 3600}, ["longer than absolute (3600)"]),
        ({"idle": 0}, ["idle is 0", "1 second to 10 years"]),
        ({"idle": -5}, ["idle is -5"]),
        ({"idle": "1h"}, ["idle is '1h'", "timedelta or a number of seconds"]),
        ({"idle": None}, ["idle is None"]),
        ({"idle": True}, ["idle is True"]),
        ({"absolute": None}, ["absolute is None"]),
        ({"absolute": float("inf")}, ["absolute is inf"]),
        ({"absolute": float("nan")}, ["absolute is nan"]),
        ({"absolute": timedelta(days=5000)}, ["10 years"]),
        ({"remember": 0}, ["remember is 0"]),
        ({"remember": "long"}, ["remember is 'long'"]),
        ({"keep_ended": 0}, ["keep_ended is 0"]),
        ({"keep_ended": None}, ["keep_ended is None"]),
        ({"rotate_every": 10}, ["rotate_every is under 60 seconds", "or None"]),
        ({"rotate_every": 0}, ["rotate_every is 0"]),
        ({"per_user": 0}, ["per_user is 0", "1 or more, or None"]),
        ({"per_user": 2.5}, ["per_user is 2.5"]),
        ({"per_user": True}, ["per_user is True"]),
        ({"per_user": "3"}, ["per_user is '3'"]),
        ({"on_limit": "end_newest"}, ["on_limit is 'end_newest'", "'end_oldest', 'refuse' or 'ask'"]),
    ],
)
def test_policies_that_contradict_themselves(settings: dict[str, Any], said: list[str]) -> None:
    refused(lambda: Policy(**settings), "Policy: ", *said)
    refused(lambda: Policy().with_(**settings), *said)


@pytest.mark.parametrize("policy", [Policy(), Policy.nist_aal2(), Policy.nist_aal3(), Policy(idle=1, absolute=1.5)])
def test_policies_that_work(policy: Policy) -> None:
    SessionDB("memory://", policy=policy)


# -- Cookie -----------------------------------------------------------------------------------------------


@pytest.mark.security("C2", "C7", "C9")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samesite": "none", "secure": False}, ["samesite='none' without Secure", "secure=True"]),
        ({"partitioned": True, "secure": False}, ["partitioned=True without Secure"]),
        ({"name": "__Host-sid", "secure": False}, ["'__Host-sid' without Secure"]),
        ({"name": "__secure-sid", "secure": False}, ["'__secure-sid' without Secure"]),
        ({"name": "__Http-sid", "secure": False}, ["'__Http-sid' without Secure"]),
        *(
            ({"name": f"{prefix}sid", **setting}, [f"'{prefix}sid' with a domain or a path", "'__Secure-'"])
            for prefix in ("__Host-", "__host-", "__HOST-", "__hOsT-", "__Host-Http-")
            for setting in ({"domain": "example.com"}, {"path": "/app"})
        ),
        *(
            ({"name": name}, ["the name", "letters, digits, '-' and '_'"])
            for name in ("", "a b", "a=b", "a;b", "a,b", 'a"b', "a\r\nb", "naïve", "a" * 129, "a/b", "a\0")
        ),
        *(
            ({"path": path}, ["the path", "start with '/'"])
            for path in ("", "app", "/a;b", "/a b", "/a\r\nSet-Cookie: x=y", "/a\n", "/ü", "/\x7f", "/" + "a" * 1100)
        ),
        *(
            ({"domain": domain}, ["the domain", "use 'example.com'"])
            for domain in (
                "",
                ".",
                "a;b",
                "example.com; HttpOnly",
                "example.com\r\n",
                "https://example.com",
                "example.com/x",
                "example.com:443",
                "bücher.example",
                "*.example.com",
            )
        ),
        ({"samesite": "Lax"}, ["samesite is 'Lax'", "'lax', 'strict' or 'none'"]),
        ({"samesite": None}, ["samesite is None"]),
        ({"name": None}, ["name is None", "use a string"]),
        ({"name": b"sid"}, ["name is b'sid'"]),
        ({"path": None}, ["path is None"]),
        ({"domain": 7}, ["domain is 7"]),
        ({"secure": "false"}, ["secure is 'false'", "use True or False"]),
        ({"secure": None}, ["secure is None"]),
        ({"partitioned": 1}, ["partitioned is 1"]),
    ],
)
def test_cookies_that_browsers_refuse(settings: dict[str, Any], said: list[str]) -> None:
    refused(lambda: Cookie(**settings), "Cookie: ", *said)


@pytest.mark.security("C1")
@pytest.mark.parametrize(
    ("cookie", "name"),
    [
        (Cookie(), "__Host-sid"),
        (Cookie(secure=False), "sid"),
        (Cookie("shop"), "__Host-shop"),
        (Cookie("__host-shop"), "__host-shop"),
        (Cookie("__Secure-shop", domain="example.com"), "__Secure-shop"),
        (Cookie(domain="example.com"), "__Secure-sid"),
        (Cookie(domain=".example.com"), "__Secure-sid"),
        (Cookie(path="/app"), "__Secure-sid"),
        (Cookie(samesite="none", partitioned=True), "__Host-sid"),
        (Cookie("__Host-Http-sid"), "__Host-Http-sid"),
    ],
)
def test_cookies_that_work(cookie: Cookie, name: str) -> None:
    assert cookie.full_name == name


# -- CrossOrigin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://app.example.com?x",
        "https://",
        "https:",
        "//app.example.com",
        "ftp://app.example.com",
        "null",
        "*",
        "https://*.example.com",
        "https://user@example.com",
        "https://app.example.com:443",
        "http://app.example.com:80",
        "https://app.example.com:port",
        "https://app example.com",
        "https://bücher.example",
        "https://app.example.com\n",
        "https://app.example.com, https://b.example",
        "",
        b"https://app.example.com",
        None,
    ],
)
def test_origins_that_could_never_match(origin: Any) -> None:
    refused(lambda: CrossOrigin(trusted_origins=[origin]), "CrossOrigin: ", "'https://app.example.com'", repr(origin))


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "http://localhost:3000",
        "http://127.0.0.1:8000",
        "https://[::1]:8443",
        "https://xn--bcher-kva.example",
        "HTTPS://App.Example.com",
        "https://a_b.example",
        "http://app.example.com:443",
    ],
)
def test_origins_that_work(origin: str) -> None:
    headers = [(b"origin", origin.lower().encode()), (b"sec-fetch-site", b"cross-site"), (b"host", b"shop.test")]
    assert CrossOrigin().refusal("/", headers)
    assert CrossOrigin([origin]).refusal("/", headers) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trusted_origins": "https://app.example.com"}, ["trusted_origins is 'https://app.example.com'", "a list"]),
        ({"trusted_origins": None}, ["trusted_origins is None", "a list"]),
        ({"exempt": "/webhooks"}, ["exempt is a string", "['/webhooks']"]),
        ({"exempt": ["webhooks"]}, ["exempt: 'webhooks'", "starts with '/'"]),
        ({"exempt": None}, ["exempt is None", "a list"]),
        ({"exempt": [re.compile("/a")]}, ["exempt: re.compile('/a')", "a string"]),
    ],
)
def test_settings_of_the_cross_origin_check(settings: dict[str, Any], said: list[str]) -> None:
    refused(lambda: CrossOrigin(**settings), "CrossOrigin: ", *said)


# -- SessionMiddleware ------------------------------------------------------------------------------------

NO_APP: Any = None
LINE = "app.add_middleware(SessionMiddleware, db=SessionDB('sqlite:///sessions.db'))"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ["db is missing", LINE]),
        ({"db": "sqlite:///sessions.db"}, ["db is a str", LINE]),
        ({"db": None}, ["db is a NoneType", LINE]),
        ({"db": MemoryStore()}, ["db is a MemoryStore", LINE]),
        ({"db": SessionDB}, ["db is a type", LINE]),
        ({"cookie": Cookie()}, ["db is missing"]),
        ({"secret_key": "s3cret"}, ["secret_key is a setting of Starlette's own", "no key is needed"]),
        ({"db": SessionDB("memory://"), "max_age": 60}, ["max_age", "Policy(...)"]),
        ({"db": SessionDB("memory://"), "https_only": True}, ["https_only", "Cookie(...)"]),
        ({"db": SessionDB("memory://"), "cookie": "sid"}, ["cookie is 'sid'", "cookie=Cookie(...)"]),
        ({"db": SessionDB("memory://"), "cookie": Cookie}, ["cookie=Cookie(...)"]),
        ({"db": SessionDB("memory://"), "csrf": False}, ["csrf is False", "csrf=CrossOrigin(...), or None"]),
        ({"db": SessionDB("memory://"), "csrf": ["https://a.b"]}, ["csrf=CrossOrigin(...)"]),
        ({"db": SessionDB("memory://"), "skip": "/static"}, ["skip is a string", "['/static']"]),
        ({"db": SessionDB("memory://"), "skip": ["static"]}, ["skip: 'static'", "starts with '/'"]),
        ({"db": SessionDB("memory://"), "skip": [7]}, ["skip: 7", "a string"]),
        ({"db": SessionDB("memory://"), "skip": None}, ["skip is None", "a list"]),
    ],
)
def test_settings_of_the_middleware(settings: dict[str, Any], said: list[str]) -> None:
    refused(lambda: SessionMiddleware(NO_APP, **settings), "SessionMiddleware: ", *said)
    refused(lambda: Starlette(middleware=[Middleware(SessionMiddleware, **settings)]).build_middleware_stack(), *said)
    assert "s3cret" not in repr(said)


def test_a_setting_that_nobody_knows_stays_a_type_error() -> None:
    settings: dict[str, Any] = {"db": SessionDB("memory://"), "cokie": None}
    with pytest.raises(TypeError, match="cokie"):
        SessionMiddleware(NO_APP, **settings)


def test_a_subclass_may_take_what_it_likes() -> None:
    class Ours(SessionMiddleware):
        def __init__(self, app: ASGIApp, secret_key: str) -> None:
            super().__init__(app, SessionDB("memory://"))

    assert isinstance(Ours(NO_APP, secret_key="for something else"), SessionMiddleware)


# -- when the app starts ----------------------------------------------------------------------------------


async def start(app: ASGIApp) -> str:
    """What a server hears of the app's start-up; raises what the app raises."""
    sent: list[Any] = []
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    try:
        await app(scope, receive, send)
    except ConfigurationError:
        if not sent:
            raise
    kinds = [message["type"] for message in sent]
    return str(sent[0].get("message", "")) if kinds[0] == "lifespan.startup.failed" else " ".join(kinds)


async def test_an_app_with_a_wrong_middleware_does_not_start() -> None:
    app = FastAPI()
    wrong: Any = "sqlite:///sessions.db"
    app.add_middleware(SessionMiddleware, db=wrong)
    with pytest.raises(ConfigurationError, match="db is a str"):
        await start(app)


async def test_an_app_whose_database_cannot_be_made_does_not_start(tmp_path: Path) -> None:
    db = SessionDB(f"sqlite:///{tmp_path}/no/such/folder/sessions.db")
    message = await start(FastAPI(lifespan=db.lifespan))
    assert "ConfigurationError" in message
    assert "does not exist" in message
    assert "mkdir -p" in message


async def test_an_app_that_is_set_up_well_starts_and_stops(tmp_path: Path) -> None:
    order: list[str] = []

    @asynccontextmanager
    async def mine(app: FastAPI) -> AsyncIterator[None]:
        order.append("start")
        await db.create("ann")
        yield
        order.append("stop")
        await db.create("bob")

    db = SessionDB(f"sqlite:///{tmp_path}/sessions.db")
    app = FastAPI(lifespan=db.lifespan.wrap(mine))
    app.add_middleware(SessionMiddleware, db=db)
    assert await start(app) == "lifespan.startup.complete lifespan.shutdown.complete"
    assert order == ["start", "stop"]


async def test_the_state_of_a_wrapped_lifespan_reaches_the_app() -> None:
    @asynccontextmanager
    async def mine(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"started": True}

    async with SessionDB("memory://").lifespan.wrap(mine)(FastAPI()) as state:
        assert state == {"started": True}


async def test_a_relative_file_is_the_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SESSIONDB_URL", raising=False)
    async with SessionDB(sweep_every=None):
        assert (tmp_path / "sessions.db").is_file()
    assert isinstance(open_store("sqlite:///sessions.db"), SQLiteStore)
