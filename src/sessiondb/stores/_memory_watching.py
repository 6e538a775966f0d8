"""Histories of logins, counters and sheets in memory. Not safe for threads by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Profile, Sheet


class Watched:
    """What one database keeps beside sessions and events, each thing with the time after which it goes."""

    def __init__(self) -> None:
        self._histories: dict[str, tuple[bytes, int]] = {}
        self._buckets: dict[str, tuple[dict[bytes, int], int]] = {}
        self._sheets: dict[tuple[str, int, str], Sheet] = {}

    def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        history = self._histories.get(user_id, (b"", 0))[0] if user_id is not None else b""
        return Profile(history, [self._buckets.get(one.bucket, ({}, 0))[0].get(one.key, 0) for one in counters])

    def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``."""
        for user_id, entry in logins:
            history = entry + self._histories.get(user_id, (b"", 0))[0]
            self._histories[user_id] = history[: HISTORY_ENTRIES * HISTORY_ENTRY_BYTES], expires_at

    def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        history, expires_at = self._histories.get(user_id, (b"", 0))
        entries = [history[at : at + HISTORY_ENTRY_BYTES] for at in range(0, len(history), HISTORY_ENTRY_BYTES)]
        if entry not in entries:
            return False
        entries.remove(entry)
        self._histories[user_id] = b"".join(entries), expires_at
        return True

    def forget(self, user_id: str) -> None:
        """The history of ``user_id`` goes."""
        self._histories.pop(user_id, None)

    def count(self, bucket: str, adds: Mapping[bytes, int], most: int, expires_at: int) -> None:
        """See ``Store.count``."""
        counts = self._buckets.get(bucket, ({}, 0))[0]
        for key, add in adds.items():
            if key in counts or len(counts) < most:
                counts[key] = counts.get(key, 0) + add
        self._buckets[bucket] = counts, expires_at

    def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``."""
        for sheet in sheets:
            self._sheets[sheet.kind, sheet.bucket, sheet.writer] = sheet

    def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        found = (sheet for sheet in self._sheets.values() if sheet.kind == kind and since <= sheet.bucket < until)
        return sorted(found, key=lambda sheet: (sheet.bucket, sheet.writer))

    def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``."""
        for sheet in sheets:
            self._sheets.pop((sheet.kind, sheet.bucket, sheet.writer), None)

    def expire(self, now: int, limit: int) -> int:
        """See ``Store.expire``."""
        users = [user for user, (_, expires_at) in self._histories.items() if expires_at <= now][:limit]
        buckets = [bucket for bucket, (_, expires_at) in self._buckets.items() if expires_at <= now][:limit]
        sheets = [place for place, sheet in self._sheets.items() if sheet.expires_at <= now][:limit]
        for user in users:
            del self._histories[user]
        for bucket in buckets:
            del self._buckets[bucket]
        for place in sheets:
            del self._sheets[place]
        return len(users) + len(buckets) + len(sheets)
