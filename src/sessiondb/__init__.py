"""The session database for FastAPI: server-side sessions in a real database, as cheap as a signed cookie."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sessiondb.auditing import Audit, append_to, log_checkpoint
from sessiondb.core.alerts import Alert, Circumstances
from sessiondb.core.breaker import CircuitBreaker
from sessiondb.core.checkpoints import Checkpoint, Head
from sessiondb.core.client import UsedFrom
from sessiondb.core.errors import (
    ConfigurationError,
    CrossOriginRefused,
    CsrfTokenRefused,
    HeadersSent,
    LoginRefused,
    RateLimited,
    SessionDataError,
    SessionDBError,
    SessionEnded,
    SessionUnavailable,
    StoreError,
    StoreUnavailable,
)
from sessiondb.core.events import Event, EventClass, EventType, Seal
from sessiondb.core.limits import Limits, SuspiciousNetwork
from sessiondb.core.near_cache import NearCache
from sessiondb.core.policy import Policy
from sessiondb.core.privacy import Privacy
from sessiondb.core.record import Auth, Client, EndReason, Risk, SessionInfo, StepUp
from sessiondb.core.risk import Finding, RiskAction, RiskLevel, Rule, Verdict
from sessiondb.core.rules import RuleSettings
from sessiondb.core.signing import Ed25519Signer, Ed25519Verifier, HmacSigner
from sessiondb.core.thresholds import Questioned
from sessiondb.core.usage_series import Usage, UsageLevel, UsagePoint, UsageSpread
from sessiondb.core.verifying import Problem
from sessiondb.db import Issued, SessionDB
from sessiondb.federation import IdP
from sessiondb.forgetting import Forgotten
from sessiondb.geo import Geo, Place
from sessiondb.keyring import KeyRing
from sessiondb.listing import Criteria
from sessiondb.notices import ENDED_MESSAGES, ended_message
from sessiondb.probing import Readiness
from sessiondb.reviewing import Replay
from sessiondb.risk_policy import RiskPolicy
from sessiondb.session import Session
from sessiondb.sinks import Webhook, log_events
from sessiondb.stores.base import Ended, EventPage, Stats, Store, Swept, open_store
from sessiondb.stores.encrypting import Reencrypted
from sessiondb.suspicions import Suspicion
from sessiondb.verifying import Verification
from sessiondb.web.cookie import Cookie
from sessiondb.web.csrf import CrossOrigin
from sessiondb.web.csrf_tokens import RequireCsrfToken, check_csrf_token, csrf_token
from sessiondb.web.flash import Flash, flash, flashes
from sessiondb.web.middleware import SessionMiddleware
from sessiondb.web.proxies import TrustedProxies
from sessiondb.web.readiness import readiness
from sessiondb.web.transports import Bearer, Header
from sessiondb.web.typed import SessionOf

if TYPE_CHECKING:
    from sessiondb.web.assurance import RequireLevel, RequireRecentLogin
    from sessiondb.web.dependencies import (
        CurrentSession,
        RequireLogin,
        current_session,
        require_login,
        session_of,
    )

__version__ = "0.1.0"

__all__ = [
    "ENDED_MESSAGES",
    "Alert",
    "Audit",
    "Auth",
    "Bearer",
    "Checkpoint",
    "CircuitBreaker",
    "Circumstances",
    "Client",
    "ConfigurationError",
    "Cookie",
    "Criteria",
    "CrossOrigin",
    "CrossOriginRefused",
    "CsrfTokenRefused",
    "CurrentSession",
    "Ed25519Signer",
    "Ed25519Verifier",
    "EndReason",
    "Ended",
    "Event",
    "EventClass",
    "EventPage",
    "EventType",
    "Finding",
    "Flash",
    "Forgotten",
    "Geo",
    "Head",
    "Header",
    "HeadersSent",
    "HmacSigner",
    "IdP",
    "Issued",
    "KeyRing",
    "Limits",
    "LoginRefused",
    "NearCache",
    "Place",
    "Policy",
    "Privacy",
    "Problem",
    "Questioned",
    "RateLimited",
    "Readiness",
    "Reencrypted",
    "Replay",
    "RequireCsrfToken",
    "RequireLevel",
    "RequireLogin",
    "RequireRecentLogin",
    "Risk",
    "RiskAction",
    "RiskLevel",
    "RiskPolicy",
    "Rule",
    "RuleSettings",
    "Seal",
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
    "StepUp",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "Suspicion",
    "SuspiciousNetwork",
    "Swept",
    "TrustedProxies",
    "Usage",
    "UsageLevel",
    "UsagePoint",
    "UsageSpread",
    "UsedFrom",
    "Verdict",
    "Verification",
    "Webhook",
    "append_to",
    "check_csrf_token",
    "csrf_token",
    "current_session",
    "ended_message",
    "flash",
    "flashes",
    "log_checkpoint",
    "log_events",
    "open_store",
    "readiness",
    "require_login",
    "session_of",
]

_DEPENDENCIES = "sessiondb.web.dependencies"
_ASSURANCE = "sessiondb.web.assurance"
_NEED_FASTAPI = {
    "CurrentSession": _DEPENDENCIES,
    "RequireLevel": _ASSURANCE,
    "RequireLogin": _DEPENDENCIES,
    "RequireRecentLogin": _ASSURANCE,
    "current_session": _DEPENDENCIES,
    "require_login": _DEPENDENCIES,
    "session_of": _DEPENDENCIES,
}


def __getattr__(name: str) -> Any:
    # Starlette apps use the rest without FastAPI being installed.
    if name in _NEED_FASTAPI:
        return getattr(importlib.import_module(_NEED_FASTAPI[name]), name)
    raise AttributeError(f"module 'sessiondb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
