"""What it costs PostgreSQL's writers that near caches are told of changes: ``python -m benchmarks.notifying``.

The same writers (``--writers`` connections in two processes) without triggers, with them, and with them while
``--listeners`` near caches listen, in turn, several rounds. A transaction that notifies takes a lock of the whole
server while it commits, so what a commit waits for (the disk) is then waited for one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from provision.postgresql import PostgreSQL
from sessiondb.stores._postgresql_triggers import triggers_sql
from sessiondb.stores.base import open_store
from sessiondb.testing.builders import Builders

SESSIONS = 20_000
PROCESSES = 2
WORK = {"update": 1, "update ×32": 32, "touch ×32": 32}
WAYS = ("no triggers", "triggers", "triggers, listeners")
_TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'sessiondb_sessions'::regclass AND NOT tgisinternal"


class Nobody:
    """A listener that only counts."""

    def __init__(self) -> None:
        self.told = 0
        self.is_alive = asyncio.Event()

    def changed(self, sids: Any) -> None:
        self.told += 1

    def everything_changed(self) -> None:
        self.told += 1

    def alive(self, since: float) -> None:
        self.is_alive.set()


async def fill(url: str) -> list[Any]:
    """Make the sessions; their records."""
    store = open_store(url)
    await store.open()
    build = Builders(await store.clock())
    records = [build.record(f"user{n}", {"cart": [1, 2, 3], "text": "x" * 200}) for n in range(SESSIONS)]
    for start in range(0, SESSIONS, 500):
        await store.apply([build.create(record) for record in records[start : start + 500]])
    await store.close()
    return records


def write(url: str, records: Sequence[Any], work: str, writers: int, seconds: float, answers: Any) -> None:
    """Write for so long; how many sessions were written a second goes to ``answers``."""

    async def run() -> float:
        store = open_store(f"{url}?pool_size={writers}")
        await store.open()
        build = Builders(await store.clock())
        batch, count = WORK[work], 0
        until = time.monotonic() + seconds

        async def one(mine: Sequence[Any]) -> None:
            nonlocal count
            while time.monotonic() < until:
                some = random.sample(mine, batch)
                if work.startswith("touch"):
                    build.now += 1
                    changes = [build.touch(record) for record in some]
                else:
                    changes = [build.update(record, {"n": random.random()}) for record in some]
                await store.apply(changes)
                count += batch

        await asyncio.gather(*(one(records[n::writers]) for n in range(writers)))
        await store.close()
        return count / seconds

    answers.put(asyncio.run(run()))


async def measure(url: str, records: list[Any], work: str, way: str, arguments: argparse.Namespace) -> float:
    """Sessions written a second, in that way."""
    connection = await asyncpg.connect(url)
    for name in [row[0] for row in await connection.fetch(_TRIGGERS)]:
        await connection.execute(f"DROP TRIGGER {name} ON sessiondb_sessions")
    if way != WAYS[0]:
        await connection.execute(triggers_sql("sessiondb_"))
    await connection.execute("VACUUM sessiondb_sessions")
    await connection.close()
    store: Any = open_store(url)
    await store.open()
    listeners = [Nobody() for _ in range(arguments.listeners if way == WAYS[2] else 0)]
    tasks = [asyncio.create_task(store.feed().listen(one, 5.0)) for one in listeners]
    await asyncio.gather(*(one.is_alive.wait() for one in listeners))
    answers: Any = multiprocessing.Queue()
    each = arguments.writers // PROCESSES
    processes = [
        multiprocessing.Process(target=write, args=(url, records[n::2], work, each, arguments.seconds, answers))
        for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    rates = [await asyncio.to_thread(answers.get) for _ in processes]
    for process in processes:
        process.join()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    await store.close()
    return float(sum(rates))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--listeners", type=int, default=4)
    parser.add_argument("--fsync", choices=["on", "off"], default="on")
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    server = PostgreSQL({"fsync": arguments.fsync, "max_connections": "200"})
    try:
        records = asyncio.run(fill(server.url))
        found: dict[tuple[str, str], list[float]] = {(work, way): [] for work in WORK for way in WAYS}
        for _ in range(arguments.rounds):
            for (work, way), rates in found.items():
                rates.append(asyncio.run(measure(server.url, records, work, way, arguments)))
    finally:
        server.stop()
    print(
        f"{arguments.writers} writers, fsync {arguments.fsync}, medians of {arguments.rounds} rounds, sessions a second"
    )
    print("| | " + " | ".join(WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for work in WORK:
        cells = []
        for way in WAYS:
            rates = found[work, way]
            share = statistics.median(rates) / statistics.median(found[work, WAYS[0]])
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            cells.append(f"{statistics.median(rates):,.0f} ({share:.2f}; {spread})")
        print(f"| {work} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
