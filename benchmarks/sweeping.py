"""What sweeping costs the requests beside it: ``python -m benchmarks.sweeping --rows 1000000 sqlite redis``.

The database holds ``rows`` expired sessions. A process with an app's worth of requests (reads and writes of living
sessions) measures how long they take, first with nothing else going on, then while another process sweeps as three
workers of an app do: one has the turn, and rests after each pass. Then the tombstones are purged in the same way. Every
end is counted: none may be lost, and none reported twice.

On a shared machine times swing: compare what stands beside each other, not the numbers of two runs.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

from benchmarks.servers import KINDS, started
from sessiondb import Policy, SessionDB
from sessiondb.core.errors import StoreUnavailable
from sessiondb.core.policy import SECOND
from sessiondb.stores.base import SWEEP_GRACE, Cutoffs, Store, open_store
from sessiondb.sweeping import rest_after
from sessiondb.testing.builders import DAY, HOUR, PURGE_AFTER, Builders

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB", "redis": "Valkey", "mongodb": "MongoDB"}
LIVING = 2_000
ALONE = 10.0  # seconds of requests without sweeping
RATE = 200.0  # requests a second, half of them writes: what is measured is the wait, not the most that can be done
WORKERS = 3
TURN = 90 * SECOND  # as an app takes it, which sweeps once a minute
OFFER_EVERY = 1.0  # seconds: an app's other workers ask once a minute whether the turn is theirs


async def fill(url: str, rows: int) -> list[str]:
    """Make ``rows`` expired sessions and some living ones; the sids of these."""
    store = open_store(url)
    await store.open()
    build = Builders(await store.clock())
    batch = 500
    for start in range(0, rows, batch):
        # Created over a day, so that they were due one after the other.
        records = [
            build.record(f"user{number % 50_000}", {"cart": [1, 2, 3]}, age=2 * HOUR + number * 86_400 % DAY, idle=HOUR)
            for number in range(start, min(start + batch, rows))
        ]
        await store.apply([build.create(record) for record in records])
    living = [build.record("living", {"n": 0}) for _ in range(LIVING)]
    for start in range(0, LIVING, batch):
        await store.apply([build.create(record) for record in living[start : start + batch]])
    await store.close()
    return [record.sid for record in living]


def requests(url: str, sids: list[str], stop: Flag, answers: Any) -> None:
    """Send requests at a steady rate until ``stop``; the times of reads and writes, in seconds, go to ``answers``."""

    async def run() -> dict[str, Any]:
        times: dict[str, list[float]] = {"read": [], "write": []}
        failed = 0
        async with SessionDB(url, policy=Policy(), sweep_every=None) as db:

            async def one(kind: str) -> None:
                nonlocal failed
                began_at = time.perf_counter()
                try:
                    sid = random.choice(sids)
                    store = db.runtime.store
                    [record] = await store.load([sid])  # type: ignore[list-item]
                    if kind == "write" and record is not None:
                        build = Builders(db.runtime.now())
                        await store.apply([build.update(record, {"n": random.random()}, seen=True)])
                except Exception:
                    failed += 1
                times[kind].append(time.perf_counter() - began_at)

            tasks: set[asyncio.Task[None]] = set()
            number, began_at = 0, time.perf_counter()
            while not stop.is_set():
                number += 1
                task = asyncio.create_task(one("write" if number % 2 else "read"))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                # By the clock: a server that is late is not sent fewer.
                await asyncio.sleep(max(0.0, began_at + number / RATE - time.perf_counter()))
            if tasks:
                await asyncio.wait(tasks)
        return {"times": times, "failed": failed}

    answers.put(asyncio.run(run()))


def measured(url: str, sids: list[str], work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What ``work`` returns, and what the requests beside it have measured."""
    context = multiprocessing.get_context("spawn")
    stop, answers = context.Event(), context.Queue()
    process = context.Process(target=requests, args=(url, sids, stop, answers))
    process.start()
    time.sleep(2.0)  # until it has begun
    try:
        done = work()
    finally:
        stop.set()
        # Also where the work has failed: the process does not end before somebody takes its answer.
        answer = answers.get(timeout=120)
        process.join()
    return done, answer


