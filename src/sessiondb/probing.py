"""Whether this process can serve sessions: what a load balancer asks, without hammering the database."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from sessiondb.core import token
from sessiondb.core.errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

FRESH = 1.0  # seconds for which an answer is given again


class Readiness(msgspec.Struct, frozen=True):
    """Whether sessions can be read now. Safe to show: it names no host, user or session.

    ``why`` is ``None`` while all is well. ``writable`` is ``False`` while writing is known to fail: such a process
    still serves everybody who only reads. ``latency`` is how long the probe took, in seconds, if there was one.
    """

    ok: bool
    writable: bool = True
    why: str | None = None
    latency: float | None = None


class Prober:
    """Asks the database for a session that does not exist, at most once a second, whoever wants to know."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._answer: Readiness | None = None
        self._answered_at = 0.0
        self._task: asyncio.Task[Readiness] | None = None

    async def ask(self) -> Readiness:
        """The newest answer. Takes no longer than one timeout of the database, and raises nothing."""
        if self._answer is not None and time.monotonic() - self._answered_at < FRESH:
            return self._answer
        task = self._task
        if task is None or task.done():
            task = self._task = asyncio.get_running_loop().create_task(self._probe())
        done, _ = await asyncio.wait([task], timeout=self._runtime.timeout)
        if not done or task.cancelled():
            # To open a database may take longer than to ask it; that goes on.
            return Readiness(ok=False, writable=False, why="The session database does not answer in time.")
        return task.result()

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _probe(self) -> Readiness:
        answer = self._answer = await self._look()
        self._answered_at = time.monotonic()
        return answer

    async def _look(self) -> Readiness:
        runtime = self._runtime
        began_at = time.monotonic()
        try:
            await runtime.load([token.mint(runtime.now()).sid])
        except StoreUnavailable as error:
            if not error.partial:
                refused = error.retry_after is not None
                why = "is away, and is asked again shortly" if refused else "cannot be read"
                return Readiness(ok=False, writable=False, why=f"The session database {why}; see the log.")
        except StoreError:
            return Readiness(ok=False, writable=False, why="The session database cannot be read; see the log.")
        latency = time.monotonic() - began_at
        if runtime.write_circuit.is_open:
            return Readiness(True, False, "The session database cannot be written; see the log.", latency)
        return Readiness(True, latency=latency)
