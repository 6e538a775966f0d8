"""Flash messages: shown once, on the next page, whatever runs beside it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from hypothesis import given
from hypothesis import strategies as st
from pages import app_on, browser
from racing import arrived, gate, open_gate
from serving import Browser, Server, serving

from databases import new_url
from sessiondb import CurrentSession, Flash, SessionDataError, SessionDB, SessionDBError, flash, flashes
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore
from sessiondb.web.flash import LONGEST_MESSAGE, MOST_MESSAGES, keys


class Pages:
    """An app with flash messages, and a browser for it."""

    def __init__(self) -> None:
        self.store = CountingStore(MemoryStore())
        self.db = SessionDB(self.store, sweep_every=None)
        self.app = app_on(self.db)
        self.http = browser(self.app)
        add_pages(self.app)

    async def flash(self, *messages: tuple[str, ...]) -> None:
        assert (await self.http.post("/flash", json=messages)).status_code == 200

    async def shown(self, **query: Any) -> list[list[str]]:
        answer = await self.http.get("/flashes", params=query)
        assert answer.status_code == 200
        found: list[list[str]] = answer.json()
        return found

    async def raw(self) -> dict[str, Any]:
        data: dict[str, Any] = (await self.http.get("/raw")).json()
        return data


def add_pages(app: FastAPI) -> None:
    @app.post("/flash")
    async def flash_(messages: list[list[str]], request: Request) -> None:
        for message in messages:
            flash(request, *message)

    @app.get("/flashes")
    async def show(request: Request, only: str | None = None) -> list[Flash]:
        return flashes(request, [only] if only is not None else ())

    @app.post("/in-a-thread")
    def in_a_thread(session: CurrentSession) -> RedirectResponse:
        flash(session, "done", "success")
        return RedirectResponse("/flashes", 303)

    @app.get("/broken")
    async def broken(request: Request) -> None:
        assert flashes(request)
        raise RuntimeError("the page failed")


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    pages = Pages()
    async with pages.db, pages.http:
        yield pages


async def test_messages_are_shown_once_in_their_order_with_their_categories(pages: Pages) -> None:
    await pages.flash(("first",), ("second", "error"))
    await pages.flash(("third", "success"))
    assert await pages.shown() == [["info", "first"], ["error", "second"], ["success", "third"]]
    assert await pages.shown() == []
    assert await pages.raw() == {}


async def test_a_message_survives_the_redirect_of_a_def_endpoint(pages: Pages) -> None:
    answer = await pages.http.post("/in-a-thread", follow_redirects=True)
    assert answer.json() == [["success", "done"]]


async def test_a_category_can_be_asked_for_and_the_others_go_on_waiting(pages: Pages) -> None:
    await pages.flash(("a",), ("b", "error"), ("c",))
    assert await pages.shown(only="error") == [["error", "b"]]
    assert await pages.shown(only="error") == []
    assert await pages.shown() == [["info", "a"], ["info", "c"]]


@pytest.mark.security("D1")
async def test_looking_for_messages_stores_nothing(pages: Pages) -> None:
    assert await pages.shown() == []
    assert not pages.http.cookies
    assert pages.store.calls["apply"] == 0
    await pages.http.post("/login/ann")
    before = pages.store.calls["apply"]
    assert await pages.shown() == []
    assert pages.store.calls["apply"] == before


async def test_a_message_that_is_shown_at_once_is_never_stored(pages: Pages) -> None:
    @pages.app.get("/at-once")
    async def at_once(request: Request) -> list[Flash]:
        flash(request, "now")
        return flashes(request)

    assert (await pages.http.get("/at-once")).json() == [["info", "now"]]
    assert pages.store.calls["apply"] == 0


async def test_a_page_that_fails_leaves_the_message_to_the_next(pages: Pages) -> None:
    await pages.flash(("kept",))
    with pytest.raises(RuntimeError, match="the page failed"):
        await pages.http.get("/broken")
    assert await pages.shown() == [["info", "kept"]]


async def test_a_login_takes_messages_along_and_keep_narrows_it(pages: Pages) -> None:
    await pages.flash(("before",))
    await pages.http.post("/login/ann")
    assert await pages.shown() == [["info", "before"]]

    @pages.app.post("/narrow/{how}")
    async def narrow(how: str, session: CurrentSession) -> None:
        await session.logout()
        flash(session, "kept?")
        session["cart"] = ["tea"]
        await session.login("bob", keep={"cart"} if how == "cart" else {"cart", *keys(session)})

    await pages.http.post("/narrow/cart")
    assert await pages.shown() == []
    await pages.http.post("/narrow/both")
    assert await pages.shown() == [["info", "kept?"]]


async def test_another_user_never_sees_them(pages: Pages) -> None:
    await pages.http.post("/login/ann")
    await pages.flash(("for ann",))
    await pages.http.post("/login/bob")
    assert await pages.shown() == []


async def test_after_a_logout_a_message_starts_a_session_of_its_own(pages: Pages) -> None:
    @pages.app.post("/leave")
    async def leave(session: CurrentSession) -> None:
        flash(session, "dropped with the session")
        await session.logout()
        flash(session, "signed out")

    @pages.app.post("/leave-at-once")
    def leave_at_once(session: CurrentSession) -> None:
        session.logout()
        with pytest.raises(SessionDBError, match=r"await session\.logout\(\)"):
            flash(session, "would be lost")

    await pages.http.post("/login/ann")
    await pages.http.post("/leave")
    assert await pages.shown() == [["info", "signed out"]]
    await pages.http.post("/login/ann")
    assert (await pages.http.post("/leave-at-once")).status_code == 200


async def test_messages_can_be_left_from_within_modify(pages: Pages) -> None:
    @pages.app.post("/modify")
    async def modify(session: CurrentSession) -> None:
        await session.modify(lambda data: flash(data, "from within"))

    await pages.http.post("/login/ann")
    await pages.http.post("/modify")
    assert await pages.shown() == [["info", "from within"]]


@pytest.mark.security("D2")
async def test_there_are_not_too_many_and_they_are_not_too_long(pages: Pages) -> None:
    for start in (0, 15):
        await pages.flash(*((str(n),) for n in range(start, start + 15)))
    assert [message for _, message in await pages.shown()] == [str(n) for n in range(30 - MOST_MESSAGES, 30)]
    assert pages.db.counters["flash_dropped"] == 30 - MOST_MESSAGES
    await pages.flash(("x" * 100_000,))
    [[_, message]] = await pages.shown()
    assert len(message) == LONGEST_MESSAGE
    assert message.startswith("xxx") and message.endswith("…")


@given(message=st.text(st.characters(exclude_categories=()), max_size=50))
def test_what_a_visitor_has_typed_is_never_an_error(message: str) -> None:
    data: dict[str, Any] = {}
    flash(data, message)
    [(category, shown)] = flashes(data)
    assert category == "info"
    if "\0" not in message and message.isprintable() and message.encode("utf-8", "ignore").decode() == message:
        assert shown == message
    assert "\0" not in shown
    shown.encode()


@given(count=st.integers(1, 60))
def test_the_order_is_that_of_the_calls_and_the_newest_stay(count: int) -> None:
    data: dict[str, Any] = {}
    for n in range(count):
        flash(data, str(n))
    assert [int(message) for _, message in flashes(data)] == list(range(max(0, count - MOST_MESSAGES), count))


def test_the_order_is_that_of_the_calls_also_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(10**15, -1000)
    monkeypatch.setattr("sessiondb.web.flash.system_clock", lambda: next(clock))
    data: dict[str, Any] = {}
    for n in range(5):
        flash(data, str(n))
    assert [message for _, message in flashes(data)] == ["0", "1", "2", "3", "4"]


def test_messages_of_one_microsecond_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.web.flash.system_clock", lambda: 10**15)
    here: dict[str, Any] = {}
    there: dict[str, Any] = {}
    flash(here, "a")
    flash(there, "a")
    assert len(flashes(here | there)) == 2


async def test_what_is_no_text_is_refused(pages: Pages) -> None:
    wrong: list[tuple[Any, Any]] = [(None, "info"), (b"x", "info"), ({"a": 1}, "info"), ("x", ""), ("x", None)]
    for message, category in [*wrong, ("x", "c" * 41)]:
        with pytest.raises(SessionDataError, match="flash takes a text"):
            flash({}, message, category)


async def test_what_others_have_put_under_such_a_key_is_dropped(pages: Pages) -> None:
    data: dict[str, Any] = {"_flash.": 1, "_flash.zz": ["a"], "_flash.zzz": ["info", 3], "cart": ["tea"]}
    flash(data, "mine")
    assert flashes(data) == [Flash("info", "mine")]
    assert data == {"cart": ["tea"]}


# -- races, on two servers and each database ------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers on one database."""
    folder: Path = tmp_path_factory.mktemp("flash")
    with serving("forms", folder, count=2, url=new_url(kind, folder), db={"timeout": 30}) as servers:
        yield servers


