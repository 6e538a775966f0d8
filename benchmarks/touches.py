"""What "seen just now" costs, by the size of the batch: ``python -m benchmarks.touches sqlite postgresql``.

First the store alone: touches in calls of 1 to 2,048, beside ordinary writes of one session each, in rounds that take
turns. CPU is that of this process and of the server with its children, for one touch, as a multiple of what one such
write takes in the same run.

Then an event loop at work: requests write at a steady rate, alone and while as many other sessions
as ``--touches`` says are seen each second. How long the writes wait, and how long one turn of the loop takes at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.servers import KINDS
from provision.process import NotHere, family
from sessiondb import touches
from sessiondb.background import Background
from sessiondb.core.change import Applied, Touch
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Store, open_store
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.testing.builders import HOUR, Builders

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB", "redis": "Valkey", "mongodb": "MongoDB"}
SIZES = (1, 8, 32, 64, 128, 256, 512, 1024, 2048)
AT_A_TIME = 4096  # touches of one size in one round
WRITES = 400
RATE = 200.0  # writes a second beside the touches
DATA = {"cart": [{"sku": f"A-{number}", "qty": 2} for number in range(8)], "theme": "dark", "n": 0}


class Usage:
    """CPU of this process and of a server, in seconds."""

    def __init__(self, server: int | None) -> None:
        self._server = server

    def now(self) -> tuple[float, float]:
        """Of the app, and of the server."""
        server = 0.0 if self._server is None else sum(map(_cpu, family(self._server)))
        return time.process_time(), server


def _cpu(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the scheduler's clock of that process, to the nanosecond
    except OSError:
        return 0.0  # it has just ended


@dataclass
class Cost:
    """Of one touch, or one write, by round; in microseconds."""

    wall: list[float] = field(default_factory=list)
    app: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> float:
        """Of both."""
        return statistics.median([sum(pair) for pair in zip(self.app, self.server, strict=True)])


async def fill(store: Store, rows: int) -> list[Record]:
    """Sessions that were last seen an hour ago."""
    build = Builders(await store.clock())
    records = [build.record(f"user{number}", DATA, age=HOUR) for number in range(rows)]
    for start in range(0, rows, 500):
        await store.apply([build.create(record) for record in records[start : start + 500]])
    return records


async def by_size(store: Store, records: Sequence[Record], usage: Usage, rounds: int) -> dict[str, Cost]:
    """What a touch takes in calls of each size, and a write alone."""
    costs: dict[str, Cost] = {}
    place = 0
    for turn in range(rounds + 1):
        kinds = ["write", *map(str, SIZES)]
        for kind in kinds if turn % 2 else reversed(kinds):
            build = Builders(await store.clock())
            size = 1 if kind == "write" else int(kind)
            count = WRITES if size == 1 else max(AT_A_TIME, size)
            before, began_at = usage.now(), time.perf_counter()
            for _ in range(0, count, size):
                if place + size > len(records):
                    place = 0
                part = records[place : place + size]
                place += size
                if kind == "write":
                    changes = [build.update(part[0], {"n": turn})]
                else:
                    changes = [build.touch(record) for record in part]
                if not all(isinstance(one, Applied) for one in await store.apply(changes)):
                    raise RuntimeError("a session was not touched")
            took = time.perf_counter() - began_at
            if not turn:
                continue  # statements are prepared and caches warm
            cost = costs.setdefault(kind, Cost())
            done = -(-count // size) * size
            for values, after, start in zip((cost.app, cost.server), usage.now(), before, strict=True):
                values.append((after - start) / done * 1e6)
            cost.wall.append(took / done * 1e6)
    return costs


@dataclass
class Beside:
    """How writes fared."""

    times: list[float]
    block: float
    touches: float = 0.0

    def quantile(self, share: float) -> float:
        """In milliseconds."""
        return sorted(self.times)[min(len(self.times) - 1, int(len(self.times) * share))] * 1000


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """The longest turn of the loop so far, in seconds; the one entry of the list is kept up to date.

    In CPU time of the loop's thread: what other processes take on a busy machine does not count.
    """
    longest = [0.0]

    async def look() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest[0] = max(longest[0], time.thread_time() - before)
            await asyncio.sleep(0.0005)

    task = asyncio.create_task(look())
    try:
        yield longest
    finally:
        task.cancel()


async def beside(store: Store, records: Sequence[Record], rate: int, size: int, seconds: float) -> Beside:
    """Writes at a steady rate, while ``rate`` sessions a second (0: none) are seen, written in calls of ``size``."""
    store.batching = msgspec.structs.replace(store.batching, touches=size or None)  # type: ignore[misc]
    coalescing = CoalescingStore(RecoveringStore(store))
    counters: Counter[str] = Counter()
    queue = Background(coalescing, counters)
    build = Builders(await store.clock())
    writers, touched = records[: len(records) // 10], records[len(records) // 10 :]
    result = Beside([], 0.0)
    asked = 0

    async def write(number: int) -> None:
        began_at = time.perf_counter()
        await coalescing.apply([build.update(writers[number % len(writers)], {"n": number})])
        result.times.append(time.perf_counter() - began_at)

    def ask(until: int) -> None:
        nonlocal asked
        for number in range(asked, until):
            queue.touch(touched[number % len(touched)].sid, Touch(build.now + number))
        asked = until

    tasks: set[asyncio.Task[None]] = set()
    began_at = time.perf_counter()
    async with watched() as longest:
        for number in range(int(RATE * seconds)):
            task = asyncio.create_task(write(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(0.0, began_at + number / RATE - time.perf_counter()))
            ask(int(rate * (time.perf_counter() - began_at)))
        await asyncio.gather(*tasks)
        result.block = longest[0] * 1000
    left = queue.waiting.touches
    result.touches = (asked - left) / (time.perf_counter() - began_at)
    queue.stop()
    await queue.flush()
    if queue.waiting.touches or counters["background_write_failures"]:
        raise RuntimeError("touches have failed")
    return result


async def compare(name: str, url: str, usage: Usage, given: argparse.Namespace) -> None:
    """Print the figures of one database."""
    store = open_store(url)
    await store.open()
    records = await fill(store, given.rows)
    print(f"\n{name}: {given.rows:,} sessions; its own size is {store.batching.most_touches}")
    costs = await by_size(store, records, usage, given.rounds)
    write = costs["write"]
    print(
        f"{'in a call':>11}{'touches/s':>12}{'CPU app':>10}{'server':>9}{'µs each':>9}{'× a write':>13}{'call ms':>10}"
    )
    for kind, cost in costs.items():
        size = 1 if kind == "write" else int(kind)
        wall = statistics.median(cost.wall)
        app, server = statistics.median(cost.app), statistics.median(cost.server)
        print(
            f"{'a write' if kind == 'write' else kind:>11}{1e6 / wall:>12,.0f}{app:>10.1f}{server:>9.1f}"
            f"{cost.cpu:>9.1f}{cost.cpu / write.cpu:>13.3f}{wall * size / 1000:>10.2f}"
        )
    print(f"{'beside':>11}{'touches/s':>12}{'write p50':>11}{'p99 ms':>9}{'longest':>9}{'longest turn':>15}")
    sizes = [0, *(size for size in SIZES if size >= 32)] if given.all else [0, store.batching.most_touches]
    for size in sizes:
        found = await beside(store, records, given.touches if size else 0, size, given.seconds)
        print(
            f"{size or 'alone':>11}{found.touches:>12,.0f}{found.quantile(0.5):>11.2f}{found.quantile(0.99):>9.2f}"
            f"{found.quantile(1):>9.2f}{found.block:>15.2f}",
            flush=True,
        )
    await store.close()


def remember(count: int) -> None:
    """Print what ``count`` waiting touches take."""
    build = Builders(time.time_ns() // 1000)
    sids = [build.record().sid for _ in range(min(count, 1000))]
    loop = asyncio.new_event_loop()

    async def queue() -> None:
        waiting = Background(CoalescingStore(open_store("memory://")), Counter())
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            # A sid and a time of its own each, as requests have them.
            sid = Sid(f"{number:08x}{sids[number % len(sids)][8:]}")
            waiting.touch(sid, Touch(build.now + number))
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        waiting.stop()
        held = waiting.waiting.touches
        print(f"\n{held:,} touches that wait take {used / 1e6:.1f} MB, {used / held:.0f} bytes each")

    touches.MOST_TOUCHES = max(count, touches.MOST_TOUCHES)
    loop.run_until_complete(queue())
    loop.close()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("databases", nargs="*", default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--touches", type=int, default=10_000, help="a second, beside writes")
    parser.add_argument("--seconds", type=float, default=5.0, help="of writes beside touches")
    parser.add_argument("--all", action="store_true", help="beside writes, every size and not only the store's own")
    given = parser.parse_args()
    for name in given.databases:
        kind = next(kind for kind in KINDS if kind.name.startswith(NAMES[name]))
        with tempfile.TemporaryDirectory() as folder:
            try:
                server: Any = kind.start()
            except NotHere as error:
                print(f"{kind.name} is left out: {error}", file=sys.stderr)
                continue
            try:
                url = f"sqlite:///{Path(folder)}/sessions.db" if server is None else server.url
                usage = Usage(None if server is None else server.process.pid)
                asyncio.run(compare(kind.name, url, usage, given))
            finally:
                if server is not None:
                    server.stop()
    remember(1_000_000)


if __name__ == "__main__":
    main()
