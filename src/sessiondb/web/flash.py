"""Flash messages: a line of text for the next page that the visitor sees, also after a redirect.

Each message has a top-level key of its own (``_flash.<time><random>``), so that messages of concurrent requests all
land. A page that shows one removes its key; if that page fails before its response leaves, the message stays.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, MutableMapping
from typing import Any, NamedTuple

from starlette.requests import HTTPConnection

from sessiondb.core.errors import SessionDataError, SessionDBError
from sessiondb.core.reserved import FLASH
from sessiondb.session import Session, state_of
from sessiondb.settings import system_clock
from sessiondb.web.finding import find_session

MOST_MESSAGES = 20
LONGEST_MESSAGE = 1_000
LONGEST_CATEGORY = 40
DROPPED = "flash_dropped"

_TIME_DIGITS = 14


class Flash(NamedTuple):
    """One message. ``category`` is the app's own word, such as ``"error"``."""

    category: str
    message: str


def flash(
    to: HTTPConnection | MutableMapping[str, Any], message: str, category: str = "info", *, cookie: str | None = None
) -> None:
    """Have the next page that calls ``flashes`` show ``message``.

    ``to``: the request, its session, or the data that ``session.modify`` gives. ``cookie`` names the session's cookie
    where there are several. Works in ``def`` endpoints, and before a redirect. A login takes messages along, unless
    ``keep=`` narrows it; a logout drops what was flashed before it.

    At most 1,000 characters are kept of a message, and 20 messages: then the oldest goes, counted as
    ``flash_dropped``. Raises ``SessionDataError`` for what is no text, ``HeadersSent`` if there is no session and the
    response has started, and ``SessionDBError`` after a ``logout()`` that was not awaited.
    """
    if not isinstance(message, str) or not isinstance(category, str) or not 0 < len(category) <= LONGEST_CATEGORY:
        raise SessionDataError(
            f"flash takes a text and a category of at most {LONGEST_CATEGORY} characters, not {type(message).__name__} "
            f"and {category!r:.60}; use str(message)."
        )
    session = find_session(to, cookie) if isinstance(to, HTTPConnection) else to
    now = system_clock()
    if isinstance(session, Session):
        state = state_of(session)
        now = state.runtime.now()
        if state.staged == "logout":
            raise SessionDBError(
                "What is flashed after session.logout() would end with the session: `await session.logout()` first, or "
                "redirect to a page that says it."
            )
    waiting = keys(session)
    for key in waiting[: max(0, len(waiting) - MOST_MESSAGES + 1)]:
        del session[key]
        if isinstance(session, Session):
            state_of(session).runtime.counters[DROPPED] += 1
    if waiting:
        # Later than the last one, whatever the clocks say.
        now = max(now, _time_of(waiting[-1]) + 1)
    session[f"{FLASH}{now:0{_TIME_DIGITS}x}{secrets.token_hex(3)}"] = [category, _shown(message)]


def flashes(
    request: HTTPConnection | MutableMapping[str, Any],
    categories: Collection[str] = (),
    *,
    cookie: str | None = None,
) -> list[Flash]:
    """The messages that wait, oldest first; they are removed. ``categories``: only these, and the others go on waiting.

    Under parallel requests each message is shown at least once. Nothing is written where there is none.
    """
    session = find_session(request, cookie) if isinstance(request, HTTPConnection) else request
    found: list[Flash] = []
    for key in keys(session):
        match session[key]:
            case [str(category), str(message)]:
                if categories and category not in categories:
                    continue
                found.append(Flash(category, message))
        del session[key]
    return found


def keys(session: MutableMapping[str, Any]) -> list[str]:
    """The keys of the messages in ``session``, oldest first: ``login(user, keep={"cart", *keys(session)})``."""
    return sorted(key for key in session if key.startswith(FLASH))


def _time_of(key: str) -> int:
    try:
        return int(key[len(FLASH) :][:_TIME_DIGITS], 16)
    except ValueError:
        return 0


def _shown(message: str) -> str:
    """``message`` as every database takes it; what a visitor has typed may be in it."""
    text = str.__str__(message).replace("\0", "\N{REPLACEMENT CHARACTER}")
    if len(text) > LONGEST_MESSAGE:
        text = text[: LONGEST_MESSAGE - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return text.encode("utf-8", "replace").decode("utf-8")
