"""``SIGTERM`` to a real server while touches and events wait: they are there afterwards, or that is told."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
from lines import line_to
from serving import Browser, eventually, serving

from databases import KINDS, NETWORK, new_url
from sessiondb import SessionDB

# Touches are due after a tenth of this, and nothing is written by itself.
SETTINGS = {"policy": {"idle": 10}, "flush_every": 3600.0, "uvicorn": {"access_log": False}}


async def make_something_wait(client: httpx.AsyncClient, url: str) -> tuple[str, int]:
    """A session with a touch that waits, and the event of a revoke; its sid, and how old its last touch will be."""
    browser = Browser(client, url)

    async def is_open() -> bool:
        # A line is part of this process, which does not run while the server starts.
        return (await browser.get("/live/ann")).status == 200

    await eventually(is_open)
    sid: str = (await browser.post("/login/ann")).json
    assert (await browser.post("/revoke/somebody")).json == 0
    await asyncio.sleep(1.1)  # the server's clock is this machine's
    assert (await browser.session())["user"] == "ann"
    return sid, 1_000_000


@pytest.mark.parametrize("kind", KINDS)
async def test_what_waits_is_written_when_the_server_is_told_to_end(
    client: httpx.AsyncClient, tmp_path: Path, kind: str
) -> None:
    url = new_url(kind, tmp_path)
    with serving("shop", tmp_path, url=url, **SETTINGS) as [server]:
        sid, later = await make_something_wait(client, server.url)
        async with SessionDB(url, sweep_every=None) as db:
            before = await db.get(sid)
            assert before is not None
            assert before.last_seen_at == before.created_at
            assert (await db.events(type="user_revoked")).events == []
            await asyncio.to_thread(server.stop)
            assert server.process.returncode in (0, -signal.SIGTERM)
            after = await db.get(sid)
            assert after is not None
            assert after.last_seen_at >= after.created_at + later
            [event] = (await db.events(type="user_revoked")).events
            assert event.user_id == "somebody"
    assert "lost" not in server.logged()


@pytest.mark.parametrize("fault", ["cut", "stall"])
@pytest.mark.parametrize("kind", NETWORK)
async def test_without_a_database_it_ends_in_time_and_tells_what_is_lost(
    client: httpx.AsyncClient, tmp_path: Path, kind: str, fault: str
) -> None:
    async with line_to(kind, tmp_path) as line:
        with serving("shop", tmp_path, url=line.url, db={"timeout": 0.5}, **SETTINGS) as [server]:
            await make_something_wait(client, server.url)
            getattr(line, fault)()
            # It is killed after 20 seconds, which is no way to end.
            await asyncio.to_thread(server.stop)
            assert server.process.returncode in (0, -signal.SIGTERM), server.logged()
        line.mend()
    assert "was closed before 1 touches, 0 ends and 1 events could be written; they are lost." in server.logged()
    assert "Traceback" not in server.logged(), server.logged()
