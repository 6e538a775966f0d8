"""Interleaved rounds: each variant's server is started once, and asked in turn, so that a slow moment hits all."""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import load

SESSIONS = 1000


@dataclass
class Figures:
    """One variant and one kind of request, over all rounds. CPU in microseconds a request, latency in ms."""

    cpu: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


class Server:
    """One variant in a process of its own, on a port of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        self.port: int = listening.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.variants", name, str(listening.fileno()), str(folder)],
            pass_fds=(listening.fileno(),),
        )
        listening.close()
        self.cookies: list[bytes] = [b""] * SESSIONS

    async def start(self) -> None:
        """Wait until it answers, and give it its sessions."""
        path = "/read" if self.name == "none" else "/start"
        await load.run(self.port, path, self.cookies, SESSIONS, 20)

    def cpu(self) -> float:
        """User and system time of the process, all threads, in seconds, to the nanosecond."""
        # What clock_getcpuclockid(3) computes: the scheduler's clock of that process. /proc counts ticks of 10 ms.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(10)


async def measure(
    names: list[str], folder: Path, *, rounds: int, requests: int, connections: int
) -> dict[tuple[str, str], Figures]:
    """Figures by (variant, "read" or "write")."""
    servers = [Server(name, folder) for name in names]
    figures: dict[tuple[str, str], Figures] = {}
    try:
        for server in servers:
            await server.start()
        for turn in range(rounds + 1):
            # Every other round runs backwards, so that nobody always follows the same neighbour.
            for server in servers if turn % 2 else reversed(servers):
                for kind in ("read", "write"):
                    before = server.cpu()
                    outcome = await load.run(server.port, f"/{kind}", server.cookies, requests, connections)
                    used = server.cpu() - before
                    if turn == 0:
                        continue  # the first round warms caches up
                    entry = figures.setdefault((server.name, kind), Figures())
                    entry.cpu.append(used / outcome.requests * 1e6)
                    entry.rate.append(outcome.requests / outcome.seconds)
                    entry.p50.append(outcome.quantile(0.5))
                    entry.p99.append(outcome.quantile(0.99))
            if turn:
                print(f"round {turn} of {rounds} done", file=sys.stderr, flush=True)
    finally:
        for server in servers:
            server.stop()
    return figures


def added(figures: dict[tuple[str, str], Figures], name: str, kind: str) -> list[float]:
    """CPU that sessions add to a request, round by round, in microseconds."""
    pairs = zip(figures[name, kind].cpu, figures["none", kind].cpu, strict=True)
    return [mine - plain for mine, plain in pairs]


def times_cookie(figures: dict[tuple[str, str], Figures], name: str, kind: str) -> float:
    """The median CPU added, as a multiple of what the signed cookie adds."""
    return statistics.median(added(figures, name, kind)) / statistics.median(added(figures, "cookie", kind))


def wait_for(port: int, seconds: float = 10) -> None:
    """Until somebody listens on ``port``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on 127.0.0.1:{port}")


def run(
    names: list[str], folder: Path, *, rounds: int, requests: int, connections: int
) -> dict[tuple[str, str], Figures]:
    """See ``measure``."""
    return asyncio.run(measure(names, folder, rounds=rounds, requests=requests, connections=connections))
