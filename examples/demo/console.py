"""What the demo prints: steps, checks and tables. Colour only on a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any


class CheckFailed(Exception):
    """A check did not hold: what was expected, and what came."""


class Console:
    """Prints to standard output."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._colours = self.is_terminal and "NO_COLOR" not in os.environ
        self._width = min(shutil.get_terminal_size((104, 24)).columns, 120)
        self._tick = "✓" if self._can_print("✓…·") else "ok"
        self._steps = 0

    @staticmethod
    def _can_print(characters: str) -> bool:
        try:
            characters.encode(sys.stdout.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def line(self, text: str = "") -> None:
        """One line, or none."""
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), flush=True)

    def step(self, title: str, story: str) -> None:
        """The next step."""
        self._steps += 1
        self.line()
        self.line(self.paint(f"{self._steps:2}. {title}", "1;34"))
        for part in textwrap.wrap(" ".join(story.split()), self._width - 4):
            self.line(f"    {self.paint(part, '2')}")

    def check(self, what: str, got: object, expected: object) -> None:
        """``got`` must be ``expected``, or make it true if that is a function. Raises ``CheckFailed``."""
        holds = expected(got) if callable(expected) else got == expected
        if not holds:
            wanted = (expected.__doc__ or "something else") if callable(expected) else repr(expected)
            raise CheckFailed(f"{what}\n    expected: {wanted}\n    came:     {got!r:.600}")
        self.line(f"    {self.paint(self._tick, '32')} {what}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
        """A table whose last column is cut to what fits."""
        widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
        left = self._width - 6 - sum(widths[:-1]) - 2 * len(widths)
        widths[-1] = max(12, min(widths[-1], left))
        render: Callable[[Sequence[str]], str] = lambda row: "  ".join(  # noqa: E731
            _cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        self.line(f"      {self.paint(render(columns), '2;4')}")
        for row in rows:
            self.line(f"      {render(row)}")
        if note:
            self.line(f"      {self.paint(note, '2')}")

    def error(self, text: str) -> None:
        """Why it stops."""
        self.line()
        self.line(self.paint("The demo has failed.", "1;31"))
        self.line(text)

    def paint(self, text: str, code: str) -> str:
        """``text`` in a colour, on a terminal."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


def at_least(least: int) -> Callable[[Any], bool]:
    """For ``check``."""

    def enough(got: Any) -> bool:
        return bool(got >= least)

    enough.__doc__ = f"at least {least}"
    return enough


def containing(*parts: str) -> Callable[[Any], bool]:
    """For ``check``."""

    def contains(got: Any) -> bool:
        return all(part in got for part in parts)

    contains.__doc__ = f"something with {', '.join(map(repr, parts))}"
    return contains


def without(*parts: str) -> Callable[[Any], bool]:
    """For ``check``."""

    def lacks(got: Any) -> bool:
        return not any(part in got for part in parts)

    lacks.__doc__ = f"something without {', '.join(map(repr, parts))}"
    return lacks


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
