"""Stores that miscount what logins are judged by and what is told of the app's use: law 9."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet, Store
from sessiondb.testing import StoreWrapper
from sessiondb.testing.builders import DAY


class KeepsTheOldestLogins(StoreWrapper):
    """Ten are enough: what comes after them is not written down."""

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        for user_id, entry in logins:
            history = (await super().profile(user_id, [])).history
            if len(history) < HISTORY_ENTRIES * HISTORY_ENTRY_BYTES:
                await super().record_logins([(user_id, entry)], expires_at)


class OneLoginAtATime(StoreWrapper):
    """Of logins at the same time the first is written, and the others are lost."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._at_work: set[str] = set()

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        users = {user_id for user_id, _ in logins}
        if users & self._at_work:
            return
        self._at_work |= users
        try:
            await asyncio.sleep(0)
            await super().record_logins(logins, expires_at)
        finally:
            self._at_work -= users


class TakesNothingBack(StoreWrapper):
    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        return entry in (await super().profile(user_id, [])).history


class FoldsKeys(StoreWrapper):
    """Compares the keys of counters as text, in whatever case."""

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        folded: dict[bytes, int] = {}
        for key, add in adds.items():
            folded[key.lower()] = folded.get(key.lower(), 0) + add
        await super().count(bucket, folded, most=most, expires_at=expires_at)

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        return await super().profile(user_id, [Counter(one.bucket, one.key.lower()) for one in counters])


class BucketsWithoutABottom(StoreWrapper):
    """An attacker fills the database with one counter for each address."""

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        await super().count(bucket, adds, most=10**6, expires_at=expires_at)


class OneWriter(StoreWrapper):
    """Of all who publish the same, the last one wins."""

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        await super().publish([replace(sheet, writer="x") for sheet in sheets])


class KeepsForEver(StoreWrapper):
    """Expires nothing within ten years."""

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        await super().record_logins(logins, expires_at + 3650 * DAY)

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        await super().count(bucket, adds, most=most, expires_at=expires_at + 3650 * DAY)
