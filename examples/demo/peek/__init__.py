"""Looks into the database with nothing but its own means, as anybody may: SQL, ``HGETALL``, ``find``."""

from __future__ import annotations

import importlib
from urllib.parse import urlsplit

from examples.demo.peek.base import COLUMNS, CannotLook, Peek, Row

__all__ = ["COLUMNS", "CannotLook", "Peek", "Row", "can_look_into", "open_peek"]

_PEEKS = {
    "sqlite": "SQLitePeek",
    "postgresql": "PostgreSQLPeek",
    "mysql": "MySQLPeek",
    "redis": "RedisPeek",
    "mongodb": "MongoDBPeek",
}


def can_look_into(url: str) -> bool:
    """Whether there is a peek for databases of that kind."""
    return urlsplit(url).scheme in _PEEKS


async def open_peek(url: str) -> Peek:
    """A peek into the database of ``url``, to be closed."""
    kind = urlsplit(url).scheme
    # Each needs the driver of its database, and no other.
    peek: type[Peek] = getattr(importlib.import_module(f"examples.demo.peek.{kind}"), _PEEKS[kind])
    return await peek.open(url)
