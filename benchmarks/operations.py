"""What one verb takes on each database: alone, and with many callers at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks.drivers import Driver
from benchmarks.servers import Kind
from benchmarks.variants import PROFILE
from sessiondb import SessionDB
from sessiondb.db import Issued

PER_USER = 5
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
        self._issued: list[Issued] = []
        self._numbers = cycle(range(1 << 30))

    async def fill(self, sessions: int) -> None:
        """Make ``sessions`` sessions of about 300 bytes, five a user, and measure what they take."""
        before = await self.kind.size(self.url)
        for start in range(0, sessions, 64):
            names = range(start, min(start + 64, sessions))
            self._issued += await asyncio.gather(*(self._login(f"user{number // PER_USER}") for number in names))
        after = await self.kind.size(self.url)
        if before is not None and after is not None:
            self.bytes_a_session = (after - before) / sessions

    async def _login(self, user: str) -> Issued:
        return await self._db.create(user, PROFILE, ip="192.0.2.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")

    def _next(self) -> Issued:
        return self._issued[next(self._numbers) * 7919 % len(self._issued)]

    async def _read(self) -> None:
        async with self._db.session(self._next().token) as session:
            if session.get("name") is None:
                raise RuntimeError("a session is not there any more")

    async def _write(self) -> None:
        async with self._db.session(self._next().token) as session:
            session["seen"] = next(self._numbers)

    async def _driver(self) -> None:
        if not await self._read_raw(self._next().session.sid):
            raise RuntimeError("the driver alone does not find the session")

    async def _list(self) -> None:
        if len(await self._db.sessions_of(str(self._next().session.user_id))) < PER_USER:
            raise RuntimeError("a session is missing in the list")

    async def measure(self, alone: int, together: int, callers: int) -> None:
        """One round: every verb ``alone`` times by one caller, then ``together`` times by ``callers``."""
        # A driver's connection serves one caller, so alone it is the yardstick of what one call must wait.
        self._note("driver", await _alone(self._driver, alone), None)
        verbs: dict[str, Call] = {
            "read": self._read,
            "write": self._write,
            "login": lambda: self._login(f"guest{next(self._numbers)}"),
            "list": self._list,
        }
        for verb, call in verbs.items():
            self._note(verb, await _alone(call, alone), await _together([call] * together, callers))
        await self._measure_revoking(alone // 4, together // 4, callers)

    async def _measure_revoking(self, alone: int, together: int, callers: int) -> None:
        users = [f"leaver{next(self._numbers)}" for _ in range(alone + together)]
        for start in range(0, len(users), 16):
            part = [user for user in users[start : start + 16] for _ in range(PER_USER)]
            await asyncio.gather(*map(self._login, part))
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
