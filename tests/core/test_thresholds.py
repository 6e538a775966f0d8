"""From which score on a login is questioned, learnt without attacks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.decay import HALF_LIFE
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policy import SECOND
from sessiondb.core.scoring import Score
from sessiondb.core.thresholds import (
    LENGTHS,
    PRIOR,
    PRIOR_LOGINS,
    PRIOR_SHARES,
    Questioned,
    Thresholds,
    bin_of,
    edge_of,
)

NOW = 1_800_000_000 * SECOND


def score_of(value: float, number: int = 5) -> Score:
    return Score(value, value, 1.0, (None,) * 8, min(number, 10), number)


def learnt(values: list[float], number: int = 5, **settings: int) -> Thresholds:
    thresholds = Thresholds(**settings)
    for value in values:
        thresholds.count(score_of(value, number), NOW)
    return thresholds


@given(st.floats(1e-9, 1e9))
def test_a_bin_holds_what_is_between_its_edges(value: float) -> None:
    index = bin_of(value)
    if 1e-7 < value < 6e4:
        assert edge_of(index) <= value * (1 + 1e-9)
        assert value < edge_of(index + 1) * (1 + 1e-9)
    assert bin_of(0) == 0


@given(st.lists(st.floats(1e-6, 1e4), min_size=1), st.floats(0.001, 0.5), st.integers(1, 20))
def test_no_more_than_the_share_is_questioned(values: list[float], share: float, number: int) -> None:
    thresholds = learnt(values * 20, number)
    cut = thresholds.threshold(number, share, NOW)
    reached = sum(edge_of(bin_of(value)) >= cut for value in values) * 20
    assert reached <= share * (len(values) * 20 + PRIOR_LOGINS) + 1e-6


@pytest.mark.parametrize("number", [1, 4, 12, 15])
def test_what_was_learnt_outweighs_the_prior(number: int) -> None:
    rng = random.Random(number)
    values = [rng.lognormvariate(-3, 1) for _ in range(20_000)]
    thresholds = learnt(values, number)
    for share in (0.3, 0.1, 0.05):
        cut = thresholds.threshold(number, share, NOW)
        assert sum(value >= cut for value in values) / len(values) == pytest.approx(share, rel=0.35)


def test_lengths_of_history_are_learnt_apart_and_long_ones_together() -> None:
    thresholds = learnt([1000.0] * 5000, 3)
    assert thresholds.threshold(3, 0.2, NOW) > 900
    assert thresholds.threshold(4, 0.2, NOW) < 10
    thresholds = learnt([1000.0] * 5000, 15)
    assert thresholds.threshold(12, 0.2, NOW) == thresholds.threshold(99, 0.2, NOW) > 900


def test_before_the_first_login_the_prior_holds() -> None:
    thresholds = Thresholds()
    for number, quantiles in enumerate(PRIOR, 1):
        for share, value in zip(PRIOR_SHARES, quantiles, strict=True):
            cut = thresholds.threshold(number, 1 - share, NOW)
            assert value / 2.5 < cut < value * 2.5, (number, share)
    assert len(PRIOR) == LENGTHS
    assert all(list(quantiles) == sorted(quantiles) for quantiles in PRIOR)


def test_levels() -> None:
    questioned = Questioned(medium=0.2, high=0.01)
    thresholds = learnt([float(value) for value in range(1, 10_001)])
    levels = [thresholds.level(score_of(value), questioned, NOW) for value in (5.0, 8000.0, 9000.0, 15_000.0)]
    assert levels == ["low", "low", "medium", "high"]
    assert thresholds.level(score_of(1e9, number=0), questioned, NOW) == "low"


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_higher_score_is_never_of_a_lower_level(one: float, other: float) -> None:
    order = {"low": 0, "medium": 1, "high": 2}
    thresholds = Thresholds()
    low, high = (order[thresholds.level(score_of(value), Questioned(), NOW)] for value in sorted((one, other)))
    assert low <= high


def test_a_first_login_teaches_nothing() -> None:
    thresholds = Thresholds()
    thresholds.count(score_of(1.0, number=0), NOW)
    assert thresholds.logins(NOW) == 0


def test_what_was_learnt_fades() -> None:
    thresholds = learnt([1000.0] * 4000)
    before = thresholds.threshold(5, 0.2, NOW)
    later = NOW + 12 * HALF_LIFE
    assert thresholds.logins(later) == pytest.approx(4000 / 4096)
    assert Thresholds.decode(thresholds.encode(later)).threshold(5, 0.2, later) < before / 50
    thresholds.count(score_of(1.0), NOW + 200 * HALF_LIFE)
    assert thresholds.logins(NOW + 200 * HALF_LIFE) == pytest.approx(1)


@given(st.lists(st.tuples(st.floats(1e-6, 1e4), st.integers(1, 14)), max_size=60), st.integers(1, 4))
def test_sheets_of_many_are_as_one(found: list[tuple[float, int]], workers: int) -> None:
    alone = Thresholds()
    parts = [Thresholds() for _ in range(workers)]
    for place, (value, number) in enumerate(found):
        for one in (alone, parts[place % workers]):
            one.count(score_of(value, number), NOW + place * SECOND)
    now = NOW + 1000 * SECOND
    merged = Thresholds.merged(part.encode(now) for part in parts)
    assert merged.logins(now) == pytest.approx(alone.logins(now), abs=0.1)
    for number in (1, 5, 12):
        for share in (0.3, 0.05):
            ratio = merged.threshold(number, share, now) / alone.threshold(number, share, now)
            assert 0.8 < ratio < 1.25


def test_a_sheet_is_small() -> None:
    thresholds = Thresholds()
    rng = random.Random(1)
    for _ in range(60_000):
        thresholds.count(score_of(2 ** rng.uniform(-30, 20), rng.randint(1, 15)), NOW)
    sheet = thresholds.encode(NOW)
    assert len(sheet) <= 11_531
    for cut in (0, 5, 11, len(sheet) - 1):
        with pytest.raises(ValueError, match="cut short"):
            Thresholds.decode(sheet[:cut])
    with pytest.raises(ValueError, match="version 7"):
        Thresholds.decode(b"\x07" + sheet[1:])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for tail in (data, b"\x01" + data):
        try:
            Thresholds.decode(tail)
        except ValueError:
            continue


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.1, 0.2), (1.0, 0.1), (0.1, 0.0), (float("nan"), 0.1)], ids=str)
def test_shares_that_make_no_sense_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match="For example"):
        Questioned(*shares)
