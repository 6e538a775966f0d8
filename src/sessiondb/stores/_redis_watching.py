"""Histories of logins, counters and sheets: each is a key with an expiry, so nobody has to look after them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sessiondb.stores import _redis_watching_scripts as scripts
from sessiondb.stores._redis_connection import Argument
from sessiondb.stores._redis_nodes import Keyed, call
from sessiondb.stores.base import HISTORY_ENTRIES, Counter, Profile, Sheet

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

AT_ONCE = 500  # counters of one script, which nobody else's command interrupts
_SHEETS = 32  # of one call: they may have 64 kB each
_TIME_BYTES = 8


async def profile(store: RedisStore, user_id: str | None, counters: Sequence[Counter]) -> Profile:
    """See ``Store.profile``; one burst."""
    commands: list[Keyed] = []
    if user_id is not None:
        key = store.keys.logins(user_id)
        commands.append((key, ("LRANGE", key, 0, HISTORY_ENTRIES - 1)))
    commands += [(key := store.keys.counters(one.bucket), ("HGET", key, one.key)) for one in counters]
    replies = await store.run(commands)
    history = b"" if user_id is None else b"".join(replies.pop(0))
    return Profile(history, [int(count or 0) for count in replies])


async def record_logins(store: RedisStore, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
    """See ``Store.record_logins``."""
    by_user: dict[str, list[bytes]] = {}
    for user_id, entry in logins:
        by_user.setdefault(user_id, []).append(entry)
    await store.run(
        [
            call(scripts.RECORD, [store.keys.logins(user_id)], _milliseconds(expires_at), *entries)
            for user_id, entries in by_user.items()
        ],
        "unknown",
    )


async def drop_login(store: RedisStore, user_id: str, entry: bytes) -> bool:
    """See ``Store.drop_login``."""
    key = store.keys.logins(user_id)
    [count] = await store.run([(key, ("LREM", key, 1, entry))], "unknown")
    return bool(count)


async def count(store: RedisStore, bucket: str, adds: Mapping[bytes, int], most: int, expires_at: int) -> None:
    """See ``Store.count``."""
    key = store.keys.counters(bucket)
    pairs = list(adds.items())
    calls = [
        call(scripts.COUNT, [key], _milliseconds(expires_at), most, *_flat(pairs[start : start + AT_ONCE]))
        for start in range(0, len(pairs), AT_ONCE)
    ]
    await store.run(calls, "unknown")


def _flat(pairs: Iterable[tuple[bytes, int]]) -> list[Argument]:
    return [part for pair in pairs for part in pair]


# -- sheets -------------------------------------------------------------------------------------------------


async def publish(store: RedisStore, sheets: Sequence[Sheet]) -> None:
    """See ``Store.publish``."""
    for kind, own in _by_kind(sheets).items():
        for start in range(0, len(own), _SHEETS):
            part = own[start : start + _SHEETS]
            arguments: list[Argument] = []
            for sheet in part:
                kept = sheet.expires_at.to_bytes(_TIME_BYTES, "big", signed=True) + sheet.data
                arguments += (_place(sheet), sheet.bucket, _milliseconds(sheet.expires_at), kept)
            await store.run([call(scripts.PUBLISH, _keys(store, kind, part), *arguments)], "unknown")


async def sheets(store: RedisStore, kind: str, since: int, until: int) -> list[Sheet]:
    """See ``Store.sheets``."""
    listed = store.keys.sheets(kind, "buckets")
    [places] = await store.run([(listed, ("ZRANGEBYSCORE", listed, since, f"({until}"))])
    found: list[Sheet] = []
    for start in range(0, len(places), _SHEETS):
        part = places[start : start + _SHEETS]
        keys = [store.keys.sheets(kind, place.decode()) for place in part]
        [values] = await store.run([(keys[0], ("MGET", *keys))])
        for place, kept in zip(part, values, strict=True):
            if kept is not None:
                bucket, _, writer = place.decode().partition(":")
                expires_at = int.from_bytes(kept[:_TIME_BYTES], "big", signed=True)
                found.append(Sheet(kind, int(bucket), writer, kept[_TIME_BYTES:], expires_at))
    return sorted(found, key=lambda sheet: (sheet.bucket, sheet.writer))


async def withdraw(store: RedisStore, sheets: Sequence[Sheet]) -> None:
    """See ``Store.withdraw``."""
    calls = [
        call(scripts.WITHDRAW, _keys(store, kind, own), *map(_place, own)) for kind, own in _by_kind(sheets).items()
    ]
    await store.run(calls, "unknown")


def _by_kind(sheets: Sequence[Sheet]) -> dict[str, list[Sheet]]:
    by_kind: dict[str, list[Sheet]] = {}
    for sheet in sheets:
        by_kind.setdefault(sheet.kind, []).append(sheet)
    return by_kind


def _keys(store: RedisStore, kind: str, sheets: Sequence[Sheet]) -> list[bytes]:
    return [
        store.keys.sheets(kind, "buckets"),
        store.keys.sheets(kind, "ends"),
        *(store.keys.sheets(kind, _place(sheet)) for sheet in sheets),
    ]


def _place(sheet: Sheet) -> str:
    return f"{sheet.bucket}:{sheet.writer}"


def _milliseconds(at: int) -> int:
    """``at`` as keys expire: not before."""
    return -(-at // 1000)
