"""A user's latest logins in a few bytes each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core import history
from sessiondb.core.history import ENTRIES, ENTRY_BYTES, Entry, decode, encode, next_number
from sessiondb.core.policy import SECOND
from sessiondb.stores import base
from sessiondb.stores.memory import MemoryStore

NOW = 1_800_000_000 * SECOND
MARKS = (1, 2, 3, 4, 5, 6, 7, 0xFFFFFFFF)

entries = st.builds(
    Entry,
    at=st.integers(0, (1 << 34) - 1).map(lambda seconds: seconds * SECOND),
    marks=st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 8),
    number=st.integers(1, 15),
    latitude=st.integers(-9000, 9000).map(lambda one: one / 100),
    longitude=st.integers(-18000, 18000).map(lambda one: one / 100),
    radius=st.floats(0.1, 20_000),
    country=st.none() | st.sampled_from(["NO", "SE"]),
    flags=st.integers(0, 255),
    client=st.integers(0, 0xFFFF),
)


def test_the_store_keeps_entries_of_this_size() -> None:
    assert (ENTRY_BYTES, ENTRIES) == (base.HISTORY_ENTRY_BYTES, base.HISTORY_ENTRIES)


@given(st.lists(entries, max_size=ENTRIES))
def test_what_is_written_is_read(written: list[Entry]) -> None:
    raw = b"".join(map(encode, written))
    assert len(raw) == len(written) * ENTRY_BYTES
    for one, found in zip(written, decode(raw), strict=True):
        assert found.radius == pytest.approx(one.radius, rel=0.031)
        for name in ("at", "marks", "number", "latitude", "longitude", "country", "flags", "client"):
            assert getattr(found, name) == getattr(one, name), name


def test_a_login_without_a_place() -> None:
    [found] = decode(encode(Entry(at=NOW, marks=MARKS)))
    assert found == Entry(at=NOW, marks=MARKS)


@pytest.mark.parametrize(
    "odd",
    [
        {"latitude": 91.0, "longitude": 0.0},
        {"latitude": 0.0, "longitude": float("nan")},
        {"latitude": float("inf"), "longitude": 0.0},
        {"latitude": 10.0},
        {"radius": -1.0},
        {"radius": float("nan")},
        {"country": "NOR"},
        {"country": ""},
    ],
    ids=str,
)
def test_a_place_that_is_none_is_not_kept(odd: dict[str, object]) -> None:
    [found] = decode(encode(Entry(at=NOW, marks=MARKS, **odd)))  # type: ignore[arg-type]
    assert found == Entry(at=NOW, marks=MARKS)


def test_numbers_outside_of_their_ranges_are_cut() -> None:
    huge = Entry(at=1 << 70, marks=MARKS, number=400, radius=1e30, flags=0x1FF, client=0x1FFFF)
    [found] = decode(encode(huge))
    assert (found.at // SECOND, found.number, found.flags, found.client) == ((1 << 34) - 1, 15, 0xFF, 0xFFFF)
    assert found.radius is not None
    assert found.radius > 40_000
    [found] = decode(encode(Entry(at=-5, marks=MARKS, number=-1, country="é1")))
    assert (found.at, found.number, found.country) == (0, 1, "?1")


def test_entries_of_the_same_login_differ() -> None:
    assert len({encode(Entry(at=NOW, marks=MARKS)) for _ in range(200)}) > 50


def test_what_a_later_version_has_written_and_what_is_cut_is_left_out() -> None:
    mine = encode(Entry(at=NOW, marks=MARKS))
    later = bytes([mine[0] | 0x80]) + mine[1:]
    assert [one.at for one in decode(later + mine + mine[:20])] == [NOW]


@given(st.binary(max_size=ENTRIES * ENTRY_BYTES))
def test_any_bytes_can_be_read(raw: bytes) -> None:
    assert len(decode(raw)) <= len(raw) // ENTRY_BYTES


def test_logins_are_numbered_until_they_are_many() -> None:
    past: list[Entry] = []
    numbers = []
    for _ in range(20):
        numbers.append(next_number(past))
        past = [Entry(at=NOW, marks=MARKS, number=numbers[-1]), *past][:ENTRIES]
    assert numbers == [*range(1, 16), 15, 15, 15, 15, 15]
    assert history.next_number([]) == 1


async def test_a_store_returns_the_newest_first() -> None:
    store = MemoryStore()
    await store.open()
    logins = [("ann", encode(Entry(at=NOW + day * SECOND, marks=MARKS))) for day in range(14)]
    await store.record_logins(logins, NOW + 100 * SECOND)
    found = decode((await store.profile("ann", [])).history)
    await store.close()
    assert [(one.at - NOW) // SECOND for one in found] == list(range(13, 3, -1))
