"""Looks into the SQLite file with nothing but the standard library, as anybody may."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUERY = "SELECT sid, user_id, rev, end_reason, data FROM sessiondb_sessions ORDER BY sid"


@dataclass(frozen=True)
class Row:
    """One session in the table."""

    sid: str
    user: str | None
    rev: int
    ended: str | None
    json: str

    @property
    def data(self) -> dict[str, Any]:
        """The session's keys."""
        values: dict[str, Any] = json.loads(self.json)
        return values

    @property
    def short(self) -> str:
        """The end of the sid, as the pages show it."""
        return f"…{self.sid[-12:]}"

    def cells(self) -> tuple[str, ...]:
        """For printing."""
        return self.short, self.user or "-", str(self.rev), self.ended or "-", _brief(self.data)


COLUMNS = ("sid", "user", "rev", "ended", "data")


class Peek:
    """A reader of the database file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown: dict[str, Row] = {}

    def rows(self) -> dict[str, Row]:
        """All sessions by sid, living and ended."""
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return {row[0]: Row(*row) for row in connection.execute(QUERY)}

    def row(self, sid: str) -> Row | None:
        """One session."""
        return self.rows().get(sid)

    def changes(self) -> tuple[list[Row], int, int]:
        """Rows that are new or different since the last call, how many are as before, and how many have gone."""
        rows = self.rows()
        changed = [row for sid, row in rows.items() if self._shown.get(sid) != row]
        gone = len(self._shown.keys() - rows.keys())
        self._shown = rows
        return changed, len(rows) - len(changed), gone

    def files(self) -> Iterator[Path]:
        """The database and what SQLite keeps beside it."""
        for suffix in ("", "-wal", "-shm"):
            path = self.path.with_name(self.path.name + suffix)
            if path.exists():
                yield path


def _brief(data: dict[str, Any]) -> str:
    raced = [key for key in data if key.startswith("race:")]
    shown = {key: value for key, value in data.items() if key not in raced}
    text = json.dumps(shown, ensure_ascii=False)
    return text if not raced else f"{len(raced)} race keys, {text}"
