"""``python -m benchmarks.micro``: one load and one apply of each store, beside what its plain driver takes for one row.

The store is asked as a request asks it: one sid or one change a call, through everything that is around it. The driver
reads and writes a row by its primary key, alone on a connection that it keeps, in company with the pool that it comes
with. Each is asked by one caller who waits for every answer, then by 32 and by 256 at once. Rounds are interleaved;
one caller asks driver and store call by call, in random order, because a disk's mood changes from second to second.
``sqlite3`` blocks the loop when it is called as it is, which no app can afford: so one caller also asks it by a thread.
What is aimed at: alone, no more than 60 µs on top of the driver's; in company, a p99 that is no worse than its.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
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
Maker = Callable[[str, Sequence[Sid]], Awaitable[list[Call]]]


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
    blocks: bool = False

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
        self.pairs: dict[tuple[str, int, str], Pair] = {}
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
        alone, pool = self._drivers[True], self._drivers[False]
        drivers = [pool] if callers > 1 else [alone, pool] if alone.blocks else [alone]
        for call in ("load", "apply"):
            for driver in drivers:
                pair = self.pairs.setdefault(
                    (call, callers, driver.pool), Pair(self._name, call, callers, driver.pool, blocks=driver.blocks)
                )
                sides: list[tuple[Side, Maker]] = [
                    (pair.driver, partial(self._of_driver, driver)),
                    (pair.store, self._of_store),
                ]
                if swapped:
                    sides.reverse()
                if callers == 1:
                    # Nobody meets the row that the other has just written.
                    parts = (sids, sids[calls // 2 :] + sids[: calls // 2])
                    measured = await in_turn(
                        [await make(call, part) for (_, make), part in zip(sides, parts, strict=True)]
                    )
                else:
                    measured = [await together(await make(call, sids), callers) for _, make in sides]
                if not warm_up:
                    for (side, _), (latencies, cpu) in zip(sides, measured, strict=True):
                        side.p50.append(statistics.median(latencies))
                        side.p99.append(latencies[int(len(latencies) * 0.99)])
                        side.cpu.append(cpu)

    async def _of_driver(self, driver: Driver, call: str, sids: Sequence[Sid]) -> list[Call]:
        def asking(sid: Sid) -> Call:
            async def work() -> None:
                if not await (driver.read(sid) if call == "load" else driver.write(sid, next(self._numbers))):
                    raise RuntimeError(f"{self._name}: the driver does not find {sid}")

            return work

        return list(map(asking, sids))

    async def _of_store(self, call: str, sids: Sequence[Sid]) -> list[Call]:
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


Measured = tuple[list[float], float]
"""Sorted microseconds of each call, and this process's CPU a call."""


async def together(calls: Sequence[Call], callers: int) -> Measured:
    """Have ``callers`` make all of ``calls``."""
    left = iter(calls)
    latencies: list[float] = []

    async def caller() -> None:
        for call in left:
            before = time.perf_counter()
            await call()
            latencies.append((time.perf_counter() - before) * 1e6)

    with collected():
        cpu = time.process_time()
        await asyncio.gather(*(caller() for _ in range(callers)))
        cpu = time.process_time() - cpu
    return sorted(latencies), cpu / len(calls) * 1e6


async def in_turn(sides: Sequence[Sequence[Call]]) -> list[Measured]:
    """Make the first call of each side, then the second of each, and so on, in another order each time.

    A server goes on working after it has answered, and whoever always comes next waits for that.
    """
    shuffled = random.Random(7)
    latencies: list[list[float]] = [[] for _ in sides]
    cpu = [0.0 for _ in sides]
    with collected():
        for calls in zip(*sides, strict=True):
            for at, call in shuffled.sample(list(enumerate(calls)), len(calls)):
                worked, before = time.process_time(), time.perf_counter()
                await call()
                latencies[at].append((time.perf_counter() - before) * 1e6)
                cpu[at] += time.process_time() - worked
    return [(sorted(side), total / len(side) * 1e6) for side, total in zip(latencies, cpu, strict=True)]


@contextmanager
def collected() -> Iterator[None]:
    """Without garbage collections, after one."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


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
        at_once = f"{pair.callers}, blocking" if pair.blocks else f"{pair.callers}"
        lines.append(
            f"| {pair.database} | {pair.call} | {at_once} | {' | '.join(cells)} | {compared} | "
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
