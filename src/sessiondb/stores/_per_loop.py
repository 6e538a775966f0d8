"""What a store holds per event loop: connections belong to the loop that made them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from sessiondb.core.errors import StoreUnavailable

H = TypeVar("H")


class PerLoop(Generic[H]):
    """One ``H`` for each event loop, from its first ``open`` to its last ``close``."""

    def __init__(self, store: str, make: Callable[[], H]) -> None:
        self._store = store
        self._make = make
        self._held: dict[asyncio.AbstractEventLoop, tuple[int, H]] = {}

    def open(self) -> H:
        """This loop's, made if there is none, with one user more."""
        loop = asyncio.get_running_loop()
        # Connections hold their loop, so nobody else lets go of what was left open in one that has ended.
        for ended in [other for other in list(self._held) if other.is_closed()]:
            self._held.pop(ended, None)
        count, held = self._held.get(loop) or (0, self._make())
        self._held[loop] = (count + 1, held)
        return held

    def close(self) -> H | None:
        """One user less: this loop's, if that was the last one, to be closed by the caller."""
        loop = asyncio.get_running_loop()
        count, held = self._held.get(loop) or (0, None)
        if held is None:
            return None
        if count > 1:
            self._held[loop] = (count - 1, held)
            return None
        del self._held[loop]
        return held

    def current(self) -> H:
        """This loop's. Raises ``StoreUnavailable`` if the store is not open in it."""
        entry = self._held.get(asyncio.get_running_loop())
        if entry is None:
            raise StoreUnavailable(
                f"The {self._store} store is not open in this event loop; use 'async with SessionDB(...)' or await "
                "open()."
            )
        return entry[1]
