"""Every error that sessiondb raises. Each message says what was wrong, where, and how to mend it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NoReturn

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from sessiondb.core.record import SessionInfo

WriteOutcome = Literal["not_applied", "unknown", "unconfirmed", "conflict"]


class SessionDBError(Exception):
    """The root of all errors of this package."""


class ConfigurationError(SessionDBError):
    """A setting that cannot work. Raised at start-up, with the fix in the message."""


class StoreError(SessionDBError):
    """The database did not do what was asked.

    ``outcome`` tells a writer where it stands: ``"not_applied"`` (nothing changed, safe to repeat),
    ``"unknown"`` (the reply was lost: it may have been applied), ``"unconfirmed"`` (it was sent, but the replicas that
    were asked for have not confirmed it: a failover may undo it; repeat the call until it succeeds) or
    ``"conflict"`` (somebody else kept changing the session first).
    """

    def __init__(self, message: str, *, outcome: WriteOutcome = "not_applied") -> None:
        # Not super(): beside it, a subclass may be an HTTPException, whose __init__ takes other arguments.
        Exception.__init__(self, message)
        self.outcome: WriteOutcome = outcome


class StoreUnavailable(StoreError):
    """The database cannot be reached, is full, is locked, or did not answer in time.

    ``retry_after``: it was not asked, because it has just failed too often; the seconds until it is asked again.
    ``partial``: this is true of one part of it (a node of a cluster) and says nothing about the others.
    """

    def __init__(
        self,
        message: str,
        *,
        outcome: WriteOutcome = "not_applied",
        retry_after: float | None = None,
        partial: bool = False,
    ) -> None:
        StoreError.__init__(self, message, outcome=outcome)
        self.retry_after = retry_after
        self.partial = partial


class SessionUnavailable(StoreUnavailable, HTTPException):
    """This request needs its session and the store cannot give it: HTTP 503 with ``Retry-After``."""

    def __init__(
        self, message: str, *, outcome: WriteOutcome = "not_applied", retry_after: float | None = None
    ) -> None:
        HTTPException.__init__(
            self,
            status_code=503,
            detail="The session store is unavailable; please try again.",
            headers={"Retry-After": str(max(1, math.ceil(retry_after or 0))), "Cache-Control": "no-store"},
        )
        # Not its super(), which would go on to HTTPException.
        StoreError.__init__(self, message, outcome=outcome)
        self.retry_after = retry_after
        self.partial = False

    @classmethod
    def because_of(cls, error: StoreError) -> SessionUnavailable:
        """What a request is answered that ``error`` has met."""
        unavailable = cls(str(error), outcome=error.outcome, retry_after=getattr(error, "retry_after", None))
        unavailable.__cause__ = error
        return unavailable

    def __str__(self) -> str:
        return str(self.args[0])


class SessionDataError(SessionDBError):
    """A value that a session cannot hold. ``key`` is the top-level key it was found under."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class SessionEnded(SessionDBError, HTTPException):
    """The session was ended (logout, revoke, expiry, ...) before this write could land.

    HTTP 401 when the app does not handle it. ``reason`` is the ``EndReason``.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        HTTPException.__init__(self, status_code=401, detail="Your session has ended; sign in again.")
        Exception.__init__(self, message)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class HeadersSent(SessionDBError):
    """A session can no longer be created, rotated or logged in: the response headers have left."""


class TokenUntold(HeadersSent, HTTPException):
    """This client is never told a token (``respond=None``), so nothing can give it one: HTTP 400."""

    def __init__(self, message: str) -> None:
        HTTPException.__init__(self, status_code=400, detail="This needs a request without a session header.")
        Exception.__init__(self, message)

    def __str__(self) -> str:
        return str(self.args[0])


class LoginRefused(SessionDBError, HTTPException):
    """The login may not have a session: HTTP 409 when the app does not handle it.

    ``reason`` is ``"limit"`` (``Policy(per_user=..., on_limit=...)``), ``"revoked"`` (all sessions of the user, or
    those from the identity provider's session, were revoked after this login's request had begun), ``"locked"`` (the
    user is: until the time ``until``, in microseconds UTC, or for good where that is ``None``), ``"impersonation"``
    (who impersonates a user cannot become another one) or ``"risk"`` (it looks like somebody else's:
    ``RiskPolicy(actions=...)``).

    With ``on_limit="ask"``, ``sessions`` are those of the user, newest first and without their data, as
    ``SessionInfo``: end one of them with ``db.revoke(sid, user_id=...)`` and log in again, or log in with
    ``on_limit="end_oldest"``.
    """

    def __init__(
        self, message: str, *, reason: str, sessions: Sequence[SessionInfo] = (), until: int | None = None
    ) -> None:
        HTTPException.__init__(self, status_code=409, detail="This login was refused.")
        Exception.__init__(self, message)
        self.reason = reason
        self.sessions = tuple(sessions)
        self.until = until

    def __str__(self) -> str:
        return str(self.args[0])


class RateLimited(SessionDBError, HTTPException):
    """One network has begun too many sessions: HTTP 429 (RFC 6585) with ``Retry-After``.

    ``retry_after``: the seconds until it may begin another. An app that handles it and answers without a session
    empties the session first: ``session.clear()``.
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        HTTPException.__init__(
            self,
            status_code=429,
            detail="Too many new visitors from your network; please try again shortly.",
            headers={"Retry-After": str(retry_after), "Cache-Control": "no-store"},
        )
        Exception.__init__(self, message)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class CrossOriginRefused(SessionDBError, HTTPException):
    """An unsafe request that another site made: HTTP 403."""

    def __init__(self, message: str) -> None:
        HTTPException.__init__(self, status_code=403, detail="Cross-origin request refused.")
        Exception.__init__(self, message)

    def __str__(self) -> str:
        return str(self.args[0])


class CsrfTokenRefused(SessionDBError, HTTPException):
    """A form without the CSRF token of its session: HTTP 403.

    ``reason`` is ``"no_session"``, ``"missing"`` or ``"wrong"``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        HTTPException.__init__(
            self, status_code=403, detail="This form is out of date or came from elsewhere; reload the page, try again."
        )
        Exception.__init__(self, message)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


def raise_own(error: Exception) -> NoReturn:
    """Raise a copy of ``error``: one exception that many callers raise would mix their tracebacks."""
    own: Exception
    if isinstance(error, StoreUnavailable):
        own = StoreUnavailable(str(error), outcome=error.outcome, retry_after=error.retry_after, partial=error.partial)
    elif isinstance(error, StoreError):
        own = copy.copy(error)
    elif isinstance(error, SessionDataError):
        own = SessionDataError(str(error), key=error.key)
    else:
        own = error
    # One that was never raised says nothing more than its copy.
    raise own from (error if error.__traceback__ is not None and own is not error else error.__cause__)
