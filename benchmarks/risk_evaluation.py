"""Scores made-up logins and attacks in the order of time, and says how often people would be questioned."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.risk_attackers import KINDS, Attackers, Popular, Skills
from benchmarks.risk_generator import Login, World, logins
from benchmarks.risk_reference import Reference
from sessiondb.core.features import Features, Marker
from sessiondb.core.frequencies import Frequencies
from sessiondb.core.history import ENTRY_BYTES, Entry, decode, encode, next_number
from sessiondb.core.scoring import score
from sessiondb.core.thresholds import LENGTHS, Questioned, Thresholds

BLOCKED = 0.995
REMEMBERED = 40  # logins; rings are the newest of them
KEY = b"a key of the benchmark, no secret"


@dataclass
class Scored:
    """Scores by one way of scoring: of each user's logins in order, and of attacks by kind and length of history."""

    people: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    attacks: dict[str, list[list[float]]] = field(
        default_factory=lambda: {kind: [[] for _ in range(LENGTHS)] for kind in KINDS}
    )

    def cuts(self, kind: str, blocked: float = BLOCKED, *, one: bool = False) -> list[float]:
        """From which score on to question, by length of history, so that ``blocked`` of the attacks are.

        ``one``: the same for all lengths, as the papers do.
        """
        rows = self.attacks[kind]
        if one:
            rows = [[value for row in rows for value in row]] * LENGTHS
        return [sorted(row)[int((1 - blocked) * len(row))] for row in rows]

    def questioned(self, cuts: Sequence[float], length: int) -> list[float]:
        """Of each user with so many scored logins: which share of the first ``length`` of them is questioned."""
        return [
            sum(value >= cuts[min(place, LENGTHS - 1)] for place, value in enumerate(values[:length])) / length
            for values in self.people.values()
            if len(values) >= length
        ]

    def later(self, cuts: Sequence[float], first: int, last: int) -> float:
        """The share of questioned logins among those with ``first`` to ``last`` earlier ones."""
        found = [
            value >= cuts[min(place, LENGTHS - 1)]
            for values in self.people.values()
            for place, value in enumerate(values[first - 1 : last], first - 1)
        ]
        return sum(found) / max(1, len(found))

    def stopped(self, kind: str, cuts: Sequence[float]) -> float:
        """The share of attacks that ``cuts`` question."""
        rows = self.attacks[kind]
        hits = sum(value >= cut for row, cut in zip(rows, cuts, strict=True) for value in row)
        return hits / sum(map(len, rows))


@dataclass
class Run:
    """One simulated year."""

    logins: list[Login]
    scored: dict[str, Scored]
    levels: dict[str, Counter[str]]  # by kind of attack, and "people": what the learnt thresholds say
    early: dict[str, Counter[str]]  # the same of the first 1,000 logins of the installation
    frequencies: Frequencies
    sample: list[tuple[Features, bytes, int]]  # for taking the time


def simulate(
    world: World,
    seed: int,
    skills: Skills | None = None,
    *,
    rings: Iterable[int] = (10,),
    attacks: int = 3,
    reference: bool = False,
    questioned: Questioned | None = None,
) -> Run:
    """Every login is scored by what was known before it, and so are ``attacks`` attacks of each kind in its place."""
    internet, everyone = logins(world, seed)
    skills, questioned = skills or Skills(), questioned or Questioned()
    popular, rng = Popular(), random.Random(f"{seed}:attacks")
    attackers = Attackers(internet, popular, skills, rng)
    mark, frequencies, thresholds, published = Marker(KEY), Frequencies(), Thresholds(), Reference()
    kept: dict[int, bytes] = defaultdict(bytes)
    past: dict[int, list[Login]] = defaultdict(list)
    names = {ring: str(ring) for ring in rings}
    run = Run(everyone, defaultdict(Scored), defaultdict(Counter), defaultdict(Counter), frequencies, [])
    for place, login in enumerate(everyone):
        history, before, now = decode(kept[login.user]), past[login.user], login.at
        marks = mark(login.features())
        if history:
            row = min(len(before), LENGTHS) - 1
            seen = [one.features() for one in before] if reference else []
            tries = [("people", login)]
            tries += [(kind, attackers.attack(kind, before, login.day)) for kind in KINDS for _ in range(attacks)]
            for kind, attempt in tries:
                features = attempt.features()
                tried = mark(features)
                for ring, name in names.items():
                    found = score(tried, history[:ring], frequencies, now)
                    _add(run.scored[name], kind, login.user, row, found.value)
                    if ring == 10:
                        level = thresholds.level(found, questioned, now)
                        (run.early if place < 1000 else run.levels)[kind][level] += 1
                        if kind == "people":
                            thresholds.count(found, now)
                if reference:
                    _add(run.scored["published"], kind, login.user, row, published.score(features, seen))
            if place % 50 == 0:
                run.sample.append((login.features(), kept[login.user], now))
        if reference:
            published.count(login.features(), first=not before)
        entry = encode(Entry(at=now, marks=marks, number=next_number(history)))
        kept[login.user] = (entry + kept[login.user])[: REMEMBERED * ENTRY_BYTES]
        before.append(login)
        frequencies.count(marks, now)
        popular.see(login.agent)
    return run


def _add(scored: Scored, kind: str, user: int, row: int, value: float) -> None:
    if kind == "people":
        scored.people[user].append(value)
    else:
        scored.attacks[kind][row].append(value)


Rates = dict[str, tuple[float, float]]


def rates(runs: Sequence[Run], name: str, length: int = LENGTHS, *, one: bool = False) -> Rates:
    """Of each attacker: median and mean over users of the share of questioned logins, of all runs together."""
    found: Rates = {}
    for kind in KINDS:
        shares: list[float] = []
        for run in runs:
            scored = run.scored[name]
            shares += scored.questioned(scored.cuts(kind, one=one), length)
        found[kind] = (statistics.median(shares), statistics.fmean(shares)) if shares else (math.nan, math.nan)
    return found
