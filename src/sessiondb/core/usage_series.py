"""How the app was used, as people are shown it: periods, and the numbers of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sessiondb.core.histogram import Histogram
from sessiondb.core.hyperloglog import STANDARD_ERROR
from sessiondb.core.policy import DAY, HOUR, SECOND
from sessiondb.core.usage import Gauge, Tally

By = Literal["hour", "day", "week", "month"]

MOST_POINTS = 2000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY = 4 * DAY  # 1970-01-05
# What is asked for where nobody says since when.
_USUAL = {"hour": 2 * DAY, "day": 30 * DAY, "week": 26 * 7 * DAY, "month": 365 * DAY}


# Dataclasses, not structs: an endpoint of FastAPI may return what people are shown.
@dataclass(frozen=True, slots=True)
class UsageLevel:
    """A number that goes up and down, as looked at every ten minutes or so: its mean, bounds and last value."""

    mean: float
    least: int
    most: int
    last: int


@dataclass(frozen=True, slots=True)
class UsageSpread:
    """How something is distributed over ``count`` cases. ``None`` where there are none.

    ``mean`` and ``most`` are exact, quantiles right to within 2.5 %: half of all are at most ``p50``, and so on.
    """

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    most: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePoint:
    """The numbers of one period, from ``start`` to before ``end`` (microseconds UTC). Lengths of time are in seconds.

    * ``active_users``: different users who logged in, or used a session that had not been used for a minute (or a tenth
      of a shorter idle lifetime); ``active_sessions``: in how many sessions. Both are exact up to 1,024 and estimated
      above; ``active_users_error`` is the standard error of that, as a part of the number (0: exact).
    * ``sessions_per_user``: active sessions of each active user. Quantiles and ``most`` are those of 256 users, chosen
      by chance, of whom each has 16 at most.
    * ``new_sessions``: those that were made, anonymous ones included.
    * ``logins``: proofs of who somebody is; of these, or in spite of these, ``refused_logins`` were refused.
      ``logins_by_device``: ``desktop``, ``mobile``, ...; ``logins_by_agent``: ``Firefox on Linux``, ...;
      ``logins_by_country``. Where there are too many names, the rest is ``other``.
    * ``ended``, ``ended_by_reason``: by ``EndReason``, at the time of the end.
    * ``session_length``: from creation to end, where somebody has ended the session; ``expired_length``: where it
      expired, which was at its deadline. Sessions that went on as another one (``login``), or that nobody ever had
      (``refused``, ``undelivered``), are in neither.
    * ``idle_gap``: how long a session was not used before it was used again, where that is long enough for a touch.
    * ``live_sessions``, ``live_users``: sessions that had not ended, and users who had one; ``None``: nobody looked.
    """

    start: int
    end: int
    active_users: int
    active_users_error: float
    active_sessions: int
    sessions_per_user: UsageSpread
    new_sessions: int
    logins: int
    refused_logins: int
    logins_by_device: Mapping[str, int]
    logins_by_agent: Mapping[str, int]
    logins_by_country: Mapping[str, int]
    ended: int
    ended_by_reason: Mapping[str, int]
    session_length: UsageSpread
    expired_length: UsageSpread
    idle_gap: UsageSpread
    live_sessions: UsageLevel | None
    live_users: UsageLevel | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What ``SessionDB.usage`` returns: ``points`` by ``by``, oldest first, and ``total`` over all of them.

    ``live_sessions`` and ``live_users`` are those of now, as ``SessionDB.stats`` has them.
    """

    by: str
    since: int
    until: int
    live_sessions: int
    live_users: int
    total: UsagePoint
    points: Sequence[UsagePoint]


# -- periods --------------------------------------------------------------------------------------------------


def check_by(by: object) -> By:
    """``by``, if it is one. Raises ``ValueError``."""
    for known in get_args(By):
        if by == known:
            found: By = known
            return found
    raise ValueError(f"by is {by!r:.100}; use 'hour', 'day', 'week' or 'month'.")


