"""``python -m benchmarks.micro``: one load and one apply of each store, beside what its plain driver takes for one row.

The store is asked as a request asks it: one sid or one change a call, through everything that is around it. The driver
reads and writes a row by its primary key, alone on a connection that it keeps, in company with the pool that it comes
with. Each is asked by one caller who waits for every answer, then by 32 and by 256 at once. Rounds are interleaved.
What is aimed at: alone, no more than 60 µs on top of the driver's; in company, a p99 that is no worse than its.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks import machine
from benchmarks.drivers import Driver
from benchmarks.results import STAND_IN
from benchmarks.servers import AS_DEPLOYED, Running, running
from benchmarks.variants import PROFILE
from sessiondb import SessionDB
from sessiondb.core.change import Applied
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.testing.builders import Builders

ON_TOP = 60.0
"""Microseconds that one client alone may wait longer than with the plain driver."""

Call = Callable[[], Awaitable[object]]


@dataclass
class Side:
    """The driver's figures or the store's, an entry a round. Microseconds; ``cpu`` is this process's, a call."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass
class Pair:
    """A call by so many at once."""

    database: str
    call: str
    callers: int
    pool: str
    driver: Side = field(default_factory=Side)
    store: Side = field(default_factory=Side)

    def on_top(self) -> list[float]:
        """How much longer the store's p50 is, round by round."""
        return [ours - theirs for ours, theirs in zip(self.store.p50, self.driver.p50, strict=True)]

    def worse(self) -> list[float]:
        """The store's p99 as a multiple of the driver's, round by round."""
        return [ours / theirs for ours, theirs in zip(self.store.p99, self.driver.p99, strict=True)]

    def reaches(self) -> bool:
        """Whether it is as good as it should be."""
        if self.callers == 1:
            return statistics.median(self.on_top()) <= ON_TOP
        return statistics.median(self.worse()) <= 1


class Subject:
    """One database with its sessions."""

    def __init__(self, database: Running, db: SessionDB, drivers: dict[bool, Driver]) -> None:
        self.pairs: dict[tuple[str, int], Pair] = {}
        self._name = database.kind.name + (STAND_IN if database.kind.is_stand_in else "")
        self._db = db
        self._drivers = drivers
        self._sids: list[Sid] = []
        self._numbers = count()

    async def fill(self, sessions: int) -> None:
        """Make ``sessions`` sessions."""
        for start in range(0, sessions, 64):
            part = range(start, min(start + 64, sessions))
            issued = await asyncio.gather(*(self._db.create(f"user{number}", PROFILE) for number in part))
            self._sids += [one.session.sid for one in issued]

    async def measure(self, callers: int, calls: int, *, swapped: bool, warm_up: bool) -> None:
        """One round of loads and applies by ``callers`` at once."""
        sids = [self._sids[number * 7919 % len(self._sids)] for number in range(calls)]
        for call in ("load", "apply"):
            driver = self._drivers[callers == 1]
            pair = self.pairs.setdefault((call, callers), Pair(self._name, call, callers, driver.pool))
            sides = [(pair.driver, self._of_driver), (pair.store, self._of_store)]
            for side, make in reversed(sides) if swapped else sides:
                latencies, cpu = await ask(await make(call, callers, sids), callers)
                if not warm_up:
                    side.p50.append(statistics.median(latencies))
                    side.p99.append(latencies[int(len(latencies) * 0.99)])
                    side.cpu.append(cpu)

    async def _of_driver(self, call: str, callers: int, sids: Sequence[Sid]) -> list[Call]:
        driver = self._drivers[callers == 1]

        def asking(sid: Sid) -> Call:
            async def work() -> None:
                if not await (driver.read(sid) if call == "load" else driver.write(sid, next(self._numbers))):
                    raise RuntimeError(f"{self._name}: the driver does not find {sid}")

            return work

        return list(map(asking, sids))

    async def _of_store(self, call: str, callers: int, sids: Sequence[Sid]) -> list[Call]:
        store = self._db.runtime.store
        if call == "load":
            return [self._loading(sid) for sid in sids]
        # As a request writes: what has just been read, with one key changed.
        records: list[Record | None] = []
        for start in range(0, len(sids), 100):
            records += await store.load(sids[start : start + 100])
        build = Builders(self._db.runtime.now())
        return [self._applying(build, record) for record in records if record is not None]

    def _loading(self, sid: Sid) -> Call:
        store = self._db.runtime.store

        async def work() -> None:
            [record] = await store.load([sid])
            if record is None:
                raise RuntimeError(f"{self._name}: the store does not find {sid}")

        return work

    def _applying(self, build: Builders, record: Record) -> Call:
        store = self._db.runtime.store
        change = build.update(record, {"seen": next(self._numbers)}, seen=True)

        async def work() -> None:
            [result] = await store.apply([change])
            if not isinstance(result, Applied):
                raise RuntimeError(f"{self._name}: {record.sid} was not written: {result}")

        return work


