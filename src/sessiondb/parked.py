"""Sessions of people who impersonate a user, and their own sessions, which are kept aside meanwhile."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from sessiondb.core.change import End, new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventType
from sessiondb.core.record import EndReason, Record, decode_auth, is_impersonated
from sessiondb.core.token import Sid
from sessiondb.state import State
from sessiondb.writes import touch_when_due


def own_sid(record: Record) -> Sid | None:
    """The own session of whoever impersonates the user of ``record``; ``None`` where nobody does."""
    return decode_auth(record.auth).impersonator_sid if is_impersonated(record.auth) else None


async def goes_on(state: State, record: Record) -> bool:
    """Whether the own session of whoever impersonates the user of ``record`` lives; else ``record`` ends too.

    Called for such sessions alone. Whoever uses one uses the own one, which is touched with it. Raises ``StoreError``.
    """
    sid = own_sid(record)
    if sid is None:
        return True
    runtime = state.runtime
    own = runtime.loaded(await runtime.load_soon(sid))
    now = runtime.now()
    if own is not None and own.ended_at is None:
        deadline = runtime.caps.deadline(own)
        if deadline > now:
            touch_when_due(state, own)
            return True
        runtime.end_later(own, runtime.caps.expiry_reason(own), at=deadline)
    if runtime.end_later(record, EndReason.IMPERSONATION_ENDED, ip=state.visitor.ip):
        runtime.background.event(impersonation_event(state, EventType.IMPERSONATION_ENDED, record))
    state.ended_reason = EndReason.IMPERSONATION_ENDED.value
    return False


async def end_own(state: State, record: Record, reason: str | None) -> None:
    """``record`` was found over: nobody can go back to the own session of whoever had it, so that ends too.

    Not where somebody has just gone back to it. Raises nothing: the next visit tries again.
    """
    sid = own_sid(record)
    if sid is None or reason is None or reason == EndReason.IMPERSONATION_ENDED:
        return
    runtime = state.runtime
    with suppress(StoreError):
        own = runtime.loaded(await runtime.load_soon(sid))
        if own is not None and own.ended_at is None:
            runtime.end_later(own, EndReason.IMPERSONATION_ENDED, ip=state.visitor.ip)


def own_end(state: State, record: Record) -> tuple[End, Event] | None:
    """The change that ends the own session together with ``record``, and its event; ``None`` where there is none."""
    sid = own_sid(record)
    if sid is None:
        return None
    runtime, reason = state.runtime, EndReason.IMPERSONATION_ENDED
    now = runtime.now()
    event = runtime.event(EventType.SESSION_ENDED, reason=reason, ip=state.visitor.ip)
    event = replace(event, sid=sid, user_id=decode_auth(record.auth).impersonator)
    return End(sid, new_change_id(), reason, now, now + runtime.policies.keep_ended), event


def impersonation_event(state: State, type_: EventType, record: Record) -> Event:
    """What has happened to the session ``record``, and who impersonates its user."""
    auth = decode_auth(record.auth)
    return state.runtime.event(
        type_,
        record=record,
        ip=state.visitor.ip,
        actor=auth.impersonator,
        personal={"impersonator_sid": auth.impersonator_sid or ""},
    )
