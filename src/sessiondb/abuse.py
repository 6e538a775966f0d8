"""What a process does about networks that ask for too much, or guess tokens. Costs nothing where nobody does."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING

from sessiondb.core.errors import RateLimited
from sessiondb.core.events import EventType
from sessiondb.core.limits import BadToken, Buckets, Limits, Suspicions, SuspiciousNetwork
from sessiondb.core.risk import Finding, RiskLevel, Rule
from sessiondb.suspicions import Suspicion

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime

log = logging.getLogger("sessiondb")


def tell_guessing(runtime: Runtime, network: str, most: int) -> None:
    """Tell the hooks of a network that presents many tokens which open nothing."""
    policy = runtime.assessing.policy
    if policy is not None:
        reason = f"{network} has presented more than {most} tokens that open nothing within a minute"
        finding = Finding(Rule.TOKEN_GUESSING, RiskLevel.MEDIUM, reason, {"network": network})
        verdict = policy.judge([finding])
        runtime.suspicions.tell(Suspicion(verdict, None, None))


class Abuse:
    """The counts of one ``SessionDB``, for all its event loops."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()  # each thread may have a loop
        per_minute = limits.anonymous_per_minute
        self._buckets = None if per_minute is None else Buckets(per_minute, limits.networks)
        self._suspicions = Suspicions(limits.guesses_per_minute, limits.networks)
        self._warned = False

    def begin_session(self, runtime: Runtime, ip: str | None) -> None:
        """A session without a user is about to be made for ``ip``. Raises ``RateLimited``."""
        if self._buckets is None:
            return
        if ip is None:
            self._warn_of_no_address()
            return
        network, now = self.limits.network_of(ip), runtime.now()
        with self._lock:
            wait = self._buckets.take(network, now)
            if not wait:
                return
            first = self._suspicions.refused(network, now)
        runtime.counters["anonymous_refused"] += 1
        most = self.limits.anonymous_per_minute or 0
        if first:
            event = runtime.event(EventType.RATE_LIMITED, ip=ip, details={"max": most}, personal={"network": network})
            runtime.background.event(event)
        raise RateLimited(
            f"{network} has begun {most} sessions in a minute, as many as Limits(anonymous_per_minute=...) allows; "
            "nothing was stored. Logins are not counted.",
            retry_after=math.ceil(wait),
        )

    def bad_token(self, runtime: Runtime, ip: str | None, kind: BadToken) -> None:
        """``ip`` has presented a token that opens nothing."""
        runtime.counters[f"token_{kind}"] += 1
        if ip is None:
            return
        network, now = self.limits.network_of(ip), runtime.now()
        with self._lock:
            guesses = self._suspicions.bad_token(network, kind, now)
        if guesses:
            details = {"max": self.limits.guesses_per_minute or 0}
            event = runtime.event(EventType.TOKEN_GUESSING, ip=ip, details=details, personal={"network": network})
            runtime.background.event(event)
            tell_guessing(runtime, network, details["max"])

    def worst(self, limit: int) -> list[SuspiciousNetwork]:
        """See ``SessionDB.suspicious_networks``."""
        with self._lock:
            return self._suspicions.worst(limit)

    def _warn_of_no_address(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "Limits(anonymous_per_minute=...) limits nobody: the server names no client address. Behind a proxy on "
                "a Unix socket: SessionMiddleware(..., proxies=TrustedProxies(count=1))."
            )
