"""``python -m benchmarks``: the table of what each way to keep sessions adds to a request.

Each variant is the same FastAPI app under ``uvicorn[standard]``, one worker, with 1,000 sessions of about 300
bytes. The measure is process CPU from the operating system, as a multiple of what Starlette's signed cookie adds
in the same interleaved run: shares of requests per second swing with the machine's mood, this does not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
from pathlib import Path

from benchmarks.measure import Figures, added, run, times_cookie
from benchmarks.redis_server import redis_server

ORDER = ["none", "cookie", "starsessions memory", "starsessions redis", "sessiondb memory", "sessiondb sqlite"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8000, help="per variant, kind and round")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", nargs="*", default=ORDER, help="variants to compare with 'none' and 'cookie'")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    names = [name for name in ORDER if name in options.only or name in ("none", "cookie")]
    folder = Path(tempfile.mkdtemp(prefix="sessiondb-bench-"))
    try:
        with redis_server(folder, wanted="starsessions redis" in names) as url:
            if url is None:
                names = [name for name in names if not name.endswith("redis")]
            else:
                os.environ["BENCH_REDIS_URL"] = url
            figures = run(
                names, folder, rounds=options.rounds, requests=options.requests, connections=options.connections
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps({f"{name} {kind}": vars(entry) for (name, kind), entry in figures.items()}))
    else:
        print(table(names, figures))
        print(
            f"\n{options.rounds} interleaved rounds of {options.requests} requests, {options.connections} connections; "
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}."
        )


def table(names: list[str], figures: dict[tuple[str, str], Figures]) -> str:
    """The figures as Markdown: medians over the rounds, the spread of CPU in brackets."""
    lines = [
        "| sessions | kind | CPU added, µs (spread) | × signed cookie | requests/s | of none | p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("read", "write"):
        plain = statistics.median(figures["none", kind].rate)
        for name in names:
            entry = figures[name, kind]
            rate = statistics.median(entry.rate)
            extra = added(figures, name, kind)
            cpu = "–" if name == "none" else f"{statistics.median(extra):.0f} ({min(extra):.0f}–{max(extra):.0f})"
            ratio = "–" if name == "none" else f"{times_cookie(figures, name, kind):.2f}"
            lines.append(
                f"| {name} | {kind} | {cpu} | {ratio} | {rate:,.0f} | {rate / plain:.0%} | "
                f"{statistics.median(entry.p50):.1f} | {statistics.median(entry.p99):.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
