"""What is stored of an address by each setting, and that nothing else can be read out of it."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb import ConfigurationError, Privacy
from sessiondb.core.keys import generate_key
from sessiondb.core.privacy import IpPolicy, Stored

KEY = generate_key()
HASHED = Privacy(ip="hashed", key=KEY)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@pytest.mark.parametrize(
    ("policy", "ip", "stored"),
    [
        ("full", "203.0.113.7", ("203.0.113.7", "203.0.113.0/24")),
        ("full", "::ffff:203.0.113.7", ("203.0.113.7", "203.0.113.0/24")),
        ("full", "2001:DB8:1:2::3", ("2001:db8:1:2::3", "2001:db8:1::/48")),
        ("full", "testclient", ("testclient", None)),
        ("full", "x" * 100, ("x" * 64, None)),
        ("full", None, (None, None)),
        ("truncated", "203.0.113.7", ("203.0.113.0", "203.0.113.0/24")),
        ("truncated", "203.0.113.0", ("203.0.113.0", "203.0.113.0/24")),
        ("truncated", "::ffff:203.0.113.7", ("203.0.113.0", "203.0.113.0/24")),
        ("truncated", "2001:db8:1:2::3", ("2001:db8:1::", "2001:db8:1::/48")),
        ("truncated", "ann-s-laptop.local", (None, None)),
        ("truncated", None, (None, None)),
        ("none", "203.0.113.7", (None, None)),
        ("none", "testclient", (None, None)),
        ("none", None, (None, None)),
    ],
)
def test_what_is_stored(policy: IpPolicy, ip: str | None, stored: tuple[str | None, str | None]) -> None:
    assert Privacy(ip=policy).stored(ip) == Stored(*stored)


def test_hashes_know_an_address_again_and_tell_networks_apart() -> None:
    one, again = HASHED.stored("203.0.113.7"), Privacy(ip="hashed", key=KEY.encode()).stored("::ffff:203.0.113.7")
    assert one == again
    assert one.ip is not None
    assert one.network is not None
    assert one.ip.startswith("h:")
    assert len(one.ip) == len(one.network) == 18
    neighbour, other = HASHED.stored("203.0.113.8"), HASHED.stored("203.0.114.7")
    assert neighbour.ip != one.ip
    assert neighbour.network == one.network != other.network
    assert HASHED.stored("203.0.113.0").ip != one.network
    with_another_key = Privacy(ip="hashed", key=generate_key()).stored("203.0.113.7")
    assert not {with_another_key.ip, with_another_key.network} & {one.ip, one.network}
    assert HASHED.stored("testclient").network is None
    assert HASHED.stored(None) == Stored(None, None)


@given(st.ip_addresses(), st.sampled_from([Privacy(ip="truncated"), HASHED, Privacy(ip="none")]))
def test_no_other_form_gives_the_address_away(address: Address, privacy: Privacy) -> None:
    stored = privacy.stored(str(address))
    plain = (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
    if stored.ip is not None and not stored.ip.startswith("h:"):
        kept = ipaddress.ip_address(stored.ip)
        low_bits = (1 << (8 if plain.version == 4 else 80)) - 1
        assert int(kept) & low_bits == 0
        assert int(kept) == int(plain) & ~low_bits
    else:
        assert str(plain) not in f"{stored.ip} {stored.network}"


@given(st.text(max_size=100))
def test_any_text_is_taken(text: str) -> None:
    for privacy in (Privacy(), Privacy(ip="truncated"), HASHED, Privacy(ip="none")):
        stored = privacy.stored(text)
        assert len(stored.ip or "") <= 64


def test_what_is_stored_of_an_events_personal_fields() -> None:
    fields: dict[str, str | int] = {"network": "2001:db8:1:ff00::/56", "user_agent": "Shop/1", "n": 1}
    ip = "2001:db8:1:ffff::7"
    assert Privacy().personal(fields, ip) == fields
    assert Privacy(ip="truncated").personal(fields, ip) == {**fields, "network": "2001:db8:1::/48"}
    assert HASHED.personal(fields, ip) == {**fields, "network": HASHED.stored(ip).network}
    assert Privacy(ip="none").personal(fields, ip) == {"user_agent": "Shop/1", "n": 1}
    assert Privacy(user_agent=False).personal(fields, ip) == {"network": "2001:db8:1:ff00::/56", "n": 1}
    assert Privacy(ip="none").personal({"n": 1}, None) == {"n": 1}
    assert fields["user_agent"] == "Shop/1"


def test_hashes_of_whole_networks() -> None:
    network = ipaddress.ip_network
    assert HASHED.stored_network(network("203.0.113.0/24")) == HASHED.stored("203.0.113.9").network
    assert HASHED.stored_network(network("2001:db8:1::/48")) == HASHED.stored("2001:db8:1:2::3").network
    assert HASHED.stored_network(network("203.0.112.0/23")) is None
    assert HASHED.stored_network(network("203.0.113.0/25")) is None
    assert Privacy().stored_network(network("203.0.113.0/24")) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ip": "partial"}, "ip is 'partial'"),
        ({"ip": None}, "ip is None"),
        ({"ip": []}, r"ip is \[\]"),
        ({"ip": "hashed"}, "needs a key"),
        ({"ip": "hashed", "key": ""}, "a key is empty"),
        ({"ip": "hashed", "key": "secret"}, "Privacy: a key has a word in it"),
        ({"ip": "hashed", "key": 5}, "a key is a int"),
        ({"ip": "hashed", "key": bytes(32)}, "few different bytes"),
        ({"key": KEY}, "nothing else has one"),
        ({"ip": "none", "key": KEY}, "nothing else has one"),
        ({"ip_for": 30}, "ip_for is 30"),
        ({"ip_for": timedelta(hours=23)}, "ip_for is"),
        ({"ip_for": timedelta(days=4000)}, "ip_for is"),
        ({"user_agent": "no"}, "user_agent is 'no'"),
    ],
    ids=lambda value: repr(value).replace(KEY, "KEY") if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Privacy(**settings)
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_repr() -> None:
    assert KEY not in repr(HASHED)
    assert HASHED.ip_for_micros is None
    assert Privacy(ip_for=timedelta(days=30)).ip_for_micros == 30 * 86_400 * 10**6
