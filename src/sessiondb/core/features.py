"""What of a login is compared with others: its address and its user agent, each at four precisions. Pure.

Nobody keeps the values themselves: a ``Marker`` turns each into a mark, four bytes that say nothing without the key.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeAlias

import msgspec

from sessiondb.core.agents import parse_agent
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.networks import levels

LEVELS = ("ip", "network", "region", "country", "agent", "browser", "system", "device")
"""The fields of ``Features``, and the places in ``Marks``: first the address, then the agent, each finest first."""

Marks: TypeAlias = tuple[int, int, int, int, int, int, int, int]
"""A login by its marks, one for each of ``LEVELS``; 0 is what is not known."""

KEY_BYTES = 16  # the least


class Features(msgspec.Struct, frozen=True):
    """A login's address and user agent, finest first; what is not known is ``None``.

    ``ip``: the address; ``network``: its /24 or /48; ``region``: its autonomous system, or its /16 or /32; ``country``:
    ISO 3166 code. ``agent``: the user agent string; ``browser`` and ``system``: name and version; ``device``: its kind.
    """

    ip: str | None = None
    network: str | None = None
    region: str | None = None
    country: str | None = None
    agent: str | None = None
    browser: str | None = None
    system: str | None = None
    device: str | None = None


def features_of(
    ip: str | None, user_agent: str | None, *, asn: int | None = None, country: str | None = None
) -> Features:
    """The features of a login from ``ip`` with ``user_agent``; ``asn`` and ``country`` where they are known of it."""
    where = None if ip is None else levels(ip, asn)
    agent = parse_agent(user_agent)
    return Features(
        ip=where and where.ip,
        network=where and where.network,
        region=where and where.wide,
        country=country,
        agent=user_agent or None,
        browser=agent.browser and f"{agent.browser} {agent.browser_version or ''}",
        system=agent.system and f"{agent.system} {agent.system_version or ''}",
        device=agent.device if user_agent else None,
    )


class Marker:
    """Makes marks of features, by an app's secret ``key`` (16 bytes or more, else ``ConfigurationError``).

    A mark is keyed BLAKE2b (RFC 7693), of its own for each level. Two of 50,000 values share one in 1 of 4 such tables.
    With another key all marks are others: histories and frequencies begin anew.
    """

    __slots__ = ("_hashes",)

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise ConfigurationError(
                f"The key for the marks of logins has {len(key)} bytes, and needs {KEY_BYTES} or more: "
                "secrets.token_bytes(32) makes one."
            )
        if len(key) > blake2b.MAX_KEY_SIZE:
            key = blake2b(key).digest()
        self._hashes = [blake2b(digest_size=4, key=key, person=b"mark/" + name.encode()) for name in LEVELS]

    def __call__(self, features: Features) -> Marks:
        """The marks of ``features``."""
        values = (
            features.ip,
            features.network,
            features.region,
            features.country,
            features.agent,
            features.browser,
            features.system,
            features.device,
        )
        marks = []
        for hash_, value in zip(self._hashes, values, strict=True):
            if value is None:
                marks.append(0)
                continue
            one = hash_.copy()
            one.update(value.encode("utf-8", "backslashreplace"))
            marks.append(int.from_bytes(one.digest(), "big") or 1)
        return tuple(marks)  # type: ignore[return-value]  # there are eight
