"""How the app is used, as one event loop counts it: published about once a minute, and waited for by no request.

What was counted since the last publication is lost where the process is killed.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable

from sessiondb.core.client import Client, decode_client
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event
from sessiondb.core.hyperloglog import hash_of
from sessiondb.core.policy import HOUR
from sessiondb.core.record import Record, is_impersonated
from sessiondb.core.token import Sid
from sessiondb.core.usage import HOURS, Tally
from sessiondb.stores.base import Sheet, Stats, Store
from sessiondb.timers import Timers

EVERY = 60.0
# What happened in the hour before this one is counted there, what is older here.
EARLIER_HOURS = 1
# For so many hours after its end, the numbers of one can still be published.
PUBLISHED_HOURS = 3
MOST_GAPS = 4000
_NOBODY = Client()


class Gatherer:
    """What one event loop counts. ``now`` is the store's time; without ``keep`` (microseconds) nothing is counted.

    ``counters`` has ``usage_not_published`` (the database was away; it is tried again) and ``lost_usage_hours``.
    """

    def __init__(self, now: Callable[[], int], counters: Counter[str], keep: int | None) -> None:
        self._now = now
        self._counters = counters
        self._keep = keep
        self._tallies: dict[int, Tally] = {}
        self._writers: dict[int, str] = {}
        self._changed: set[int] = set()
        self._gaps: dict[int, int] = {}
        self._publishing = asyncio.Lock()

    @property
    def is_on(self) -> bool:
        """Whether anything is counted."""
        return self._keep is not None

    # -- counting -----------------------------------------------------------------------------------------

    def seen(self, record: Record, at: int, before: int) -> None:
        """The session ``record`` is used at ``at``, for the first time since ``before``, and a touch is due."""
        if self._keep is None or is_impersonated(record.auth):
            return
        session = hash_of(record.sid)
        tally = self._tally(at)
        if record.user_id is not None:
            tally.active(hash_of(record.user_id), session)
        # Several requests may come at once, and each find that a touch is due.
        if self._gaps.get(session) != before:
            if len(self._gaps) >= MOST_GAPS:
                self._gaps.clear()
            self._gaps[session] = before
            tally.gaps.add(at - before)

    def created(self, record: Record) -> None:
        """A session was made."""
        if self._keep is not None:
            tally = self._tally(record.created_at)
            tally.created += 1
            if record.user_id is not None and not is_impersonated(record.auth):
                tally.active(hash_of(record.user_id), hash_of(record.sid))

    def logged_in(self, event: Event, client: bytes | None) -> None:
        """Somebody has logged in."""
        if self._keep is not None:
            tally = self._tally(event.at)
            known = _NOBODY if client is None else decode_client(client)
            label = "Bot" if known.device == "bot" else known.label
            named = bool(known.user_agent)
            tally.logged_in(known.device if named else None, label if named else None, known.country)
            if event.user_id is not None and event.sid is not None:
                tally.active(hash_of(event.user_id), hash_of(event.sid))

    def refused(self, event: Event) -> None:
        """A login was refused."""
        if self._keep is not None:
            self._tally(event.at).refused += 1

    def ended(self, sid: Sid, reason: str, at: int) -> None:
        """A session has ended."""
        if self._keep is not None:
            self._tally(at).ended(reason, at - _made_at(sid, at))

    def looked(self, stats: Stats) -> None:
        """So many sessions live now."""
        if self._keep is None:
            return
        now = self._now()
        tally = self._tally(now)
        tally.live.add(stats.live, now)
        tally.holders.add(stats.users, now)

    def forget(self, user: int) -> None:
        """Take out what is known of a user by their hash."""
        for hour, tally in self._tallies.items():
            if tally.forget(user):
                self._changed.add(hour)

    def _tally(self, at: int) -> Tally:
        """That of the hour of ``at``, to be changed."""
        hour, this = at // HOUR, self._now() // HOUR
        if not this - EARLIER_HOURS <= hour <= this:
            hour = this
        tally = self._tallies.get(hour)
        if tally is None:
            tally = self._tallies[hour] = Tally()
            # A name for this tally alone: should a clock that goes back make another one of the hour, both are kept.
            self._writers[hour] = secrets.token_hex(8)
        self._changed.add(hour)
        return tally

    # -- publishing ---------------------------------------------------------------------------------------

    def schedule(self, timers: Timers, store: Store) -> None:
        """Publish to ``store`` now and then."""
        if self._keep is not None:
            # Jitter keeps workers that were started at once apart.
            timers.every("usage", lambda: EVERY * (0.75 + random.random() / 2), lambda: self.publish(store))  # noqa: S311

    async def publish(self, store: Store) -> None:
        """Have what was counted kept by ``store``. Raises ``StoreError``; then it is tried again the next time."""
        if self._keep is None:
            return
        async with self._publishing:
            self._forget_old()
            hours = sorted(self._changed)
            if not hours:
                return
            self._changed = set()
            try:
                await store.publish([self._sheet(hour, self._keep) for hour in hours])
            except BaseException:
                self._changed.update(hours)
                self._counters["usage_not_published"] += 1
                raise

    async def close(self, store: Store, timeout: float) -> None:
        """Publish what there is, in ``timeout`` seconds; what cannot be is lost, and counted. Raises nothing."""
        try:
            async with asyncio.timeout(timeout):
                await self.publish(store)
        except (StoreError, TimeoutError):
            self._counters["lost_usage_hours"] += len(self._changed)

    def _sheet(self, hour: int, keep: int) -> Sheet:
        return Sheet(HOURS, hour, self._writers[hour], self._tallies[hour].encode(), (hour + 1) * HOUR + keep)

    def _forget_old(self) -> None:
        this = self._now() // HOUR
        for hour in list(self._tallies):
            if hour < this - PUBLISHED_HOURS and hour in self._changed:
                self._changed.discard(hour)
                self._counters["lost_usage_hours"] += 1
            if hour < this - EARLIER_HOURS and hour not in self._changed:
                del self._tallies[hour], self._writers[hour]


def _made_at(sid: Sid, otherwise: int) -> int:
    """When the session was made, to the millisecond: its sid is a UUIDv7, unless somebody has put it there by hand."""
    try:
        return int(sid[:8] + sid[9:13], 16) * 1000
    except ValueError:
        return otherwise
