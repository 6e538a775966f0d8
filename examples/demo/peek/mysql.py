"""MySQL and MariaDB: SQL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import asyncmy

from examples.demo.peek.base import Peek, Row, flat, split_prefix, without_password


class MySQLPeek(Peek):
    """One connection."""

    def __init__(self, url: str, prefix: str, connection: Any) -> None:
        super().__init__()
        self._url = url
        self._connection = connection
        self.where = f"the table {prefix}sessions of {without_password(url)}"
        self.means = f"SELECT sid, user_id, rev, end_reason, data FROM {prefix}sessions"

    @classmethod
    async def open(cls, url: str) -> MySQLPeek:
        """Connect."""
        url, prefix = split_prefix(url)
        at = urlsplit(url)
        connection = await asyncmy.connect(
            host=at.hostname or "localhost",
            port=at.port or 3306,
            user=unquote(at.username or "root"),
            password=unquote(at.password or ""),
            database=unquote(at.path.strip("/")),
            connect_timeout=5,
            autocommit=True,
            use_unicode=False,
        )
        return cls(url, prefix, connection)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.ensure_closed()

    @property
    def by_hand(self) -> str:
        """See ``Peek.by_hand``."""
        at = urlsplit(self._url)
        password = f"-p{at.password}" if self.folder else "-p"
        login = f"-h {at.hostname} -P {at.port or 3306} -u {at.username} {password} {at.path.strip('/')}"
        return f'mariadb {login} -e "{self.means.replace(" sid", " HEX(sid)")}"'

    async def read(self) -> Iterable[Row]:
        """See ``Peek.read``."""
        return [
            Row(str(UUID(bytes=sid)), _text(user), rev, _text(ended), json.loads(data))
            for sid, user, rev, ended, data in await self._run(self.means)
        ]

    async def everything(self) -> bytes:
        """See ``Peek.everything``."""
        tables = [await self._run(f"SELECT * FROM `{_text(name)}`") for (name,) in await self._run("SHOW TABLES")]
        return flat(value for table in tables for row in table for value in row)

    async def _run(self, statement: str) -> Sequence[Sequence[Any]]:
        async with self._connection.cursor() as cursor:
            await cursor.execute(statement)
            rows: Sequence[Sequence[Any]] = await cursor.fetchall()
            return rows


def _text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
