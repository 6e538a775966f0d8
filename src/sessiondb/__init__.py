"""The session database for FastAPI: server-side sessions in a real database, as cheap as a signed cookie."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sessiondb.core.breaker import CircuitBreaker
from sessiondb.core.errors import (
    ConfigurationError,
    CrossOriginRefused,
    HeadersSent,
    LoginRefused,
    SessionDataError,
    SessionDBError,
    SessionEnded,
    SessionUnavailable,
    StoreError,
    StoreUnavailable,
)
from sessiondb.core.events import Event, EventType
from sessiondb.core.limits import Limits, SuspiciousNetwork
from sessiondb.core.policy import Policy
from sessiondb.core.record import Auth, Client, EndReason, Risk, SessionInfo
from sessiondb.db import Issued, SessionDB
from sessiondb.probing import Readiness
from sessiondb.session import Session
from sessiondb.stores.base import Ended, EventPage, Stats, Store, Swept, open_store
from sessiondb.web.cookie import Cookie
from sessiondb.web.csrf import CrossOrigin
from sessiondb.web.middleware import SessionMiddleware
from sessiondb.web.readiness import readiness
from sessiondb.web.typed import SessionOf

if TYPE_CHECKING:
    from sessiondb.web.dependencies import (
        CurrentSession,
        RequireLogin,
        RequireRecentLogin,
        current_session,
        require_login,
        session_of,
    )

__version__ = "0.1.0"

__all__ = [
    "Auth",
    "CircuitBreaker",
    "Client",
    "ConfigurationError",
    "Cookie",
    "CrossOrigin",
    "CrossOriginRefused",
    "CurrentSession",
    "EndReason",
    "Ended",
    "Event",
    "EventPage",
    "EventType",
    "HeadersSent",
    "Issued",
    "Limits",
    "LoginRefused",
    "Policy",
    "Readiness",
    "RequireLogin",
    "RequireRecentLogin",
    "Risk",
    "Session",
    "SessionDB",
    "SessionDBError",
    "SessionDataError",
    "SessionEnded",
    "SessionInfo",
    "SessionMiddleware",
    "SessionOf",
    "SessionUnavailable",
    "Stats",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "SuspiciousNetwork",
    "Swept",
    "current_session",
    "open_store",
    "readiness",
    "require_login",
    "session_of",
]

_NEED_FASTAPI = frozenset(
    {"CurrentSession", "RequireLogin", "RequireRecentLogin", "current_session", "require_login", "session_of"}
)


def __getattr__(name: str) -> Any:
    # Starlette apps use the rest without FastAPI being installed.
    if name in _NEED_FASTAPI:
        return getattr(importlib.import_module("sessiondb.web.dependencies"), name)
    raise AttributeError(f"module 'sessiondb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
