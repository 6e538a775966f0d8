"""Counts of which the old ones fade: after each half-life they weigh half. Pure.

Weights are kept as of one moment, and what comes later weighs more than one; so nothing has to be touched as time
passes, and two sets of counts are added up by bringing one to the other's moment.
"""

from __future__ import annotations

from sessiondb.core.policy import DAY

HALF_LIFE = 30 * DAY
UNITS = 16  # a count of one, where counts are written as whole numbers
_FAR = 64  # half-lives after which weights are brought to a new moment


class Fading:
    """The moment that weights are of. Times and ``half_life`` are in microseconds."""

    __slots__ = ("at", "half_life")

    def __init__(self, half_life: int = HALF_LIFE) -> None:
        self.half_life = half_life
        self.at: int | None = None

    def weight(self, time: int) -> float:
        """What a count at ``time`` weighs, as of the moment. The first one sets it."""
        if self.at is None:
            self.at = time
        return float(2 ** (max(-1000.0, min(1000.0, (time - self.at) / self.half_life))))

    def now(self, time: int) -> float:
        """What a weight of one, as of the moment, is worth at ``time``."""
        return 1.0 / self.weight(time) if self.at is not None else 1.0

    def is_far(self, time: int) -> bool:
        """Whether ``time`` is so much later that weights grow too large: bring them to that moment."""
        return self.at is not None and time - self.at > _FAR * self.half_life
