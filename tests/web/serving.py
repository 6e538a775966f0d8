"""Real uvicorn processes, one or two on one database, and browsers that hold one cookie each."""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

APPS = Path(__file__).with_name("apps.py")
LIMIT = 60.0
# For requests that fail: uvicorn may close their connection, also under the next request.
LAST = {"connection": "close"}


class Server:
    """One uvicorn process of ours, on a port that the system chose. What it logs goes to a file."""

    def __init__(self, app: str, log: Path, *, command: tuple[str, ...] = (), **settings: Any) -> None:
        self.log = log
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, log.open("ab") as output:
            self.port: int = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [*command, sys.executable, str(APPS), app, str(listener.fileno()), json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def logged(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait_until_up(self) -> Self:
        give_up_at = time.monotonic() + LIMIT
        while time.monotonic() < give_up_at and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/up", timeout=LIMIT).status_code == 200:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.logged()}")

    def kill(self) -> None:
        """As ``kill -9``."""
        self.process.kill()
        self.process.wait(LIMIT)

    def stop(self) -> None:
        """As a deployment does, and wait for it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def serving(app: str, folder: Path, *, count: int = 1, name: str = "server", **settings: Any) -> Iterator[list[Server]]:
    """``count`` servers of the app ``app`` in ``apps.py``; they are gone afterwards."""
    servers: list[Server] = []
    try:
        for number in range(count):
            servers.append(Server(app, folder / f"{name}-{number}.log", **settings))
        for server in servers:
            server.wait_until_up()
        yield servers
    finally:
        for server in servers:
            server.stop()


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/sessions.db"


class Answer:
    """A response, and what it did to the cookie."""

    def __init__(self, response: httpx.Response, cookie: str = "sid") -> None:
        self.response = response
        self.status = response.status_code
        self.headers = response.headers
        self.text = response.text
        self.set_cookies = [one for one in response.headers.get_list("set-cookie") if one.startswith(f"{cookie}=")]
        assert len(self.set_cookies) <= 1
        self.value = self.set_cookies[0].partition(";")[0].partition("=")[2] if self.set_cookies else None

    @property
    def json(self) -> Any:
        assert self.status == 200, (self.status, self.text)
        return self.response.json()


class Browser:
    """Holds one cookie, and shows it to every server that it is sent to."""

    def __init__(self, client: httpx.AsyncClient, url: str, token: str | None = None) -> None:
        self.client = client
        self.url = url
        self.token = token

    async def send(self, method: str, path: str, *, at: str | None = None, **settings: Any) -> Answer:
        headers = dict(settings.pop("headers", {}))
        if self.token is not None:
            headers.setdefault("cookie", f"sid={self.token}")
        answer = Answer(await self.client.request(method, (at or self.url) + path, headers=headers, **settings))
        if answer.value is not None:
            self.token = answer.value or None
        return answer

    async def get(self, path: str, **settings: Any) -> Answer:
        return await self.send("GET", path, **settings)

    async def post(self, path: str, json: Any = None, **settings: Any) -> Answer:
        return await self.send("POST", path, **({} if json is None else {"json": json}), **settings)

    async def session(self, at: str | None = None) -> dict[str, Any]:
        """What the server says of this session."""
        seen: dict[str, Any] = (await self.get("/session", at=at)).json
        return seen

    async def data(self, at: str | None = None) -> dict[str, Any]:
        data: dict[str, Any] = (await self.session(at))["data"]
        return data

    def twin(self) -> Browser:
        """Another holder of the same cookie: a second tab, or a thief."""
        return Browser(self.client, self.url, self.token)


@asynccontextmanager
async def browsing(connections: int = 100) -> AsyncIterator[httpx.AsyncClient]:
    """A client for many browsers: it keeps no cookies itself."""
    no_cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(cookies=no_cookies, timeout=LIMIT, limits=limits) as client:
        yield client


async def eventually(look: Callable[[], Any], limit: float = 20.0) -> None:
    """Wait until ``look()``, awaited if need be, is true."""
    give_up_at = time.monotonic() + limit
    while True:
        seen = look()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen:
            return
        assert time.monotonic() < give_up_at, "what should have happened has not"
        await asyncio.sleep(0.02)


async def raw_request(url: str, text: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Bytes as they are to a server, and all that it answers until it closes."""
    parts = httpx.URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    try:
        writer.write(text)
        await writer.drain()
        async with asyncio.timeout(LIMIT):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
