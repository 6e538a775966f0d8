"""What a near cache serves is never older than the bound, nor than its own writes; bugs planted in it are found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from near_model import judged

from sessiondb.core.change import Change
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores._near_entries import Entries, Flight
from sessiondb.stores.near_cache import NearCacheStore

SEEDS = range(30)


@pytest.mark.parametrize("feed", [False, True], ids=["by age", "by a feed"])
async def test_nothing_is_served_that_is_too_old(feed: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += await judged(seed, NearCacheStore, feed=feed)
    assert seen["served"] > 500
    assert seen["near_discarded"] > 50
    assert seen["near_evicted"] > 50
    assert bool(seen["near_feed_lost"]) == feed


class Planted(NearCacheStore):
    """With other entries."""

    entries_class: type[Entries] = Entries

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        entries = self._entries
        self._entries = self.entries_class(entries._max_entries, entries._max_bytes, entries._counters)
        self._held = self._entries.held


def planted(entries: type[Entries]) -> type[Planted]:
    return type(entries.__name__, (Planted,), {"entries_class": entries})


class FillsAfterAnInvalidation(Entries):
    """What comes back after its session was dropped is kept."""

    def drop(self, sid: Sid) -> None:
        if (entry := self.held.pop(sid, None)) is not None:
            self._bytes -= entry.size


class FillsAfterALoss(Entries):
    """What was asked for before everything was forgotten is kept."""

    def clear(self) -> None:
        self.held.clear()
        self._bytes = 0


class FillsDuringAWrite(Entries):
    """Loads that are sent while a write is under way count."""

    def begin_write(self, sids: Iterable[Sid]) -> None:
        for sid in sids:
            self.drop(sid)

    def end_write(self, sids: Iterable[Sid]) -> None:
        return


class KeepsWhatItWrites(Entries):
    """Own writes do not count."""

    def begin_write(self, sids: Iterable[Sid]) -> None:
        return

    def end_write(self, sids: Iterable[Sid]) -> None:
        return


class KeepsTombstones(Entries):
    """What a load shows to be over is kept."""

    def land(self, flight: Flight, sids: Sequence[Sid], records: Sequence[Record | None], lasts: float) -> None:
        self._flights.remove(flight)
        for sid, record in zip(sids, records, strict=True):
            if record is not None and sid in flight.wanted:
                self._keep(sid, record, flight.sent_at, flight.sent_at + lasts)


class KeepsWhatItEnded(NearCacheStore):
    """A revoke by this process is noticed when the time is over."""

    def _drop(self, sids: Sequence[Sid]) -> None:
        return


class CountsFromTheAnswer(NearCacheStore):
    """A record is as old as its answer."""

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        flight = self._entries.begin(sids, 0.0)
        try:
            records = await self._store.load(sids)
        except BaseException:
            self._entries.lost(flight)
            raise
        flight.sent_at = self.monotonic()
        if self._keeps:
            self._entries.land(flight, sids, records, self._lasts)
        else:
            self._entries.lost(flight)
        return records


class ServesForEver(NearCacheStore):
    """Nothing is too old."""

    def feed_refused(self) -> bool:
        changed = super().feed_refused()
        self._lasts = math.inf
        return changed


class IgnoresTheLoss(NearCacheStore):
    """A feed that was lost is none that matters."""

    def feed_lost(self) -> bool:
        return False

    def alive(self, since: float) -> None:
        super().alive(since)
        self._proven_until = math.inf


class TrustsSilence(NearCacheStore):
    """A feed that was alive once is alive."""

    def alive(self, since: float) -> None:
        super().alive(since)
        self._proven_until = math.inf


class ProvesWithTheAnswer(NearCacheStore):
    """The proof is as old as its answer."""

    def alive(self, since: float) -> None:
        super().alive(self.monotonic())


class KeepsFromBefore(NearCacheStore):
    """A feed that is back proves what was held before."""

    def feed_lost(self) -> bool:
        self._proven_until = -math.inf
        return False

    def _too_late(self, sid: Sid, now: float) -> None:
        return


class DoubtsNothing(NearCacheStore):
    """What a call that failed may have ended is kept."""

    async def apply(self, changes: Sequence[Change], events: Any = ()) -> Any:
        return await self._store.apply(changes, events)


BY_AGE: list[Callable[..., NearCacheStore]] = [
    planted(FillsAfterAnInvalidation),
    planted(FillsDuringAWrite),
    planted(KeepsWhatItWrites),
    planted(KeepsTombstones),
    KeepsWhatItEnded,
    CountsFromTheAnswer,
    ServesForEver,
    DoubtsNothing,
]
BY_FEED: list[Callable[..., NearCacheStore]] = [
    planted(FillsAfterAnInvalidation),
    planted(FillsAfterALoss),
    planted(KeepsWhatItWrites),
    IgnoresTheLoss,
    TrustsSilence,
    ProvesWithTheAnswer,
    KeepsFromBefore,
]
PLANTED = [(False, one) for one in BY_AGE] + [(True, one) for one in BY_FEED]


@pytest.mark.parametrize(
    ("feed", "bug"), PLANTED, ids=[f"{'feed' if feed else 'age'}-{bug.__name__}" for feed, bug in PLANTED]
)
async def test_a_planted_bug_is_found(feed: bool, bug: Callable[..., NearCacheStore]) -> None:
    with pytest.raises(AssertionError, match="served"):
        for seed in range(200):
            await judged(seed, bug, feed=feed)
