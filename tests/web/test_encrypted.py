"""Encrypted sessions under uvicorn: two processes, one of which has the keys in another order, as while they rotate."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from racing import cart, events, logged_in, user
from serving import Server, serving

from databases import new_url
from sessiondb import KeyRing, open_store
from sessiondb.core import codec
from sessiondb.core.change import Applied, Update, new_change_id
from sessiondb.core.token import Sid

OLD, NEW = KeyRing.generate(), KeyRing.generate()


@pytest.fixture(scope="module")
def address(kind: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_url(kind, tmp_path_factory.mktemp("encrypted"))


@pytest.fixture(scope="module")
def rotating(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folder: Path = tmp_path_factory.mktemp("rotating")
    settings = {"url": address, "db": {"timeout": 30}}
    with (
        serving("shop", folder, name="old", keys=[OLD, NEW], **settings) as [old],
        serving("shop", folder, name="new", keys=[NEW, OLD], **settings) as [new],
    ):
        yield [old, new]


async def test_counters_and_keys_lose_nothing(rotating: list[Server], client: httpx.AsyncClient) -> None:
    old, new = rotating
    browser = await cart(client, old, n=0)
    posts = [browser.twin().post("/increment", at=rotating[n % 2].url) for n in range(30)]
    posts += [browser.twin().post("/put", {f"k{n}": n}, at=rotating[n % 2].url) for n in range(30)]
    assert {answer.status for answer in await asyncio.gather(*posts)} == {200}
    expected = {"n": 30, **{f"k{n}": n for n in range(30)}}
    assert await browser.data(old.url) == expected
    assert await browser.data(new.url) == expected


@pytest.mark.security("K3")
async def test_a_tampered_session_is_quarantined(
    rotating: list[Server], address: str, client: httpx.AsyncClient
) -> None:
    """Plain text in the database lets nobody in; its holder is anonymous and signs in again, and never gets a 500."""
    old, new = rotating
    who = user()
    browser, other = await logged_in(client, old, who), await logged_in(client, new, user())
    await browser.post("/put", {"role": "user"})
    sid = (await browser.session())["sid"]
    store = open_store(address)
    await store.open()
    try:
        change = Update(sid=Sid(sid), id=new_change_id(), put={"role": codec.encode_value("role", "admin")})
        [result] = await store.apply([change])
        assert isinstance(result, Applied)
    finally:
        await store.close()
    for server in rotating:
        seen = await browser.session(server.url)
        assert (seen["user"], seen["data"]) == (None, {})
    assert len(await events(client, new, sid, "session_quarantined")) >= 1
    assert (await browser.twin().post("/increment")).status == 200
    assert (await browser.post(f"/login/{who}")).value
    seen = await browser.session(new.url)
    assert seen["user"] == who and seen["sid"] != sid
    assert (await other.session(old.url))["user"] is not None
