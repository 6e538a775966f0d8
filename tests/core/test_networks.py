"""Addresses: one spelling for each, and the networks that they are in."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.networks import Levels, address_of, canonical, is_in, levels, network_of, networks_from

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:0207", "192.0.2.7"),
        ("::ffff:192.0.2.7%eth0", "192.0.2.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%25eth0", "fe80::1"),
        ("::1", "::1"),
        ("192.0.2.7%eth0", None),
        ("192.0.2.077", None),
        ("192.0.2", None),
        ("0x7f.1", None),
        ("3221225991", None),
        ("192.0.2.7:80", None),
        ("[2001:db8::1]", None),
        (" 192.0.2.7", None),
        ("192.0.2.7\n", None),
        ("١٩٢.0.2.7", None),
        ("unknown", None),
        ("", None),
        ("1" * 100_000, None),
        ("fe80::1%" + "x" * 100_000, None),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_an_address_has_one_spelling(text: str, one: str | None) -> None:
    assert canonical(text) == one


def test_levels() -> None:
    assert levels("::ffff:192.0.2.7") == Levels("192.0.2.7", "192.0.2.0/24", "192.0.0.0/16", 4)
    assert levels("2001:db8:1:2::3", 64496) == Levels("2001:db8:1:2::3", "2001:db8:1::/48", "AS64496", 6)
    assert levels("2001:db8:1:2::3") == Levels("2001:db8:1:2::3", "2001:db8:1::/48", "2001:db8::/32", 6)
    assert levels("testclient") is None
    assert network_of("testclient") is None
    assert address_of(None) is None


@given(st.ip_addresses())
def test_each_level_is_in_the_next(address: Address) -> None:
    found = levels(str(address))
    assert found is not None
    plain = ipaddress.ip_address(found.ip)
    network, wide = ipaddress.ip_network(found.network), ipaddress.ip_network(found.wide)
    assert plain.version == network.version == wide.version == found.family
    assert plain in network
    assert network.subnet_of(wide)  # type: ignore[arg-type]


@given(st.text(max_size=80))
def test_any_text_is_taken(text: str) -> None:
    one = canonical(text)
    assert one is None or canonical(one) == one


def test_networks_are_compared_with_addresses_in_their_one_form() -> None:
    networks = networks_from(["10.0.0.0/8", "::ffff:192.0.2.0/120", "2001:db8::/32", " 203.0.113.9 "])
    for text, within in {
        "10.9.8.7": True,
        "::ffff:10.9.8.7": True,
        "192.0.2.255": True,
        "192.0.3.0": False,
        "2001:db8:ffff::1": True,
        "2001:db9::1": False,
        "203.0.113.9": True,
        "203.0.113.8": False,
    }.items():
        address = address_of(text)
        assert address is not None
        assert is_in(address, networks) is within, text


@pytest.mark.parametrize("texts", ["10.0.0.0/8", None, 5, [5], ["10.0.0.1/8"], ["localhost"], ["10.0.0.0/33"], [""]])
def test_a_list_that_names_no_networks_is_refused(texts: object) -> None:
    with pytest.raises(ValueError):
        networks_from(texts)
