"""``python -m benchmarks.report``: from ``docs/benchmarks.json`` to the page and the chart beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.chart import chart
from benchmarks.measure import USED, Cell
from benchmarks.results import Results, spread
from benchmarks.variants import COOKIE, NONE

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = Path(__file__).with_name("page.md")
CHART_CELLS = (Cell("read", 32), Cell("write", 32))


def tables(results: Results) -> str:
    """Every figure, as Markdown: one table for each kind of request and number of connections."""
    parts = [_table(results, cell) for cell in results.cells]
    if results.document["databases"]:
        parts.append(_room(results))
    return "\n\n".join(parts)


def _table(results: Results, cell: Cell) -> str:
    lines = [
        f"### {cell.kind}, {cell.connections} connection{'' if cell.connections == 1 else 's'}",
        "",
        "| sessions kept in | CPU added, µs (spread) | × signed cookie | database's CPU, µs | requests/s | of none "
        "| p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plain = results.median(NONE, cell, lambda figures: figures.rate)
    for name in results.names:
        rate = results.median(name, cell, lambda figures: figures.rate)
        if rate is None:
            continue
        ratio = None if name == NONE else results.times_cookie(name, cell)
        cells = [
            results.label(name),
            "–" if name == NONE else spread(results.added(name, cell)),
            "–" if ratio is None else f"{ratio:.2f}",
            _number(results.median(name, cell, lambda figures: figures.server_cpu), ".0f"),
            f"{rate:,.0f}",
            "–" if plain is None else f"{rate / plain:.0%}",
            _number(results.median(name, cell, lambda figures: figures.p50), ".2f"),
            _number(results.median(name, cell, lambda figures: figures.p99), ".2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _room(results: Results) -> str:
    lines = [
        "### Room and durability",
        "",
        "| sessions kept in | bytes a session in the database | server | settings |",
        "|---|---|---|---|",
    ]
    databases = {one["name"]: one for one in results.document["databases"]}
    for name in results.names:
        variant = results.variant(name)
        database = databases.get(variant["database"])
        if database is not None:
            size = variant["bytes_a_session"]
            shown = "–" if size is None else f"{size:,.0f}"
            lines.append(f"| {results.label(name)} | {shown} | {database['version']} | {database['durability']} |")
    return "\n".join(lines)


def summary(results: Results) -> str:
    """Where and how it was measured, in two lines."""
    machine, scale, versions = (results.document[key] for key in ("machine", "scale", "versions"))
    used = min(USED, scale["sessions"])
    return (
        f"{scale['rounds']} interleaved round{'' if scale['rounds'] == 1 else 's'} of up to {scale['requests']:,} "
        f"requests, {scale['sessions']:,} sessions in each, {used:,} of them in use; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, {machine['python']}, "
        f"uvicorn {versions.get('uvicorn')} with uvloop {versions.get('uvloop')} and httptools "
        f"{versions.get('httptools')}.\n"
        f"The load generator took {results.busiest_generator():.0%} of a core at most."
    )


def page(results: Results) -> str:
    """``docs/benchmarks.md``."""
    versions = results.document["versions"]
    peers = sorted(
        {
            f"{one['package']} {versions[one['package']]}"
            for one in results.document["variants"]
            if one["package"] in versions and one["name"] != COOKIE
        }
    )
    return (
        PAGE.read_text(encoding="utf-8")
        .replace("{summary}", summary(results).replace("\n", " "))
        .replace("{peers}", ", ".join(peers))
        .replace("{tables}", tables(results))
    )


def main() -> None:
    """Write the page and the chart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=DOCS / "benchmarks.json", help="what --json has written")
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder of benchmarks.md and benchmarks.svg")
    options = parser.parse_args()
    results = Results.read(options.file)
    (options.to / "benchmarks.md").write_text(page(results), encoding="utf-8")
    (options.to / "benchmarks.svg").write_text(chart(results, CHART_CELLS), encoding="utf-8")


if __name__ == "__main__":
    main()
