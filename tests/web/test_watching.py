"""When open connections are looked up, told and cut off: expiry, outages, threads, and what counts as use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from asgi import Connection
from fastapi import FastAPI, WebSocket
from starlette.responses import StreamingResponse

from sessiondb import Cookie, CurrentSession, Policy, SessionDB, SessionMiddleware
from sessiondb.core.token import Sid
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, Fail, FaultyStore, ManualClock
from sessiondb.watching import Ends, Watch

MINUTE = 60.0
HOUR = 60 * MINUTE


class Site:
    """An app with a socket and an event stream. Sessions are looked up when the test says so, by ``check()``."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.memory = MemoryStore(clock=self.clock)
        self.faults = FaultyStore(self.memory)
        self.store = CountingStore(self.faults)
        settings = {"policy": Policy(idle=HOUR, absolute=5 * HOUR), **settings}
        self.db = SessionDB(self.store, clock=self.clock, sweep_every=None, timeout=60, breaker=None, **settings)
        self.app = FastAPI()
        self.app.add_middleware(SessionMiddleware, db=self.db, cookie=Cookie(secure=False))
        self.left: list[str] = []

        @self.app.websocket("/socket")
        async def socket(ws: WebSocket, session: CurrentSession) -> None:
            await ws.accept()
            try:
                async for text in ws.iter_text():
                    await ws.send_text(text)
            finally:
                self.left.append("socket")

        @self.app.get("/events")
        async def events(session: CurrentSession) -> StreamingResponse:
            async def ticks() -> AsyncIterator[str]:
                try:
                    while True:
                        yield "data: tick\n\n"
                        await asyncio.sleep(0)
                finally:
                    self.left.append("stream")

            return StreamingResponse(ticks(), media_type="text/event-stream")

    async def socket(self, token: str) -> Connection:
        connection = Connection(self.app, "websocket", "/socket", [("cookie", f"sid={token}")])
        await connection.sends("websocket.accept")
        return connection

    async def check(self) -> None:
        await self.db.runtime.watching.check()

    async def token(self, user: str = "ann", **settings: Any) -> tuple[str, str]:
        issued = await self.db.create(user, **settings)
        return issued.token, issued.session.sid

    @property
    def open(self) -> int:
        """How many connections are watched."""
        return len(self.db.runtime.watching._open)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.db.open()
    with mock.patch("sessiondb.watching._pause", return_value=HOUR):
        yield site
    assert site.open == 0, "somebody who has gone is still watched"
    assert len(site.db._ends) == 0
    await site.db.close()


async def test_many_connections_are_looked_up_in_one_call_and_no_more_than_once_a_session(site: Site) -> None:
    tokens = [(await site.token(f"user{number}"))[0] for number in range(40)]
    connections = [await site.socket(token) for token in tokens for _ in range(3)]
    site.store.reset()
    await site.check()
    assert site.store.total == site.store.calls["load"] <= 3
    assert site.db.counters["rechecks"] == 40
    for connection in connections:
        await connection.leaves()


async def test_ordinary_requests_watch_nothing_and_cost_nothing(site: Site) -> None:
    token, _ = await site.token()

    @site.app.get("/plain")
    async def plain(session: CurrentSession) -> str | None:
        return session.user_id

    site.store.reset()
    with mock.patch("sessiondb.watching.Watch", side_effect=AssertionError("nothing to watch")):
        connection = Connection(site.app, "http", "/plain", [("cookie", f"sid={token}")])
        await connection.sends("http.response.body")
        await connection.done
    assert site.store.total == 1


@pytest.mark.security("W3", "L8")
@pytest.mark.parametrize("user", ["ann", None])
async def test_a_stream_does_not_begin_when_the_write_before_it_finds_its_session_ended(
    site: Site, user: str | None
) -> None:
    issued = await site.db.create(user, {"n": 1})

    @site.app.get("/counting")
    async def counting(session: CurrentSession) -> StreamingResponse:
        session["n"] += 1
        assert await site.db.revoke(str(session.sid))
        return StreamingResponse(iter(["data: tick\n\n"]), media_type="text/event-stream")

    stream = Connection(site.app, "http", "/counting", [("cookie", f"sid={issued.token}")])
    # Nobody who is logged out is streamed to; visitors who never logged in are.
    assert (await stream.sends("http.response.start"))["status"] == (401 if user else 200)
    await stream.done


@pytest.mark.security("W3", "L3")
@pytest.mark.parametrize("lifetime", ["idle", "absolute"])
async def test_an_expiry_closes_it(site: Site, lifetime: str) -> None:
    token, sid = await site.token()
    connection = await site.socket(token)
    if lifetime == "absolute":
        for _ in range(5):
            site.clock.advance(55 * MINUTE)
            connection.says("I am here")
            await connection.sends("websocket.send", text="I am here")
            connection.sent.clear()
            await site.check()
            await site.db.runtime.background.flush()
            assert connection.sent == []
        site.clock.advance(26 * MINUTE)
    else:
        site.clock.advance(59 * MINUTE)
        await site.check()
        assert len(connection.sent) == 1
        site.clock.advance(2 * MINUTE)
    await site.check()
    await connection.sends("websocket.close", code=4401, reason=f"expired_{lifetime}")
    await connection.done
    # Seen as expired is ended.
    info = await site.db.get(sid)
    assert info is not None
    assert info.end_reason == f"expired_{lifetime}"


async def test_what_the_client_sends_is_use_of_its_session_and_what_it_is_sent_is_not(site: Site) -> None:
    (active, active_sid), (idle, _) = await site.token("ann"), await site.token("bob")
    talking, listening = await site.socket(active), await site.socket(idle)
    for _ in range(3):
        site.clock.advance(29 * MINUTE)
        talking.says("hello")
        await talking.sends("websocket.send", text="hello")
        await site.check()
        await site.db.runtime.background.flush()
        talking.sent.clear()
    await listening.sends("websocket.close", code=4401, reason="expired_idle")
    info = await site.db.get(active_sid)
    assert info is not None
    assert info.last_seen_at == site.clock()
    await talking.leaves()


