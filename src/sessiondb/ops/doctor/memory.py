"""What to know of sessions in memory."""

from __future__ import annotations

from sessiondb.ops.doctor.report import APP_ENDS, POWER_CUT, Report


async def examine(url: str) -> Report:
    """See ``sessiondb.ops.doctor.examine``."""
    report = Report("memory", "this process")
    report.add(
        "problem",
        "database",
        "none: memory://",
        "Sessions end with the process, and each process has its own.",
        "SESSIONDB_URL=sqlite:///sessions.db, or another database",
    )
    report.survives(APP_ENDS, False)
    report.survives(POWER_CUT, False)
    return report
