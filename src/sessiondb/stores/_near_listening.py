"""What a near cache does for its feed: listens, and listens again after it was lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from sessiondb.core.errors import ConfigurationError, StoreError, StoreUnavailable
from sessiondb.stores.feed import Feed, Listener

LONGEST_PAUSE = 5.0
ASK_AGAIN = 60.0


class Cache(Listener, Protocol):
    """Who listens."""

    def feed_lost(self) -> bool:
        """Keep nothing until it is ``alive`` again; whether it was."""
        ...

    def feed_refused(self) -> bool:
        """Go by age until it is ``alive``; false: it does already."""
        ...


class Outages(Protocol):
    """Who logs that the feed is away, once per outage."""

    lasting: bool

    def failed(self, error: StoreError) -> None:
        """It is away."""
        ...

    def over(self) -> None:
        """It is back."""
        ...


class Unlogged:
    """Nobody."""

    lasting = False

    def failed(self, error: StoreError) -> None:
        """Nobody wants to know."""

    def over(self) -> None:
        """Nor that."""


class Listening:
    """``cache`` hears ``feed`` from ``start`` to ``stop``; ``every``: see ``Feed.listen``.

    ``on_refusal`` is told once why the database has no feed for us. It is asked again after a minute.
    """

    def __init__(
        self, feed: Feed, cache: Cache, every: float, outages: Outages, on_refusal: Callable[[ConfigurationError], None]
    ) -> None:
        self._feed = feed
        self._cache = cache
        self._every = every
        self._outages = outages
        self._on_refusal = on_refusal
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen from now on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen())

    async def stop(self) -> None:
        """Listen no more; returns when the feed is closed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def is_heard(self) -> None:
        """It is alive."""
        if self._outages.lasting:
            self._outages.over()

    async def _listen(self) -> None:
        pause = first = min(0.1, self._every)
        while True:
            try:
                await self._feed.listen(self._cache, self._every)
                error: StoreError = StoreUnavailable("The feed has ended.")
            except ConfigurationError as refusal:
                # The database will not tell, which is no outage. Age bounds what is served just as well.
                if self._cache.feed_refused():
                    self._on_refusal(refusal)
                await asyncio.sleep(ASK_AGAIN)
                continue
            except StoreError as failure:
                error = failure
            except Exception as failure:
                error = StoreUnavailable(f"The feed has failed ({type(failure).__name__}: {failure}).")
            if self._cache.feed_lost():
                pause = first
            self._outages.failed(error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
            pause = min(2 * pause, LONGEST_PAUSE)
