"""Tables that tests leave for the end of the run, where pytest prints them."""

from __future__ import annotations

from collections.abc import Sequence

_TABLES: dict[str, dict[str, dict[str, str]]] = {}


def note(table: str, row: str, column: str, cell: object) -> None:
    """Put ``cell`` into ``table``. Rows and columns stand in the order in which they first came."""
    _TABLES.setdefault(table, {}).setdefault(row, {})[column] = str(cell)


def notes() -> dict[str, dict[str, dict[str, str]]]:
    """All tables as they are, for another process to ``add``."""
    return _TABLES


def add(notes: dict[str, dict[str, dict[str, str]]]) -> None:
    """What another process has noted."""
    for table, rows in notes.items():
        for row, cells in rows.items():
            for column, cell in cells.items():
                note(table, row, column, cell)


def tables() -> list[tuple[str, list[str]]]:
    """Each table's title and lines."""
    return [(title, _lines(rows)) for title, rows in _TABLES.items()]


def _lines(rows: dict[str, dict[str, str]]) -> list[str]:
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    grid = [["", *columns], *([row, *(cells.get(column, "") for column in columns)] for row, cells in rows.items())]
    widths = [max(len(line[at]) for line in grid) for at in range(len(columns) + 1)]
    return [_line(line, widths) for line in grid]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = cells
    return "  ".join(
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
    ).rstrip()
