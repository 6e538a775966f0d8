"""What happens when the client of a session changes while it lives: nothing, a note, or what ``RiskPolicy`` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sessiondb.assessing import risk_event
from sessiondb.core.agents import parse_agent
from sessiondb.core.alerts import Circumstances, countries_apart
from sessiondb.core.change import Update, new_change_id
from sessiondb.core.client import Client, Sighting, client_of, last_sighting, restated
from sessiondb.core.countries import position_of
from sessiondb.core.hijack import Sight, session_hijack
from sessiondb.core.networks import levels
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason, Record, decode_auth, is_impersonated
from sessiondb.core.reserved import RISK
from sessiondb.core.risk import Finding, RiskAction, RiskLevel, Rule, Verdict
from sessiondb.suspicions import Suspicion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sessiondb.runtime import Runtime
    from sessiondb.state import State

_ENDING = frozenset({RiskAction.REVOKE_SESSION, RiskAction.REVOKE_USER, RiskAction.REFUSE})


def client_changed(state: State, record: Record, before: Client, now: Client) -> None:
    """A request of ``record`` comes from ``now``, and the one before came from ``before``.

    Called while a request is served, for each one whose address or user agent differs from that of the one before in
    this process, and when a touch is due (then both may be equal). Both are what ``Privacy`` lets be kept; the
    request's own address is ``state.visitor.ip``. Must not wait, and must not raise. ``counters`` has
    ``client_changes``.
    """
    if (now.ip, now.user_agent) == (before.ip, before.user_agent) or before.ip is before.user_agent is None:
        return
    state.runtime.counters["client_changes"] += 1
    if not state.guarded:
        _notice(state, record, before, now)


def may_go_on(state: State, record: Record) -> bool:
    """Whether this request may have its session, where the policy keeps some out: asked before a handler has it."""
    state.guarded = True
    runtime, visitor = state.runtime, state.visitor
    entry = runtime.clients.entries.get(record.sid)
    if entry is not None and (visitor.ip, visitor.agent) == (entry.ip, entry.agent):
        return True
    if entry is not None and entry.agent is not None:
        before: Sighting = entry.seen
    else:
        before = restated(last_sighting(record.client_last), runtime.clients.privacy)
    agent = visitor.agent
    now = runtime.clients.sighting(visitor.ip, agent[1] if agent is not None else None)
    if now == before or before == Sighting():
        return True
    verdict = _notice(state, record, client_of(before), client_of(now))
    return verdict is None or verdict.dry_run or verdict.action not in _ENDING


def token_reused(state: State, record: Record) -> None:
    """A secret that was replaced was presented, so somebody has a copy: the session is ended already."""
    policy = state.runtime.assessing.policy
    if policy is not None:
        reason = "a token that had been replaced was used again: it was stolen, or restored from a backup"
        finding = Finding(Rule.TOKEN_REUSE, RiskLevel.HIGH, reason)
        verdict = policy.judge([finding])
        _tell(state, record, verdict)
        if verdict.action is RiskAction.REVOKE_USER and not verdict.dry_run and record.user_id is not None:
            state.runtime.suspicions.do(_revoke(state.runtime, record.user_id))


def owes_proof(state: State, session: Mapping[str, Any]) -> bool:
    """Whether the user has to prove once more who they are, because a login or a change looked like somebody else."""
    record = state.record
    if record is None or state.runtime.assessing.policy is None:
        return False
    if RISK in session:
        return True
    if b'"step_up"' not in record.risk:
        return False
    since = record.authenticated_at or record.created_at
    return all(step_up.at < since for step_up in decode_auth(record.auth).step_ups)


def _notice(state: State, record: Record, before: Client, now: Client) -> Verdict | None:
    runtime = state.runtime
    policy = runtime.assessing.policy
    if policy is None or record.user_id is None or is_impersonated(record.auth):
        return None
    finding = session_hijack(_sight(before, record.last_seen_at), _sight(now, state.began_at), policy.settings)
    if finding is None:
        return None
    verdict = policy.judge([finding])
    if verdict.level is RiskLevel.NONE:
        return None
    seen = Circumstances(
        at=state.began_at,
        device=now.label,
        country=now.country,
        ip=now.ip,
        last_at=record.last_seen_at,
        last_device=before.label,
        last_country=before.country,
        km=countries_apart(before.country, now.country),
    )
    _tell(state, record, verdict, seen)
    if not verdict.dry_run:
        _act(state, record, verdict)
    return verdict


def _tell(state: State, record: Record, verdict: Verdict, seen: Circumstances | None = None) -> None:
    runtime = state.runtime
    runtime.background.event(risk_event(runtime, verdict, record.user_id, record.sid, state.visitor.ip))
    runtime.suspicions.tell(Suspicion(verdict, record.user_id, record.sid, seen))


def _act(state: State, record: Record, verdict: Verdict) -> None:
    runtime, action = state.runtime, verdict.action
    if action is RiskAction.STEP_UP:
        note = msgspec.json.encode({"level": verdict.level, "rules": list(verdict.rules), "at": runtime.now()})
        runtime.background.change(Update(sid=record.sid, id=new_change_id(), put={RISK: note}))
        state.owes_proof = True
    elif action is RiskAction.ROTATE:
        if state.staged is None and state.may_rotate:
            state.staged = "rotate"
    elif action in _ENDING:
        runtime.end_later(record, EndReason.RISK, ip=state.visitor.ip)
        runtime.background.hurry()
        state.ended_reason = EndReason.RISK.value
        if action is RiskAction.REVOKE_USER and record.user_id is not None:
            runtime.suspicions.do(_revoke(runtime, record.user_id))


async def _revoke(runtime: Runtime, user_id: str) -> None:
    from sessiondb.ending import revoke_all  # which stands on all that stands on this

    await revoke_all(runtime, user_id, EndReason.RISK)


def _sight(client: Client, at: int) -> Sight:
    agent = parse_agent(client.user_agent) if client.user_agent else None
    where = None if client.ip is None else levels(client.ip)
    return Sight(
        at // SECOND,
        agent,
        client.network,
        where and where.wide,
        client.country,
        position_of(client.country),
    )
