"""What many event loops have published about an hour becomes one sheet, and later the hours of a day become one.

One worker at a time does it; should two, nothing is counted twice (see ``sessiondb.core.usage``). What was merged is
published first and its parts are deleted later, so that there is no moment at which a reader misses anything.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from sessiondb.core.errors import StoreError
from sessiondb.core.hyperloglog import hash_of
from sessiondb.core.policy import DAY, HOUR, SECOND
from sessiondb.core.usage import DAYS, HOURS, merged, standing
from sessiondb.stores.base import Sheet, Store
from sessiondb.timers import Timers
from sessiondb.usage import PUBLISHED_HOURS
from sessiondb.usage_reading import chunks, decoded

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

EVERY = 600.0
NOTE = "usage_merging"
# An hour is merged so many hours after its end: nobody publishes it any more (``PUBLISHED_HOURS``).
FINAL_HOURS = 6
# For so long what was merged and its parts are both there, for whoever has begun to read before.
SETTLE = 300 * SECOND
MOST_PARTS = 256
# For so long hours are told apart; no number is kept for longer; and before that, nothing is left to be merged.
HOURS_KEPT = 2 * DAY
LONGEST_KEPT = 3660 * DAY
LONGEST_UNMERGED = 400 * DAY
# Hours and days of one turn, so that nobody waits for it long.
MOST_LOOKED_AT = 100
# Kind of a sheet that says whom to forget: its bucket is the hour, its writer the hash.
GONE = "usage_gone"


class _Progress(msgspec.Struct):
    """When the last turn was, and which hour and which day are the first that are not merged yet."""

    at: int = 0
    hours: int = 0
    days: int = 0


class Merging:
    """The part that one event loop takes in it: every ten minutes, unless another worker has just done it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._last_turn = 0  # as far as is known here: somebody has had it then

    def schedule(self, timers: Timers) -> None:
        """Merge now and then."""
        if self._runtime.usage.is_on:
            timers.every("usage_merging", lambda: EVERY * (0.75 + random.random() / 2), self.merge_in_turn)  # noqa: S311

    async def merge_after_sweep(self) -> None:
        """``merge_in_turn``, whose failure undoes no sweep: the next one goes on."""
        try:
            await self.merge_in_turn()
        except StoreError:
            pass

    async def merge_in_turn(self) -> None:
        """Count what lives, and merge what is due, unless somebody has done so in the last five minutes.

        Raises ``StoreError``.
        """
        runtime = self._runtime
        if not runtime.usage.is_on:
            return
        await runtime.ready()
        now = runtime.now()
        if _is_recent(self._last_turn, now):
            return
        async with runtime.using_store() as store:
            progress = await _progress(store)
            if _is_recent(progress.at, now):
                self._last_turn = progress.at
                return
            self._last_turn = progress.at = now
            await _note(store, progress)
            oldest = max(0, now - LONGEST_UNMERGED) // HOUR
            progress.hours = await self._walk(store, HOURS, max(progress.hours, oldest), now // HOUR - FINAL_HOURS)
            whole_days = min((now - HOURS_KEPT) // DAY, progress.hours // 24)
            progress.days = await self._walk(store, DAYS, max(progress.days, oldest // 24), whole_days)
            await _note(store, progress)
            runtime.usage.looked(await store.stats())

    async def _walk(self, store: Store, kind: str, first: int, end: int) -> int:
        """Merge from the hour or day ``first`` to before ``end``; returns the first of which something is left."""
        each = 1 if kind == HOURS else 24
        gone = await _gone(store, first) if kind == HOURS else {}
        reached, settled, left = first, True, MOST_LOOKED_AT
        async for chunk in chunks(store, first * each, end * each, each):
            sheets = chunk.hours if kind == HOURS else [*chunk.days, *chunk.hours]
            for bucket, some in _by_bucket(sheets, kind):
                if left == 0:
                    return reached
                left -= 1
                settled = await self._settle(store, kind, bucket, some, gone.get(bucket, ())) and settled
                if settled:
                    reached = bucket + 1
            if settled:
                reached = chunk.end // each
        return reached

    async def _settle(
        self, store: Store, kind: str, bucket: int, sheets: Sequence[Sheet], gone: Collection[int]
    ) -> bool:
        """Take the next step towards one sheet of ``kind`` for ``bucket``; whether there was none left to take."""
        if len(sheets) == 1 and sheets[0].kind == kind and not gone:
            return True
        now = self._runtime.now()
        found = await decoded(sheets, self._runtime.counters)
        tallies = {name: tally for name, (_, tally) in found.items()}
        rewritten = [name for name, tally in tallies.items() if sum(tally.forget(user) for user in gone)]
        counting = standing(tallies)
        covered = list(tallies.keys() - set(counting))
        if covered and max(tally.merged_at for tally in tallies.values()) <= now - SETTLE:
            await store.withdraw([found[name][0] for name in covered])
            covered = []
        if len(counting) > 1 or any(found[name][0].kind != kind for name in counting):
            writer, total = merged(tallies, counting[:MOST_PARTS], covered, now)
            # It goes when the last of its parts would have gone.
            expires_at = max(found[name][0].expires_at for name in counting)
            await store.publish([Sheet(kind, bucket, writer, total.encode(), expires_at)])
            return False
        if rewritten:
            sheets = [msgspec.structs.replace(found[name][0], data=tallies[name].encode()) for name in counting]
            await store.publish(sheets)
        return not covered


def _is_recent(turn: int, now: int) -> bool:
    return 0 <= now - turn < EVERY * SECOND / 2


def _by_bucket(sheets: Sequence[Sheet], kind: str) -> Iterator[tuple[int, list[Sheet]]]:
    """The sheets of each hour, or of each day and its hours, in order."""
    found: defaultdict[int, list[Sheet]] = defaultdict(list)
    for sheet in sheets:
        found[sheet.bucket // 24 if kind == DAYS and sheet.kind == HOURS else sheet.bucket].append(sheet)
    yield from sorted(found.items())


async def _progress(store: Store) -> _Progress:
    try:
        return msgspec.json.decode(await store.recall(NOTE) or "{}", type=_Progress)
    except msgspec.MsgspecError:
        return _Progress()


async def _note(store: Store, progress: _Progress) -> None:
    await store.remember(NOTE, msgspec.json.encode(progress).decode())


# -- forgetting -----------------------------------------------------------------------------------------------


async def forget(runtime: Runtime, user_id: str) -> None:
    """Take a user out of all that names them, if only by a hash: counts of few users, and samples.

    What other workers still count is seen to when it is merged, within some hours. Raises ``StoreError``.
    """
    user, now = hash_of(user_id), runtime.now()
    final = now // HOUR - PUBLISHED_HOURS
    runtime.usage.forget(user)
    async with runtime.using_store() as store:
        # Nobody should merge meanwhile what is being rewritten.
        progress = await _progress(store)
        progress.at = now
        await _note(store, progress)
        await store.publish([Sheet(GONE, now // HOUR, f"{user:016x}", b"", now + 2 * DAY)])
        await runtime.usage.publish(store)
        async for chunk in chunks(store, max(0, now - LONGEST_KEPT) // HOUR, final):
            found = await decoded([*chunk.days, *chunk.hours], runtime.counters)
            changed = [
                msgspec.structs.replace(sheet, data=tally.encode())
                for sheet, tally in found.values()
                if tally.forget(user)
            ]
            if changed:
                await store.publish(changed)


async def _gone(store: Store, first: int) -> Mapping[int, Collection[int]]:
    """Whom to take out of which hours, from ``first`` on: those that could still be published when it was asked."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    for sheet in await store.sheets(GONE, first, 1 << 40):
        for hour in range(sheet.bucket - PUBLISHED_HOURS, sheet.bucket + 1):
            found[hour].add(int(sheet.writer, 16))
    return found
