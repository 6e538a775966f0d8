"""From the tokens that a client presents to its living session, or to none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from sessiondb.core.change import Confirm, Gone, Update, new_change_id
from sessiondb.core.errors import SessionDataError, StoreError
from sessiondb.core.events import EventType
from sessiondb.core.record import EndReason, Record, is_impersonated
from sessiondb.core.token import Token, matches
from sessiondb.core.verify import Verdict, verify
from sessiondb.noticing import may_go_on, token_reused
from sessiondb.parked import end_own, goes_on
from sessiondb.session import Session, new_session
from sessiondb.state import State

_SERVE = Verdict.SERVE  # a member of an enumeration is looked up slowly
_SERVED = (_SERVE, Verdict.SERVE_AND_CONFIRM, Verdict.SERVE_AND_RESEND)


def open_near(state: State, token: Token) -> Session | None:
    """The session that ``token`` opens, by a record that is held near; ``None``: the database has to be asked.

    A record that may be old serves, if it does so without further ado, and decides nothing else: whoever holds a secret
    that it does not know may hold a newer one, and what it says of an end, or of an impersonation, may be over.
    """
    runtime = state.runtime
    near = runtime.near
    record = None if near is None else near.cached(token.sid)
    if record is None:
        return None
    if not _is_served(record, state, token) or is_impersonated(record.auth):
        runtime.counters["near_doubted"] += 1
        return None
    state.adopt(record, token)
    if runtime.guards_sessions and not may_go_on(state, record):
        state.forget()
        return new_session(state)
    state.stale = True
    try:
        return new_session(state)
    except SessionDataError:
        state.forget()
        return None


async def open_session(state: State, tokens: Sequence[Token]) -> Session:
    """The session that ``tokens`` open: exactly one of them must be alive. Else an empty, anonymous one.

    An unknown token is never adopted. Raises ``StoreUnavailable``.
    """
    if len(tokens) == 1:
        token = tokens[0]
        runtime = state.runtime
        record = runtime.loaded(await runtime.load_soon(token.sid))
        verdict = _SERVE if _is_served(record, state, token) else _judge(state, record, token)
        if record is None or verdict is None:
            if record is not None and is_impersonated(record.auth):
                await end_own(state, record, state.ended_reason)
            return new_session(state)
    else:
        records = await state.runtime.load([token.sid for token in tokens])
        judged = zip(records, tokens, [_judge(state, *pair) for pair in zip(records, tokens, strict=True)], strict=True)
        alive = [(record, token, verdict) for record, token, verdict in judged if record is not None and verdict]
        if len(alive) != 1:
            if alive:
                _collision(state, [record for record, _, _ in alive])
            return new_session(state)
        record, token, verdict = alive[0]
        state.ended_reason = None  # what an older cookie says
    state.adopt(record, token)
    try:
        session = new_session(state)
    except SessionDataError as error:
        return _quarantine(state, record, error)
    if state.runtime.guards_sessions and not may_go_on(state, record):
        state.forget()
        return new_session(state)
    try:
        living = verdict is _SERVE or await _settle_rotation(state, record, token, verdict)
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


def _is_served(record: Record | None, state: State, token: Token) -> TypeGuard[Record]:
    """Whether ``token`` is simply good for ``record``, as nearly always; ``_judge`` says what else there is to it."""
    return (
        record is not None
        and record.ended_at is None
        and state.runtime.caps.deadline(record) > state.began_at
        and verify(record, token, state.began_at) is _SERVE
    )


def _judge(state: State, record: Record | None, token: Token) -> Verdict | None:
    """How to serve ``token``; ``None``: not at all."""
    runtime = state.runtime
    if record is None:
        runtime.abuse.bad_token(runtime, state.visitor.ip, "unknown")
        return None
    if record.ended_at is not None:
        runtime.ended(record.sid, record.end_reason)
        _tell_why(state, record, token, record.end_reason)
        return None
    now = runtime.now()
    deadline = runtime.caps.deadline(record)
    if deadline <= now:
        # Seen as expired is ended: raising the policy later must not bring it back.
        reason = runtime.caps.expiry_reason(record)
        runtime.end_later(record, reason, at=deadline)
        _tell_why(state, record, token, reason)
        return None
    verdict = verify(record, token, now)
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


def _tell_why(state: State, record: Record, token: Token, reason: str | None) -> None:
    # Only somebody who has held this session's token learns how it ended.
    held = matches(token.series, record.series_hash)
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


async def _settle_rotation(state: State, record: Record, token: Token, verdict: Verdict) -> bool:
    """Confirm a rotation that the client has now shown to know of, or tell it once more. False: it is over."""
    if verdict is Verdict.SERVE_AND_RESEND:
        state.token = state.outgoing = token.rotated(record.salt or b"")
        return True
    confirm = Confirm(if_secret=record.secret_hash, at=state.runtime.now())
    outcome = await state.runtime.apply_one(Update(sid=record.sid, id=new_change_id(), confirm=confirm))
    state.stale = True
    return not isinstance(outcome, Gone)
