"""The pieces that every write is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sessiondb.core import codec, token
from sessiondb.core.change import Applied, Gone, Outcome, Touch, new_change_id
from sessiondb.core.errors import StoreError
from sessiondb.core.events import EventType
from sessiondb.core.policies import DEFAULT
from sessiondb.core.record import Auth, EndReason, Record, encode_auth
from sessiondb.core.token import Token
from sessiondb.runtime import Runtime
from sessiondb.state import State


def new_record(
    runtime: Runtime,
    *,
    data: bytes,
    client: bytes = b"{}",
    user_id: str | None = None,
    lifetime: str = DEFAULT,
    auth: Auth | None = None,
    issued: Token | None = None,
    risk: bytes = b"{}",
) -> tuple[Record, Token]:
    """A record for a new session by the policy that ``lifetime`` names, and its token."""
    now = runtime.now()
    issued = issued or token.mint(now)
    lifetimes = runtime.caps.of(lifetime)
    record = Record(
        sid=issued.sid,
        series_hash=token.digest(issued.series),
        secret_hash=token.digest(issued.secret),
        user_id=user_id,
        last_changes=new_change_id(),
        created_at=now,
        last_seen_at=now,
        idle=lifetimes.idle,
        absolute=lifetimes.absolute,
        lifetime=lifetime,
        check_at=now + min(lifetimes.idle, lifetimes.absolute),
        authenticated_at=now if user_id is not None else None,
        client_first=runtime.clients.as_first(client),
        client_last=client,
        auth=encode_auth(auth) if auth is not None else b"{}",
        risk=risk,
        data=data,
    )
    return record, issued


@contextmanager
def never_delivered(runtime: Runtime, record: Record) -> Iterator[None]:
    """End ``record`` if the block fails: it may have been written, and nobody will ever hold its token."""
    try:
        yield
    except BaseException:
        runtime.end_later(record, EndReason.UNDELIVERED)
        raise


def whole(session: dict[str, Any], runtime: Runtime) -> bytes:
    """All of ``session`` as JSON. Raises ``SessionDataError`` for what cannot be stored, or is too much."""
    codec.check_keys(session, runtime.max_keys)
    for key in session:
        codec.check_key(key)
    data = codec.encode_data(session)
    if len(data) > runtime.max_session_bytes:
        sizes = {key: len(codec.encode_value(key, value)) for key, value in session.items()}
        codec.check_size(len(data), runtime.max_session_bytes, max(sizes, key=sizes.__getitem__))
    return data


def applied(outcome: Outcome) -> None:
    """Raise unless a create has landed."""
    if not isinstance(outcome, Applied):
        raise StoreError("A new session met an existing one of the same id; nothing was stored.")


def issue(state: State, issued: Token, *, undelivered: bool = True) -> None:
    """Have the response carry ``issued``. ``undelivered``: without it, nobody could open the session."""
    state.outgoing = issued
    state.undelivered = undelivered


def touch_with(state: State, record: Record, now: int) -> Touch | None:
    """A touch for a change that is written anyway, when one is due."""
    if now - record.last_seen_at < state.runtime.touch_interval(record) and not state.touch_due:
        return None
    state.touch_due = False
    state.runtime.usage.seen(record, now, record.last_seen_at)
    return Touch(now, state.runtime.clients.touched(state, record, now))


def touch_when_due(state: State, record: Record) -> None:
    """Queue a touch if the last one, written or waiting, is old enough."""
    background = state.runtime.background
    if not state.touch_due:
        interval = state.runtime.touch_interval(record)
        due_at = record.last_seen_at + interval
        if state.began_at >= due_at:
            due_at = background.seen(record.sid) + interval
        if state.began_at < due_at:
            state.runtime.clients.rests(record, due_at, state.runtime.caps)
            return
    touch = touch_with(state, record, state.began_at)
    if touch is not None:
        background.touch(record.sid, touch)


def write_after_end(session: dict[str, Any], state: State, record: Record, gone: Gone) -> str:
    """Count a write that came too late, and forget the session. Returns why it was ended."""
    runtime = state.runtime
    reason = gone.reason or "unknown"
    runtime.background.event(
        runtime.event(EventType.WRITE_AFTER_END, record=record, reason=reason, ip=state.visitor.ip)
    )
    runtime.ended(record.sid, reason)
    become_anonymous(session, state)
    # Whatever token waited for the response is dead now: it could only replace that of a login made meanwhile.
    state.outgoing = None
    state.undelivered = False
    state.ended_reason = reason
    return reason


def become_anonymous(session: dict[str, Any], state: State) -> None:
    """This request has no session any more."""
    dict.clear(session)
    state.forget()
    state.staged = None
    state.replaces = None
    state.reread_views()


def why_gone(reason: str) -> str:
    """What ``SessionEnded`` says."""
    return f"The session was ended ({reason}) before this could be stored."
