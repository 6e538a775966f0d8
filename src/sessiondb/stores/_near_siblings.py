"""The near caches of one process on one database: each event loop has its own, and hears what the others write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Protocol

from sessiondb.core.token import Sid


class Sibling(Protocol):
    """A near cache."""

    def changed(self, sids: Sequence[Sid]) -> None:
        """Forget these."""
        ...

    def everything_changed(self) -> None:
        """Forget all."""
        ...


class Siblings:
    """Who is open. Any thread may call.

    What is told reaches another loop with its next turn, which is before any request that its server has not yet read.
    """

    def __init__(self) -> None:
        self._members: list[tuple[asyncio.AbstractEventLoop, Sibling]] = []
        self._lock = threading.Lock()

    def join(self, cache: Sibling) -> None:
        """From now on ``cache``, which is of the running loop, is told."""
        with self._lock:
            kept = [one for one in self._members if one[1] is not cache and not one[0].is_closed()]
            self._members = [*kept, (asyncio.get_running_loop(), cache)]

    def leave(self, cache: Sibling) -> None:
        """No more."""
        with self._lock:
            self._members = [one for one in self._members if one[1] is not cache]

    def tell(self, sender: Sibling, sids: Sequence[Sid] | None) -> None:
        """``sender`` has written to ``sids``; ``None``: to whomever."""
        members = self._members
        if len(members) < 2:
            return
        for loop, cache in members:
            if cache is sender:
                continue
            try:
                if sids is None:
                    loop.call_soon_threadsafe(cache.everything_changed)
                else:
                    loop.call_soon_threadsafe(cache.changed, sids)
            except RuntimeError:
                continue  # that loop was closed, and serves nobody