async def visitor(client: httpx.AsyncClient, server: Server, *texts: str) -> Browser:
    browser = Browser(client, server.url)
    assert (await browser.post("/flash", list(texts or ["first"]))).value
    return browser


async def test_messages_of_concurrent_requests_all_land(pair: list[Server], client: httpx.AsyncClient) -> None:
    guest, name = await visitor(client, pair[0]), gate()
    sends = [
        asyncio.create_task(guest.post(f"/slow/flash/{name}", at=pair[n % 2].url, params={"text": str(n)}))
        for n in range(10)
    ]
    for server in pair:
        await arrived(client, server, name, 5)
    # All have loaded the session before one of them writes.
    for server in pair:
        await open_gate(client, server, name)
    assert [answer.status for answer in await asyncio.gather(*sends)] == [200] * 10
    shown = (await guest.get("/flashes", at=pair[1].url)).json
    assert shown[0] == "first"
    assert sorted(shown[1:], key=int) == [str(n) for n in range(10)]
    assert (await guest.get("/flashes", at=pair[0].url)).json == []


async def test_pages_side_by_side_show_each_message_at_least_once(
    pair: list[Server], client: httpx.AsyncClient
) -> None:
    guest, name = await visitor(client, pair[0], "a", "b"), gate()
    pages = [asyncio.create_task(guest.get(f"/slow/flashes/{name}", at=server.url)) for server in pair]
    for server in pair:
        await arrived(client, server, name)
        await open_gate(client, server, name)
    for answer in await asyncio.gather(*pages):
        assert answer.json == ["a", "b"]
    assert (await guest.get("/flashes")).json == []


async def test_a_message_that_arrives_while_others_are_shown_is_not_lost(
    pair: list[Server], client: httpx.AsyncClient
) -> None:
    guest, name = await visitor(client, pair[0], "old"), gate()
    page = asyncio.create_task(guest.get(f"/slow/flashes/{name}", at=pair[0].url))
    await arrived(client, pair[0], name)
    await guest.post("/flash", ["new"], at=pair[1].url)
    await open_gate(client, pair[0], name)
    assert (await page).json == ["old"]
    assert (await guest.get("/flashes", at=pair[1].url)).json == ["new"]
