"""What one verb takes on each database: alone, and with many callers at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from benchmarks.drivers import Driver
from benchmarks.servers import Kind
from sessiondb import SessionDB
from sessiondb.ops.bench import PER_USER, Work

VERBS = ("driver", "read", "write", "login", "list", "revoke all")

Call = Callable[[], Awaitable[object]]


@dataclass
class Times:
    """Milliseconds of one caller alone, and calls a second of many at once; one entry a round."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


class Subject:
    """One database with its sessions, and the verbs to measure on it."""

    def __init__(self, kind: Kind, url: str, db: SessionDB, driver: Driver) -> None:
        self.kind = kind
        self.url = url
        self.times = {verb: Times() for verb in VERBS}
        self.bytes_a_session: float | None = None
        self._db = db
        self._read_raw = driver.read
        self._work = Work(db)
        self._numbers = count()

    async def fill(self, sessions: int) -> None:
        """Make ``sessions`` sessions of about 300 bytes, five a user, and measure what they take."""
        before = await self.kind.size(self.url)
        await self._work.fill(sessions)
        after = await self.kind.size(self.url)
        if before is not None and after is not None:
            self.bytes_a_session = (after - before) / sessions

    async def _driver(self) -> None:
        if not await self._read_raw(self._work.next().session.sid):
            raise RuntimeError("the driver alone does not find the session")

    async def measure(self, alone: int, together: int, callers: int) -> None:
        """One round: every verb ``alone`` times by one caller, then ``together`` times by ``callers``."""
        # A driver's connection serves one caller, so alone it is the yardstick of what one call must wait.
        self._note("driver", await _alone(self._driver, alone), None)
        verbs: dict[str, Call] = {
            "read": self._work.load,
            "write": self._work.write,
            "login": self._work.login,
            "list": self._work.list_sessions,
        }
        for verb, call in verbs.items():
            self._note(verb, await _alone(call, alone), await _together([call] * together, callers))
        await self._measure_revoking(alone // 4, together // 4, callers)

    async def _measure_revoking(self, alone: int, together: int, callers: int) -> None:
        users = [f"leaver{next(self._numbers)}" for _ in range(alone + together)]
        for start in range(0, len(users), 16):
            part = [user for user in users[start : start + 16] for _ in range(PER_USER)]
            await asyncio.gather(*map(self._work.make, part))
        left = iter(users)

        async def revoke() -> None:
            if await self._db.revoke_all(next(left)) != PER_USER:
                raise RuntimeError("a session was not revoked")

        self._note("revoke all", await _alone(revoke, alone), await _together([revoke] * together, callers))

    def _note(self, verb: str, latencies: list[float], rate: float | None) -> None:
        times = self.times[verb]
        latencies.sort()
        times.p50.append(statistics.median(latencies))
        times.p99.append(latencies[int(len(latencies) * 0.99)])
        if rate is not None:
            times.rate.append(rate)


async def _alone(call: Call, count: int) -> list[float]:
    """Milliseconds of each."""
    latencies = []
    for _ in range(count):
        before = time.perf_counter()
        await call()
        latencies.append((time.perf_counter() - before) * 1000)
    return latencies


async def _together(calls: Sequence[Call], callers: int) -> float:
    """Calls a second."""
    left = iter(calls)

    async def caller() -> None:
        for call in left:
            await call()

    before = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(calls) / (time.perf_counter() - before)
