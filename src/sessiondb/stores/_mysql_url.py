"""``mysql://`` and ``mariadb://`` URLs: what is ours in them, and what the driver is given."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from sessiondb.core.errors import ConfigurationError

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}", re.ASCII).fullmatch
_OPTIONS = ("prefix", "pool_size", "lock_timeout", "connect_timeout", "ssl", "ssl_ca", "ssl_cert", "ssl_key")


@dataclass(frozen=True, slots=True)
class Settings:
    """A URL, read: ``mysql://user:password@host:3306/database``.

    * ``prefix`` (``sessiondb_``): begins the name of every table.
    * ``pool_size`` (8): connections of one event loop, at most.
    * ``lock_timeout`` (1 s): how long to wait for a row that another transaction holds, in whole seconds.
    * ``connect_timeout`` (2 s).
    * ``ssl=true``: with TLS, the certificate checked against the system's authorities, or those in ``ssl_ca``;
      ``ssl_cert`` and ``ssl_key`` name the client's own.
    """

    where: str
    prefix: str
    pool_size: int
    lock_timeout: int
    arguments: dict[str, Any] = field(repr=False)


def parse(url: str) -> Settings:
    """Read ``url``. Raises ``ConfigurationError``."""
    parts = urlsplit(url)
    scheme = parts.scheme
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if options.get("charset") == "utf8mb4":
        del options["charset"]  # engines of SQLAlchemy often name it; here it is always so
    unknown = options.keys() - set(_OPTIONS)
    if unknown:
        known = ", ".join(_OPTIONS)
        raise ConfigurationError(f"{scheme}:// does not know the option {min(unknown)!r}; it has {known}.")
    prefix = options.get("prefix", "sessiondb_")
    if not _PREFIX(prefix):
        raise ConfigurationError(f"{scheme}://: prefix is {prefix!r}; use at most 32 letters, digits and '_'.")
    database = unquote(parts.path.strip("/"))
    if not database:
        raise ConfigurationError(f"{scheme}:// names no database; write {scheme}://user:password@host/database.")
    try:
        port = parts.port or 3306
    except ValueError:
        raise ConfigurationError(f"{scheme}://: the port in the URL is not a number from 0 to 65535.") from None
    host = parts.hostname or "localhost"
    arguments: dict[str, Any] = {
        "host": host,
        "port": port,
        "user": unquote(parts.username or "root"),
        # The driver would encode text as Latin-1.
        "password": unquote(parts.password or "").encode(),
        "database": database,
        "connect_timeout": _number(scheme, options, "connect_timeout", 2, 60),
    }
    tls = _tls(scheme, options)
    if tls is not None:
        arguments["ssl"] = tls
    return Settings(
        where=f"{host}:{port}/{database}",
        prefix=prefix,
        pool_size=_number(scheme, options, "pool_size", 8, 1000),
        lock_timeout=_number(scheme, options, "lock_timeout", 1, 60),
        arguments=arguments,
    )


def _number(scheme: str, options: dict[str, str], name: str, default: int, most: int) -> int:
    value = options.get(name, str(default))
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= most):
        raise ConfigurationError(f"{scheme}://: {name} is {value!r}; use a whole number from 1 to {most}.")
    return int(value)


def _tls(scheme: str, options: dict[str, str]) -> ssl.SSLContext | None:
    if options.get("ssl", "false") not in ("true", "false"):
        raise ConfigurationError(f"{scheme}://: ssl is {options['ssl']!r}; use true or false.")
    if options.get("ssl", "false") == "false" and not options.keys() & {"ssl_ca", "ssl_cert"}:
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca"))
        if "ssl_cert" in options:
            context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{scheme}://: the certificate files cannot be used: {error}.") from None
    return context
