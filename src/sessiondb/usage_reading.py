"""``db.usage``: what all event loops have published, as one time series, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sessiondb.core.errors import StoreError
from sessiondb.core.policy import DAY, HOUR
from sessiondb.core.usage import DAYS, HOURS, Tally, name_of, standing
from sessiondb.core.usage_series import Usage, UsagePoint, bounds, check_by, periods, point
from sessiondb.stores.base import Sheet, Store

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

CHUNK_BYTES = 128 * 1024
LONGEST_CHUNK = 64 * 24
_AT_ONCE = 8


async def read(runtime: Runtime, since: int | None, until: int | None, by: str) -> Usage:
    """See ``SessionDB.usage``."""
    by = check_by(by)
    await runtime.ready()
    since, until = bounds(by, since, until, runtime.now())
    await runtime.background.flush()
    async with runtime.using_store() as store:
        try:
            await runtime.usage.publish(store)
        except StoreError:
            pass  # a database that cannot be written can still be read
        stats = await store.stats()
        all_periods, total, tally = periods(by, since, until), Tally(), Tally()
        start, end = next(all_periods)
        points: list[UsagePoint] = []
        merged: set[int] = set()

        def close() -> None:
            # Of a day whose hours are merged, nobody knows any more what was in which.
            if by != "hour" or start // DAY not in merged:
                total.merge(tally)
                points.append(point(start, end, tally))

        # From the beginning of the day: that is where those stand whose hours are merged.
        async for part in _parts(store, since - since % DAY, until, runtime.counters):
            if by == "hour" and part.is_day:
                merged.add(part.begin // DAY)
            elif part.begin >= since:
                while part.begin >= end:
                    close()
                    tally = Tally()
                    start, end = next(all_periods)
                tally.merge(part.tally)
        close()
        tally = Tally()
        for start, end in all_periods:  # noqa: B007  close() takes them
            close()
    first = points[0].start if points else until
    return Usage(
        by=by,
        since=first,
        until=until,
        live_sessions=stats.live,
        live_users=stats.users,
        total=point(first, until, total),
        points=points,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    begin: int
    is_day: bool
    tally: Tally


async def _parts(store: Store, since: int, until: int, counters: Counter[str]) -> AsyncIterator[_Part]:
    """All tallies that count, by time; a day before its hours. ``since``: the beginning of a day."""
    async for chunk in chunks(store, since // HOUR, -(-until // HOUR)):
        found = await decoded([*chunk.days, *chunk.hours], counters)
        parts = []
        for name in standing({name: tally for name, (_, tally) in found.items()}):
            sheet, tally = found[name]
            is_day = sheet.kind == DAYS
            begin = sheet.bucket * (DAY if is_day else HOUR)
            # A chunk of some hours has the whole day beside it, which has come with its first hour.
            if begin >= chunk.first * HOUR:
                parts.append(_Part(begin, is_day, tally))
        for part in sorted(parts, key=lambda part: (part.begin, not part.is_day)):
            yield part
            await asyncio.sleep(0)  # adding one up takes a millisecond or two


@dataclass(frozen=True, slots=True)
class Chunk:
    """The sheets of the hours from ``first`` to before ``end``, and those of the days in which these are."""

    first: int
    end: int
    hours: Sequence[Sheet]
    days: Sequence[Sheet]


async def chunks(store: Store, first: int, end: int, least: int = 1) -> AsyncIterator[Chunk]:
    """All sheets from the hour ``first`` to before ``end``, about 128 KB at a time; no hour is in two chunks.

    Each has ``least`` hours or more. One of a day or more ends with a day.
    """
    length = least
    while first < end:
        stop = first + length
        if length >= 24:
            stop -= stop % 24
        stop = min(stop, end)
        # In this order: hours are there until they are part of a day.
        hours = await store.sheets(HOURS, first, stop)
        days = await store.sheets(DAYS, first // 24, -(-stop // 24))
        yield Chunk(first, stop, hours, days)
        size = sum(len(sheet.data) for sheet in hours) + sum(len(sheet.data) for sheet in days)
        if size < CHUNK_BYTES // 2:
            length = min(length * 2, LONGEST_CHUNK)
        elif size > CHUNK_BYTES:
            length = max(length // 2, least)
        first = stop


async def decoded(sheets: Sequence[Sheet], counters: Counter[str]) -> dict[bytes, tuple[Sheet, Tally]]:
    """The tallies in ``sheets`` by name; others can run meanwhile. What cannot be read is counted, and left out."""
    found: dict[bytes, tuple[Sheet, Tally]] = {}
    for number, sheet in enumerate(sheets, 1):
        try:
            found[name_of(sheet.kind, sheet.bucket, sheet.writer)] = sheet, Tally.decode(sheet.data)
        except ValueError:
            counters["unreadable_usage"] += 1
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return found
