"""Calls on their way: workers that gather them into batches, a network, and a database server with some cores.

A seeded simulation of discrete events, with the closed forms that it is checked against where there are any. Times are
seconds, rates are calls a second.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class Kind:
    """A kind of call: a batch of n of them keeps one core of the server busy for ``fixed + n * each`` seconds.

    ``wait``: how long the answer then waits for something that takes no CPU, as a commit does for the disk.
    """

    fixed: float
    each: float
    wait: float = 0.0

    def cost(self, calls: float) -> float:
        """Seconds of one core for a batch."""
        return self.fixed + calls * self.each


@dataclass(frozen=True)
class Server:
    """One database server. ``spread``: 0 for service times as the kinds say, 1 for exponential ones of that mean."""

    cores: int
    spread: float = 0.0


@dataclass(frozen=True)
class Clients:
    """Workers of an app, one event loop each, as the coalescing store has them.

    A worker has at most ``in_flight`` batches of at most ``most`` calls of a kind under way. Before it sends one it
    waits until no other call has come for ``window``, and no longer than ``patience``. ``app``: seconds of its one core
    that a call takes before it is queued.
    """

    workers: int = 1
    in_flight: int = 4
    most: int = 128
    window: float = 0.0
    patience: float = 0.002
    app: float = 0.0
    round_trip: float = 0.0


@dataclass
class Outcome:
    """What came out. ``latencies``: by kind, sorted, of each call from its beginning to its answer."""

    latencies: list[list[float]]
    batches: list[int]
    busy: float  # core seconds of the server
    seconds: float  # simulated
    cores: int

    @property
    def utilisation(self) -> float:
        """The share of its cores' time that the server works."""
        return self.busy / (self.cores * self.seconds)

    @property
    def throughput(self) -> float:
        """Calls a second, of all kinds."""
        return sum(map(len, self.latencies)) / self.seconds

    def batch(self, kind: int = 0) -> float:
        """Calls in a batch, on average."""
        return len(self.latencies[kind]) / self.batches[kind]

    def mean(self, kind: int = 0) -> float:
        """Of the latencies."""
        return math.fsum(self.latencies[kind]) / len(self.latencies[kind])

    def quantile(self, share: float, kind: int = 0) -> float:
        """Of the latencies."""
        every = self.latencies[kind]
        return every[min(len(every) - 1, int(len(every) * share))]


class _Worker:
    """One event loop: a core, and a line for each kind of call."""

    def __init__(self, kinds: int) -> None:
        self.free_at = 0.0
        self.lines = [_Line(self, kind) for kind in range(kinds)]


class _Line:
    __slots__ = ("due", "kind", "latest", "queued", "under_way", "waits", "worker")

    def __init__(self, worker: _Worker, kind: int) -> None:
        self.worker = worker
        self.kind = kind
        self.queued: deque[float] = deque()
        self.under_way = 0
        self.waits = False  # for company
        self.latest = 0.0  # until when
        self.due = 0.0


