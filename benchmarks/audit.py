"""``python -m benchmarks.audit``: how many events of the audit trail a second are sealed, written, read and verified.

For each database: events as logins make them, written in batches as the background does, then verified as
``sessiondb audit verify`` does it: every digest, every commitment, against a signed checkpoint. ``proof`` is the
verifying alone, of events in memory; the rest is the database's and its driver's. Aimed at: 100,000 events a second.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.servers import AS_DEPLOYED, running
from sessiondb import Audit, Ed25519Signer, Event, EventType, KeyRing, SessionDB
from sessiondb.core.events import EventClass
from sessiondb.core.sealing import Lane
from sessiondb.core.statements import Vouched
from sessiondb.core.verifying import StreamVerifier

AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


def events(count: int) -> list[Event]:
    """Logins of so many users."""
    return [
        Event(
            type=EventType.LOGIN,
            at=1_795_875_126_725_731 + number,
            sid=f"01a2227f-bdc5-7f3e-909f-{number:012x}",
            user_id=f"user{number}",
            ip="192.0.2.1",
            personal={"user_agent": AGENT, "country": "PL"},
        )
        for number in range(count)
    ]


def pure(count: int, rounds: int) -> tuple[float, float]:
    """Events a second that are sealed, and that are verified, in memory."""
    made = events(count)
    sealing, proving = [], []
    for _ in range(rounds):
        lane = Lane(EventClass.LOGIN)
        began = time.process_time()
        sealed = lane.seal(made)
        sealing.append(count / (time.process_time() - began))
        verifier = StreamVerifier(lane.stream, Vouched(), None)
        began = time.process_time()
        for start in range(0, count, 1000):
            verifier.feed(sealed[start : start + 1000])
        proving.append(count / (time.process_time() - began))
        assert not verifier.close()
    return statistics.median(sealing), statistics.median(proving)


async def stored(url: str, count: int, rounds: int) -> tuple[float, float, float]:
    """Events a second that are written, that are read, and that are verified as they are read."""
    lines: list[str] = []
    signer = Ed25519Signer(KeyRing.generate())
    audit = Audit(signer=signer, exports=[lines.append])
    async with SessionDB(url, audit=audit, risk=None, sweep_every=None, timeout=60) as db:  # noqa: SIM117
        async with db.runtime.using_store() as store:
            made = events(count)
            began = time.perf_counter()
            for start in range(0, count, 1000):
                await store.append(made[start : start + 1000])
            writing = count / (time.perf_counter() - began)
            await db.checkpoint()
            reading, verifying = [], []
            for _ in range(rounds):
                began, seen = time.perf_counter(), 0
                for stream in await store.streams():
                    after = 0
                    while page := await store.trail(stream.name, after, 1000):
                        after += len(page)
                        seen += len(page)
                reading.append(seen / (time.perf_counter() - began))
                began = time.perf_counter()
                found = await db.verify_trail(lines)
                verifying.append(found.events / (time.perf_counter() - began))
                assert found.is_sound
                assert found.events == seen
    return writing, statistics.median(reading), statistics.median(verifying)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(AS_DEPLOYED), metavar="DATABASE")
    options = parser.parse_args(arguments)
    sealing, proof = pure(options.events, options.rounds)
    print(f"events a second, of {options.events:,}: sealed {sealing:,.0f}, proof {proof:,.0f}\n")
    print(f"{'':<14}{'written':>12}{'read':>12}{'verified':>12}")
    with ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory()))
        for name in options.only or AS_DEPLOYED:
            database = servers.enter_context(running(AS_DEPLOYED[name], folder))
            if database is not None:
                written, read, verified = asyncio.run(stored(database.url, options.events, options.rounds))
                print(f"{name:<14}{written:>12,.0f}{read:>12,.0f}{verified:>12,.0f}", flush=True)


if __name__ == "__main__":
    main()
