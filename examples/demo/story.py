"""The story, first part: a cart, a login, a crash and a crowd. The second part is in ``devices_story.py``."""

from __future__ import annotations

import asyncio

import httpx

from examples.demo.console import at_least, containing
from examples.demo.world import World

WRITES = 150
CROWD = 50
INCREMENTS = 100


async def just_looking(world: World) -> None:
    check, laptop = world.console.check, world.laptop
    page = await laptop.get("/")
    check("the page is served", page.status_code, 200)
    check("it sets no cookie", page.headers.get("set-cookie"), None)
    check("the database has no row", len(await world.peek.rows()), 0)
    pids: set[int] = set()
    for _ in range(40):
        pids.update(await asyncio.gather(*(passer_by(world) for _ in range(8))))
        if len(pids) == 2:
            break
    check(f"{world.servers.url} is answered by both processes", pids, {server.pid for server in world.servers.both})


async def passer_by(world: World) -> int:
    async with world.another_browser() as browser:
        pid: int = (await browser.who())["pid"]
        return pid


async def anonymous_cart(world: World) -> None:
    check, laptop, a = world.console.check, world.laptop, world.servers.a
    answer = await laptop.post("/cart/tide-bowl/add", a)
    check("the first piece makes a session", answer.headers.get("set-cookie", ""), containing("sid=", "HttpOnly"))
    again = await laptop.post("/cart/kitchen-jug/add", a)
    check("the second one sets no cookie again", again.headers.get("set-cookie"), None)
    row = await world.peek.row((await laptop.who(a))["sid"])
    check(
        "the row has both, and no user",
        row and (row.data["cart"], row.user),
        ({"tide-bowl": 1, "kitchen-jug": 1}, None),
    )


async def other_process(world: World) -> None:
    check, laptop, b = world.console.check, world.laptop, world.servers.b
    check(f"process {b.pid} answers", (await laptop.who(b))["pid"], b.pid)
    check("it shows the same cart", (await laptop.get("/cart", b)).text, containing("Tide bowl", "Kitchen jug"))


async def signing_in(world: World) -> None:
    check, laptop = world.console.check, world.laptop
    before, old_token = await laptop.who(), laptop.token or ""
    answer = await laptop.sign_in("ada", on=world.servers.b)
    check("the login is answered with a redirect", answer.status_code, 303)
    after = await laptop.who()
    check("Ada is signed in", after["user"], "ada")
    check("in a new session", after["sid"], lambda sid: sid not in (None, before["sid"]))
    check("the cart came along", (await laptop.get("/cart")).text, containing("Tide bowl", "Kitchen jug"))
    old = await world.peek.row(before["sid"])
    check("the anonymous session has ended, and says why", old and old.ended, "login")
    async with world.another_browser() as thief:
        thief.token = old_token
        check("its cookie opens nothing", (await thief.who())["sid"], None)


async def crash(world: World) -> None:
    check, laptop, servers = world.console.check, world.laptop, world.servers
    before, pids = await laptop.who(), {server.pid for server in servers.both}
    writes = [
        asyncio.create_task(laptop.post(f"/race/crash-{i}", servers.both[i % 2], params={"value": i}))
        for i in range(WRITES)
    ]
    while sum(write.done() for write in writes) < WRITES // 4:
        await asyncio.sleep(0.001)
    servers.kill()
    await servers.start()
    check("two new processes", pids & {server.pid for server in servers.both}, set())
    answers = await asyncio.gather(*writes, return_exceptions=True)
    answered = [i for i, answer in enumerate(answers) if isinstance(answer, httpx.Response) and answer.is_success]
    row = await world.peek.row(before["sid"])
    landed = [i for i in answered if row is not None and row.data.get(f"race:crash-{i}") == i]
    check(f"{len(answered)} of {WRITES} writes were answered, and each of these is in the row", landed, answered)
    for server in servers.both:
        who = await laptop.who(server)
        check(f"process {server.pid} knows Ada by the same session", (who["user"], who["sid"]), ("ada", before["sid"]))


async def crowd(world: World) -> None:
    check, laptop, both = world.console.check, world.laptop, world.servers.both
    sid = (await laptop.who())["sid"]
    answers = await asyncio.gather(
        *(laptop.post(f"/race/key-{i}", both[i % 2], params={"value": i}) for i in range(CROWD))
    )
    check(f"{CROWD} answers, all well", {answer.status_code for answer in answers}, {200})
    check("from both processes", len({answer.json()["pid"] for answer in answers}), 2)
    row = await world.peek.row(sid)
    landed = sum(row is not None and row.data.get(f"race:key-{i}") == i for i in range(CROWD))
    check(f"all {CROWD} keys are in the row", landed, CROWD)
    check("and the cart is still there", row and row.data.get("cart"), {"tide-bowl": 1, "kitchen-jug": 1})


async def counter(world: World) -> None:
    check, laptop, both = world.console.check, world.laptop, world.servers.both
    before = await laptop.who()
    pages = await asyncio.gather(*(laptop.get("/", both[i % 2]) for i in range(INCREMENTS)))
    check(f"{INCREMENTS} answers, all well", {page.status_code for page in pages}, {200})
    row = await world.peek.row(before["sid"])
    check(f"{INCREMENTS} visits more", row and row.data.get("visits", 0) - before["visits"], INCREMENTS)
    check("each of them one revision", row and row.rev, at_least(INCREMENTS))
