"""What is said of a login or a session in use: findings of rules, the level that they come to, what is to be done."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec


class RiskLevel(enum.StrEnum):
    """How suspicious it is. ``none``: nothing was found, or it was not looked."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """From 0 to 3."""
        return _RANKS[self]


_RANKS = {level: rank for rank, level in enumerate(RiskLevel)}


class RiskAction(enum.StrEnum):
    """What is done about it, the mildest first."""

    ALLOW = "allow"  # recorded, and nothing else
    NOTIFY = "notify"  # told to the hooks, which tell the user
    STEP_UP = "step_up"  # guarded pages ask for one more proof first
    ROTATE = "rotate"  # the session gets another secret
    REVOKE_SESSION = "revoke_session"
    REVOKE_USER = "revoke_user"
    REFUSE = "refuse"  # no login; what is in use already is ended

    @property
    def rank(self) -> int:
        """From 0 to 6."""
        return _ACTION_RANKS[self]


_ACTION_RANKS = {action: rank for rank, action in enumerate(RiskAction)}


class Rule(enum.StrEnum):
    """The rules, by name."""

    UNUSUAL_LOGIN = "unusual_login"  # the score: address and browser are not what this user's logins look like
    NEW_DEVICE = "new_device"
    NEW_COUNTRY = "new_country"
    IMPOSSIBLE_TRAVEL = "impossible_travel"
    DISTANT_SESSIONS = "distant_sessions"
    SESSION_HIJACK = "session_hijack"
    TOKEN_REUSE = "token_reuse"  # noqa: S105  the name of a rule
    SUCCESS_AFTER_FAILURES = "success_after_failures"
    DORMANT_ACCOUNT = "dormant_account"
    BRUTE_FORCE = "brute_force"
    CREDENTIAL_STUFFING = "credential_stuffing"
    PASSWORD_SPRAYING = "password_spraying"  # noqa: S105  the name of a rule
    MANY_ACCOUNTS = "many_accounts"
    TOKEN_GUESSING = "token_guessing"  # noqa: S105  the name of a rule


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule has fired: why, in words, and what it goes by. ``evidence`` is personal, and holds no secret."""

    rule: Rule
    level: RiskLevel
    reason: str
    evidence: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of a login, or of a session in use.

    ``action`` is what was done about it, or, with ``dry_run``, what would have been. ``score`` is the ratio of Freeman
    et al. (``None``: not scored): above 1, an attack is as likely as the user.
    """

    level: RiskLevel = RiskLevel.NONE
    action: RiskAction = RiskAction.ALLOW
    score: float | None = None
    findings: tuple[Finding, ...] = ()
    dry_run: bool = False

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, in words, the worst first."""
        return tuple(finding.reason for finding in self.findings)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that have fired, the worst first."""
        return tuple(finding.rule for finding in self.findings)


SAFE = Verdict()


def judge(
    findings: Sequence[Finding],
    actions: Mapping[RiskLevel, RiskAction],
    *,
    levels: Mapping[Rule, RiskLevel | None],
    score: float | None = None,
    dry_run: bool = False,
) -> Verdict:
    """The verdict on ``findings``: the worst level counts. ``levels`` replaces those of rules (``None``: none)."""
    counted: list[Finding] = []
    for finding in findings:
        level = levels.get(finding.rule, finding.level)
        if level is not None and level is not RiskLevel.NONE:
            counted.append(
                finding if level is finding.level else Finding(finding.rule, level, finding.reason, finding.evidence)
            )
    counted.sort(key=lambda finding: -finding.level.rank)
    level = counted[0].level if counted else RiskLevel.NONE
    action = RiskAction.ALLOW if level is RiskLevel.NONE else actions[level]
    return Verdict(level, action, score, tuple(counted), dry_run)


def encode_risk(verdict: Verdict) -> bytes:
    """What a record keeps of a verdict (see ``sessiondb.core.record.Risk``)."""
    if not verdict.findings:
        return b"{}"
    action = RiskAction.ALLOW if verdict.dry_run else verdict.action
    return msgspec.json.encode({"level": verdict.level, "reasons": list(verdict.rules), "action": action})
