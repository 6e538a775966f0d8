"""Background tasks: what they change is stored when the app has returned."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from racing import arrived, cart, events, gate, logged_in, open_gate, user
from serving import LAST, Answer, Browser, Server
from surfing import living, noticed, seen, sid_of, stored, surfaces


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with surfaces(tmp_path_factory.mktemp("background")) as servers:
        yield servers


async def background(browser: Browser, name: str, **script: object) -> Answer:
    answer = await browser.post("/background", {"name": name, **script}, headers={**LAST, "x-name": name})
    assert answer.json == "answered"
    return answer


async def test_what_a_task_changes_is_stored_when_the_app_has_returned(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    browser = await cart(client, servers[0], n=-1)
    sid = await sid_of(browser)
    for n in range(20):
        name = gate()
        await background(browser, name, before={"before": n}, during={"n": n})
        await noticed(client, servers[0], name, "returned")
        assert await stored(client, servers[1], sid) == {"before": n, "n": n}


async def test_the_answer_does_not_wait_for_the_task(servers: list[Server], client: httpx.AsyncClient) -> None:
    visitor, name = Browser(client, servers[0].url), gate()
    answer = await background(visitor, name, before={"a": 1}, during={"b": 2}, gate=name)
    assert answer.value
    await arrived(client, servers[0], name)
    # What was changed before the answer is stored already, what the task holds is not.
    assert await visitor.data(servers[1].url) == {"a": 1}
    await open_gate(client, servers[0], name)
    await noticed(client, servers[0], name, "returned")
    assert await visitor.data(servers[1].url) == {"a": 1, "b": 2}


async def test_a_task_and_a_later_request_both_land(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser, name = await cart(client, servers[0], first=0), gate()
    await background(browser, name, during={"task": 1}, gate=name)
    await arrived(client, servers[0], name)
    await browser.post("/put", {"request": 1}, at=servers[1].url)
    await open_gate(client, servers[0], name)
    await noticed(client, servers[0], name, "returned")
    assert await browser.data(servers[1].url) == {"first": 0, "task": 1, "request": 1}


async def test_a_task_that_saves_is_seen_before_it_ends(servers: list[Server], client: httpx.AsyncClient) -> None:
    browser, name = await cart(client, servers[0], n=0), gate()
    await background(browser, name, during={"n": 1}, verb="save", gate=name)
    await arrived(client, servers[0], name)
    assert await browser.data(servers[1].url) == {"n": 1}
    await open_gate(client, servers[0], name)
    await noticed(client, servers[0], name, "returned")


async def test_a_task_that_raises_loses_what_it_staged_and_nothing_else(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    visitor, name = Browser(client, servers[0].url), gate()
    answer = await background(visitor, name, before={"a": 1}, during={"b": 2}, fail=True)
    assert answer.value
    await noticed(client, servers[0], name, "raised RuntimeError")
    assert await visitor.data(servers[1].url) == {"a": 1}
    name = gate()
    await background(visitor, name, during={"c": 3}, verb="save", fail=True)
    await noticed(client, servers[0], name, "raised RuntimeError")
    assert await visitor.data(servers[1].url) == {"a": 1, "c": 3}


@pytest.mark.security("L7")
@pytest.mark.parametrize("how", ["logout", "revoke"])
async def test_a_task_that_writes_after_the_session_was_ended_is_dropped_and_counted(
    servers: list[Server], client: httpx.AsyncClient, how: str
) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, servers[0], who)
    sid, late = await sid_of(browser), browser.twin()
    await background(late, name, during={"late": True}, gate=name)
    await arrived(client, servers[0], name)
    await browser.post("/logout" if how == "logout" else f"/revoke/{who}", at=servers[1].url)
    await open_gate(client, servers[0], name)
    await noticed(client, servers[0], name, "returned")
    reason = "logout" if how == "logout" else "revoked"
    assert [one["reason"] for one in await events(client, servers[0], sid, "write_after_end")] == [reason]
    assert "late" not in await stored(client, servers[1], sid)
    assert (await late.session(servers[1].url))["reason"] == reason


async def test_a_task_that_saves_after_the_session_was_ended_is_told(
    servers: list[Server], client: httpx.AsyncClient
) -> None:
    who, name = user(), gate()
    browser = await logged_in(client, servers[0], who)
    # The first task holds up the second, whose save comes after the end.
    await browser.twin().post(
        "/background/two",
        [{"gate": name}, {"name": name, "during": {"late": True}, "verb": "save"}],
        headers={**LAST, "x-name": name},
    )
    await arrived(client, servers[0], name)
    await browser.post(f"/revoke/{who}", at=servers[1].url)
    await open_gate(client, servers[0], name)
    await noticed(client, servers[0], name, "SessionEnded")
    # Starlette has a handler for such an error, and no response to give it.
    await noticed(client, servers[0], name, "raised RuntimeError")
    assert (await browser.session())["user"] is None


async def test_a_task_cannot_make_a_session(servers: list[Server], client: httpx.AsyncClient) -> None:
    for script in ({"during": {"late": 1}}, {"verb": "login:eve"}, {"verb": "await:login:eve"}):
        visitor, name, before = Browser(client, servers[0].url), gate(), await living(client, servers[0])
        answer = await background(visitor, name, **script)
        assert answer.value is None
        await noticed(client, servers[0], name, "raised HeadersSent")
        assert await living(client, servers[1]) == before


async def test_a_task_can_log_out(servers: list[Server], client: httpx.AsyncClient) -> None:
    for verb in ("logout", "await:logout"):
        browser, name = await logged_in(client, servers[0], user()), gate()
        assert (await background(browser, name, before={"a": 1}, verb=verb)).value is None
        await noticed(client, servers[0], name, "returned")
        after = await browser.session(servers[1].url)
        assert (after["user"], after["data"], after["reason"]) == (None, {}, "logout")
        assert "HeadersSent" not in await seen(client, servers[0], name)
