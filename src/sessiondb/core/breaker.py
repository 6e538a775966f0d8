"""When to stop asking a database that does not answer, and when to ask again (Nygard, "Release It!": circuit breaker).

Pure: time and chance come from outside.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sessiondb.core.errors import ConfigurationError, StoreError, StoreUnavailable

_LEASE = 1.2  # of the time that a probe may take: after that nobody waits for its answer any more


@dataclass(frozen=True)
class CircuitBreaker:
    """After how many failures a database is left alone, and for how long. Times in seconds.

    * ``failures`` (5): so many calls in a row must have failed: unreachable, or no answer in time. A conflict, or data
      that cannot be stored, is no failure.
    * ``window`` (1 s): and for so long none may have succeeded, so that one dead node of a cluster stops nobody whose
      sessions are on the others.
    * ``first_pause`` (0.1 s) and ``longest_pause`` (5 s): how long until one call is let through as a probe. The pause
      doubles with each probe that fails, and is jittered. The first success ends it.

    Reads and writes are told apart: a database that is full still serves. Raises ``ConfigurationError``.
    """

    failures: int = 5
    window: float = 1.0
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        if not _is_number(self.failures) or self.failures != int(self.failures) or self.failures < 1:
            raise ConfigurationError(f"CircuitBreaker: failures is {self.failures!r}; use a whole number from 1.")
        for name, least, most in (("window", 0.0, 300.0), ("first_pause", 0.01, 300.0), ("longest_pause", 0.01, 300.0)):
            value = getattr(self, name)
            if not _is_number(value) or not least <= value <= most:
                raise ConfigurationError(f"CircuitBreaker: {name} is {value!r}; use {least:g} to {most:g} seconds.")
        if self.first_pause > self.longest_pause:
            raise ConfigurationError(
                f"CircuitBreaker: first_pause ({self.first_pause}) is longer than longest_pause "
                f"({self.longest_pause}); lower the first or raise the other."
            )


class Circuit:
    """One way to use a database: closed (asked), or open (not asked but for one probe at a time).

    ``failures`` counts those in a row, and ``is_open`` is what a call looks at: both are plain attributes, because a
    healthy database pays for no more. Without ``settings`` it never opens. ``clock`` gives seconds; ``longest_call``
    is how long a call may take; ``on_open`` is told why it has opened.
    """

    __slots__ = (
        "_clock",
        "_counters",
        "_draw",
        "_failing_since",
        "_last_failure",
        "_lease",
        "_name",
        "_on_open",
        "_probe_at",
        "_probes",
        "_probing_until",
        "_settings",
        "beside",
        "failures",
        "is_open",
    )

    def __init__(
        self,
        name: str,
        settings: CircuitBreaker | None,
        *,
        clock: Callable[[], float],
        counters: Counter[str] | None = None,
        longest_call: float = 2.0,
        on_open: Callable[[str], None] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.failures = 0
        self.is_open = False
        self.beside: Circuit | None = None  # the other way to use the same database
        self._name = name
        self._settings = settings
        self._clock = clock
        self._counters = counters if counters is not None else Counter()
        self._lease = longest_call * _LEASE
        self._on_open = on_open
        self._draw = draw
        self._failing_since = 0.0
        self._last_failure = ""
        self._probe_at = 0.0
        self._probes = 0
        self._probing_until = 0.0

    def admits(self) -> bool:
        """Whether a call may go while it is open: as the one probe, when that is due."""
        now = self._clock()
        if now < self._probe_at or now < self._probing_until:
            self._counters["breaker_refused"] += 1
            return False
        self._probing_until = now + self._lease
        self._counters["breaker_probes"] += 1
        return True

    def refusal(self) -> StoreUnavailable:
        """What a call is told that was not let through: since when, why, and when it may be worth trying again."""
        now = self._clock()
        wait = max(self._probe_at - now, 0.0)
        coming = f"in {wait:.1f} s" if wait > 0 else "right now, by another call"
        return StoreUnavailable(
            f"{self._name}: the circuit breaker is open, for {now - self._failing_since:.1f} s now; the database is "
            f"asked again {coming}. The last failure: {self._last_failure}",
            retry_after=wait,
        )

    def failed(self, error: Exception, began_at: float | None = None) -> bool:
        """Note that a call has failed, which had begun at ``began_at``. True if that has opened it."""
        settings = self._settings
        if settings is None or not is_outage(error):
            return False
        now = self._clock()
        if self.is_open:
            # Others than the probe began before it opened, and say nothing new.
            if self._probing_until:
                self._last_failure = str(error)
                self._wait(settings, now)
            return False
        if not self.failures:
            self._failing_since = now if began_at is None else min(began_at, now)
        self.failures += 1
        if self.failures < settings.failures or now - self._failing_since < settings.window:
            return False
        self.is_open = True
        self._last_failure = str(error)
        self._probes = 0
        self._wait(settings, now)
        self._counters["breaker_opened"] += 1
        if self._on_open is not None:
            self._on_open(
                f"{self._name}: {self.failures} calls in a row have failed, none has succeeded for "
                f"{now - self._failing_since:.1f} s; from now on one call at a time asks whether the database is back, "
                "and the others fail at once (circuit breaker)."
            )
        return True

    def succeeded(self) -> None:
        """Note that a call has succeeded; needed only where ``failures`` is not 0."""
        self.failures = 0
        if self.is_open:
            self.is_open = False
            self._probing_until = 0.0
            self._counters["breaker_closed"] += 1
            if self.beside is not None:
                self.beside.probe_now()

    def probe_now(self) -> None:
        """There is reason to believe that the database is back: let the next call try."""
        self._probe_at = 0.0

    def _wait(self, settings: CircuitBreaker, now: float) -> None:
        pause = min(settings.longest_pause, settings.first_pause * 2.0 ** min(self._probes, 32))
        self._probes += 1
        # Jitter: the processes of a fleet must not all come back in the same moment.
        self._probe_at = now + pause * (0.5 + self._draw() / 2)
        self._probing_until = 0.0


def is_outage(error: Exception) -> bool:
    """Whether ``error`` says that the database as a whole does not do its work."""
    if not isinstance(error, StoreError):
        return False
    if isinstance(error, StoreUnavailable):
        return not error.partial and error.retry_after is None and error.outcome != "unconfirmed"
    return error.outcome == "unknown"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
