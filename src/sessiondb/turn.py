"""Within a process, those who compare and set the same session take turns."""

from __future__ import annotations

import asyncio

from sessiondb.core.record import Record


class Turn:
    """Whose turn it is to compare-and-set one session in this process, and the newest record seen by that."""

    __slots__ = ("latest", "lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.latest: Record | None = None
