"""What it was measured on: the machine, and the versions of everything that takes part."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "msgspec", "hiredis", "asyncpg", "asyncmy")
PEERS = ("starsessions", "fastapi-redis-sdk", "fastapi-alcazaba", "starlette-sessions", "redis")


def describe() -> dict[str, str | int | float]:
    """The processor, its cores, memory in GiB, and the operating system."""
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(int((_line("/proc/meminfo", "MemTotal") or "0").split()[0]) / (1 << 20), 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


@contextmanager
def divided() -> Iterator[set[int]]:
    """The processor of the app that is asked; meanwhile this process and what it starts have all others.

    A process that is moved between processors finds their caches empty, and how often that happens is chance. Empty
    where there is but one processor.
    """
    all_of_them = os.sched_getaffinity(0)
    first, *others = sorted(all_of_them)
    if not others:
        yield set()
        return
    os.sched_setaffinity(0, others)
    try:
        yield {first}
    finally:
        os.sched_setaffinity(0, all_of_them)


def versions() -> dict[str, str]:
    """Of the packages that are here."""
    found = {}
    for name in (*PACKAGES, *PEERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _line(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
