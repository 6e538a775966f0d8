"""SQLite: the standard library."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from examples.demo.peek.base import Peek, Row, flat
from sessiondb import open_store
from sessiondb.stores.sqlite import SQLiteStore

QUERY = "SELECT sid, user_id, rev, end_reason, data FROM sessiondb_sessions"


class SQLitePeek(Peek):
    """A reader of the file."""

    means = QUERY

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.where = f"the file {path}"

    @classmethod
    async def open(cls, url: str) -> SQLitePeek:
        """Nothing is opened yet."""
        return cls(path_of(url))

    async def close(self) -> None:
        """Nothing is open."""

    @property
    def by_hand(self) -> str:
        """See ``Peek.by_hand``."""
        return f"sqlite3 {self.path} '{QUERY}'"

    async def read(self) -> Iterable[Row]:
        """See ``Peek.read``."""
        with self._connection() as connection:
            found = connection.execute(QUERY).fetchall()
        return [Row(sid, user, rev, ended, json.loads(data)) for sid, user, rev, ended, data in found]

    async def everything(self) -> bytes:
        """See ``Peek.everything``."""
        with self._connection() as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            tables = [connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names]
        return flat(value for table in tables for row in table for value in row)

    def _connection(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=5))

    def files(self) -> list[Path]:
        """The database and what SQLite keeps beside it."""
        paths = [self.path.with_name(self.path.name + suffix) for suffix in ("", "-wal", "-shm")]
        return [path for path in paths if path.exists()]


def path_of(url: str) -> Path:
    """The file of an ``sqlite://`` URL."""
    store = open_store(url)
    assert isinstance(store, SQLiteStore)
    return Path(store.path)
