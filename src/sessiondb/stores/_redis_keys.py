"""The names of the keys of the Redis and Valkey store."""

from __future__ import annotations

from binascii import crc32
from urllib.parse import quote

from sessiondb.core.token import Sid
from sessiondb.stores._redis_slots import slot_of

DUE_LISTS = 16
NAME_LISTS = 1024


class Keys:
    """The names of the keys with one prefix. What belongs to one user is in one slot, and so is the audit trail."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.meta = f"{prefix}meta".encode()
        trail = f"{prefix}{{{prefix}trail}}:"
        self.trail_state = f"{trail}state".encode()
        self.streams = f"{trail}streams".encode()
        self.blocks = f"{trail}blocks".encode()
        self.begun_calls = f"{trail}calls:begun".encode()
        self.counting_calls = f"{trail}calls:counting".encode()
        self.block_prefix = f"{trail}block:".encode()
        self.stream_prefix = f"{trail}stream:".encode()
        self._names = [f"{trail}names:{number}".encode() for number in range(NAME_LISTS)]
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

    def logins(self, user_id: str) -> bytes:
        """The user's history of logins, newest first."""
        return self._of_user(user_id, "logins")

    def link(self, name: str) -> bytes:
        """The sessions that are found by the link of that name (hexadecimal), scored by their hard end."""
        return f"{self.prefix}link:{name}".encode()

    def not_before(self, user_id: str) -> bytes:
        """The user's ``not_before``."""
        return self._of_user(user_id, "not_before")

    def prepared(self, sid: str, call: str) -> bytes:
        """What a call has laid down to be done to a session, in the slot of its hash."""
        return f"{self.prefix}prepared:{{{self._session}{sid}}}:{call}".encode()

    def stream(self, name: str) -> bytes:
        """The numbers of the events of a stream of the audit trail."""
        return self.stream_prefix + name.encode()

    def block(self, number: int) -> bytes:
        """The events of the audit trail with numbers of one block."""
        return b"%b%d" % (self.block_prefix, number)

    def names(self, name: str) -> bytes:
        """The numbers of the events that are about ``name`` (a user or a session), and about others of its kind.

        Few lists, so that each name takes no key of its own, and no key tells a name.
        """
        return self._names[crc32(name.encode()) % NAME_LISTS]

    def counters(self, bucket: str) -> bytes:
        """The counters of a bucket."""
        return f"{self.prefix}counters:{bucket}".encode()

    def sheets(self, kind: str, what: str) -> bytes:
        """A list of the sheets of a kind (``"buckets"`` or ``"ends"``), or the sheet in one place."""
        return f"{self.prefix}sheets:{{{kind}}}:{what}".encode()

    def _of_user(self, user_id: str, what: str) -> bytes:
        return f"{self.prefix}user:{{{quote(user_id, safe='')}}}:{what}".encode()
