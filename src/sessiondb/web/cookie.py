"""How the token travels in a cookie (RFC 6265bis), read from the raw header bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.presented import Presented, recognise
from sessiondb.core.token import TOKEN_LENGTH, Token
from sessiondb.web.lookalike import Lookalikes

SameSite = Literal["lax", "strict", "none"]

MOST_CANDIDATES = 4
MOST_HEADER_BYTES = 64 * 1024
MOST_PAIRS = 1024
_EQUALS = ord("=")
LONGEST_MAX_AGE = 400 * 24 * 3600
_EXPIRED = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}").fullmatch
_DOMAIN = re.compile(r"\.?[0-9A-Za-z]([0-9A-Za-z.\-]{0,251}[0-9A-Za-z])?").fullmatch
_PATH = re.compile(r"/[\x21-\x3a\x3c-\x7e]{0,1023}|/").fullmatch
_HOST_PREFIXES = ("__host-", "__host-http-")
_SECURE_PREFIXES = ("__secure-", "__http-", *_HOST_PREFIXES)


@dataclass(frozen=True)
class Cookie:
    """The session cookie: ``HttpOnly`` always, and by default ``__Host-sid; Path=/; Secure; SameSite=Lax``.

    * ``name`` (``"sid"``): a secure cookie for the host alone gets the prefix ``__Host-``, one with a ``domain`` or
      another ``path`` gets ``__Secure-``, unless the name has a prefix already.
    * ``secure`` (``True``): ``False`` only for development over plain http.
    * ``samesite`` (``"lax"``), ``path`` (``"/"``), ``domain`` (``None``: this host alone), ``partitioned``
      (``False``; CHIPS): as in RFC 6265bis section 5.6.

    Raises ``ConfigurationError`` for what a browser would refuse (OWASP ASVS 3.3, RFC 6265bis section 4.1.3).
    """

    name: str = "sid"
    secure: bool = True
    samesite: SameSite = "lax"
    path: str = "/"
    domain: str | None = None
    partitioned: bool = False
    full_name: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "full_name", self._prefix() + self.name)
        attributes = [f"Path={self.path}"]
        if self.domain is not None:
            attributes.append(f"Domain={self.domain}")
        if self.secure:
            attributes.append("Secure")
        attributes += ["HttpOnly", f"SameSite={self.samesite.capitalize()}"]
        if self.partitioned:
            attributes.append("Partitioned")
        tail = "; ".join(attributes)
        object.__setattr__(self, "_tail", tail)
        raw_name = self.full_name.encode("ascii")
        object.__setattr__(self, "_raw_name", raw_name)
        object.__setattr__(self, "_alone", len(raw_name) + 1 + TOKEN_LENGTH)
        object.__setattr__(self, "_lookalikes", Lookalikes(self.full_name))
        object.__setattr__(self, "_delete", (b"set-cookie", f"{self.full_name}=; {_EXPIRED}; {tail}".encode("ascii")))

    def _prefix(self) -> str:
        if not self.secure or self.name.lower().startswith(_SECURE_PREFIXES):
            return ""
        return "__Host-" if self.domain is None and self.path == "/" else "__Secure-"

    def _check(self) -> None:
        for setting in ("name", "path", "domain", "secure", "partitioned"):
            value = getattr(self, setting)
            kind = bool if setting in ("secure", "partitioned") else str
            if not isinstance(value, kind) and not (setting == "domain" and value is None):
                right = "True or False" if kind is bool else "a string"
                raise ConfigurationError(f"Cookie: {setting} is {value!r:.100}; use {right}.")
        if not _NAME(self.name):
            raise ConfigurationError(
                f"Cookie: the name {self.name!r} is not a token of RFC 9110; use letters, digits, '-' and '_'."
            )
        if self.samesite not in ("lax", "strict", "none"):
            raise ConfigurationError(f"Cookie: samesite is {self.samesite!r}; use 'lax', 'strict' or 'none'.")
        if not _PATH(self.path):
            raise ConfigurationError(
                f"Cookie: the path {self.path!r} must start with '/' and have no space, ';' or control character."
            )
        if self.domain is not None and not _DOMAIN(self.domain):
            raise ConfigurationError(f"Cookie: the domain {self.domain!r} is not a host name; use 'example.com'.")
        name = self.name.lower()
        if not self.secure:
            for condition, what in (
                (self.samesite == "none", "samesite='none'"),
                (self.partitioned, "partitioned=True"),
                (name.startswith(_SECURE_PREFIXES), f"the prefix of {self.name!r}"),
            ):
                if condition:
                    raise ConfigurationError(
                        f"Cookie: browsers refuse {what} without Secure; set secure=True, or drop it."
                    )
        if name.startswith(_HOST_PREFIXES) and (self.domain is not None or self.path != "/"):
            raise ConfigurationError(
                f"Cookie: browsers refuse {self.name!r} with a domain or a path other than '/'; drop those, or use "
                "the prefix '__Secure-'."
            )

    def tokens(self, headers: Iterable[tuple[bytes, bytes]], counters: Counter[str]) -> list[Presented]:
        """The well-formed tokens of our name in all ``cookie`` headers, at most four different ones.

        The name must be equal byte for byte: only SP and HTAB are stripped, nothing is unquoted or decoded, because
        lenient parsers let a sibling domain's ``\\xa0__Host-sid=...`` stand in for ours. Such look-alikes are ignored
        and counted in ``counters`` (``cookie_smuggling``), as are headers of over 64 KiB or with over 1,024 cookies
        (``cookie_oversize``; no browser sends those).
        """
        raw_name: bytes = self._raw_name  # type: ignore[attr-defined]
        alone: int = self._alone  # type: ignore[attr-defined]
        lookalikes: Lookalikes = self._lookalikes  # type: ignore[attr-defined]
        found: list[Presented] = []
        for name, value in headers:
            if name == b"cookie":
                if len(value) == alone and value.startswith(raw_name) and value[-TOKEN_LENGTH - 1] == _EQUALS:
                    # Nothing else is in it, as in most requests of most apps.
                    token = recognise(value[-TOKEN_LENGTH:])
                    if token is not None and token not in found and len(found) < MOST_CANDIDATES:
                        found.append(token)
                elif len(value) > MOST_HEADER_BYTES:
                    counters["cookie_oversize"] += 1
                elif raw_name in value and _collect_plain(value, raw_name, found):
                    if lookalikes.is_encoded(value) and lookalikes.has(value):
                        counters["cookie_smuggling"] += 1
                elif lookalikes.suspects(value):
                    _collect_odd(value, raw_name, found, lookalikes, counters)
        return found

    def set_header(self, token: Token, max_age: int | None) -> tuple[bytes, bytes]:
        """The ``Set-Cookie`` header for ``token``; ``max_age`` in seconds, ``None`` for a session cookie."""
        age = "" if max_age is None else f"Max-Age={min(max_age, LONGEST_MAX_AGE)}; "
        tail: str = self._tail  # type: ignore[attr-defined]
        return b"set-cookie", f"{self.full_name}={token.encode()}; {age}{tail}".encode("ascii")

    def delete_header(self) -> tuple[bytes, bytes]:
        """The ``Set-Cookie`` header that removes the cookie: same name, path, domain and flags."""
        header: tuple[bytes, bytes] = self._delete  # type: ignore[attr-defined]
        return header


def spellings(name: str) -> tuple[str, str, str]:
    """The full names that a cookie called ``name`` in settings may have."""
    return name, f"__Host-{name}", f"__Secure-{name}"


def _collect_plain(value: bytes, raw_name: bytes, found: list[Presented]) -> bool:
    """The token of a cookie that is there once, and as every browser writes it. False: look closer."""
    at = value.find(raw_name)
    start = at + len(raw_name) + 1
    end = start + TOKEN_LENGTH
    if (
        value[start - 1 : start] != b"="
        or value[end : end + 1] not in (b"", b";")
        or (at != 0 and value[at - 2 : at] != b"; ")
        or value.find(raw_name, start) >= 0
    ):
        return False
    token = recognise(value[start:end])
    if token is not None and token not in found and len(found) < MOST_CANDIDATES:
        found.append(token)
    return True


def _collect_odd(
    value: bytes, raw_name: bytes, found: list[Presented], lookalikes: Lookalikes, counters: Counter[str]
) -> None:
    """The tokens of our name in any header at all."""
    if value.count(b";") >= MOST_PAIRS:
        counters["cookie_oversize"] += 1
        return
    if lookalikes.has(value):
        counters["cookie_smuggling"] += 1
    for pair in value.split(b";"):
        name, separator, candidate = pair.strip(b" \t").partition(b"=")
        if not separator or name.rstrip(b" \t") != raw_name:
            continue
        candidate = candidate.lstrip(b" \t")
        if len(candidate) != TOKEN_LENGTH or len(found) >= MOST_CANDIDATES:
            continue
        token = recognise(candidate)
        if token is not None and token not in found:
            found.append(token)
