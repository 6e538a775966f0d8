"""How many sessions each of 256 users has, who stand for all: those with the lowest hashes.

Every process keeps the same users, whoever has seen them, so that samples can be merged and nothing of a user in the
merged one is missing. Bottom-k sampling: Cohen, Kaplan, "Summarizing data using bottom-k sketches" (2007).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

USERS = 256
MOST_SESSIONS = 16
"""So many sessions of one user are told apart; a user with more counts as one with so many."""


class BottomK:
    """The users of the 256 lowest hashes (64 bits), each with the hashes of their sessions (32 bits)."""

    __slots__ = ("_highest", "users")

    def __init__(self) -> None:
        self.users: dict[int, set[int]] = {}
        self._highest = -1  # of a full sample

    def add(self, user: int, session: int) -> None:
        """``user`` has ``session``."""
        self._put(user, (session & 0xFFFF_FFFF,))

    def merge(self, other: BottomK) -> None:
        """As if all that was added to ``other`` had been added here too."""
        for user, sessions in other.users.items():
            self._put(user, sessions)

    def _put(self, user: int, sessions: Iterable[int]) -> None:
        known = self.users.get(user)
        if known is None:
            if user > self._highest >= 0:
                return
            known = self.users[user] = set()
            if len(self.users) > USERS:
                del self.users[max(self.users)]
            if len(self.users) == USERS:
                self._highest = max(self.users)
        known.update(sessions)
        if len(known) > MOST_SESSIONS:
            # The lowest ones, so that it does not matter in which order they came.
            known.intersection_update(sorted(known)[:MOST_SESSIONS])

    def discard(self, user: int) -> bool:
        """Take ``user`` out; whether they were there. Nobody moves up."""
        return self.users.pop(user, None) is not None

    def counts(self) -> list[int]:
        """How many sessions each of the users has, fewest first."""
        return sorted(map(len, self.users.values()))

    def encode(self) -> bytes:
        """It as bytes; the same for equal ones."""
        return b"".join(
            struct.pack(f">QB{len(sessions)}I", user, len(sessions), *sorted(sessions))
            for user, sessions in sorted(self.users.items())
        )

    @classmethod
    def decode(cls, data: bytes) -> BottomK:
        """What ``encode`` has made. Raises ``ValueError`` for anything else."""
        made = cls()
        at = 0
        while at < len(data):
            try:
                user, count = struct.unpack_from(">QB", data, at)
                sessions = struct.unpack_from(f">{count}I", data, at + 9)
            except struct.error:
                raise ValueError("these bytes are no sample of users") from None
            if not 0 < count <= MOST_SESSIONS:
                raise ValueError("a user of a sample has one session or some")
            made._put(user, sessions)
            at += 9 + 4 * count
        return made
