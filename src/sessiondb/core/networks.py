"""Addresses, and the networks that they are in. Pure.

One spelling for each address: an IPv4 client of a server that listens on both is no other than over IPv4 alone (RFC
4291, 2.5.5.2), and the zone of a link-local address (RFC 4007) names an interface of this machine, not the client.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Literal, NamedTuple

LONGEST_ADDRESS = 64  # characters; the longest that there is has 45, and a zone
NETWORK_PREFIXES = (24, 48)  # of IPv4 and IPv6: about one site
WIDE_PREFIXES = (16, 32)  # about one provider

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Levels(NamedTuple):
    """One address at each precision. ``wide`` is ``"AS64496"`` where the autonomous system is known."""

    ip: str
    network: str
    wide: str
    family: Literal[4, 6]


def address_of(text: str | None) -> Address | None:
    """The address that ``text`` is, in its one form; ``None`` for what is none."""
    # Longer text is no address, and must not fill the cache.
    return None if text is None or len(text) > LONGEST_ADDRESS else _address_of(text)


@lru_cache(maxsize=4096)
def _address_of(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def canonical(text: str) -> str | None:
    """The one spelling of an address, such as ``"2001:db8::1"``; ``None`` for what is none."""
    address = address_of(text)
    return None if address is None else str(address)


def network_of(text: str, ipv4_prefix: int = NETWORK_PREFIXES[0], ipv6_prefix: int = NETWORK_PREFIXES[1]) -> str | None:
    """The network of an address, such as ``"192.0.2.0/24"``; ``None`` for what is no address."""
    address = address_of(text)
    return None if address is None else _network_of(address, ipv4_prefix if address.version == 4 else ipv6_prefix)


@lru_cache(maxsize=4096)
def _network_of(address: Address, prefix: int) -> str:
    return str(ipaddress.ip_network((address, prefix), strict=False))


def levels(text: str, asn: int | None = None) -> Levels | None:
    """The levels of an address: itself, its ``/24`` or ``/48``, and its system or ``/16`` or ``/32``."""
    address = address_of(text)
    if address is None:
        return None
    is_wide = address.version == 6
    return Levels(
        str(address),
        _network_of(address, NETWORK_PREFIXES[is_wide]),
        f"AS{asn}" if asn is not None else _network_of(address, WIDE_PREFIXES[is_wide]),
        address.version,
    )


def networks_from(texts: object) -> tuple[Network, ...]:
    """The networks that a setting lists; an address is one of its own. Raises ``ValueError`` for what is none."""
    if isinstance(texts, (str, bytes)) or not hasattr(texts, "__iter__"):
        raise ValueError(f"{texts!r:.100} is no list")
    found: list[Network] = []
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{text!r:.100} is no text")
        found.append(plain_network(text.strip()))
    return tuple(found)


def plain_network(text: str) -> Network:
    """A network in its one form, as addresses are compared in theirs. Raises ``ValueError``."""
    network = ipaddress.ip_network(text)
    if network.version == 6 and network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
        return ipaddress.ip_network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    """Whether one of ``networks`` has ``address``."""
    return any(address in network for network in networks)
