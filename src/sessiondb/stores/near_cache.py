"""A store that keeps records which it has loaded in this process, for as long as they are certain not to be too old.

The bound: from ``staleness`` seconds after a change was answered to anybody, no cached record shows the state before
it. What this process has written itself is never missing. Two ways lead there. Where the database tells its clients
what changes (a feed, ``stores/feed.py``), a record is kept for a minute, and served while the feed was proven to be
complete no longer than ``staleness`` ago; when it is lost, the cache empties itself, and everything is loaded until it
is back. Where there is no feed, a record is served for ``staleness`` seconds from when its load was sent.

``load`` always asks the database. Only ``cached`` answers without, and who asks it decides whether that will do.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from sessiondb.core.change import Change
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import Event
from sessiondb.core.near_cache import NearCache
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._near_entries import Entries
from sessiondb.stores._near_listening import Listening, Outages, Unlogged
from sessiondb.stores._near_siblings import Siblings
from sessiondb.stores.base import Admission, ChangeResult, Cutoffs, Ended, Login, Query, Store, Swept
from sessiondb.stores.delegating import DelegatingStore
from sessiondb.stores.feed import Feed

# A feed that is alive and wrong would be found out by nobody, so nothing is kept for longer.
MOST_AGE = 60.0
_ANY_TIME, _NEVER = math.inf, -math.inf


class NearCacheStore(DelegatingStore):
    """``store``, whose living records are kept for ``cached``. For one event loop.

    ``feed`` is the database's, if it has one; ``open`` begins to listen and ``close`` ends it. ``counters`` gets
    ``near_hits``, ``near_misses``, ``near_invalidated``, ``near_discarded`` (loads that came too late to be kept),
    ``near_evicted`` and ``near_feed_lost``. ``siblings`` are the caches of this process's other event loops.
    ``monotonic`` gives seconds that go with the feed's ``loop.time()``. (uvloop's is that of the loop's last turn. That
    errs on the safe side where it says since when, and would not where it says now.)
    """

    __slots__ = (
        "_counters",
        "_entries",
        "_held",
        "_is_live",
        "_keeps",
        "_lasts",
        "_listening",
        "_proven_until",
        "_siblings",
        "_staleness",
        "monotonic",
    )

    def __init__(
        self,
        store: Store,
        settings: NearCache,
        *,
        feed: Feed | None = None,
        counters: Counter[str] | None = None,
        outages: Outages | None = None,
        on_refusal: Callable[[ConfigurationError], None] = lambda why: None,
        siblings: Siblings | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store)
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._entries = Entries(settings.max_entries, settings.max_bytes, self._counters)
        self._held = self._entries.held
        self._staleness = settings.staleness
        self._siblings = siblings
        self.monotonic = monotonic
        self._is_live = self._keeps = False
        self._lasts = 0.0
        self._proven_until = _NEVER
        self._listening: Listening | None = None
        if feed is not None and settings.staleness:
            # Three times within the bound: an answer may be late.
            every = settings.staleness / 3
            self._listening = Listening(feed, self, every, outages or Unlogged(), on_refusal)

    @property
    def entries(self) -> int:
        """How many records are held."""
        return len(self._held)

    @property
    def bytes(self) -> int:
        """What they take, as estimated."""
        return self._entries.bytes

    def cached(self, sid: Sid) -> Record | None:
        """The record of ``sid`` if it may be served now; immutable, and shared. At once, and nothing is asked."""
        entry = self._held.get(sid)
        if entry is None:
            self._counters["near_misses"] += 1
            return None
        now = self.monotonic()
        if now > self._proven_until or now > entry.until:
            self._too_late(sid, now)
            return None
        self._held.move_to_end(sid)
        self._counters["near_hits"] += 1
        return entry.record

    def forget(self, sid: Sid) -> None:
        """Whoever has looked at the record of ``sid`` knows that it is of no use."""
        self._entries.drop(sid)

    def _too_late(self, sid: Sid, now: float) -> None:
        self._counters["near_misses"] += 1
        if now > self._proven_until:
            # Nobody has heard of the feed for too long. It may have been lost, or this process stood still.
            self.feed_lost()
        else:
            self._entries.expire(sid)

    # -- loading ------------------------------------------------------------------------------------------

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """As the inner store, each time; what it answers is kept."""
        if not self._keeps:
            return await self._store.load(sids)
        entries = self._entries
        flight = entries.begin(sids, self.monotonic())
        try:
            records = await self._store.load(sids)
        except BaseException:
            entries.lost(flight)
            raise
        entries.land(flight, sids, records, self._lasts)
        return records

    # -- own writes ---------------------------------------------------------------------------------------

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """As the inner store. From when it is sent until it is answered, well or not, its sessions are not kept."""
        sids = [change.sid for change in changes]
        self._entries.begin_write(sids)
        try:
            return await self._store.apply(changes, events)
        finally:
            self._entries.end_write(sids)
            self._tell(sids)

    async def admit(self, login: Login) -> Admission:
        """As the inner store; who has to go is forgotten."""
        with self._all_in_doubt():
            admission = await self._store.admit(login)
        self._drop([login.sid, *(one.sid for one in admission.ended)])
        return admission

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """As the inner store; who was ended is forgotten."""
        with self._all_in_doubt():
            ended = await self._store.end_where(query, reason)
        self._drop([*(query.sids or ()), *(one.sid for one in ended)])
        return ended

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """As the inner store; who was ended is forgotten."""
        with self._all_in_doubt():
            swept = await self._store.sweep(cutoffs, limit)
        self._drop([one.sid for one in swept.ended])
        return swept

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """As the inner store; nobody says whose ``check_at`` was lowered, so everybody is forgotten."""
        try:
            return await self._store.lower_checks(caps, after, limit)
        finally:
            self.everything_changed()
            self._tell(None)

    @contextlib.contextmanager
    def _all_in_doubt(self) -> Iterator[None]:
        """Where a call fails, anything may have been written."""
        try:
            yield
        except BaseException:
            self.everything_changed()
            self._tell(None)
            raise

    def _drop(self, sids: Sequence[Sid]) -> None:
        self.changed(sids)
        self._tell(sids)

    def _tell(self, sids: Sequence[Sid] | None) -> None:
        if self._siblings is not None:
            self._siblings.tell(self, sids)

    # -- the feed -----------------------------------------------------------------------------------------

    def changed(self, sids: Iterable[Sid]) -> None:
        """As ``Listener``."""
        drop = self._entries.drop
        for sid in sids:
            drop(sid)

    def everything_changed(self) -> None:
        """As ``Listener``."""
        self._entries.clear()

    def alive(self, since: float) -> None:
        """As ``Listener``."""
        if not self._is_live:
            # What was loaded before may have changed before anybody listened.
            self._entries.clear()
            self._is_live = self._keeps = True
            self._lasts = MOST_AGE
            self._proven_until = _NEVER
            if self._listening is not None:
                self._listening.is_heard()
        self._proven_until = max(self._proven_until, since + self._staleness)

    def feed_lost(self) -> bool:
        """From now on everything is loaded, until the feed is ``alive`` again. False: it was not."""
        if not self._is_live:
            return False
        self._counters["near_feed_lost"] += 1
        self._is_live = self._keeps = False
        self._proven_until = _NEVER
        self._entries.clear()
        return True

    def feed_refused(self) -> bool:
        """There is no feed: from now on records are served by their age. False: they are already."""
        if self._proven_until == _ANY_TIME:
            return False
        self._entries.clear()
        self._is_live = False
        self._keeps = self._staleness > 0
        self._lasts = self._staleness
        self._proven_until = _ANY_TIME
        return True

    async def open(self) -> None:
        """As the inner store; then listen to the feed. Until it is heard for the first time, nothing is kept."""
        await self._store.open()
        if self._siblings is not None:
            self._siblings.join(self)
        if self._listening is None:
            self.feed_refused()
        else:
            self._listening.start()

    async def close(self) -> None:
        """Stop listening, forget everything, and close as the inner store."""
        if self._siblings is not None:
            self._siblings.leave(self)
        if self._listening is not None:
            await self._listening.stop()
        self._is_live = self._keeps = False
        self._proven_until = _NEVER
        self._entries.clear()
        await self._store.close()
