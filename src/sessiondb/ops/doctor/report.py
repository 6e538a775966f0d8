"""What a doctor says: findings, each with its cure, and what the durability comes to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from sessiondb.core.policy import SECOND

# problem: loses sessions, or keeps them from working; warning: a power cut or a mishap would; note: good to know.
Level = Literal["problem", "warning", "note", "ok"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "note", "ok")

_CLOCK_WARNING = 2 * SECOND
_SLOW_MS = 10.0
_TRIES = 7


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``check`` names it, ``found`` is what it is.

    ``means`` says what that does to sessions and ``mend`` is the command or setting that changes it; an ``ok`` has
    neither.
    """

    level: Level
    check: str
    found: str
    means: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Survival:
    """Whether what was answered survives ``event`` (``None``: that could not be found out), and why."""

    event: str
    survives: bool | None
    why: str = ""


@dataclass(slots=True)
class Report:
    """The findings about one database. ``database`` is its product and version, ``where`` its address."""

    database: str
    where: str
    findings: list[Finding] = field(default_factory=list)
    durability: list[Survival] = field(default_factory=list)

    def add(self, level: Level, check: str, found: object, means: str = "", mend: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(level, check, str(found), means, mend))

    def ok(self, check: str, found: object) -> None:
        """Add a finding that is as it should be."""
        self.add("ok", check, found)

    def survives(self, event: str, survives: bool | None, why: str = "") -> None:
        """Say whether an acknowledged write survives ``event``."""
        self.durability.append(Survival(event, survives, why))

    def by_level(self, level: Level) -> list[Finding]:
        """The findings of one level, in the order in which they were made."""
        return [finding for finding in self.findings if finding.level == level]

    @property
    def has_problems(self) -> bool:
        """Whether something loses sessions, or keeps them from working."""
        return any(finding.level == "problem" for finding in self.findings)


# What acknowledged writes are to survive, in the words of every report.
APP_ENDS = "the app's process ends"
SERVER_KILLED = "the server is killed (kill -9)"
POWER_CUT = "a power cut"
MACHINE_LOST = "its machine is lost, a replica takes over"


async def measure_clock(report: Report, clock: Callable[[], Awaitable[int]]) -> None:
    """Add the round trip and the offset of the clocks; ``clock`` asks the database for its time in microseconds."""
    trips: list[tuple[float, int]] = []
    for _ in range(_TRIES):
        before, started = time.time_ns() // 1000, time.perf_counter()
        there = await clock()
        took = time.perf_counter() - started
        trips.append((took * 1000, there - before - round(took * SECOND / 2)))
    milliseconds = statistics.median(took for took, _ in trips)
    if milliseconds > _SLOW_MS:
        report.add(
            "note",
            "round trip",
            f"{milliseconds:.0f} ms",
            "Each request that uses its session waits for at least one.",
            "Move app and database into one data centre.",
        )
    else:
        report.ok("round trip", f"{milliseconds:.2f} ms")
    check_clock(report, min(trips)[1])


def check_clock(report: Report, offset: int) -> None:
    """Add what an ``offset`` of the database's clock to this machine's, in microseconds, means."""
    found = f"{abs(offset) / SECOND:.3f} s {'ahead of' if offset > 0 else 'behind'} this machine"
    if abs(offset) > _CLOCK_WARNING:
        report.add(
            "warning",
            "clock",
            found,
            "Sessions go by the database's clock; one that jumps ends them early, or late.",
            "Run NTP (chrony, systemd-timesyncd) on both machines.",
        )
    else:
        report.ok("clock", found)


def check_schema(report: Report, found: str | None, known: object) -> bool:
    """Add what the stored schema version means; whether there are tables (or keys) to look at."""
    if found is None:
        report.add(
            "note",
            "schema",
            "not there yet",
            "The app makes it when it starts, if its user may.",
            "sessiondb init (or hand 'sessiondb init --sql' to whoever manages the database)",
        )
        return False
    if found != str(known):
        report.add(
            "problem",
            "schema",
            f"version {found}; this sessiondb knows version {known}",
            "The app refuses to start with it.",
            "Install the sessiondb that made it, or name another database or ?prefix=.",
        )
        return False
    report.ok("schema", f"version {found}")
    return True