class Simulation:
    """One run. In an open one calls come whatever becomes of those before; in a closed one callers wait for theirs."""

    def __init__(self, server: Server, kinds: Sequence[Kind], clients: Clients, seed: int) -> None:
        self._server = server
        self._kinds = kinds
        self._clients = clients
        self._random = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = count()
        self._workers = [_Worker(len(kinds)) for _ in range(clients.workers)]
        self._at_server: deque[tuple[_Line, list[float]]] = deque()
        self._idle = server.cores
        self._busy = 0.0
        self._batches = [0] * len(kinds)
        self._latencies: list[list[float]] = [[] for _ in kinds]
        self._again: Callable[[_Line], None] = lambda line: None

    def open(self, rates: Sequence[float], calls: int) -> Outcome:
        """``calls`` calls that come at random (Poisson), as many a second as ``rates`` says of each kind."""
        left, rate, kinds = count(1), math.fsum(rates), range(len(rates))

        def come() -> None:
            [kind] = self._random.choices(kinds, rates)
            self._begin(self._random.choice(self._workers).lines[kind])
            if next(left) < calls:
                self._at(self._now + self._random.expovariate(rate), come)

        self._at(self._random.expovariate(rate), come)
        return self._run()

    def closed(self, callers: int, calls: int) -> Outcome:
        """``calls`` calls of the first kind by ``callers`` in each worker, who call again when they are answered."""
        left = count(1)

        def again(line: _Line) -> None:
            if next(left) <= calls:
                self._begin(line)

        self._again = again
        for worker in self._workers:
            for _ in range(callers):
                self._at(0.0, again, worker.lines[0])
        return self._run()

    def _run(self) -> Outcome:
        while self._events:
            self._now, _, what, arguments = heapq.heappop(self._events)
            what(*arguments)
        for latencies in self._latencies:
            latencies.sort()
        return Outcome(self._latencies, self._batches, self._busy, self._now, self._server.cores)

    def _at(self, time: float, what: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what, arguments))

    def _begin(self, line: _Line) -> None:
        if not self._clients.app:
            self._queue(line, self._now)
            return
        line.worker.free_at = max(line.worker.free_at, self._now) + self._clients.app
        self._at(line.worker.free_at, self._queue, line, self._now)

    def _queue(self, line: _Line, began_at: float) -> None:
        line.queued.append(began_at)
        line.due = self._now + self._clients.window
        if not line.waits:
            self._gather(line)

    def _gather(self, line: _Line) -> None:
        if self._clients.window:
            line.waits = True
            line.latest = self._now + self._clients.patience
            self._at(max(line.due, self._now), self._look, line)
        else:
            self._send(line)

    def _look(self, line: _Line) -> None:
        if self._now < min(line.due, line.latest) and len(line.queued) < self._clients.most:
            self._at(min(line.due, line.latest), self._look, line)
        else:
            self._send(line)

    def _send(self, line: _Line) -> None:
        line.waits = False
        while line.queued and line.under_way < self._clients.in_flight:
            batch = [line.queued.popleft() for _ in range(min(len(line.queued), self._clients.most))]
            line.under_way += 1
            self._batches[line.kind] += 1
            self._at(self._now + self._clients.round_trip / 2, self._arrive, line, batch)

    def _arrive(self, line: _Line, batch: list[float]) -> None:
        self._at_server.append((line, batch))
        self._serve()

    def _serve(self) -> None:
        while self._idle and self._at_server:
            line, batch = self._at_server.popleft()
            took = self._kinds[line.kind].cost(len(batch))
            if self._server.spread:
                took *= 1 - self._server.spread + self._server.spread * self._random.expovariate(1)
            self._idle -= 1
            self._busy += took
            self._at(self._now + took, self._served, line, batch)

    def _served(self, line: _Line, batch: list[float]) -> None:
        self._idle += 1
        self._serve()
        self._at(self._now + self._kinds[line.kind].wait + self._clients.round_trip / 2, self._answer, line, batch)

    def _answer(self, line: _Line, batch: list[float]) -> None:
        line.under_way -= 1
        for began_at in batch:
            self._latencies[line.kind].append(self._now - began_at)
            self._again(line)
        if line.queued and not line.waits:
            self._gather(line)


def erlang_c(servers: int, load: float) -> float:
    """The share of calls that wait in an M/M/c queue; ``load``: rate × service time, below ``servers``."""
    # By Erlang B's recursion, which does not overflow.
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mmc_time(rate: float, service: float, servers: int) -> float:
    """Mean time in an M/M/c queue, waiting and service."""
    load = rate * service
    return service + erlang_c(servers, load) * service / (servers - load)


def mm1_quantile(rate: float, service: float, share: float) -> float:
    """Of the time in an M/M/1 queue, which is exponential."""
    return -math.log(1 - share) * service / (1 - rate * service)


def md1_time(rate: float, service: float) -> float:
    """Mean time in an M/D/1 queue (Pollaczek and Khinchine)."""
    load = rate * service
    return service + load * service / (2 * (1 - load))
