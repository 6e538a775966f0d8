"""``db.login_failed``: a wrong password is counted, told, and judged beside all others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from sessiondb.assessing import circumstances, risk_event
from sessiondb.attempts import keyed_hash
from sessiondb.core.client import agent_text
from sessiondb.core.errors import StoreError
from sessiondb.core.events import EventType
from sessiondb.core.record import check_user_id
from sessiondb.core.risk import Verdict
from sessiondb.session import state_of
from sessiondb.suspicions import Suspicion

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from sessiondb.runtime import Runtime

MOST_HINT = 1024


async def login_failed(
    runtime: Runtime, user_hint: object, request: HTTPConnection | None, user_id: str | int | UUID | None
) -> Verdict:
    """See ``SessionDB.login_failed``."""
    known = None if user_id is None else check_user_id(user_id)
    hint = str(user_hint)[:MOST_HINT]
    ip, agent = client_of(request)
    try:
        await runtime.ready()
    except StoreError:
        runtime.counters["logins_not_assessed"] += 1
    seen = runtime.assessing.seen(ip, agent)
    # With the user known, failures count against that user whatever was typed.
    verdict = await runtime.assessing.failed(known or hint, seen)
    personal: dict[str, str | int] = {}
    key = runtime.assessing.known_key
    if key is not None:
        personal["hint"] = keyed_hash(key, "hint", hint).hex()
    if agent is not None:
        personal["user_agent"] = agent
    event = runtime.event(EventType.LOGIN_FAILED, ip=ip, personal=personal)
    runtime.background.event(replace(event, user_id=known))
    if verdict.findings:
        runtime.background.event(risk_event(runtime, verdict, known, None, ip))
        kept = replace(circumstances(seen), ip=runtime.clients.privacy.stored(ip).ip)
        runtime.suspicions.tell(Suspicion(verdict, known, None, kept))
    return verdict


def client_of(request: HTTPConnection | None) -> tuple[str | None, str | None]:
    """The address and the user agent of ``request``: behind trusted proxies, what the middleware has found out."""
    if request is None:
        return None, None
    sessions = request.scope.get("sessiondb.sessions")
    if sessions:
        visitor = state_of(next(iter(sessions.values()))).visitor
        agent = visitor.agent
        return visitor.ip, None if agent is None else agent_text(agent[1])
    header = request.headers.get("user-agent")
    return request.client.host if request.client is not None else None, header and agent_text(header.encode("latin-1"))
