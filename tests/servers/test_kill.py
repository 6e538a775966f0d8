"""``kill -9`` of a server under load: every write whose response arrived is there after the restart."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import httpx
import pytest
from serving import Browser, Server, browsing, serving, sqlite_url

CLIENTS = 20


class Load:
    """Browsers that write as fast as they are answered, until the server is gone. Keeps what was acknowledged."""

    def __init__(self, client: httpx.AsyncClient, server: Server) -> None:
        self.browsers = [Browser(client, server.url) for _ in range(CLIENTS)]
        self.written: list[set[str]] = [set() for _ in range(CLIENTS)]
        self.users: dict[str, str | None] = {}
        self.logged_out: list[Browser] = []
        self.answers = 0

    async def sign_in(self) -> None:
        for number, browser in enumerate(self.browsers):
            assert (await browser.post(f"/login/user{number}")).value

    async def write(self, number: int) -> None:
        browser = self.browsers[number]
        try:
            for n in range(100_000):
                if (await browser.post("/put", {f"k{n}": n})).status == 200:
                    self.written[number].add(f"k{n}")
                    self.answers += 1
        except httpx.TransportError:
            pass

    async def come_and_go(self, client: httpx.AsyncClient, server: Server) -> None:
        """Logins and logouts."""
        try:
            for n in range(100_000):
                browser = Browser(client, server.url)
                if (await browser.post(f"/login/guest{n}")).value and browser.token:
                    self.users[browser.token] = f"guest{n}"
                    twin = browser.twin()
                    if n % 2:
                        # Not known until it is answered.
                        self.users.pop(browser.token)
                        if (await browser.post("/logout")).value == "":
                            self.logged_out.append(twin)
        except httpx.TransportError:
            pass


@pytest.mark.parametrize("answers", [30, 400, 1500])
async def test_what_was_answered_before_the_kill_is_there_after_the_restart(tmp_path: Path, answers: int) -> None:
    async with browsing() as client:
        with serving("shop", tmp_path, url=sqlite_url(tmp_path), uvicorn={"access_log": False}) as [server]:
            load = Load(client, server)
            await load.sign_in()
            running = [asyncio.create_task(load.write(number)) for number in range(CLIENTS)]
            running.append(asyncio.create_task(load.come_and_go(client, server)))
            while load.answers < answers:
                await asyncio.sleep(0.001)
            server.kill()
            await asyncio.gather(*running)
    # The dead server's connections are of no use any more.
    async with browsing() as client:
        with serving("shop", tmp_path, url=sqlite_url(tmp_path), name="restarted") as [server]:
            for number, browser in enumerate(load.browsers):
                again = Browser(client, server.url, browser.token)
                session = await again.session()
                assert session["user"] == f"user{number}"
                assert load.written[number] <= session["data"].keys()
                # What was under way may have landed, but nothing else did.
                assert len(session["data"].keys() - load.written[number]) <= 1
            for token, name in load.users.items():
                assert (await Browser(client, server.url, token).session())["user"] == name
            for browser in load.logged_out:
                assert (await Browser(client, server.url, browser.token).session())["reason"] == "logout"
            assert (await again.post("/put", {"after": 1})).status == 200
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
