"""What is staged decides what is written: the rules of a commit, once for every face.

Each verb is one atomic change per session. A session that was ended meanwhile stays ended: the write is dropped
and counted, and an awaited verb raises.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from sessiondb.clients import note_request
from sessiondb.core import codec
from sessiondb.core.change import Conflict, Create, Gone, Outcome, Update, new_change_id
from sessiondb.core.errors import HeadersSent, SessionEnded, StoreError
from sessiondb.core.events import EventType
from sessiondb.core.record import EndReason, Record
from sessiondb.login import admit, log_in
from sessiondb.parked import own_end
from sessiondb.renewing import renew, stage_due_rotation
from sessiondb.state import NOBODY, Delta, StagedLogin, StagedReauthentication, State
from sessiondb.writes import (
    applied,
    become_anonymous,
    issue,
    never_delivered,
    new_record,
    touch_when_due,
    touch_with,
    whole,
    why_gone,
    write_after_end,
)


async def save(session: dict[str, Any], state: State) -> None:
    """Commit, and raise ``SessionEnded`` if the session was gone."""
    reason = await commit(session, state)
    if reason is not None:
        raise SessionEnded(why_gone(reason), reason=reason)


async def commit(session: dict[str, Any], state: State) -> str | None:
    """Write what is staged. Returns why the session was gone, if it was and the write was dropped.

    Raises ``SessionDataError`` before anything is stored, ``StoreError``, ``LoginRefused``, ``RateLimited``,
    ``HeadersSent``.
    """
    first = note_use(state)
    delta = state.delta(session)
    if state.staged is None and delta is None:
        if first and state.record is not None and not state.rests:
            touch_when_due(state, state.record)
        return None
    while state.committing:
        # Another task of this request is at it: what it leaves to do is known when it has done.
        await _turn(state)
        delta = state.delta(session)
    state.committing = True
    try:
        record = state.record
        if state.staged is None and delta is not None and record is not None:
            # The ordinary write. Here and not in a function: another coroutine costs every request that waits.
            change = _update_of(state, record, delta)
            outcome = state.runtime.applied(await state.runtime.apply_soon(change))
            return _settle(session, state, record, change, outcome)
        return await _commit(session, state, delta)
    finally:
        state.committing = False
        if state.waiting is not None:
            waiting, state.waiting = state.waiting, None
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)


async def _turn(state: State) -> None:
    """Wait until the commit under way is over. Cheaper than a lock that every commit would need."""
    if state.waiting is None:
        state.waiting = []
    waiter = asyncio.get_running_loop().create_future()
    state.waiting.append(waiter)
    await waiter


def is_settled(session: dict[str, Any], state: State) -> bool:
    """Whether the store has all that ``session`` has; if so, the use of the session has been noted.

    Asked three times in each request, so quick to say yes.
    """
    if state.staged is not None or state.views is not None:
        return False
    if state.handed_out:
        encoded = codec.encode_unchecked(session)
        if encoded != state.base:
            state.encoded = encoded
            return False
        if not state.noted and note_use(state):
            if state.staged is not None:
                return False
            if state.record is not None and not state.rests:
                touch_when_due(state, state.record)
        return True
    return not state.written


def note_use(state: State) -> bool:
    """True once in a request that was handed its session. A rotation that is due is staged then."""
    if state.noted or not state.handed_out:
        return False
    state.noted = True
    record = state.record
    if record is not None:
        note_request(state, record)
        if state.runtime.policies.rotates and state.staged is None:
            stage_due_rotation(state, record)
    return True


async def _commit(session: dict[str, Any], state: State, delta: Delta | None) -> str | None:
    staged = state.staged
    if staged == "logout":
        await _log_out(session, state)
        return None
    if isinstance(staged, StagedLogin):
        await log_in(session, state, staged)
        return None
    if state.record is None:
        state.staged = None
        if session:
            await _create(session, state)
        return None
    if staged is None and delta is None:
        return None
    return await _update(session, state, state.record, delta or Delta({}, frozenset(), state.base))


async def _create(session: dict[str, Any], state: State) -> None:
    if state.headers_sent:
        raise HeadersSent("A session cannot be created after the response headers have left.")
    runtime = state.runtime
    await runtime.ready()  # its clock dates what is new
    if state.visitor is not NOBODY and not state.stands_in:  # a job is no visitor
        runtime.abuse.begin_session(runtime, state.visitor.ip)
    promised, state.promised = state.promised, None
    record, issued = new_record(runtime, data=whole(session, runtime), client=state.client(), issued=promised)
    event = runtime.event(EventType.SESSION_CREATED, record=record, ip=state.visitor.ip)
    with never_delivered(runtime, record):
        applied(await runtime.apply_one(Create(record), event))
    state.adopt(record, issued)
    issue(state, issued)


async def _update(session: dict[str, Any], state: State, record: Record, delta: Delta) -> str | None:
    staged = state.staged
    renewed = await renew(state, record, _update_of(state, record, delta))
    state.staged = None
    reason = _settle(session, state, renewed.record, renewed.change, renewed.outcome)
    if renewed.issued is not None and reason is None:
        state.held = renewed.issued
        # The old secret still opens a rotated session, but not one where nothing of it was left.
        issue(state, renewed.issued, undelivered=staged != "rotate")
    if isinstance(staged, StagedReauthentication) and staged.links and reason is None:
        refused = await admit(state.runtime, renewed.record, state.began_at, staged.links, limited=False)
        if refused is not None:
            become_anonymous(session, state)
            state.outgoing, state.undelivered = False, False
            raise refused
    return reason


def _update_of(state: State, record: Record, delta: Delta) -> Update:
    """The change that writes ``delta``."""
    return Update(
        sid=record.sid,
        id=new_change_id(),
        put=delta.put,
        remove=delta.remove,
        touch=touch_with(state, record, state.runtime.now()),
        seen=None if state.stale else record,
        whole=delta.whole,
    )


def _settle(session: dict[str, Any], state: State, record: Record, change: Update, outcome: Outcome) -> str | None:
    """What ``outcome`` makes of this request's session. Returns why it was gone, if it was."""
    if isinstance(outcome, Gone):
        return write_after_end(session, state, record, outcome)
    _land(state, record, change)
    return None


