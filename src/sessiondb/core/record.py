"""What a store keeps for one session, and what people are shown of it."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from typing import Any

import msgspec

from sessiondb.core.client import Client as Client
from sessiondb.core.client import decode_client as decode_client
from sessiondb.core.errors import SessionDataError
from sessiondb.core.token import Sid

USER_ID_BYTES = 255
CHANGE_ID_BYTES = 8
REMEMBERED_CHANGES = 8
NO_SALT = b""  # the last rotation kept none: its old secret is never served again

LINK_BYTES = 16
NO_USER = "\x1f"  # begins names that share a table with users' ids, and are none


class EndReason(enum.StrEnum):
    """Why a session ended."""

    LOGOUT = "logout"
    LOGIN = "login"  # a login in the same browser replaced it
    REVOKED = "revoked"
    EXPIRED_IDLE = "expired_idle"
    EXPIRED_ABSOLUTE = "expired_absolute"
    LIMIT = "limit"  # the user had too many sessions
    REFUSED = "refused"  # the login was refused after its session had been written
    PASSWORD_CHANGED = "password_changed"  # noqa: S105  a reason
    LOCKED = "locked"  # the user was locked
    RISK = "risk"  # it looked like somebody else's
    ADMIN = "admin"  # somebody who looks after the service has ended it
    IDP_LOGOUT = "idp_logout"  # the user has logged out at the identity provider
    IMPERSONATION_ENDED = "impersonation_ended"  # who impersonated the user has stopped, or has no session any more
    REUSE = "reuse"  # a retired secret was presented: the token was stolen
    UNDELIVERED = "undelivered"  # the token never reached the client


class Record(msgspec.Struct, frozen=True, gc=False):
    """One session as stored. Immutable, so that many requests may share one. Times are int64 microseconds UTC.

    ``data`` is the JSON object of the session's keys; ``client_first``, ``client_last`` and ``auth`` are JSON
    objects too (see ``Client`` and ``Auth``). Digests are SHA-256. ``last_changes`` holds the ids of the newest
    eight changes, newest first, eight bytes each: a change whose reply was lost is recognised there even after
    others have written. ``salt`` is erased by the confirmation of a rotation, or ``NO_SALT``. ``purge_at`` is when the
    tombstone goes; until its end has been announced, its ``check_at`` is earlier. The ``repr`` leaves out everything
    that is not safe in a log.
    """

    sid: Sid
    series_hash: bytes
    secret_hash: bytes
    created_at: int
    last_seen_at: int
    idle: int
    absolute: int
    check_at: int
    user_id: str | None = None
    rev: int = 1
    last_changes: bytes = b""
    previous_hash: bytes | None = None
    salt: bytes | None = None
    rotated_at: int | None = None
    confirmed_at: int | None = None
    lifetime: str = "normal"
    authenticated_at: int | None = None
    ended_at: int | None = None
    end_reason: str | None = None
    purge_at: int | None = None
    client_first: bytes = b"{}"
    client_last: bytes = b"{}"
    auth: bytes = b"{}"
    risk: bytes = b"{}"
    data: bytes = b"{}"

    def __repr__(self) -> str:
        return f"Record(sid={self.sid!r}, user_id={self.user_id!r}, rev={self.rev}, ended={self.end_reason!r})"

    def knows(self, change_id: bytes) -> bool:
        """Whether the change of that id is among the newest ones applied."""
        at = self.last_changes.find(change_id)
        while at > 0 and at % CHANGE_ID_BYTES:
            at = self.last_changes.find(change_id, at + 1)
        return at >= 0


# Dataclasses, not structs: an endpoint of FastAPI may return what people are shown.
@dataclass(frozen=True, slots=True)
class StepUp:
    """One more proof, given at ``at`` (microseconds UTC) by ``session.step_up``."""

    at: int
    methods: tuple[str, ...] = ()
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Auth:
    """How the user proved who they are. ``methods`` as in RFC 8176 (``"pwd"``, ``"otp"``, ``"hwk"``, ...).

    As people are shown it: the methods of the login and of the ``step_ups`` that still count, the highest ``level``
    of them, and when that was last proved (``level_at``, microseconds UTC). As stored: those of the login, and
    ``step_ups``. ``impersonator`` is the user who has this session in the user's place, ``impersonator_sid`` their
    own session.
    """

    methods: tuple[str, ...] = ()
    level: int | None = None
    impersonator: str | None = None
    impersonator_sid: Sid | None = None
    level_at: int | None = None
    step_ups: tuple[StepUp, ...] = ()


@dataclass(frozen=True, slots=True)
class Risk:
    """How suspicious the login was, and why: the names of the rules that found it so. ``action``: what was done."""

    level: str | None = None
    reasons: tuple[str, ...] = ()
    action: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as shown on pages and in scripts. Holds no secret. Times are int64 microseconds UTC.

    ``policy`` is the name of the one that it was made under, ``"normal"`` for the default one.
    """

    sid: Sid
    user_id: str | None
    created_at: int
    last_seen_at: int
    expires_at: int
    authenticated_at: int | None
    ended_at: int | None
    end_reason: str | None
    policy: str
    remembered: bool
    first_client: Client
    client: Client
    auth: Auth
    risk: Risk
    data: dict[str, Any]


