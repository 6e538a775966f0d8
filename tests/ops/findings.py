"""Looking things up in a report."""

from __future__ import annotations

from sessiondb.ops.doctor.report import Finding, Report


def finding(report: Report, check: str) -> Finding:
    """The one finding of that name."""
    [found] = [one for one in report.findings if one.check == check]
    return found


def survives(report: Report, event: str) -> bool | None:
    """What the report says of ``event``."""
    [found] = [one.survives for one in report.durability if one.event == event]
    return found


def problems(report: Report) -> list[Finding]:
    """The problems and warnings."""
    return [*report.by_level("problem"), *report.by_level("warning")]
