"""Things that happened to a session, for the audit stream.

Names follow the OWASP Logging Vocabulary where it has one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class EventType(enum.StrEnum):
    """What happened."""

    LOGIN = "authn_login_success"
    SESSION_CREATED = "session_created"
    STEP_UP = "authn_step_up"  # one more proof of who the user is
    SESSION_RENEWED = "session_renewed"  # the secret was rotated
    SESSION_ENDED = "session_ended"
    LOGIN_REFUSED = "login_refused"
    TOKEN_REUSE = "authn_token_reuse"  # noqa: S105  the name of an event
    TOKEN_GUESSING = "token_guessing"  # noqa: S105  one network presents many tokens that open nothing
    RATE_LIMITED = "excess_rate_limit_exceeded"  # one network begins too many sessions
    WRITE_AFTER_END = "write_after_end"
    COOKIE_COLLISION = "cookie_collision"
    CROSS_ORIGIN = "malicious_cross_origin"
    CSRF = "malicious_csrf"  # a form without the token of its session
    SESSION_QUARANTINED = "session_quarantined"  # its data cannot be decoded
    USER_REVOKED = "user_revoked"  # all sessions of a user were revoked
    SESSIONS_REVOKED = "sessions_revoked"  # sessions with something in common were, or everybody's
    USER_LOCKED = "authn_login_lock"
    USER_UNLOCKED = "authn_login_unlock"
    IDP_LOGOUT = "idp_logout"  # the identity provider has ended the user's session there
    IMPERSONATION_STARTED = "impersonation_started"
    IMPERSONATION_ENDED = "impersonation_ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. ``at`` is int64 microseconds UTC; ``sid`` is public; ``details`` never hold a secret."""

    type: EventType
    at: int
    sid: str | None = None
    user_id: str | None = None
    reason: str | None = None
    ip: str | None = None
    details: Mapping[str, str | int] = field(default_factory=dict)
