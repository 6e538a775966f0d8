"""What is published of real logins, and the same of made-up ones beside it.

Sources:

* Wiefling, Jørgensen, Thunem, Lo Iacono, "Pump Up Password Security!", ACM TOPS 26(1), 2022, section 4 [TOPS].
* The data set to it, DOI 10.5281/zenodo.6782156, CC BY 4.0, as counted in full and published by others [RBA]:
  github.com/KhoaPTIT/do-an-test, docs/rba-data-card.md, rba-evaluation.md, ml-holdout-ablation.md, rba-features.md.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.risk_generator import HOUR, MINUTE, Login


class Figure(NamedTuple):
    """One number: as published, and how far off (as a share of one, or of the number) the made-up logins may be."""

    name: str
    published: float
    tolerance: float
    source: str


GAPS = {
    "< 1 min": MINUTE,
    "1-10 min": 10 * MINUTE,
    "10 min-1 h": HOUR,
    "1-24 h": 1.0,
    "1-7 d": 7.0,
    "7-30 d": 30.0,
    "> 30 d": math.inf,
}

PUBLISHED = [
    Figure("logins a user, median", 2, 0.01, "TOPS"),
    Figure("logins a user, mean", 3.8, 0.4, "TOPS"),
    Figure("logins a user, 90 %", 9, 1.01, "RBA"),
    Figure("logins a user, 99 %", 28, 5, "RBA"),
    Figure("users with one login", 0.397, 0.04, "RBA"),
    Figure("users with ten or more", 0.085, 0.02, "RBA"),
    *(
        Figure(f"gaps {name}", share, 0.05, "RBA")
        for name, share in zip(GAPS, (0.040, 0.107, 0.051, 0.112, 0.172, 0.214, 0.303), strict=True)
    ),
    *(
        Figure(f"new address after {name}", share, 0.07, "RBA")
        for name, share in zip(GAPS, (0.024, 0.054, 0.120, 0.223, 0.351, 0.539, 0.759), strict=True)
    ),
    Figure("new address", 0.444, 0.05, "RBA"),
    Figure("new network or country", 0.104, 0.03, "RBA"),
    Figure("new country", 0.023, 0.015, "RBA"),
    Figure("new agent", 0.52, 0.06, "RBA"),
    Figure("new browser version", 0.41, 0.06, "RBA"),
    Figure("new system version", 0.22, 0.06, "RBA"),
    Figure("mobile", 0.653, 0.05, "TOPS"),
    Figure("two logins share the country", 0.531, 0.05, "RBA"),
    Figure("two logins share the network", 0.208, 0.05, "RBA"),
    Figure("two of a country share the network", 0.419, 0.06, "RBA"),
    Figure("two logins share the agent", 0.014, 0.008, "RBA"),
    Figure("two logins share the device", 0.51, 0.06, "RBA"),
]


def measure(logins: Sequence[Login]) -> dict[str, float]:
    """The figures of ``PUBLISHED`` for these logins, which are in order."""
    found: dict[str, float] = {}
    counts = sorted(Counter(login.user for login in logins).values())
    found["logins a user, median"] = statistics.median(counts)
    found["logins a user, mean"] = statistics.fmean(counts)
    found["logins a user, 90 %"] = counts[int(0.9 * len(counts))]
    found["logins a user, 99 %"] = counts[int(0.99 * len(counts))]
    found["users with one login"] = sum(count == 1 for count in counts) / len(counts)
    found["users with ten or more"] = sum(count >= 10 for count in counts) / len(counts)
    seen: dict[int, tuple[set[object], ...]] = defaultdict(lambda: tuple(set() for _ in range(6)))
    last: dict[int, float] = {}
    new = [0] * 6
    gaps: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for login in logins:
        values = (
            login.ip,
            login.provider.asn,
            login.provider.country,
            login.agent.agent,
            login.agent.browser,
            login.agent.system,
        )
        known = seen[login.user]
        if login.user in last:
            fresh = [value not in before for value, before in zip(values, known, strict=True)]
            gap = next(name for name, most in GAPS.items() if login.day - last[login.user] < most)
            gaps[gap] += 1
            moved[gap] += fresh[0]
            fresh[1] = fresh[1] or fresh[2]
            new = [count + one for count, one in zip(new, fresh, strict=True)]
        last[login.user] = login.day
        for value, before in zip(values, known, strict=True):
            before.add(value)
    total = gaps.total()
    for name in GAPS:
        found[f"gaps {name}"] = gaps[name] / total
        found[f"new address after {name}"] = moved[name] / max(1, gaps[name])
    names = ("address", "network or country", "country", "agent", "browser version", "system version")
    found |= {f"new {name}": count / total for name, count in zip(names, new, strict=True)}
    found["mobile"] = sum(login.agent.device == "mobile" for login in logins) / len(logins)
    found["two logins share the country"] = collision(login.provider.country for login in logins)
    found["two logins share the network"] = collision(login.provider.asn for login in logins)
    found["two of a country share the network"] = (
        found["two logins share the network"] / found["two logins share the country"]
    )
    # Published of logins within a day of each other; versions change slowly enough for ten.
    days = defaultdict(list)
    for login in logins:
        days[int(login.day / 10)].append(login.agent.agent)
    alike = sum(len(agents) * (len(agents) - 1) * collision(agents) for agents in days.values())
    found["two logins share the agent"] = alike / sum(len(agents) * (len(agents) - 1) for agents in days.values())
    found["two logins share the device"] = collision(login.agent.device for login in logins)
    return found


def collision(values: Iterable[object]) -> float:
    """How probable it is that two drawn at random are the same."""
    counts = Counter(values)
    total = counts.total()
    return sum(count * (count - 1) for count in counts.values()) / max(1, total * (total - 1))


def table(measured: dict[str, float]) -> str:
    """Published and measured side by side, as Markdown."""
    lines = ["| | published | made up | |", "|---|---|---|---|"]
    for name, published, tolerance, source in PUBLISHED:
        off = abs(measured[name] - published) > tolerance
        lines.append(f"| {name} | {published:g} [{source}] | {measured[name]:.3g} | {'off' if off else ''} |")
    return "\n".join(lines)
