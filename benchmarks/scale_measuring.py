"""What one call costs on a database of a given size, through the store and without HTTP."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from benchmarks.cpu import of_family
from benchmarks.scale_population import Population
from sessiondb.core.change import Applied
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import SWEEP_GRACE, Store
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.testing.builders import DAY, PURGE_AFTER, Builders

CALLERS = 32
VERBS = (
    "read alone",
    "read of 32",
    "write alone",
    "write of 32",
    "list of a user",
    "revoke all of a user",
    "sweep",
    "purge",
)
UNITS = {"sweep": "a session", "purge": "a session"}  # all others: a call

Call = Callable[[], Awaitable[object]]
Step = Callable[["Counts"], Awaitable[None]]


@dataclass
class Figures:
    """One entry a round: CPU microseconds a call in this process and in the server, and milliseconds it took."""

    app: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)  # calls that went to the database together, on average

    def cpu(self) -> list[float]:
        """Of both, round by round."""
        return [app + server for app, server in zip(self.app, self.server, strict=True)]

    def medians(self) -> dict[str, float]:
        """Over the rounds."""
        return {name: statistics.median(values) for name, values in vars(self).items()}


def ratio(grown: Figures, small: Figures) -> float:
    """CPU a call (application and server) as a multiple of the small one's: the median over the rounds."""
    return statistics.median(mine / theirs for mine, theirs in zip(grown.cpu(), small.cpu(), strict=True))


@dataclass(frozen=True)
class Counts:
    """Calls in one round: few, so that what is compared lies close together; there are many rounds."""

    alone: int = 400
    together: int = 3200
    writes_alone: int = 100
    writes_together: int = 1600
    lists: int = 100
    revokes: int = 15
    sweeps: int = 2


