"""One log line when the database goes away and one when it is back, however many requests notice."""

from __future__ import annotations

import logging
import time

from sessiondb.core.errors import StoreError, StoreUnavailable

log = logging.getLogger("sessiondb")

QUIET = 60.0
MOST_MESSAGES = 16


class Outage:
    """Failures of one way to use a store. The same message is logged at most once a minute."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._failures = 0
        self._logged: dict[str, float] = {}
        self.lasting = False

    def failed(self, error: StoreError) -> None:
        """Note a failure of the database (a conflict is none)."""
        if not isinstance(error, StoreUnavailable) and error.outcome != "unknown":
            return
        self._failures += 1
        if isinstance(error, StoreUnavailable) and error.retry_after is not None:
            return  # not asked: the failures that led to this have been logged, and so has the breaker
        now = time.monotonic()
        message = str(error)
        if now - self._logged.get(message, -QUIET) >= QUIET:
            if len(self._logged) >= MOST_MESSAGES:
                self._logged.clear()
            self._logged[message] = now
            self.lasting = True
            log.error("%s: %s", self._name, message)

    def over(self) -> None:
        """The store has answered again."""
        log.warning("%s: works again after %d failed calls.", self._name, self._failures)
        self.lasting = False
        self._failures = 0
