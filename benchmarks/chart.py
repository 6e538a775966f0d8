"""The chart of a run: CPU that sessions add to a request, as bars, one panel for each kind of request."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.measure import Cell
from benchmarks.results import Results
from benchmarks.variants import COOKIE, NONE

LABELS = 216.0
PANEL = 340.0
VALUE = 104.0
ROW = 26.0
TOP = 96.0
BOTTOM = 64.0
MARGIN = 16.0

# Its own background, so that it can be read on any page; dark where the reader's system is.
_STYLE = """
  .background { fill: #ffffff; stroke: #d0d7de }
  text { font: 13px -apple-system, "Segoe UI", "DejaVu Sans", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 17px; font-weight: 600 }
  .panel { font-weight: 600 }
  .quiet { fill: #59636e; font-size: 12px }
  .ours { font-weight: 600 }
  .value { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round }
  .grid { stroke: #d1d9e0 }
  .unit { stroke: #bc4c00; stroke-dasharray: 4 3 }
  .spread { stroke: #1f2328; opacity: .55 }
  rect.sessiondb { fill: #0969da }
  rect.cookie { fill: #bc4c00 }
  rect.peer { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    .background { fill: #0d1117; stroke: #3d444d }
    text { fill: #f0f6fc }
    .quiet { fill: #9198a1 }
    .value { stroke: #0d1117 }
    .grid { stroke: #3d444d }
    .unit { stroke: #f0883e }
    .spread { stroke: #f0f6fc }
    rect.sessiondb { fill: #4493f8 }
    rect.cookie { fill: #f0883e }
    rect.peer { fill: #6e7681 }
  }
"""


def chart(results: Results, cells: Sequence[Cell]) -> str:
    """An SVG, cheapest first. Variants on a stand-in are left out: their speed says nothing."""
    shown = [cell for cell in cells if results.added(COOKIE, cell)]
    names = [
        name
        for name in results.names
        if name != NONE and not results.is_stand_in(name) and all(results.added(name, cell) for cell in shown)
    ]
    if shown:
        names.sort(key=lambda name: statistics.median(results.added(name, shown[0])))
    width = MARGIN * 2 + LABELS + (PANEL + MARGIN) * len(shown)
    height = TOP + ROW * len(names) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="CPU that sessions add to a request">',
        f"<style>{_STYLE}</style>",
        f'<rect class="background" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8"/>',
        _text(MARGIN, 30, "CPU that sessions add to a request", "title"),
        _text(MARGIN, 50, "microseconds of the app's process; in brackets: × Starlette's signed cookie", "quiet"),
    ]
    for row, name in enumerate(names):
        kind = "ours" if name.startswith("sessiondb") else ""
        parts.append(_text(MARGIN + LABELS - 10, _middle(row), _label(name), kind, "end"))
    for number, cell in enumerate(shown):
        left = MARGIN + LABELS + (PANEL + MARGIN) * number
        parts += _panel(results, cell, names, left)
    parts += [_text(MARGIN, height - 14, _footer(results), "quiet"), "</svg>", ""]
    return "\n".join(parts)


def _panel(results: Results, cell: Cell, names: Sequence[str], left: float) -> list[str]:
    added = {name: results.added(name, cell) for name in names}
    room = PANEL - VALUE
    step, end = scale(max(max(values) for values in added.values()))
    bottom = TOP + ROW * len(names)

    def at(value: float) -> float:
        return left + max(0.0, value) / end * room

    parts = [_text(left, 76, f"{cell.kind}, {cell.connections} connections", "panel")]
    for number in range(round(end / step) + 1):
        x = at(number * step)
        parts.append(_line(x, TOP - 6, x, bottom + 4, "grid"))
        parts.append(_text(x, bottom + 18, f"{number * step:,.0f}", "quiet", "middle"))
    parts.append(_text(left + room + 14, bottom + 18, "µs", "quiet"))
    unit = at(statistics.median(added[COOKIE]))
    parts.append(_line(unit, TOP - 6, unit, bottom + 4, "unit"))
    for row, name in enumerate(names):
        values, y = added[name], TOP + ROW * row
        middle = statistics.median(values)
        kind = "cookie" if name == COOKIE else "sessiondb" if name.startswith("sessiondb") else "peer"
        parts.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{y + 4:.1f}" '
            f'width="{at(middle) - left:.1f}" height="{ROW - 8:.0f}" rx="2"/>'
        )
        parts.append(_line(at(min(values)), y + ROW / 2, at(max(values)), y + ROW / 2, "spread"))
        ratio = results.times_cookie(name, cell)
        shown = f"{middle:,.0f}" + ("" if ratio is None else f" (× {ratio:.2f})")
        parts.append(
            _text(at(max(middle, max(values))) + 6, _middle(row), shown, "ours" if kind == "sessiondb" else "")
        )
    return parts


def scale(highest: float) -> tuple[float, float]:
    """The step and the end of an axis from 0 to at least ``highest``, in round numbers and few steps."""
    step = next(
        step * 10**power for power in range(7) for step in (1, 2, 5) if highest <= step * 10**power * 5 or power == 6
    )
    return float(step), float(step * max(1, -(-highest // step)))


def _label(name: str) -> str:
    return "Starlette's signed cookie" if name == COOKIE else name


def _footer(results: Results) -> str:
    machine, scale_ = results.document["machine"], results.document["scale"]
    return (
        f"Median of {scale_['rounds']} interleaved rounds, lines: lowest to highest. {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['python']}."
    )


def _middle(row: int) -> float:
    return TOP + ROW * row + ROW / 2 + 4.5


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    classes = f' class="{kind}"' if kind else ""
    return f'<text{classes} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
