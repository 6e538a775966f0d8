"""``python -m benchmarks.simulation``: what 10⁸ sessions and 10⁵ requests a second take, by what was measured.

Costs go in (from the JSON of ``benchmarks.scale``, ``--costs``, or the defaults below), queueing comes out: how many
servers each database needs and what runs out first, and how long calls take at each load. What is assumed is printed,
and every number of it can be given.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.simulation_queues import Clients, Kind, Outcome, Server, Simulation

US = 1e-6
SPREAD = 1.0  # exponential service times: some calls take much longer than others


@dataclass(frozen=True)
class Costs:
    """CPU of one database: microseconds of one core a call, ``_alone`` and (``_each``) in a batch of ``batch``."""

    title: str
    read_alone: float
    read_each: float
    write_alone: float
    write_each: float
    app_read: float  # in the application
    app_write: float
    sweep_each: float
    batch: float
    disk: float  # bytes a session
    memory: float
    commit: float = 0.0  # microseconds that an answer waits for the disk, which takes no CPU
    cores: int = 1  # that one server can use

    def read(self) -> Kind:
        """As the simulation has it."""
        return split(self.read_alone, self.read_each, self.batch)

    def write(self) -> Kind:
        """As the simulation has it."""
        return replace(split(self.write_alone, self.write_each, self.batch), wait=self.commit * US)


def split(alone: float, each: float, batch: float) -> Kind:
    """What a batch costs by itself and what each call in it adds, from two measurements (microseconds a call)."""
    slope = max(0.0, (batch * each - alone) / (batch - 1))
    return Kind((alone - slope) * US, slope * US)


# Medians at a million sessions, on one core of the machine that docs/scaling.md names.
DEFAULTS = {
    "postgresql": Costs("PostgreSQL", 79, 15, 307, 36, 15, 22, 17, 32, 1214, 0, commit=1000, cores=16),
    "redis": Costs("Valkey", 40, 10, 80, 30, 20, 30, 40, 32, 1500, 2118, commit=0, cores=1),
}
# Beside them: the median of a read by 32 callers in one process, milliseconds.
MEASURED_TOGETHER = {"postgresql": 1.23, "redis": 1.0}


@dataclass(frozen=True)
class Load:
    """What an app asks of its sessions. Rates are a second."""

    sessions: float = 1e8
    requests: float = 1e5  # that bring a session: each is a read
    writes: float = 0.1  # of the requests store something
    active: float = 1e6  # sessions in use at once
    touch_every: float = 60.0  # seconds
    lifetime: float = 14 * 86_400.0  # seconds from a login to the end, on average
    hits: float = 0.0  # of the reads are served by the near cache
    handler: float = 1000.0  # microseconds of CPU that the app itself takes for a request

    @property
    def reads(self) -> float:
        """That reach the database."""
        return self.requests * (1 - self.hits)

    @property
    def touches(self) -> float:
        """No session is touched more often than it is used, nor than once in ``touch_every``."""
        return min(self.requests, self.active / self.touch_every)

    @property
    def logins(self) -> float:
        """As many as sessions end, or their number would not stay."""
        return self.sessions / self.lifetime

    @property
    def changes(self) -> float:
        """Writes of all kinds but touches: a login writes a session, an event and asks for admission."""
        return self.requests * self.writes + 3 * self.logins


@dataclass(frozen=True)
class Hardware:
    """What one server has, and how much of it is to be used."""

    use: float = 0.6  # of the CPU, so that bursts and a failover fit
    memory: float = 64e9
    memory_use: float = 0.6  # a copy-on-write fork and replicas' buffers take the rest
    disk: float = 2e12
    disk_use: float = 0.7
    network: float = 1.25e9  # bytes a second: 10 Gbit
    network_use: float = 0.5
    round_trip: float = 0.0003
    connections: int = 500  # of PostgreSQL without a pooler, where each is a process
    read_bytes: float = 1100.0  # on the wire, question and answer
    write_bytes: float = 700.0


@dataclass(frozen=True)
class Plan:
    """How many servers of one kind: by each resource, and by that which needs the most."""

    costs: Costs
    load: Load
    hardware: Hardware
    by: dict[str, float]

    @property
    def servers(self) -> int:
        """That are needed."""
        return max(1, math.ceil(max(self.by.values()) - 1e-9))

    @property
    def first(self) -> str:
        """The resource that runs out first."""
        return max(self.by, key=lambda name: self.by[name])

    @property
    def workers(self) -> int:
        """Processes of the app, one core each."""
        load, costs = self.load, self.costs
        each = load.handler + costs.app_read * (1 - load.hits) + costs.app_write * load.writes
        return math.ceil(load.requests * each * US / self.hardware.use)


def core_seconds(costs: Costs, load: Load, batch: float = 1.0) -> float:
    """CPU of the database, in cores. Reads and writes come in batches of ``batch``; touches are always batched."""
    reads = load.reads * costs.read().cost(batch) / batch
    writes = load.changes * costs.write().cost(batch) / batch
    # An end that the sweeper writes, and a purge, once in the life of a session.
    swept = 2 * load.logins * costs.sweep_each * US
    return reads + writes + load.touches * costs.write().cost(costs.batch) / costs.batch + swept


def plan(costs: Costs, load: Load, hardware: Hardware) -> Plan:
    """How many servers of that kind carry ``load``."""
    wire = load.reads * hardware.read_bytes + (load.changes + load.touches) * hardware.write_bytes
    by = {
        "CPU": core_seconds(costs, load) / (costs.cores * hardware.use),
        "network": wire / (hardware.network * hardware.network_use),
        "disk": load.sessions * costs.disk / (hardware.disk * hardware.disk_use),
    }
    if costs.memory:
        by["memory"] = load.sessions * costs.memory / (hardware.memory * hardware.memory_use)
    return Plan(costs, load, hardware, by)


def ceiling(costs: Costs, load: Load, hardware: Hardware) -> float:
    """Requests a second that the CPU of one server carries, with the rest of ``load`` in proportion."""
    return load.requests * costs.cores * hardware.use / core_seconds(costs, load)


def most_sessions(costs: Costs, hardware: Hardware) -> tuple[float, str]:
    """How many sessions one server holds, and what bounds it."""
    bounds = [(hardware.disk * hardware.disk_use / costs.disk, "disk")]
    if costs.memory:
        bounds.append((hardware.memory * hardware.memory_use / costs.memory, "memory"))
    return min(bounds)


def near_hits(load: Load, holders: int, age: float) -> float:
    """The share of reads that a near cache serves which keeps records for ``age`` seconds.

    ``holders``: between how many workers the requests of one session are spread, evenly; 1: each has its worker.
    Requests of a session come at random, so of each load ``rate * age`` more find it, and then it is loaded again.
    """
    found = load.requests / load.active / holders * age
    return found / (1 + found)


def simulate(
    costs: Costs, load: Load, hardware: Hardware, servers: int, share: float, calls: int, seed: int
) -> Outcome:
    """``calls`` reads and writes on one of ``servers``, at ``share`` of what its CPU can do in batches of one."""
    full = costs.cores / (core_seconds(costs, replace(load, active=0.0)) / servers)
    rates = [one / servers * full * share for one in (load.reads, load.changes)]
    # Each worker talks to every server, so a server is sent a small share of each worker's calls.
    workers = plan(costs, load, hardware).workers
    clients = Clients(workers=max(1, round(workers * share * full)), round_trip=hardware.round_trip)
    return Simulation(Server(costs.cores, SPREAD), [costs.read(), costs.write()], clients, seed).open(rates, calls)


def together(costs: Costs, app: float, callers: int, calls: int, seed: int) -> Outcome:
    """What ``benchmarks.scale`` measures as "read of 32": callers in one process, next to a server with a core free."""
    clients = Clients(app=app * US, round_trip=50 * US, window=200 * US)
    return Simulation(Server(1), [costs.read()], clients, seed).closed(callers, calls)


def from_json(document: dict[str, Any]) -> dict[str, Costs]:
    """The costs in the JSON of ``benchmarks.scale``, at the largest size of each database."""
    found = {}
    for name, default in DEFAULTS.items():
        sizes = document["databases"].get(name)
        if not sizes:
            continue
        verbs = sizes[-1]["verbs"]
        found[name] = replace(
            default,
            read_alone=verbs["read alone"]["server"],
            read_each=verbs["read of 32"]["server"],
            write_alone=verbs["write alone"]["server"],
            write_each=verbs["write of 32"]["server"],
            app_read=verbs["read of 32"]["app"],
            app_write=verbs["write of 32"]["app"],
            sweep_each=verbs["sweep"]["server"],
            batch=max(2.0, verbs["read of 32"].get("batch", 32.0)),
            disk=sizes[-1]["disk_bytes_a_session"],
            memory=sizes[-1]["memory_bytes_a_session"] or 0.0,
        )
    return found


# -- printing ------------------------------------------------------------------------------------------------

SHARES = (0.3, 0.5, 0.7, 0.8, 0.9)
POOL = {"postgresql": 8, "redis": 4}  # connections of a worker to a server, at most: ``pool_size``


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
        lines += [f"| {one.name.replace('_', ' ')} | {getattr(group, one.name):,g} |" for one in fields(group)]
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
