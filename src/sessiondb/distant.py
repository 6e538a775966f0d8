"""Two sessions of one user at once, too far apart for one person: looked for after a login, in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessiondb.assessing import Assessment, risk_event
from sessiondb.core.client import decode_client
from sessiondb.core.countries import name_of, position_of
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason, Record, is_impersonated
from sessiondb.core.risk import Finding, RiskAction, RiskLevel, Rule
from sessiondb.core.rules import Position, RuleSettings, ago, travelled_km
from sessiondb.core.token import Sid
from sessiondb.ending import end_sids, revoke_all
from sessiondb.stores.base import Query
from sessiondb.suspicions import Suspicion

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

LOOKED_AT = 50
"""Sessions of a user, the newest first."""


async def look_for_distant(runtime: Runtime, sid: Sid, assessment: Assessment) -> None:
    """Compare the login with where the user's other sessions were last seen. Raises ``StoreError``."""
    policy, here = runtime.assessing.policy, assessment.position
    if policy is None or here is None:
        return
    query = Query(now=runtime.now(), caps=runtime.caps, user_id=assessment.user_id, limit=LOOKED_AT)
    async with runtime.using_store() as store:
        records = (await store.find(query)).records
    for record in records:
        if record.sid == sid or is_impersonated(record.auth):
            continue
        finding = _compared(here, assessment.seen.at, record, policy.settings)
        if finding is None:
            continue
        verdict = policy.judge([finding])
        if verdict.level is not RiskLevel.NONE:
            event = risk_event(runtime, verdict, assessment.user_id, sid, assessment.seen.ip)
            runtime.background.event(event)
            runtime.suspicions.tell(Suspicion(verdict, assessment.user_id, sid, assessment.seen))
            if not verdict.dry_run and verdict.action.rank >= RiskAction.REVOKE_SESSION.rank:
                # Which of the two is the user nobody can tell.
                if verdict.action is RiskAction.REVOKE_USER:
                    await revoke_all(runtime, assessment.user_id, EndReason.RISK)
                else:
                    await end_sids(runtime, [sid, record.sid], EndReason.RISK)
        return


def _compared(here: Position, at: int, record: Record, settings: RuleSettings) -> Finding | None:
    client = decode_client(record.client_last)
    there = position_of(client.country)
    if there is None:
        return None
    seconds = max(0, at - record.last_seen_at) // SECOND
    km = travelled_km(here, there, seconds, settings)
    if km is None:
        return None
    where, before = here.name or "here", name_of(client.country) or "elsewhere"
    return Finding(
        Rule.DISTANT_SESSIONS,
        RiskLevel.MEDIUM,
        f"logged in in {where}, while another session was used in {before} {ago(seconds)} ago",
        {"km": round(km), "seconds": seconds, "from": before, "to": where},
    )
