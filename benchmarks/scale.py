"""``python -m benchmarks.scale --db sqlite --sizes 10000 100000 1000000``: what a call costs when the database grows.

A database of the smallest size stays beside the one that grows, and each verb is measured on the one, then at once on
the other: a ratio compares what lies within a second, whatever else the machine was doing. At the smallest size the two
are twins, and what their ratio differs from 1 by is what may be believed of the others. All calls go through the store
that an app has (coalescing and all), in this process and without HTTP. CPU of the server is that of all its processes.
Sessions that are read and written are drawn evenly from all that live, which no cache likes; real users are kinder.

``--sweep`` measures instead what requests notice of a sweep (see ``benchmarks.sweeping``), and how large the log gets.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale_measuring import UNITS, VERBS, Counts, Figures, Measured, machine, ratio
from benchmarks.scale_population import Population, Progress
from benchmarks.scale_servers import TARGETS, Server, Target, Used, missing_room
from benchmarks.scale_sweeping import sweep
from provision.process import NotHere
from sessiondb import SessionDB, open_store

GOAL = 1.2
COUNTS = Counts()
WARM_UP = Counts(alone=300, together=2000, writes_alone=50, writes_together=500, lists=50, revokes=1, sweeps=1)


@dataclass
class Size:
    """What was found at one size. ``small``: the smallest one, measured in the same rounds."""

    sessions: int
    disk: float | None  # bytes a session
    memory: float | None
    fill_rate: float  # sessions a second
    figures: dict[str, Figures]
    small: dict[str, Figures]

    def ratio(self, verb: str) -> float:
        """CPU a call as a multiple of the smallest size's."""
        return ratio(self.figures[verb], self.small[verb])

    def as_json(self) -> dict[str, Any]:
        """For the simulation, and for whoever compares."""
        verbs = {verb: {**self.figures[verb].medians(), "ratio": self.ratio(verb)} for verb in VERBS}
        return {
            "sessions": self.sessions,
            "disk_bytes_a_session": self.disk,
            "memory_bytes_a_session": self.memory,
            "filled_a_second": self.fill_rate,
            "verbs": verbs,
        }


def main() -> None:
    """Measure and print."""
    # Told to end (by a time limit, say), it still stops the servers that it has started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--db", nargs="*", default=["sqlite", "postgresql", "redis"], choices=list(TARGETS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--options", default="", help="options of the store, for the grown and the small one: a=1&b=2")
    parser.add_argument("--sweep", type=int, nargs="?", const=1_000_000, help="sweep so many expired sessions instead")
    options = parser.parse_args()
    sizes = sorted(set(options.sizes))
    found: dict[str, Any] = {}
    for name in options.db:
        target = TARGETS[name]
        with tempfile.TemporaryDirectory(prefix="sessiondb-scale-") as folder:
            try:
                server = target.start(Path(folder))
            except NotHere as error:
                print(f"{target.title} is left out: {error}", file=sys.stderr)
                continue
            server.add(options.options)
            try:
                if options.sweep is not None:
                    found[name] = sweep(target, server, options.sweep)
                else:
                    grown = asyncio.run(grow(target, server, sizes, options.rounds))
                    print(table(target, grown), flush=True)
                    found[name] = [size.as_json() for size in grown]
            finally:
                server.stop()
        if options.json is not None:
            document = {"machine": machine(), "rounds": options.rounds, "databases": found}
            options.json.write_text(json.dumps(document, indent=1))


async def grow(
    target: Target, server: Server, sizes: list[int], rounds: int, counts: Counts = COUNTS, warm_up: Counts = WARM_UP
) -> list[Size]:
    """Measure at each of ``sizes``, as far as there is room."""
    small, found = sizes[0], []
    disk, memory = float(target.disk), float(target.memory)
    async with SessionDB(server.small, sweep_every=None, timeout=60) as small_db:
        now = await small_db.runtime.store.clock()
        beside, big = Population(now, small), Population(now, sizes[-1])
        await _fill(target, server.small, server.small, beside, small)
        small_one = Measured(small_db.runtime.store, beside, server.pid)
        before = await target.used(server)
        async with SessionDB(server.url, sweep_every=None, timeout=60) as db:
            one = Measured(db.runtime.store, big, server.pid)
            for sessions in sizes:
                if (missing := missing_room(target, sessions - big.size, disk, memory)) is not None:
                    print(missing, file=sys.stderr)
                    break
                rate = await _fill(target, server.filling, server.url, big, sessions)
                each = _each(before, await target.used(server), sessions)
                # What has been measured is a better estimate, with room for logs and for what is rewritten.
                if sessions >= 50_000:
                    disk, memory = each[0] * 1.3, (each[1] or 0) * 1.1
                one.forget()
                small_one.forget()
                gc.collect()
                gc.freeze()
                await measure((one, small_one), warm_up, 0)
                one.forget()
                small_one.forget()
                for turn in range(rounds):
                    await measure((one, small_one), counts, turn)
                    print(f"{target.title}, {sessions:,}: round {turn + 1} of {rounds} done", file=sys.stderr)
                found.append(Size(sessions, *each, rate, one.figures, small_one.figures))
    return found


async def measure(pair: tuple[Measured, Measured], counts: Counts, turn: int) -> None:
    """One round of both, verb by verb."""
    for steps in zip(*(one.steps for one in pair), strict=True):
        # Every other round runs backwards, so that nobody always follows the same neighbour.
        for step in steps if turn % 2 else reversed(steps):
            await step(counts)


async def _fill(target: Target, filling: str, url: str, population: Population, sessions: int) -> float:
    """Grow ``population`` with relaxed durability; sessions a second."""
    store = open_store(filling)
    await store.open()
    await target.relax(url, True)
    progress = Progress(f"{target.title}:", population.size, sessions)
    await population.grow(store, sessions, progress)
    rate = progress.rate
    await target.relax(url, False)
    await store.close()
    await target.settle(url.partition("?")[0])
    return rate


def _each(before: Used, after: Used, sessions: int) -> tuple[float, float | None]:
    memory = None
    if after.memory is not None and before.memory is not None:
        memory = (after.memory - before.memory) / sessions
    return (after.disk - before.disk) / sessions, memory


def table(target: Target, sizes: list[Size]) -> str:
    """As Markdown: medians over the rounds; the ratio is of CPU, application and server together."""
    lines = [
        f"\n### {target.title} ({target.measured}; filled with {target.filled})\n",
        "| verb | sessions | CPU µs: app | server | p50 ms | p99 ms | × the smallest |",
        "|---|---|---|---|---|---|---|",
    ]
    for verb in VERBS:
        for size in sizes:
            medians = size.figures[verb].medians()
            times = size.ratio(verb)
            # Two databases of the smallest size: what they differ by is the machine's doing.
            shown = f"1 (its twin: {times:.2f})" if size is sizes[0] else f"{times:.2f}"
            mark = " **over**" if size is not sizes[0] and times > GOAL else ""
            unit = f" ({UNITS[verb]})" if verb in UNITS else ""
            lines.append(
                f"| {verb}{unit} | {size.sessions:,} | {medians['app']:.0f} | {medians['server']:.0f} | "
                f"{medians['p50']:.2f} | {medians['p99']:.2f} | {shown}{mark} |"
            )
    lines += ["", "| sessions | filled/s | disk, bytes a session | memory, bytes a session |", "|---|---|---|---|"]
    for size in sizes:
        memory = "–" if size.memory is None else f"{size.memory:,.0f}"
        lines.append(f"| {size.sessions:,} | {size.fill_rate:,.0f} | {size.disk:,.0f} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
