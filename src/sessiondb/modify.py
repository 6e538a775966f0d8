"""Compare and set: run a function on the freshest data until its result lands unchallenged."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from sessiondb.commit import save
from sessiondb.core import codec
from sessiondb.core.change import Applied, Gone, Update, new_change_id, remember
from sessiondb.core.errors import SessionEnded, StoreError
from sessiondb.core.record import Record
from sessiondb.state import State, difference
from sessiondb.turn import Turn
from sessiondb.writes import touch_with, why_gone, write_after_end

Result = TypeVar("Result")

# Each time one of the other processes was first: among eight of the same speed, one in a million comes so far.
MODIFY_TRIES = 100


async def modify(session: dict[str, Any], state: State, change: Callable[[dict[str, Any]], Result]) -> Result:
    """See ``Session.modify``."""
    if state.staged is not None:
        await save(session, state)
    record = state.record
    if record is None:
        result = await _run(change, session)
        state.written = True
        await save(session, state)
        return result
    turns = state.runtime.modifying
    turn = turns.get(record.sid)
    if turn is None:
        turn = turns[record.sid] = Turn()
    turn.waiting += 1
    try:
        # Within a process modifications take turns; only other processes make one try again.
        async with turn.lock:
            return await _modify_in_turn(session, state, record, turn, change)
    finally:
        turn.waiting -= 1
        if turn.waiting == 0:
            del turns[record.sid]


async def _modify_in_turn(
    session: dict[str, Any],
    state: State,
    record: Record,
    turn: Turn,
    change: Callable[[dict[str, Any]], Result],
) -> Result:
    runtime = state.runtime
    staged = state.delta(session)
    current = turn.latest if turn.latest is not None and turn.latest.rev > record.rev else record
    if state.stale and current is record:
        current = await _reload(session, state, record)
    give_up_at = time.monotonic() + runtime.timeout
    for attempt in range(MODIFY_TRIES):
        merged = codec.merge(current.data, staged.put, staged.remove) if staged is not None else current.data
        values = codec.decode_data(merged)
        result = await _run(change, values)
        delta = difference(current.data, values)
        if not delta:
            _show(session, state, current, current.data, values)
            return result
        data = delta.whole
        codec.check_size(len(data), runtime.max_session_bytes, delta.largest)
        if delta.put:
            codec.check_keys(values, runtime.max_keys)
        update = Update(
            sid=current.sid,
            id=new_change_id(),
            put=delta.put,
            remove=delta.remove,
            touch=touch_with(state, current, runtime.now()),
            if_rev=current.rev,
            seen=current,
            whole=data,
        )
        outcome = await runtime.apply_one(update)
        if isinstance(outcome, Applied):
            # One more than the guard, whatever the answer says: after a lost reply it may name a later revision,
            # which holds what others have written since.
            landed = msgspec.structs.replace(
                current, rev=current.rev + 1, data=data, last_changes=remember(update.id, current.last_changes)
            )
            turn.latest = landed
            _show(session, state, landed, data, values)
            return result
        if isinstance(outcome, Gone):
            reason = write_after_end(session, state, record, outcome)
            raise SessionEnded(why_gone(reason), reason=reason)
        current = outcome.record
        if time.monotonic() > give_up_at:
            break
        if attempt:
            # Short: while one pauses, the others go on.
            await asyncio.sleep(random.random() * min(0.02, 0.002 * attempt))  # noqa: S311  jitter, not a secret
    raise StoreError(
        f"session.modify gave way to other writers {attempt + 1} times. Write to this session less often, or keep "
        "what is shared by many in a table of your own.",
        outcome="conflict",
    )


async def _run(change: Callable[[dict[str, Any]], Result], values: dict[str, Any]) -> Result:
    result = change(values)
    if inspect.isawaitable(result):
        return cast("Result", await result)
    return result


async def _reload(session: dict[str, Any], state: State, record: Record) -> Record:
    fresh = (await state.runtime.load([record.sid]))[0]
    if fresh is None or fresh.ended_at is not None:
        reason = write_after_end(session, state, record, Gone(fresh.end_reason if fresh is not None else None))
        raise SessionEnded(why_gone(reason), reason=reason)
    return fresh


def _show(session: dict[str, Any], state: State, record: Record, data: bytes, values: dict[str, Any]) -> None:
    dict.clear(session)
    dict.update(session, values)
    state.record, state.base, state.stale = record, data, False
    state.reread_views()
