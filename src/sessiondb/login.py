"""Login is a border: a new session and the end of the old one in one batch, then the admission."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec

from sessiondb.assessing import Assessment, risk_event, seen_with
from sessiondb.choosing import lifetime_for
from sessiondb.core import codec
from sessiondb.core.change import Applied, Change, Conflict, Create, Outcome, Update, new_change_id
from sessiondb.core.client import agent_text
from sessiondb.core.errors import HeadersSent, LoginRefused
from sessiondb.core.events import EventType
from sessiondb.core.policy import OnLimit
from sessiondb.core.record import EndReason, Record, SessionInfo
from sessiondb.core.reserved import comes_along
from sessiondb.core.risk import RiskAction, encode_risk
from sessiondb.distant import look_for_distant
from sessiondb.ending import LOCKED_FOR_GOOD, link_name, revoke_all
from sessiondb.listing import session_info
from sessiondb.parked import own_end, own_sid
from sessiondb.runtime import CLOCK_WARNING, Runtime
from sessiondb.state import Delta, StagedLogin, State, difference
from sessiondb.stores.base import Login, Query
from sessiondb.suspicions import Suspicion
from sessiondb.writes import applied, issue, never_delivered, new_record, whole

CARRY_TRIES = 8


async def log_in(session: dict[str, Any], state: State, staged: StagedLogin) -> None:
    """Create the new session, end the old one, ask for admission.

    Raises ``LoginRefused``; then the visitor goes on anonymously with what they had before.
    """
    if state.headers_sent:
        raise HeadersSent("Cannot log in after the response headers have left.")
    runtime, old = state.runtime, state.replaces
    await runtime.ready()  # its clock dates what is new
    lifetime = await lifetime_for(runtime, staged.user_id, staged.policy, staged.remember)
    assessment = await _assess(session, state, staged, old)
    state.write_back(session)
    record, issued = new_record(
        runtime,
        data=whole(session, runtime),
        client=state.client(),
        user_id=staged.user_id,
        lifetime=lifetime,
        auth=staged.auth,
        issued=staged.token,
        risk=b"{}" if assessment is None else encode_risk(assessment.verdict),
    )
    event = runtime.event(
        EventType.LOGIN, record=record, ip=state.visitor.ip, personal=seen_with(record.client_last, old)
    )
    changes: list[Change] = [Create(record, staged.links)]
    events = [event]
    if assessment is not None and assessment.verdict.findings:
        events.append(risk_event(runtime, assessment.verdict, staged.user_id, record.sid, state.visitor.ip))
    if old is not None:
        changes.append(runtime.end_of(old, EndReason.LOGIN, if_rev=old.rev))
        if (own := own_end(state, old)) is not None:
            changes.append(own[0])
            events.append(own[1])
    with never_delivered(runtime, record):
        results = await runtime.apply(changes, events)
        applied(results[0])
        if old is not None:
            record, old = await _carry_over(session, runtime, record, old, staged, results[1])
        refused = await admit(runtime, record, state.began_at, staged.links, on_limit=staged.on_limit)
    state.staged = None
    state.replaces = None
    if refused is not None:
        _go_on_anonymously(session, state, old)
        raise refused
    state.adopt(record, issued)
    issue(state, issued)
    if assessment is not None:
        runtime.assessing.accepted(assessment)
        state.verdict = assessment.verdict
        runtime.suspicions.tell(_suspicion(runtime, assessment, record.sid))
        if assessment.position is not None:
            runtime.suspicions.do(look_for_distant(runtime, record.sid, assessment))


async def _assess(session: dict[str, Any], state: State, staged: StagedLogin, old: Record | None) -> Assessment | None:
    """What the login looks like. Raises ``LoginRefused`` where the policy says so, before anything is stored."""
    runtime, visitor, user_id = state.runtime, state.visitor, staged.user_id
    if runtime.assessing.policy is None or visitor.is_nobody or staged.auth.impersonator is not None:
        return None
    agent = visitor.agent
    seen = runtime.assessing.seen(visitor.ip, None if agent is None else agent_text(agent[1]))
    assessment = await runtime.assessing.login(user_id, seen)
    if assessment is None or assessment.verdict.dry_run or assessment.verdict.action not in _REFUSING:
        return assessment
    verdict = assessment.verdict
    runtime.counters[EventType.LOGIN_REFUSED.value] += 1
    event = risk_event(runtime, verdict, user_id, None, visitor.ip, seen.user_agent)
    refused = replace(event, type=EventType.LOGIN_REFUSED, reason="risk", details={})
    if runtime.audit_required:
        async with runtime.using_store() as store:
            await store.append([event, refused])
    else:
        runtime.background.event(event)
        runtime.background.event(refused)
    if verdict.action is RiskAction.REVOKE_USER:
        await revoke_all(runtime, user_id, EndReason.RISK)
    if old is not None:
        await runtime.apply_one(
            runtime.end_of(old, EndReason.LOGIN),
            runtime.event(EventType.SESSION_ENDED, record=old, reason=EndReason.LOGIN, ip=visitor.ip),
        )
    state.staged = state.replaces = None
    _go_on_anonymously(session, state, old)
    runtime.suspicions.tell(_suspicion(runtime, assessment, None))
    raise LoginRefused(f"This login looks like somebody else's: {'; '.join(verdict.reasons)}.", reason="risk")


def _suspicion(runtime: Runtime, assessment: Assessment, sid: str | None) -> Suspicion:
    seen = replace(assessment.seen, ip=runtime.clients.privacy.stored(assessment.seen.ip).ip)
    return Suspicion(assessment.verdict, assessment.user_id, sid, seen)


_REFUSING = frozenset({RiskAction.REFUSE, RiskAction.REVOKE_SESSION, RiskAction.REVOKE_USER})


async def _carry_over(
    session: dict[str, Any], runtime: Runtime, record: Record, old: Record, staged: StagedLogin, ended: Outcome
) -> tuple[Record, Record]:
    """End ``old`` at the very revision whose data the new session has got. Returns the new record and that one."""
    mine = difference(old.data, codec.decode_data(record.data))
    written = mine.put.keys() | mine.remove
    seen = old
    for tries_left in range(CARRY_TRIES, 0, -1):
        if not isinstance(ended, Conflict):
            break
        current = ended.record
        if current.user_id is None:
            since = difference(seen.data, codec.decode_data(current.data))
            keys = (since.put.keys() | since.remove) - written
            wanted = keys if staged.keep is None else {key for key in keys if comes_along(key, staged.keep)}
            record = await _copy(session, runtime, record, since, wanted)
        seen = current
        # The last try ends it whatever its revision: a login must not leave the old token alive.
        guard = current.rev if tries_left > 1 else None
        ended = await runtime.apply_one(runtime.end_of(current, EndReason.LOGIN, if_rev=guard))
    return record, seen


async def _copy(
    session: dict[str, Any], runtime: Runtime, record: Record, delta: Delta, wanted: Collection[str]
) -> Record:
    put = {key: value for key, value in delta.put.items() if key in wanted}
    remove = frozenset(key for key in delta.remove if key in wanted)
    if not put and not remove:
        return record
    landed = await runtime.apply_one(Update(sid=record.sid, id=new_change_id(), put=put, remove=remove))
    if not isinstance(landed, Applied):
        return record
    for key in remove:
        dict.pop(session, key, None)
    dict.update(session, {key: codec.decode_value(value) for key, value in put.items()})
    return msgspec.structs.replace(record, rev=landed.rev, data=codec.merge(record.data, put, remove))


def _go_on_anonymously(session: dict[str, Any], state: State, old: Record | None) -> None:
    # Refusing a login must not empty a cart; but nothing that was written for the user may stay.
    state.forget()
    state.reread_views()
    dict.clear(session)
    if old is not None and old.user_id is None:
        state.stands_in = True
        dict.update(session, codec.decode_data(old.data))


async def admit(
    runtime: Runtime,
    record: Record,
    began_at: int,
    links: Sequence[bytes] = (),
    *,
    on_limit: OnLimit | None = None,
    limited: bool = True,
) -> LoginRefused | None:
    """Ask the store whether the login that wrote ``record`` may stay; the error to raise if not.

    ``on_limit`` replaces the policy's, ``limited=False``: the limit does not count.
    """
    policies, now = runtime.policies, runtime.now()
    policy = policies.of(record)
    on_limit = on_limit or policy.on_limit
    login = Login(
        sid=record.sid,
        user_id=cast("str", record.user_id),
        began_at=began_at,
        now=now,
        caps=policies.caps,
        per_user=policy.per_user if limited else None,
        on_limit="end_oldest" if on_limit == "end_oldest" else "refuse",
        purge_at=now + policies.keep_ended,
        also=[link_name(link) for link in links],
    )
    async with runtime.using_store() as store:
        admission = await store.admit(login)
    runtime.report_ended(admission.ended)
    if admission.refused is None:
        return None
    # A lock lasts into the future; by less than that, clocks may differ.
    forbidden = admission.not_before
    locked = forbidden is not None and forbidden > now + CLOCK_WARNING
    reason = "locked" if locked else admission.refused
    runtime.background.event(runtime.event(EventType.LOGIN_REFUSED, record=record, reason=reason))
    if locked:
        for_good = forbidden == LOCKED_FOR_GOOD
        return LoginRefused(
            "This user is locked; db.unlock_user() lets them log in again.",
            reason="locked",
            until=None if for_good else forbidden,
        )
    if admission.refused == "limit":
        return LoginRefused(
            f"The user has as many sessions as may be: Policy(per_user={policy.per_user}).",
            reason="limit",
            sessions=await _sessions_of(runtime, login.user_id) if on_limit == "ask" else (),
        )
    return LoginRefused(
        "All sessions of this user were revoked after this login's request had begun; log in again.",
        reason="revoked",
    )


async def _sessions_of(runtime: Runtime, user_id: str) -> list[SessionInfo]:
    """The sessions among which the user may choose: their own, without their data."""
    query = Query(now=runtime.now(), caps=runtime.caps, user_id=user_id)
    async with runtime.using_store() as store:
        page = await store.find(query)
    return [session_info(runtime, record, with_data=False) for record in page.records if own_sid(record) is None]
