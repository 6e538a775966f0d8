"""The story, second part: devices, logouts, expiry, and what a thief of the database would get."""

from __future__ import annotations

import asyncio
import stat
import time
from datetime import timedelta
from pathlib import Path

from examples.demo.browser import TABLET, Browser
from examples.demo.console import at_least, containing, without
from examples.demo.peek.sqlite import SQLitePeek
from examples.demo.world import World
from sessiondb import SessionDB, open_store
from sessiondb.core.token import digest, parse
from sessiondb.testing import StoreWrapper

AWAY = timedelta(days=15) // timedelta(microseconds=1)


async def second_device(world: World) -> None:
    check, phone = world.console.check, world.phone
    answer = await phone.sign_in("ada", remember=True)
    check("the cookie outlives the browser", answer.headers.get("set-cookie", ""), containing("Max-Age=77"))
    check("Ada is signed in there too", (await phone.who())["user"], "ada")
    check("with a cart of its own", (await phone.get("/cart")).text, without("Tide bowl"))


async def device_list(world: World) -> None:
    check, laptop = world.console.check, world.laptop
    page = (await laptop.get("/devices")).text
    check("the page shows both", page, containing("Firefox on Linux", "Safari on iPhone"))
    check("and knows which one this is", page.count("This device"), 1)
    check("and which one is remembered", page.count("Remembered"), 1)
    listed = await laptop.json("/api/devices")
    check("as JSON: two sessions, newest first", [one["remembered"] for one in listed], [True, False])


async def revoke_one(world: World) -> None:
    check, laptop, phone, a, b = world.console.check, world.laptop, world.phone, world.servers.a, world.servers.b
    sid = (await phone.who())["sid"]
    async with world.another_browser() as stranger:
        await stranger.sign_in("noor")
        answer = await stranger.post(f"/devices/{sid}/revoke", a)
        check("Noor cannot sign out Ada's phone", answer.status_code, 404)
        await stranger.post("/sign-out")
    async with phone.open_page(b) as socket:
        answer = await laptop.post(f"/devices/{sid}/revoke", a)
        check("Ada's laptop can", answer.status_code, 303)
        async with asyncio.timeout(10):
            await socket.wait_closed()
    check(
        "the page that is open on the phone is told, by the other process",
        (socket.close_code, socket.close_reason),
        (4401, "revoked"),
    )
    await check_signed_out(world, phone, "signed out from another one of yours")
    check("programs get a 401", (await phone.get("/api/devices", b)).status_code, 401)
    check("the laptop stays signed in", (await laptop.who(b))["user"], "ada")


async def logout_race(world: World) -> None:
    check, laptop, a, b = world.console.check, world.laptop, world.servers.a, world.servers.b
    sid = (await laptop.who())["sid"]
    slow = asyncio.create_task(laptop.post("/slow", a, params={"seconds": 0.8}))
    try:
        await until_written(world, sid, "slow", "started")
        check("the slow request has begun", slow.done(), False)
        answer = await laptop.post("/sign-out", b)
        check("the logout deletes the cookie", answer.headers.get("set-cookie", ""), containing("sid=;", "Max-Age=0"))
        late = await slow
    finally:
        slow.cancel()
    check("the slow request is answered, after the logout", late.status_code, 200)
    check("it sets no cookie", late.headers.get("set-cookie"), None)
    row = await world.peek.row(sid)
    check("the session stays ended, and empty", row and (row.ended, row.data), ("logout", {}))
    check("nobody is signed in", (await laptop.who())["user"], None)


async def everywhere(world: World) -> None:
    check, laptop, phone = world.console.check, world.laptop, world.phone
    async with world.another_browser(TABLET) as tablet:
        for device in (laptop, phone, tablet):
            await device.sign_in("ada")
        answer = await laptop.post("/devices/revoke-others")
        check("the laptop asks", answer.status_code, 303)
        for device in (phone, tablet):
            check("another device is signed out", (await device.who())["user"], None)
        check("the laptop is not", (await laptop.who())["user"], "ada")
    async with SessionDB(world.db_url, sweep_every=None) as db:
        check("a script on the same database: db.revoke_all('ada')", await db.revoke_all("ada"), 1)
    check("now the laptop is signed out too", (await laptop.who())["user"], None)


def later() -> int:
    """The time when everybody has been away."""
    return time.time_ns() // 1000 + AWAY


class Ahead(StoreWrapper):
    """A store whose clock is as far ahead."""

    async def clock(self) -> int:
        """See ``Store.clock``."""
        return await super().clock() + AWAY


async def expiry(world: World) -> None:
    check, laptop, phone = world.console.check, world.laptop, world.phone
    await laptop.sign_in("noor")
    await phone.sign_in("mateo", remember=True)
    noor, mateo = (await laptop.who())["sid"], (await phone.who())["sid"]
    tombstones = sum(row.ended is not None for row in (await world.peek.rows()).values())

    async with SessionDB(Ahead(open_store(world.db_url)), clock=later, sweep_every=None) as db:
        swept = await db.sweep()
    check("the sweep has ended what was not used", [one.sid for one in swept.ended], containing(noor))
    check("and deleted what had ended long ago", swept.purged, at_least(tombstones))
    row = await world.peek.row(noor)
    check("Noor's session says why", row and row.ended, "expired_idle")
    row = await world.peek.row(mateo)
    check("Mateo's is remembered for 90 days", row and row.ended, None)
    await check_signed_out(world, laptop, "You were away for a long time")
    check("Mateo is still signed in", (await phone.who())["user"], "mateo")


async def nothing_to_steal(world: World) -> None:
    check, peek = world.console.check, world.peek
    files = peek.files()
    if isinstance(peek, SQLitePeek):
        modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files}
        check(f"{', '.join(modes)}: readable for their owner alone", set(modes.values()), {"0o600"})
    check(f"{len(world.tokens)} tokens were handed out in this story", len(world.tokens), at_least(5))
    needles = [needle for token in world.tokens for needle in secrets_of(token)]
    values = await peek.everything()
    held = parse((world.phone.token or "").encode())
    check("of Mateo's secret the database has the digest", held and digest(held.secret) in values, True)
    found = sum(needle in values for needle in needles)
    for path in [*files, *(server.log for server in world.servers.both)]:
        content = contents_of(path)
        found += sum(needle in content for needle in needles)
    places = f"the {len(files)} files of the database" if files else "the database"
    check(f"none of them, and no part of one, is in {places} or in the servers' logs", found, 0)


def contents_of(path: Path) -> bytes:
    """What is in a file of a running server, which may have just removed it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def secrets_of(token: str) -> list[bytes]:
    """The token, and its secret parts as text and as bytes; the sid in it is public."""
    parsed = parse(token.encode())
    assert parsed is not None
    _, series, secret = token.encode().split(b".")
    return [token.encode(), series, secret, parsed.series, parsed.secret]


async def check_signed_out(world: World, browser: Browser, reason: str) -> None:
    """The next page sends ``browser`` to the sign-in page, which says why."""
    answer = await browser.get("/devices", world.servers.b)
    location = answer.headers.get("location", "")
    world.console.check(
        "its next page is the sign-in page", (answer.status_code, location), (303, "/sign-in?next=/devices")
    )
    world.console.check("which says why", (await browser.get(location)).text, containing(reason))


async def until_written(world: World, sid: str, key: str, value: str) -> None:
    """Wait until the database has ``value``. Raises ``TimeoutError``."""
    async with asyncio.timeout(5):
        while (row := await world.peek.row(sid)) is None or row.data.get(key) != value:
            await asyncio.sleep(0.02)
