"""The circuit breaker as a machine of its own: when it opens, whom it lets through, when it closes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.breaker import Circuit, CircuitBreaker
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError, StoreUnavailable

AWAY = StoreUnavailable("The server is away.")
FIVE = CircuitBreaker(failures=5, window=1.0, first_pause=0.125, longest_pause=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def circuit(
    clock: Clock, settings: CircuitBreaker | None = FIVE, *, draw: float = 1.0, counters: Counter[str] | None = None
) -> Circuit:
    return Circuit("db, reading", settings, clock=clock, counters=counters, longest_call=2.0, draw=lambda: draw)


def opened(clock: Clock, *, draw: float = 1.0, counters: Counter[str] | None = None) -> Circuit:
    made = circuit(clock, draw=draw, counters=counters)
    for _ in range(4):
        made.failed(AWAY)
        clock.now += 0.25
    assert made.failed(AWAY)
    return made


def test_it_opens_after_so_many_failures_in_a_row_and_so_long_without_a_success() -> None:
    clock = Clock()
    made = circuit(clock)
    for _ in range(100):
        assert not made.failed(AWAY)  # all in one moment: perhaps one burst met one dead connection
    clock.now += 0.99
    assert not made.failed(AWAY)
    clock.now += 0.01
    assert made.failed(AWAY)
    assert made.is_open
    assert not made.failed(AWAY)  # open already


def test_a_success_begins_the_count_anew() -> None:
    clock = Clock()
    made = circuit(clock)
    for _ in range(50):
        for _ in range(4):
            clock.now += 1
            assert not made.failed(AWAY)
        made.succeeded()
    assert not made.is_open


def test_the_time_that_a_call_waited_for_nothing_counts() -> None:
    clock = Clock()
    made = circuit(clock)
    began = clock.now
    clock.now += 2.0
    assert [made.failed(AWAY, began) for _ in range(5)] == [False] * 4 + [True]


@pytest.mark.parametrize(
    "error",
    [
        StoreError("the reply was lost", outcome="conflict"),
        StoreError("a bug"),
        SessionDataError("no JSON"),
        StoreUnavailable("too few replicas", outcome="unconfirmed"),
        StoreUnavailable("one node of many", partial=True),
        StoreUnavailable("not asked", retry_after=1.0),
        ValueError("x"),
    ],
)
def test_what_says_nothing_about_the_database_as_a_whole_never_opens_it(error: Exception) -> None:
    clock = Clock()
    made = circuit(clock)
    for _ in range(20):
        clock.now += 1
        assert not made.failed(error)
    assert made.failures == 0


def test_a_lost_reply_counts_as_much_as_a_refused_connection() -> None:
    clock = Clock()
    made = circuit(clock)
    for _ in range(4):
        made.failed(StoreError("the reply was lost", outcome="unknown"))
    clock.now += 1
    assert made.failed(AWAY)


def test_without_settings_it_never_opens() -> None:
    clock = Clock()
    made = circuit(clock, None)
    for _ in range(100):
        clock.now += 1
        assert not made.failed(AWAY)


def test_one_call_at_a_time_is_let_through_after_a_pause_that_doubles_up_to_its_bound() -> None:
    clock, counters = Clock(), Counter[str]()
    made = opened(clock, counters=counters)
    pauses = []
    for _ in range(9):
        failed_at = clock.now
        while not made.admits():
            clock.now += 1 / 64
        pauses.append(clock.now - failed_at)
        assert not made.admits()  # the probe is out
        made.failed(AWAY)
    assert pauses == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert counters["breaker_probes"] == 9
    assert counters["breaker_opened"] == 1
    made.probe_now()
    assert made.admits()
    made.succeeded()
    assert (made.is_open, made.failures, counters["breaker_closed"]) == (False, 0, 1)


@given(draw=st.floats(0, 1, exclude_max=True))
def test_pauses_are_jittered_between_the_half_and_the_whole(draw: float) -> None:
    clock = Clock()
    made = opened(clock, draw=draw)
    wait = made.refusal().retry_after
    assert wait is not None
    assert 0.0625 <= wait <= 0.125


def test_a_probe_that_never_reports_holds_up_the_next_only_as_long_as_a_call_may_take() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += 1
    assert made.admits()
    clock.now += 2.3
    assert not made.admits()
    clock.now += 0.2
    assert made.admits()


def test_a_call_that_began_before_it_opened_does_not_lengthen_the_pause() -> None:
    clock = Clock()
    made = opened(clock)
    for _ in range(10):
        assert not made.failed(AWAY)
    clock.now += 0.125
    assert made.admits()


def test_a_success_of_one_that_began_before_closes_it() -> None:
    made = opened(Clock())
    made.succeeded()
    assert not made.is_open


def test_when_one_way_works_again_the_other_is_tried_at_once() -> None:
    clock = Clock()
    reads, writes = opened(clock), opened(clock)
    reads.beside = writes
    for _ in range(8):
        writes.probe_now()
        assert writes.admits()
        writes.failed(AWAY)
    assert not writes.admits()
    reads.succeeded()
    assert writes.admits()
    assert writes.is_open  # until it has succeeded itself


def test_a_refusal_says_since_when_why_and_when_it_is_worth_coming_back() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += 0.025
    refusal = made.refusal()
    assert "db, reading: the circuit breaker is open, for 1.0 s now" in str(refusal)
    assert "asked again in 0.1 s" in str(refusal)
    assert "The server is away." in str(refusal)
    assert refusal.retry_after == pytest.approx(0.1)
    assert refusal.outcome == "not_applied"
    clock.now += 1
    assert made.admits()
    assert made.refusal().retry_after == 0
    assert "by another call" in str(made.refusal())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"failures": 0}, "failures"),
        ({"failures": 1.5}, "failures"),
        ({"failures": True}, "failures"),
        ({"window": -1}, "window"),
        ({"window": float("nan")}, "window"),
        ({"first_pause": 0}, "first_pause"),
        ({"longest_pause": 1e9}, "longest_pause"),
        ({"first_pause": 10}, "first_pause"),
        ({"longest_pause": "5"}, "longest_pause"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"CircuitBreaker: {name}"):
        CircuitBreaker(**settings)  # type: ignore[arg-type]
