"""``python -m benchmarks.databases``: every database side by side, verb by verb, and what a killed server loses.

The rounds are interleaved, all servers run on this machine, and the driver alone (one primary-key read, one caller) is
measured in the same run: read its line first, then everything else as multiples of it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from benchmarks.durability import SETTINGS, lost
from benchmarks.operations import VERBS, Subject
from benchmarks.servers import KINDS, started
from provision.process import NotHere
from sessiondb import SessionDB


def main() -> None:
    """Measure and print."""
    # Told to end (by a time limit, say), it still stops the servers that it has started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.databases", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--alone", type=int, default=200, help="calls by one caller, per verb and round")
    parser.add_argument("--together", type=int, default=1600, help="calls by all callers, per verb and round")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--only", nargs="*", default=[kind.name for kind in KINDS], help="databases")
    parser.add_argument("--part", choices=("verbs", "durability", "both"), default="both")
    options = parser.parse_args()
    if options.part != "durability":
        subjects = asyncio.run(_measure(options))
        print(verbs_table(subjects), "\n")
        print(
            f"{options.rounds} interleaved rounds, {options.sessions} sessions, {options.callers} callers, "
            f"one process, one event loop; {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}.\n"
        )
    if options.part != "verbs":
        print(asyncio.run(durability_table(options.only)))


async def _measure(options: argparse.Namespace) -> list[Subject]:
    subjects = []
    with ExitStack() as servers, tempfile.TemporaryDirectory(prefix="sessiondb-bench-") as folder:
        async with AsyncExitStack() as open_:
            for kind in KINDS:
                if kind.name not in options.only:
                    continue
                url = servers.enter_context(started(kind, Path(folder)))
                if url is None:
                    continue
                db = await open_.enter_async_context(SessionDB(url, sweep_every=None, timeout=30))
                driver = await open_.enter_async_context(kind.driver(url, 1))
                subject = Subject(kind, url, db, driver)
                await subject.fill(options.sessions)
                subjects.append(subject)
            for turn in range(options.rounds):
                for subject in subjects if turn % 2 else reversed(subjects):
                    await subject.measure(options.alone, options.together, options.callers)
                print(f"round {turn + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    return subjects


def verbs_table(subjects: list[Subject]) -> str:
    """Medians over the rounds, as Markdown."""
    lines = [
        "| database | verb | alone: p50 ms | p99 ms | × the driver's read | together: calls/s | bytes a session |",
        "|---|---|---|---|---|---|---|",
    ]
    for subject in subjects:
        driver = statistics.median(subject.times["driver"].p50)
        for verb in VERBS:
            times = subject.times[verb]
            p50 = statistics.median(times.p50)
            size = subject.bytes_a_session
            shown = f"{size:,.0f}" if verb == "driver" and size is not None else ""
            rate = f"{statistics.median(times.rate):,.0f}" if times.rate else "–"
            lines.append(
                f"| {subject.kind.name} | {verb} | {p50:.2f} | {statistics.median(times.p99):.2f} | "
                f"{p50 / driver:.1f} | {rate} | {shown} |"
            )
    return "\n".join(lines)


async def durability_table(databases: list[str]) -> str:
    """What ``kill -9`` cost here, and what a power cut may cost, as Markdown."""
    lines = [
        "| database | setting | answered writes | missing after kill -9 | one write, p50 ms | a power cut may lose |",
        "|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS:
        if setting.database not in databases:
            continue
        try:
            loss = await lost(setting)
        except NotHere as error:
            print(f"{setting.database} is left out: {error}", file=sys.stderr)
            continue
        lines.append(
            f"| {setting.database} | {setting.text} | {loss.answered:,} | {loss.missing:,} | {loss.p50:.2f} | "
            f"{setting.power_cut} |"
        )
        print(f"{setting.database}, {setting.text}: done", file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