def _land(state: State, record: Record, change: Update) -> None:
    if change.touch is not None or change.rotate is not None or change.sign_in is not None:
        record = _landed(record, change)
    state.record = record
    state.base = change.whole
    # Others may have written other keys: this is the request's own view, not the record's data.
    state.stale = True


def _landed(record: Record, change: Update) -> Record:
    fields: dict[str, object] = {}
    if change.touch is not None:
        fields["last_seen_at"] = change.touch.at
    if change.rotate is not None:
        fields.update(
            previous_hash=change.rotate.if_secret,
            secret_hash=change.rotate.secret_hash,
            rotated_at=change.rotate.at,
            confirmed_at=None,
        )
    if change.sign_in is not None:
        sign_in = change.sign_in
        fields.update(authenticated_at=sign_in.at, auth=sign_in.auth, lifetime=sign_in.lifetime)
        fields.update(idle=sign_in.idle, absolute=sign_in.absolute)
    return msgspec.structs.replace(record, **fields)


async def _log_out(session: dict[str, Any], state: State) -> None:
    runtime, record = state.runtime, state.record
    if record is not None:
        event = runtime.event(EventType.SESSION_ENDED, record=record, reason=EndReason.LOGOUT, ip=state.visitor.ip)
        end = runtime.end_of(record, EndReason.LOGOUT)
        own = own_end(state, record)
        if own is None:
            outcome = await runtime.apply_one(end, event)
        else:
            # Nobody could go back to it.
            outcome, _ = await runtime.apply([end, own[0]], (event, own[1]))
        if isinstance(outcome, Conflict):
            raise StoreError("The store refused an unguarded end; it does not keep its contract.")
        # The client's token is dead now, whoever ended it first, and this request has asked for that.
        state.outgoing = False
        state.undelivered = False
    become_anonymous(session, state)
