"""What a run has measured, as it is kept in JSON, and what follows from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import App, Cell, Figures, Scale
from benchmarks.variants import COOKIE, NONE

STAND_IN = " (stand-in)"


class Results:
    """The figures of one run. ``document`` is what is kept: objects, lists, texts and numbers alone."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._figures = {
            (one["variant"], Cell(one["kind"], one["connections"])): Figures(**one["rounds"])
            for one in document["figures"]
        }

    @classmethod
    def of(cls, apps: Sequence[App], scale: Scale, about: dict[str, Any]) -> Results:
        """Of what has been measured; ``about`` is the rest of the document: machine, versions, databases.

        What has failed has no figures, which would be of fewer rounds than its neighbours'.
        """
        failed = {app.variant.name: app.failure for app in apps if app.failure is not None}
        apps = [app for app in apps if app.failure is None]
        return cls(
            {
                **about,
                "scale": vars(scale),
                "failed": failed,
                "variants": [
                    {
                        "name": app.variant.name,
                        "package": app.variant.package,
                        "database": app.variant.database,
                        "bytes_a_session": app.bytes_a_session,
                    }
                    for app in apps
                ],
                "figures": [
                    {"variant": app.variant.name, **vars(cell), "rounds": vars(figures)}
                    for app in apps
                    for cell, figures in app.figures.items()
                ],
            }
        )

    @classmethod
    def read(cls, path: Path) -> Results:
        """Of a file that ``write`` has written."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Keep it."""
        shortened = json.loads(json.dumps(self.document), parse_float=lambda text: float(f"{float(text):.4g}"))
        path.write_text(json.dumps(shortened, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @property
    def names(self) -> list[str]:
        """The variants, as they were asked for."""
        return [one["name"] for one in self.document["variants"]]

    @property
    def cells(self) -> list[Cell]:
        """What was measured of each."""
        return list(dict.fromkeys(cell for _, cell in self._figures))

    def variant(self, name: str) -> dict[str, Any]:
        """What is known of a variant besides its figures."""
        found: dict[str, Any] = next(one for one in self.document["variants"] if one["name"] == name)
        return found

    def label(self, name: str) -> str:
        """``name``, marked where its database is a stand-in."""
        return name + STAND_IN if self.is_stand_in(name) else name

    def is_stand_in(self, name: str) -> bool:
        """Whether the database's speed says nothing of the one that is meant."""
        database = self.variant(name)["database"]
        return any(one["name"] == database and one["is_stand_in"] for one in self.document["databases"])

    def figures(self, name: str, cell: Cell) -> Figures | None:
        """Every round's."""
        return self._figures.get((name, cell))

    def median(self, name: str, cell: Cell, which: Callable[[Figures], list[float]]) -> float | None:
        """Over the rounds; ``None`` where it was not measured."""
        figures = self.figures(name, cell)
        values = [] if figures is None else which(figures)
        return statistics.median(values) if values else None

    def added(self, name: str, cell: Cell) -> list[float]:
        """CPU that sessions add to a request, round by round, in microseconds."""
        mine, plain = self.figures(name, cell), self.figures(NONE, cell)
        if mine is None or plain is None:
            return []
        return [one - other for one, other in zip(mine.cpu, plain.cpu, strict=True)]

    def times_cookie(self, name: str, cell: Cell) -> float | None:
        """The median CPU added, as a multiple of what the signed cookie adds."""
        mine, cookie = self.added(name, cell), self.added(COOKIE, cell)
        if not mine or not cookie or statistics.median(cookie) <= 0:
            return None
        return statistics.median(mine) / statistics.median(cookie)

    def busiest_generator(self) -> float:
        """The highest median share of a core that the load generator took, at 32 connections or more."""
        shares = [
            statistics.median(figures.generator)
            for (_, cell), figures in self._figures.items()
            if cell.connections > 1 and figures.generator
        ]
        return max(shares, default=0.0)


def spread(values: Iterable[float]) -> str:
    """The median, and the lowest and highest."""
    known = list(values)
    return f"{statistics.median(known):.0f} ({min(known):.0f}–{max(known):.0f})" if known else "–"
