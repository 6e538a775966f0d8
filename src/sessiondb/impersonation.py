"""Impersonation: somebody has another user's session for a while, and their own is kept aside.

Both sessions share the series of their tokens, so that a token of the own session can be made from the one that the
browser shows at the end. Meanwhile nobody holds a secret of the own session. Whichever of the two is over takes the
other with it: the own session at the next use of the other, and the other way round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from sessiondb.choosing import lifetime_for
from sessiondb.core import codec, token
from sessiondb.core.change import Applied, Create, Gone, Rotate, Update, new_change_id
from sessiondb.core.errors import LoginRefused, SessionEnded, StoreError
from sessiondb.core.events import EventType
from sessiondb.core.record import NO_SALT, Auth, EndReason, Record, decode_auth, encode_auth, is_impersonated
from sessiondb.core.token import Token
from sessiondb.login import admit
from sessiondb.parked import end_own, impersonation_event, own_end, own_sid
from sessiondb.runtime import Runtime
from sessiondb.state import State
from sessiondb.writes import (
    applied,
    become_anonymous,
    issue,
    never_delivered,
    new_record,
    touch_when_due,
    why_gone,
    write_after_end,
)

ROTATE_TRIES = 8


# -- beginning ------------------------------------------------------------------------------------------------


async def impersonate(session: dict[str, Any], state: State, user_id: str) -> None:
    """Become ``user_id``; what was staged has been committed. Raises ``SessionEnded``, ``LoginRefused``."""
    own, held = state.record, state.token
    if own is None or own.user_id is None or held is None:
        raise SessionEnded("Nobody is logged in here, so nobody can become another user.")
    if is_impersonated(own.auth):
        raise LoginRefused(
            "Somebody who impersonates a user cannot become another one; stop_impersonating() first.",
            reason="impersonation",
        )
    if own.user_id == user_id:
        raise LoginRefused("Nobody can impersonate themselves.", reason="impersonation")
    runtime = state.runtime
    record, issued = new_record(
        runtime,
        data=b"{}",
        client=state.client(),
        user_id=user_id,
        lifetime=await lifetime_for(runtime, user_id, None, False),
        issued=Token(token.mint(runtime.now()).sid, held.series, token.new_secret()),
    )
    # What was proved, and when, was proved by who sits there, and for the user of the own session.
    proofs = encode_auth(_proofs(runtime, own, record))
    record = msgspec.structs.replace(record, authenticated_at=own.authenticated_at, auth=proofs)
    with never_delivered(runtime, record):
        event = impersonation_event(state, EventType.IMPERSONATION_STARTED, record)
        applied(await runtime.apply_one(Create(record), event))
        # Without a limit: this session takes no place of the user's.
        refused = await admit(runtime, record, state.began_at, limited=False)
        if refused is None:
            try:
                parked = await _new_secret(runtime, own, token.digest(token.new_secret()))
            except BaseException as error:
                if not isinstance(error, StoreError) or error.outcome == "unknown":
                    # It may have landed, and then nobody can open the own session any more.
                    runtime.end_later(own, EndReason.UNDELIVERED, ip=state.visitor.ip)
                raise
            if isinstance(parked, Gone):
                reason = write_after_end(session, state, own, parked)
                raise SessionEnded(why_gone(reason), reason=reason)
    if refused is not None:
        raise refused
    state.parked = own
    _take(session, state, record, issued)


# -- the end --------------------------------------------------------------------------------------------------


async def stop(session: dict[str, Any], state: State) -> bool:
    """End the impersonation and go back to the own session, with a new secret. False: nobody is impersonated.

    Raises ``SessionEnded`` if either session was over.
    """
    record, held = state.record, state.token
    sid = None if record is None else own_sid(record)
    if record is None or held is None or sid is None:
        return False
    runtime = state.runtime
    end = runtime.end_of(record, EndReason.IMPERSONATION_ENDED)
    outcome = await runtime.apply_one(end, impersonation_event(state, EventType.IMPERSONATION_ENDED, record))
    if isinstance(outcome, Gone):
        await end_own(state, record, outcome.reason)
        reason = write_after_end(session, state, record, outcome)
        raise SessionEnded(why_gone(reason), reason=reason)
    become_anonymous(session, state)
    state.outgoing, state.undelivered, state.parked = False, False, None
    issued = Token(sid, held.series, token.new_secret())
    back: Record | Gone = Gone(None)
    try:
        [own] = await runtime.load([sid])
        if own is not None and own.ended_at is None and runtime.caps.deadline(own) > runtime.now():
            back = await _new_secret(runtime, own, token.digest(issued.secret))
    except BaseException:
        # Nobody can go back any more.
        lost = own_end(state, record)
        if lost is not None:
            runtime.background.end(*lost)
        raise
    if isinstance(back, Gone):
        state.ended_reason = EndReason.IMPERSONATION_ENDED.value
        raise SessionEnded(
            "The session from which the user was impersonated is over; sign in again.",
            reason=EndReason.IMPERSONATION_ENDED.value,
        )
    touch_when_due(state, back)
    _take(session, state, back, issued)
    return True


# -- parts ----------------------------------------------------------------------------------------------------


def _proofs(runtime: Runtime, own: Record, record: Record) -> Auth:
    """What the ``Auth`` of ``record`` has of the own session's."""
    proved = decode_auth(own.auth)
    # Where the user's policy lets step-ups count for longer, they are dated back: they end as in the own session.
    own_lasts, lasts = (runtime.policies.of(one).step_up_micros for one in (own, record))
    back, now = max(0, lasts - own_lasts), runtime.now()
    step_ups = tuple(replace(one, at=one.at - back) for one in proved.step_ups if now < one.at + own_lasts)
    return Auth(proved.methods, proved.level, own.user_id, own.sid, step_ups=step_ups)


async def _new_secret(runtime: Runtime, record: Record, secret_hash: bytes) -> Record | Gone:
    """``record`` with another secret, which no older one leads to; ``Gone`` if it was ended meanwhile."""
    for _ in range(ROTATE_TRIES):
        rotate = Rotate(record.secret_hash, secret_hash, NO_SALT, runtime.now())
        outcome = await runtime.apply_one(Update(sid=record.sid, id=new_change_id(), rotate=rotate))
        if isinstance(outcome, Applied):
            return msgspec.structs.replace(
                record,
                secret_hash=secret_hash,
                previous_hash=rotate.if_secret,
                salt=NO_SALT,
                rotated_at=rotate.at,
                confirmed_at=None,
                rev=outcome.rev,
            )
        if isinstance(outcome, Gone):
            return outcome
        record = outcome.record
    raise StoreError("The session kept being rotated while its user changed places.", outcome="conflict")


def _take(session: dict[str, Any], state: State, record: Record, issued: Token) -> None:
    """From now on this request has ``record``, and its client is told ``issued``."""
    dict.clear(session)
    state.reread_views()
    state.adopt(record, issued)
    # The record may be older than its data: compare-and-set reads again.
    state.stale = True
    dict.update(session, codec.decode_data(record.data))
    issue(state, issued)