_encode = msgspec.json.Encoder().encode
_auth = msgspec.json.Decoder(Auth).decode
_risk = msgspec.json.Decoder(Risk).decode


def encode_auth(auth: Auth) -> bytes:
    """An ``Auth`` as JSON."""
    fields = (
        ("methods", auth.methods or None),
        ("level", auth.level),
        ("impersonator", auth.impersonator),
        ("impersonator_sid", auth.impersonator_sid),
        ("level_at", auth.level_at),
        ("step_ups", auth.step_ups or None),
    )
    return _encode({name: value for name, value in fields if value is not None})


def decode_auth(data: bytes) -> Auth:
    """The ``Auth`` in a record; an empty one where it cannot be read (less proof, never more)."""
    try:
        return _auth(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Auth()


def is_impersonated(auth: bytes) -> bool:
    """Whether somebody else than the user has the session of that ``Auth``. Costs next to nothing for all others."""
    return auth != b"{}" and b"impersonator" in auth and decode_auth(auth).impersonator is not None


def decode_risk(data: bytes) -> Risk:
    """The ``Risk`` in a record; an empty one where it cannot be read."""
    try:
        return _risk(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Risk()


def check_user_id(user_id: object) -> str:
    """``user_id`` as the text that is stored: a ``str`` of 1 to 255 UTF-8 bytes, or an ``int`` or UUID as text.

    Compared byte by byte, never by a collation. Raises ``SessionDataError``.
    """
    if isinstance(user_id, uuid.UUID):
        return str(user_id)
    if isinstance(user_id, int) and not isinstance(user_id, bool):
        # Longer integers are no ids, and Python refuses to spell out the longest.
        user_id = str(int(user_id)) if user_id.bit_length() <= 8 * USER_ID_BYTES else "9" * (USER_ID_BYTES + 1)
    if not isinstance(user_id, str) or isinstance(user_id, enum.Enum):
        raise SessionDataError(
            f"user_id must be a str, int or UUID, not {type(user_id).__name__}; pass the user's id, not the user."
        )
    try:
        size = len(user_id.encode())
    except UnicodeEncodeError:
        raise SessionDataError("user_id is not valid UTF-8 (a lone surrogate); pass clean text.") from None
    if user_id.startswith(NO_USER):
        raise SessionDataError("user_id must not begin with U+001F, which is kept for other names; strip it.")
    if not 1 <= size <= USER_ID_BYTES or "\0" in user_id:
        raise SessionDataError(
            f"user_id must have 1 to {USER_ID_BYTES} UTF-8 bytes and no U+0000, this one has {size}; "
            "use a shorter stable id."
        )
    return str.__str__(user_id)
