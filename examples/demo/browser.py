"""A browser without windows: a cookie jar, a user agent and a keyboard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, cast

import httpx
from websockets.asyncio.client import ClientConnection, connect

from examples.demo.console import CheckFailed
from examples.demo.servers import Server, Servers

COOKIE = "sid"

LAPTOP = "Mozilla/5.0 (X11; Linux x86_64; rv:152.0) Gecko/20100101 Firefox/152.0"
PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/19.2 Mobile/15E148 Safari/604.1"
)
TABLET = (
    "Mozilla/5.0 (Linux; Android 16; Pixel Tablet) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/152.0.0.0 Safari/537.36"
)


class Browser:
    """Follows no redirect by itself, so that each answer can be checked.

    ``tokens`` gathers every token that the servers have ever handed out: none may be found in the database.
    """

    def __init__(self, servers: Servers, user_agent: str, tokens: set[str]) -> None:
        self._servers = servers
        self._tokens = tokens
        self._client = httpx.AsyncClient(
            headers={"User-Agent": user_agent, "Accept": "text/html,application/json"},
            timeout=10.0,
            # A connection for each request, since none may be in use as its server is killed or closes it.
            limits=httpx.Limits(max_keepalive_connections=0),
            event_hooks={"response": [self._note_token]},
            trust_env=False,
        )

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, on: Server | None = None, **options: Any) -> httpx.Response:
        """``on`` one process, or on the address that both share."""
        return await self._client.get(self._url(path, on), **options)

    async def post(self, path: str, on: Server | None = None, **options: Any) -> httpx.Response:
        """``on`` one process, or on the address that both share. ``data=`` is the form."""
        return await self._client.post(self._url(path, on), **options)

    async def sign_in(self, user: str, *, remember: bool = False, on: Server | None = None) -> httpx.Response:
        """Click on a name."""
        form = {"user": user, "next": "/devices"} | ({"remember": "1"} if remember else {})
        return await self.post("/sign-in", on, data=form)

    async def who(self, on: Server | None = None) -> dict[str, Any]:
        """``pid``, ``sid``, ``user`` and ``visits``. Raises ``CheckFailed``."""
        return cast("dict[str, Any]", await self.json("/whoami", on))

    async def json(self, path: str, on: Server | None = None) -> Any:
        """What a page for programs answers. Raises ``CheckFailed`` if it is anything else."""
        answer = await self.get(path, on)
        if answer.status_code != 200:
            raise CheckFailed(
                f"{answer.url} is answered\n    expected: 200\n    came:     {answer.status_code} {answer.text!r:.600}"
            )
        return answer.json()

    @asynccontextmanager
    async def open_page(self, on: Server) -> AsyncIterator[ClientConnection]:
        """The socket that a page keeps open."""
        url = self._url("/open-page", on).replace("http", "ws", 1)
        headers = {"Cookie": f"{COOKIE}={self.token}"}
        async with connect(url, additional_headers=headers, proxy=None) as socket:
            yield socket

    @property
    def token(self) -> str | None:
        """The session cookie, a secret."""
        return self._client.cookies.get(COOKIE)

    @token.setter
    def token(self, value: str) -> None:
        self._client.cookies.clear()
        self._client.cookies.set(COOKIE, value, domain="127.0.0.1", path="/")

    def _url(self, path: str, on: Server | None) -> str:
        return (on.url if on is not None else self._servers.url) + path

    async def _note_token(self, response: httpx.Response) -> None:
        for header in response.headers.get_list("set-cookie"):
            value = header.partition("=")[2].partition(";")[0]
            if header.startswith(f"{COOKIE}=") and value:
                self._tokens.add(value)
