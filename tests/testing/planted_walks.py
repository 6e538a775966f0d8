"""Stores whose walk after a lowered lifetime misses somebody, or that remember nothing: laws 7 and 9."""

from __future__ import annotations

from sessiondb.core.policy import Caps
from sessiondb.testing import StoreWrapper


class WalksOneStep(StoreWrapper):
    """Says that it is at the end after the first step."""

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        await super().lower_checks(caps, after, limit)
        return None


class WalksForTwo(StoreWrapper):
    """Knows the caps of normal and remembered sessions, and no others."""

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        return await super().lower_checks(Caps(caps.normal, caps.remembered), after, limit)


class RemembersTheFirst(StoreWrapper):
    """Keeps what was there."""

    async def remember(self, name: str, text: str) -> None:
        if await self.recall(name) is None:
            await super().remember(name, text)
