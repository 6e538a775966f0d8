"""FastAPI dependencies that ask how, and how long ago, the user has proved who they are: by login or step-up."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Annotated, Any

from starlette.requests import HTTPConnection

from sessiondb.core import assurance
from sessiondb.core.errors import ConfigurationError, SessionDataError
from sessiondb.core.policy import SECOND
from sessiondb.session import Session, state_of
from sessiondb.web.dependencies import CalledFirst, LoginRequired
from sessiondb.web.schemes import Transports


class RequireRecentLogin(LoginRequired):
    """Like ``require_login``, for a user who proved who they are at most ``max_age`` (``timedelta`` or seconds) ago.

    ``user_id: Annotated[str, Depends(RequireRecentLogin(300))]`` (OWASP ASVS 7.5.1, NIST SP 800-63B-4 section 5.2). A
    login counts and a step-up; with ``methods`` (RFC 8176) only one in which one of them was used. Whoever is logged in
    and has not gets 401 with ``error="insufficient_user_authentication"`` and ``max_age`` (RFC 9470), or the redirect.
    Raises ``ConfigurationError`` for settings that cannot work.
    """

    def __init__(
        self,
        max_age: Annotated[timedelta | float, CalledFirst()],
        *,
        methods: Collection[str] = (),
        redirect: str | None = None,
        cookie: str | None = None,
        transport: Transports | None = None,
    ) -> None:
        super().__init__(redirect=redirect, cookie=cookie, transport=transport)
        try:
            self.methods = assurance.check_methods(methods)
        except SessionDataError as error:
            raise ConfigurationError(f"RequireRecentLogin: {error}") from None
        self.max_age = _micros("RequireRecentLogin", max_age)

    def _check(self, session: Session, connection: HTTPConnection) -> None:
        if not _is_older(session, session.proved_at(methods=self.methods), self.max_age):
            return
        by = f" with {' or '.join(self.methods)}" if self.methods else ""
        raise self._refusal(
            connection,
            f"Log in again{by}: the last login is over {self.max_age // SECOND} s old.",
            _challenge("A more recent login is required.", max_age=self.max_age),
        )


class RequireLevel(LoginRequired):
    """Like ``require_login``, for a session whose assurance level is at least ``level`` (1 to 100).

    ``user_id: Annotated[str, Depends(RequireLevel(2, max_age=900))]`` (OWASP ASVS 7.5.3). Levels are what the app says
    at ``session.login(level=...)`` and ``session.step_up(level=...)``, such as NIST's AAL; with ``max_age``
    (``timedelta`` or seconds) it must have been proved so long ago at most. Whoever is logged in below it gets 401 with
    ``error="insufficient_user_authentication"``, the level as ``acr_values``, and ``max_age`` (RFC 9470), or the
    redirect: to the page that steps up. Raises ``ConfigurationError`` for settings that cannot work.
    """

    def __init__(
        self,
        level: Annotated[int, CalledFirst()],
        *,
        max_age: timedelta | float | None = None,
        redirect: str | None = None,
        cookie: str | None = None,
        transport: Transports | None = None,
    ) -> None:
        super().__init__(redirect=redirect, cookie=cookie, transport=transport)
        try:
            checked = assurance.check_level(level)
        except SessionDataError as error:
            raise ConfigurationError(f"RequireLevel: {error}") from None
        if checked is None:
            raise ConfigurationError("RequireLevel: level is None; use a whole number, such as RequireLevel(2).")
        self.level = checked
        self.max_age = None if max_age is None else _micros("RequireLevel", max_age)

    def _check(self, session: Session, connection: HTTPConnection) -> None:
        if not _is_older(session, session.proved_at(level=self.level), self.max_age):
            return
        ago = "" if self.max_age is None else f", proved at most {self.max_age // SECOND} s ago"
        raise self._refusal(
            connection,
            f"Prove once more who you are: this needs level {self.level}{ago}.",
            _challenge("A higher level of authentication is required.", level=self.level, max_age=self.max_age),
        )


def _is_older(session: Session, proved_at: int | None, max_age: int | None) -> bool:
    if proved_at is None:
        return True
    return max_age is not None and state_of(session).runtime.now() - proved_at > max_age


def _challenge(description: str, *, level: int | None = None, max_age: int | None = None) -> str:
    """The parameters of RFC 9470 for ``WWW-Authenticate``."""
    parameters: list[tuple[str, Any]] = [
        ("error", "insufficient_user_authentication"),
        ("error_description", description),
    ]
    if level is not None:
        parameters.append(("acr_values", level))
    if max_age is not None:
        parameters.append(("max_age", max_age // SECOND))
    return "".join(f', {name}="{value}"' for name, value in parameters)


def _micros(where: str, max_age: object) -> int:
    length = timedelta(0)
    if isinstance(max_age, timedelta):
        length = max_age
    elif isinstance(max_age, (int, float)) and not isinstance(max_age, bool):
        try:
            length = timedelta(seconds=max_age)
        except (ValueError, OverflowError):
            pass
    if length <= timedelta(0):
        raise ConfigurationError(
            f"{where}: max_age is {max_age!r}; use a timedelta or a number of seconds, more than 0."
        )
    return length // timedelta(microseconds=1)
