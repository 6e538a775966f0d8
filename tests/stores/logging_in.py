"""A process that logs people in until it is killed; the tests see which logins it was told have landed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIMIT = 60


class LoggingIn:
    """Runs ``script``, which says on a line of its own what it knows of each login that was ``answered``."""

    def __init__(self, script: Path, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(script), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.answered: list[str] = []

    def read(self, count: int) -> None:
        """Until ``count`` logins have been answered."""
        assert self._process.stdout is not None
        while len(self.answered) < count:
            line = self._process.stdout.readline()
            assert line, self._process.communicate(timeout=LIMIT)
            self.answered.append(line.strip())

    def kill(self) -> None:
        """As ``kill -9``."""
        self._process.kill()
        self.rest()

    def rest(self) -> str:
        """Wait for its end; what it has said on stderr."""
        rest, said = self._process.communicate(timeout=LIMIT)
        # A line that was cut off was not said.
        self.answered += [line.strip() for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        return said
