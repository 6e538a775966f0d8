"""A million expired sessions swept while requests run: what they notice, and how large the log gets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import sweeping
from benchmarks.scale_servers import Server, Target
from sessiondb.stores.base import SWEEP_GRACE
from sessiondb.testing.builders import HOUR, PURGE_AFTER

TOO_LONG = 50.0  # milliseconds


def sweep(target: Target, server: Server, rows: int) -> dict[str, Any]:
    """Fill, measure requests alone, beside ends and beside purges; print and return what was found.

    The machine has hiccups of its own, which a short time alone does not show: at the end requests are alone for
    longer.
    """
    title = target.title
    began_at = time.perf_counter()
    sids = asyncio.run(sweeping.fill(server.filling, rows))
    asyncio.run(target.settle(server.url.partition("?")[0]))
    print(f"\n{title}: {rows:,} expired sessions, made in {time.perf_counter() - began_at:.0f} s", flush=True)
    log_size = _log_of(server)
    found: dict[str, Any] = {"rows": rows}
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "alone": lambda: time.sleep(sweeping.ALONE * 3) or {},
        "beside ends": lambda: asyncio.run(sweeping.sweep(server.url, SWEEP_GRACE)),
        "beside purges": lambda: asyncio.run(sweeping.sweep(server.url, PURGE_AFTER + HOUR)),
        "alone again": lambda: time.sleep(sweeping.ALONE * 12) or {},
    }
    for name, work in works.items():
        with Largest(log_size) as largest:
            done, beside = sweeping.measured(server.url, sids, work)
        found[name] = told = {**done, **_times(beside), "log_bytes": largest.value, "locks": largest.waiting}
        print(f"  {name:<14} {_line(told)}", flush=True)
    if found["beside ends"]["ended"] != rows or found["beside ends"]["twice"]:
        raise RuntimeError("an end was lost, or reported twice")
    return found


def _times(figures: dict[str, Any]) -> dict[str, Any]:
    every = sorted(time_ * 1000 for times in figures["times"].values() for time_ in times)
    return {
        "requests": len(every),
        "failed": figures["failed"],
        "p50": every[len(every) // 2],
        "p99": every[int(len(every) * 0.99)],
        "p999": every[int(len(every) * 0.999)],
        "longest": every[-1],
        "too_long": sum(one > TOO_LONG for one in every),
    }


def _line(told: dict[str, Any]) -> str:
    log = "" if told["log_bytes"] is None else f"; log at most {told['log_bytes'] / 1e6:,.0f} MB"
    rows = told.get("ended") or told.get("purged")
    rate = f"; {rows:,} rows in {told['took']:,.0f} s, {told['failed_passes']} passes failed" if rows else ""
    return (
        f"{told['requests']:,} requests, {told['failed']} failed: p50 {told['p50']:.2f} ms, p99 {told['p99']:.1f}, "
        f"p99.9 {told['p999']:.1f}, longest {told['longest']:.0f}, "
        f"{told['too_long']} above {TOO_LONG:.0f} ms{rate}{log}"
    )


class Largest:
    """Looks at ``size`` five times a second, and keeps the largest it has seen."""

    def __init__(self, size: Callable[[], tuple[int, int]] | None) -> None:
        self.value: int | None = None
        self.waiting = 0
        self._size = size
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Largest:
        if self._size is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._size is not None:
            self._thread.join()

    def _watch(self) -> None:
        assert self._size is not None
        while not self._stop.wait(0.2):
            size, waiting = self._size()
            self.value = max(self.value or 0, size)
            self.waiting = max(self.waiting, waiting)


def _log_of(server: Server) -> Callable[[], tuple[int, int]] | None:
    """What tells the bytes of the write-ahead log, and how many wait for a lock."""
    scheme = urlsplit(server.url).scheme
    if scheme == "sqlite":
        log = Path(server.url.partition("?")[0].removeprefix("sqlite:///") + "-wal")
        return lambda: (log.stat().st_size if log.exists() else 0, 0)
    if scheme == "postgresql":
        return lambda: asyncio.run(_postgresql_log(server.url.partition("?")[0]))
    return None


async def _postgresql_log(url: str) -> tuple[int, int]:
    import asyncpg

    connection = await asyncpg.connect(url)
    size = await connection.fetchval("SELECT sum(size) FROM pg_ls_waldir()")
    waiting = await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
    await connection.close()
    return int(size), int(waiting)
