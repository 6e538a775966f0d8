"""What every peek does."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit


@dataclass(frozen=True)
class Row:
    """One session in the database."""

    sid: str
    user: str | None
    rev: int
    ended: str | None
    data: Mapping[str, Any]

    @property
    def short(self) -> str:
        """The end of the sid, as the pages show it."""
        return f"…{self.sid[-12:]}"

    def cells(self) -> tuple[str, ...]:
        """For printing."""
        return self.short, self.user or "-", str(self.rev), self.ended or "-", _brief(self.data)


class CannotLook(Exception):
    """The database could not be read: which, and why."""


COLUMNS = ("sid", "user", "rev", "ended", "data")


class Peek(ABC):
    """A reader of one database. ``where``: what it reads; ``means``: how.

    ``folder`` is where the database keeps its files, if its server was started for the demo.
    """

    where: str
    means: str
    folder: Path | None = None

    def __init__(self) -> None:
        self._shown: dict[str, Row] = {}

    @classmethod
    @abstractmethod
    async def open(cls, url: str) -> Peek:
        """Connect."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    @property
    @abstractmethod
    def by_hand(self) -> str:
        """How a visitor may look: a command."""

    @abstractmethod
    async def read(self) -> Iterable[Row]:
        """All sessions, living and ended."""

    @abstractmethod
    async def everything(self) -> bytes:
        """All values that the database holds, whatever they are."""

    def files(self) -> list[Path]:
        """The database's own files, where they are known."""
        return [] if self.folder is None else [path for path in self.folder.rglob("*") if path.is_file()]

    async def rows(self) -> dict[str, Row]:
        """All sessions by sid, oldest first. Raises ``CannotLook``."""
        try:
            rows = await self.read()
        except Exception as error:  # every driver has errors of its own
            raise CannotLook(f"Cannot read {self.where}: {error}") from error
        return {row.sid: row for row in sorted(rows, key=lambda row: row.sid)}

    async def row(self, sid: str) -> Row | None:
        """One session."""
        return (await self.rows()).get(sid)

    async def changes(self) -> tuple[list[Row], int, int]:
        """Rows that are new or different since the last call, how many are as before, and how many have gone."""
        rows = await self.rows()
        changed = [row for sid, row in rows.items() if self._shown.get(sid) != row]
        gone = len(self._shown.keys() - rows.keys())
        self._shown = rows
        return changed, len(rows) - len(changed), gone


def split_prefix(url: str, default: str = "sessiondb_") -> tuple[str, str]:
    """``url`` as the database's own driver takes it, and what begins the names of what sessiondb keeps."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    prefix = options.pop("prefix", default)
    return parts._replace(query=urlencode(options)).geturl(), prefix


def without_password(url: str) -> str:
    """``url`` to be shown."""
    parts = urlsplit(url)
    who, at, where = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{who.partition(':')[0]}{at}{where}").geturl()


def flat(values: Iterable[object]) -> bytes:
    """Values as the bytes to search in."""
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)


def _brief(data: Mapping[str, Any]) -> str:
    raced = [key for key in data if key.startswith("race:")]
    shown = {key: value for key, value in data.items() if key not in raced}
    text = json.dumps(shown, ensure_ascii=False)
    return text if not raced else f"{len(raced)} race keys, {text}"
