"""The policies of one database: the default one and those with a name, and which of them a stored session has.

A record keeps the name in ``lifetime``: ``"normal"`` or ``"remembered"`` under the default policy, ``"staff"`` or
``"staff+remembered"`` under the one named ``"staff"``. A name that is not configured any more counts as the default.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policy import Caps, Lifetimes, Policy
from sessiondb.core.record import Record

DEFAULT = "normal"
REMEMBERED = "remembered"
_SUFFIX = f"+{REMEMBERED}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}", re.ASCII).fullmatch


class Policies:
    """Policies by name, checked; nothing in it changes. Raises ``ConfigurationError`` for what cannot work.

    ``caps`` are their lifetimes, ``keep_ended`` is the longest that any of them keeps tombstones, in microseconds, and
    ``rotates`` says whether any has ``rotate_every``.
    """

    __slots__ = ("_by_lifetime", "_rotate_every", "caps", "default", "keep_ended", "named", "rotates")

    def __init__(self, default: Policy | None = None, named: Mapping[str, Policy] | None = None) -> None:
        default = default if default is not None else Policy()
        if not isinstance(default, Policy):
            raise ConfigurationError(f"SessionDB: policy is {default!r:.100}; use policy=Policy(...).")
        if named is not None and not isinstance(named, Mapping):
            raise ConfigurationError(
                f"SessionDB: policies is {named!r:.100}; use a dict of names: policies={{'staff': Policy(...)}}."
            )
        self.default = default
        self.named: Mapping[str, Policy] = MappingProxyType(dict(named or {}))
        others: dict[str, Lifetimes] = {}
        self._by_lifetime: dict[str, Policy] = {}
        for name, policy in self.named.items():
            _check(name, policy)
            caps = policy.caps
            others[name], others[name + _SUFFIX] = caps.normal, caps.remembered
            self._by_lifetime[name] = self._by_lifetime[name + _SUFFIX] = policy
        caps = default.caps
        self.caps = Caps(caps.normal, caps.remembered, others)
        every = (default, *self.named.values())
        self.keep_ended = max(policy.keep_ended_micros for policy in every)
        self._rotate_every = {name: policy.rotate_every_micros for name, policy in self._by_lifetime.items()}
        self._rotate_every[DEFAULT] = default.rotate_every_micros
        self.rotates = any(each is not None for each in self._rotate_every.values())

    def of(self, record: Record) -> Policy:
        """The policy that ``record`` falls under."""
        return self._by_lifetime.get(record.lifetime, self.default)

    def rotate_every(self, record: Record) -> int | None:
        """How often ``record`` gets a new secret, in microseconds."""
        return self._rotate_every.get(record.lifetime, self._rotate_every[DEFAULT])

    def called(self, name: str | None) -> Policy:
        """The policy of that name; ``None`` and ``"normal"`` are the default one. Raises ``ConfigurationError``."""
        if name is None or name == DEFAULT:
            return self.default
        policy = self.named.get(name) if isinstance(name, str) else None
        if policy is None:
            close = difflib.get_close_matches(name, self.named, 1) if isinstance(name, str) else []
            known = ", ".join(repr(one) for one in (DEFAULT, *self.named))
            raise ConfigurationError(
                f"There is no policy {name!r:.100}; SessionDB knows {known}. "
                + (f"Is it {close[0]!r} that you mean?" if close else "Name it in SessionDB(policies={...}).")
            )
        return policy

    def lifetime(self, name: str | None, remember: bool) -> str:
        """What a record's ``lifetime`` says under the policy ``name``. Raises ``ConfigurationError``."""
        self.called(name)
        if name is None or name == DEFAULT:
            return REMEMBERED if remember else DEFAULT
        return name + _SUFFIX if remember else name


def policy_name(lifetime: str) -> str:
    """The name of the policy in a record's ``lifetime``: ``"normal"`` for the default one."""
    return DEFAULT if lifetime == REMEMBERED else lifetime.removesuffix(_SUFFIX)


def is_remembered(lifetime: str) -> bool:
    """Whether a record's ``lifetime`` is that of a remembered login."""
    return lifetime == REMEMBERED or lifetime.endswith(_SUFFIX)


def _check(name: object, policy: object) -> None:
    if not isinstance(name, str) or _NAME(name) is None:
        raise ConfigurationError(
            f"SessionDB: policies has the name {name!r:.100}; use 1 to 48 letters, digits, '_', '.' or '-', "
            "such as 'staff'."
        )
    if name in (DEFAULT, REMEMBERED):
        raise ConfigurationError(
            f"SessionDB: policies has the name {name!r}, which stands for the default policy; give that as policy=."
        )
    if not isinstance(policy, Policy):
        raise ConfigurationError(f"SessionDB: policies[{name!r}] is {policy!r:.100}; use Policy(...).")
