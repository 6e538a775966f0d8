"""How long the audit trail is kept: events go by class and age, addresses sooner, and each time a statement says so."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import msgspec

from sessiondb.auditing import Audit
from sessiondb.core.events import EventType
from sessiondb.core.policy import SECOND
from sessiondb.core.sealing import stream_class
from sessiondb.core.statements import in_parts, spelled, statement
from sessiondb.stores.base import Position, Store
from sessiondb.timers import Timers

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

PAGE = 500
EVERY = 600.0
_AGED = "audit_aged"
_KEPT = "audit_kept"
_MOST_TEXT = 16_000
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, int]).decode
# Events that one pass purges or ages, so that nobody waits for it long.
MOST = 20_000


class Keeping:
    """The part that one event loop takes in it: every ten minutes, unless another worker has just done it."""

    def __init__(self, runtime: Runtime, audit: Audit, address_for: int | None) -> None:
        self._runtime = runtime
        self._audit = audit
        self._address_for = address_for

    def schedule(self, timers: Timers) -> None:
        """Look after what is kept, now and then."""
        timers.every("keeping", lambda: EVERY * (0.75 + secrets.randbelow(500) / 1000), self._keep_in_turn)

    async def keep(self) -> int:
        """Delete and erase what is older than it may be; of how many things. Raises ``StoreError``."""
        runtime = self._runtime
        now = runtime.now()
        async with runtime.using_store() as store:
            done = await store.expire(now, MOST)
            if runtime.assessing.policy is not None:
                await runtime.assessing.learning.fold(store)
        done += await purge(runtime, self._audit)
        if self._address_for is not None:
            done += await age(runtime, self._audit, now - self._address_for)
        return done

    async def _keep_in_turn(self) -> None:
        runtime = self._runtime
        now = runtime.now()
        async with runtime.using_store() as store:
            if now - int(await store.recall(_KEPT) or 0) < EVERY * SECOND / 2:
                return
            await store.remember(_KEPT, str(now))
        await self.keep()


async def purge(runtime: Runtime, audit: Audit) -> int:
    """Purge the events that are older than ``audit`` keeps them; how many. Raises ``StoreError``.

    From the start of each stream, in which events are in order, and no more than ``MOST``.
    """
    now = runtime.now()
    async with runtime.using_store() as store:
        through: dict[str, int] = {}
        left = MOST
        for stream in await store.streams():
            class_ = stream_class(stream.name)
            kept = None if class_ is None else audit.kept(class_)
            if kept is not None and left > 0:
                last, looked = await _last_before(store, stream.name, stream.first - 1, now - kept, left)
                if last >= stream.first:
                    through[stream.name] = last
                left -= looked
        purged = 0
        for part in in_parts(through.items()):
            details = {"through": spelled(part)}
            await store.append([statement(EventType.AUDIT_PURGED, now, details, audit.signer)])
            purged += await store.purge_events({name: numbers[-1] for name, numbers in part.items()})
    return purged


async def _last_before(store: Store, stream: str, after: int, cutoff: int, most: int) -> tuple[int, int]:
    """The number of the last event of a row of events from before ``cutoff``, and how many were looked at."""
    looked = 0
    while looked < most and (events := await store.trail(stream, after, PAGE)):
        for event in events:
            if event.at >= cutoff or event.seal is None:
                return after, looked
            after = event.seal.seq
            looked += 1
    return after, looked


async def age(runtime: Runtime, audit: Audit, cutoff: int) -> int:
    """Erase addresses and personal details from events of before ``cutoff``; of how many. Raises ``StoreError``.

    The database remembers how far each stream has come, so that none is walked twice.
    """
    async with runtime.using_store() as store:
        reached = _decode(await store.recall(_AGED) or "{}")
        streams = [one for one in await store.streams() if stream_class(one.name) is not None]
        aged, stated = 0, False
        for stream in streams:
            after = max(reached.get(stream.name, 0), stream.first - 1)
            while aged < MOST and (events := await store.trail(stream.name, after, PAGE)):
                old = [event for event in events if event.at < cutoff]
                places = [
                    Position(event.seal.stream, event.seal.seq)
                    for event in old
                    if event.seal is not None and event.seal.where_salt is not None
                ]
                if places and not stated:
                    details = {"before": cutoff}
                    await store.append([statement(EventType.AUDIT_AGED, runtime.now(), details, audit.signer)])
                    stated = True
                aged += await store.blank(places, {"where"})
                # Events of a stream are about in order: one that is young ends the walk, until it is old itself.
                young = next((at for at, event in enumerate(events) if event.at >= cutoff), len(events))
                if young:
                    last = events[young - 1].seal
                    after = after + young if last is None else last.seq
                if young < len(events):
                    break
            reached[stream.name] = after
        await _remember(store, {one.name: reached[one.name] for one in streams})
    return aged


async def _remember(store: Store, reached: dict[str, int]) -> None:
    text = _encode(reached).decode()
    while len(text) > _MOST_TEXT:
        # The streams with the fewest aged events are the cheapest to walk again.
        reached = dict(sorted(reached.items(), key=lambda one: -one[1])[: len(reached) * 3 // 4])
        text = _encode(reached).decode()
    await store.remember(_AGED, text)
