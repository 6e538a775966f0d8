"""What the command line shows: to people in colours, to programs as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessiondb.core.policy import SECOND
from sessiondb.core.record import SessionInfo
from sessiondb.ops.doctor.report import LEVELS, Finding, Level, Report, Survival
from sessiondb.stores.base import Stats

_STYLES: dict[Level, str] = {"problem": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}
_PIPE_WIDTH = 120


def console() -> Console:
    """Where to show things. Into a file or pipe goes no colour, and a wider text, so that commands stay whole."""
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=_PIPE_WIDTH if piped else None)


def as_json(value: Any) -> str:
    """``value`` (of dictionaries, lists and dataclasses) as JSON for programs."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


# -- doctor -----------------------------------------------------------------------------------------------


def report_json(report: Report) -> str:
    """A report as JSON."""
    return as_json({**asdict(report), "problems": len(report.by_level("problem"))})


def show_report(report: Report) -> None:
    """A report: the worst first, then what is as it should be, then what survives, then the count."""
    out = console()
    out.print()
    out.print(Text.assemble((report.database, "bold"), f"  {report.where}" if report.where else ""))
    out.print()
    findings = Table.grid(padding=(0, 2))
    findings.add_column(no_wrap=True)
    findings.add_column(no_wrap=True)
    findings.add_column(overflow="fold")
    for level in LEVELS:
        for finding in report.by_level(level):
            findings.add_row(Text(level, _STYLES[level]), finding.check, _explained(finding))
    out.print(findings)
    if report.durability:
        out.print()
        out.print(Text("What was answered survives", "bold"))
        survivals = Table.grid(padding=(0, 2))
        for survival in report.durability:
            survivals.add_row(f"  {survival.event}", _answer(survival))
        out.print(survivals)
    out.print()
    out.print(_summary(report))


def _explained(finding: Finding) -> Text:
    text = Text(finding.found)
    if finding.means:
        text.append(f"\n{finding.means}", "dim" if finding.level == "note" else "")
    if finding.mend:
        text.append("\nMend: ", "bold")
        text.append(finding.mend, "bold cyan")
    return text


def _answer(survival: Survival) -> Text:
    word, style = {True: ("yes", "green"), False: ("no", "bold red"), None: ("not known", "yellow")}[survival.survives]
    return Text.assemble((word, style), f": {survival.why}" if survival.why else "")


def _summary(report: Report) -> Text:
    counted = [
        (f"{number} {level}{'s' if number != 1 else ''}", _STYLES[level])
        for level in LEVELS[:-1]
        if (number := len(report.by_level(level)))
    ]
    if not counted:
        return Text("All is well.", "bold green")
    text = Text()
    for part in counted:
        text.append(", " if text else "")
        text.append(*part)
    return text.append("." if report.has_problems else "; nothing here loses sessions while the server runs.")


# -- sessions ---------------------------------------------------------------------------------------------


def sessions_json(sessions: Sequence[SessionInfo]) -> str:
    """Sessions as JSON, without what the app keeps in them. Times are microseconds since the epoch, UTC."""
    return as_json([{name: value for name, value in asdict(one).items() if name != "data"} for one in sessions])


def show_sessions(sessions: Sequence[SessionInfo]) -> None:
    """Sessions as a table, times in UTC."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("session", no_wrap=True, min_width=36)
    for title in ("created", "last seen", "until"):
        table.add_column(title, no_wrap=True)
    table.add_column("client", overflow="ellipsis", no_wrap=True)
    for one in sessions:
        until = time_text(one.expires_at) if one.ended_at is None else f"{time_text(one.ended_at)} {one.end_reason}"
        client = " ".join(part for part in (one.client.ip, one.client.user_agent) if part)
        style = "dim" if one.ended_at is not None else ""
        table.add_row(
            *(Text(cell) for cell in (one.sid, time_text(one.created_at), time_text(one.last_seen_at), until, client)),
            style=style,
        )
    console().print(table)


def time_text(micros: int) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(micros / SECOND, UTC).strftime("%Y-%m-%d %H:%M")


def show_stats(stats: Stats) -> None:
    """Counts, one a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("living sessions", stats.live),
        ("ended sessions", stats.ended),
        ("users with a session", stats.users),
        ("events", stats.events),
    ):
        table.add_row(name, f"{value:,}")
    if stats.size_bytes is not None:
        table.add_row("size", f"{stats.size_bytes / (1 << 20):,.1f} MiB")
    console().print(table)
