"""What becomes of sessions when requests race: ``python -m benchmarks.races``, after ``make bench`` has set up.

The same app in this process for each way to keep sessions. Requests are held until all have read their session, so that
the outcome does not depend on luck.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable

import httpx
from fastapi import FastAPI, Request

from benchmarks.variants import VARIANTS

WAYS = {
    "cookie": "Starlette's signed cookie",
    "starsessions memory": "starsessions",
    "sessiondb memory": "sessiondb, in memory",
    "sessiondb sqlite": "sessiondb, SQLite",
}
COUNTERS = 20


class Shop:
    """One app and one browser."""

    def __init__(self, way: str, folder: str) -> None:
        self.ours = way.startswith("sessiondb")
        self.gate = asyncio.Barrier(1)
        self.app = app = FastAPI()

        @app.post("/put/{key}")
        async def put(request: Request, key: str) -> None:
            dict(request.session)
            await self.gate.wait()
            request.session[key] = 1
            await self.gate.wait()

        @app.post("/count")
        async def count(request: Request) -> None:
            seen = request.session.get("n", 0)
            await self.gate.wait()
            if self.ours:
                await request.session.modify(lambda data: data.update(n=data.get("n", 0) + 1))
            else:
                request.session["n"] = seen + 1

        @app.post("/logout")
        async def logout(request: Request) -> None:
            if self.ours:
                await request.session.logout()
            else:
                request.session.clear()

        @app.get("/all")
        async def everything(request: Request) -> dict[str, object]:
            return dict(request.session)

        @app.get("/nothing")
        async def nothing() -> None:
            pass

        VARIANTS[way].install(app, "memory://" if way.endswith("memory") else f"sqlite:///{folder}/races.db")
        self.browser = self.client()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://shop.example")

    async def everything(self) -> dict[str, object]:
        found: dict[str, object] = (await self.browser.get("/all")).json()
        return found

    async def at_once(self, *paths: str) -> None:
        """All of ``paths``, none of which goes on before all have read the session."""
        self.gate = asyncio.Barrier(len(paths))
        await asyncio.gather(*(self.browser.post(path) for path in paths))
        self.gate = asyncio.Barrier(1)


async def different_keys(shop: Shop) -> str:
    await shop.browser.post("/put/user")
    await shop.at_once("/put/a", "/put/b")
    kept = {"a", "b"} & (await shop.everything()).keys()
    return "both land" if len(kept) == 2 else "one is lost"


async def logout_in_flight(shop: Shop) -> str:
    await shop.browser.post("/put/user")
    shop.gate = asyncio.Barrier(2)
    slow = asyncio.create_task(shop.browser.post("/put/late"))
    await shop.gate.wait()  # it has read its session
    await shop.browser.post("/logout")
    await shop.gate.wait()
    await slow
    return "is undone" if "user" in await shop.everything() else "stands"


async def counter(shop: Shop) -> str:
    await shop.browser.post("/put/user")
    await shop.at_once(*["/count"] * COUNTERS)
    return f"{(await shop.everything()).get('n')} of {COUNTERS}"


async def planted_id(shop: Shop) -> str:
    await shop.browser.post("/put/user")
    [(name, value)] = shop.browser.cookies.items()
    planted = value[:-7] + "planted"  # as long as a real one
    async with shop.client() as victim, shop.client() as attacker:
        attacker.cookies.set(name, planted)
        answer = await victim.post("/put/secret", headers={"cookie": f"{name}={planted}"})
        found = (await attacker.get("/all")).json()
    return "adopted" if "secret" in found or answer.cookies.get(name) == planted else "not adopted"


async def nothing_written(shop: Shop) -> str:
    return "a cookie" if "set-cookie" in (await shop.browser.get("/nothing")).headers else "no cookie"


RACES: dict[str, Callable[[Shop], Awaitable[str]]] = {
    "two requests write different keys": different_keys,
    "a logout while a request is in flight": logout_in_flight,
    f"a counter, {COUNTERS} at once": counter,
    "an id that an attacker has planted": planted_id,
    "a visitor who writes nothing": nothing_written,
}


async def main() -> None:
    print(f"| | {' | '.join(WAYS.values())} |\n|---|{'---|' * len(WAYS)}")
    for title, race in RACES.items():
        cells = []
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                shop = Shop(way, folder)
                async with shop.app.router.lifespan_context(shop.app), shop.browser:
                    cells.append(await race(shop))
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    asyncio.run(main())
