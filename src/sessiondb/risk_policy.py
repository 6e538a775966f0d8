"""``RiskPolicy``: what a ``SessionDB`` looks for in logins and sessions, and what it does about what it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.keys import parse_key
from sessiondb.core.risk import Finding, RiskAction, RiskLevel, Rule, Verdict, judge
from sessiondb.core.rules import RuleSettings
from sessiondb.core.thresholds import Questioned

_ACTIONS: Mapping[RiskLevel, RiskAction] = {
    RiskLevel.LOW: RiskAction.ALLOW,
    RiskLevel.MEDIUM: RiskAction.NOTIFY,
    RiskLevel.HIGH: RiskAction.NOTIFY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskPolicy:
    """Settings for ``SessionDB(risk=...)``. By default everything is looked at, and nobody is kept out.

    * ``actions`` (low ``"allow"``, medium and high ``"notify"``): what is done at each level, a ``RiskAction``.
    * ``rules`` (none): other levels for some rules: ``{"new_device": "medium", "many_accounts": None}``; ``None`` turns
      one off.
    * ``questioned`` (``Questioned(medium=0.1, high=0.02)``): how many of the logins the score may call medium or high.
    * ``settings`` (``RuleSettings()``): when the rules fire.
    * ``dry_run`` (``False``): say what would be done, and do nothing.
    * ``key`` (none: one that the database keeps): 32 random bytes, as ``sessiondb keys generate`` makes them, with
      which addresses and browsers are hashed. With one of your own, who can read the database cannot try all addresses.
    * ``keep`` (400 days): how long the latest logins of somebody are kept who does not come back.
    """

    actions: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, str | None] = field(default_factory=dict)
    questioned: Questioned = Questioned()  # noqa: RUF009  frozen
    settings: RuleSettings = RuleSettings()  # noqa: RUF009  frozen
    dry_run: bool = False
    key: str | bytes | None = field(default=None, repr=False)
    keep: timedelta = timedelta(days=400)

    def __post_init__(self) -> None:
        for level, action in self.actions.items():
            if level not in list(RiskLevel)[1:] or action not in list(RiskAction):
                raise ConfigurationError(
                    f"RiskPolicy: actions has {level!r:.60}: {action!r:.60}; use low, medium, high, and "
                    f"{', '.join(RiskAction)}."
                )
        for rule, weight in self.rules.items():
            if rule not in list(Rule) or (weight is not None and weight not in list(RiskLevel)):
                raise ConfigurationError(
                    f"RiskPolicy: rules has {rule!r:.60}: {weight!r:.60}; use low, medium, high or None for one of "
                    f"{', '.join(Rule)}."
                )
        if not isinstance(self.questioned, Questioned):
            raise ConfigurationError(f"RiskPolicy: questioned is {self.questioned!r:.100}; use Questioned(...).")
        if not isinstance(self.settings, RuleSettings):
            raise ConfigurationError(f"RiskPolicy: settings is {self.settings!r:.100}; use RuleSettings(...).")
        if not isinstance(self.dry_run, bool):
            raise ConfigurationError(f"RiskPolicy: dry_run is {self.dry_run!r:.100}; use True or False.")
        if not isinstance(self.keep, timedelta) or self.keep < timedelta(days=1):
            raise ConfigurationError(f"RiskPolicy: keep is {self.keep!r:.100}; use a timedelta of a day or more.")
        self.secret()

    def secret(self) -> bytes | None:
        """The key's bytes. Raises ``ConfigurationError``."""
        return None if self.key is None else parse_key(self.key, "RiskPolicy").secret

    @property
    def action_of(self) -> Mapping[RiskLevel, RiskAction]:
        """What is done at each level."""
        given = {RiskLevel(level): RiskAction(action) for level, action in self.actions.items()}
        return {**_ACTIONS, **given}

    @property
    def level_of(self) -> Mapping[Rule, RiskLevel | None]:
        """The levels of rules that have another than their own."""
        return {Rule(rule): None if level is None else RiskLevel(level) for rule, level in self.rules.items()}

    @property
    def enforces(self) -> bool:
        """Whether somebody may be asked for one more proof."""
        return not self.dry_run and RiskAction.STEP_UP in self.action_of.values()

    @property
    def guards_sessions(self) -> bool:
        """Whether anything may be done to a session in use, so that requests have to be looked at beforehand."""
        return not self.dry_run and any(one.rank >= RiskAction.STEP_UP.rank for one in self.action_of.values())

    @property
    def keep_micros(self) -> int:
        """``keep`` in microseconds."""
        return self.keep // timedelta(microseconds=1)

    def judge(self, findings: Sequence[Finding], score: float | None = None) -> Verdict:
        """What ``findings`` come to."""
        return judge(findings, self.action_of, levels=self.level_of, score=score, dry_run=self.dry_run)
