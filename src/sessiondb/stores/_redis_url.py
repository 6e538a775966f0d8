"""``redis://`` URLs and their relatives: which servers, how to get in, what to call the keys."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from sessiondb.core.errors import ConfigurationError
from sessiondb.stores._redis_cluster import Cluster
from sessiondb.stores._redis_connection import Access
from sessiondb.stores._redis_nodes import Address, SingleServer, Wait, sentinel

_PREFIX = re.compile(r"[A-Za-z0-9_:.-]{1,64}", re.ASCII).fullmatch
_SSL = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
_OF_SENTINELS = ("sentinel_username", "sentinel_password")
_OPTIONS = (
    "prefix",
    "pool_size",
    "connect_timeout",
    "wait_replicas",
    "wait_timeout",
    "max_events",
    *_OF_SENTINELS,
    *_SSL,
)
_PORT, _SENTINEL_PORT = 6379, 26379
_LEAST = {"pool_size": 1, "wait_replicas": 0, "max_events": 1000}


@dataclass(frozen=True, slots=True)
class Settings:
    """A URL, read.

    * ``redis://user:password@host:6379/0``: one server; ``rediss://`` with TLS (``valkey://`` and ``valkeys://`` too).
    * ``redis+cluster://host1:6379,host2:6379``: a cluster, by any of its nodes.
    * ``redis+sentinel://host1:26379,host2:26379/primary-name/0``: whoever is the primary. User and password are the
      primary's; ``?sentinel_username=`` and ``?sentinel_password=`` are for the Sentinels. ``rediss+cluster://`` and
      ``rediss+sentinel://`` speak TLS to all of them.
    * ``?prefix=sessiondb:`` begins every key, ``?pool_size=4`` is the number of connections of one event loop to one
      server, ``?connect_timeout=2`` is in seconds.
    * ``?wait_replicas=1``: logins and ends are answered when so many replicas have them; if they do not within
      ``?wait_timeout=1`` (seconds), with ``StoreUnavailable(outcome="unconfirmed")``. Default 0: nobody is waited for.
    * ``?max_events=1000000``: the most events that the audit trail may have, so that it never fills the memory. Above
      it the oldest are dropped, which is logged as an error and found by verifying: keep events for a shorter time.
    * With TLS: ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile`` (paths), ``ssl_cert_reqs=none``.
    """

    where: str
    prefix: str
    of_cluster: bool
    max_events: int
    wait: Wait | None
    make: Callable[[], SingleServer | Cluster]


def parse(url: str) -> Settings:
    """Read ``url``. Raises ``ConfigurationError``."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if kind not in ("", "cluster", "sentinel"):
        raise ConfigurationError(f"{scheme}:// is unknown; use {base}://, {base}+cluster:// or {base}+sentinel://.")
    tls = base.endswith("s") and base != "redis"
    # Several hosts are no URL to the library; without them it is one.
    network, path_and_query = re.match(r"([^/?]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    who, _, hosts = network.rpartition("@")
    parts = urlsplit(f"redis://host{path_and_query}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = options.keys() - set(_OPTIONS)
    if unknown:
        raise ConfigurationError(
            f"{scheme}:// does not know the option {min(unknown)!r}; it has {', '.join(_OPTIONS)}."
        )
    prefix = options.get("prefix", "sessiondb:")
    if not _PREFIX(prefix):
        raise ConfigurationError(f"{scheme}://: prefix is {prefix!r}; use at most 64 letters, digits and '_:.-'.")
    addresses = [
        _address(scheme, one, _SENTINEL_PORT if kind == "sentinel" else _PORT)
        for one in (hosts or "localhost").split(",")
    ]
    if not kind and len(addresses) > 1:
        raise ConfigurationError(
            f"{scheme}:// takes one host; for several use {base}+cluster:// or {base}+sentinel://."
        )
    path = [part for part in parts.path.split("/") if part]
    name = ""
    if kind == "sentinel":
        if not path:
            raise ConfigurationError(
                f"{scheme}:// needs the primary's name after the hosts: {scheme}://host1,host2/mymaster/0."
            )
        name, *path = path
    database = "".join(path[:1]) or "0"
    if not (database.isascii() and database.isdigit()) or len(path) > 1 or (kind == "cluster" and database != "0"):
        raise ConfigurationError(
            f"{scheme}://: {parts.path!r} names no database; use /0 to /15, and none for a cluster."
        )
    username, _, password = who.partition(":")
    access = Access(
        username=unquote(username) or None,
        password=unquote(password) if ":" in who else None,
        database=int(database),
        tls=_tls(scheme, options) if tls else None,
        timeout=_number(scheme, options, "connect_timeout", 2.0, 60.0),
    )
    if not tls and options.keys() & set(_SSL):
        raise ConfigurationError(f"{scheme}:// does not use TLS; write rediss:// where ssl_ options are given.")
    if kind != "sentinel" and options.keys() & set(_OF_SENTINELS):
        raise ConfigurationError(f"{scheme}:// has no Sentinels; sentinel_ options are for {base}+sentinel://.")
    size = int(_number(scheme, options, "pool_size", 4, 1000))
    replicas = int(_number(scheme, options, "wait_replicas", 0, 100))
    milliseconds = int(_number(scheme, options, "wait_timeout", 1.0, 60.0) * 1000)
    max_events = int(_number(scheme, options, "max_events", 1_000_000, 1e9))
    where = hosts or "localhost"
    to_sentinels = Access(
        username=options.get("sentinel_username"),
        password=options.get("sentinel_password"),
        tls=access.tls,
        timeout=access.timeout,
    )

    find_primary = sentinel(addresses, unquote(name), to_sentinels)

    def make() -> SingleServer | Cluster:
        if kind == "cluster":
            return Cluster(addresses, access, size)
        if kind == "sentinel":
            return SingleServer(find_primary, access, size)

        async def find() -> Address:
            return addresses[0]

        return SingleServer(find, access, size)

    wait = Wait(replicas, milliseconds) if replicas else None
    return Settings(where, prefix, kind == "cluster", max_events, wait, make)


def _address(scheme: str, text: str, default: int) -> Address:
    try:
        parts = urlsplit(f"redis://{text}")
        return parts.hostname or "localhost", parts.port or default
    except ValueError:
        raise ConfigurationError(f"{scheme}://: {text!r} is no host:port.") from None


def _number(scheme: str, options: dict[str, str], name: str, default: float, most: float) -> float:
    text = options.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    is_count = name in _LEAST
    if not _LEAST.get(name, 0.1) <= value <= most or (is_count and value != int(value)):
        kind = f"a whole number from {_LEAST[name]:,}" if is_count else "a number of seconds"
        raise ConfigurationError(f"{scheme}://: {name} is {text!r}; use {kind} up to {most:,.0f}.")
    return value


def _tls(scheme: str, options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"{scheme}://: the certificate files cannot be used: {error}.") from None
    if options.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise ConfigurationError(f"{scheme}://: ssl_cert_reqs is 'required' (the default) or 'none'.")
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
