"""``postgresql://`` URLs: what is ours in them, and what the driver is given."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sessiondb.core.errors import ConfigurationError

_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,31}", re.ASCII).fullmatch
_OURS = ("prefix", "pool_size", "replica", "feed", "pooler", "lock_timeout", "connect_timeout", "partitions")
# In the URL of an SQLAlchemy engine: what its dialects take for themselves, and what asyncpg calls otherwise.
_SQLALCHEMY = ("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback")
_RENAMED = {"ssl": "sslmode"}


@dataclass(frozen=True, slots=True)
class Settings:
    """A URL, read. All options after ``?`` that are not ours go to the driver (``sslmode=verify-full``, ...).

    It may name several servers, of which the primary is used:
    ``postgresql://user:password@host1,host2/database?target_session_attrs=primary``.

    * ``prefix`` (``sessiondb_``): begins the name of every table and index.
    * ``pool_size`` (8): connections of one event loop, at most.
    * ``replica``: the URL of a read replica, percent-encoded; it serves lists, counts, the events of all together and
      large pages of the audit trail, never a request.
    * ``feed``: the URL, percent-encoded, at which a near cache listens: of the same database, past the pooler.
    * ``pooler=transaction``: PgBouncer in transaction mode is between: no prepared statements, and no settings; give
      those to the database: ``ALTER DATABASE app SET lock_timeout = '200ms'``, and ``SET jit = off``.
    * ``lock_timeout`` (0.2 s): how long to wait for a row that another transaction holds.
    * ``connect_timeout`` (2 s).
    * ``partitions=monthly``: the sessions of a month are a table of their own, which is dropped as a whole once it is
      empty; for tens of millions of them. The role must own the tables.
    """

    where: str
    prefix: str
    pool_size: int
    replica: str | None  # as ``where``
    feed: str  # as ``where``
    can_listen: bool
    partitions: bool
    connect_timeout: float
    arguments: dict[str, Any] = field(repr=False)
    replica_arguments: dict[str, Any] = field(repr=False)
    feed_arguments: dict[str, Any] = field(repr=False)


def parse(url: str) -> Settings:
    """Read ``url``. Raises ``ConfigurationError``."""
    rest, options = _split(url)
    prefix = options.get("prefix", "sessiondb_")
    if not _PREFIX(prefix):
        raise ConfigurationError(
            f"postgresql://: prefix is {prefix!r}; use at most 32 lower-case letters, digits and '_'."
        )
    pooler = options.get("pooler")
    if pooler not in (None, "transaction"):
        raise ConfigurationError(
            f"postgresql://: pooler is {pooler!r}; say ?pooler=transaction behind PgBouncer in transaction mode, "
            "nothing in session mode. Statement mode cannot work: what belongs together would be torn apart."
        )
    partitions = options.get("partitions")
    if partitions not in (None, "monthly"):
        raise ConfigurationError(f"postgresql://: partitions is {partitions!r}; use 'monthly', or leave it out.")
    lock_timeout = _number(options, "lock_timeout", 0.2, 0.01, 60)
    connect_timeout = _number(options, "connect_timeout", 2, 0.1, 60)
    pool_size = _number(options, "pool_size", 8, 1, 1000)
    if pool_size != int(pool_size):
        raise ConfigurationError(f"postgresql://: pool_size is {pool_size:g}; use a whole number.")
    server_settings = {
        "application_name": "sessiondb",
        "lock_timeout": f"{round(lock_timeout * 1000)}ms",
        "default_transaction_isolation": "read committed",
        # Statements of a few rows: compiling one takes longer than running it.
        "jit": "off",
    }
    common: dict[str, Any] = {"timeout": connect_timeout}
    common |= {"statement_cache_size": 0} if pooler else {"server_settings": server_settings}
    replica, feed = options.get("replica"), options.get("feed")
    replica_rest = _split(replica)[0] if replica else rest
    feed_rest = _split(feed)[0] if feed else rest
    return Settings(
        where=_where(rest),
        prefix=prefix,
        pool_size=int(pool_size),
        replica=_where(replica_rest) if replica else None,
        feed=_where(feed_rest),
        can_listen=bool(feed) or not pooler,
        partitions=partitions is not None,
        connect_timeout=connect_timeout,
        arguments={"dsn": rest, **common},
        replica_arguments={"dsn": replica_rest, **common},
        feed_arguments={
            "dsn": feed_rest,
            "timeout": connect_timeout,
            "server_settings": server_settings | {"application_name": "sessiondb feed"},
        },
    )


def _split(url: str) -> tuple[str, dict[str, str]]:
    """``url`` for the driver, and our options."""
    parts = urlsplit(url)
    # SQLAlchemy names its driver in the scheme.
    if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ConfigurationError(f"{parts.scheme}:// is no PostgreSQL URL; use postgresql://user@host/database.")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in pairs if name in _OURS}
    theirs = urlencode(
        [(_RENAMED.get(name, name), value) for name, value in pairs if name not in (*_OURS, *_SQLALCHEMY)]
    )
    return urlunsplit(("postgresql", parts.netloc, parts.path, theirs, "")), ours


def _where(url: str) -> str:
    """What of ``url`` may be shown."""
    parts = urlsplit(url)
    hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    try:
        names = [f"{host.hostname or 'localhost'}:{host.port or 5432}" for host in hosts]
    except ValueError:
        raise ConfigurationError("postgresql://: the port in the URL is not a number from 0 to 65535.") from None
    return ",".join(names) + parts.path


def _number(options: dict[str, str], name: str, default: float, least: float, most: float) -> float:
    text = options.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ConfigurationError(f"postgresql://: {name} is {text!r}; use a number from {least:g} to {most:g}.")
    return value
