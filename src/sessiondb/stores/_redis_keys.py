"""The names of the keys of the Redis and Valkey store."""

from __future__ import annotations

from urllib.parse import quote

from sessiondb.core.token import Sid
from sessiondb.stores._redis_slots import slot_of

DUE_LISTS = 16


class Keys:
    """The names of the keys with one prefix. What belongs to one user is in one slot."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.meta = f"{prefix}meta".encode()
        self.events = f"{prefix}events".encode()
        self.turn = f"{prefix}sweeper".encode()
        self.due_lists = [f"{prefix}due:{number}".encode() for number in range(DUE_LISTS)]
        self._session = f"{prefix}session:"

    def session(self, sid: str) -> bytes:
        """The hash of one session."""
        return (self._session + sid).encode()

    def sid(self, session: bytes) -> Sid:
        """Whose hash that is."""
        return Sid(session[len(self._session) :].decode())

    def due(self, sid: str) -> bytes:
        """The list in which the sweeper finds the session."""
        return self.due_lists[slot_of(sid.encode()) % DUE_LISTS]

    def user(self, user_id: str) -> bytes:
        """All sessions of a user but those known to have ended, scored by their hard end."""
        return self._of_user(user_id, "sessions")

    def ended(self, user_id: str) -> bytes:
        """The user's sessions that have ended, scored by the time of their purge."""
        return self._of_user(user_id, "ended")

    def link(self, name: str) -> bytes:
        """The sessions that are found by the link of that name (hexadecimal), scored by their hard end."""
        return f"{self.prefix}link:{name}".encode()

    def not_before(self, user_id: str) -> bytes:
        """The user's ``not_before``."""
        return self._of_user(user_id, "not_before")

    def _of_user(self, user_id: str, what: str) -> bytes:
        return f"{self.prefix}user:{{{quote(user_id, safe='')}}}:{what}".encode()
