"""An internet for made-up logins: countries, their providers, and the addresses these give out.

Shares are those of the logins in the RBA data set (``risk_statistics``); how many addresses a provider has, and how it
gives them out, is assumed. Addresses are valid and belong to nobody in particular; numbers of autonomous systems are
from the private range (RFC 6996).
"""

from __future__ import annotations

import random
from bisect import bisect
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

FIRST_NETWORK = 11 << 16  # 11.0.0.0/24; what is given out ends long before the reserved ranges
FIRST_ASN = 4_200_000_000

HOME, NEXT = "NO", "SE"
_OTHERS = "DK US GB DE PL ES NL TH FR IT FI LT IN BR CA AU PH PK RU RO CH PT TR GR UA LV AE CN JP KR MX ZA"
OTHERS = _OTHERS.split()

# Share of the IPv4 addresses of the world, rounded; what is left goes to the others in equal parts.
ADDRESS_SHARES = {
    "US": 0.42,
    "CN": 0.09,
    "JP": 0.05,
    "DE": 0.033,
    "GB": 0.031,
    "KR": 0.03,
    "BR": 0.024,
    "FR": 0.022,
    "CA": 0.018,
    "IT": 0.015,
    "AU": 0.013,
    "NL": 0.013,
    "RU": 0.012,
    "IN": 0.012,
    "SE": 0.008,
    "NO": 0.0043,
}


class Choice:
    """Draws from ``items`` by their weights."""

    def __init__(self, weights: dict[str, float] | list[float], items: list | None = None) -> None:
        self.items = list(weights) if items is None else items
        self._sums = list(accumulate(weights.values() if isinstance(weights, dict) else weights))

    def draw(self, rng: random.Random) -> Any:
        """One of them."""
        return self.items[bisect(self._sums, rng.random() * self._sums[-1])]


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Shares that fall with the rank; they sum to one."""
    raw = [1 / rank**exponent for rank in range(1, count + 1)]
    total = sum(raw)
    return [one / total for one in raw]


@dataclass(slots=True)
class Provider:
    """An autonomous system. ``fixed`` and ``mobile``: how many networks (/24) it has for either."""

    asn: int
    country: str
    first: int
    fixed: int
    mobile: int = 0

    def address(self, rng: random.Random, near: str | None = None, stay: float = 0.0) -> str:
        """One for a line; with probability ``stay`` in the network of ``near``."""
        if near is not None and rng.random() < stay:
            return f"{near.rpartition('.')[0]}.{rng.randint(1, 254)}"
        return _address(self.first + rng.randrange(self.fixed), rng.randint(1, 254))

    def mobile_address(self, rng: random.Random, area: int, spread: int) -> str:
        """One for a phone: that of a gateway which many share. An area's gateways are in ``spread`` networks."""
        network = (area + rng.randrange(spread)) % self.mobile
        return _address(self.first + self.fixed + network, rng.randint(1, 254))


def _address(network: int, host: int) -> str:
    return f"{network >> 16}.{network >> 8 & 255}.{network & 255}.{host}"


@dataclass
class Internet:
    """Countries by their share of the logins, each with providers for people and for servers."""

    seed: int
    home_share: float = 0.72
    next_share: float = 0.15
    provider_shares: tuple[float, float] = (0.64, 0.16)  # of the two largest of a country; the rest is a tail of 24
    _next: int = FIRST_NETWORK
    _number: int = FIRST_ASN
    _access: dict[str, Choice] = field(default_factory=dict)
    _mobile: dict[str, Choice] = field(default_factory=dict)
    _hosting: dict[str, Choice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rest = 1 - self.home_share - self.next_share
        shares = dict(zip(OTHERS, (rest * one for one in zipf(len(OTHERS))), strict=True))
        self.countries = Choice({HOME: self.home_share, NEXT: self.next_share, **shares})
        left = (1 - sum(ADDRESS_SHARES.values())) / (len(OTHERS) + 2 - len(ADDRESS_SHARES))
        self.world = Choice({country: ADDRESS_SHARES.get(country, left) for country in (HOME, NEXT, *OTHERS)})
        for country in (HOME, NEXT, *OTHERS):
            self._build(country)

    def _build(self, country: str) -> None:
        first, second = self.provider_shares
        tail = [(1 - first - second) * one for one in zipf(24)]
        sizes = [8192, 4096, *(max(16, 2048 // rank) for rank in range(1, 25))]
        access = [self._provider(country, size, 256 if rank < 4 else 0) for rank, size in enumerate(sizes)]
        self._access[country] = Choice([first, second, *tail], access)
        self._mobile[country] = Choice([first, second, *tail[:2]], access[:4])
        hosting = [self._provider(country, size) for size in (512, 256, 128, 128, 64, 64, 64, 32, 32, 32, 16, 16)]
        self._hosting[country] = Choice(zipf(12), hosting)

    def _provider(self, country: str, fixed: int, mobile: int = 0) -> Provider:
        provider = Provider(self._number, country, self._next, fixed, mobile)
        self._number += 1
        self._next += fixed + mobile
        return provider

    def own(self, country: str) -> Provider:
        """A new provider that is one organisation's own."""
        return self._provider(country, 2)

    def access(self, rng: random.Random, country: str) -> Provider:
        """A provider for people, by its share of them."""
        return self._access[country].draw(rng)

    def mobile(self, rng: random.Random, country: str) -> Provider:
        """A provider of mobile networks, by its share."""
        return self._mobile[country].draw(rng)

    def hosting(self, rng: random.Random, country: str) -> Provider:
        """A provider for servers, where the exits of VPNs and many attackers are."""
        return self._hosting[country].draw(rng)

    @cached_property
    def abroad(self) -> Choice:
        """Where people travel to: as they come from there, but for the largest country."""
        return Choice({HOME: 0.0, NEXT: 0.2, **dict(zip(OTHERS, zipf(len(OTHERS)), strict=True))})
