"""``login(client, "ann")``: signs a test client in, without the app's login page.

With Starlette's or FastAPI's ``TestClient``::

    from fastapi.testclient import TestClient
    from sessiondb.testing import login


    def test_cart_is_empty():
        with TestClient(app, base_url="https://testserver") as client:
            login(client, "ann", data={"theme": "dark"})
            assert client.get("/cart").json() == []

With ``httpx.AsyncClient`` (or ``httpx2``) it is awaited::

    async def test_cart_is_empty():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as client:
            await login(client, "ann")
            assert (await client.get("/cart")).json() == []

Mind the ``https``: the session cookie is ``Secure``, so a client on plain http never sends it (``login`` says so).
For a WebSocket, name the address: ``client.websocket_connect("wss://testserver/chat")``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any, Protocol, overload
from urllib.parse import urlsplit
from urllib.request import Request
from uuid import UUID

from anyio.from_thread import start_blocking_portal

from sessiondb.core import token
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policy import SECOND
from sessiondb.core.record import SessionInfo
from sessiondb.db import Issued, SessionDB
from sessiondb.web.cookie import Cookie, spellings
from sessiondb.web.middleware import SessionMiddleware


class Cookies(Protocol):
    """The ``cookies`` of a client."""

    @property
    def jar(self) -> CookieJar:
        """The jar that they are in."""
        ...


class AnyClient(Protocol):
    """What every client has."""

    @property
    def base_url(self) -> object:
        """The address of the app."""
        ...

    @property
    def cookies(self) -> Cookies:
        """Its cookies."""
        ...


class SyncClient(AnyClient, Protocol):
    """``starlette.testclient.TestClient``, ``fastapi.testclient.TestClient`` or ``httpx.Client``."""

    def close(self) -> None:
        """Close it."""
        ...


class AsyncClient(AnyClient, Protocol):
    """``httpx.AsyncClient``."""

    async def aclose(self) -> None:
        """Close it."""
        ...


@overload
def login(
    client: SyncClient,
    user_id: str | int | UUID,
    *,
    db: SessionDB | None = None,
    cookie: Cookie | str | None = None,
    data: Mapping[str, Any] | None = None,
    remember: bool = False,
    methods: Iterable[str] = (),
    level: int | None = None,
    policy: str | None = None,
) -> SessionInfo: ...


@overload
def login(
    client: AsyncClient,
    user_id: str | int | UUID,
    *,
    db: SessionDB | None = None,
    cookie: Cookie | str | None = None,
    data: Mapping[str, Any] | None = None,
    remember: bool = False,
    methods: Iterable[str] = (),
    level: int | None = None,
    policy: str | None = None,
) -> Coroutine[Any, Any, SessionInfo]: ...


def login(
    client: SyncClient | AsyncClient,
    user_id: str | int | UUID,
    *,
    db: SessionDB | None = None,
    cookie: Cookie | str | None = None,
    data: Mapping[str, Any] | None = None,
    remember: bool = False,
    methods: Iterable[str] = (),
    level: int | None = None,
    policy: str | None = None,
) -> SessionInfo | Coroutine[Any, Any, SessionInfo]:
    """Sign ``user_id`` in: a real session in the app's database, and its cookie in the client's jar.

    * ``client``: a ``TestClient``, or an ``httpx.AsyncClient`` (then await it).
    * ``db`` and ``cookie`` are those of the app's ``SessionMiddleware``. Say ``cookie="admin"`` where an app has
      several, and ``db=`` (with ``cookie=Cookie(...)``, if that is not the default) for an app that hides its
      middleware in a function, or that runs in another process.
    * ``data``: what the session holds; ``remember``, ``methods``, ``level`` and ``policy`` as in
      ``session.login``.

    Logging in again replaces the cookie; the session before stays alive, as another device's does. Raises
    ``ConfigurationError`` where the app's sessions cannot be found or the client would not send the cookie,
    ``LoginRefused`` where the limit per user forbids it, and ``SessionDataError``.
    """
    db, cookie = _place(client, db, cookie)
    url = _address(client, cookie)

    async def create() -> Issued:
        return await db.create(
            user_id,
            data,
            remember=remember,
            methods=methods,
            level=level,
            policy=policy,
            user_agent=getattr(client, "headers", {}).get("user-agent"),
        )

    def keep(issued: Issued) -> SessionInfo:
        max_age = None
        if remember:
            lifetime = db._policies.lifetime(issued.session.policy, remember)
            max_age = db._policies.caps.of(lifetime).absolute // SECOND
        _put(client.cookies.jar, url, cookie, issued, max_age)
        return issued.session

    async def create_and_keep() -> SessionInfo:
        return keep(await create())

    if hasattr(client, "aclose"):
        return create_and_keep()
    return keep(_run(client, db, create))


def _run(client: object, db: SessionDB, create: Callable[[], Awaitable[Issued]]) -> Issued:
    portal = getattr(client, "portal", None)
    if portal is not None:
        # ``with TestClient(app)`` runs the app in this event loop.
        issued: Issued = portal.call(create)
        return issued

    async def create_and_close() -> Issued:
        try:
            return await create()
        finally:
            await db.close()

    with start_blocking_portal("asyncio") as own:
        return own.call(create_and_close)


def _place(client: object, db: SessionDB | None, cookie: Cookie | str | None) -> tuple[SessionDB, Cookie]:
    """The database and the cookie of the client's app, as far as they were not given."""
    if db is not None and isinstance(cookie, Cookie):
        return db, cookie
    app = getattr(client, "app", None) or getattr(getattr(client, "_transport", None), "app", None)
    all_found = _middlewares(app)
    found = [(depth, one, one.cookie) for depth, one in all_found if one.cookie is not None]
    if all_found and not found:
        raise ConfigurationError(
            "login: the app takes tokens in headers only, and clients keep no such thing. Have db.create(user_id) "
            "issue one, and pass it: client.headers['Authorization'] = f'Bearer {issued.token}'."
        )
    if isinstance(cookie, str):
        found = [one for one in found if one[2].full_name in spellings(cookie)]
    elif found:
        # An app's own sessions come before those of the apps that are mounted in it.
        found = [one for one in found if one[0] == found[0][0]]
    names = sorted({each.full_name for _, _, each in found})
    if len(names) > 1:
        raise ConfigurationError(
            f"login: the app has several session cookies ({', '.join(names)}); name one: "
            f"login(client, user_id, cookie={names[0]!r})."
        )
    if not found:
        if db is not None and cookie is None:
            return db, Cookie()
        wanted = f" with the cookie {cookie!r}" if isinstance(cookie, str) else ""
        raise ConfigurationError(
            f"login: there is no SessionMiddleware{wanted} in the app of this {type(client).__name__}. Add it with "
            "app.add_middleware(SessionMiddleware, db=db); if the app is wrapped in a function or runs elsewhere, "
            "pass what it uses: login(client, user_id, db=db, cookie=Cookie(...))."
        )
    _, middleware, its_cookie = found[0]
    return db or middleware.db, cookie if isinstance(cookie, Cookie) else its_cookie


