"""``sessiondb bench``: what a database takes for each verb, measured from this process, in a throw-away part of it."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, repeat

from sessiondb.core.errors import ConfigurationError, SessionDBError, StoreError
from sessiondb.db import Issued, SessionDB
from sessiondb.ops.bench_scratch import scratch

VERBS = ("load", "write", "login", "logout", "list")
PER_USER = 5
DATA = {
    "name": "Ada Lovelace",
    "email": "ada@example.com",
    "roles": ["customer", "beta"],
    "locale": "en-GB",
    "theme": "dark",
    "cart": [{"id": 1041, "quantity": 2}, {"id": 2207, "quantity": 1}, {"id": 88, "quantity": 4}],
    "csrf": "b7c1e5d09a4f4c0c8f9b1a2d3e4f5061",
    "seen": 1,
}
"""About 300 bytes as JSON."""

_FILL = 64
Call = Callable[[], Awaitable[object]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure. Raises ``ConfigurationError`` for numbers that cannot work.

    ``seconds`` for each verb and number of callers; ``callers`` at once; ``sessions`` that are there, five a user.
    """

    seconds: float = 1.0
    callers: Sequence[int] = (1, 32, 256)
    sessions: int = 2000

    def __post_init__(self) -> None:
        if not 0.01 <= self.seconds <= 3600:
            raise ConfigurationError(f"bench: --seconds is {self.seconds:g}; use 0.01 to 3600.")
        if not self.callers or any(not 1 <= number <= 4096 for number in self.callers):
            raise ConfigurationError("bench: --callers is how many ask at once; use 1 to 4096.")
        if not PER_USER <= self.sessions <= 10_000_000:
            raise ConfigurationError(f"bench: --sessions is {self.sessions}; use {PER_USER} to 10,000,000.")


@dataclass(frozen=True)
class Measured:
    """One verb by so many callers at once. ``cpu_us`` is what this process takes for one call, in microseconds."""

    verb: str
    callers: int
    calls: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@dataclass
class Burst:
    """Calls that have been timed: seconds each, seconds of all, CPU seconds."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0

    def measured(self, verb: str, callers: int) -> Measured:
        """What is told of it."""
        ordered = sorted(self.latencies)
        return Measured(
            verb,
            callers,
            len(ordered),
            len(ordered) / self.seconds,
            statistics.median(ordered) * 1000,
            ordered[int(len(ordered) * 0.99)] * 1000,
            self.cpu / len(ordered) * 1e6,
        )


class Work:
    """The sessions of one database, and the verbs on them. Each verb raises ``StoreError`` where it went wrong."""

    def __init__(self, db: SessionDB) -> None:
        self._db = db
        self._issued: list[Issued] = []
        self._numbers = count()

    async def fill(self, sessions: int, tell: Tell = lambda line: None) -> None:
        """Make ``sessions`` sessions, five a user."""
        for start in range(0, sessions, _FILL):
            numbers = range(start, min(start + _FILL, sessions))
            self._issued += await asyncio.gather(*(self.make(f"user{number // PER_USER}") for number in numbers))
            if start % (_FILL * 64) == 0 and start:
                tell(f"{start:,} of {sessions:,} sessions are made")

    async def make(self, user: str) -> Issued:
        """One more session of a user."""
        return await self._db.create(user, DATA, ip="192.0.2.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")

    def next(self) -> Issued:
        """One of the sessions, all over the place."""
        return self._issued[next(self._numbers) * 7919 % len(self._issued)]

    async def load(self) -> None:
        """Open a session by its token."""
        async with self._db.session(self.next().token) as session:
            if session.get("name") is None:
                raise StoreError("bench: a session is not there any more; does somebody clean up beside it?")

    async def write(self) -> None:
        """Open a session and change one key."""
        async with self._db.session(self.next().token) as session:
            session["seen"] = next(self._numbers)

    async def login(self) -> None:
        """A new session of a new user, its audit event, and its admission."""
        await self.make(f"guest{next(self._numbers)}")

    async def list_sessions(self) -> None:
        """The sessions of a user with five."""
        if not await self._db.sessions_of(str(self.next().session.user_id)):
            raise StoreError("bench: a user's sessions are not there any more; does somebody clean up beside it?")

    async def logouts(self, number: int) -> list[Call]:
        """Each opens a session that has just been made, and ends it."""

        def leaving(issued: Issued) -> Call:
            async def logout() -> None:
                async with self._db.session(issued.token) as session:
                    await session.logout()

            return logout

        made = await asyncio.gather(*(self.make(f"leaver{next(self._numbers)}") for _ in range(number)))
        return [leaving(issued) for issued in made]


async def measure(url: str, plan: Plan, tell: Tell = lambda line: None) -> list[Measured]:
    """Measure in a throw-away part of the database of ``url``, and remove it, also where this is cancelled.

    Raises ``ConfigurationError`` and ``StoreError``; what could not be removed is named.
    """
    part = scratch(url)
    failure: SessionDBError | None = None
    made = False
    try:
        with _told_to_end():
            async with SessionDB(part.url, sweep_every=None, timeout=30) as db:
                made = True
                work = Work(db)
                await work.fill(plan.sessions, tell)
                measured = []
                for callers in plan.callers:
                    for verb in VERBS:
                        burst = await _burst(work, verb, callers, plan.seconds)
                        measured.append(burst.measured(verb, callers))
                        tell(f"{verb} by {callers}: done")
                return measured
    except SessionDBError as error:
        failure = error
        raise
    finally:
        try:
            await part.remove()
        except Exception as error:
            # A database that was away all the time holds nothing of ours.
            if made or failure is None:
                why = failure or f"{type(error).__name__}: {error}"
                raise StoreError(
                    f"bench: what it has made could not be removed ({why}). Remove yourself what begins with "
                    f"{part.name!r}."
                ) from error


async def _burst(work: Work, verb: str, callers: int, seconds: float) -> Burst:
    burst = Burst()
    if verb != "logout":
        call: Call = {"load": work.load, "write": work.write, "login": work.login, "list": work.list_sessions}[verb]
        await ask(repeat(call), callers, seconds, burst)
        return burst
    # Each session can be ended once, and making them does not count.
    end = time.perf_counter() + 4 * seconds
    while burst.seconds < seconds and (not burst.latencies or time.perf_counter() < end):
        await ask(iter(await work.logouts(max(callers, _FILL))), callers, seconds - burst.seconds, burst)
    return burst


async def ask(calls: Iterator[Call], callers: int, seconds: float, burst: Burst) -> None:
    """Have ``callers`` make ``calls`` for ``seconds``, each one after the other and one at least, and note them."""

    async def caller() -> None:
        for call in calls:
            before = time.perf_counter()
            await call()
            after = time.perf_counter()
            burst.latencies.append(after - before)
            if after > end:
                return

    began, cpu = time.perf_counter(), time.process_time()
    end = began + seconds
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # one says it, and whoever catches it knows it by its class
    burst.seconds += time.perf_counter() - began
    burst.cpu += time.process_time() - cpu


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: the task is cancelled, and cleans up."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (NotImplementedError, RuntimeError, ValueError):
        yield  # Windows, or not the main thread
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
