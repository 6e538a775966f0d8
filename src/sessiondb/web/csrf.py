"""Refusing unsafe requests that other sites make: ``Sec-Fetch-Site``, else ``Origin`` against ``Host``.

The same rules as Go 1.25's ``http.CrossOriginProtection``; no token in forms is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from sessiondb.core.errors import ConfigurationError
from sessiondb.web.paths import matches_path, paths

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_LOOKED_AT = frozenset({b"sec-fetch-site", b"origin", b"host"})
# As browsers write it (RFC 6454 section 6.2, ASCII): names in Punycode, no port that is the scheme's own.
_ORIGIN = re.compile(r"(https?)://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?").fullmatch
_OWN_PORT = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class CrossOrigin:
    """The cross-origin check.

    ``trusted_origins``: origins such as ``"https://app.example.com"`` that may make unsafe requests with the
    session. ``exempt``: paths (and what is below them) that are not checked, such as webhooks. Raises
    ``ConfigurationError`` for an origin or path that could never match.
    """

    trusted_origins: Iterable[str] = ()
    exempt: Iterable[str] = ()

    def __post_init__(self) -> None:
        given: object = self.trusted_origins
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigurationError(
                f"CrossOrigin: trusted_origins is {given!r:.100}; use a list of origins, such as "
                "['https://app.example.com']."
            )
        origins = frozenset(_origin(origin) for origin in self.trusted_origins)
        object.__setattr__(self, "trusted_origins", origins)
        object.__setattr__(self, "exempt", paths("CrossOrigin: exempt", self.exempt))

    def refusal(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Why a request with ``headers`` is refused, for the log; ``None`` if it may pass."""
        site = origin = host = None
        for name, value in headers:
            if name in _LOOKED_AT:
                if name == b"sec-fetch-site":
                    site = value
                elif name == b"origin":
                    origin = value
                else:
                    host = value
        if site in (b"same-origin", b"none") or (site is None and origin is None):
            return None
        text = origin.decode("latin-1") if origin is not None else None
        trusted = self.trusted_origins
        assert isinstance(trusted, frozenset)
        if text is not None and text.lower() in trusted:
            return None
        if site is None and text is not None and host is not None and _host_of(text) == host.decode("latin-1").lower():
            return None
        exempt = self.exempt
        assert isinstance(exempt, tuple)
        if exempt and matches_path(path, exempt):
            return None
        return (
            f"A cross-origin request to {path!r} (Origin {text!r:.200}, Sec-Fetch-Site {site!r:.40}) was refused. "
            "If it is meant to pass, add its origin to SessionMiddleware(csrf=CrossOrigin(trusted_origins=[...])), "
            "or the path to CrossOrigin(exempt=[...])."
        )


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _origin(origin: object) -> str:
    found = _ORIGIN(origin.lower()) if isinstance(origin, str) else None
    if found is None or found[2] == _OWN_PORT[found[1]]:
        raise ConfigurationError(
            f"CrossOrigin: {origin!r:.200} is not an origin as browsers send it; use scheme and host, and the port if "
            "it is not the scheme's own, without a path or '*', such as 'https://app.example.com'."
        )
    return found[0]
