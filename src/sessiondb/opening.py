"""From the tokens that a client presents to its living session, or to none."""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest

from sessiondb.core.change import Confirm, Gone, Update, new_change_id
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import EventType
from sessiondb.core.presented import Presented
from sessiondb.core.record import EndReason, Record, is_impersonated
from sessiondb.core.verify import Verdict, verify
from sessiondb.noticing import may_go_on, token_reused
from sessiondb.parked import end_own, goes_on
from sessiondb.session import Session, new_session
from sessiondb.state import State

_SERVE = Verdict.SERVE  # a member of an enumeration is looked up slowly
_SERVED = (_SERVE, Verdict.SERVE_AND_CONFIRM, Verdict.SERVE_AND_RESEND)


def open_near(state: State, presented: Presented) -> Session | None:
    """The session that ``presented`` opens, by a record that is held near; ``None``: the database has to be asked.

    A record that may be old serves, if it does so without further ado, and decides nothing else: whoever holds a secret
    that it does not know may hold a newer one, and what it says of an end, or of an impersonation, may be over.
    """
    runtime = state.runtime
    near = runtime.near
    record = None if near is None else near.cached(presented.sid)
    if record is None:
        return None
    session = open_plainly(state, presented, record)
    if session is None:
        runtime.counters["near_doubted"] += 1
        return None
    if runtime.guards_sessions and not may_go_on(state, record):
        state.forget()
        return new_session(state)
    state.stale = True
    return session


def open_plainly(state: State, presented: Presented, record: Record) -> Session | None:
    """The session of ``record`` if ``presented`` is simply good for it, as nearly always; ``None``: look closer."""
    if (
        record.ended_at is not None
        or state.runtime.caps.deadline(record) <= state.began_at
        or verify(record, presented, state.began_at) is not _SERVE
        or is_impersonated(record.auth)
    ):
        return None
    state.adopt(record, presented)
    try:
        return new_session(state)
    except SessionDataError:
        state.forget()
        return None


def open_loaded(state: State, presented: Presented, record: Record | Exception | None) -> Session | None:
    """The session of what ``Runtime.load_soon`` has answered, as ``open_plainly``."""
    runtime = state.runtime
    if type(record) is not Record or runtime.guards_sessions or runtime.reads.lasting:
        return None
    return open_plainly(state, presented, record)


async def open_closely(state: State, presented: Presented, answer: Record | Exception | None) -> Session:
    """The session that one token opens, of whose record ``Runtime.load_soon`` has answered. See ``open_session``."""
    record = state.runtime.loaded(answer)
    verdict = _judge(state, record, presented)
    if record is None or verdict is None:
        if record is not None and is_impersonated(record.auth):
            await end_own(state, record, state.ended_reason)
        return new_session(state)
    return await _open(state, record, presented, verdict)


async def open_session(state: State, presented: Sequence[Presented]) -> Session:
    """The session that the tokens open: exactly one of them must be alive. Else an empty, anonymous one.

    An unknown token is never adopted. Raises ``StoreUnavailable``.
    """
    if len(presented) == 1:
        return await open_closely(state, presented[0], await state.runtime.load_soon(presented[0].sid))
    records = await state.runtime.load([one.sid for one in presented])
    judged = [(record, one, _judge(state, record, one)) for record, one in zip(records, presented, strict=True)]
    alive = [(record, one, verdict) for record, one, verdict in judged if record is not None and verdict]
    if len(alive) != 1:
        if alive:
            _collision(state, [record for record, _, _ in alive])
        return new_session(state)
    state.ended_reason = None  # what an older cookie says
    return await _open(state, *alive[0])


async def _open(state: State, record: Record, presented: Presented, verdict: Verdict) -> Session:
    """The session of a living ``record``."""
    state.adopt(record, presented)
    try:
        session = new_session(state)
    except SessionDataError as error:
        return _quarantine(state, record, error)
    if state.runtime.guards_sessions and not may_go_on(state, record):
        state.forget()
        return new_session(state)
    try:
        living = verdict is _SERVE or await _settle_rotation(state, record, presented, verdict)
        if living and is_impersonated(record.auth):
            living = await goes_on(state, record)
            if not living:
                state.outgoing = None
    except StoreError:
        state.forget()
        raise
    if not living:
        state.forget()
        return new_session(state)
    return session


def _judge(state: State, record: Record | None, presented: Presented) -> Verdict | None:
    """How to serve ``presented``; ``None``: not at all."""
    runtime = state.runtime
    if record is None:
        runtime.abuse.bad_token(runtime, state.visitor.ip, "unknown")
        return None
    if record.ended_at is not None:
        runtime.ended(record.sid, record.end_reason)
        _tell_why(state, record, presented, record.end_reason)
        return None
    now = runtime.now()
    deadline = runtime.caps.deadline(record)
    if deadline <= now:
        # Seen as expired is ended: raising the policy later must not bring it back.
        reason = runtime.caps.expiry_reason(record)
        runtime.end_later(record, reason, at=deadline)
        _tell_why(state, record, presented, reason)
        return None
    verdict = verify(record, presented, now)
    if verdict in _SERVED:
        return verdict
    if verdict is Verdict.REUSE:
        if runtime.end_later(record, EndReason.REUSE, ip=state.visitor.ip):
            runtime.background.event(runtime.event(EventType.TOKEN_REUSE, record=record, ip=state.visitor.ip))
            token_reused(state, record)
            runtime.background.hurry()  # somebody else may hold the current secret
        state.ended_reason = EndReason.REUSE.value
    elif verdict is Verdict.FORGED:
        runtime.abuse.bad_token(runtime, state.visitor.ip, "forged")
    else:
        runtime.counters["token_stale"] += 1
    return None


def _tell_why(state: State, record: Record, presented: Presented, reason: str | None) -> None:
    # Only somebody who has held this session's token learns how it ended.
    held = compare_digest(presented.series_hash, record.series_hash)
    if held:
        state.ended_reason = reason
    state.runtime.abuse.bad_token(state.runtime, state.visitor.ip, "ended" if held else "forged")


def _collision(state: State, records: Sequence[Record]) -> None:
    runtime = state.runtime
    for record in records:
        runtime.background.event(runtime.event(EventType.COOKIE_COLLISION, record=record, ip=state.visitor.ip))


def _quarantine(state: State, record: Record, error: SessionDataError) -> Session:
    runtime = state.runtime
    runtime.background.event(
        runtime.event(EventType.SESSION_QUARANTINED, record=record, details={"error": str(error)[:200]})
    )
    state.forget()
    return new_session(state)


async def _settle_rotation(state: State, record: Record, presented: Presented, verdict: Verdict) -> bool:
    """Confirm a rotation that the client has now shown to know of, or tell it once more. False: it is over."""
    if verdict is Verdict.SERVE_AND_RESEND:
        state.held = state.outgoing = presented.token().rotated(record.salt or b"")
        return True
    confirm = Confirm(if_secret=record.secret_hash, at=state.runtime.now())
    outcome = await state.runtime.apply_one(Update(sid=record.sid, id=new_change_id(), confirm=confirm))
    state.stale = True
    return not isinstance(outcome, Gone)
