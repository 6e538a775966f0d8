"""PostgreSQL: SQL."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import asyncpg

from examples.demo.peek.base import Peek, Row, flat, split_prefix, without_password


class PostgreSQLPeek(Peek):
    """One connection."""

    def __init__(self, url: str, prefix: str, connection: Any) -> None:
        super().__init__()
        self._url = url
        self._connection = connection
        self.where = f"the table {prefix}sessions of {without_password(url)}"
        self.means = f"SELECT sid, user_id, rev, end_reason, data FROM {prefix}sessions"

    @classmethod
    async def open(cls, url: str) -> PostgreSQLPeek:
        """Connect."""
        url, prefix = split_prefix(url)
        return cls(url, prefix, await asyncpg.connect(url, timeout=5))

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close(timeout=2)

    @property
    def by_hand(self) -> str:
        """See ``Peek.by_hand``."""
        url = self._url if self.folder else without_password(self._url)
        return f'psql {url} -c "{self.means}"'

    async def read(self) -> Iterable[Row]:
        """See ``Peek.read``."""
        found = await self._connection.fetch(self.means)
        return [Row(str(sid), user, rev, ended, json.loads(data)) for sid, user, rev, ended, data in found]

    async def everything(self) -> bytes:
        """See ``Peek.everything``."""
        names = await self._connection.fetch("SELECT relname FROM pg_stat_user_tables")
        tables = [await self._connection.fetch(f'SELECT * FROM "{name}"') for (name,) in names]
        return flat(value for table in tables for row in table for value in row)
