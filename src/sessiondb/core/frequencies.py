"""How often each mark is seen in the logins of everybody: what ``scoring`` compares a user's own logins with. Pure.

Each process counts its own, and publishes that as one sheet for a time (``Store.publish``); who scores merges the
sheets of all. Only logins that were accepted are counted, so that nobody makes a value common by failing with it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from struct import Struct, error, unpack_from

from sessiondb.core.decay import HALF_LIFE, UNITS, Fading
from sessiondb.core.features import LEVELS, Marks

MOST = 50_000
SHEET_BYTES = 65_536

# Before there are logins to count: so many, of which each level's values have such shares. What two logins drawn at
# random share in the RBA data set (docs/risk.md), rounded; addresses and networks are guessed.
PRIOR_LOGINS = 200.0
PRIOR_SHARES = (0.0001, 0.001, 0.2, 0.5, 0.015, 0.03, 0.1, 0.5)

_PRIOR = tuple(PRIOR_LOGINS * share for share in PRIOR_SHARES)
_HEAD = Struct("<BqQ")  # version, moment, logins in units
_GROUP = Struct("<II")  # a count in units, and how many marks have it
_VERSION = 1


class Frequencies:
    """Counts of marks at each level, which fade with ``half_life`` (microseconds; 30 days).

    Of each level no more than about ``most`` values are kept; the rare go first, and have then the probability of what
    was never seen. About 100 bytes a value.
    """

    __slots__ = ("_fading", "_logins", "_most", "_tables")

    def __init__(self, *, half_life: int = HALF_LIFE, most: int = MOST) -> None:
        self._fading = Fading(half_life)
        self._most = most
        self._logins = 0.0
        self._tables: list[dict[int, float]] = [{} for _ in LEVELS]

    def logins(self, now: int) -> float:
        """How many were counted, by what they weigh ``now``."""
        return self._logins * self._fading.now(now)

    def values(self) -> list[int]:
        """How many values of each level are known."""
        return [len(table) for table in self._tables]

    def count(self, marks: Marks, now: int) -> None:
        """One login that was accepted."""
        if self._fading.is_far(now):
            self._move(now)
        weight = self._fading.weight(now)
        self._logins += weight
        for table, mark in zip(self._tables, marks, strict=True):
            if mark:
                table[mark] = table.get(mark, 0.0) + weight
                if len(table) > self._most * 1.25:
                    self._prune(table)

    def probabilities(self, marks: Marks, now: int) -> list[float]:
        """How probable each mark is in anybody's login.

        ``(count + prior) / (logins + distinct + prior logins)``, where a count is never less than one: so much is left
        for each value that was not seen (as in Wiefling's implementation of Freeman's smoothing).
        """
        worth = self._fading.now(now)
        logins = self._logins * worth + PRIOR_LOGINS
        return [
            (max(1.0, table.get(mark, 0.0) * worth) + prior) / (logins + len(table))
            for table, mark, prior in zip(self._tables, marks, _PRIOR, strict=True)
        ]

    def merge(self, other: Frequencies) -> None:
        """Add what ``other`` has counted."""
        at = other._fading.at
        if at is None:
            return
        if self._fading.is_far(at):
            self._move(at)
        weight = self._fading.weight(at)
        self._logins += other._logins * weight
        for table, more in zip(self._tables, other._tables, strict=True):
            for mark, count in more.items():
                table[mark] = table.get(mark, 0.0) + count * weight
            if len(table) > self._most * 1.25:
                self._prune(table)

    def encode(self, now: int, size: int = SHEET_BYTES) -> bytes:
        """As bytes, no more than ``size`` of them: a sheet, or many folded into one. The rarest values are left out.

        So is what weighs less than 1/32 of a login ``now``. Takes time with many values (100,000: 0.1 s).
        """
        worth = self._fading.now(now) * UNITS
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for level, table in enumerate(self._tables):
            for mark, count in table.items():
                groups[min(round(count * worth), 0xFFFFFFFF), level].append(mark)
        left = size - _HEAD.size - 4 * len(LEVELS)
        chosen: list[list[bytes]] = [[] for _ in LEVELS]
        for (count, level), marks in sorted(groups.items(), reverse=True):
            fit = min(len(marks), (left - _GROUP.size) // 4)
            if count == 0 or fit <= 0:
                break
            chosen[level].append(_GROUP.pack(count, fit) + Struct(f"<{fit}I").pack(*marks[:fit]))
            left -= _GROUP.size + 4 * fit
        parts = [_HEAD.pack(_VERSION, now, round(self._logins * worth))]
        for written in chosen:
            parts += [len(written).to_bytes(4, "little"), *written]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes, *, half_life: int = HALF_LIFE, most: int = MOST) -> Frequencies:
        """What ``encode`` has written. ``ValueError`` for anything else."""
        found = cls(half_life=half_life, most=most)
        try:
            version, found._fading.at, logins = _HEAD.unpack_from(data)
            if version != _VERSION:
                raise ValueError(f"Frequencies of version {version}; this release of sessiondb reads {_VERSION}.")
            found._logins = logins / UNITS
            at = _HEAD.size
            for table in found._tables:
                (groups,) = unpack_from("<I", data, at)
                at += 4
                for _ in range(groups):
                    count, many = _GROUP.unpack_from(data, at)
                    at += _GROUP.size
                    table.update(dict.fromkeys(unpack_from(f"<{many}I", data, at), count / UNITS))
                    at += 4 * many
        except error:
            raise ValueError("Frequencies that were cut short or changed: leave this sheet out.") from None
        if at != len(data):
            raise ValueError("Frequencies with something after their end: leave this sheet out.")
        return found

    @classmethod
    def merged(cls, sheets: Iterable[bytes], *, half_life: int = HALF_LIFE, most: int = MOST) -> Frequencies:
        """Those of all ``sheets``. ``ValueError`` if one is none."""
        total = cls(half_life=half_life, most=most)
        for sheet in sheets:
            total.merge(cls.decode(sheet, half_life=half_life, most=most))
        return total

    def _prune(self, table: dict[int, float]) -> None:
        kept = heapq.nlargest(self._most, table.items(), key=lambda item: item[1])
        table.clear()
        table.update(kept)

    def _move(self, now: int) -> None:
        worth = self._fading.now(now)
        self._fading.at = now
        self._logins *= worth
        for table in self._tables:
            for mark in table:
                table[mark] *= worth
