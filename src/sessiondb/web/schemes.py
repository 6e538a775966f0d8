"""Ways in which a guard lets a token travel: what OpenAPI says of them, and which of them a request came."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import Depends
from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
from fastapi.openapi.models import SecurityBase as SchemeModel
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from sessiondb.core.errors import ConfigurationError
from sessiondb.session import Session, state_of
from sessiondb.web.cookie import Cookie
from sessiondb.web.middleware import SCOPE_KEY
from sessiondb.web.transports import Bearer, Header, challenge_of

Transport = Cookie | Bearer | Header
Transports = Transport | Sequence[Transport]


class Scheme(SecurityBase):
    """One security scheme of OpenAPI; as a dependency it does nothing but to be shown."""

    def __init__(self, transport: Transport) -> None:
        self.model = _model(transport)
        self.scheme_name = _name(transport)

    async def __call__(self) -> None:
        """Nothing: the guard does the work."""


def checked(where: str, transport: object) -> tuple[Transport, ...]:
    """``transport=``, as a tuple. Raises ``ConfigurationError``."""
    single = isinstance(transport, (Cookie, Bearer, Header))
    if not single and (isinstance(transport, (str, bytes)) or not isinstance(transport, Iterable)):
        raise _not_one(where, transport)
    given = (transport,) if single else transport
    several: list[Transport] = []
    assert isinstance(given, Iterable)
    for one in given:
        if not isinstance(one, (Cookie, Bearer, Header)):
            raise _not_one(where, one)
        several.append(one)
    if not several:
        raise ConfigurationError(f"{where}: transport is empty, so nobody could come in; name one, or drop it.")
    return tuple(several)


def signature(others: Iterable[Scheme]) -> inspect.Signature:
    """That of a guard: FastAPI shows each scheme that it finds among the dependencies of an endpoint."""
    kind = inspect.Parameter.KEYWORD_ONLY
    connection = inspect.Parameter("connection", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)
    shown = [
        inspect.Parameter(f"scheme_{number}", kind, default=Depends(scheme)) for number, scheme in enumerate(others)
    ]
    return inspect.Signature([connection, *shown])


def came_by(connection: HTTPConnection, transports: Iterable[Transport]) -> list[Session]:
    """The sessions of this request that came one of these ways, in their order. Raises ``ConfigurationError``."""
    sessions: dict[str, Session] = connection.scope.get(SCOPE_KEY, {})
    found, known = [], False
    for transport in transports:
        is_cookie = isinstance(transport, Cookie)
        session = sessions.get(transport.full_name if isinstance(transport, Cookie) else f"{transport.name.lower()}:")
        if session is None and isinstance(transport, Cookie):
            # An app that is developed over plain http leaves out the prefix.
            session = sessions.get(transport.name)
        if session is not None:
            known = True
            if state_of(session).via == (None if is_cookie else transport.name):
                found.append(session)
    if not known:
        raise ConfigurationError(
            f"No session of {connection.scope.get('path')!r} can come by {', '.join(map(repr, transports))}; add "
            "app.add_middleware(SessionMiddleware, db=db, headers=[...]) with it, and take the path out of its skip=."
        )
    return found


def challenges(transports: Iterable[Transport], more: str) -> str:
    """``WWW-Authenticate`` for all of these, each with the parameters ``more``."""
    return ", ".join(
        (cookie_challenge(one.full_name) if isinstance(one, Cookie) else challenge_of(one.name)) + more
        for one in transports
    )


def cookie_challenge(name: str) -> str:
    """What ``WWW-Authenticate`` says of a cookie."""
    return f'Cookie realm="session", cookie-name="{name}"'


def _model(transport: Transport) -> SchemeModel:
    if isinstance(transport, Bearer):
        return HTTPBearer(description="The session token, given by the login.")
    if isinstance(transport, Header):
        return _api_key(APIKeyIn.header, transport.name, "The session token, given by the login.")
    return _api_key(APIKeyIn.cookie, transport.full_name, "The session cookie, set by the login.")


def _api_key(where: APIKeyIn, name: str, description: str) -> APIKey:
    # "in" is a word of Python.
    scheme: dict[str, Any] = {"in": where, "name": name, "description": description}
    return APIKey(**scheme)


def _name(transport: Transport) -> str:
    if isinstance(transport, Bearer):
        return "session-bearer"
    if isinstance(transport, Header):
        return f"session-header-{transport.name.lower()}"
    return "session" if transport.name == Cookie().name else f"session-{transport.name}"


def _not_one(where: str, given: object) -> ConfigurationError:
    return ConfigurationError(
        f"{where}: transport has {given!r:.100}; use Cookie(), Bearer() or Header('X-Session'), or a list of them."
    )
