"""The settings of a ``SessionDB``, checked, as each event loop gets them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Literal

import msgspec

from sessiondb.abuse import Abuse
from sessiondb.auditing import Audit
from sessiondb.core.breaker import CircuitBreaker
from sessiondb.core.calls import takes
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.limits import Limits
from sessiondb.core.near_cache import NearCache
from sessiondb.core.policies import Policies
from sessiondb.core.policy import SECOND
from sessiondb.core.privacy import Privacy
from sessiondb.geo import Geo
from sessiondb.hooks import Hooks
from sessiondb.keyring import KeyRing
from sessiondb.risk_policy import RiskPolicy
from sessiondb.stores._near_siblings import Siblings
from sessiondb.suspicions import RiskHooks

OnLoadError = Literal["error", "anonymous"]
PolicyFor = Callable[[str], "str | Awaitable[str | None] | None"]


class Settings(msgspec.Struct, frozen=True):
    """What ``SessionDB`` was given."""

    policies: Policies
    timeout: float
    max_session_bytes: int
    sweep_every: float | None
    clock: Callable[[], int]
    policy_for: PolicyFor | None = None
    breaker: CircuitBreaker | None = None
    abuse: Abuse = Abuse(Limits())
    privacy: Privacy = Privacy()
    geo: Geo | None = None
    keys: KeyRing | None = None
    hooks: Hooks | None = None
    announce: bool = False
    near_cache: NearCache | None = None
    near_siblings: Siblings | None = None
    audit: Audit = Audit()
    risk: RiskPolicy | None = None
    risk_hooks: RiskHooks | None = None
    keep_usage: int | None = None


def check_settings(
    *,
    on_load_error: object,
    timeout: object,
    max_session_bytes: object,
    sweep_every: object,
    policy_for: object,
    breaker: object,
    keys: object,
    limits: object,
    privacy: object,
    geo: object,
    near_cache: object,
    audit: object,
    risk: object,
    keep_usage: object,
    clock: object,
) -> None:
    """Raise ``ConfigurationError`` for the first setting that cannot work, with what would."""
    if on_load_error not in ("error", "anonymous"):
        raise ConfigurationError(f"SessionDB: on_load_error is {on_load_error!r}; use 'error' or 'anonymous'.")
    if not _is_within(timeout, 0.01, 300):
        raise ConfigurationError(f"SessionDB: timeout is {timeout!r}; use 0.01 to 300 seconds.")
    if not _is_within(max_session_bytes, 256, 16 * 1024 * 1024):
        raise ConfigurationError(f"SessionDB: max_session_bytes is {max_session_bytes!r}; use 256 bytes to 16 MiB.")
    if sweep_every is not None and not _is_within(sweep_every, 0.1, 86_400):
        raise ConfigurationError(f"SessionDB: sweep_every is {sweep_every!r}; use 0.1 to 86,400 seconds, or None.")
    if policy_for is not None and not (callable(policy_for) and takes(policy_for, 1)):
        raise ConfigurationError(
            f"SessionDB: policy_for is {policy_for!r:.100}; use a function from a user id to a name in policies."
        )
    if breaker is not None and not isinstance(breaker, CircuitBreaker):
        raise ConfigurationError(f"SessionDB: breaker is {breaker!r:.100}; use CircuitBreaker(...) or None.")
    if keys is not None and not isinstance(keys, KeyRing):
        # Not what it is: it may be a key.
        raise ConfigurationError(f"SessionDB: keys is a {type(keys).__name__}; use keys=KeyRing.from_env().")
    if not isinstance(limits, Limits):
        raise ConfigurationError(f"SessionDB: limits is {limits!r:.100}; use limits=Limits(...).")
    if not isinstance(privacy, Privacy):
        raise ConfigurationError(f"SessionDB: privacy is {privacy!r:.100}; use privacy=Privacy(...).")
    if geo is not None and not isinstance(geo, Geo):
        raise ConfigurationError(f"SessionDB: geo is {geo!r:.100}; use geo=Geo(), or None for none.")
    if near_cache is not None and not isinstance(near_cache, NearCache):
        raise ConfigurationError(
            f"SessionDB: near_cache is {near_cache!r:.100}; use near_cache=NearCache(...), or None for none."
        )
    if not isinstance(audit, Audit) and audit not in ("required", "queued"):
        raise ConfigurationError(f"SessionDB: audit is {audit!r:.100}; use 'required', 'queued' or Audit(...).")
    usage_micros(keep_usage)
    if risk is not None and not isinstance(risk, RiskPolicy):
        raise ConfigurationError(f"SessionDB: risk is {risk!r:.100}; use RiskPolicy(...), or None for none.")
    if not callable(clock):
        raise ConfigurationError(f"SessionDB: clock is {clock!r:.100}; use a function that returns microseconds.")


def usage_micros(keep: object) -> int | None:
    """``keep_usage`` in microseconds. Raises ``ConfigurationError`` for what cannot work."""
    if keep is None:
        return None
    seconds = keep.total_seconds() if isinstance(keep, timedelta) else keep
    if not isinstance(seconds, (int, float)) or not _is_within(seconds, 86_400, 3650 * 86_400):
        raise ConfigurationError(
            f"SessionDB: keep_usage is {keep!r:.100}; use a timedelta or seconds, 1 day to 10 years, or None to count "
            "nothing."
        )
    return round(seconds * SECOND)


def _is_within(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def system_clock() -> int:
    """This machine's time in microseconds since the epoch."""
    return time.time_ns() // 1000
