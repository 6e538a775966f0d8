"""What the tests of each surface share: the servers, and looking at what handlers noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from serving import Browser, Server, eventually, serving, sqlite_url


@contextmanager
def surfaces(folder: Path, count: int = 2, **settings: Any) -> Iterator[list[Server]]:
    """Servers of ``surface_app.py`` on one SQLite file."""
    with serving("surfaces", folder, count=count, url=sqlite_url(folder), db={"timeout": 30}, **settings) as servers:
        yield servers


async def seen(client: httpx.AsyncClient, server: Server, name: str) -> list[str]:
    """What handlers noticed under ``name``."""
    noted: list[str] = (await client.get(f"{server.url}/seen/{name}")).json()
    return noted


async def noticed(client: httpx.AsyncClient, server: Server, name: str, what: str, count: int = 1) -> None:
    """Wait until handlers have noticed ``what``."""

    async def look() -> bool:
        return (await seen(client, server, name)).count(what) >= count

    await eventually(look)


async def stored(client: httpx.AsyncClient, server: Server, sid: str) -> dict[str, Any]:
    """What the database has of the session ``sid``."""
    data: dict[str, Any] = (await client.get(f"{server.url}/info/{sid}")).json()["data"]
    return data


async def living(client: httpx.AsyncClient, server: Server) -> int:
    """How many sessions live."""
    return int((await client.get(f"{server.url}/stats")).json()["live"])


async def sid_of(browser: Browser) -> str:
    sid: str = (await browser.session())["sid"]
    return sid
