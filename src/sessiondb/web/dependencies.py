"""FastAPI dependencies: the session, the session as a model, and who is logged in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar
from urllib.parse import quote

from sessiondb.core.errors import ConfigurationError
from sessiondb.noticing import owes_proof
from sessiondb.session import Session, state_of
from sessiondb.web.called_first import CalledFirst as CalledFirst
from sessiondb.web.cookie import Cookie
from sessiondb.web.finding import find, find_session
from sessiondb.web.transports import challenge_of
from sessiondb.web.typed import OnInvalid, SessionOf, typed_session
from sessiondb.web.versions import Migrate

try:
    from fastapi import Depends, HTTPException
    from fastapi.security.base import SecurityBase

    from sessiondb.web.schemes import (
        Scheme,
        Transports,
        came_by,
        challenges,
        checked,
        cookie_challenge,
        signature,
    )
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "CurrentSession, SessionOf and RequireLogin are FastAPI dependencies, and FastAPI is not installed: "
        "pip install 'sessiondb[fastapi]'. With Starlette alone, use request.session."
    ) from error
from starlette.requests import HTTPConnection

Model = TypeVar("Model")

_Setting = Annotated[str | None, CalledFirst()]


def current_session(cookie: _Setting = None) -> Callable[[HTTPConnection], object]:
    """A dependency that gives the ``Session``; ``cookie`` names its cookie where an app has several."""

    async def session(connection: HTTPConnection) -> Session:
        return find_session(connection, cookie)

    return session


def session_of(
    model: type[Model],
    cookie: str | None = None,
    *,
    version: int | None = None,
    migrate: Migrate | None = None,
    on_invalid: OnInvalid = "error",
    name: str | None = None,
) -> Callable[[HTTPConnection], object]:
    """A dependency that gives a ``SessionOf[model]``: a Pydantic model, msgspec ``Struct`` or dataclass.

    ``Cart = Annotated[SessionOf[CartData], Depends(session_of(CartData))]``

    * ``version`` (from 1 on) and ``migrate`` (``None``: the model has never changed): what an older version has stored
      is given to ``migrate(old_version, raw)``, with 0 for what has no version yet; it returns ``raw`` as ``version``
      has it. The version is stored in the session under ``_version.<name>``.
    * ``on_invalid`` (``"error"``): ``"default"`` reads the defaults of the fields in which something is stored that
      does not fit, and counts ``session_data_defaulted``.
    * ``name`` (that of the class): what the version is stored under; give it if the class is renamed.

    Raises ``ConfigurationError`` for a class that is no model, a field without a default (the empty session of a new
    visitor would not fit), and settings that do not go together. ``.data`` raises ``SessionDataError`` if what is
    stored does not fit: HTTP 500, unless the app has an exception handler for it.
    """
    typed = typed_session(model, version, migrate, on_invalid, name)

    async def session(connection: HTTPConnection) -> SessionOf[Model]:
        found = find_session(connection, cookie)
        return typed(found, state_of(found))

    return session


class LoginRequired(SecurityBase):
    """A dependency that gives the user id of the session, or answers 401 (or a redirect to the login page).

    In OpenAPI it is an ``apiKey`` security scheme in the session cookie, or what ``transport`` names.
    """

    def __init__(
        self,
        *,
        redirect: str | None = None,
        step_up: str | None = None,
        cookie: str | None = None,
        transport: Transports | None = None,
    ) -> None:
        for name, page, example in (("redirect", redirect, "/login"), ("step_up", step_up, "/verify")):
            if page is not None and not page.startswith(("/", "https://", "http://")):
                raise ConfigurationError(f"require_login: {name} is {page!r}; use a path such as {example!r}.")
        self.redirect = redirect
        self.step_up = step_up
        if cookie is not None and transport is not None:
            raise ConfigurationError(f"require_login: give cookie= or transport=[Cookie({cookie!r})], not both.")
        self.cookie = cookie
        self.transports = None if transport is None else checked("require_login", transport)
        shown = self.transports or (Cookie() if cookie is None else Cookie(cookie),)
        first, *others = (Scheme(one) for one in shown)
        self.model, self.scheme_name = first.model, first.scheme_name
        self.__signature__ = signature(others)

    async def __call__(self, connection: HTTPConnection, **_schemes: None) -> str:
        """The user id. Raises ``HTTPException``: 401, or 303 where ``redirect`` is set."""
        if self.transports is None:
            sessions = [find_session(connection, self.cookie)]
        else:
            sessions = came_by(connection, self.transports)
        for session in sessions:
            session.mark_accessed()
            user_id = session.user_id
            if user_id is not None:
                state = state_of(session)
                if state.owes_proof or (state.runtime.assessing.enforces and owes_proof(state, session)):
                    raise self._step_up(connection)
                self._check(session, connection)
                return user_id
        raise self._refusal(connection, "Log in first.")

    def _step_up(self, connection: HTTPConnection) -> HTTPException:
        """What a login that looked suspicious has to prove first: ``session.step_up``, on a page without this guard."""
        if self.step_up is not None:
            return HTTPException(303, "Prove once more who you are.", {"Location": self.step_up})
        challenge = ', error="insufficient_user_authentication", error_description="Another proof is required."'
        refusal = self._refusal(connection, "Prove once more who you are: this login looks unusual.", challenge)
        return refusal if self.redirect is None else HTTPException(401, refusal.detail)

    def _check(self, session: Session, connection: HTTPConnection) -> None:
        """More that a subclass asks of the login."""

    def _refusal(self, connection: HTTPConnection, detail: str, challenge: str = "") -> HTTPException:
        if self.redirect is None:
            if self.transports is not None:
                challenge = challenges(self.transports, challenge)
            else:
                name, session = find(connection, self.cookie)
                via = state_of(session).via
                challenge = (cookie_challenge(name) if via is None else challenge_of(via)) + challenge
            return HTTPException(401, detail, {"WWW-Authenticate": challenge})
        target = self.redirect
        if connection.scope.get("method") in ("GET", "HEAD"):
            target += f"{'&' if '?' in target else '?'}next={quote(_came_for(connection), safe='/')}"
        return HTTPException(303, detail, {"Location": target})


def _came_for(connection: HTTPConnection) -> str:
    """The path and query of this very request, as a browser writes them."""
    # Browsers take "//" and "/\\" for the start of another site's address.
    path = "/" + connection.scope["path"].lstrip("/\\")
    query = connection.scope.get("query_string", b"").decode("latin-1")
    return quote(path, safe="/:@!$&'()*+,;=") + (f"?{query}" if query else "")


def require_login(
    *,
    redirect: _Setting = None,
    step_up: _Setting = None,
    cookie: _Setting = None,
    transport: Annotated[Transports | None, CalledFirst()] = None,
) -> LoginRequired:
    """``Annotated[str, Depends(require_login(redirect="/login"))]``: pages send visitors to the login page.

    The path that was asked for is added as ``?next=``. ``step_up``: the page to which those go whose login looked
    suspicious, where ``RiskPolicy`` says ``"step_up"``; without it they get 401 as RFC 9470 has it. ``transport``: the
    ways that count here, and what OpenAPI shows: ``transport=Bearer()``, or ``transport=[Cookie(), Bearer()]``; without
    it every way of the app counts, and OpenAPI shows the cookie. Raises ``ConfigurationError``.
    """
    return LoginRequired(redirect=redirect, step_up=step_up, cookie=cookie, transport=transport)


CurrentSession = Annotated[Session, Depends(current_session())]
RequireLogin = Annotated[str, Depends(require_login())]
