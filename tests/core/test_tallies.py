"""Tallies: what is gathered, in a bounded room; many become one, and nothing is counted twice meanwhile."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.record import EndReason
from sessiondb.core.usage import HOURS, MOST_BYTES, OTHER, UNKNOWN, Gauge, Tally, merged, name_of, standing

SECOND = 1_000_000
names = st.one_of(st.none(), st.sampled_from(["desktop", "mobile", "Firefox on Linux", "DE", "US", "\ud800", "x" * 60]))
numbers = st.integers(0, 2**64 - 1)
steps = st.one_of(
    st.tuples(st.just("logged_in"), names, names, names),
    st.tuples(st.just("ended"), st.sampled_from([*EndReason, "newer"]).map(str), st.integers(0, 10**13)),
    st.tuples(st.just("active"), numbers, numbers),
)


def of(done: Sequence[tuple[object, ...]]) -> Tally:
    tally = Tally()
    for name, *arguments in done:
        getattr(tally, str(name))(*arguments)
    return tally


@given(st.lists(st.lists(steps, max_size=15), max_size=4))
def test_merging_is_as_if_one_had_gathered_all(parts: list[list[tuple[object, ...]]]) -> None:
    total = Tally()
    for part in parts:
        total.merge(Tally.decode(of(part).encode()))
    whole = of([step for part in parts for step in part])
    # Names may come in another order.
    assert total.encode() == whole.encode() or msgspec.msgpack.decode(total.encode()) == msgspec.msgpack.decode(
        whole.encode()
    )


def test_ends_are_counted_by_reason_and_measured_by_kind() -> None:
    tally = Tally()
    for reason, length in [
        (EndReason.LOGOUT, 10),
        (EndReason.REVOKED, 20),
        (EndReason.EXPIRED_IDLE, 30),
        (EndReason.LOGIN, 40),
        (EndReason.REFUSED, 50),
        (EndReason.UNDELIVERED, 60),
        ("newer", 70),
    ]:
        tally.ended(reason, length * SECOND)
    assert sum(tally.ends.values()) == 7
    assert (tally.lengths.count, tally.lengths.total) == (3, 100 * SECOND)
    assert (tally.expiries.count, tally.expiries.total) == (1, 30 * SECOND)


def test_what_nobody_knows_has_a_name_too() -> None:
    tally = Tally()
    tally.logged_in(None, "", None)
    tally.logged_in("x" * 17, "ö" * 25, "a country of nine")
    tally.logged_in("mobile", "\ud800", "DE")
    assert tally.devices == {UNKNOWN: 1, OTHER: 1, "mobile": 1}
    assert tally.agents == {UNKNOWN: 1, OTHER: 2}
    assert tally.countries == {UNKNOWN: 1, OTHER: 1, "DE": 1}


def test_there_are_so_many_names_and_no_more_and_none_is_lost() -> None:
    tally, total = Tally(), Tally()
    for number in range(1000):
        tally.logged_in("desktop", f"Program {number}", f"{number:03}")
    for _ in range(3):
        total.merge(tally)
    for counts, most in ((total.agents, 64), (total.countries, 256)):
        assert len(counts) <= most + 1
        assert sum(counts.values()) == 3000
    assert total.agents["Program 0"] == 3


def a_full_one(seed: int = 1, *, estimated: bool = False) -> Tally:
    """One that takes as much room as any can."""
    chance = random.Random(seed)
    tally = Tally()
    for _ in range(1025 if estimated else 1024):
        tally.users.add(chance.getrandbits(64))
        tally.sessions.add(chance.getrandbits(64))
    for _ in range(20_000):
        tally.sample.add(chance.getrandbits(64) % 256, chance.getrandbits(64))
    for number in range(300):
        tally.logged_in(f"device{number:08}", f"{number:048}", f"{number:08}")
        tally.ended(f"{number:032}", 1)
    for counts in (tally.devices, tally.agents, tally.countries, tally.ends):
        counts.update(dict.fromkeys(counts, 2**40))
    for histogram in (tally.lengths, tally.expiries, tally.gaps):
        histogram.buckets = dict.fromkeys(range(560), 2**40)
        histogram.count, histogram.total, histogram.most = 560 * 2**40, 2**63, 2**60
    for gauge in (tally.live, tally.holders):
        gauge.add(2**40, 2**60)
    tally.covers = frozenset(chance.randbytes(8) for _ in range(256))
    tally.merged_at = 2**60
    tally.created = tally.logins = tally.refused = 2**60
    return tally


def test_it_fits_into_a_sheet_whatever_happens() -> None:
    full = a_full_one()
    data = full.encode()
    assert 30_000 < len(data) <= MOST_BYTES
    back = Tally.decode(data)
    assert (back.created, back.lengths.total, back.covers) == (2**60, 2**63, full.covers)


@pytest.mark.parametrize("estimated", [False, True])
def test_what_is_encoded_comes_back(estimated: bool) -> None:
    tally = a_full_one(estimated=estimated)
    back = Tally.decode(tally.encode())
    assert back.encode() == tally.encode()
    assert back.users.count == tally.users.count
    assert (back.live, back.holders) == (tally.live, tally.holders)


@given(st.binary(max_size=80))
def test_bytes_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Tally.decode(data)


@given(st.data())
def test_bytes_that_were_changed_are_refused_or_read(data: st.DataObject) -> None:
    whole = bytearray(of([("active", 1, 2), ("ended", "logout", 5 * SECOND), ("logged_in", "a", "b", "c")]).encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    try:
        Tally.decode(bytes(whole))
    except ValueError:
        pass


def test_another_version_is_refused_and_more_fields_are_passed_over() -> None:
    plain = msgspec.msgpack.decode(Tally().encode())
    assert Tally.decode(msgspec.msgpack.encode([*plain, "new"])).logins == 0
    with pytest.raises(ValueError, match="version 2"):
        Tally.decode(msgspec.msgpack.encode([2, *plain[1:]]))


def test_a_gauge_knows_its_bounds_and_its_last_value() -> None:
    gauge = Gauge()
    gauge.add(5, 20)
    gauge.add(9, 10)
    other = Gauge()
    other.add(2, 15)
    gauge.merge(other)
    gauge.merge(Gauge())
    assert gauge == Gauge(3, 16, 2, 9, 5, 20)


def test_a_user_can_be_forgotten() -> None:
    tally = of([("active", 1, 10), ("active", 2, 20)])
    assert tally.forget(1)
    assert not tally.forget(1)
    assert (tally.users.count, tally.sample.counts()) == (1, [1])


# -- many of one time -----------------------------------------------------------------------------------------


def part(number: int) -> tuple[bytes, Tally]:
    tally = Tally()
    tally.logins = 10**number
    return name_of(HOURS, 7, f"w{number}"), tally


def logins(tallies: dict[bytes, Tally]) -> int:
    return sum(tallies[name].logins for name in standing(tallies))


def merge_into(stored: dict[bytes, Tally], seen: dict[bytes, Tally]) -> bytes:
    """What one who has ``seen`` these does to what is stored; returns the name of the new one."""
    names = standing(seen)
    writer, total = merged(seen, names, [name for name in seen if name not in names], 1)
    name = name_of(HOURS, 7, writer)
    stored[name] = total
    return name


def test_names_are_all_different() -> None:
    places = list(itertools.product((HOURS, "usage_day"), (1, 11), ("1/a", "a")))
    assert len({name_of(*place) for place in places}) == len(places)
    assert len(name_of(*places[0])) == 8


def test_a_merged_one_counts_in_the_place_of_its_parts() -> None:
    stored = dict(part(number) for number in range(4))
    assert logins(stored) == 1111
    merge_into(stored, dict(stored))
    assert logins(stored) == 1111


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_nothing_is_counted_twice_whichever_part_goes_first(first: int) -> None:
    parts = dict(part(number) for number in range(4))
    stored = dict(parts)
    merge_into(stored, dict(stored))
    order = list(parts)[first:] + list(parts)[:first]
    for name in order:
        del stored[name]
        assert logins(stored) == 1111


def test_two_who_merge_the_same_at_once_write_the_same() -> None:
    parts = dict(part(number) for number in range(4))
    backwards = dict(reversed(list(parts.items())))
    stored = dict(parts)
    assert merge_into(stored, parts) == merge_into(stored, backwards)
    assert logins(stored) == 1111


def test_who_has_seen_more_counts() -> None:
    parts = dict(part(number) for number in range(4))
    early = dict(list(parts.items())[:2])
    for order in ((early, parts), (parts, early)):
        stored = dict(parts)
        for seen in order:
            merge_into(stored, seen)
        assert logins(stored) == 1111
        for name in parts:
            del stored[name]
        assert logins(stored) == 1111
        # And the next one to merge finds one alone, and leaves it.
        assert len(standing(stored)) == 1


def test_one_that_comes_late_is_merged_with_the_merged() -> None:
    stored = dict(part(number) for number in range(3))
    first = merge_into(stored, dict(stored))
    name, late = part(3)
    stored[name] = late
    assert logins(stored) == 1111
    second = merge_into(stored, dict(stored))
    assert logins(stored) == 1111
    # Whatever is deleted now, in whatever order.
    for gone in [first, *[name for name in stored if name not in (first, second)]]:
        del stored[gone]
        assert logins(stored) == 1111
