"""What the guide says to ask a database can be pasted, and answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from databases import new_url
from sessiondb import SessionDB, open_store

GUIDE = (Path(__file__).parents[2] / "docs" / "databases.md").read_text(encoding="utf-8")
CART = {"theme": "dark", "cart": [{"id": 7, "quantity": 2}]}


def statements(heading: str, language: str) -> list[str]:
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [block] = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return [line for line in block.replace("\n", " ").split(";") if line.strip()]


@pytest.fixture
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database with the living session of Ann, and one of Bob that has ended."""
    url = new_url(request.param, tmp_path)
    async with SessionDB(url) as db:
        await db.create("ann", CART)
        await db.revoke((await db.create("bob", CART)).session.sid)
        yield url


def prefix_of(url: str) -> str:
    return re.findall(r"prefix=(\w+)", url)[0]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_postgresql_is_asked_by_an_index(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url.partition("?")[0])
    index, select = (one.replace("sessiondb_", prefix_of(url)) for one in statements("PostgreSQL", "sql"))
    await connection.execute(index)
    assert [row[0] for row in await connection.fetch(select)] == ["ann"]
    await connection.close()


@pytest.mark.parametrize("url", ["mysql"], indirect=True)
async def test_mysql_is_asked(url: str) -> None:
    import asyncmy

    parts = urlsplit(url)
    connection = await asyncmy.connect(
        host=parts.hostname, port=parts.port, user=parts.username, password=parts.password, db=parts.path[1:]
    )
    [select] = statements("MySQL and MariaDB", "sql")
    async with connection.cursor() as cursor:
        await cursor.execute(select.replace("sessiondb_", prefix_of(url)))
        [(user, seen, theme)] = await cursor.fetchall()
    assert (user, theme) == ("ann", '"dark"')
    assert seen.year >= 2026
    connection.close()


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_redis_shows_each_key(url: str) -> None:
    store: Any = open_store(url)
    async with SessionDB(store) as db:
        [session] = await db.sessions_of("ann")
        key = f"{prefix_of(url)}session:{session.sid}".encode()
        [flat] = await store.run([(key, ("HGETALL", key))])
    shown = dict(zip(flat[::2], flat[1::2], strict=True))
    assert shown[b"d:theme"] == b'"dark"'
    assert shown[b"d:cart"] == b'[{"id":7,"quantity":2}]'


@pytest.mark.parametrize("url", ["mongodb"], indirect=True)
async def test_mongodb_is_asked(url: str) -> None:
    from pymongo import MongoClient

    found = re.findall(r"find\((\{.*?\})\)", GUIDE)[0]
    assert found == '{"data.theme": "dark", ended_at: null}'
    client: Any = MongoClient(url.partition("?")[0], directConnection=True)
    sessions = client.get_default_database()[f"{prefix_of(url)}sessions"]
    assert [one["user_id"] for one in sessions.find({"data.theme": "dark", "ended_at": None})] == ["ann"]
    client.close()
