"""From which score on a login is questioned: learnt from the scores of accepted logins, without a single attack. Pure.

For each length of history there is a histogram of scores, and a threshold is a quantile of it: "question no more than
so many of a hundred logins". Published scores of attacks say how many of these that stops (docs/risk.md). A process
publishes its own histograms as a sheet; all of them are merged by whoever decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from struct import Struct
from typing import Literal

import msgspec

from sessiondb.core.decay import HALF_LIFE, UNITS, Fading
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.scoring import Score

RiskLevel = Literal["low", "medium", "high"]

LENGTHS = 12  # the last is of all longer histories too
PRIOR_LOGINS = 400.0

# Scores of accepted logins before there are any: quantiles, by length of history, of the logins that
# ``python -m benchmarks.risk --prior`` makes up.
PRIOR_SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998)
PRIOR: tuple[tuple[float, ...], ...] = (
    (1.4, 8, 11, 28, 38, 49, 66, 70),
    (0.024, 2.4, 4.3, 7.9, 14, 19, 25, 35),
    (0.0048, 1.2, 2.6, 3.8, 8.4, 13, 16, 22),
    (0.0026, 0.71, 1.5, 2.7, 4.7, 8.1, 9.6, 14),
    (0.0021, 0.58, 1.1, 2.1, 3.5, 5.8, 7.5, 11),
    (0.0015, 0.37, 0.76, 1.6, 2.4, 4.9, 7.9, 11),
    (0.0012, 0.27, 0.63, 1.4, 2.1, 4.1, 5.3, 7.7),
    (0.0012, 0.22, 0.55, 1.1, 1.7, 3.6, 4.8, 7.3),
    (0.0009, 0.098, 0.4, 0.96, 1.3, 2.6, 4, 5.8),
    (0.00089, 0.096, 0.34, 0.83, 1.1, 2.1, 3.2, 5.2),
    (0.00069, 0.062, 0.26, 0.72, 0.98, 2.4, 3.5, 5),
    (0.00044, 0.0051, 0.13, 0.44, 0.7, 1.3, 2, 3.6),
)

_LOWEST, _STEPS, _BINS = -24, 4, 160  # of the logarithm of a score to base 2; four bins each time it doubles
_HEAD = Struct("<BqH")  # version, moment, how many bins follow
_BIN = Struct("<HI")  # which, and its count in units
_VERSION = 1


class Questioned(msgspec.Struct, frozen=True):
    """The shares of accepted logins that may be of each level, at most; ``high`` counts as ``medium`` too."""

    medium: float = 0.10
    high: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.high <= self.medium < 1:
            raise ConfigurationError(
                f"Questioned(medium={self.medium}, high={self.high}): shares of logins are above 0 and below 1, "
                "and high is no more than medium. For example Questioned(medium=0.1, high=0.02)."
            )


def bin_of(value: float) -> int:
    """The bin of a score."""
    if value <= 0:
        return 0
    return max(0, min(_BINS - 1, math.floor((math.log2(value) - _LOWEST) * _STEPS)))


def edge_of(index: int) -> float:
    """The lowest score of a bin."""
    return float(2 ** (_LOWEST + index / _STEPS))


class Thresholds:
    """Histograms of the scores of accepted logins, which fade with ``half_life`` (microseconds; 30 days)."""

    __slots__ = ("_cuts", "_fading", "_rows")

    def __init__(self, *, half_life: int = HALF_LIFE) -> None:
        self._fading = Fading(half_life)
        self._rows = [[0.0] * _BINS for _ in range(LENGTHS)]
        self._cuts: dict[tuple[int, float], float] = {}

    def count(self, score: Score, now: int) -> None:
        """One login that was accepted, be it at once or after it was questioned. A user's first has no score."""
        if not score.number:
            return
        if self._fading.is_far(now):
            self._move(now)
        self._rows[_row(score.number)][bin_of(score.value)] += self._fading.weight(now)
        self._cuts.clear()

    def logins(self, now: int) -> float:
        """How many were counted, by what they weigh ``now``."""
        return sum(map(sum, self._rows)) * self._fading.now(now)

    def threshold(self, number: int, share: float, now: int) -> float:
        """The score that no more than ``share`` of the accepted logins reach, after ``number`` earlier ones.

        As exact as the bins: scores within 19 % are one. Until some hundreds were counted, mostly of the prior.
        """
        found = self._cuts.get((row := _row(number), share))
        if found is None:
            found = self._cuts[row, share] = self._cut(row, share, now)
        return found

    def level(self, score: Score, questioned: Questioned, now: int) -> RiskLevel:
        """What a login with ``score`` is. A user's first login is ``"low"``: nothing can be said of it."""
        if not score.number:
            return "low"
        value = edge_of(bin_of(score.value))
        if value >= self.threshold(score.number, questioned.high, now):
            return "high"
        return "medium" if value >= self.threshold(score.number, questioned.medium, now) else "low"

    def merge(self, other: Thresholds) -> None:
        """Add what ``other`` has counted."""
        at = other._fading.at
        if at is None:
            return
        if self._fading.is_far(at):
            self._move(at)
        weight = self._fading.weight(at)
        for row, more in zip(self._rows, other._rows, strict=True):
            for index, count in enumerate(more):
                if count:
                    row[index] += count * weight
        self._cuts.clear()

    def encode(self, now: int) -> bytes:
        """As bytes, 11,531 at most: a sheet, or many folded into one."""
        worth = self._fading.now(now) * UNITS
        bins = [
            (row * _BINS + index, min(units, 0xFFFFFFFF))
            for row, counts in enumerate(self._rows)
            for index, count in enumerate(counts)
            if (units := round(count * worth))
        ]
        return b"".join([_HEAD.pack(_VERSION, now, len(bins)), *(_BIN.pack(*one) for one in bins)])

    @classmethod
    def decode(cls, data: bytes, *, half_life: int = HALF_LIFE) -> Thresholds:
        """What ``encode`` has written. ``ValueError`` for anything else."""
        found = cls(half_life=half_life)
        if len(data) < _HEAD.size:
            raise ValueError("Thresholds that were cut short: leave this sheet out.")
        version, found._fading.at, bins = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise ValueError(f"Thresholds of version {version}; this release of sessiondb reads {_VERSION}.")
        body = data[_HEAD.size :]
        if len(body) != bins * _BIN.size:
            raise ValueError("Thresholds that were cut short or changed: leave this sheet out.")
        for where, units in _BIN.iter_unpack(body):
            row, index = divmod(where, _BINS)
            if row >= LENGTHS:
                raise ValueError("Thresholds that were changed: leave this sheet out.")
            found._rows[row][index] = units / UNITS
        return found

    @classmethod
    def merged(cls, sheets: Iterable[bytes], *, half_life: int = HALF_LIFE) -> Thresholds:
        """Those of all ``sheets``. ``ValueError`` if one is none."""
        total = cls(half_life=half_life)
        for sheet in sheets:
            total.merge(cls.decode(sheet, half_life=half_life))
        return total

    def _cut(self, row: int, share: float, now: int) -> float:
        worth = self._fading.now(now)
        counts = [count * worth + prior for count, prior in zip(self._rows[row], _PRIOR_ROWS[row], strict=True)]
        most = share * sum(counts)
        for index, above in enumerate(accumulate(reversed(counts))):
            if above > most:
                return edge_of(_BINS - index)
        return 0.0

    def _move(self, now: int) -> None:
        worth = self._fading.now(now)
        self._fading.at = now
        self._rows = [[count * worth for count in row] for row in self._rows]


def _row(number: int) -> int:
    return max(1, min(number, LENGTHS)) - 1


def _prior_row(quantiles: tuple[float, ...]) -> list[float]:
    """The prior of one length: what is between two quantiles lies evenly in the bins between them."""
    row = [0.0] * _BINS
    shares, edges = (0.0, *PRIOR_SHARES, 1.0), (quantiles[0] / 16, *quantiles, quantiles[-1] * 4)
    for low, high, first, last in zip(shares, shares[1:], map(bin_of, edges), map(bin_of, edges[1:]), strict=False):
        for index in range(first, last + 1):
            row[index] += PRIOR_LOGINS * (high - low) / (last + 1 - first)
    return row


_PRIOR_ROWS = [_prior_row(quantiles) for quantiles in PRIOR]
