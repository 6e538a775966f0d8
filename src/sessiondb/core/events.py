"""Things that happened, for the audit trail.

Names follow the OWASP Logging Vocabulary where it has one
(https://cheatsheetseries.owasp.org/cheatsheets/Logging_Vocabulary_Cheat_Sheet.html).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec


class EventClass(enum.StrEnum):
    """What kind of event it is: each has streams and a retention of its own."""

    LOGIN = "login"  # who has proved, or failed to prove, who they are, and what is thought of that
    SESSION = "session"  # what became of sessions
    ADMIN = "admin"  # who has acted on others' sessions, on policies, or on the trail itself


class EventType(enum.StrEnum):
    """What happened."""

    LOGIN = "authn_login_success"
    LOGIN_FAILED = "authn_login_fail"
    LOGIN_REFUSED = "login_refused"
    STEP_UP = "authn_step_up"  # one more proof of who the user is
    TOKEN_REUSE = "authn_token_reuse"  # noqa: S105  the name of an event
    RISK_FOUND = "risk_found"  # a rule fired, or a login scored above a threshold
    RISK_FEEDBACK = "risk_feedback"  # somebody has said whether it was an attack
    SESSION_CREATED = "session_created"
    SESSION_RENEWED = "session_renewed"  # the secret was rotated
    SESSION_ENDED = "session_ended"
    WRITE_AFTER_END = "write_after_end"
    COOKIE_COLLISION = "cookie_collision"
    CROSS_ORIGIN = "malicious_cross_origin"
    CSRF = "malicious_csrf"  # a form without the token of its session
    SESSION_QUARANTINED = "session_quarantined"  # its data cannot be decoded
    TOKEN_GUESSING = "token_guessing"  # noqa: S105  one network presents many tokens that open nothing
    RATE_LIMITED = "excess_rate_limit_exceeded"  # one network begins too many sessions
    IDP_LOGOUT = "idp_logout"  # the identity provider has ended the user's session there
    USER_REVOKED = "user_revoked"  # all sessions of a user were revoked
    SESSIONS_REVOKED = "sessions_revoked"  # sessions with something in common were, or everybody's
    USER_LOCKED = "authn_login_lock"
    USER_UNLOCKED = "authn_login_unlock"
    IMPERSONATION_STARTED = "impersonation_started"
    IMPERSONATION_ENDED = "impersonation_ended"
    POLICY_CHANGED = "policy_changed"
    USER_FORGOTTEN = "user_forgotten"  # personal fields of these places of the trail were erased
    AUDIT_AGED = "audit_aged"  # addresses older than this were erased from the trail
    AUDIT_PURGED = "audit_purged"  # these streams begin later than they did
    AUDIT_CHECKPOINT = "audit_checkpoint"  # the ends of all streams, signed


_LOGIN = frozenset(
    {
        EventType.LOGIN,
        EventType.LOGIN_FAILED,
        EventType.LOGIN_REFUSED,
        EventType.STEP_UP,
        EventType.TOKEN_REUSE,
        EventType.RISK_FOUND,
        EventType.RISK_FEEDBACK,
    }
)
_ADMIN = frozenset(
    {
        EventType.USER_REVOKED,
        EventType.SESSIONS_REVOKED,
        EventType.USER_LOCKED,
        EventType.USER_UNLOCKED,
        EventType.IMPERSONATION_STARTED,
        EventType.IMPERSONATION_ENDED,
        EventType.POLICY_CHANGED,
        EventType.USER_FORGOTTEN,
        EventType.AUDIT_AGED,
        EventType.AUDIT_PURGED,
        EventType.AUDIT_CHECKPOINT,
    }
)


def class_of(type_: str) -> EventClass:
    """The class of an event of ``type_``; types that this version does not know are of sessions."""
    if type_ in _LOGIN:
        return EventClass.LOGIN
    return EventClass.ADMIN if type_ in _ADMIN else EventClass.SESSION


class Seal(msgspec.Struct, frozen=True, gc=False):
    """An event's place in the audit trail; see ``sessiondb.core.sealing``.

    ``stream`` names the stream (16 ASCII characters), ``seq`` counts from 1 in it, ``previous`` is the digest of the
    event before (32 bytes). ``who``, ``actor`` and ``where`` are commitments to the personal fields (32 bytes; empty
    where there was nothing), each with its salt (16 bytes), which is erased with them (``None``).
    """

    stream: str
    seq: int
    previous: bytes
    who: bytes = b""
    actor: bytes = b""
    where: bytes = b""
    who_salt: bytes | None = None
    actor_salt: bytes | None = None
    where_salt: bytes | None = None


if TYPE_CHECKING:
    MaybeSeal = Seal | None
else:
    # FastAPI makes a response model of what an endpoint returns, and knows no structs.
    MaybeSeal = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. ``at`` is int64 microseconds UTC.

    Personal, and erased with the person: ``user_id`` (whom it is about), ``sid`` (public), ``actor`` (the user who has
    done it, where that is somebody else), ``ip``, and what is in ``personal`` (user agent, network, evidence, ...).
    Neither ``personal`` nor ``details`` ever hold a secret, and ``details`` nothing personal.
    """

    type: str
    at: int
    sid: str | None = None
    user_id: str | None = None
    actor: str | None = None
    reason: str | None = None
    ip: str | None = None
    details: Mapping[str, str | int] = field(default_factory=dict)
    personal: Mapping[str, str | int] = field(default_factory=dict)
    seal: MaybeSeal = field(default=None, repr=False, compare=False)


def storable(event: Event) -> Event:
    """``event``, with U+FFFD for what not every database can hold as text: U+0000 and lone surrogates.

    A reason or an address may come from whoever sends a request, and an event that cannot be written would be tried
    again for ever.
    """
    fields = (event.user_id, event.actor, event.reason, event.ip)
    held = [*fields, *event.details, *event.details.values(), *event.personal, *event.personal.values()]
    joined = "".join([text for text in held if isinstance(text, str)])
    if joined.isascii() and "\0" not in joined:
        return event
    user_id, actor, reason, ip = (None if text is None else _storable_text(text) for text in fields)
    return replace(
        event,
        user_id=user_id,
        actor=actor,
        reason=reason,
        ip=ip,
        details=_storable_texts(event.details),
        personal=_storable_texts(event.personal),
    )


def _storable_texts(fields: Mapping[str, str | int]) -> dict[str, str | int]:
    return {
        _storable_text(name): _storable_text(value) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _storable_text(text: str) -> str:
    return "".join(
        ["\N{REPLACEMENT CHARACTER}" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text]
    )