async def ask(calls: Sequence[Call], callers: int) -> tuple[list[float], float]:
    """Have ``callers`` make all of ``calls``: sorted microseconds of each, and this process's CPU a call."""
    left = iter(calls)
    latencies: list[float] = []

    async def caller() -> None:
        for call in left:
            before = time.perf_counter()
            await call()
            latencies.append((time.perf_counter() - before) * 1e6)

    gc.collect()
    gc.disable()
    try:
        cpu = time.process_time()
        await asyncio.gather(*(caller() for _ in range(callers)))
        cpu = time.process_time() - cpu
    finally:
        gc.enable()
    return sorted(latencies), cpu / len(calls) * 1e6


def table(pairs: Sequence[Pair]) -> str:
    """Medians over the rounds, as Markdown; the spread of what is judged in brackets."""
    lines = [
        "| database | call | at once | driver: p50 µs | p99 µs | CPU µs | store: p50 µs | p99 µs | CPU µs | compared "
        "| reached |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        cells = [
            f"{statistics.median(values):,.0f}"
            for side in (pair.driver, pair.store)
            for values in (side.p50, side.p99, side.cpu)
        ]
        if pair.callers == 1:
            values, form, goal = pair.on_top(), "+,.0f", f"µs on top of p50, at most {ON_TOP:+.0f}"
        else:
            values, form, goal = pair.worse(), ".2f", "× p99, at most 1"
        compared = f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}}) {goal}"
        lines.append(
            f"| {pair.database} | {pair.call} | {pair.callers} | {' | '.join(cells)} | {compared} | "
            f"{'yes' if pair.reaches() else 'no'} |"
        )
    return "\n".join(lines)


async def measured(options: argparse.Namespace) -> list[Pair]:
    """Start what is needed, measure, and stop it."""
    subjects = []
    with ExitStack() as servers, tempfile.TemporaryDirectory(prefix="sessiondb-bench-") as folder:
        async with AsyncExitStack() as opened:
            for name in options.only:
                database = servers.enter_context(running(AS_DEPLOYED[name], Path(folder)))
                if database is None:
                    continue
                db = await opened.enter_async_context(SessionDB(database.url, sweep_every=None, timeout=30))
                drivers = {
                    alone: await opened.enter_async_context(database.kind.driver(database.url, 1 if alone else 2))
                    for alone in (True, False)
                }
                subject = Subject(database, db, drivers)
                await subject.fill(options.sessions)
                subjects.append(subject)
            for turn in range(options.rounds + 1):
                for subject in subjects if turn % 2 else reversed(subjects):
                    for callers in options.callers:
                        calls = min(options.alone if callers == 1 else options.together, options.sessions)
                        await subject.measure(callers, calls, swapped=turn % 2 == 0, warm_up=turn == 0)
                if turn:
                    print(f"round {turn} of {options.rounds} done", file=sys.stderr, flush=True)
    return [pair for subject in subjects for pair in subject.pairs.values()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=4096)
    parser.add_argument("--alone", type=int, default=400, help="calls by one caller, a round")
    parser.add_argument("--together", type=int, default=4096, help="calls by several, a round")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--only", nargs="+", choices=list(AS_DEPLOYED), default=list(AS_DEPLOYED), metavar="DATABASE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures there")
    options = parser.parse_args(arguments)
    pairs = asyncio.run(measured(options))
    about = machine.describe()
    if options.json:
        rows = [{**vars(pair), "driver": vars(pair.driver), "store": vars(pair.store)} for pair in pairs]
        text = json.dumps({"machine": about, "pairs": rows}, indent=1, ensure_ascii=False)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    print(table(pairs), "\n")
    print(
        f"{options.rounds} interleaved rounds, {options.sessions:,} sessions, one process, one event loop, asyncio; "
        f"{about['cpu']}, {about['cores']} cores, {about['python']}.\nDrivers: "
        f"{'; '.join(dict.fromkeys(pair.pool for pair in pairs))}. Settings: "
        f"{'; '.join(f'{name}: {AS_DEPLOYED[name].durability}' for name in options.only)}."
    )


if __name__ == "__main__":
    main()
