"""CPU time of other processes, from the operating system (Linux)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from provision.process import family

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def of_process(pid: int) -> float:
    """User and system time of all threads of a process, in seconds, to the nanosecond; 0 where it has ended."""
    try:
        # What clock_getcpuclockid(3) computes: the scheduler's clock of that process. /proc counts ticks of 10 ms.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def of_family(pid: int) -> float:
    """Of a process and its descendants: those of PostgreSQL come and go with their connections."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    ended = (int(fields[13]) + int(fields[14])) * _TICK
    return ended + sum(map(of_process, family(pid)))
