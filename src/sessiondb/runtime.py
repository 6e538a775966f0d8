"""What a ``SessionDB`` keeps per event loop: the store's wrappers, its clock, and the work in the background."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

from sessiondb.assessing import Assessing
from sessiondb.auditing import Auditing
from sessiondb.background import Background, Waiting
from sessiondb.clients import Clients
from sessiondb.core.breaker import Circuit
from sessiondb.core.change import Applied, Change, End, Gone, Outcome, new_change_id
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable, raise_own
from sessiondb.core.events import Event, EventType
from sessiondb.core.near_cache import NearCache
from sessiondb.core.policies import Policies
from sessiondb.core.policy import SECOND, Caps, touch_interval
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.hooks import Announcer, Hook
from sessiondb.outage import Outage
from sessiondb.probing import Prober
from sessiondb.reencryption import Reencryption
from sessiondb.retention import Keeping
from sessiondb.settings import Settings
from sessiondb.sinks import Telling
from sessiondb.stores.announcing import AnnouncingStore
from sessiondb.stores.base import ChangeResult, Ended, EventQuery, Store
from sessiondb.stores.chaining import ChainingStore
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.encrypting import EncryptingStore
from sessiondb.stores.feed import HasFeed
from sessiondb.stores.gathering import GatheringStore
from sessiondb.stores.near_cache import NearCacheStore
from sessiondb.stores.recovering import RecoveringStore
from sessiondb.suspicions import Suspicions
from sessiondb.sweeping import Sweeping
from sessiondb.timers import Timers
from sessiondb.turn import Turn
from sessiondb.usage import Gatherer
from sessiondb.usage_merging import Merging
from sessiondb.watching import UNKNOWN, Ends, Watching

log = logging.getLogger("sessiondb")

Answer = TypeVar("Answer")
Args = TypeVarTuple("Args")

CLOCK_EVERY = 3600.0
CLOCK_WARNING = 2 * SECOND
REOPEN_PAUSE = 1.0


class Runtime:
    """One event loop's use of a store. Opened on first use; all its tasks and timers belong to that loop."""

    def __init__(self, store: Store, settings: Settings, counters: Counter[str], ends: Ends) -> None:
        self.use(settings.policies)
        self.policy_for = settings.policy_for
        self.max_session_bytes = settings.max_session_bytes
        self.max_keys = settings.abuse.limits.max_keys
        self.abuse = settings.abuse
        self.clients = Clients(settings.privacy, settings.geo)
        self.timeout = settings.timeout
        self.counters = counters
        self.reads = Outage(f"{store.name}, reading")
        self.writes = Outage(f"{store.name}, writing")
        self.modifying: dict[Sid, Turn] = {}
        self._settings = settings
        self._clock = settings.clock
        self._raw = store
        self.read_circuit = self._circuit("reading")
        self.write_circuit = self._circuit("writing")
        self.read_circuit.beside, self.write_circuit.beside = self.write_circuit, self.read_circuit
        self.telling = Telling(settings.audit.sinks, counters)
        self._inner: Store = ChainingStore(
            RecoveringStore(store),
            later=lambda event: self.background.event(event),
            required=settings.audit.required,
            told=self.telling.tell if settings.audit.sinks else None,
            counters=counters,
        )
        self.usage = Gatherer(self.now, counters, settings.keep_usage)
        self.merging = Merging(self)
        if settings.keep_usage is not None:
            self._inner = GatheringStore(self._inner, self.usage)
        self.reencryption: Reencryption | None = None
        if settings.keys is not None:
            encrypting = EncryptingStore(self._inner, settings.keys, patience=min(1.0, settings.timeout / 2))
            self._inner = encrypting
            self.reencryption = Reencryption(
                store, encrypting, settings.keys, caps=lambda: self.caps, now=self.now, timeout=settings.timeout * 5
            )
        self.audit_required = settings.audit.required
        functions: Sequence[Hook] = () if settings.hooks is None else settings.hooks.used()
        if self.audit_required:
            functions = [self._audit_end, *functions]
        self.announcer: Announcer | None = None
        self._leaves_hooks_to_others = settings.announce and not functions
        if functions or settings.announce:
            self._inner = AnnouncingStore(self._inner, self.now, self._announce)
        self.near: NearCacheStore | None = None
        if settings.near_cache is not None and settings.near_cache.staleness:
            self.near = self._inner = self._near_cache(store, settings.near_cache)
        self.store = CoalescingStore(
            self._inner, timeout=settings.timeout, reads=self.read_circuit, writes=self.write_circuit
        )
        self.background = Background(self.store, counters)
        if functions:
            self.announcer = Announcer(
                functions, self.store, self.now, counters, keep_ended=lambda: self.policies.keep_ended
            )
        self._ends = ends
        self.watching = Watching(self, ends)
        self.prober = Prober(self)
        self._opened = False
        self._opening = asyncio.Lock()
        self._failed_at = -REOPEN_PAUSE
        self._failure: str | None = None
        self._offset = 0
        self.sweeping = Sweeping(self, settings.sweep_every)
        self.auditing = Auditing(self, settings.audit)
        self.assessing = Assessing(self, settings.risk)
        self.guards_sessions = settings.risk is not None and settings.risk.guards_sessions
        self.suspicions = Suspicions(settings.risk_hooks, counters)
        self.keeping = Keeping(self, settings.audit, settings.privacy.ip_for_micros)
        self.timers = Timers(self.writes.failed)

    # -- policies -----------------------------------------------------------------------------------------

    def use(self, policies: Policies) -> None:
        """Go by ``policies`` from now on. May be called from another thread."""
        self.policies = policies
        self.caps: Caps = policies.caps

    def touch_interval(self, record: Record) -> int:
        """How old ``last_seen_at`` of ``record`` may get before it is written again."""
        cap = self.caps.of(record.lifetime).idle
        return touch_interval(record.idle if record.idle < cap else cap)

    # -- opening, closing and the clock -------------------------------------------------------------------

    def now(self) -> int:
        """The store's time in microseconds: this machine's, corrected by the offset measured at ``open``."""
        return self._clock() + self._offset

    async def ready(self) -> None:
        """Open the store if it is not open yet. After a failure the next try waits for a second."""
        if self._opened:
            return
        if self._failure is not None and self._opening.locked():
            # Somebody tries again already; where that takes its time, nobody else has to wait for it.
            raise StoreUnavailable(self._failure, retry_after=REOPEN_PAUSE)
        async with self._opening:
            if self._opened:
                return
            left = self._failed_at + REOPEN_PAUSE - time.monotonic()
            if self._failure is not None and left > 0:
                # A new one each time: an exception that is raised again gathers tracebacks.
                raise StoreUnavailable(self._failure, retry_after=left)
            try:
                async with asyncio.timeout(self._settings.timeout * 5):
                    await self._inner.open()
                    try:
                        await self._measure_clock()
                    except BaseException:
                        await self._inner.close()
                        raise
                self._opened = True
                await self.assessing.open()
            except (StoreUnavailable, TimeoutError) as error:
                failure = (
                    error
                    if isinstance(error, StoreUnavailable)
                    else StoreUnavailable(f"{self._raw.name}: the database did not open in time; is it reachable?")
                )
                self._failed_at, self._failure = time.monotonic(), str(failure)
                self.reads.failed(failure)
                raise failure from failure.__cause__
        self.timers.every("clock", lambda: CLOCK_EVERY, self._measure_clock)
        if self.reencryption is not None:
            self.reencryption.schedule(self.timers)
        self.usage.schedule(self.timers, self.store)
        if self._settings.sweep_every is not None and not self._leaves_hooks_to_others:
            self.sweeping.schedule(self.timers)
            self.auditing.schedule(self.timers)
            if self.assessing.policy is not None:
                self.assessing.learning.schedule(self.timers, self.store)
            self.keeping.schedule(self.timers)
            self.merging.schedule(self.timers)
        elif not self._settings.announce:
            self.sweeping.schedule_notes(self.timers)

    async def close(self) -> None:
        """Flush touches and events, end timers and tasks, and release the store. Bounded by the timeout."""
        self.watching.stop()
        await self.prober.stop()
        await self.timers.stop(self._settings.timeout)
        if self._opened:
            self.write_circuit.probe_now()  # the last occasion to find out that the database is back
            try:
                async with asyncio.timeout(self._settings.timeout * 2):
                    await self.background.flush()
                    await self.assessing.close()
            except TimeoutError:
                pass  # what is left is told below
            if self.announcer is not None:
                await self.announcer.drain(self._settings.timeout)
        self._tell_lost(await self.background.give_up())
        await self.telling.close(self._settings.timeout)
        await self.suspicions.close(self._settings.timeout)
        if self._opened:
            await self.usage.close(self.store, self._settings.timeout)
            self._opened = False
            try:
                await self.store.close()
            except StoreError as error:
                # Whoever closes wants to go, and all that could be written has been.
                log.warning("%s could not be closed in good order: %s", self._raw.name, error)

    def _tell_lost(self, lost: Waiting) -> None:
        if not any(lost):
            return
        self.counters["lost_touches"] += lost.touches
        self.counters["lost_ends"] += lost.ends
        self.counters["lost_events"] += lost.events
        log.error(
            "%s was closed before %d touches, %d ends and %d events could be written; they are lost. Sessions may end "
            "sooner than they should by a touch; those whose end is lost end when they are next used or expire.",
            self._raw.name,
            *lost,
        )

    def _circuit(self, use: str) -> Circuit:
        settings = self._settings
        return Circuit(
            f"{self._raw.name}, {use}",
            settings.breaker,
            clock=time.monotonic,
            counters=self.counters,
            longest_call=settings.timeout,
            on_open=lambda why: log.warning("%s", why),
        )

    def _near_cache(self, store: Store, settings: NearCache) -> NearCacheStore:
        return NearCacheStore(
            self._inner,
            settings,
            feed=store.feed() if isinstance(store, HasFeed) else None,
            counters=self.counters,
            outages=Outage(f"{store.name}, the feed of the near cache, without which every session is loaded"),
            on_refusal=lambda why: log.warning("The near cache goes by the age of what it holds: %s", why),
            siblings=self._settings.near_siblings,
        )

    async def _measure_clock(self) -> None:
        before = self._settings.clock()
        store_time = await self.store.clock()
        after = self._settings.clock()
        offset = store_time - (before + after) // 2
        # Half of the round trip is not known, so a smaller offset may be none at all.
        self._offset = offset if abs(offset) > (after - before) // 2 + 1000 else 0
        if abs(self._offset) > CLOCK_WARNING:
            log.warning(
                "The clock of this machine is %.1f s %s that of the session database, whose time is used; "
                "run NTP (chrony, systemd-timesyncd) on both.",
                abs(self._offset) / SECOND,
                "behind" if self._offset > 0 else "ahead of",
            )

    # -- reading and writing ------------------------------------------------------------------------------

    # A coroutine around a future costs every request a microsecond or two, so the hottest calls come in two halves:
    # ``runtime.loaded(await runtime.load_soon(sid))``.

    def load_soon(self, sid: Sid) -> Awaitable[Record | Exception | None]:
        """Await it, and give what comes to ``loaded``."""
        return self.store.load_soon(sid) if self._opened else self._open_and(self.store.load_soon, sid)

    def loaded(self, record: Record | Exception | None) -> Record | None:
        """The record. Raises ``StoreError``."""
        if isinstance(record, Exception):
            if isinstance(record, StoreError):
                self.reads.failed(record)
            raise_own(record)
        if self.reads.lasting:
            self.reads.over()
        return record

    def apply_soon(self, change: Change, event: Event | None = None) -> Awaitable[list[ChangeResult] | Exception]:
        """Await it, and give what comes to ``applied``."""
        events = () if event is None else (event,)
        if self._opened:
            return self.store.apply_soon(change, events)
        return self._open_and(self.store.apply_soon, change, events)

    def applied(self, results: list[ChangeResult] | Exception) -> Outcome:
        """The outcome of one change. Raises ``StoreError`` or ``SessionDataError``."""
        if isinstance(results, Exception):
            if isinstance(results, StoreError):
                self.writes.failed(results)
            raise_own(results)
        return self._outcome(results[0])

    async def _open_and(self, call: Callable[[*Args], Awaitable[Answer]], *args: *Args) -> Answer:
        await self.ready()
        return await call(*args)

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """Records by sid. Raises ``StoreError``."""
        await self.ready()
        try:
            records = await self.store.load(sids)
        except StoreError as error:
            self.reads.failed(error)
            raise
        if self.reads.lasting:
            self.reads.over()
        return records

    async def apply_one(self, change: Change, event: Event | None = None) -> Outcome:
        """Write one change. Raises ``StoreError`` or ``SessionDataError``."""
        outcome = self.applied(await self.apply_soon(change, event))
        if type(change) is End:
            self._note_end(change, outcome)
        return outcome

    async def apply(self, changes: Sequence[Change], events: Sequence[Event]) -> list[Outcome]:
        """Write changes that go out together. Raises ``StoreError`` or ``SessionDataError`` if one fails."""
        await self.ready()
        try:
            results = await self.store.apply(changes, events)
        except StoreError as error:
            self.writes.failed(error)
            raise
        outcomes = [self._outcome(result) for result in results]
        for change, outcome in zip(changes, outcomes, strict=True):
            if type(change) is End:
                self._note_end(change, outcome)
        return outcomes

    def _outcome(self, result: ChangeResult) -> Outcome:
        if isinstance(result, (StoreError, SessionDataError)):
            if isinstance(result, StoreError):
                self.writes.failed(result)
            raise_own(result)
        if self.writes.lasting:
            self.writes.over()
        return result

    @asynccontextmanager
    async def using_store(self) -> AsyncIterator[CoalescingStore]:
        """The open store for everything but ``load`` and ``apply``; failures are logged once per burst."""
        await self.ready()
        try:
            yield self.store
        except StoreError as error:
            self.writes.failed(error)
            raise

    def event(
        self,
        type_: EventType,
        *,
        record: Record | None = None,
        reason: str | None = None,
        ip: str | None = None,
        actor: str | None = None,
        details: Mapping[str, str | int] | None = None,
        personal: Mapping[str, str | int] | None = None,
    ) -> Event:
        """An event of now, counted."""
        self.counters[type_.value] += 1
        privacy = self.clients.privacy
        return Event(
            type=type_,
            at=self.now(),
            sid=record.sid if record is not None else None,
            user_id=record.user_id if record is not None else None,
            actor=actor,
            reason=reason,
            ip=privacy.stored(ip).ip,
            details=details or {},
            personal=privacy.personal(personal, ip) if personal else {},
        )

    # -- ending -------------------------------------------------------------------------------------------

    def end_of(self, record: Record, reason: EndReason, *, at: int | None = None, if_rev: int | None = None) -> End:
        """The change that ends ``record``."""
        now = self.now()
        return End(
            sid=record.sid,
            id=new_change_id(),
            reason=reason,
            at=now if at is None else at,
            purge_at=now + self.policies.of(record).keep_ended_micros,
            if_rev=if_rev,
        )

    def end_later(self, record: Record, reason: EndReason, *, at: int | None = None, ip: str | None = None) -> bool:
        """End ``record`` with the next batch in the background. False: it waits for that already."""
        if self.background.is_ending(record.sid):
            return False
        self.ended(record.sid, reason)
        self.background.end(
            self.end_of(record, reason, at=at),
            self.event(EventType.SESSION_ENDED, record=record, reason=reason, ip=ip),
        )
        return True

    def ended(self, sid: Sid, reason: str | None) -> None:
        """A session has ended, by this process or as it has just learnt: its open connections here are told at once.

        Every end comes through here: those by a change, by a set-based verb, and those that were seen on reading.
        """
        if self.near is not None:
            self.near.forget(sid)
        if self._ends:
            self._ends.tell(sid, reason or UNKNOWN)

    def _note_end(self, change: End, outcome: Outcome) -> None:
        if isinstance(outcome, Gone):
            self.ended(change.sid, outcome.reason)
        elif isinstance(outcome, Applied):
            self.ended(change.sid, change.reason)

    def _announce(self, ended: Sequence[Ended | Sid], due: int) -> None:
        if self.announcer is not None:
            self.announcer.tell(ended, due)

    def report_ended(self, ended: Sequence[Ended]) -> None:
        """Queue the events of sessions that a set-based verb has ended."""
        for one in ended:
            self.ended(one.sid, one.reason)
            self.counters[EventType.SESSION_ENDED.value] += 1
            if not self.audit_required:
                self.background.event(_end_event(one))

    async def _audit_end(self, ended: Ended) -> None:
        """Where the audit is required, the first hook of every end: it counts as announced when its event is written.

        Ends by a change bring their event with them, those by a set-based verb do not.
        """
        store = self.store
        if not (await store.events(EventQuery(sid=ended.sid, type=EventType.SESSION_ENDED, limit=1))).events:
            await store.append([_end_event(ended)])


def _end_event(ended: Ended) -> Event:
    return Event(type=EventType.SESSION_ENDED, at=ended.at, sid=ended.sid, user_id=ended.user_id, reason=ended.reason)
