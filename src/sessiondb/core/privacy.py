"""What is stored of an address. Pure. Limits and risk go by the whole one, in memory, whatever is stored."""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Literal, NamedTuple

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.keys import parse_key
from sessiondb.core.networks import NETWORK_PREFIXES, Network, address_of, levels

IpPolicy = Literal["full", "truncated", "hashed", "none"]

LONGEST_NAME = 64  # characters of what a server calls a client and is no address
Keep = Callable[[str], "Stored"]

_POLICIES = ("full", "truncated", "hashed", "none")
HASH_PREFIX = "h:"
_DIGEST_BYTES = 12
_DAY = timedelta(days=1)
_LONGEST = timedelta(days=3650)


class Stored(NamedTuple):
    """What is kept of one address."""

    ip: str | None
    network: str | None


NOTHING = Stored(None, None)


@dataclass(frozen=True)
class Privacy:
    """What the database keeps of where people are: ``SessionDB(privacy=Privacy(ip="truncated"))``.

    * ``ip`` (``"full"``): the address; ``"truncated"``: its ``/24`` (IPv4) or ``/48`` (IPv6), as an address;
      ``"hashed"``: a keyed hash (HMAC-SHA-256, 96 bits), by which the same address is known again and others are not
      found; ``"none"``. The network that is kept beside it is hashed too, or none.
    * ``key``: for ``"hashed"``, as ``sessiondb keys generate`` makes it. With another key, what was stored before is
      not known again.
    * ``ip_for`` (``None``: as long as the session or the event): for how long an address is kept after it was last
      seen; at least a day.
    * ``user_agent`` (``True``): whether the browser's own name is kept.

    Raises ``ConfigurationError``.
    """

    ip: IpPolicy = "full"
    ip_for: timedelta | None = None
    user_agent: bool = True
    key: str | bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.ip not in _POLICIES:
            raise ConfigurationError(f"Privacy: ip is {self.ip!r:.100}; use one of {', '.join(map(repr, _POLICIES))}.")
        if (self.key is not None) != (self.ip == "hashed"):
            raise ConfigurationError(
                "Privacy: ip='hashed' needs a key, and nothing else has one: without it all addresses could be tried "
                "out. Make one with: sessiondb keys generate."
            )
        if self.ip_for is not None and not (isinstance(self.ip_for, timedelta) and _DAY <= self.ip_for <= _LONGEST):
            raise ConfigurationError(
                f"Privacy: ip_for is {self.ip_for!r:.100}; use timedelta(days=1) to timedelta(days={_LONGEST.days})."
            )
        if not isinstance(self.user_agent, bool):
            raise ConfigurationError(f"Privacy: user_agent is {self.user_agent!r:.100}; use True or False.")
        secret = b"" if self.key is None else parse_key(self.key, "Privacy").secret
        keep: dict[IpPolicy, Keep] = {"full": _full, "truncated": _truncated, "hashed": _Hashing(secret), "none": _none}
        object.__setattr__(self, "_stored", lru_cache(maxsize=4096)(keep[self.ip]))

    @property
    def ip_for_micros(self) -> int | None:
        """``ip_for`` in microseconds."""
        return None if self.ip_for is None else self.ip_for // timedelta(microseconds=1)

    def stored(self, ip: str | None) -> Stored:
        """What is kept of ``ip``."""
        if ip is None:
            return NOTHING
        kept: Stored = self._stored(ip[:LONGEST_NAME])  # type: ignore[attr-defined]
        return kept

    def personal(self, fields: Mapping[str, str | int], ip: str | None) -> Mapping[str, str | int]:
        """What is kept of an event's personal ``fields``, where it was seen from ``ip``."""
        if self.ip == "full" and self.user_agent:
            return fields
        kept = dict(fields)
        if "network" in kept and self.ip != "full":
            del kept["network"]
            if (network := self.stored(ip).network) is not None:
                kept["network"] = network
        if not self.user_agent:
            kept.pop("user_agent", None)
        return kept

    def stored_network(self, network: Network) -> str | None:
        """What is kept of ``network``, if it is one whose hash is kept; else ``None``."""
        if self.ip != "hashed" or network.prefixlen != NETWORK_PREFIXES[network.version == 6]:
            return None
        return self.stored(str(network.network_address)).network


def _full(ip: str) -> Stored:
    found = levels(ip)
    return Stored(ip, None) if found is None else Stored(found.ip, found.network)


def _truncated(ip: str) -> Stored:
    found = levels(ip)
    # What is no address cannot be cut so that it names many.
    return NOTHING if found is None else Stored(found.network.partition("/")[0], found.network)


def _none(ip: str) -> Stored:
    return NOTHING


class _Hashing:
    """Keyed hashes, of which none can be taken for an address."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __call__(self, ip: str) -> Stored:
        address = address_of(ip)
        found = levels(ip)
        if address is None or found is None:
            return Stored(self._hash(b"name", ip.encode("utf-8", "surrogatepass")), None)
        return Stored(self._hash(b"address", address.packed), self._hash(b"network", found.network.encode("ascii")))

    def _hash(self, kind: bytes, what: bytes) -> str:
        digest = hmac.digest(self._secret, b"sessiondb %s 1\0%s" % (kind, what), "sha256")[:_DIGEST_BYTES]
        return HASH_PREFIX + binascii.b2a_base64(digest, newline=False).decode().replace("+", "-").replace("/", "_")
