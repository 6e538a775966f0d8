"""Ends that race requests in other processes: locks, new secrets, impersonation, logouts at a provider, everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from racing import arrived, gate, logged_in, open_gate, user
from serving import LIMIT, Browser, Server, serving
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from databases import new_url


@pytest.fixture(scope="module")
def endings(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers on one database, with pages for ending."""
    folder: Path = tmp_path_factory.mktemp("endings")
    settings: dict[str, Any] = {"policy": {"per_user": 30, "on_limit": "ask"}, "db": {"timeout": 30}}
    settings["middleware"] = {"recheck": 1.0}
    with serving("endings", folder, count=2, url=new_url(kind, folder), **settings) as servers:
        yield servers


async def post(client: httpx.AsyncClient, server: Server, path: str, json: Any = None) -> Any:
    answer = await client.post(f"{server.url}{path}", json=json)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def who(browser: Browser, server: Server | None = None) -> tuple[Any, Any]:
    """Who is logged in, and why nobody is."""
    seen = (await browser.get("/who", at=server.url if server is not None else None)).json
    return seen["user"], seen["reason"]


@pytest.mark.security("L8")
async def test_a_lock_takes_every_session_and_every_login_under_way_in_both_processes(
    endings: list[Server], client: httpx.AsyncClient
) -> None:
    name, held = user(), gate()
    before = [await logged_in(client, endings[n % 2], name) for n in range(4)]
    waiting = [Browser(client, endings[n % 2].url) for n in range(10)]
    logins = [asyncio.create_task(browser.post(f"/slow/try-login/{held}/{name}")) for browser in waiting]
    for server in endings:
        await arrived(client, server, held, 5)
    assert await post(client, endings[0], f"/lock/{name}") == 4
    for server in endings:
        await open_gate(client, server, held)
    for answer in await asyncio.gather(*logins):
        assert (answer.json["refused"], answer.json["until"], answer.value) == ("locked", None, None)
    for n, browser in enumerate(before):
        assert await who(browser, endings[n % 2]) == (None, "locked")
    for server in endings:
        again = await Browser(client, server.url).post(f"/try-login/{name}")
        assert again.json["refused"] == "locked"
    await post(client, endings[1], f"/unlock/{name}")
    for server in endings:
        assert (await Browser(client, server.url).post(f"/try-login/{name}")).json["refused"] is None


async def test_a_lock_while_logins_pour_in_leaves_nobody(endings: list[Server], client: httpx.AsyncClient) -> None:
    name = user()
    browsers = [Browser(client, endings[n % 2].url) for n in range(20)]
    logins = [asyncio.create_task(browser.post(f"/try-login/{name}")) for browser in browsers]
    await asyncio.sleep(0.01)
    await post(client, endings[1], f"/lock/{name}")
    answers = await asyncio.gather(*logins)
    assert {answer.json["refused"] for answer in answers} <= {None, "locked"}
    for browser in browsers:
        assert (await who(browser))[0] is None
    assert (await client.get(f"{endings[0].url}/live/{name}")).json() == []


@pytest.mark.security("L8", "L1")
async def test_a_changed_password_leaves_one_browser_with_a_new_secret(
    endings: list[Server], client: httpx.AsyncClient
) -> None:
    name = user()
    mine = await logged_in(client, endings[0], name)
    others = [await logged_in(client, endings[n % 2], name) for n in range(5)]
    await mine.post("/put", {"cart": ["tea"]})
    thief = mine.twin()
    answer = await mine.post("/revoke-others", at=endings[1].url)
    assert (answer.json, bool(answer.value)) == (5, True)
    for server in endings:
        assert (await who(mine, server), await mine.data(server.url)) == ((name, None), {"cart": ["tea"]})
        assert (await who(thief, server))[0] is None
        for other in others:
            assert await who(other, server) == (None, "password_changed")


