"""Holding requests back in the middle, so that a race ends the way a test wants it to."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
from serving import Browser, Server, eventually

names = itertools.count()


def gate() -> str:
    return f"gate{next(names)}"


def user() -> str:
    return f"user{next(names)}"


async def arrived(client: httpx.AsyncClient, server: Server, name: str, count: int = 1) -> None:
    async def look() -> bool:
        return int((await client.get(f"{server.url}/gates/{name}")).json()) >= count

    await eventually(look)


async def open_gate(client: httpx.AsyncClient, server: Server, name: str) -> None:
    assert (await client.post(f"{server.url}/gates/{name}")).status_code == 200


async def events(client: httpx.AsyncClient, server: Server, sid: str, type: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(f"{server.url}/events", params={"sid": sid, "type": type})).json()
    return found


async def cart(client: httpx.AsyncClient, server: Server, **data: Any) -> Browser:
    browser = Browser(client, server.url)
    assert (await browser.post("/put", data or {"cart": ["tea"]})).value
    return browser


async def logged_in(client: httpx.AsyncClient, server: Server, who: str) -> Browser:
    browser = Browser(client, server.url)
    assert (await browser.post(f"/login/{who}")).value
    return browser
