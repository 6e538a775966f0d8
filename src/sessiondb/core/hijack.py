"""Whether the one who uses a session now is the one who used it before. Pure."""

from __future__ import annotations

import msgspec

from sessiondb.core.agents import Agent
from sessiondb.core.risk import Finding, RiskLevel, Rule
from sessiondb.core.rules import Position, RuleSettings, ago, travelled_km


class Sight(msgspec.Struct, frozen=True):
    """Who a session was seen with. ``at`` in seconds UTC; ``network`` and ``region`` as in ``Features``."""

    at: int
    agent: Agent | None = None
    network: str | None = None
    region: str | None = None
    country: str | None = None
    position: Position | None = None


def session_hijack(before: Sight, now: Sight, settings: RuleSettings) -> Finding | None:
    """What has changed between two requests of one session that a user's own device does not change.

    Another browser or another system: a cookie does not move by itself. An older version: browsers go forward. Another
    country faster than anybody travels. A browser's own update, another address, another network of the same country
    are what phones and trains do all day.
    """
    seconds = max(0, now.at - before.at)
    evidence: dict[str, str | int] = {"seconds": seconds}
    changed = _other_client(before.agent, now.agent)
    if changed is not None:
        moved = before.network is not None and now.network is not None and before.network != now.network
        evidence |= {"before": _label(before.agent), "now": _label(now.agent), "network_changed": int(moved)}
        return Finding(
            Rule.SESSION_HIJACK,
            RiskLevel.HIGH if moved or changed != "version" else RiskLevel.MEDIUM,
            f"the session of {_label(before.agent)} is used by {_label(now.agent)}"
            + (" in another network" if moved else ""),
            evidence,
        )
    if before.position is not None and now.position is not None:
        distance = travelled_km(before.position, now.position, seconds, settings)
        if distance is not None:
            evidence |= {"km": round(distance), "from": before.country or "", "to": now.country or ""}
            return Finding(
                Rule.SESSION_HIJACK,
                RiskLevel.HIGH,
                f"the session is used {distance:,.0f} km away from where it was {ago(seconds)} ago",
                evidence,
            )
    if before.country and now.country and before.country != now.country:
        evidence |= {"from": before.country, "to": now.country}
        text = f"the session has moved from {before.country} to {now.country}"
        return Finding(Rule.SESSION_HIJACK, RiskLevel.LOW, text, evidence)
    return None


def _other_client(before: Agent | None, now: Agent | None) -> str | None:
    """What is not the same: ``"browser"``, ``"system"`` or ``"version"``; ``None`` if nothing that means something."""
    if before is None or now is None:
        return None
    if before.browser != now.browser:
        return "browser"
    if before.system != now.system or before.device != now.device:
        return "system"
    return "version" if _is_older(now.browser_version, before.browser_version) else None


def _is_older(version: str | None, than: str | None) -> bool:
    one, other = _numbers(version), _numbers(than)
    return bool(one and other) and one < other


def _numbers(version: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (version or "").split(".") if part)
    except ValueError:
        return ()


def _label(agent: Agent | None) -> str:
    return "an unknown browser" if agent is None else agent.label
