"""Two real servers whose near caches are told by Redis, and a storm of revocations in which the telling breaks off."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from feed_line import FeedLine
from serving import Browser, Server, eventually, serving

from databases import new_url
from sessiondb import SessionDB

BOUND = 0.4
SESSIONS = 60


@dataclass
class Storm:
    """Readers ask both servers for all sessions, again and again, while these are revoked one after the other."""

    client: httpx.AsyncClient
    servers: list[Server]
    db: SessionDB
    line: FeedLine
    tokens: dict[str, str] = field(default_factory=dict)
    revoked_at: dict[str, float] = field(default_factory=dict)
    served: list[tuple[str, float]] = field(default_factory=list)
    requests: int = 0
    is_over: bool = False

    async def begin(self) -> None:
        """Everybody is there, and nobody has been revoked."""
        for kept in (self.tokens, self.revoked_at, self.served):
            kept.clear()
        self.is_over = False
        for number in range(SESSIONS):
            issued = await self.db.create(f"user{number}", {"n": number})
            self.tokens[issued.session.sid] = issued.token

    async def read(self, seed: int) -> None:
        chance, sids = random.Random(seed), list(self.tokens)
        while not self.is_over:
            sid, server = chance.choice(sids), chance.choice(self.servers)
            sent_at = time.monotonic()
            answer = await Browser(self.client, server.url, self.tokens[sid]).get("/session")
            self.requests += 1
            if answer.json["user"] is not None:
                self.served.append((sid, sent_at))

    async def revoke(self, pause: float) -> None:
        for sid in self.tokens:
            assert await self.db.revoke(sid)
            self.revoked_at[sid] = time.monotonic()
            await asyncio.sleep(pause)

    @property
    def too_late(self) -> int:
        """Requests that were sent later than the bound after their session was revoked, and served."""
        return sum(1 for sid, sent_at in self.served if sent_at > self.revoked_at[sid] + BOUND)

    async def each(self, name: str) -> list[int]:
        """What each server has counted."""
        stats = [(await self.client.get(f"{server.url}/stats")).json() for server in self.servers]
        return [one.get(name, 0) for one in stats]


@asynccontextmanager
async def storm(folder: Path, client: httpx.AsyncClient, **settings: Any) -> AsyncIterator[Storm]:
    direct = new_url("redis", folder)
    parts = urlsplit(direct)
    assert parts.hostname is not None
    assert parts.port is not None
    async with FeedLine(parts.hostname, parts.port).listening() as line, SessionDB(direct, sweep_every=None) as db:
        url = parts._replace(netloc=f"127.0.0.1:{line.port}").geturl()
        async with served(folder, url=url, near_cache={"staleness": BOUND}, **settings) as servers:
            yield Storm(client, servers, db, line)


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[list[Server]]:
    """``serving`` two, begun and ended in a thread: their line to the database is in the loop that would wait."""
    two = serving("shop", folder, count=2, **settings)
    servers = await asyncio.to_thread(two.__enter__)
    try:
        yield servers
    finally:
        await asyncio.to_thread(two.__exit__, None, None, None)


async def blow(made: Storm, how: str) -> None:
    """Read for a while, revoke everybody, and break the feeds when a third is revoked."""
    line = made.line
    await made.begin()
    await eventually(lambda: line.begun >= 2)
    before = await made.each("near_hits")
    readers = [asyncio.create_task(made.read(seed)) for seed in range(6)]

    async def warm() -> bool:
        return all(now > then + SESSIONS for now, then in zip(await made.each("near_hits"), before, strict=True))

    await eventually(warm)
    revoking = asyncio.create_task(made.revoke(0.02))
    await eventually(lambda: len(made.revoked_at) >= SESSIONS // 3)
    line.cut() if how == "cut" else line.stall()
    await revoking
    await asyncio.sleep(BOUND)
    made.is_over = True
    await asyncio.gather(*readers)


async def test_no_revoked_session_is_served_after_the_bound(tmp_path: Path, client: httpx.AsyncClient) -> None:
    async with storm(tmp_path, client) as made:
        for how in ("cut", "stalled"):
            lost = await made.each("near_feed_lost")
            await blow(made, how)
            assert made.too_late == 0
            assert len(made.served) > SESSIONS
            assert all(now > then for now, then in zip(await made.each("near_feed_lost"), lost, strict=True))
            made.line.mend()
            # The next storm begins when pages are served from what is held again.
        assert made.servers[0].logged().count("the feed of the near cache") >= 2


async def test_a_server_that_is_deaf_and_does_not_know_it_is_found_out(
    tmp_path: Path, client: httpx.AsyncClient
) -> None:
    async with storm(tmp_path, client, deaf=True) as made:
        await blow(made, "stalled")
        assert made.too_late > 0
