"""What every doctor has in common: clocks, servers that do not answer."""

from __future__ import annotations

import time

import pytest
from findings import finding

from databases import had
from provision.valkey import Valkey
from sessiondb.ops.doctor import examine
from sessiondb.ops.doctor.report import Report, measure_clock


@pytest.mark.parametrize(
    ("seconds", "level", "found"), [(5, "warning", "ahead of"), (-5, "warning", "behind"), (0, "ok", "0.0")]
)
async def test_clocks_that_differ_are_a_warning(seconds: int, level: str, found: str) -> None:
    async def clock() -> int:
        return time.time_ns() // 1000 + seconds * 1_000_000

    report = Report("any", "")
    await measure_clock(report, clock)
    assert finding(report, "clock").level == level
    assert found in finding(report, "clock").found
    assert ("NTP" in finding(report, "clock").mend) is (level == "warning")


async def test_a_server_that_does_not_answer_is_a_problem() -> None:
    server = had(Valkey)
    try:
        server.process.pause()
        report = await examine(server.url, timeout=1)
    finally:
        server.stop()
    assert report.has_problems
    assert finding(report, "usable").level == "problem"
