"""A store that finds out what became of a write whose reply was lost.

A lost reply is not a licence to repeat: the write may have landed. So the sessions are read again, and each change
is judged by what the record shows (``judge``). Nothing is repeated that could undo somebody else's write.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Literal

from sessiondb.core.change import Applied, Change, Confirm, Conflict, Create, End, Gone, Outcome, Rotate, Update
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event
from sessiondb.core.record import CHANGE_ID_BYTES, REMEMBERED_CHANGES, Record
from sessiondb.core.sealing import digest
from sessiondb.stores.base import (
    ChangeResult,
    Store,
)
from sessiondb.stores.delegating import DelegatingStore

Verdict = Outcome | Literal["again", "unknown"]


class RecoveringStore(DelegatingStore):
    """``store``, with changes of unknown outcome read again and settled; everything else passes through.

    A call that goes well costs nothing more. After a lost reply there are at most ``tries`` rounds of one ``load``
    and one ``apply``, each after a jittered pause (``pause`` seconds, doubling). What is still open then is answered
    ``StoreError(outcome="unknown")``: also where sending again was answered "not applied", because the first
    attempt may still be on its way. Nothing here limits the time of a call: ``CoalescingStore`` around it does.

    Events are sent again with the changes that are, or alone. They are written with their changes or not at all, and
    each has one place in the trail: so of two attempts only one can land, whichever comes first, and the trail tells
    which. What only the changes themselves cannot tell, such as whether an old delta has landed, is then known too.
    No call returns before it is certain that its events are written.
    """

    __slots__ = ("_pause", "_tries")

    def __init__(self, store: Store, *, tries: int = 3, pause: float = 0.02) -> None:
        super().__init__(store)
        self._tries = tries
        self._pause = pause

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """Write ``changes`` and ``events``; one result per change, in order.

        Raises ``StoreError`` if it is certain that nothing was written, or if there are only events, or only events
        are left, and it is not known whether they were.
        """
        try:
            results = await self._store.apply(changes, events)
        except StoreError as error:
            if error.outcome != "unknown" or not changes:
                raise
            return await self._recover(changes, events, [error] * len(changes))
        for result in results:
            if isinstance(result, StoreError) and result.outcome == "unknown":
                return await self._recover(changes, events, results)
        return results

    async def append(self, events: Sequence[Event]) -> None:
        """As the inner store; after a lost reply they are written again, into their places. Raises ``StoreError``."""
        try:
            await self._store.append(events)
        except StoreError as error:
            if error.outcome != "unknown":
                raise
            lost = error
        else:
            return
        for attempt in range(self._tries):
            await self._wait(attempt)
            try:
                await self._store.append(events)
            except StoreError:
                continue
            return
        raise lost

    async def _wait(self, attempt: int) -> None:
        # Jitter: whoever lost a reply in the same moment does not come back in the same moment.
        await asyncio.sleep(self._pause * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311

    async def _recover(
        self, changes: Sequence[Change], events: Sequence[Event], results: Sequence[ChangeResult]
    ) -> list[ChangeResult]:
        settled = list(results)
        at_stake = [at for at, result in enumerate(settled) if _unknown(result)]
        landed = False  # as the trail shows
        for attempt in range(self._tries):
            await self._wait(attempt)
            # Touches may be many, and are sent again whatever there is to read.
            again = [at for at in at_stake if _only_touches(changes[at])]
            to_read = [at for at in at_stake if not _only_touches(changes[at])]
            try:
                # Before the sessions: what lands between the two readings is seen in them.
                if events and await self._is_written(events[0]):
                    events, landed = (), True
                records = await self._store.load([changes[at].sid for at in to_read]) if to_read else []
            except StoreError:
                continue
            for at, record in zip(to_read, records, strict=True):
                verdict = _judge_with_events(changes[at], record, landed, bool(events))
                if verdict == "again":
                    again.append(at)
                elif verdict != "unknown":
                    settled[at] = verdict
            at_stake = again
            try:
                answers = await self._store.apply([changes[at] for at in again], events) if again else []
                if events and not again:
                    await self._store.append(events)
            except StoreError:
                continue
            if events and any(isinstance(answer, Exception) for answer in answers):
                continue  # nothing was written; if that is because of a place in the trail, the first attempt has it
            events = ()
            at_stake = []
            for at, answer in zip(again, answers, strict=True):
                if isinstance(answer, StoreError):
                    at_stake.append(at)
                else:
                    settled[at] = answer
            if not at_stake:
                break
        if events and not any(map(_unknown, settled)):
            raise StoreError(
                "The reply to a write was lost, and whether its events are in the audit trail could not be found out.",
                outcome="unknown",
            )
        return settled

    async def _is_written(self, event: Event) -> bool:
        seal = event.seal
        if seal is None:
            return False
        found = await self._store.trail(seal.stream, seal.seq - 1, 1)
        there = found[0].seal if found else None
        return there is not None and digest(found[0], there) == digest(event, seal)


def _judge_with_events(change: Change, record: Record | None, landed: bool, fenced: bool) -> Verdict:
    """``judge``, where it is known of the call that it has ``landed``, or that only one attempt can (``fenced``)."""
    verdict = judge(change, record)
    if verdict == "unknown" and fenced:
        return "again"
    if verdict == "unknown" and landed and isinstance(change, Update) and not change.guarded and record is not None:
        return Applied(record.rev)  # it lives, so it has not been refused
    return verdict


def judge(change: Change, record: Record | None) -> Verdict:
    """What became of ``change``, whose reply was lost, if its session now reads ``record``.

    An ``Outcome`` where that is certain; ``"again"`` where it has certainly not landed, or where landing twice is
    the same as once; else ``"unknown"``. All of it stays true if the lost attempt lands only after the reading: its
    id or its guard then stops the second one of the two.
    """
    if isinstance(change, Create):
        if record is None:
            return "again"
        # Nobody else can have drawn the same 128 bits, and unlike the secret they stay.
        return Applied(record.rev) if record.series_hash == change.record.series_hash else Conflict(record)
    if record is None:
        return Gone(None)  # nothing but Create makes a session
    if record.knows(change.id):
        return Applied(record.rev)
    if isinstance(change, End):
        return "again"
    if record.ended_at is not None:
        return Gone(record.end_reason)
    if change.only_touches:
        return "again"
    if change.if_rev is not None:
        return _judge_revision(change.if_rev, record)
    if len(record.last_changes) < CHANGE_ID_BYTES * REMEMBERED_CHANGES:
        return "again"  # no id was ever forgotten here, and this one is not there
    if change.rotate is not None:
        return _judge_rotation(change.rotate, record)
    if change.confirm is not None:
        return _judge_confirmation(change, change.confirm, record)
    # It may have landed and been forgotten since: sending it again could put old values over newer ones.
    return "unknown"


def _judge_revision(if_rev: int, record: Record) -> Verdict:
    if record.rev == if_rev:
        return "again"  # landing would have moved it
    # Whatever raises the revision by one puts one id in front of the remembered ones, and this change can only have
    # landed as the first after if_rev. So while no more than eight have landed since, its id would still be there.
    if record.rev - if_rev <= REMEMBERED_CHANGES:
        return Conflict(record)
    return "unknown"


def _judge_rotation(rotate: Rotate, record: Record) -> Verdict:
    if rotate.secret_hash in (record.secret_hash, record.previous_hash):
        return Applied(record.rev)  # previous: it landed, and another rotation followed
    # A secret that was replaced never comes back. (Landed, forgotten and rotated twice since would read as a conflict;
    # but the client of this change has not been answered yet, so nobody holds the secret to rotate again with.)
    return "again" if record.secret_hash == rotate.if_secret else Conflict(record)


def _judge_confirmation(change: Update, confirm: Confirm, record: Record) -> Verdict:
    if record.confirmed_at is None and record.secret_hash == confirm.if_secret:
        return "again"  # landing would have confirmed it, and only a new secret takes that back
    # Alone it is the same once or twice, but what came with it may be older than what is there now.
    return "unknown" if change.put or change.remove or change.sign_in is not None else "again"


def _only_touches(change: Change) -> bool:
    return isinstance(change, Update) and change.only_touches


def _unknown(result: ChangeResult) -> bool:
    return isinstance(result, StoreError) and result.outcome == "unknown"
