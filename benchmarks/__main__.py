"""``python -m benchmarks``: what each way to keep sessions adds to a request, side by side.

Each variant is the same FastAPI app under ``uvicorn[standard]``, one worker. The measure is process CPU from the
operating system, as a multiple of what Starlette's signed cookie adds in the same interleaved run: shares of requests
per second swing with the machine's mood, this does not. ``docs/benchmarks.md`` says more.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import load, machine, report
from benchmarks.measure import App, Cell, Scale, run
from benchmarks.results import Results
from benchmarks.servers import AS_DEPLOYED, Running, running
from benchmarks.variants import COOKIE, NONE, VARIANTS, Variant

KINDS = list(load.KINDS)
STAND_IN_FOR_MONGODB = "SecantusDB, which gives itself out as"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    # Told to end (by a time limit, say), it still stops the servers that it has started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8000, help="per variant, kind and round")
    parser.add_argument("--sessions", type=int, default=5000, help="in each variant; 1,000 of them are used")
    parser.add_argument("--connections", type=int, nargs="+", help="of each kind; else all at 32, some at 1 and 256")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="of requests")
    parser.add_argument(
        "--only", nargs="*", choices=list(VARIANTS), metavar="VARIANT", help="to compare with 'none' and 'cookie'"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures there")
    parser.add_argument("--list", action="store_true", help="print the variants, and measure nothing")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(VARIANTS))
        return
    wanted = [
        variant
        for variant in VARIANTS.values()
        if options.only is None or variant.name in (*options.only, NONE, COOKIE)
    ]
    scale = Scale(options.rounds, options.requests, options.sessions)
    results = measured(wanted, planned(options.kinds, options.connections), scale)
    if options.json:
        results.write(options.json)
    print(report.tables(results), "\n")
    print(report.summary(results))
    for name, failure in results.document["failed"].items():
        print(f"{name} is left out: {failure}", file=sys.stderr)
    sys.exit(1 if results.document["failed"] else 0)


def planned(kinds: Sequence[str] | None, connections: Sequence[int] | None) -> list[Cell]:
    """What to measure. By default all kinds at 32 connections, and reads and writes at 1 and 256 too.

    A login is followed by the logout of what has logged in.
    """
    if connections:
        return [Cell(kind, number) for number in connections for kind in kinds or KINDS]
    cells = [Cell(kind, 32) for kind in KINDS] + [Cell(kind, number) for number in (1, 256) for kind in KINDS[:2]]
    return [cell for cell in cells if kinds is None or cell.kind in kinds]


def measured(wanted: Sequence[Variant], cells: Sequence[Cell], scale: Scale) -> Results:
    """Start what is needed, measure, and stop it."""
    with ExitStack() as stack:
        processors = stack.enter_context(machine.divided())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sessiondb-bench-")))
        databases: dict[str, Running | None] = {}
        apps: list[App] = []
        for number, variant in enumerate(wanted):
            if variant.database is not None and variant.database not in databases:
                databases[variant.database] = stack.enter_context(running(AS_DEPLOYED[variant.database], folder))
            database = databases[variant.database] if variant.database is not None else None
            if database is None and variant.database is not None:
                continue
            app = App(variant, _url(variant, database, folder, number), database, processors)
            stack.callback(app.stop)
            apps.append(app)
        run(apps, cells, scale)
        about = {
            "machine": machine.describe(),
            "versions": machine.versions(),
            "databases": asyncio.run(_about([one for one in databases.values() if one is not None])),
        }
        return Results.of(apps, scale, about)


def _url(variant: Variant, database: Running | None, folder: Path, number: int) -> str:
    """A database of its own on the server that several variants share."""
    if database is None:
        return "memory://"
    if variant.database == "SQLite":
        return f"sqlite:///{folder}/{number}.db"
    if variant.database == "Valkey":
        return database.url.removesuffix("/0") + f"/{number}"
    return f"{database.url}?prefix=near_" if variant.name.endswith(" near") else database.url


async def _about(databases: Sequence[Running]) -> list[dict[str, Any]]:
    from sessiondb.ops.doctor import examine

    versions = [(await examine(one.url)).database for one in databases]
    return [
        {
            "name": one.kind.name,
            "version": f"{STAND_IN_FOR_MONGODB} {said}" if one.kind.is_stand_in else said,
            "durability": one.kind.durability,
            "is_stand_in": one.kind.is_stand_in,
        }
        for one, said in zip(databases, versions, strict=True)
    ]


if __name__ == "__main__":
    main()
