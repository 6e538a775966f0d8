"""A sample of users: the same ones wherever they were seen, with all of their sessions, in a bounded room."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.bottom_k import MOST_SESSIONS, USERS, BottomK

pairs = st.lists(
    st.tuples(st.integers(0, 400).map(lambda n: n * 0x9E3779B97F4A7C15 % 2**64), st.integers(0, 40)), max_size=900
)


def of(seen: list[tuple[int, int]]) -> BottomK:
    sample = BottomK()
    for user, session in seen:
        sample.add(user, session)
    return sample


@given(pairs)
def test_it_has_the_lowest_users_with_all_their_sessions(seen: list[tuple[int, int]]) -> None:
    everybody: dict[int, set[int]] = {}
    for user, session in seen:
        everybody.setdefault(user, set()).add(session)
    expected = {user: set(sorted(everybody[user])[:MOST_SESSIONS]) for user in sorted(everybody)[:USERS]}
    assert of(seen).users == expected
    assert of(seen[::-1]).users == expected


@given(st.lists(pairs, max_size=3))
def test_merging_is_as_if_all_had_been_added_to_one(parts: list[list[tuple[int, int]]]) -> None:
    merged = BottomK()
    for part in parts:
        merged.merge(of(part))
    assert merged.encode() == of([pair for part in parts for pair in part]).encode()


@given(pairs)
def test_what_is_encoded_comes_back(seen: list[tuple[int, int]]) -> None:
    sample = of(seen)
    back = BottomK.decode(sample.encode())
    assert (back.users, back.counts()) == (sample.users, sample.counts())


def test_it_takes_so_much_room_and_no_more() -> None:
    chance = random.Random(1)
    sample = of([(chance.getrandbits(64) % 1000, chance.getrandbits(64)) for _ in range(50_000)])
    assert len(sample.encode()) == USERS * (9 + 4 * MOST_SESSIONS)


def test_it_tells_how_many_sessions_users_have() -> None:
    chance = random.Random(2)
    sample = BottomK()
    for _ in range(5000):
        user = chance.getrandbits(64)
        for _ in range(chance.choices([1, 2, 3], [6, 3, 1])[0]):
            sample.add(user, chance.getrandbits(64))
    counts = sample.counts()
    assert len(counts) == USERS
    # Six in ten have one session; of 256 by chance the number is within four standard deviations of that.
    assert abs(counts.count(1) / USERS - 0.6) < 4 * (0.6 * 0.4 / USERS) ** 0.5


@given(st.binary(max_size=60))
def test_bytes_that_are_none_are_refused(data: bytes) -> None:
    try:
        found = BottomK.decode(data)
    except ValueError:
        return
    assert all(found.users.values())


@pytest.mark.parametrize("cut", [1, 8, 9, 12])
def test_a_sample_that_was_cut_off_is_refused(cut: int) -> None:
    data = of([(1, 2)]).encode()
    with pytest.raises(ValueError, match="no sample"):
        BottomK.decode(data[:cut])


def test_a_user_can_be_taken_out() -> None:
    sample = of([(1, 2), (3, 4)])
    assert sample.discard(1)
    assert not sample.discard(1)
    assert sample.users == {3: {4}}
