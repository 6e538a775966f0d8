"""From figures to the table, the page and the chart; and one small run from end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import cpu, micro, report
from benchmarks.__main__ import planned
from benchmarks.chart import chart, scale
from benchmarks.measure import Cell
from benchmarks.micro import Pair, Side
from benchmarks.report import CHART_CELLS, DOCS
from benchmarks.results import Results, spread
from benchmarks.variants import VARIANTS
from provision.process import family

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
READ, WRITE = CHART_CELLS


def document(**cpu: tuple[float, float, float]) -> dict[str, Any]:
    """A run of three rounds; ``cpu`` is by variant, with ``_`` for spaces."""

    def rounds(values: tuple[float, float, float]) -> dict[str, list[float]]:
        return {
            "cpu": list(values),
            "server_cpu": [] if max(values) < 120 else [7.0, 9.0, 8.0],
            "rate": [1000.0, 4000.0, 2000.0],
            "p50": [1.0, 2.0, 3.0],
            "p99": [10.0, 30.0, 20.0],
            "generator": [0.1, 0.3, 0.2],
        }

    names = {name.replace("_", " "): values for name, values in cpu.items()}
    return {
        "machine": {
            "cpu": "A <fast> & small one",
            "cores": 2,
            "memory_gib": 4,
            "system": "Linux 6",
            "python": "CPython",
        },
        "versions": {"uvicorn": "1.2", "uvloop": "3.4", "httptools": "5.6", "starsessions": "2.2.1", "starlette": "1"},
        "databases": [
            {"name": "Valkey", "version": "Valkey 9", "durability": "appendfsync=everysec", "is_stand_in": False},
            {"name": "MongoDB", "version": "not MongoDB", "durability": "w=majority", "is_stand_in": True},
        ],
        "scale": {"rounds": 3, "requests": 100, "sessions": 500},
        "failed": {},
        "variants": [
            {
                "name": name,
                "package": VARIANTS[name].package,
                "database": VARIANTS[name].database,
                "bytes_a_session": 1234.5 if VARIANTS[name].database else None,
            }
            for name in names
        ],
        "figures": [
            {"variant": name, "kind": cell.kind, "connections": cell.connections, "rounds": rounds(values)}
            for name, values in names.items()
            for cell in CHART_CELLS
        ],
    }


@pytest.fixture
def results() -> Results:
    return Results(
        document(
            none=(100, 110, 105),
            cookie=(150, 180, 165),
            starsessions_redis=(300, 350, 330),
            sessiondb_redis=(130, 135, 140),
            sessiondb_memory=(95, 112, 104),
            sessiondb_mongodb=(900, 910, 905),
        )
    )


def test_what_sessions_add_is_taken_round_by_round(results: Results) -> None:
    assert results.added("cookie", READ) == [50, 70, 60]
    assert results.added("sessiondb redis", READ) == [30, 25, 35]
    assert results.times_cookie("sessiondb redis", READ) == 0.5
    assert results.times_cookie("cookie", WRITE) == 1.0
    assert results.times_cookie("cookie", Cell("read", 999)) is None
    assert spread([3, 1, 2]) == "2 (1–3)"
    assert spread([]) == "–"


def test_the_table_has_a_line_for_each_variant(results: Results) -> None:
    text = report.tables(results)
    assert text.count("### ") == 3
    assert "| none | – | – | – | 2,000 | 100% | 2.00 | 20.00 |" in text
    assert "| cookie | 60 (50–70) | 1.00 | 8 | 2,000 | 100% | 2.00 | 20.00 |" in text
    assert "| sessiondb redis | 30 (25–35) | 0.50 | 8 |" in text
    assert "| sessiondb memory | -1 (-5–2) | -0.02 | – |" in text
    assert "| sessiondb mongodb (stand-in) | 800 (800–800) |" in text
    assert "| sessiondb redis | 1,234 | Valkey 9 | appendfsync=everysec |" in text
    for block in text.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_a_run_without_databases_has_a_table_too() -> None:
    made = document(none=(1, 2, 3), cookie=(4, 5, 6))
    made["databases"] = []
    assert "Room" not in report.tables(Results(made))


def test_the_page_says_where_how_and_against_whom(results: Results) -> None:
    page = report.page(results)
    assert "A <fast> & small one, 2 cores, 4 GiB" in page
    assert "3 interleaved rounds of up to 100 requests, 500 sessions in each, 500 of them in use" in page
    assert "starsessions 2.2.1" in page
    assert "20% of a core" in page
    assert not re.search(r"\{\w+\}", page)


def test_the_chart_can_be_read(results: Results) -> None:
    text = chart(results, CHART_CELLS)
    svg = ElementTree.fromstring(text)
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    texts = ["".join(one.itertext()) for one in svg.iter(f"{SVG}text")]
    for label in ("Starlette's signed cookie", "sessiondb redis", "read, 32 connections", "µs", "60 (× 1.00)", "0"):
        assert label in texts
    assert any("A <fast> & small one" in one for one in texts)
    assert not any("mongodb" in one for one in texts), "a stand-in's speed says nothing"
    # Cheapest first, and as long as they are dear.
    names = [one for one in texts if one.startswith(("sessiondb", "starsessions", "Starlette's"))]
    assert names == ["sessiondb memory", "sessiondb redis", "Starlette's signed cookie", "starsessions redis"]
    bars = [one for one in svg.iter(f"{SVG}rect") if one.attrib["class"] != "background"]
    lengths = [float(one.attrib["width"]) for one in bars[:4]]
    assert lengths[0] == 0  # less than nothing is no bar
    assert lengths[2] / lengths[1] == pytest.approx(2, abs=0.02)
    for one in svg.iter():
        for name, value in one.attrib.items():
            if name in ("x", "x1", "x2"):
                assert 0 <= float(value) <= width
            if name in ("y", "y1", "y2"):
                assert 0 <= float(value) <= height
    assert "prefers-color-scheme: dark" in text


def test_a_chart_of_nothing_is_an_svg_too() -> None:
    ElementTree.fromstring(chart(Results(document(none=(1, 1, 1))), CHART_CELLS))


@pytest.mark.parametrize(
    ("highest", "step", "end"), [(0.4, 1, 1), (5, 1, 5), (6, 2, 6), (240, 50, 250), (451, 100, 500), (2300, 500, 2500)]
)
def test_an_axis_is_in_round_numbers(highest: float, step: float, end: float) -> None:
    assert scale(highest) == (step, end)


def test_a_run_is_kept_in_json(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "run.json")
    again = Results.read(tmp_path / "run.json")
    assert report.page(again) == report.page(results)
    assert chart(again, CHART_CELLS) == chart(results, CHART_CELLS)


@pytest.mark.parametrize(("name", "of"), [("benchmarks.md", report.page), ("benchmarks.svg", None)])
def test_what_is_published_is_what_was_measured(name: str, of: Any) -> None:
    results = Results.read(DOCS / "benchmarks.json")
    wanted = of(results) if of else chart(results, CHART_CELLS)
    assert (DOCS / name).read_text(encoding="utf-8") == wanted, "run: make bench-report"


def test_what_is_measured_by_default() -> None:
    everything = planned(None, None)
    assert len(everything) == len(set(everything)) == 8
    assert {cell.kind for cell in everything if cell.connections == 32} == {"read", "write", "login", "logout"}
    assert {cell.kind for cell in everything if cell.connections != 32} == {"read", "write"}
    assert planned(["login"], None) == [Cell("login", 32)]
    assert planned(None, [8]) == [Cell(kind, 8) for kind in ("read", "write", "login", "logout")]
    assert planned(["read"], [1, 2]) == [Cell("read", 1), Cell("read", 2)]


def test_every_pin_of_a_peer_is_a_variant() -> None:
    pinned = {
        line.partition("==")[0]
        for line in (ROOT / "requirements" / "bench.txt").read_text(encoding="utf-8").splitlines()
    }
    packages = {variant.package for variant in VARIANTS.values() if variant.package is not None}
    assert packages - {"sessiondb", "starlette"} <= pinned


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_small_run_ends_with_a_table(tmp_path: Path) -> None:
    kept = tmp_path / "run.json"
    done = in_a_process(
        "benchmarks", "--only", "sessiondb sqlite", "--rounds", "1", "--requests", "200", "--sessions", "64",
        "--connections", "8", "--json", str(kept),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for kind in ("read", "write", "login", "logout"):
        part = done.stdout.partition(f"### {kind}, 8 connections")[2].partition("###")[0]
        assert re.search(r"\| sessiondb sqlite \| -?\d+ \(", part), done.stdout
    assert re.search(r"\| sessiondb sqlite \| [\d,]+ \| SQLite [\d.]+ \| synchronous=FULL \|", done.stdout)
    results = Results.read(kept)
    assert results.names == ["none", "cookie", "sessiondb sqlite"]
    assert len(results.cells) == 4
    again = in_a_process("benchmarks.report", str(kept), "--to", str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert "sessiondb sqlite" in (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    ElementTree.fromstring((tmp_path / "benchmarks.svg").read_text(encoding="utf-8"))


def test_a_run_that_is_told_to_end_leaves_no_process(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--only",
        "sessiondb sqlite",
        "--kinds",
        "read",
        "--connections",
        "1",
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stderr is not None
    assert "none: started" in run.stderr.readline()
    started = family(run.pid)
    assert len(started) == 4
    run.terminate()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert all(cpu.of_process(pid) == 0 for pid in started)
    assert list(tmp_path.iterdir()) == []


def test_the_goals_of_a_call_are_judged_by_the_medians() -> None:
    alone = Pair(
        "SQLite", "load", 1, "sqlite3", Side([10, 20, 30], [9] * 3, [1] * 3), Side([70, 75, 95], [9] * 3, [1] * 3)
    )
    assert alone.on_top() == [60, 55, 65]
    assert alone.reaches()
    many = Pair(
        "SQLite", "load", 32, "sqlite3", Side([9] * 3, [10, 10, 10], [1] * 3), Side([1] * 3, [12, 9, 11], [1] * 3)
    )
    assert not many.reaches()
    text = micro.table([alone, many])
    assert "| +60 (+55 to +65) µs on top of p50, at most +60 | yes |" in text
    assert "| 1.10 (0.90 to 1.20) × p99, at most 1 | no |" in text


def test_the_micro_benchmark_ends_with_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "micro.json"
    done = in_a_process(
        "benchmarks.micro", "--only", "SQLite", "PostgreSQL", "--rounds", "1", "--sessions", "32", "--alone", "4",
        "--together", "32", "--callers", "1", "8", "--json", str(kept),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pairs = [
        (one["database"], one["call"], one["callers"], one["blocks"])
        for one in json.loads(kept.read_text(encoding="utf-8"))["pairs"]
    ]
    assert pairs == [
        *(("SQLite", call, 1, blocks) for call in ("load", "apply") for blocks in (True, False)),
        *(("SQLite", call, 8, False) for call in ("load", "apply")),
        *(("PostgreSQL", call, n, False) for n in (1, 8) for call in ("load", "apply")),
    ]
    assert done.stdout.count("µs on top of p50, at most +60") == 6
    assert done.stdout.count("× p99, at most 1") == 4
