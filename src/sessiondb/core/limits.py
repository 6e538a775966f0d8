"""What one network may do: how many sessions it may begin, and how many tokens it may guess. Pure: time is given.

All of it is kept in the memory of one process, for a fixed number of networks; whoever has been quiet longest is
forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import msgspec

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.networks import network_of
from sessiondb.core.policy import MINUTE

LONGEST_NAME = 64

BadToken = Literal["unknown", "forged", "ended"]


@dataclass(frozen=True)
class Limits:
    """Limits against abuse (OWASP ASVS 2.4.1, CWE-770). Each process counts for itself.

    * ``anonymous_per_minute`` (``None``: no limit): how many sessions without a user one network may begin, in a burst
      and per minute. Visitors who write nothing have none, and logins are not counted.
    * ``max_keys`` (1,000): how many top-level keys a session may have. Its bytes: ``SessionDB(max_session_bytes=...)``.
    * ``guesses_per_minute`` (60; ``None``: never): with how many unknown or forged tokens in one minute a network is
      reported as ``token_guessing``. It is served all the same: no number of guesses finds 256 random bits, and many
      honest people may share a network.
    * ``ipv4_prefix`` (24) and ``ipv6_prefix`` (56): how much of an address is one network.
    * ``networks`` (10,000): how many of them are remembered.

    Raises ``ConfigurationError``.
    """

    anonymous_per_minute: int | None = None
    max_keys: int = 1000
    guesses_per_minute: int | None = 60
    ipv4_prefix: int = 24
    ipv6_prefix: int = 56
    networks: int = 10_000

    def __post_init__(self) -> None:
        for name, least, most, optional in (
            ("anonymous_per_minute", 1, 1_000_000, True),
            ("max_keys", 1, 1_000_000, False),
            ("guesses_per_minute", 1, 1_000_000, True),
            ("ipv4_prefix", 8, 32, False),
            ("ipv6_prefix", 16, 128, False),
            ("networks", 16, 10_000_000, False),
        ):
            value: object = getattr(self, name)
            if optional and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                or_none = ", or None" if optional else ""
                raise ConfigurationError(f"Limits: {name} is {value!r:.100}; use {least:,} to {most:,}{or_none}.")

    def network_of(self, address: str) -> str:
        """The network of an address, such as ``"192.0.2.0/24"``; what is no IP address stands for itself."""
        return network_of(address, self.ipv4_prefix, self.ipv6_prefix) or address[:LONGEST_NAME]


class Buckets:
    """A token bucket for each network: ``per_minute`` at once, and as many again in each minute that follows."""

    __slots__ = ("_buckets", "_most", "_per_minute")

    def __init__(self, per_minute: int, most: int) -> None:
        self._per_minute = per_minute
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, network: str, now: int) -> float:
        """Take one at ``now`` (microseconds): 0.0, or the seconds until there is one."""
        left, at = self._buckets.pop(network, (float(self._per_minute), now))
        # A clock that has been set back gives nothing, and takes nothing.
        left = min(float(self._per_minute), left + max(0, now - at) * self._per_minute / MINUTE)
        refused = left < 1.0
        self._buckets[network] = (left if refused else left - 1.0, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return (1.0 - left) * 60.0 / self._per_minute if refused else 0.0


class SuspiciousNetwork(msgspec.Struct, frozen=True):
    """What came from one network in this process: tokens that opened nothing, and sessions that were refused.

    ``unknown``: no session has this id. ``forged``: somebody else's session, or an old secret of it. ``ended``: was
    good once (browsers keep those). ``refused``: sessions over ``Limits(anonymous_per_minute=...)``. ``last_at`` in
    microseconds.
    """

    network: str
    unknown: int
    forged: int
    ended: int
    refused: int
    last_at: int


class _Seen:
    __slots__ = ("ended", "forged", "guesses", "last_at", "minute", "refused", "refused_minute", "unknown")

    def __init__(self) -> None:
        self.unknown = self.forged = self.ended = self.refused = 0
        self.guesses = 0  # in this minute
        self.minute = self.refused_minute = -1
        self.last_at = 0


class Suspicions:
    """What is remembered of networks that present tokens which open nothing, or ask for too much."""

    __slots__ = ("_guesses", "_most", "_seen")

    def __init__(self, guesses_per_minute: int | None, most: int) -> None:
        self._guesses = guesses_per_minute
        self._most = most
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def bad_token(self, network: str, kind: BadToken, now: int) -> bool:
        """Count one. True once for each network and minute in which it guesses too much."""
        seen = self._of(network, now)
        if kind == "ended":
            seen.ended += 1
            return False
        if kind == "unknown":
            seen.unknown += 1
        else:
            seen.forged += 1
        minute = now // MINUTE
        if seen.minute != minute:
            seen.minute, seen.guesses = minute, 0
        seen.guesses += 1
        return self._guesses is not None and seen.guesses == self._guesses + 1

    def refused(self, network: str, now: int) -> bool:
        """Count a session that was refused. True once for each network and minute."""
        seen = self._of(network, now)
        seen.refused += 1
        minute = now // MINUTE
        first = seen.refused_minute != minute
        seen.refused_minute = minute
        return first

    def worst(self, limit: int) -> list[SuspiciousNetwork]:
        """Those that have presented most unknown and forged tokens, and been refused most."""
        order = sorted(self._seen.items(), key=lambda item: item[1].unknown + item[1].forged + item[1].refused)
        return [
            SuspiciousNetwork(network, seen.unknown, seen.forged, seen.ended, seen.refused, seen.last_at)
            for network, seen in order[: -limit - 1 : -1]
        ]

    def _of(self, network: str, now: int) -> _Seen:
        seen = self._seen.get(network)
        if seen is None:
            seen = self._seen[network] = _Seen()
            if len(self._seen) > self._most:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(network)
        seen.last_at = now
        return seen
