"""Counts of logins that succeed and fail, shared by all workers: by user, by network, and in all.

Names and addresses are counted by keyed hashes. A window is the half hour under way and the one before, so about the
last hour; devices are counted by the day. What was counted in the last second is known to this worker alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import blake2b

from sessiondb.core.errors import StoreError
from sessiondb.core.policy import DAY, MINUTE
from sessiondb.core.rules import Attempts
from sessiondb.stores.base import Counter, Store

HALF_HOUR = 30 * MINUTE
KEPT = 4 * HALF_HOUR
MOST_KEYS = 20_000
FLUSH_EVERY = 1.0
_ALL, _USERS, _NETWORKS, _LOGINS = b"all", b"users", b"networks", b"logins"


class Source:
    """Who tries to log in, by keyed hashes (8 bytes each): as which user, from which network, with which device."""

    __slots__ = ("device", "device_user", "network", "network_user", "user")

    def __init__(self, key: bytes, user: str, network: str | None, device: str | None) -> None:
        self.user = keyed_hash(key, "user", user)
        self.network = None if network is None else keyed_hash(key, "network", network)
        self.device = None if device is None else keyed_hash(key, "device", device)
        self.network_user = None if self.network is None else self.network + self.user
        self.device_user = None if self.device is None else self.device + self.user


def keyed_hash(key: bytes, kind: str, text: str) -> bytes:
    """By which ``text`` is seen to be the same again, and by nobody without the ``key`` what it was. 8 bytes."""
    message = text.encode("utf-8", "surrogatepass")
    return blake2b(message, digest_size=8, key=key[:64], person=kind.encode()).digest()


class Found:
    """What the counters say about one ``Source``; ``attempts`` is what the rules go by."""

    __slots__ = ("attempts", "known_device", "known_network", "known_network_user", "known_user")

    def __init__(self, counts: Sequence[int], source: Source) -> None:
        recent = [sum(counts[at : at + 2]) for at in range(0, 2 * len(_KEYS), 2)]
        device, device_user = counts[2 * len(_KEYS) :]
        named = dict(zip(_KEYS, recent, strict=True))
        self.attempts = Attempts(
            user_failures=max(0, named["failures"] - named["forgiven"]),
            network_failures=named["network_failures"],
            network_users=named["network_users"],
            all_failures=named["all"],
            stuffed_users=named["users"],
            stuffed_networks=named["networks"],
            all_logins=named["logins"],
            device_users=device + (not device_user and source.device is not None),
        )
        self.known_user = named["failures"] > 0
        self.known_network = named["network_failures"] > 0
        self.known_network_user = named["network_user"] > 0
        self.known_device = device_user > 0


_KEYS: dict[str, Callable[[Source], bytes | None]] = {
    "failures": lambda source: b"u" + source.user,
    "forgiven": lambda source: b"r" + source.user,
    "network_failures": lambda source: source.network and b"n" + source.network,
    "network_users": lambda source: source.network and b"d" + source.network,
    "network_user": lambda source: source.network_user and b"p" + source.network_user,
    "all": lambda source: _ALL,
    "users": lambda source: _USERS,
    "networks": lambda source: _NETWORKS,
    "logins": lambda source: _LOGINS,
}


class Counting:
    """The counts of one event loop that have not been written yet. Bounded; what cannot be written is dropped.

    ``counters`` has ``lost_login_counts``.
    """

    def __init__(self, store: Store, now: Callable[[], int], lost: Callable[[int], None]) -> None:
        self._store = store
        self._now = now
        self._lost = lost
        self._waiting: dict[str, dict[bytes, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def wanted(self, source: Source) -> list[Counter]:
        """The counters to ask for, in the order of ``Found``."""
        now = self._now()
        window = now // HALF_HOUR
        wanted = [Counter(f"tries:{at}", key(source) or b"-") for key in _KEYS.values() for at in (window, window - 1)]
        day = f"devices:{now // DAY}"
        return [
            *wanted,
            Counter(day, b"v" + (source.device or b"-")),
            Counter(day, b"w" + (source.device_user or b"-")),
        ]

    def found(self, source: Source, wanted: Sequence[Counter], counts: Sequence[int]) -> Found:
        """What the database said, with what only this worker knows yet."""
        mine = [self._waiting.get(one.bucket, {}).get(one.key, 0) for one in wanted]
        return Found([count + more for count, more in zip(counts, mine, strict=True)], source)

    def failed(self, source: Source, found: Found) -> None:
        """A login has failed."""
        keys = [b"u" + source.user, _ALL]
        if not found.known_user:
            keys.append(_USERS)
        if source.network is not None and source.network_user is not None:
            keys += [b"n" + source.network, b"p" + source.network_user]
            if not found.known_network:
                keys.append(_NETWORKS)
            if not found.known_network_user:
                keys.append(b"d" + source.network)
        self._add(f"tries:{self._now() // HALF_HOUR}", dict.fromkeys(keys, 1))

    def succeeded(self, source: Source, found: Found) -> None:
        """A login was accepted: the failures before it are forgiven."""
        now = self._now()
        adds = {_LOGINS: 1}
        if found.attempts.user_failures:
            adds[b"r" + source.user] = found.attempts.user_failures
        self._add(f"tries:{now // HALF_HOUR}", adds)
        if source.device is not None and source.device_user is not None and not found.known_device:
            self._add(f"devices:{now // DAY}", {b"v" + source.device: 1, b"w" + source.device_user: 1})

    def _add(self, bucket: str, adds: dict[bytes, int]) -> None:
        waiting = self._waiting.setdefault(bucket, {})
        for key, add in adds.items():
            if key in waiting or len(waiting) < MOST_KEYS:
                waiting[key] = waiting.get(key, 0) + add
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self.flush())

    async def flush(self) -> None:
        """Write what waits. Raises nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        now = self._now()
        for bucket, adds in waiting.items():
            expires_at = now + (2 * DAY if bucket.startswith("devices") else KEPT)
            try:
                await self._store.count(bucket, adds, most=MOST_KEYS, expires_at=expires_at)
            except StoreError:
                self._lost(len(adds))
