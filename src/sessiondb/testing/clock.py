"""A clock that moves only when it is told to."""

from __future__ import annotations

from sessiondb.core.policy import SECOND

START = 1_800_000_000 * SECOND


class ManualClock:
    """Microseconds since the epoch, standing still until ``advance``. Call it to read it.

    Give it to stores and to ``SessionDB(clock=...)``, so that tests of time need no sleep.
    """

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        """The time it shows."""
        return self.now

    def __repr__(self) -> str:
        return f"ManualClock({self.now})"

    def advance(self, seconds: float) -> int:
        """Move on by ``seconds`` (backwards if negative), and return the new time in microseconds."""
        self.now += round(seconds * SECOND)
        return self.now