@pytest.mark.security("L8")
async def test_sessions_that_have_something_in_common_end_in_both_processes(
    endings: list[Server], client: httpx.AsyncClient
) -> None:
    name, other = user(), user()
    agent = f"Browser of {name}"
    meant = []
    for n in range(6):
        browser = Browser(client, endings[n % 2].url)
        answer = await browser.post(f"/login/{name}", headers={"user-agent": f"{agent}/1"})
        assert answer.value
        meant.append(browser)
    spared = await logged_in(client, endings[0], other)
    criteria = {"user_agent": agent, "network": "127.0.0.0/8", "created_after": 0}
    assert await post(client, endings[1], "/revoke-where", criteria) == 6
    assert await post(client, endings[0], "/revoke-where", criteria) == 0
    for n, browser in enumerate(meant):
        assert await who(browser, endings[n % 2]) == (None, "admin")
    assert (await who(spared))[0] == other


@pytest.mark.security("L8")
async def test_everyone_is_out_in_both_processes_while_others_sign_in(
    kind: str, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    # A database of its own: it is everybody.
    with serving("endings", tmp_path, count=2, url=new_url(kind, tmp_path), db={"timeout": 30}) as servers:
        before = [await logged_in(client, servers[n % 2], f"user{n}") for n in range(30)]
        guests = [Browser(client, servers[n % 2].url) for n in range(10)]
        ended, *_ = await asyncio.gather(
            post(client, servers[0], "/revoke-everyone"),
            *(guest.post(f"/try-login/guest{n}") for n, guest in enumerate(guests)),
        )
        assert 30 <= ended <= 40
        for n, browser in enumerate(before):
            assert await who(browser, servers[n % 2]) == (None, "revoked")
        after = await logged_in(client, servers[1], "user0")
        assert (await who(after))[0] == "user0"


@pytest.mark.security("L9")
async def test_the_next_visit_is_told_that_another_device_took_the_place(
    kind: str, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    settings = {"url": new_url(kind, tmp_path), "policy": {"per_user": 1}, "db": {"timeout": 30}}
    with serving("endings", tmp_path, count=2, **settings) as servers:
        laptop = await logged_in(client, servers[0], "ann")
        await logged_in(client, servers[1], "ann")
        seen = (await laptop.get("/who")).json
        assert (seen["user"], seen["reason"]) == (None, "limit")
        assert seen["message"] == "You were signed out because you signed in on another device."


@pytest.mark.security("L9")
async def test_whom_to_end_can_be_asked_and_the_limit_still_holds(
    kind: str, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    policy = {"per_user": 2, "on_limit": "ask"}
    with serving(
        "endings", tmp_path, count=2, url=new_url(kind, tmp_path), policy=policy, db={"timeout": 30}
    ) as servers:
        browsers = [Browser(client, servers[n % 2].url) for n in range(20)]
        answers = await asyncio.gather(*(browser.post("/try-login/ann") for browser in browsers))
        stayed = [browser for browser in browsers if (await who(browser))[0] == "ann"]
        assert len(stayed) <= 2
        for _ in range(2):
            await Browser(client, servers[0].url).post("/try-login/ann")
        answer = await Browser(client, servers[1].url).post("/try-login/ann")
        living = (await client.get(f"{servers[0].url}/live/ann")).json()
        assert len(living) == 2
        assert (answer.json["refused"], sorted(answer.json["sessions"])) == ("limit", sorted(living))
        assert {one.json["refused"] for one in answers} <= {None, "limit"}


@pytest.mark.security("L1", "L11")
async def test_impersonation_begins_in_one_process_and_ends_in_the_other(
    endings: list[Server], client: httpx.AsyncClient
) -> None:
    admin, target = user(), user()
    browser = await logged_in(client, endings[0], admin)
    await browser.post("/put", {"desk": "tidy"})
    own, before = (await browser.session())["sid"], browser.twin()
    assert (await browser.post(f"/impersonate/{target}")).value
    for server in endings:
        seen = (await browser.get("/who", at=server.url)).json
        assert (seen["user"], seen["impersonator"], seen["data"]) == (target, admin, {})
        assert (await who(before, server)) == (None, None)
        assert (await client.get(f"{server.url}/live/{target}")).json() == [seen["sid"]]
        assert (await client.get(f"{server.url}/live/{admin}")).json() == [own]
    during = browser.twin()
    answer = await browser.post("/stop-impersonating", at=endings[1].url)
    assert (answer.json, bool(answer.value)) == (True, True)
    for server in endings:
        seen = (await browser.get("/who", at=server.url)).json
        assert (seen["sid"], seen["user"], seen["impersonator"], seen["data"]) == (own, admin, None, {"desk": "tidy"})
        assert (await who(during, server)) == (None, "impersonation_ended")


async def test_an_impersonation_ends_with_either_session_wherever_that_ends(
    endings: list[Server], client: httpx.AsyncClient
) -> None:
    for who_is_revoked in ("admin", "target"):
        admin, target = user(), user()
        browser = await logged_in(client, endings[0], admin)
        assert (await browser.post(f"/impersonate/{target}")).value
        revoked = admin if who_is_revoked == "admin" else target
        assert await post(client, endings[1], f"/revoke/{revoked}") == 1
        reason = "impersonation_ended" if who_is_revoked == "admin" else "revoked"
        assert (await who(browser)) == (None, reason)
        for server in endings:
            await client.get(f"{server.url}/events")  # writes what waits in the background
        for name in (admin, target):
            assert (await client.get(f"{endings[1].url}/live/{name}")).json() == []


@pytest.mark.security("W3", "L8")
async def test_a_socket_of_somebody_who_impersonates_closes_when_their_own_session_ends(
    endings: list[Server], client: httpx.AsyncClient
) -> None:
    for number, server in enumerate(endings):
        admin, target = user(), user()
        browser = await logged_in(client, endings[0], admin)
        assert (await browser.post(f"/impersonate/{target}")).value
        url = f"{endings[0].url.replace('http', 'ws', 1)}/watch"
        headers = {"cookie": f"sid={browser.token}"}
        async with connect(url, additional_headers=headers, open_timeout=60, proxy=None) as socket:
            assert await socket.recv() == target
            # In the same process at once, from another one when it is looked up.
            assert await post(client, server, f"/revoke/{admin}") == 1, number
            with pytest.raises(ConnectionClosed) as gone:
                async with asyncio.timeout(LIMIT):
                    await socket.recv()
            assert gone.value.rcvd is not None
            assert (gone.value.rcvd.code, gone.value.rcvd.reason) == (4401, "impersonation_ended")


@pytest.mark.security("L8")
async def test_a_providers_logout_takes_logins_under_way_from_there_and_no_others(
    endings: list[Server], client: httpx.AsyncClient
) -> None:
    name, held = user(), gate()
    here = {"issuer": "https://idp", "sid": f"session of {name}", "sub": name}
    there = {**here, "sid": "another session"}
    before, other = Browser(client, endings[0].url), Browser(client, endings[1].url)
    assert (await before.post(f"/idp-login/{name}", here)).json["refused"] is None
    assert (await other.post(f"/idp-login/{name}", there)).json["refused"] is None
    waiting = [Browser(client, endings[n % 2].url) for n in range(8)]
    claims = [here if n < 4 else there for n in range(8)]
    logins = [
        asyncio.create_task(browser.post(f"/slow/idp-login/{held}/{name}", one))
        for browser, one in zip(waiting, claims, strict=True)
    ]
    for server in endings:
        await arrived(client, server, held, 4)
    assert await post(client, endings[1], "/idp-logout", {"issuer": "https://idp", "sid": here["sid"]}) == 1
    for server in endings:
        await open_gate(client, server, held)
    answers = await asyncio.gather(*logins)
    assert [answer.json["refused"] for answer in answers] == ["revoked"] * 4 + [None] * 4
    assert await who(before, endings[1]) == (None, "idp_logout")
    assert (await who(other, endings[0]))[0] == name
    # By its user, all of them.
    assert await post(client, endings[0], "/idp-logout", {"issuer": "https://idp", "sub": name}) == 5
    assert (await client.get(f"{endings[1].url}/live/{name}")).json() == []
