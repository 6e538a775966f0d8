"""What encryption at rest costs: ``python -m benchmarks.encryption``. A value, a record and a request, in one run."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from benchmarks.variants import PROFILE
from sessiondb import KeyRing, SessionDB
from sessiondb.core import codec
from sessiondb.stores._sealing import Sealer
from sessiondb.testing.builders import Builders

ROUNDS = 9
REQUESTS = 2000


def microseconds(call: Callable[[], Any], times: int) -> float:
    """The median of the rounds, for one call."""
    taken = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(times):
            call()
        taken.append((time.process_time() - began) / times * 1e6)
    return statistics.median(taken)


def values() -> None:
    sealer = Sealer(KeyRing(KeyRing.generate()))
    build = Builders(time.time_ns() // 1000)
    print(f"{'one value':<34}{'encrypt':>10}{'decrypt':>10}  microseconds")
    for size in (2, 30, 1000, 64_000):
        value = b'"' + b"x" * (size - 2) + b'"'
        sid = build.record().sid
        sealed = sealer.seal(sid, "key", value)
        times = 10_000 if size <= 1000 else 500
        sealing = microseconds(lambda sid=sid, value=value: sealer.seal(sid, "key", value), times)  # type: ignore[misc]
        opening = microseconds(lambda sid=sid, sealed=sealed: sealer.open(sid, "key", sealed), times)  # type: ignore[misc]
        print(f"{f'  {size:,} bytes':<34}{sealing:>10.1f}{opening:>10.1f}")
    record = build.record(None, PROFILE)
    stored = msgspec.structs.replace(record, data=sealer.seal_data(record.sid, record.data))
    opening = microseconds(lambda: sealer.open_record(stored), 3000)
    cold = [
        msgspec.structs.replace(one, data=sealer.seal_data(one.sid, one.data))
        for one in (build.record(None, PROFILE) for _ in range(6000))
    ]
    began = time.process_time()
    for one in cold[:1500]:
        sealer.open_record(one)
    first = (time.process_time() - began) / 1500 * 1e6
    print(f"{f'a session of {len(PROFILE)} keys, {len(record.data)} bytes':<34}{'':>10}{opening:>10.1f}")
    print(f"{'  whose key is not in the cache':<34}{'':>10}{first:>10.1f}")
    print(f"{'stored bytes, times plain':<34}{len(stored.data) / len(record.data):>10.2f}")


async def requests() -> None:
    print(f"\n{'a session used outside HTTP':<34}{'plain':>10}{'encrypted':>10}{'ratio':>8}  CPU microseconds")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("memory", "sqlite"):
            plain_url, secret_url = (
                ("memory://", "memory://")
                if kind == "memory"
                else (f"sqlite:///{folder}/plain.db", f"sqlite:///{folder}/secret.db")
            )
            async with (
                SessionDB(plain_url, sweep_every=None) as plain,
                SessionDB(secret_url, sweep_every=None, keys=KeyRing(KeyRing.generate())) as secret,
            ):
                tokens = {db: (await db.create("ann", PROFILE)).token for db in (plain, secret)}

                async def read(db: SessionDB, tokens: dict[SessionDB, str] = tokens) -> None:
                    async with db.session(tokens[db]) as session:
                        len(session["cart"])

                async def write(db: SessionDB, tokens: dict[SessionDB, str] = tokens) -> None:
                    async with db.session(tokens[db]) as session:
                        session["seen"] += 1

                for name, work in (("read", read), ("write", write)):
                    costs: dict[SessionDB, list[float]] = {plain: [], secret: []}
                    for turn in range(ROUNDS + 1):
                        # In turn, so that a slow moment hits both.
                        for db in (plain, secret) if turn % 2 else (secret, plain):
                            cost = await cpu(work, db)
                            if turn:
                                costs[db].append(cost)
                    one, other = statistics.median(costs[plain]), statistics.median(costs[secret])
                    print(f"{f'  {kind}, {name}':<34}{one:>10.1f}{other:>10.1f}{other / one:>8.2f}")


async def cpu(work: Callable[[SessionDB], Awaitable[None]], db: SessionDB) -> float:
    """CPU of the process for one ``work``, all threads."""
    began = time.process_time()
    for _ in range(REQUESTS // ROUNDS):
        await work(db)
    return (time.process_time() - began) / (REQUESTS // ROUNDS) * 1e6


def check() -> None:
    """What is measured does what it should."""
    sealer = Sealer(KeyRing(KeyRing.generate()))
    record = Builders(time.time_ns() // 1000).record(None, PROFILE)
    stored = msgspec.structs.replace(record, data=sealer.seal_data(record.sid, record.data))
    assert codec.decode_data(sealer.open_record(stored).data) == PROFILE


if __name__ == "__main__":
    check()
    values()
    asyncio.run(requests())
