"""The session of a request, for what stands beside the endpoint."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from sessiondb.core.errors import ConfigurationError
from sessiondb.session import Session
from sessiondb.web.cookie import spellings
from sessiondb.web.middleware import SCOPE_KEY


def find(connection: HTTPConnection, cookie: str | None) -> tuple[str, Session]:
    """The session, not yet counted as used, and the full name of its cookie. Raises ``ConfigurationError``."""
    sessions: dict[str, Session] = connection.scope.get(SCOPE_KEY, {})
    names = reversed(sessions) if cookie is None else (name for name in spellings(cookie) if name in sessions)
    name = next(iter(names), None)
    if name is None:
        raise ConfigurationError(
            f"There is no session{'' if cookie is None else f' in the cookie {cookie!r}'} for "
            f"{connection.scope.get('path')!r}; add app.add_middleware(SessionMiddleware, db=db"
            f"{'' if cookie is None else f', cookie=Cookie({cookie!r})'}), and take the path out of its skip=."
        )
    return name, sessions[name]


def find_session(connection: HTTPConnection, cookie: str | None = None) -> Session:
    """The session of a request or WebSocket; ``cookie`` names its cookie where there are several.

    Raises ``ConfigurationError`` where no ``SessionMiddleware`` has run.
    """
    session = find(connection, cookie)[1]
    session.mark_accessed()
    return session
