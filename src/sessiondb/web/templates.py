"""CSRF tokens, flash messages and the session in Jinja templates.

``Jinja2Templates("templates", context_processors=[session_context])`` gives every template

* ``csrf_input(action="")``: the hidden field for a form, and ``csrf_token(action="")``: the token alone;
* ``get_flashed_messages(with_categories=False, category_filter=())``: as in Flask;
* ``session``: to be read. A page counts as using the session only if its template does.

A path without a session (``skip=``) has no messages, and an empty ``session``: error pages are shown there too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from sessiondb.core.errors import ConfigurationError
from sessiondb.session import Session
from sessiondb.web import csrf_tokens
from sessiondb.web.finding import find_session
from sessiondb.web.flash import Flash, flashes
from sessiondb.web.middleware import SCOPE_KEY

if TYPE_CHECKING:
    from markupsafe import Markup
    from starlette.templating import Jinja2Templates


def setup(templates: Jinja2Templates, *, cookie: str | None = None, field: str = csrf_tokens.FIELD) -> Jinja2Templates:
    """Add the context processor to ``templates``, which is returned.

    ``cookie`` names the session's cookie where there are several; ``field`` is that of ``RequireCsrfToken``. Raises
    ``ConfigurationError`` for what is no ``Jinja2Templates``, or escapes nothing.
    """
    env = getattr(templates, "env", None)
    processors: object = getattr(templates, "context_processors", None)
    if env is None or not isinstance(processors, list):
        raise ConfigurationError(
            f"sessiondb.web.templates.setup takes Starlette's Jinja2Templates, not a {type(templates).__name__}."
        )
    if env.autoescape is False:
        raise ConfigurationError(
            "sessiondb.web.templates.setup: the Jinja environment escapes nothing, so a flash message could bring a "
            "script into the page; use jinja2.Environment(autoescape=jinja2.select_autoescape())."
        )
    processors.append(_context(cookie, field))
    return templates


def session_context(request: Request) -> dict[str, Any]:
    """The context processor, for the one session of an app."""
    return _of(request, None, csrf_tokens.FIELD)


def _context(cookie: str | None, field: str) -> Callable[[Request], dict[str, Any]]:
    def context(request: Request) -> dict[str, Any]:
        return _of(request, cookie, field)

    return context


def _of(request: Request, cookie: str | None, field: str) -> dict[str, Any]:
    shown: list[Flash] = []

    def csrf_token(action: str = "") -> str:
        return csrf_tokens.csrf_token(request, action, cookie=cookie)

    def csrf_input(action: str = "") -> Markup:
        from markupsafe import Markup

        return Markup('<input type="hidden" name="{}" value="{}">').format(field, csrf_token(action))

    def get_flashed_messages(with_categories: bool = False, category_filter: Collection[str] = ()) -> list[Any]:
        # Templates ask twice: whether there are any, then for each.
        session = _session_of(request, cookie)
        if session is not None:
            shown.extend(flashes(session, category_filter))
        return [
            one if with_categories else one.message
            for one in shown
            if not category_filter or one.category in category_filter
        ]

    return {
        "csrf_token": csrf_token,
        "csrf_input": csrf_input,
        "get_flashed_messages": get_flashed_messages,
        "session": _ReadOnly(request, cookie),
    }


def _session_of(request: Request, cookie: str | None) -> Session | None:
    return find_session(request, cookie) if SCOPE_KEY in request.scope else None


class _ReadOnly(Mapping[str, Any]):
    """The session as templates see it: found when it is looked at; its verbs are not for templates."""

    __slots__ = ("_cookie", "_request")

    def __init__(self, request: Request, cookie: str | None) -> None:
        self._request = request
        self._cookie = cookie

    def _found(self) -> Mapping[str, Any]:
        session = _session_of(self._request, self._cookie)
        return {} if session is None else session

    def __getitem__(self, key: str) -> Any:
        return self._found()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def __getattr__(self, name: str) -> Any:
        if isinstance(getattr(Session, name, None), property):
            return getattr(self._found(), name, None)
        raise AttributeError(name)
