"""``sessiondb stats``: counts as of now, or how the app was used, as time series."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sessiondb.core.errors import ConfigurationError
from sessiondb.core.policy import SECOND
from sessiondb.core.usage_series import By, Usage, UsagePoint, UsageSpread, check_by
from sessiondb.ops import output
from sessiondb.ops.revoking import moment
from sessiondb.ops.running import Json, Url, checked, database, run
from sessiondb.stores.base import Stats

_MOST_NAMES = 8
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def stats(
    url: Url = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="hour|day|week|month", help="Show how the app was used in each.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="T", help="From T on, an ISO 8601 time, in UTC; by day, unless --by.", show_default=False),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="Up to T, else up to now.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Count sessions, users and events; with --by or --since, show how the app was used over time."""
    if by is None and since is None and until is None:
        _counts(url, json)
        return
    begin, end = checked(lambda: [None if text is None else moment(text) for text in (since, until)])
    period = checked(lambda: _period(by or "day"))
    found = run(lambda: _read(url, begin, end, period))
    if json:
        typer.echo(output.as_json(found))
    else:
        show(found)


def _counts(url: str | None, json: bool) -> None:
    async def work() -> Stats:
        async with database(url) as db:
            return await db.stats()

    found = run(work)
    if json:
        typer.echo(output.as_json(found))
    else:
        output.show_stats(found)


async def _read(url: str | None, since: datetime | None, until: datetime | None, by: By) -> Usage:
    async with database(url) as db:
        try:
            return await db.usage(since, until, by=by)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None


def _period(by: str) -> By:
    try:
        return check_by(by)
    except ValueError as error:
        raise ConfigurationError(f"--{error}") from None


def show(usage: Usage) -> None:
    """A line for each period, the whole below, then where the logins came from and why sessions ended."""
    out = output.console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(usage.by, no_wrap=True)
    for title in ("users", "sessions", "per user", "logins", "refused", "new", "ended", "length", "idle gap", "live"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in usage.points:
        style = "" if one.logins or one.active_users else "dim"
        table.add_row(Text(label(usage.by, one.start)), *_cells(one), style=style)
    table.add_row("total", *_cells(usage.total), style="bold")
    out.print(table)
    out.print()
    shares = Table.grid(padding=(0, 2))
    for title, counts in (
        ("devices", usage.total.logins_by_device),
        ("programs", usage.total.logins_by_agent),
        ("countries", usage.total.logins_by_country),
        ("ended by", usage.total.ended_by_reason),
    ):
        if counts:
            shares.add_row(Text(title, "bold"), Text(_named(counts)))
    out.print(shares)
    out.print(Text(f"now: {usage.live_sessions:,} living sessions, {usage.live_users:,} users with one"))
    if any(one.active_users_error for one in (*usage.points, usage.total)):
        out.print(Text("~ is estimated, with a standard error of 1.6 %", "dim"))


def _cells(one: UsagePoint) -> tuple[Text, ...]:
    about = "~" if one.active_users_error else ""
    return tuple(
        map(
            Text,
            (
                f"{about}{one.active_users:,}",
                f"{about}{one.active_sessions:,}",
                "" if one.sessions_per_user.mean is None else f"{one.sessions_per_user.mean:.1f}",
                f"{one.logins:,}",
                f"{one.refused_logins:,}",
                f"{one.new_sessions:,}",
                f"{one.ended:,}",
                _median(one.session_length),
                _median(one.idle_gap),
                "" if one.live_sessions is None else f"{one.live_sessions.last:,}",
            ),
        )
    )


def _median(spread: UsageSpread) -> str:
    return "" if spread.p50 is None else length_text(spread.p50)


def length_text(seconds: float) -> str:
    """A length of time for people, in its largest unit: ``2.5 h``."""
    size, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"


def label(by: str, start: int) -> str:
    """The name of a period: ``2026-03-01 14:00``, ``2026-03-01``, ``2026-W09``, ``2026-03``."""
    when = datetime.fromtimestamp(start / SECOND, UTC)
    if by == "week":
        year, week, _ = when.isocalendar()
        return f"{year}-W{week:02}"
    return when.strftime({"hour": "%Y-%m-%d %H:%M", "day": "%Y-%m-%d"}.get(by, "%Y-%m"))


def _named(counts: Mapping[str, int]) -> str:
    """The most frequent, with their parts of all."""
    total = sum(counts.values())
    shown = [f"{name} {count:,} ({count / total:.0%})" for name, count in list(counts.items())[:_MOST_NAMES]]
    rest = total - sum(list(counts.values())[:_MOST_NAMES])
    return ", ".join([*shown, *([f"all others {rest:,}"] if rest else [])])
