"""``python -m benchmarks.risk``: how often people are questioned where 99.5 % of attacks are, and what a score costs.

Logins of a year are made up (``risk_generator``), and attacks in their place (``risk_attackers``); each is scored by
what was known before it. As Wiefling et al. do: the threshold is the one that 99.5 % of the attacks of a kind reach;
of everybody who has logged in often enough, those of the first twelve logins with a history are counted that reach it
too; printed is the median over people of that count, as a share of the twelve. ``docs/risk.md`` tells more.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from time import perf_counter

from benchmarks.risk_attackers import KINDS, Skills
from benchmarks.risk_evaluation import BLOCKED, KEY, Rates, Run, rates, simulate
from benchmarks.risk_generator import World
from benchmarks.risk_statistics import measure, table
from sessiondb.core.features import Marker
from sessiondb.core.history import decode
from sessiondb.core.scoring import score
from sessiondb.core.thresholds import LENGTHS, PRIOR_SHARES, Questioned

PUBLISHED = {"naive": 0.25, "vpn": 0.33, "targeted": 0.42}  # TOPS 2022, read off the chart of the data set, ±.03
GOALS = {"naive": 0.20, "vpn": 0.25, "targeted": 0.40}
NAMES = {"naive": "naive", "vpn": "VPN", "targeted": "targeted", "very_targeted": "very targeted"}
HEADINGS = " | ".join(NAMES.values())
RINGS = (8, 10, 40)
LATER = (13, 39)
FAST_USERS = 4000


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.risk", description=__doc__)
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--fast", action="store_true", help="one seed, 4,000 users, no variants: half a minute")
    parser.add_argument("--json", action="store_true", help="the last line is the medians, as JSON")
    parser.add_argument("--prior", action="store_true", help="print the quantiles that core.thresholds begins with")
    options = parser.parse_args()
    users, seeds = (FAST_USERS, options.seeds[:1]) if options.fast else (options.users, options.seeds)
    world = World(users=users)
    runs = [simulate(world, seed, rings=RINGS, reference=True) for seed in seeds]
    if options.prior:
        print(prior(runs))
        return
    main_rates = rates(runs, "10")
    parts = [population(runs), headline(main_rates, runs), compared(runs), lengths(runs), rings(runs), learnt(runs)]
    if not options.fast:
        fewer = replace(world, users=min(users, 8000))
        parts += [kept(runs), from_main_country(fewer, seeds[0]), variants(fewer, seeds[0])]
    parts.append(cost(runs[0]))
    print("\n\n".join(parts))
    if options.json:
        print(json.dumps({kind: round(main_rates[kind][0], 4) for kind in GOALS}))


def _row(name: str, found: Rates) -> str:
    cells = (f"{found[kind][0]:.2f} ({found[kind][1]:.2f})" for kind in KINDS)
    return f"| {name} | {' | '.join(cells)} |"


def population(runs: Sequence[Run]) -> str:
    """What the made-up logins are like."""
    measured = [measure(run.logins) for run in runs]
    return "## The logins\n\n" + table({name: statistics.fmean(one[name] for one in measured) for name in measured[0]})


def headline(found: Rates, runs: Sequence[Run]) -> str:
    """The medians beside the published ones."""
    people = sum(len(values) >= LENGTHS for run in runs for values in run.scored["10"].people.values())
    lines = [
        f"## Questioned logins of people, where {BLOCKED:.1%} of attacks are questioned; {LENGTHS} logins of history",
        "",
        f"Median over {people:,} people; in brackets the mean.",
        "",
        "| attacker | published | goal | here | |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        median, mean = found[kind]
        goal = GOALS.get(kind)
        verdict = "" if goal is None else "reached" if median <= goal else "MISSED"
        cells = ("–", "–") if goal is None else (f"{PUBLISHED[kind]:.2f}", f"{goal:.2f}")
        lines.append(f"| {NAMES[kind]} | {' | '.join(cells)} | {median:.3f} ({mean:.3f}) | {verdict} |")
    each = [rates([run], "10") for run in runs]
    medians = (f"{NAMES[kind]} {', '.join(f'{one[kind][0]:.2f}' for one in each)}" for kind in KINDS)
    return "\n".join([*lines, "", f"Medians of each seed: {'; '.join(medians)}."])


def compared(runs: Sequence[Run]) -> str:
    """The published score on the same logins."""
    lines = [
        "## The same logins and attacks, by the published score",
        "",
        f"| | {HEADINGS} |",
        "|---|---|---|---|---|",
        _row("published score, every login remembered, one threshold", rates(runs, "published", one=True)),
        _row("published score, a threshold for each length of history", rates(runs, "published")),
        _row("this score, one threshold", rates(runs, "10", one=True)),
        _row("this score, a threshold for each length of history", rates(runs, "10")),
    ]
    return "\n".join(lines)


def from_main_country(world: World, seed: int) -> str:
    """The easier attackers, nearer to those of the papers, of whom nearly all users are in one country."""
    runs = [simulate(world, seed, Skills(main_country=True), reference=True)]
    lines = [
        "## Where VPN and targeted attackers all come from the country with most users",
        "",
        f"| | {HEADINGS} |",
        "|---|---|---|---|---|",
        _row("published score, one threshold", rates(runs, "published", one=True)),
        _row("this score, a threshold for each length of history", rates(runs, "10")),
    ]
    return "\n".join(lines)


def lengths(runs: Sequence[Run]) -> str:
    """Other lengths of history."""
    lines = ["## By length of history", "", f"| logins of history | {HEADINGS} |", "|---|---|---|---|---|"]
    lines += [_row(str(length), rates(runs, "10", length)) for length in (1, 2, 4, 8, 12, 20, 39)]
    return "\n".join(lines)


def rings(runs: Sequence[Run]) -> str:
    """How many logins are worth remembering."""
    first, last = LATER
    lines = [
        "## By logins that are remembered",
        "",
        f"The first {LENGTHS} as above; and the share of questioned logins among the {first}th to {last}th.",
        "",
        f"| remembered | {HEADINGS} |",
        "|---|---|---|---|---|",
    ]
    for ring in RINGS:
        lines.append(_row(f"{ring}, first {LENGTHS}", rates(runs, str(ring))))
        shares = (_later(runs, str(ring), kind) for kind in KINDS)
        lines.append(f"| {ring}, {first} to {last} | {' | '.join(f'{share:.3f}' for share in shares)} |")
    return "\n".join(lines)


def _later(runs: Sequence[Run], name: str, kind: str) -> float:
    return statistics.fmean(run.scored[name].later(run.scored[name].cuts(kind), *LATER) for run in runs)


def kept(runs: Sequence[Run]) -> str:
    """Whether thresholds of one year hold in another."""
    pairs = list(zip(runs, [*runs[1:], runs[0]], strict=True))
    cells = []
    for kind in KINDS:
        shares = [other.scored["10"].stopped(kind, run.scored["10"].cuts(kind)) for run, other in pairs]
        cells.append(f"{statistics.fmean(shares):.2%}")
    lines = ["## Attacks questioned, by the thresholds of another year", "", f"| {HEADINGS} |", "|---|---|---|---|"]
    return "\n".join([*lines, f"| {' | '.join(cells)} |"])


def learnt(runs: Sequence[Run]) -> str:
    """What thresholds do that no attack was needed for."""
    questioned = Questioned()
    lines = [
        f"## By learnt thresholds: medium at most {questioned.medium:.0%} of logins, high {questioned.high:.0%}",
        "",
        f"| questioned | people | {HEADINGS} |",
        "|---|---|---|---|---|---|",
    ]
    for title, early in (("the first 1,000 logins of all", True), ("from then on", False)):
        for name, levels in (("medium or high", ("medium", "high")), ("high", ("high",))):
            cells = []
            for kind in ("people", *KINDS):
                counts = [(run.early if early else run.levels)[kind] for run in runs]
                total = sum(count.total() for count in counts)
                cells.append(f"{sum(count[level] for count in counts for level in levels) / max(1, total):.1%}")
            lines.append(f"| {title}: {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def variants(world: World, seed: int) -> str:
    """What becomes of the medians where the assumptions are others."""
    lines = ["## Other assumptions", "", f"| | {HEADINGS} |", "|---|---|---|---|---|"]
    for name, changed, skills in VARIANTS:
        lines.append(_row(name, rates([simulate(replace(world, **changed), seed, skills)], "10")))
    return "\n".join(lines)


_RESTLESS = {"mobile_network": 0.3, "leases": ((0.2, 400.0), (0.5, 25.0), (0.3, 5.0)), "stays_near": 0.1, "spread": 32}
_STEADY = {"mobile_network": 0.1, "leases": ((0.6, 400.0), (0.3, 60.0), (0.1, 10.0)), "stays_near": 0.4, "spread": 8}
VARIANTS: list[tuple[str, dict[str, object], Skills]] = [
    ("as above", {}, Skills()),
    ("addresses change more: shorter leases, more mobile networks", _RESTLESS, Skills()),
    ("addresses change less", _STEADY, Skills()),
    ("three times the travel and the VPN users", {"trips_a_year": 3.0, "vpn_users": 0.12}, Skills()),
    ("user agents as since 2023, without minor versions and models", {"reduced": True}, Skills()),
    ("VPN attackers all at providers for servers", {}, Skills(servers=1.0)),
    ("VPN attackers all at providers for people", {}, Skills(servers=0.0)),
    ("one naive attacker in ten where the users are", {}, Skills(naive_at_users=0.1)),
]


def cost(run: Run) -> str:
    """Microseconds of one score, over the logins of one year, with the frequencies of its end."""
    mark = Marker(KEY)
    full = [one for one in run.sample if len(decode(one[1])) >= 10] or run.sample
    now = run.logins[-1].at

    def whole() -> Iterable[float]:
        for features, history, _ in full:
            start = perf_counter()
            score(mark(features), decode(history[:480]), run.frequencies, now)
            yield perf_counter() - start

    def alone() -> Iterable[float]:
        for features, history, _ in full:
            marks, entries = mark(features), decode(history[:480])
            start = perf_counter()
            score(marks, entries, run.frequencies, now)
            yield perf_counter() - start

    values = ", ".join(f"{count:,}" for count in run.frequencies.values())
    lines = ["## Time", "", "| | median µs | 99 % |", "|---|---|---|"]
    for name, once in (("score, ten logins remembered", alone), ("with hashing and reading the history", whole)):
        times = sorted(one for _ in range(20) for one in once())
        middle, high = times[len(times) // 2], times[int(0.99 * len(times))]
        lines.append(f"| {name} | {1e6 * middle:.1f} | {1e6 * high:.1f} |")
    return "\n".join([*lines, "", f"Values counted at each level: {values}."])


def prior(runs: Sequence[Run]) -> str:
    """``PRIOR`` of ``core.thresholds``."""
    lines = []
    for place in range(LENGTHS):
        found = sorted(
            value
            for run in runs
            for values in run.scored["10"].people.values()
            for value in (values[place:] if place == LENGTHS - 1 else values[place : place + 1])
        )
        cells = (f"{found[min(len(found) - 1, int(share * len(found)))]:.2g}" for share in PRIOR_SHARES)
        lines.append(f"    ({', '.join(cells)}),")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
