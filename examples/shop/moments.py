"""Times for people. sessiondb gives microseconds since the epoch, UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3600, 86_400


def ago(micros: int) -> str:
    """``just now``, ``3 minutes ago``. Sessions record their last use about once a minute."""
    seconds = time.time() - micros / 1e6
    return "just now" if seconds < MINUTE else f"{_length(seconds)} ago"


def until(micros: int) -> str:
    """``in 14 days``."""
    seconds = micros / 1e6 - time.time()
    # Rounded up by a hundredth: a lifetime of 14 days reads so for its first hours.
    return "now" if seconds < MINUTE else f"in {_length(seconds * 1.01)}"


def iso(micros: int) -> str:
    """For the ``datetime`` attribute."""
    return _utc(micros).isoformat(timespec="seconds")


def exact(micros: int) -> str:
    """``7 Mar 2026, 14:05 UTC``."""
    moment = _utc(micros)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def _utc(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC)


def _length(seconds: float) -> str:
    for size, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "a moment"
