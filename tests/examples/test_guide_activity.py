"""The code in the guide's page on activity does what it says."""

from __future__ import annotations

import httpx
from fastapi import FastAPI
from guide import app_of, browser, run

from sessiondb import CurrentSession, SessionDB

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


async def test_what_is_known_of_a_client() -> None:
    async with SessionDB("memory://") as db:
        app = app_of(db, "What is known of a client")

        @app.post("/sign-in")
        async def sign_in(session: CurrentSession) -> None:
            session.login("ann")

        async with browser(app) as http:
            headers = {"user-agent": FIREFOX}
            assert (await http.post("/sign-in", headers=headers)).status_code == 200
            [one] = (await http.get("/where", headers=headers)).json()
            assert one == {
                "this one": True,
                "device": "Firefox on Linux",
                "country": None,
                "requests": 1,
                "places": [["127.0.0.0/24", 1]],
            }


async def test_behind_proxies() -> None:
    async with SessionDB("memory://") as db:
        app: FastAPI = run("Behind proxies", db=db)["behind"]

        @app.get("/")
        async def begin(session: CurrentSession) -> None:
            session["seen"] = True

        transport = httpx.ASGITransport(app=app, client=("10.0.0.1", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="https://shop.test") as http:
            await http.get("/", headers={"x-forwarded-for": "6.6.6.6, 203.0.113.9"})
        found = [one.client.ip async for one in db.find_sessions(created_after=0)]
        assert found == ["203.0.113.9"]


async def test_privacy_of_addresses() -> None:
    async with run("Privacy of addresses")["private"] as db:
        made = await db.create("ann", ip="203.0.113.7")
        assert (made.session.client.ip, made.session.client.network) == ("203.0.113.0", "203.0.113.0/24")


async def test_countries() -> None:
    async with run("Countries")["abroad"] as db:
        assert (await db.create("ann", ip="193.0.6.139")).session.client.country == "NL"
