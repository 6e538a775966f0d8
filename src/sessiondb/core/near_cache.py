"""How much a near cache holds, and how old it may be: settings, checked."""

from __future__ import annotations

from dataclasses import dataclass

from sessiondb.core.errors import ConfigurationError


@dataclass(frozen=True)
class NearCache:
    """Settings of the near cache of each event loop: ``SessionDB(near_cache=NearCache())``.

    * ``max_entries`` (10,000), ``max_bytes`` (64 MiB, estimated): how much it holds; who was not used longest goes.
    * ``staleness`` (1.0 s; 0.01 to 60): for how long after a change, such as a revocation, other processes may still
      show what was before. 0: ask the database each time, so nothing is cached.

    Raises ``ConfigurationError``.
    """

    max_entries: int = 10_000
    max_bytes: int = 64 * 1024 * 1024
    staleness: float = 1.0

    def __post_init__(self) -> None:
        if not _is_whole(self.max_entries) or not 1 <= self.max_entries <= 100_000_000:
            raise ConfigurationError(f"NearCache: max_entries is {self.max_entries!r:.100}; use 1 to 100,000,000.")
        if not _is_whole(self.max_bytes) or self.max_bytes < 4096:
            raise ConfigurationError(f"NearCache: max_bytes is {self.max_bytes!r:.100}; use 4,096 bytes or more.")
        staleness = self.staleness
        if (
            not isinstance(staleness, (int, float))
            or isinstance(staleness, bool)
            or not (staleness == 0 or 0.01 <= staleness <= 60)
        ):
            raise ConfigurationError(
                f"NearCache: staleness is {staleness!r:.100}; use 0.01 to 60 seconds, or 0: ask the database each time."
            )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
