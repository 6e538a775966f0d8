"""What ``kill -9`` of the server costs, setting by setting: answered writes that are missing after its restart."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.servers import mongodb
from provision.mariadb import MariaDB
from provision.postgresql import PostgreSQL
from provision.valkey import Valkey
from sessiondb import SessionDB, StoreError

WRITERS = 32
SECONDS = 2.0


@dataclass(frozen=True)
class Setting:
    """A server with one setting, and whether its makers promise that an answered write survives a power cut."""

    database: str
    text: str
    start: Callable[[], Any]
    power_cut: str


@dataclass(frozen=True)
class Loss:
    """What was answered, what of it was missing afterwards, and how long one write took."""

    answered: int
    missing: int
    p50: float


SETTINGS = [
    Setting("PostgreSQL", "synchronous_commit=on", PostgreSQL, "nothing"),
    Setting(
        "PostgreSQL",
        "synchronous_commit=off",
        lambda: PostgreSQL({"synchronous_commit": "off"}),
        "up to 0.6 s (3 × wal_writer_delay)",
    ),
    Setting("MariaDB", "innodb_flush_log_at_trx_commit=1", MariaDB, "nothing"),
    Setting(
        "MariaDB",
        "innodb_flush_log_at_trx_commit=2",
        lambda: MariaDB("--innodb-flush-log-at-trx-commit=2"),
        "about 1 s",
    ),
    Setting(
        "MariaDB",
        "innodb_flush_log_at_trx_commit=0",
        lambda: MariaDB("--innodb-flush-log-at-trx-commit=0"),
        "about 1 s",
    ),
    Setting("Valkey", "appendonly, appendfsync=always", lambda: Valkey("--appendfsync", "always"), "nothing"),
    Setting("Valkey", "appendonly, appendfsync=everysec", Valkey, "about 1 s"),
    Setting(
        "Valkey", "appendonly, appendfsync=no", lambda: Valkey("--appendfsync", "no"), "what the kernel had not written"
    ),
    Setting(
        "Valkey",
        "RDB alone, save 60 1",
        lambda: Valkey("--appendonly", "no", "--save", "60 1"),
        "everything since the last snapshot",
    ),
    Setting("MongoDB", "w=majority, j=true", mongodb, "nothing"),
]


async def lost(setting: Setting) -> Loss:
    """Write for two seconds, kill the server in the middle of it, start it again, and count."""
    server = setting.start()
    try:
        async with SessionDB(server.url, sweep_every=None, timeout=5) as db:
            issued = [await db.create(f"user{number}", {}) for number in range(WRITERS)]
            answered: list[dict[str, int]] = [{} for _ in issued]
            latencies: list[float] = []

            async def write(number: int) -> None:
                for count in range(1_000_000):
                    before = time.perf_counter()
                    try:
                        async with db.session(issued[number].token) as session:
                            session[f"k{count % 100}"] = count
                    except StoreError:
                        return
                    latencies.append((time.perf_counter() - before) * 1000)
                    answered[number][f"k{count % 100}"] = count

            writers = [asyncio.create_task(write(number)) for number in range(WRITERS)]
            await asyncio.sleep(SECONDS)
            server.process.kill()
            await asyncio.gather(*writers)
            server.process.start()
        missing = 0
        async with SessionDB(server.url, sweep_every=None, timeout=5) as db:
            for one, known in zip(issued, answered, strict=True):
                found = await db.get(one.session.sid)
                stored = found.data if found is not None else {}
                # A later write of the same key may have landed without its answer: that is no loss.
                missing += sum(stored.get(key, -1) < count for key, count in known.items())
        return Loss(len(latencies), missing, statistics.median(latencies))
    finally:
        server.stop()
