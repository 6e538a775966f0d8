"""What a record keeps of where its session was used from: small, bounded, and right as far as anybody knows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.activity import (
    EARLIER,
    MOST_PLACES,
    Entries,
    Entry,
    Visit,
    after,
    clients_of,
    known_places,
    sightings_of,
)
from sessiondb.core.client import (
    Client,
    Sighting,
    UsedFrom,
    agent_text,
    encode,
    last_sighting,
    restated,
    without_address,
)
from sessiondb.core.keys import generate_key
from sessiondb.core.policy import SECOND
from sessiondb.core.privacy import Privacy
from sessiondb.core.record import Record, decode_client
from sessiondb.core.token import Sid

START = 1_800_000_000 * SECOND
MINUTE = 60 * SECOND
CHROME = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/137.0.0.0 Mobile Safari/537.36"
)


def sighting(network: int, host: int = 7, agent: str | None = CHROME) -> Sighting:
    return Sighting(f"203.0.{network}.{host}", agent, "DE", f"203.0.{network}.0/24")


def visit(seen: Sighting, minute: int, requests: int = 1) -> Visit:
    return Visit(seen, START + minute * MINUTE, START + minute * MINUTE, requests)


def record(client: bytes, last_seen_minute: int = 0, first: bytes | None = None) -> Record:
    seen_at = START + last_seen_minute * MINUTE
    return Record(
        Sid("01a3185c-5000-780d-bcec-8cb002302161"),
        b"",
        b"",
        START,
        seen_at,
        0,
        0,
        0,
        client_first=client if first is None else first,
        client_last=client,
    )


def used(client: bytes, last_seen_minute: int = 0) -> tuple[UsedFrom, ...]:
    return clients_of(record(client, last_seen_minute))[1].places


def test_one_network_needs_no_list() -> None:
    home = sighting(1)
    client = encode(home)
    for minute in range(1, 5):
        client = after(client, record(client, minute - 1), [visit(home, minute, 10)], home, None)
    assert json.loads(client) == {
        "ip": "203.0.1.7",
        "user_agent": CHROME,
        "country": "DE",
        "network": "203.0.1.0/24",
        "requests": 41,
    }
    assert len(client) < 250
    place = UsedFrom("203.0.1.0/24", "203.0.1.7", "DE", START, START + 4 * MINUTE, 41)
    assert used(client, 4) == (place,)


def test_another_address_of_a_network_is_no_other_place() -> None:
    client = encode(sighting(1))
    client = after(client, record(client), [visit(sighting(1, 9), 1)], sighting(1, 9), None)
    assert used(client, 1) == (UsedFrom("203.0.1.0/24", "203.0.1.9", "DE", START, START + MINUTE, 2),)


def test_places_are_told_apart_newest_first() -> None:
    home, office = sighting(1), sighting(2)
    client = encode(home)
    visits = [visit(home, 1, 4), visit(office, 2, 3), visit(home, 3, 2)]
    client = after(client, record(client), visits, home, None)
    assert used(client, 3) == (
        UsedFrom("203.0.1.0/24", "203.0.1.7", "DE", START, START + 3 * MINUTE, 7),
        UsedFrom("203.0.2.0/24", "203.0.2.7", "DE", START + 2 * MINUTE, START + 2 * MINUTE, 3),
    )
    assert decode_client(client).requests == 10
    assert len(client) < 400
    assert known_places(client) == {"203.0.1.0/24", "203.0.2.0/24"}
    assert [one.ip for one in sightings_of(record(client))] == ["203.0.1.7", "203.0.1.7", "203.0.1.7", "203.0.2.7"]


def test_the_place_that_was_left_longest_ago_goes() -> None:
    client = encode(sighting(0))
    for number in range(1, MOST_PLACES + 3):
        now = sighting(number)
        client = after(client, record(client, number - 1), [visit(now, number)], now, None)
    shown = clients_of(record(client, MOST_PLACES + 2))[1]
    assert [place.network for place in shown.places] == [f"203.0.{number}.0/24" for number in range(10, 2, -1)]
    assert shown.requests == MOST_PLACES + 3


def test_the_largest_is_small() -> None:
    agent = "x" * 512
    client = b"{}"
    for number in range(9):
        network = f"2001:db8:{0xF000 + number:x}"
        now = Sighting(f"{network}:ffff:ffff:ffff:ffff:ffff", agent, "DE", f"{network}::/48")
        client = after(client, record(client), [Visit(now, START, START, 10**9)], now, None)
    assert len(used(client)) == MOST_PLACES
    assert len(client) <= 1600


def test_places_go_when_they_are_old_enough() -> None:
    home, office = sighting(1), sighting(2)
    client = after(encode(home), record(encode(home)), [visit(office, 5)], office, None)
    kept = after(client, record(client, 5), [visit(office, 9)], office, START + MINUTE)
    assert b"203.0.1." not in kept
    assert used(kept, 9) == (UsedFrom("203.0.2.0/24", "203.0.2.7", "DE", START + 5 * MINUTE, START + 9 * MINUTE, 2),)
    assert decode_client(kept).requests == 3


def test_what_is_too_old_is_not_shown() -> None:
    home, office = sighting(1), sighting(2)
    client = after(encode(home), record(encode(home)), [visit(office, 5)], office, None)
    first = without_address(encode(home))
    assert b"203." not in first
    stored = record(client, 5, first)
    shown_first, shown = clients_of(stored, START)
    assert (shown_first.ip, shown_first.network, shown_first.user_agent) == ("203.0.1.7", "203.0.1.0/24", CHROME)
    shown_first, shown = clients_of(stored, START + 1)
    assert (shown_first.ip, shown_first.network, shown_first.country) == (None, None, "DE")
    assert (shown.ip, [place.ip for place in shown.places]) == ("203.0.2.7", ["203.0.2.7"])
    shown_first, shown = clients_of(stored, START + 6 * MINUTE)
    assert (shown.ip, shown.network, shown.country, shown.places) == (None, None, "DE", ())
    # Of settings that were made later: the address is there, and not shown.
    assert clients_of(record(encode(home)), START + 1)[0].ip is None


def test_without_addresses_a_country_is_a_place_and_nothing_is_none() -> None:
    client = after(b"{}", record(b"{}"), [visit(Sighting(), 1, 5)], Sighting(), None)
    assert json.loads(client) == {"requests": 6}
    assert used(client) == ()
    abroad = Sighting(None, None, "FR", None)
    client = encode(Sighting(None, None, "DE", None))
    client = after(client, record(client), [visit(abroad, 1)], abroad, None)
    assert [place.country for place in used(client)] == ["FR", "DE"]


@given(st.binary(max_size=60) | st.sampled_from([b"null", b"[]", b'{"places":5}', b'{"places":[[1]]}', b'{"ip":7}']))
def test_what_cannot_be_read_is_begun_anew(client: bytes) -> None:
    home = sighting(1)
    new = after(client, record(client), [visit(home, 1, 2)], home, None)
    assert decode_client(new).ip == "203.0.1.7"
    assert isinstance(clients_of(record(client))[1], Client)
    sightings_of(record(client))
    last_sighting(client)


VISITS = st.lists(st.builds(visit, st.builds(sighting, st.integers(0, 12)), st.integers(0, 50), st.integers(0, 99)))


@given(st.lists(VISITS, max_size=6), st.integers(0, 12))
def test_numbers_only_grow_and_the_list_does_not(touches: list[list[Visit]], last: int) -> None:
    client = encode(sighting(0))
    total, minute, now = 1, 0, sighting(last)
    for visits in touches:
        minute += 60
        ago = minute * MINUTE
        moved = [Visit(one.seen, one.first + ago, one.last + ago, one.requests) for one in visits]
        moved.append(Visit(now, START + ago, START + ago, 0))
        client = after(client, record(client, minute - 1), moved, now, None)
        total += sum(one.requests for one in visits)
        places = used(client, minute)
        assert (decode_client(client).requests or 1) == total
        assert decode_client(client).network == now.network
        assert 1 <= len(places) <= MOST_PLACES
        assert len({place.network for place in places}) == len(places)
        assert all(place.first_seen_at <= place.last_seen_at for place in places)
        assert sum(place.requests for place in places) <= total
        assert [*places] == sorted(places, key=lambda place: -place.last_seen_at)


# -- what a process remembers ---------------------------------------------------------------------------------


def test_an_entry_keeps_what_waits_by_place() -> None:
    home, office = sighting(1), sighting(2)
    entry = Entry("203.0.1.7", None, home, START, START, requests=3)
    entry.last = START + SECOND
    entry.move("203.0.2.7", None, office, START + MINUTE)
    entry.requests = 2
    taken = entry.take()
    assert [(one.seen, one.first, one.last, one.requests) for one in taken] == [
        (home, START, START + SECOND, 3),
        (office, START + MINUTE, START + MINUTE, 2),
    ]
    assert [one.requests for one in entry.take()] == [0]


def test_who_goes_to_and_fro_has_been_at_two_places() -> None:
    home, office = sighting(1), sighting(2)
    entry = Entry("", None, home, START, START)
    for number in range(20):
        entry.move("", None, (home, office)[number % 2], START + number)
        entry.requests += 2
        entry.last = START + number
    taken = entry.take()
    assert sum(one.requests for one in taken) == 40
    assert [(one.seen, one.first, one.last, one.requests) for one in taken[:2]] == [
        (office, START + 1, START + 17, 18),
        (home, START, START + 18, 20),
    ]


def test_who_flits_about_is_remembered_in_part() -> None:
    entry = Entry("", None, sighting(0), START, START, requests=1)
    for number in range(1, 50):
        entry.move(str(number), None, sighting(number), START + number)
        entry.requests = 1
    taken = entry.take()
    assert len(taken) == EARLIER + 1
    assert taken[-1].seen == sighting(49)


def test_entries_are_bounded_and_the_newest_stay() -> None:
    entries = Entries(100)
    young = entries.young
    for number in range(1000):
        entries.add(str(number), Entry("", None, Sighting(), 0, 0))
        assert len(entries) <= 200
        assert all(entries.get(str(recent)) is not None for recent in range(max(0, number - 50), number))
    assert entries.get("0") is None
    assert entries.young is young


# -- what is stored of a client -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, None),
        (b"", ""),
        (b"Shop/1", "Shop/1"),
        (b"a\0b\x1b[31mc\x7f\r\n", "ab[31mc"),
        ("é\u202e".encode(), "é\u202e"),
        (b"\xff\xfeShop", "Shop"),
        (b"x" * 600, "x" * 512),
    ],
)
def test_user_agents_are_text(raw: bytes | None, text: str | None) -> None:
    assert agent_text(raw) == text


def test_an_older_record_is_read_by_the_settings_of_today() -> None:
    full = Sighting("::ffff:203.0.113.7", "Shop/1", "DE", None)
    assert restated(full, Privacy()) == Sighting("203.0.113.7", "Shop/1", "DE", "203.0.113.0/24")
    assert restated(full, Privacy(ip="truncated")).ip == "203.0.113.0"
    assert restated(full, Privacy(ip="none", user_agent=False)) == Sighting(None, None, "DE", None)
    hashed = Sighting("h:abc", "Shop/1", None, "h:def")
    with_key = Privacy(ip="hashed", key=generate_key())
    assert restated(hashed, with_key) == hashed
    assert restated(hashed, Privacy()) == restated(hashed, Privacy(ip="none")) == Sighting(None, "Shop/1")
    assert restated(hashed, Privacy(user_agent=False)).user_agent is None
    named = Sighting("testclient", "Shop/1")
    assert restated(named, Privacy()) == named