def _middlewares(app: object) -> list[tuple[int, SessionMiddleware]]:
    """Every ``SessionMiddleware`` around and in ``app``, outermost first, each with how deep it is mounted."""
    found: list[tuple[int, SessionMiddleware]] = []
    seen: set[int] = set()
    waiting: deque[tuple[int, object]] = deque([(0, app)])
    while waiting:
        depth, one = waiting.popleft()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, SessionMiddleware):
            found.append((depth, one))
        # Starlette builds its own with the first request, after which none can be added; so not here.
        found.extend(
            (depth, added.cls(_nothing, *added.args, **added.kwargs))
            for added in getattr(one, "user_middleware", ())
            if isinstance(added.cls, type) and issubclass(added.cls, SessionMiddleware)
        )
        waiting.append((depth, getattr(one, "app", None)))
        waiting.extend((depth + 1, route) for route in getattr(one, "routes", None) or ())
    return found


async def _nothing(*_: object) -> None:
    """An app that is never called."""


def _address(client: AnyClient, cookie: Cookie) -> str:
    """Where the app is, as the cookie jar sees it. Raises where a ``Secure`` cookie would never be sent there."""
    base_url = str(client.base_url)
    parts = urlsplit(base_url)
    kind = type(client).__name__
    if not parts.scheme or not parts.hostname:
        raise ConfigurationError(f"login: this {kind} has no base_url; use {kind}(..., base_url='https://testserver').")
    if cookie.secure and parts.scheme != "https":
        raise ConfigurationError(
            f"login: the cookie {cookie.full_name!r} is Secure, so a client on plain {base_url} would never send it. "
            f"Either give the client an https address: {_with_https(kind)}; or, for development over http, let the "
            "app do without: app.add_middleware(SessionMiddleware, db=db, cookie=Cookie(secure=False))."
        )
    return f"{parts.scheme}://{parts.netloc}{cookie.path}"


def _with_https(kind: str) -> str:
    first = "app" if kind == "TestClient" else "transport=httpx.ASGITransport(app=app)"
    return f"{kind}({first}, base_url='https://testserver')"


def _put(jar: CookieJar, url: str, cookie: Cookie, issued: Issued, max_age: int | None) -> None:
    """Have ``jar`` take the cookie as from a response, and check that it would send it."""
    for held in [held for held in jar if held.name == cookie.full_name]:
        jar.clear(held.domain, held.path, held.name)
    parsed = token.parse(issued.token.encode("ascii"))
    assert parsed is not None
    name, value = cookie.set_header(parsed, max_age)
    jar.extract_cookies(_Response(name.decode(), value.decode()), Request(url))  # type: ignore[arg-type]  # noqa: S310
    request = Request(url)  # noqa: S310  never sent
    jar.add_cookie_header(request)
    if f"{cookie.full_name}={issued.token}" not in request.get_header("Cookie", "").split("; "):
        raise ConfigurationError(
            f"login: the client's cookie jar does not take {value.decode().partition(';')[2].strip()!r} from {url}. "
            + (
                f"Give the client an address in that domain: base_url='https://{cookie.domain.lstrip('.')}'."
                if cookie.domain is not None
                else "Does it have a policy of its own?"
            )
        )


class _Response:
    """As much of a response as a cookie jar looks at."""

    def __init__(self, name: str, value: str) -> None:
        self._headers = Message()
        self._headers[name] = value

    def info(self) -> Message:
        return self._headers
