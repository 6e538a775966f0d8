"""Durations: every quantile is right to within 2.5 %, and histograms of many writers are as good as one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.histogram import ERROR, MOST_BUCKETS, Histogram
from sessiondb.core.policy import SECOND

LONGEST = 10 * 366 * 86_400 * SECOND  # no policy allows more

durations = st.one_of(st.integers(1000, LONGEST), st.integers(1000, 3600 * SECOND))


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def contents(histogram: Histogram) -> tuple[object, ...]:
    return histogram.buckets, histogram.count, histogram.total, histogram.least, histogram.most


@given(st.lists(durations, min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_right_to_within_the_error(values: list[int], q: float) -> None:
    true = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert of(values).quantile(q) == pytest.approx(true, rel=ERROR * 1.0001)


@given(st.lists(durations, min_size=1, max_size=60))
def test_mean_and_bounds_are_exact(values: list[int]) -> None:
    histogram = of(values)
    assert contents(histogram)[1:] == (len(values), sum(values), min(values), max(values))
    assert histogram.mean == sum(values) / len(values)


@given(st.lists(st.lists(durations, max_size=20), max_size=4))
def test_merging_is_as_if_all_had_been_added_to_one(parts: list[list[int]]) -> None:
    merged = Histogram()
    for part in parts:
        merged.merge(of(part))
    assert contents(merged) == contents(of([value for part in parts for value in part]))


def test_what_is_shorter_than_a_millisecond_is_nothing_and_what_is_negative_too() -> None:
    histogram = of([0, 999, -5])
    assert contents(histogram) == ({0: 3}, 3, 999, 0, 999)
    assert histogram.quantile(0.9) == 0.0


def test_one_of_nothing_says_nothing() -> None:
    assert (Histogram().quantile(0.5), Histogram().mean) == (None, None)


def test_what_is_too_long_for_all_buckets_is_in_the_last() -> None:
    histogram = of([2**62])
    assert histogram.buckets == {MOST_BUCKETS - 1: 1}
    assert of([LONGEST]).buckets.keys() < set(range(MOST_BUCKETS - 1))


@given(st.lists(durations, max_size=20))
def test_it_can_be_made_of_what_it_consists_of(values: list[int]) -> None:
    histogram = of(values)
    made = Histogram.of(histogram.buckets, histogram.total, histogram.least, histogram.most)
    assert contents(made) == contents(histogram)


@pytest.mark.parametrize(
    ("buckets", "total", "least", "most"),
    [({-1: 1}, 1, 0, 1), ({MOST_BUCKETS: 1}, 1, 0, 1), ({1: 0}, 1, 0, 1), ({1: 1}, 1, 2, 1), ({1: 1}, 1, 0, 2)],
)
def test_what_cannot_be_is_refused(buckets: dict[int, int], total: int, least: int, most: int) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram.of(buckets, total, least, most)
