"""Who listens to a feed in tests: notes everything, and checks what it is promised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest

from sessiondb.core.errors import StoreUnavailable
from sessiondb.core.token import Sid
from sessiondb.stores.feed import Feed

PATIENCE = 20.0


class Ears:
    """What a feed has told, in order: sids, ``"*"`` for everything."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.alive_since: list[float] = []
        self._news = asyncio.Event()

    def changed(self, sids: Iterable[Sid]) -> None:
        self.told += sids
        self._news.set()

    def everything_changed(self) -> None:
        self.told.append("*")
        self._news.set()

    def alive(self, since: float) -> None:
        self.alive_since.append(since)
        self._news.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def proof(self) -> None:
        """Whatever was answered before this was called has been told."""
        now = asyncio.get_running_loop().time()
        await self.until(lambda: bool(self.alive_since) and self.alive_since[-1] >= now)

    def take(self) -> list[str]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return told


@asynccontextmanager
async def listening(feed: Feed | None, ears: Ears, every: float = 5.0) -> AsyncIterator[asyncio.Task[None]]:
    """``ears`` listen from the first ``alive`` on; the end of it must be clean."""
    assert feed is not None
    before = len(ears.alive_since)
    task = asyncio.create_task(feed.listen(ears, every))
    began = asyncio.create_task(ears.until(lambda: len(ears.alive_since) > before))
    await asyncio.wait([task, began], return_when=asyncio.FIRST_COMPLETED)
    began.cancel()
    if task.done():
        task.result()
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


class StrictEars(Ears):
    """Holds the feed to its promise: each change that was sent after an ``alive`` has been told before an ``alive``
    that is for later than its answer.

    ``missed`` are those that were not; ``proven``: how many were; ``periods``: how often it began anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missed: list[Sid] = []
        self.proven = 0
        self.periods = 0
        self._open: dict[Sid, float] = {}  # by sid, when its change was answered; it has not been told
        self._is_live = False

    @property
    def is_live(self) -> bool:
        """Whether what is sent now must be told."""
        return self._is_live

    def lost(self) -> None:
        """The feed has ended: nothing that was sent before the next ``alive`` is promised."""
        self._is_live = False
        self._open.clear()

    def answered(self, sid: Sid, period: int) -> None:
        """The one change of ``sid``, which was sent in that period (while it was live), has been answered."""
        if self._is_live and period == self.periods:
            self._open[sid] = asyncio.get_running_loop().time()

    def alive(self, since: float) -> None:
        if not self._is_live:
            self._is_live = True
            self.periods += 1
            self.told.clear()
        heard = set(self.told)
        for sid, at in list(self._open.items()):
            if sid in heard or "*" in heard:
                self.proven += 1
                del self._open[sid]
            elif at < since:
                self.missed.append(sid)
                del self._open[sid]
        super().alive(since)

    async def keep_listening(self, feed: Feed, every: float) -> None:
        """Listen again whenever it is lost."""
        while True:
            try:
                await feed.listen(self, every)
            except StoreUnavailable:
                self.lost()
            await asyncio.sleep(0.01)
