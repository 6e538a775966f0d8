"""Work that an event loop does now and then: each piece again after a pause, counted from its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sessiondb.core.errors import StoreError

Work = Callable[[], Awaitable[object]]


class Timers:
    """The pieces, by name. ``failed`` is told of a ``StoreError``; the next time comes all the same."""

    def __init__(self, failed: Callable[[StoreError], None]) -> None:
        self._failed = failed
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def names(self) -> frozenset[str]:
        """What waits for its time."""
        return frozenset(self._timers)

    def every(self, name: str, pause: Callable[[], float], work: Work) -> None:
        """Do ``work`` after ``pause()`` seconds, and so on until ``stop``."""
        self._stopped = False
        self._timers[name] = asyncio.get_running_loop().call_later(pause(), self._start, name, pause, work)

    async def stop(self, timeout: float) -> None:
        """End all of it. What is at work is cancelled, and waited for ``timeout`` seconds at most."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    def _start(self, name: str, pause: Callable[[], float], work: Work) -> None:
        task = asyncio.get_running_loop().create_task(self._run(name, pause, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, name: str, pause: Callable[[], float], work: Work) -> None:
        try:
            await work()
        except StoreError as error:
            self._failed(error)
        finally:
            if not self._stopped:
                self.every(name, pause, work)
