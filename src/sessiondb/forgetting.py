"""``db.forget``: a person is erased, and the audit trail stays as sound as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sessiondb import usage_merging
from sessiondb.core.events import Event, EventType
from sessiondb.core.record import EndReason
from sessiondb.core.sealing import Group
from sessiondb.core.statements import in_parts, spelled, statement
from sessiondb.ending import end_user
from sessiondb.stores.base import EventQuery, Position, Store

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

PAGE = 500


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What ``db.forget`` has done: how many sessions were deleted, and from how many events the person was erased."""

    sessions: int
    events: int


async def forget(runtime: Runtime, user_id: str, actor: str | None = None) -> Forgotten:
    """Erase ``user_id``: sessions living or ended, the history of logins, and the personal fields of their events.

    Raises ``StoreError``; then call it again, which goes on where it stopped.
    """
    if actor == user_id:
        actor = None  # who is to be forgotten cannot be named
    await runtime.ready()
    await end_user(runtime, user_id, EndReason.REVOKED)
    await runtime.background.flush()
    async with runtime.using_store() as store:
        # The address in an event is that of whoever has acted, or else of whom it is about.
        about: tuple[Group, ...] = ("who", "where")
        events = await _erase(runtime, store, EventQuery(user_id=user_id, limit=PAGE), about, actor)
        events += await _erase(runtime, store, EventQuery(actor=user_id, limit=PAGE), ("actor", "where"), actor)
        # Before the store has what was overwritten cleaned away.
        await usage_merging.forget(runtime, user_id)
        sessions = await store.forget_user(user_id)
    return Forgotten(sessions, events)


async def _erase(runtime: Runtime, store: Store, query: EventQuery, groups: Sequence[Group], actor: str | None) -> int:
    """State what is to be erased, then erase it, until the query finds no more."""
    erased = 0
    signer = runtime.auditing.audit.signer
    while found := (await store.events(query)).events:
        for part in in_parts(_place(event) for event in found):
            details = {"groups": " ".join(groups), "places": spelled(part)}
            stated = statement(EventType.USER_FORGOTTEN, runtime.now(), details, signer)
            await store.append([replace(stated, actor=actor)])
            places = [Position(stream, number) for stream, numbers in part.items() for number in numbers]
            erased += await store.blank(places, set(groups))
    return erased


def _place(event: Event) -> Position:
    if event.seal is None:
        raise RuntimeError("the store has given an event without its seal")
    return Position(event.seal.stream, event.seal.seq)
