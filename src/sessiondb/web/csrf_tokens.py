"""CSRF tokens in forms, for apps whose visitors have browsers that send neither ``Sec-Fetch-Site`` nor ``Origin``.

A synchroniser token (OWASP CSRF Prevention Cheat Sheet): 16 random bytes, and the HMAC-SHA256 (RFC 2104) of these and
the action under a key that is derived from the session's series and id. The series never changes while it lives, is
in the cookie alone (the database has only its digest), and is replaced by each login. So a token is good as long as the
session, in every tab; it is another text in each response (BREACH); no secret is stored, and an existing session is not
written to. Signing in again as the same user is dated, and the key depends on that date. The label keeps these keys
apart from all else that is made of the token's parts.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from starlette.requests import HTTPConnection, Request

from sessiondb.core.errors import ConfigurationError, CsrfTokenRefused, SessionDBError
from sessiondb.core.events import EventType
from sessiondb.core.reserved import CSRF
from sessiondb.core.token import Token, mint
from sessiondb.session import Session, state_of
from sessiondb.state import StagedLogin, StagedReauthentication, State
from sessiondb.web.called_first import CalledFirst
from sessiondb.web.csrf import SAFE_METHODS
from sessiondb.web.finding import find_session
from sessiondb.web.paths import path_of

log = logging.getLogger("sessiondb")

FIELD = "csrf_token"
HEADER = "X-CSRF-Token"

_LABEL = b"sessiondb csrf token v1\0"
_NONCE_BYTES = 16
_FORMAT = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII).fullmatch
_FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}", re.ASCII).fullmatch


def csrf_token(request: HTTPConnection, action: str = "", *, cookie: str | None = None) -> str:
    """A token for a form of this session: 64 characters, other ones at each call.

    ``action``: what the form does, such as ``"/transfer"``; the token is good for ``check_csrf_token`` with the same.
    ``cookie`` names the session's cookie where there are several. A visitor without a session gets one, for only so
    can a login form be protected too (login CSRF); an existing session is not written to.

    Raises ``HeadersSent`` if there is no session and the response has started, and ``SessionDBError`` after a
    ``logout()`` that was not awaited.
    """
    session = find_session(request, cookie)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return urlsafe_b64encode(nonce + _digest(_key_for_new(session, state_of(session)), nonce, action)).decode("ascii")


async def check_csrf_token(
    request: HTTPConnection, action: str = "", *, field: str = FIELD, header: str = HEADER, cookie: str | None = None
) -> None:
    """Check the token of an unsafe request: in ``header``, else in the form's ``field``.

    The body is read only if it is a form and the header is missing; the endpoint may still read it, with
    ``request.form()``, or in any way unless it is ``multipart/form-data``. GET, HEAD and OPTIONS pass, and so do
    WebSockets (which the cross-origin check looks at) and clients whose session token comes in a header, which no other
    site can have a browser send.

    Raises ``CsrfTokenRefused`` (HTTP 403), after ``CrossOriginRefused`` if that check fails.
    """
    if not isinstance(request, Request) or request.method in SAFE_METHODS:
        return
    session = find_session(request, cookie)
    state = state_of(session)
    if state.via is not None:
        return
    key = _key(state)
    if key is None:
        ended = f" (it was ended: {state.ended_reason})" if state.ended_reason else ""
        raise _refused(
            request, state, "no_session", f"came without a living session{ended}; did the browser keep the cookie?"
        )
    given = request.headers.get(header)
    if given is None:
        given = await _in_form(request, field, header)
    if given is None:
        raise _refused(
            request,
            state,
            "missing",
            f"had no CSRF token: put {{{{ csrf_input({repr(action) if action else ''}) }}}} into the <form> of its "
            f"template (sessiondb.web.templates), or send csrf_token(request) as the field {field!r} or the header "
            f"{header!r}",
        )
    if not _is_good(given, key, action):
        raise _refused(
            request,
            state,
            "wrong",
            f"had a CSRF token that is not of this session and the action {action!r}: the visitor has signed in or out "
            "since the page was made, or the template and the endpoint name different actions",
        )


class RequireCsrfToken:
    """``check_csrf_token`` as a dependency: of an endpoint, a router, or the app.

    ``@app.post("/transfer", dependencies=[Depends(RequireCsrfToken())])``

    ``action`` (``""``), ``field`` (``"csrf_token"``), ``header`` (``"X-CSRF-Token"``) and ``cookie`` as there. Raises
    ``ConfigurationError`` for a field or header that cannot be.
    """

    def __init__(
        self,
        *,
        action: Annotated[str, CalledFirst()] = "",
        field: str = FIELD,
        header: str = HEADER,
        cookie: str | None = None,
    ) -> None:
        for name, value in (("action", action), ("field", field), ("header", header)):
            given: object = value
            if not isinstance(given, str) or (name == "field" and not given) or (name == "header" and not _NAME(given)):
                raise ConfigurationError(
                    f"RequireCsrfToken: {name} is {given!r:.100}; use a text such as "
                    f"{ {'action': '/transfer', 'field': FIELD, 'header': HEADER}[name]!r}."
                )
        self.action = action
        self.field = field
        self.header = header
        self.cookie = cookie

    async def __call__(self, connection: HTTPConnection) -> AsyncIterator[None]:
        """Check the token. Raises ``CsrfTokenRefused``."""
        await check_csrf_token(connection, self.action, field=self.field, header=self.header, cookie=self.cookie)
        try:
            yield
        finally:
            if isinstance(connection, Request):
                # The files of a form that nobody but the check has read.
                await connection.close()


def _key_for_new(session: Session, state: State) -> bytes:
    """The key for a form of this response, whose session need not exist yet."""
    if state.staged == "logout":
        raise SessionDBError(
            "After session.logout() there is no session that a form's token could belong to: `await session.logout()` "
            "before the page is made, or redirect to it."
        )
    if isinstance(state.staged, StagedReauthentication) and state.signs_in_at is None:
        state.signs_in_at = state.runtime.now()
    key = _key(state)
    if key is not None:
        return key
    # Something must be in it, or it would not be made. This is no secret.
    session[CSRF] = 1
    promised = mint(state.runtime.now())
    state.promised = promised
    return _derive(promised)


def _key(state: State) -> bytes | None:
    """The key of the session, if there is one."""
    staged, record, token = state.staged, state.record, state.token
    if isinstance(staged, StagedLogin):
        return _derive(staged.token)
    if record is None or token is None:
        return None if state.promised is None else _derive(state.promised)
    signed_in_at = record.authenticated_at if record.authenticated_at != record.created_at else None
    if isinstance(staged, StagedReauthentication):
        signed_in_at = state.signs_in_at
    return _derive(token, signed_in_at)


def _derive(token: Token, signed_in_at: int | None = None) -> bytes:
    # With the id, whose length is fixed: who impersonates a user has two sessions of one series.
    since = b"" if signed_in_at is None else b"%d" % signed_in_at
    return hmac.digest(token.series, _LABEL + token.sid.encode() + since, "sha256")


def _digest(key: bytes, nonce: bytes, action: str) -> bytes:
    return hmac.digest(key, nonce + action.encode("utf-8", "surrogatepass"), "sha256")


def _is_good(given: str, key: bytes, action: str) -> bool:
    if not _FORMAT(given):
        return False
    raw = urlsafe_b64decode(given)
    return hmac.compare_digest(raw[_NONCE_BYTES:], _digest(key, raw[:_NONCE_BYTES], action))


async def _in_form(request: Request, field: str, header: str) -> str | None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (_FORM, _MULTIPART):
        return None
    if kind == _FORM:
        # Kept by the request, so that the endpoint can still read it as it likes. RuntimeError: FastAPI has parsed it.
        with suppress(RuntimeError):
            await request.body()
    try:
        form = await request.form()
    except AssertionError as error:
        raise ConfigurationError("Forms need python-multipart: pip install python-multipart.") from error
    except RuntimeError as error:
        raise ConfigurationError(
            f"The body of {path_of(request.scope)!r:.200} was read before its CSRF token; check the token first, or "
            f"send it in the header {header!r}."
        ) from error
    value = form.get(field)
    return value if isinstance(value, str) else None


def _refused(request: Request, state: State, reason: str, what: str) -> CsrfTokenRefused:
    message = f"A {request.method} to {path_of(request.scope)!r:.200} {what}."
    runtime, record = state.runtime, state.record
    event = runtime.event(EventType.CSRF, record=record, reason=reason, ip=state.visitor.ip)
    if record is not None:
        runtime.background.event(event)
    log.warning("%s", message)
    return CsrfTokenRefused(message, reason=reason)
