"""Interleaved rounds: each variant's server is started once, and asked in turn, so that a slow moment hits all."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import cpu, load
from benchmarks.load import LOGIN, LOGOUT, READ, WRITE
from benchmarks.servers import Running
from benchmarks.variants import NONE, Variant

USED = 1000
"""How many of a variant's sessions the requests are spread over."""

PART = 1000
TURNS = 32
"""A round goes in parts of so many requests, and of so many a connection at least, the variants in turn.

What runs beside a machine makes it slower and faster within seconds, and more so than most variants differ.
"""

SLOWER = 8
"""A stand-in is asked so many times less: nobody wants to wait for what says nothing."""

NOTING = 1.5
"""Seconds after which it is written that sessions were seen."""

FILLING = 60.0
"""Seconds that making a variant's sessions may take; a slow one begins with fewer."""


@dataclass(frozen=True)
class Cell:
    """One kind of request over so many connections."""

    kind: str
    connections: int


@dataclass
class Burst:
    """What one variant did in one round, part by part; CPU in seconds. ``logged_in`` has the cookies of its logins."""

    parts: list[load.Outcome] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    logged_in: list[bytes] = field(default_factory=list)


@dataclass
class Figures:
    """One variant and one cell, an entry a round. CPU in microseconds a request, latency in milliseconds."""

    cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    generator: list[float] = field(default_factory=list)

    def note(self, burst: Burst) -> None:
        """Add a round."""
        outcome = load.Outcome.of(burst.parts)
        self.cpu.append(sum(burst.cpu) / outcome.requests * 1e6)
        if burst.server_cpu:
            self.server_cpu.append(sum(burst.server_cpu) / outcome.requests * 1e6)
        self.rate.append(outcome.requests / outcome.seconds)
        self.p50.append(outcome.quantile(0.5))
        self.p99.append(outcome.quantile(0.99))
        self.generator.append(outcome.own_cpu)


async def check(port: int, variant: Variant) -> None:
    """See that a login, a write, a read and a logout do what they are measured for. Raises ``RuntimeError``."""
    if variant.name == NONE:
        return
    cookie = await load.one(port, LOGIN, b"")
    if not cookie:
        raise RuntimeError("the login set no cookie")
    cookie = await load.one(port, WRITE, cookie)
    cookie = await load.one(port, READ, cookie)
    await load.one(port, replace(WRITE, answer=b'{"seen":3}'), cookie)
    await load.one(port, LOGOUT, cookie)
    if variant.is_revocable:
        await load.one(port, replace(READ, answer=b'"items":0}'), cookie)


