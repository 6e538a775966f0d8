"""Periods as calendars have them, and what people are shown of a tally."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.hyperloglog import STANDARD_ERROR, hash_of
from sessiondb.core.policy import DAY, HOUR, SECOND
from sessiondb.core.usage import Tally
from sessiondb.core.usage_series import By, UsageLevel, UsageSpread, bounds, check_by, end_of, periods, point, start_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
moments = st.integers(0, 400 * 365 * DAY)
bys = st.sampled_from(["hour", "day", "week", "month"])


def date(at: int) -> datetime:
    return EPOCH + timedelta(microseconds=at)


def micros(*parts: int) -> int:
    return (datetime(*parts, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)  # type: ignore[misc,arg-type]


@given(bys, moments)
def test_every_moment_is_in_one_period(by: By, at: int) -> None:
    start = start_of(by, at)
    end = end_of(by, start)
    assert start <= at < end
    assert start_of(by, start) == start
    assert start_of(by, end - 1) == start
    assert start_of(by, end) == end


@given(moments)
def test_periods_are_those_of_the_calendar(at: int) -> None:
    when = date(at)
    day = when.replace(hour=0, minute=0, second=0, microsecond=0)
    assert date(start_of("hour", at)) == when.replace(minute=0, second=0, microsecond=0)
    assert date(start_of("day", at)) == day
    assert date(start_of("month", at)) == day.replace(day=1)
    week = date(start_of("week", at))
    assert week.isocalendar()[:2] == when.isocalendar()[:2]
    assert (week.isoweekday(), week.time()) == (1, day.time())


@pytest.mark.parametrize(
    ("by", "since", "until", "first", "last", "count"),
    [
        ("hour", micros(2026, 3, 1, 10, 30), micros(2026, 3, 1, 12), micros(2026, 3, 1, 10), micros(2026, 3, 1, 12), 2),
        ("hour", micros(2026, 3, 1, 10), micros(2026, 3, 1, 12, 1), micros(2026, 3, 1, 10), micros(2026, 3, 1, 13), 3),
        ("week", micros(2026, 1, 1), micros(2026, 1, 6), micros(2025, 12, 29), micros(2026, 1, 12), 2),
        ("month", micros(2024, 1, 31), micros(2024, 3, 1), micros(2024, 1, 1), micros(2024, 3, 1), 2),
        ("month", micros(2024, 12, 31), micros(2025, 1, 1, 1), micros(2024, 12, 1), micros(2025, 2, 1), 2),
    ],
    ids=["a part of an hour", "the hour that has begun", "over the new year", "february", "december"],
)
def test_whole_periods_are_counted(by: By, since: int, until: int, first: int, last: int, count: int) -> None:
    begin, end = bounds(by, since, until, micros(2027, 1, 1))
    assert (begin, end) == (first, last)
    found = list(periods(by, begin, end))
    assert len(found) == count
    assert (found[0][0], found[-1][1]) == (first, last)
    assert all(one[1] == two[0] for one, two in itertools.pairwise(found))


@pytest.mark.parametrize(("by", "count"), [("hour", 49), ("day", 31), ("week", 27), ("month", 13)])
def test_without_since_it_is_a_usual_time(by: By, count: int) -> None:
    now = micros(2026, 6, 17, 12, 30)
    assert len(list(periods(by, *bounds(by, None, None, now)))) == count


def test_nothing_is_asked_of_the_future() -> None:
    now = micros(2026, 6, 17, 12, 30)
    assert bounds("day", now - DAY, now + 50 * DAY, now)[1] == micros(2026, 6, 18)
    midnight = micros(2026, 6, 17)
    assert bounds("day", midnight, None, midnight) == (midnight, micros(2026, 6, 18))


@pytest.mark.parametrize(
    ("since", "until"), [(5 * DAY, 5 * DAY), (6 * DAY, 5 * DAY), (-1, None), (10 * DAY + 1, None)], ids=str
)
def test_what_cannot_be_meant_is_refused(since: int, until: int | None) -> None:
    with pytest.raises(ValueError, match="use an earlier one"):
        bounds("day", since, until, 10 * DAY)


def test_there_are_so_many_periods_and_no_more() -> None:
    now = micros(2026, 6, 17)
    assert len(list(periods("hour", *bounds("hour", now - 1999 * HOUR, None, now)))) == 2000
    with pytest.raises(ValueError, match="2,000 hours"):
        bounds("hour", now - 1999 * HOUR - 1, None, now)


@pytest.mark.parametrize("by", ["year", "", None, "Day", 1])
def test_other_periods_are_refused(by: object) -> None:
    with pytest.raises(ValueError, match="use 'hour', 'day', 'week' or 'month'"):
        check_by(by)


# -- numbers --------------------------------------------------------------------------------------------------


def test_a_point_says_what_the_tally_has() -> None:
    tally = Tally()
    for user, sessions in enumerate([1, 1, 2, 6]):
        for session in range(sessions):
            tally.active(user, 100 * user + session)
    for country in ("DE", "US", "DE", None):
        tally.logged_in("desktop", "Firefox on Linux", country)
    tally.ended("logout", 100 * SECOND)
    tally.ended("expired_idle", 5 * SECOND)
    tally.created, tally.refused = 7, 2
    tally.live.add(10, 1)
    tally.live.add(20, 2)
    found = point(0, HOUR, tally)
    assert (found.active_users, found.active_users_error, found.active_sessions) == (4, 0.0, 10)
    assert found.sessions_per_user == UsageSpread(4, 2.5, 1.0, 6.0, 6.0, 6.0)
    assert list(found.logins_by_country.items()) == [("DE", 2), ("US", 1), ("unknown", 1)]
    assert (found.new_sessions, found.logins, found.refused_logins) == (7, 4, 2)
    assert (found.ended, found.ended_by_reason) == (2, {"expired_idle": 1, "logout": 1})
    assert found.session_length == UsageSpread(1, 100.0, 100.0, 100.0, 100.0, 100.0)
    assert found.expired_length.mean == 5.0
    assert found.live_sessions == UsageLevel(15.0, 10, 20, 20)
    assert found.live_users is None


def test_a_point_of_nothing_has_no_numbers() -> None:
    found = point(0, HOUR, Tally())
    nothing = UsageSpread(0, None, None, None, None, None)
    assert found.sessions_per_user == found.session_length == found.expired_length == found.idle_gap == nothing
    assert (found.active_users, found.logins, found.ended, found.live_sessions) == (0, 0, 0, None)


def test_an_estimate_says_how_far_it_may_be_off() -> None:
    tally = Tally()
    for user in range(3000):
        tally.active(hash_of(f"user{user}"), user)
    found = point(0, HOUR, tally)
    assert found.active_users_error == STANDARD_ERROR
    assert found.active_users == pytest.approx(3000, rel=4 * STANDARD_ERROR)
    assert found.sessions_per_user.mean is not None
    assert found.sessions_per_user.mean >= 1.0
