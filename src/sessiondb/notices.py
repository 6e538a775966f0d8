"""What people are told of the end of their session, in plain English, for apps to show or to translate."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sessiondb.core.record import EndReason

_GENERIC = "Your session has ended. Please sign in again."

ENDED_MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        EndReason.LOGOUT: "You have signed out.",
        EndReason.LOGIN: "You have signed in again in this browser since.",
        EndReason.REVOKED: "You were signed out from another device.",
        EndReason.EXPIRED_IDLE: "You were signed out because you were away for too long.",
        EndReason.EXPIRED_ABSOLUTE: "You were signed out because you signed in long ago. Please sign in again.",
        EndReason.LIMIT: "You were signed out because you signed in on another device.",
        EndReason.REFUSED: "Your sign-in could not be completed. Please sign in again.",
        EndReason.REUSE: "You were signed out for safety: somebody may have copied your session. Please sign in again.",
        EndReason.UNDELIVERED: "Your sign-in could not be completed. Please sign in again.",
        EndReason.PASSWORD_CHANGED: "You were signed out because your password was changed.",
        EndReason.LOCKED: "Your account is locked.",
        EndReason.RISK: "You were signed out because this sign-in looked unusual. Please sign in again.",
        EndReason.ADMIN: "You were signed out by an administrator. Please sign in again.",
        EndReason.IDP_LOGOUT: "You were signed out because you signed out where you had signed in.",
        EndReason.IMPERSONATION_ENDED: "Acting as another user is over.",
    }
)
"""A sentence for each ``EndReason``."""


def ended_message(reason: str | None, messages: Mapping[str, str] = ENDED_MESSAGES) -> str | None:
    """The sentence for ``request.session.ended_reason``; ``None`` for ``None``.

    ``messages`` are translations by reason; what they lack, and what a later version may add, is told in English.
    """
    if reason is None:
        return None
    return messages.get(reason) or ENDED_MESSAGES.get(reason, _GENERIC)
