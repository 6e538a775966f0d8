"""How the token travels for clients that are no browsers: ``Authorization: Bearer`` or a header of the app's own.

A header with a token in it is no ambient authority: no browser adds it to a request that another site makes. So a
request that brings one is served by that alone, its cookies are not looked at, and it needs no cross-origin check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.presented import Presented, recognise
from sessiondb.core.token import Token

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}").fullmatch
# What browsers set by themselves, and what another site's page may set without asking (Fetch, section 2.2.2).
_NOT_OURS = re.compile(
    r"(?:accept|accept-.*|access-control-.*|authorization|connection|content-.*|cookie2?|date|dnt|expect|forwarded|host"
    r"|if-.*|keep-alive|origin|permissions-policy|proxy-.*|range|referer|sec-.*|set-cookie2?|te|trailer"
    r"|transfer-encoding|upgrade|user-agent|via|x-forwarded-.*|x-requested-with|x-real-ip|x-http-method.*)",
    re.IGNORECASE,
).fullmatch
_NOT_TO_ANSWER_IN = re.compile(
    r"(?:access-control-.*|age|cache-control|clear-site-data|connection|content-.*|date|etag|expires|keep-alive"
    r"|last-modified|location|pragma|proxy-.*|server|set-cookie2?|trailer|transfer-encoding|upgrade|vary|via|warning"
    r"|www-authenticate)",
    re.IGNORECASE,
).fullmatch

Headers = Iterable[tuple[bytes, bytes]]


class Way(Protocol):
    """What the answering side asks of a cookie or a header."""

    def set_header(self, token: Token, max_age: int | None) -> tuple[bytes, bytes] | None:
        """The header that gives the client ``token``; ``None``: this client is told nothing."""
        ...

    def delete_header(self) -> tuple[bytes, bytes] | None:
        """The header that tells the client to forget its token."""
        ...


class Face(msgspec.Struct, frozen=True):
    """How a middleware answers requests that came one way.

    ``vary``: the request headers that a response depends on. ``recheck``: how often an open connection's session is
    looked up, in seconds.
    """

    way: Way
    vary: bytes
    recheck: float


@dataclass(frozen=True)
class Header:
    """The token in a request header of the app's own: ``Header("X-Session")``.

    * ``name``: the header, which holds the token and nothing else. None that browsers set by themselves, or that
      another site's page may set without asking (Fetch standard, section 2.2.2): that is what makes the cross-origin
      check unnecessary.
    * ``respond`` (``"Session-Token"``): the response header that carries a new token after a login or a rotation, and
      is empty after a logout. ``None``: the client is never told one. Then nothing in such a request can log in,
      rotate or begin a session; tokens come from ``db.create``.

    Raises ``ConfigurationError`` for a header that cannot serve.
    """

    name: str
    respond: str | None = "Session-Token"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME(self.name) or _NOT_OURS(self.name):
            raise ConfigurationError(
                f"Header: the name {self.name!r:.100} cannot carry a token; use one that only your clients set, such "
                "as Header('X-Session'), or Bearer() for 'Authorization'."
            )
        _check_respond("Header", self.respond)

    def presented(self, headers: Headers) -> bytes | None:
        """What the client has put where the token goes; ``None``: nothing. Twice is as good as a wrong one."""
        wanted, found = self.name.lower().encode("ascii"), None
        for name, value in headers:
            if name == wanted:
                found = value.strip(b" \t") if found is None else b""
        return found

    def set_header(self, token: Token, max_age: int | None) -> tuple[bytes, bytes] | None:
        """As ``Way``. The lifetime is the server's to know."""
        return _answer(self.respond, token.encode())

    def delete_header(self) -> tuple[bytes, bytes] | None:
        """As ``Way``."""
        return _answer(self.respond, "")


@dataclass(frozen=True)
class Bearer:
    """The token as ``Authorization: Bearer <token>`` (RFC 6750 section 2.1). ``respond`` as in ``Header``."""

    respond: str | None = "Session-Token"
    name: str = field(default="Authorization", init=False, repr=False)

    def __post_init__(self) -> None:
        _check_respond("Bearer", self.respond)

    def presented(self, headers: Headers) -> bytes | None:
        """As ``Header``. Another scheme (``Basic``) is none of ours, unless ``Bearer`` stands beside it."""
        found, count = None, 0
        for name, value in headers:
            if name == b"authorization":
                count += 1
                scheme, _, credentials = value.strip(b" \t").partition(b" ")
                if scheme.lower() == b"bearer":
                    found = credentials.strip(b" ")
        return found if found is None or count == 1 else b""

    def set_header(self, token: Token, max_age: int | None) -> tuple[bytes, bytes] | None:
        """As ``Way``."""
        return _answer(self.respond, token.encode())

    def delete_header(self) -> tuple[bytes, bytes] | None:
        """As ``Way``."""
        return _answer(self.respond, "")


HeaderWay = Header | Bearer


def challenge_of(name: str) -> str:
    """What ``WWW-Authenticate`` says of the header ``name`` (RFC 6750 section 3; for others as FastAPI has it)."""
    return 'Bearer realm="session"' if name == "Authorization" else f'APIKey realm="session", header-name="{name}"'


def header_ways(given: object) -> tuple[HeaderWay, ...]:
    """``SessionMiddleware(headers=...)``, checked. Raises ``ConfigurationError``."""
    if isinstance(given, (str, bytes, Header, Bearer)) or not isinstance(given, Iterable):
        raise ConfigurationError(
            f"SessionMiddleware: headers is {given!r:.100}; use a list: headers=[Bearer(), Header('X-Session')]."
        )
    ways = tuple(given)
    names: set[str] = set()
    for way in ways:
        if not isinstance(way, (Header, Bearer)):
            raise ConfigurationError(
                f"SessionMiddleware: headers has {way!r:.100}; use Bearer() or Header('X-Session')."
            )
        if way.name.lower() in names:
            raise ConfigurationError(f"SessionMiddleware: headers has {way.name!r} twice; drop one.")
        names.add(way.name.lower())
    return ways


def present(ways: Sequence[HeaderWay], headers: Headers) -> tuple[HeaderWay, list[Presented]] | None:
    """The first of ``ways`` that the client has used, with its token if that is one; ``None``: none of them."""
    for way in ways:
        value = way.presented(headers)
        if value is not None:
            token = recognise(value)
            return way, [] if token is None else [token]
    return None


def _check_respond(where: str, respond: object) -> None:
    if respond is not None and (not isinstance(respond, str) or not _NAME(respond) or _NOT_TO_ANSWER_IN(respond)):
        raise ConfigurationError(
            f"{where}: respond is {respond!r:.100}; use a response header of your own: 'Session-Token', or None."
        )


def _answer(name: str | None, value: str) -> tuple[bytes, bytes] | None:
    return None if name is None else (name.lower().encode("ascii"), value.encode("ascii"))
