"""Networks, buckets and suspicions: what is counted together, how much is let through, how little is remembered."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.limits import Buckets, Limits, Suspicions
from sessiondb.core.policy import MINUTE, SECOND

START = 1_800_000_000 * SECOND


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2ff:3::4", "2001:db8:1:200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("testclient", "testclient"),
        ("", ""),
        ("192.0.2.077", "192.0.2.077"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_addresses_of_one_network_are_one(address: str, network: str) -> None:
    assert Limits().network_of(address) == network


def test_how_much_of_an_address_counts_is_a_setting() -> None:
    limits = Limits(ipv4_prefix=32, ipv6_prefix=48)
    assert limits.network_of("192.0.2.77") == "192.0.2.77/32"
    assert limits.network_of("2001:db8:1:2ff::") == "2001:db8:1::/48"


@given(st.ip_addresses(), st.integers(8, 32), st.integers(16, 128))
def test_an_address_is_in_its_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, v4: int, v6: int) -> None:
    network = ipaddress.ip_network(Limits(ipv4_prefix=v4, ipv6_prefix=v6).network_of(str(address)))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    assert (mapped or address) in network


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    assert len(Limits().network_of(text)) <= 64


@pytest.mark.security("D2")
def test_a_network_has_so_many_at_once_and_as_many_again_in_a_minute() -> None:
    buckets = Buckets(6, 100)
    assert [buckets.take("a", START) for _ in range(6)] == [0.0] * 6
    assert buckets.take("a", START) == pytest.approx(10.0)
    assert buckets.take("b", START) == 0.0
    assert buckets.take("a", START + 4 * SECOND) == pytest.approx(6.0)
    assert buckets.take("a", START + 10 * SECOND) == 0.0
    assert buckets.take("a", START + 10 * SECOND) == pytest.approx(10.0)
    later = START + 60 * MINUTE
    assert [buckets.take("a", later) for _ in range(7)] == [0.0] * 6 + [pytest.approx(10.0)]


@given(
    per_minute=st.integers(1, 20),
    steps=st.lists(st.integers(-30 * SECOND, 30 * SECOND), min_size=1, max_size=200),
)
def test_never_more_than_the_burst_and_the_rate_whatever_the_clock_does(per_minute: int, steps: Sequence[int]) -> None:
    buckets = Buckets(per_minute, 100)
    now, forward, taken = START, 0, 0
    for step in steps:
        now += step
        forward += max(0, step)
        taken += buckets.take("a", now) == 0.0
    assert taken <= per_minute + forward * per_minute / MINUTE + 1e-6


@given(st.integers(1, 1000))
def test_whoever_waits_as_long_as_told_is_let_through(per_minute: int) -> None:
    buckets = Buckets(per_minute, 100)
    now = START
    while not (wait := buckets.take("a", now)):
        pass
    assert 0 < wait <= 60 / per_minute + 1e-6
    assert buckets.take("a", now + round(wait * SECOND) + 1) == 0.0


def test_what_is_remembered_is_bounded_and_the_quiet_are_forgotten_first() -> None:
    buckets, suspicions = Buckets(1, 50), Suspicions(5, 50)
    for number in range(1000):
        buckets.take("busy", START)
        buckets.take(f"n{number}", START)
        suspicions.bad_token("busy", "unknown", START)
        suspicions.bad_token(f"n{number}", "unknown", START)
    assert (len(buckets), len(suspicions)) == (50, 50)
    assert buckets.take("busy", START) > 0
    assert suspicions.worst(1)[0].network == "busy"
    assert suspicions.worst(1)[0].unknown == 1000


def test_guessing_is_told_once_for_each_network_and_minute() -> None:
    suspicions = Suspicions(3, 100)
    told = [suspicions.bad_token("a", kind, START) for kind in ("unknown", "forged", "unknown", "forged", "unknown")]
    assert told == [False, False, False, True, False]
    assert not suspicions.bad_token("b", "unknown", START)
    told = [suspicions.bad_token("a", "unknown", START + MINUTE) for _ in range(5)]
    assert told == [False, False, False, True, False]


def test_tokens_of_ended_sessions_are_counted_and_are_no_guesses() -> None:
    suspicions = Suspicions(3, 100)
    assert not any(suspicions.bad_token("office", "ended", START) for _ in range(500))
    [office] = suspicions.worst(10)
    assert (office.ended, office.unknown, office.forged, office.last_at) == (500, 0, 0, START)


def test_the_worst_come_first_and_no_more_than_asked_for() -> None:
    suspicions = Suspicions(None, 100)
    for number in range(10):
        for _ in range(number):
            assert not suspicions.bad_token(f"n{number}", "forged", START)
    assert suspicions.refused("n0", START)
    assert not suspicions.refused("n0", START)
    assert suspicions.refused("n0", START + MINUTE)
    assert [one.network for one in suspicions.worst(3)] == ["n9", "n8", "n7"]
    assert suspicions.worst(0) == []
    assert {one.network: one.refused for one in suspicions.worst(100)}["n0"] == 3


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"anonymous_per_minute": 0}, "anonymous_per_minute"),
        ({"anonymous_per_minute": True}, "anonymous_per_minute"),
        ({"anonymous_per_minute": 1.5}, "anonymous_per_minute"),
        ({"max_keys": 0}, "max_keys"),
        ({"max_keys": None}, "max_keys"),
        ({"guesses_per_minute": 0}, "guesses_per_minute"),
        ({"ipv4_prefix": 33}, "ipv4_prefix"),
        ({"ipv6_prefix": 129}, "ipv6_prefix"),
        ({"networks": 1}, "networks"),
        ({"networks": "many"}, "networks"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, int], name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Limits: {name}"):
        Limits(**settings)