class App:
    """One variant in a process of its own, on a port of its own, and on ``processors`` if any are given."""

    def __init__(self, variant: Variant, url: str, database: Running | None, processors: Collection[int] = ()) -> None:
        self.variant = variant
        self.database = database
        self.bytes_a_session: float | None = None
        self.failure: str | None = None
        self.figures: dict[Cell, Figures] = {}
        self._url = url
        self._left: list[bytes] = []
        self._burst = Burst()
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        self.port: int = listening.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.variants", variant.name, str(listening.fileno()), url],
            pass_fds=(listening.fileno(),),
        )
        listening.close()
        if processors:
            os.sched_setaffinity(self.process.pid, processors)  # before it has threads, which have its processors
        self.cookies: list[bytes] = []

    async def start(self, sessions: int) -> None:
        """Wait until it answers, see that it keeps sessions, and fill it with ``sessions`` of them."""
        await check(self.port, self.variant)
        before = await self._size()
        if self._is_slow:
            sessions = max(1, sessions // SLOWER)
        made = await self._logged_in(sessions, FILLING)
        after = await self._size()
        if before is not None and after is not None:
            self.bytes_a_session = (after - before) / len(made)
        self.cookies = random.Random(7).sample(made, min(USED, len(made)))

    async def _logged_in(self, sessions: int, longest: float) -> list[bytes]:
        """The cookies of ``sessions`` new sessions, or of as many as there was time for."""
        cookies = [b""] * sessions
        await load.run(self.port, LOGIN, cookies, sessions, 32, longest)
        made = cookies if self.variant.name == NONE else [cookie for cookie in cookies if cookie]
        if not made:
            raise RuntimeError("no login set a cookie")
        return made

    async def _size(self) -> int | None:
        return None if self.database is None else await self.database.kind.size(self._url)

    async def visit(self) -> None:
        """Read each session that is in use once, so that no burst begins with the noting of them all as seen.

        That is written once a minute, and nobody asks for these while the others have their turn.
        """
        await load.run(self.port, READ, self.cookies, len(self.cookies), 32)

    async def measure(self, cell: Cell, requests: int) -> None:
        """One part of a round."""
        kind, cookies = load.KINDS[cell.kind], self.cookies
        if self._is_slow:
            requests = max(cell.connections, requests // SLOWER)
        if kind is LOGIN:
            cookies = [b""] * requests
        elif kind is LOGOUT:
            cookies, self._left = self._left[:requests], self._left[requests:]
            cookies = cookies or await self._logged_in(requests, load.LONGEST)
        before, server_before = cpu.of_process(self.process.pid), self._server_cpu()
        outcome = await load.run(self.port, kind, cookies, requests, cell.connections)
        used, server_after = cpu.of_process(self.process.pid) - before, self._server_cpu()
        self._burst.parts.append(outcome)
        self._burst.cpu.append(used)
        if server_before is not None and server_after is not None:
            self._burst.server_cpu.append(server_after - server_before)
        if kind is LOGIN:
            self._burst.logged_in += filter(None, cookies)

    def end_round(self, cell: Cell, *, counts: bool) -> None:
        """All parts of a round are done; those of one that warms up do not count."""
        if counts:
            self.figures.setdefault(cell, Figures()).note(self._burst)
        # What has just logged in is there to be logged out.
        self._left = self._burst.logged_in
        self._burst = Burst()

    @property
    def _is_slow(self) -> bool:
        return self.database is not None and self.database.kind.is_stand_in

    def _server_cpu(self) -> float | None:
        return None if self.database is None else self.database.cpu()

    def stop(self) -> None:
        """End the process at once: nothing of it is kept."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Scale:
    """How much is measured: rounds, requests a burst, and sessions in each variant."""

    rounds: int
    requests: int
    sessions: int

    def parts(self, cell: Cell) -> list[int]:
        """The requests of each part of a round: one connection waits for each answer, and each login stays stored."""
        requests = self.requests
        if cell.connections == 1:
            requests = max(1, requests // 4)
        else:
            requests = max(cell.connections, requests // 2 if cell.kind in ("login", "logout") else requests)
        parts = max(1, requests // max(PART, TURNS * cell.connections))
        return [requests // parts] * parts


async def measure(apps: Sequence[App], cells: Sequence[Cell], scale: Scale) -> None:
    """Fill in the figures of ``apps``. One that answers wrongly is left out from then on."""
    for app in apps:
        await _unless_it_fails(app, app.start(scale.sessions))
        print(f"{app.variant.name}: started", file=sys.stderr, flush=True)
    shuffled = random.Random(7)
    for turn in range(scale.rounds + 1):
        for cell in cells:
            # One kind of request after the other, so that what is compared lies within a minute.
            for app in apps:
                await _unless_it_fails(app, app.visit())
            await asyncio.sleep(NOTING)
            for requests in scale.parts(cell):
                # In another order each time, so that nobody always follows the same one.
                for app in shuffled.sample(apps, len(apps)):
                    await _unless_it_fails(app, app.measure(cell, requests))
            for app in apps:
                if app.failure is None:
                    app.end_round(cell, counts=turn > 0)  # the first one warms caches up
        if turn:
            print(f"round {turn} of {scale.rounds} done", file=sys.stderr, flush=True)


async def _unless_it_fails(app: App, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` of ``app``, if all of its work so far has gone well."""
    if app.failure is not None:
        work.close()
        return
    try:
        await work
    except (RuntimeError, OSError) as error:
        app.failure = str(error)
        print(f"{app.variant.name} is left out: {error}", file=sys.stderr, flush=True)


def run(apps: Sequence[App], cells: Sequence[Cell], scale: Scale) -> None:
    """See ``measure``; with uvloop, whose sockets take less of this process."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(apps, cells, scale))