def start_of(by: By, at: int) -> int:
    """When the period began in which ``at`` is. Weeks are those of ISO 8601, months of the calendar; all in UTC."""
    if by == "hour":
        return at - at % HOUR
    if by == "day":
        return at - at % DAY
    if by == "week":
        return at - (at - _MONDAY) % (7 * DAY)
    first = (_EPOCH + timedelta(microseconds=at)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return _micros(first)


def end_of(by: By, start: int) -> int:
    """When the period ends that begins at ``start``: when the next one does."""
    if by == "month":
        return start_of(by, start + 31 * DAY)
    return start + {"hour": HOUR, "day": DAY, "week": 7 * DAY}[by]


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def bounds(by: By, since: int | None, until: int | None, now: int) -> tuple[int, int]:
    """From when to when to count: whole periods, the last one as far as it has come.

    Raises ``ValueError`` for what cannot be meant, and for more than 2,000 periods.
    """
    # The period of this very moment counts, also where it begins with it.
    until = now + 1 if until is None else min(until, now + 1)
    since = until - 1 - _USUAL[by] if since is None else since
    if not 0 <= since < until:
        raise ValueError("since is not before until (or now), so nothing is in between; use an earlier one.")
    first = start_of(by, since)
    shortest = {"hour": HOUR, "day": DAY, "week": 7 * DAY, "month": 28 * DAY}[by]
    if -(-(until - first) // shortest) > MOST_POINTS:
        raise ValueError(
            f"there are more than {MOST_POINTS:,} {by}s since then; use a later since, or a longer period."
        )
    return first, end_of(by, start_of(by, until - 1))


def periods(by: By, since: int, until: int) -> Iterator[tuple[int, int]]:
    """The periods between ``bounds``."""
    while since < until:
        end = end_of(by, since)
        yield since, end
        since = end


# -- numbers --------------------------------------------------------------------------------------------------


def point(start: int, end: int, tally: Tally) -> UsagePoint:
    """The numbers of ``tally`` for people."""
    users, sessions = tally.users.count, tally.sessions.count
    return UsagePoint(
        start=start,
        end=end,
        active_users=users,
        active_users_error=0.0 if tally.users.is_exact else STANDARD_ERROR,
        active_sessions=sessions,
        sessions_per_user=_per_user(users, sessions, tally.sample.counts()),
        new_sessions=tally.created,
        logins=tally.logins,
        refused_logins=tally.refused,
        logins_by_device=_sorted(tally.devices),
        logins_by_agent=_sorted(tally.agents),
        logins_by_country=_sorted(tally.countries),
        ended=sum(tally.ends.values()),
        ended_by_reason=_sorted(tally.ends),
        session_length=_spread(tally.lengths),
        expired_length=_spread(tally.expiries),
        idle_gap=_spread(tally.gaps),
        live_sessions=_level(tally.live),
        live_users=_level(tally.holders),
    )


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _seconds(micros: float | None) -> float | None:
    return None if micros is None else micros / SECOND


def _spread(histogram: Histogram) -> UsageSpread:
    p50, p90, p99 = (_seconds(histogram.quantile(q)) for q in (0.5, 0.9, 0.99))
    most = histogram.most if histogram.count else None
    return UsageSpread(histogram.count, _seconds(histogram.mean), p50, p90, p99, _seconds(most))


def _per_user(users: int, sessions: int, sample: Sequence[int]) -> UsageSpread:
    if not users or not sample:
        return UsageSpread(0, None, None, None, None, None)
    p50, p90, p99 = (float(sample[-(-percent * len(sample) // 100) - 1]) for percent in (50, 90, 99))
    # Two estimates may have more users than sessions.
    return UsageSpread(users, max(1.0, sessions / users), p50, p90, p99, float(sample[-1]))


def _level(gauge: Gauge) -> UsageLevel | None:
    return UsageLevel(gauge.total / gauge.samples, gauge.least, gauge.most, gauge.last) if gauge.samples else None