class Measured:
    """One database with its population, measured round by round."""

    def __init__(self, store: Store, population: Population, pid: int | None, *, seed: int = 11) -> None:
        self.figures = {verb: Figures() for verb in VERBS}
        self._store = store
        self._population = population
        self._pid = pid
        self._random = random.Random(seed)
        self._sids: list[tuple[Sid, str]] = []
        self._leavers: list[str] = []
        self._number = 0

    def forget(self) -> None:
        """Begin anew: the database has grown."""
        self.figures = {verb: Figures() for verb in VERBS}
        self._sids = []
        self._leavers = []

    @property
    def steps(self) -> list[Step]:
        """The parts of a round: each measures one verb, the last one two."""
        return [
            self._read,
            self._read_together,
            self._write,
            self._write_together,
            self._list,
            self._revoke,
            self._sweep,
        ]

    async def _read(self, counts: Counts) -> None:
        calls = [self._loading(sid) for sid, _ in self._next(counts.alone)]
        await self._note("read alone", calls, 1)

    async def _read_together(self, counts: Counts) -> None:
        calls = [self._loading(sid) for sid, _ in self._next(counts.together)]
        await self._note("read of 32", calls, CALLERS)

    def _loading(self, sid: Sid) -> Call:
        async def load() -> None:
            [record] = await self._store.load([sid])
            if record is None or record.ended_at is not None:
                raise RuntimeError(f"the session {sid} is not there any more")

        return load

    async def _write(self, counts: Counts) -> None:
        await self._note("write alone", await self._writes(counts.writes_alone), 1)

    async def _write_together(self, counts: Counts) -> None:
        await self._note("write of 32", await self._writes(counts.writes_together), CALLERS)

    async def _writes(self, count: int) -> list[Call]:
        """Deltas of records that have just been read, as a request's are; the reading does not count."""
        sids = [sid for sid, _ in self._next(count)]
        records: list[Record | None] = []
        for start in range(0, len(sids), 500):
            records += await self._store.load(sids[start : start + 500])
        build = Builders(await self._store.clock())
        return [self._writing(build, record) for record in records if record is not None]

    def _writing(self, build: Builders, record: Record) -> Call:
        self._number += 1
        change = build.update(record, {"seen": self._number}, touch=build.touch(record).touch, seen=True)

        async def write() -> None:
            [result] = await self._store.apply([change])
            if not isinstance(result, Applied):
                raise RuntimeError(f"the session {record.sid} could not be written: {result}")

        return write

    async def _list(self, counts: Counts) -> None:
        build = Builders(await self._store.clock())

        def listing(user_id: str) -> Call:
            async def find() -> None:
                if not (await self._store.find(build.query(user_id))).records:
                    raise RuntimeError(f"{user_id} has no session any more")

            return find

        await self._note("list of a user", [listing(user_id) for _, user_id in self._next(counts.lists)], 1)

    async def _revoke(self, counts: Counts) -> None:
        build = Builders(await self._store.clock())

        def revoking(user_id: str) -> Call:
            async def end() -> None:
                query = build.query(user_id, not_before=build.now)
                if not await self._store.end_where(query, EndReason.REVOKED):
                    raise RuntimeError(f"{user_id} has no session to revoke")

            return end

        if not self._leavers:
            self._leavers = sorted({user_id for _, user_id in self._population.leaving.kept})
            self._random.shuffle(self._leavers)
        leavers = [self._leavers.pop() for _ in range(min(counts.revokes, len(self._leavers)))]
        if not leavers:
            raise ValueError("all users that may be revoked have been: measure fewer rounds, or a larger database.")
        gone = set(leavers)
        self._population.leaving.kept = [one for one in self._population.leaving.kept if one[1] not in gone]
        await self._note("revoke all of a user", [revoking(user_id) for user_id in leavers], 1)

    async def _sweep(self, counts: Counts) -> None:
        """Batches of a sweep, each of sessions that are all to be ended, then purged; they are made first."""
        limit = self._store.batching.sweep
        build = Builders(await self._store.clock())
        count = limit * counts.sweeps
        records = [build.record(f"guest{number}", {"n": number}, age=20 * DAY) for number in range(count)]
        for start in range(0, count, 500):
            await self._store.apply([build.create(record) for record in records[start : start + 500]])
        done = 0
        # Kept for no time at all, so that they can be purged next, and none stays that would make the database larger.
        cutoffs = structs.replace(build.cutoffs(build.now + SWEEP_GRACE), keep_ended=0)

        async def sweep() -> None:
            nonlocal done
            swept = await self._store.sweep(cutoffs, limit)
            done += len(swept.ended) + swept.purged

        for verb in ("sweep", "purge"):
            done = 0
            await self._note(verb, [sweep] * counts.sweeps, 1, units=count)
            if done != count:
                raise RuntimeError(f"a {verb} of {count} expired sessions has done {done}")

    def _next(self, count: int) -> list[tuple[Sid, str]]:
        """Sessions in random order, none of which comes again before all of the sample were used."""
        if len(self._sids) < count:
            fresh = list(self._population.staying.kept)
            self._random.shuffle(fresh)
            self._sids = fresh + self._sids
        chosen = self._sids[-count:]
        del self._sids[-count:]
        return chosen

    async def _note(self, verb: str, calls: Sequence[Call], callers: int, *, units: int | None = None) -> None:
        left = iter(calls)
        latencies: list[float] = []

        async def caller() -> None:
            for call in left:
                before = time.perf_counter()
                await call()
                latencies.append((time.perf_counter() - before) * 1000)

        calls_before, batches_before = self._coalesced(verb)
        server = self._server_cpu()
        app = time.process_time()
        await asyncio.gather(*(caller() for _ in range(callers)))
        app = time.process_time() - app
        server = self._server_cpu() - server
        latencies.sort()
        figures, count = self.figures[verb], units or len(calls)
        figures.app.append(app / count * 1e6)
        figures.server.append(server / count * 1e6)
        figures.p50.append(latencies[len(latencies) // 2])
        figures.p99.append(latencies[int(len(latencies) * 0.99)])
        calls_after, batches_after = self._coalesced(verb)
        figures.batch.append((calls_after - calls_before) / max(batches_after - batches_before, 1) or 1.0)

    def _coalesced(self, verb: str) -> tuple[int, int]:
        """How many loads or changes there were so far, and in how many batches they went."""
        if not isinstance(self._store, CoalescingStore):
            return 0, 0
        counts = self._store.changes if verb.startswith("write") else self._store.loads
        return counts.calls, counts.batches

    def _server_cpu(self) -> float:
        return 0.0 if self._pid is None else of_family(self._pid)


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.system(),
    }


PURGE = PURGE_AFTER
