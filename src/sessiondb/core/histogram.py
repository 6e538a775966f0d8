"""Durations in buckets that grow by a constant factor, so that every quantile is right to within 2.5 %.

As DDSketch: Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees"
(2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

ERROR = 0.025
"""How far a quantile may be from the truth, as a part of it."""

MOST_BUCKETS = 560

_GROWTH = (1 + ERROR) / (1 - ERROR)
_SCALE = 1 / math.log(_GROWTH)
_LEAST = 1000  # microseconds: what is shorter is as good as nothing


class Histogram:
    """Durations in microseconds. ``count``, ``total``, ``least`` and ``most`` are exact.

    From a millisecond to 45 years, in 560 buckets, of which only those with something in them take room.
    """

    __slots__ = ("buckets", "count", "least", "most", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.least = 0
        self.most = 0
        self.buckets: dict[int, int] = {}

    def add(self, duration: int) -> None:
        """Add one; a negative one counts as none."""
        duration = max(0, duration)
        self.least = min(self.least, duration) if self.count else duration
        self.most = max(self.most, duration)
        self.count += 1
        self.total += duration
        index = _index(duration)
        self.buckets[index] = self.buckets.get(index, 0) + 1

    def merge(self, other: Histogram) -> None:
        """As if all that was added to ``other`` had been added here too."""
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most)
        self.count += other.count
        self.total += other.total
        for index, count in other.buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + count

    def quantile(self, q: float) -> float | None:
        """The shortest duration that is not below a part ``q`` (0 to 1) of all, in microseconds; ``None`` of none."""
        wanted = max(1, math.ceil(q * self.count))
        for index in sorted(self.buckets):
            wanted -= self.buckets[index]
            if wanted <= 0:
                # Neither below nor above all that were seen, whatever the bucket says.
                return min(max(_middle(index), self.least), self.most)
        return None

    @property
    def mean(self) -> float | None:
        """The mean in microseconds; ``None`` of none."""
        return self.total / self.count if self.count else None

    @classmethod
    def of(cls, buckets: Mapping[int, int], total: int, least: int, most: int) -> Histogram:
        """One with these ``buckets``. Raises ``ValueError`` where they cannot be."""
        made = cls()
        if buckets:
            if not (min(buckets) >= 0 and max(buckets) < MOST_BUCKETS and min(buckets.values()) > 0):
                raise ValueError("these are no buckets of a histogram")
            if not 0 <= least <= most <= total:
                raise ValueError("these bounds are not those of a histogram")
            made.buckets = dict(buckets)
            made.count = sum(buckets.values())
            made.total, made.least, made.most = total, least, most
        return made


def _index(duration: int) -> int:
    if duration < _LEAST:
        return 0
    return min(MOST_BUCKETS - 1, 1 + math.floor(math.log(duration / _LEAST) * _SCALE))


def _middle(index: int) -> float:
    """The value that no duration of the bucket is further from than ``ERROR`` allows."""
    if index == 0:
        return 0.0
    return float(2 * _LEAST * _GROWTH**index / (_GROWTH + 1))