async def sweep(url: str, later: int) -> dict[str, Any]:
    """Sweep as the workers of an app do, until nothing is due; ``later``: as of so many microseconds from now."""
    stores = [open_store(url) for _ in range(WORKERS)]
    for store in stores:
        await store.open()
    now = await stores[0].clock() + later
    ended: list[str] = []
    purged, failed, busy = 0, 0, 0.0
    idle = [False] * WORKERS
    began_at = time.perf_counter()

    async def worker(at: int, store: Store) -> None:
        nonlocal purged, failed, busy
        cutoffs = Cutoffs(now=now, caps=Policy().caps, keep_ended=PURGE_AFTER, worker=f"worker{at}", turn=TURN)
        while not all(idle):
            pass_began_at = time.perf_counter()
            try:
                swept = await store.sweep(cutoffs, store.batching.sweep)
            except StoreUnavailable:
                failed += 1  # as an app's sweeper: the next pass does what this one has not
                continue
            took = time.perf_counter() - pass_began_at
            ended.extend(one.sid for one in swept.ended)
            purged += swept.purged
            busy += took
            idle[at] = not swept.more
            await asyncio.sleep(rest_after(took) if swept.more else OFFER_EVERY)

    await asyncio.gather(*(worker(at, store) for at, store in enumerate(stores)))
    took = time.perf_counter() - began_at
    for store in stores:
        await store.close()
    twice = len(ended) - len(set(ended))
    return {"ended": len(ended), "twice": twice, "purged": purged, "failed_passes": failed, "took": took, "busy": busy}


def percentile(times: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000


def compare(name: str, rows: int, url: str) -> None:
    """Print the figures of one database."""
    began_at = time.perf_counter()
    sids = asyncio.run(fill(url, rows))
    print(f"\n{name}: {rows:,} expired sessions, made in {time.perf_counter() - began_at:.0f} s")
    _, alone = measured(url, sids, lambda: time.sleep(ALONE))
    swept, beside_ends = measured(url, sids, lambda: asyncio.run(sweep(url, SWEEP_GRACE)))
    purged, beside_purges = measured(url, sids, lambda: asyncio.run(sweep(url, PURGE_AFTER + HOUR)))
    for what, found, count in (("ended", swept, swept["ended"]), ("purged", purged, purged["purged"])):
        print(
            f"  {what:<7} {count:,} of {rows:,} in {found['took']:.0f} s: {count / found['took']:,.0f} rows/s with "
            f"rests, {count / found['busy']:,.0f} rows/s without; {found['twice']} reported twice"
        )
    for what, figures in (("alone", alone), ("beside ends", beside_ends), ("beside purges", beside_purges)):
        cells = [
            f"{kind} p50 {percentile(times, 0.5):6.2f} ms, p99 {percentile(times, 0.99):7.2f} ms"
            + ("" if figures is alone else f" ({_ratio(times, alone['times'][kind]):.1f}x)")
            for kind, times in figures["times"].items()
        ]
        print(
            f"  {what:<13} {'  '.join(cells)}  failed {figures['failed']} of {sum(map(len, figures['times'].values()))}"
        )
    assert swept["ended"] == rows, "an end was lost, or reported twice"
    assert swept["twice"] == 0


def _ratio(times: list[float], alone: list[float]) -> float:
    return percentile(times, 0.99) / percentile(alone, 0.99)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("databases", nargs="*", default=list(NAMES), help=", ".join(NAMES))
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    for name in given.databases:
        kind = next(kind for kind in KINDS if kind.name.startswith(NAMES[name]))
        with tempfile.TemporaryDirectory() as folder, started(kind, Path(folder)) as url:
            if url is not None:
                compare(kind.name, given.rows, url)


if __name__ == "__main__":
    main()
