"""How many servers a load takes, by what one call costs: the arithmetic, and the runs of the simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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


# Medians at a million sessions, on the machine that docs/scaling.md names; packed: by hash-max-listpack-value 1024.
DEFAULTS = {
    "postgresql": Costs(
        "PostgreSQL",
        read_alone=60,
        read_each=16,
        write_alone=431,
        write_each=40,
        app_read=18,
        app_write=28,
        sweep_each=22,
        batch=32,
        disk=1222,
        memory=0,
        commit=1000,
        cores=16,
    ),
    "redis": Costs(
        "Valkey",
        read_alone=28,
        read_each=11,
        write_alone=211,
        write_each=51,
        app_read=27,
        app_write=29,
        sweep_each=79,
        batch=32,
        disk=1789,
        memory=1931,
    ),
}
# The same server with its hashes packed (hash-max-listpack-value), which takes no more CPU.
DEFAULTS["redis-packed"] = replace(DEFAULTS["redis"], title="Valkey, packed", memory=1197)


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


def together(read: Kind, app: float, callers: int, calls: int, seed: int) -> Outcome:
    """What ``benchmarks.scale`` measures as "read of 32": callers in one process, next to a server with a core free.

    ``app``: seconds of CPU a call in the process. Callers move in step there, so a batch waits until all have come.
    """
    clients = Clients(app=app, round_trip=50 * US, window=1.5 * app)
    return Simulation(Server(1), [read], clients, seed).closed(callers, calls)


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
