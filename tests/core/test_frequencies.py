"""How often marks are seen by everybody: counted by many, merged, fading, bounded."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.decay import HALF_LIFE
from sessiondb.core.features import Marks
from sessiondb.core.frequencies import PRIOR_LOGINS, PRIOR_SHARES, SHEET_BYTES, Frequencies
from sessiondb.core.policy import SECOND

NOW = 1_800_000_000 * SECOND
DAY = 86_400 * SECOND
NONE: Marks = (0,) * 8

marks = st.tuples(*[st.integers(0, 40)] * 8)
logins = st.lists(st.tuples(marks, st.integers(0, 90 * DAY)), max_size=40)


def counted(found: list[tuple[Marks, int]], **settings: int) -> Frequencies:
    frequencies = Frequencies(**settings)
    for one, after in found:
        frequencies.count(one, NOW + after)
    return frequencies


def of(mark: int) -> Marks:
    return (mark,) * 8  # type: ignore[return-value]


def likely(frequencies: Frequencies, mark: int, now: int = NOW) -> list[float]:
    return frequencies.probabilities(of(mark), now)


@given(logins, st.integers(1, 4))
def test_what_many_have_counted_is_what_one_would_have(found: list[tuple[Marks, int]], workers: int) -> None:
    parts = [counted(found[place::workers]) for place in range(workers)]
    merged, other_way = Frequencies(), Frequencies()
    for part in parts:
        merged.merge(part)
    for part in reversed(parts):
        other_way.merge(part)
    alone, later = counted(found), NOW + 100 * DAY
    assert merged.values() == alone.values()
    for mark in range(1, 41, 7):
        assert likely(merged, mark, later) == pytest.approx(likely(alone, mark, later))
        assert likely(other_way, mark, later) == pytest.approx(likely(alone, mark, later))


@given(logins)
def test_a_sheet_has_what_was_counted(found: list[tuple[Marks, int]]) -> None:
    alone, now = counted(found), NOW + 90 * DAY
    sheet = Frequencies.decode(alone.encode(now))
    assert sheet.logins(now) == pytest.approx(alone.logins(now), abs=1 / 32)
    for mark in range(1, 41, 7):
        # A count of one is the least that matters, and is kept to a sixteenth.
        assert likely(sheet, mark, now) == pytest.approx(likely(alone, mark, now), rel=0.05)


def test_counts_fade_by_half() -> None:
    frequencies = counted([(of(7), 0)] * 1000)
    then = NOW + HALF_LIFE
    assert frequencies.logins(then) == pytest.approx(500)
    for _ in range(500):
        frequencies.count(of(8), then)
    [old, *_], [new, *_] = likely(frequencies, 7, then), likely(frequencies, 8, then)
    assert old == pytest.approx(new)
    assert frequencies.logins(then) == pytest.approx(1000)


def test_counts_of_years_neither_overflow_nor_weigh() -> None:
    frequencies = Frequencies(half_life=DAY)
    for day in range(0, 4000, 10):
        frequencies.count(of(day % 30 + 1), NOW + day * DAY)
    end = NOW + 3990 * DAY
    assert 1 <= frequencies.logins(end) < 1.01
    assert all(0 < one < 1 for one in likely(frequencies, 1, end))
    frequencies.count(of(1), NOW - 4000 * DAY)  # a clock that was set back
    assert frequencies.logins(end) < 1.01


def test_probabilities_are_by_the_formula() -> None:
    frequencies = counted([(of(1), 0)] * 30 + [(of(2), 0)] * 10 + [(NONE, 0)] * 10)
    for found, count in ((likely(frequencies, 1), 30), (likely(frequencies, 2), 10), (likely(frequencies, 3), 1)):
        for probability, share in zip(found, PRIOR_SHARES, strict=True):
            assert probability == pytest.approx((count + PRIOR_LOGINS * share) / (50 + 2 + PRIOR_LOGINS))


def test_before_the_first_login_values_have_the_prior() -> None:
    for probability, share in zip(likely(Frequencies(), 5), PRIOR_SHARES, strict=True):
        assert probability == pytest.approx(share + 1 / PRIOR_LOGINS)


def test_of_too_many_values_the_rare_go_first() -> None:
    frequencies = Frequencies(most=100)
    for mark in range(1, 5001):
        frequencies.count(of(mark), NOW)
        frequencies.count(of(mark % 50 + 10_000), NOW)
    assert all(count <= 126 for count in frequencies.values())
    assert frequencies.logins(NOW) == 10_000
    for mark in range(10_000, 10_050):
        assert likely(frequencies, mark)[0] == pytest.approx(100 / (10_000 + PRIOR_LOGINS), rel=0.02)
    assert likely(frequencies, 1) == likely(frequencies, 999_999)  # forgotten is as never seen


def test_a_merge_stays_within_the_bound() -> None:
    total = Frequencies(most=1000)
    for worker in range(20):
        total.merge(counted([(of(1 + worker * 1000 + one), 0) for one in range(500)], most=1000))
    assert all(count <= 1250 for count in total.values())


@pytest.mark.parametrize("size", [60, 100, 1000, SHEET_BYTES])
def test_a_sheet_is_no_larger_than_it_may_be_and_has_what_is_common(size: int) -> None:
    rng = random.Random(size)
    frequencies, truth = Frequencies(), Counter()
    for _ in range(20_000):
        mark = int(rng.paretovariate(0.5)) % 1_000_000 + 1
        truth[mark] += 1
        frequencies.count(of(mark), NOW)
    sheet = frequencies.encode(NOW, size)
    assert len(sheet) <= size
    found = Frequencies.decode(sheet)
    assert found.logins(NOW) == 20_000
    kept = min(found.values())
    if size >= 1000:
        assert kept >= 9
        for mark, count in truth.most_common(9):
            assert likely(found, mark)[0] == pytest.approx(count / 20_000, rel=0.2)


def test_sheets_of_days_fold_into_one() -> None:
    rng = random.Random(1)
    days = [counted([(of(rng.randint(1, 200)), day * DAY)] * 50) for day in range(60)]
    sheets = [one.encode(NOW + day * DAY) for day, one in enumerate(days)]
    end = NOW + 60 * DAY
    all_, folded = Frequencies.merged(sheets), Frequencies.decode(Frequencies.merged(sheets).encode(end))
    assert all_.logins(end) == pytest.approx(sum(50 * 0.5 ** ((60 - day) / 30) for day in range(60)), rel=1e-3)
    for mark in range(1, 201, 9):
        assert likely(folded, mark, end) == pytest.approx(likely(all_, mark, end), rel=0.05)


def test_what_is_no_sheet_is_refused() -> None:
    sheet = counted([(of(one), 0) for one in range(1, 200)]).encode(NOW)
    for cut in range(0, len(sheet), 97):
        with pytest.raises(ValueError):
            Frequencies.decode(sheet[:cut])
    with pytest.raises(ValueError, match="after their end"):
        Frequencies.decode(sheet + b"\0")
    with pytest.raises(ValueError, match="version 9"):
        Frequencies.decode(b"\x09" + sheet[1:])


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for tail in (data, b"\x01" + data):
        try:
            Frequencies.decode(tail)
        except ValueError:
            continue
