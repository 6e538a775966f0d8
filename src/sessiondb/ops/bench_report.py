"""What ``sessiondb bench`` shows, and asks before it begins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from sessiondb.core.errors import ConfigurationError
from sessiondb.ops import output
from sessiondb.ops.bench import Measured, Plan
from sessiondb.stores.base import open_store


def confirmed(url: str) -> bool:
    """Whether somebody at a terminal agrees to load a database elsewhere. Raises ``ConfigurationError`` without one."""
    store = repr(open_store(url))  # says where, without the password
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{store} is not on this machine: bench would load it, and whoever uses it, as much as it can. If that is "
            "what you want, use --yes."
        )
    return typer.confirm(f"{store} is not on this machine. Load it as much as this machine can?", err=True)


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """On a terminal, one line that says how far it is: what is yielded sets it."""
    with Console(stderr=True).status("measuring") as status:
        yield status.update


def as_json(url: str, plan: Plan, measured: Sequence[Measured]) -> str:
    """For programs."""
    document = {"database": open_store(url).name, "plan": asdict(plan), "results": [asdict(one) for one in measured]}
    return output.as_json(document)


def show(url: str, plan: Plan, measured: Sequence[Measured]) -> None:
    """For people."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("at once", justify="right")
    table.add_column("verb")
    for title in ("calls/s", "p50 ms", "p99 ms", "CPU µs a call"):
        table.add_column(title, justify="right")
    before = None
    for one in measured:
        table.add_row(
            "" if one.callers == before else str(one.callers),
            one.verb,
            f"{one.per_second:,.0f}",
            f"{one.p50_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.cpu_us:,.0f}",
        )
        before = one.callers
    out = output.console()
    out.print(table)
    out.print(
        f"\n{open_store(url).name}, {plan.sessions:,} sessions of about 300 bytes in a part of its own, removed again; "
        f"{plan.seconds:g} s each, from one process, without HTTP. A write is a load and a write, as is a logout.",
        style="dim",
        soft_wrap=True,
    )