async def test_a_session_that_was_purged_closes_it_too(site: Site) -> None:
    token, sid = await site.token()
    connection = await site.socket(token)
    del site.memory._table.records[Sid(sid)]
    await site.check()
    await connection.sends("websocket.close", code=4401)
    await connection.done


async def test_while_the_database_is_away_connections_stay_open_but_not_for_ever(site: Site) -> None:
    token, _ = await site.token()
    connection = await site.socket(token)
    stream = Connection(site.app, "http", "/events", [("cookie", f"sid={token}")])
    await stream.sends("http.response.body", body=b"data: tick\n\n")
    site.faults.always["load"] = Fail()
    await site.check()
    connection.says("still there")
    await connection.sends("websocket.send", text="still there")
    with mock.patch("sessiondb.watching.LONGEST_UNCHECKED", -1.0):
        await site.check()
    # Nobody knows that the session has ended, so it does not say so.
    await connection.sends("websocket.close", code=1013)
    await stream.sends("http.response.body", more_body=False)
    await connection.done
    await asyncio.wait([stream.done])
    del site.faults.always["load"]
    assert sorted(site.left) == ["socket", "stream"]


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_stream_is_stopped_as_a_server_of_that_version_would(site: Site, spec_version: str) -> None:
    token, sid = await site.token()
    headers = [("cookie", f"sid={token}")]
    stream = Connection(site.app, "http", "/events", headers, spec_version)
    await stream.sends("http.response.body", body=b"data: tick\n\n")
    await site.db.revoke(sid)
    await stream.sends("http.response.body", more_body=False)
    async with asyncio.timeout(30):
        await stream.done
    assert site.left == ["stream"]
    # Nothing follows the end.
    assert [message.get("more_body") for message in stream.sent].count(False) == 1
    assert stream.sent[-1]["more_body"] is False


async def test_a_stream_is_looked_up_soon_because_its_session_may_have_ended_since_it_was_loaded(site: Site) -> None:
    token, sid = await site.token()

    @site.app.get("/late-events")
    async def late(session: CurrentSession) -> StreamingResponse:
        await site.db.revoke(sid)

        async def ticks() -> AsyncIterator[str]:
            while True:
                yield "data: tick\n\n"
                await asyncio.sleep(0)

        return StreamingResponse(ticks(), media_type="text/event-stream; charset=utf-8")

    stream = Connection(site.app, "http", "/late-events", [("cookie", f"sid={token}")])
    await stream.sends("http.response.body", more_body=False)
    await asyncio.wait([stream.done])


@pytest.mark.security("L8")
async def test_the_sweeper_and_the_limit_close_it_at_once() -> None:
    site = Site(policy=Policy(idle=HOUR, absolute=5 * HOUR, per_user=1))
    await site.db.open()
    with mock.patch("sessiondb.watching._pause", return_value=HOUR):
        token, _ = await site.token()
        connection = await site.socket(token)
        token, _ = await site.token()
        await connection.sends("websocket.close", code=4401, reason="limit")
        connection = await site.socket(token)
        site.clock.advance(2 * HOUR)
        await site.db.sweep()
        await connection.sends("websocket.close", code=4401, reason="expired_idle")
        await connection.done
    await site.db.close()


@pytest.mark.security("L8")
async def test_an_end_in_another_thread_s_event_loop_closes_it_at_once(site: Site) -> None:
    token, sid = await site.token()
    connection = await site.socket(token)
    done: list[bool] = []

    async def elsewhere() -> None:
        done.append(await site.db.revoke(sid))
        await site.db.close()

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await connection.sends("websocket.close", code=4401, reason="revoked")
    await asyncio.to_thread(thread.join, 30)
    assert done == [True]
    await connection.done


@pytest.mark.security("L8")
async def test_a_stolen_token_that_is_used_again_closes_the_sockets_of_both(site: Site) -> None:
    token, _ = await site.token()
    connection = await site.socket(token)
    parts = token.split(".")
    site.clock.advance(MINUTE)
    other = (await site.token())[0].split(".")
    thief = Connection(site.app, "websocket", "/socket", [("cookie", f"sid={parts[0]}.{parts[1]}.{other[2]}")])
    await connection.sends("websocket.close", code=4401, reason="reuse")
    await connection.done
    await thief.leaves()


async def test_a_receiver_that_is_cancelled_from_outside_is_cancelled_and_not_told_of_an_end(site: Site) -> None:
    token, sid = await site.token()
    connection = await site.socket(token)
    await asyncio.sleep(0)
    connection.done.cancel()
    await site.db.revoke(sid)
    with pytest.raises(asyncio.CancelledError):
        await connection.done
    assert site.left == ["socket"]


async def test_the_registry_forgets_who_has_gone_and_a_closed_loop_harms_nobody() -> None:
    ends = Ends()

    async def watch() -> Watch:
        one = Watch(Sid("a"), 1.0, lambda reason: None)
        ends.add(one)
        return one

    loop = asyncio.new_event_loop()
    gone = await asyncio.to_thread(loop.run_until_complete, watch())
    loop.close()
    told: list[str | None] = []
    mine = Watch(Sid("a"), 1.0, told.append)
    ends.add(mine)
    ends.tell(Sid("b"), "logout")
    ends.tell(Sid("a"), "revoked")
    await asyncio.sleep(0)
    assert told == ["revoked"]
    ends.discard(gone)
    ends.discard(mine)
    ends.discard(mine)
    assert len(ends) == 0
