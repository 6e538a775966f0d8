"""A store that counts its calls: to keep a round-trip budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sessiondb.stores.base import Store
from sessiondb.testing.wrapper import StoreWrapper

Answer = TypeVar("Answer")

_NOT_TRAFFIC = frozenset({"open", "close", "clock"})


class CountingStore(StoreWrapper):
    """``store``, with ``calls`` by method. Opening, closing and reading the clock are no traffic of a request."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.calls: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All calls but ``open``, ``close`` and ``clock``."""
        return sum(count for method, count in self.calls.items() if method not in _NOT_TRAFFIC)

    def reset(self) -> None:
        """Count from nothing again."""
        self.calls.clear()

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Count, then call."""
        self.calls[method] += 1
        return await call()
