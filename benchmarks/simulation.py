"""``python -m benchmarks.simulation``: what 10⁸ sessions and 10⁵ requests a second take, by what was measured.

Costs go in (from the JSON of ``benchmarks.scale``, ``--costs``, or the defaults below), queueing comes out: how many
servers each database needs and what runs out first, and how long calls take at each load. What is assumed is printed,
and every number of it can be given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.simulation_plan import (
    DEFAULTS,
    Costs,
    Hardware,
    Load,
    ceiling,
    core_seconds,
    from_json,
    most_sessions,
    near_hits,
    plan,
    simulate,
)

SHARES = (0.3, 0.5, 0.7, 0.8, 0.9)
POOL = {"postgresql": 8, "redis": 4, "redis-packed": 4}  # connections of a worker to a server, at most: ``pool_size``


def main() -> None:
    """Compute, simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--costs", type=Path, help="the JSON of benchmarks.scale")
    parser.add_argument("--calls", type=int, default=40_000, help="simulated at each load")
    parser.add_argument("--seed", type=int, default=1)
    for group in (Load, Hardware):
        for one in fields(group):
            parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default)
    options = parser.parse_args()
    load = Load(**{one.name: getattr(options, one.name) for one in fields(Load)})
    hardware = Hardware(**{one.name: getattr(options, one.name) for one in fields(Hardware)})
    known = DEFAULTS if options.costs is None else from_json(json.loads(options.costs.read_text()))
    print(assumptions(load, hardware, known.values()), end="\n\n")
    print(plans(known, load, hardware), end="\n\n")
    print(near_caches(known.values(), load, hardware), end="\n\n")
    print(queueing(known.values(), load, hardware, options.calls, options.seed))


def assumptions(load: Load, hardware: Hardware, known: Iterable[Costs]) -> str:
    """Everything that goes in, as Markdown."""
    lines = ["| assumed | |", "|---|---|"]
    for group in (load, hardware):
        lines += [f"| {one.name.replace('_', ' ')} | {_number(getattr(group, one.name))} |" for one in fields(group)]
    lines += [
        f"| from these: touches, logins, other writes a second | {load.touches:,.0f}, {load.logins:,.0f}, "
        f"{load.changes:,.0f} |"
    ]
    for costs in known:
        lines.append(
            f"| {costs.title}: server µs a read, alone and in a batch of {costs.batch:.0f}; a write | "
            f"{costs.read_alone:.0f}, {costs.read_each:.0f}; {costs.write_alone:.0f}, {costs.write_each:.0f} |"
        )
        lines.append(
            f"| {costs.title}: cores used, bytes a session on disk, in memory | {costs.cores}, {costs.disk:,.0f}, "
            f"{costs.memory:,.0f} |"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def plans(known: Mapping[str, Costs], load: Load, hardware: Hardware) -> str:
    """How many servers, as Markdown."""
    lines = [
        "| | near cache hits | one server carries: requests/s | sessions | cores busy | servers by CPU | by memory "
        "| by disk | by network | needed | workers of the app | connections a server, at most |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, costs in known.items():
        for hits in sorted({load.hits, 0.0, 0.5, 0.9}):
            one = plan(costs, replace(load, hits=hits), hardware)
            holds, why = most_sessions(costs, hardware)
            cells = [
                f"{costs.title}, {costs.cores} cores" if costs.cores > 1 else costs.title,
                f"{hits:.0%}",
                f"{ceiling(costs, one.load, hardware):,.0f}",
                f"{holds / 1e6:,.0f} M ({why})",
                f"{core_seconds(costs, one.load):.1f}",
                *(f"{one.by[what]:.1f}" if what in one.by else "–" for what in ("CPU", "memory", "disk", "network")),
                f"**{one.servers}**, for {one.first}",
                f"{one.workers}",
                f"{one.workers * POOL[name]:,}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def near_caches(known: Iterable[Costs], load: Load, hardware: Hardware) -> str:
    """What a near cache finds and what its feed tells, as Markdown."""
    [costs, *_] = known
    workers = plan(costs, load, hardware).workers
    messages = (load.changes + load.touches) * workers
    lines = ["| near cache | a session's requests go to any worker | to its own |", "|---|---|---|"]
    for name, age in (("records kept 1 s (no feed)", 1.0), ("records kept 60 s (with a feed)", 60.0)):
        lines.append(f"| {name} | {near_hits(load, workers, age):.1%} hits | {near_hits(load, 1, age):.0%} hits |")
    lines += [
        f"| entries that a worker holds for that | {load.active:,.0f} | {load.active / workers:,.0f} |",
        f"| what a feed tells all {workers} workers | {messages:,.0f} messages/s | {messages:,.0f} messages/s |",
    ]
    return "\n".join(lines)


def queueing(known: Iterable[Costs], load: Load, hardware: Hardware, calls: int, seed: int) -> str:
    """How long calls take at each load of one server, as Markdown. Milliseconds."""
    lines = [
        "| | servers | load of one | utilisation | calls in a batch | read p50 ms | p99 | write p50 ms | p99 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for costs in known:
        servers = plan(costs, load, hardware).servers
        for share in SHARES:
            found = simulate(costs, load, hardware, servers, share, calls, seed)
            times = [found.quantile(at, kind) * 1000 for kind in (0, 1) for at in (0.5, 0.99)]
            lines.append(
                f"| {costs.title} | {servers} | {share:.0%} | {found.utilisation:.0%} | {found.batch():.2f} | "
                + " | ".join(f"{one:.2f}" for one in times)
                + " |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
