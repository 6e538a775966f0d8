"""MongoDB: a process that logs users in is killed, or the server: no session without its events, nor they without."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from endless_logins import WRITERS, log_in_for_ever

from databases import had, new_prefix, url_of, with_option
from provision.mongodb import MongoDB
from sessiondb import open_store
from sessiondb.core.errors import StoreError
from sessiondb.core.events import EventType
from sessiondb.core.sealing import GENESIS, digest, wrong_groups
from sessiondb.stores.base import EventQuery, Store
from sessiondb.testing.builders import Builders

LOGINS = Path(__file__).with_name("endless_logins.py")
PATIENCE = 30.0


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def said_and_there(store: Store) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """By type of event, the sessions that have one; and those that should."""
    said: dict[str, set[str]] = {EventType.LOGIN.value: set(), EventType.SESSION_ENDED.value: set()}
    for event in (await store.events(EventQuery(limit=100_000))).events:
        assert event.sid is not None
        assert event.sid not in said[event.type], "an event that is there twice"
        said[event.type].add(event.sid)
    records = (await store.find(Builders(0).query(state="all", limit=100_000))).records
    ended = {record.sid for record in records if record.ended_at is not None}
    return said, {EventType.LOGIN.value: {record.sid for record in records}, EventType.SESSION_ENDED.value: ended}


async def check(store: Store, answered: set[str]) -> None:
    """Every session has its events and the other way round, no stream has a gap, and what was answered is there."""
    async with asyncio.timeout(PATIENCE):
        # What the killed one had sent may still be under way, between two of these readings too.
        while True:
            said, there = await said_and_there(store)
            trails = [(one, await store.trail(one.name, 0, 100_000)) for one in await store.streams()]
            if said == there and (said, there) == await said_and_there(store):
                break
            await asyncio.sleep(0.1)
    assert answered <= there[EventType.LOGIN.value]
    # One more of each writer, at most, was not answered.
    assert len(there[EventType.LOGIN.value]) - len(answered) <= WRITERS
    for stream, trail in trails:
        previous = GENESIS
        for seq, event in enumerate(trail, 1):
            assert event.seal is not None
            assert (event.seal.seq, event.seal.previous) == (seq, previous)
            assert wrong_groups(event, event.seal) == []
            previous = digest(event, event.seal)
        assert (stream.first, stream.last) == (1, trail[-1])
    assert sum(len(trail) for _, trail in trails) == sum(map(len, said.values()))


@pytest.mark.parametrize("answers", [1, 13, 60])
@pytest.mark.security("A2")
async def test_a_killed_process_leaves_no_login_without_its_event(answers: int) -> None:
    url = with_option(url_of("mongodb"), f"prefix={new_prefix()}")
    async with opened(url) as store:
        child = subprocess.Popen([sys.executable, str(LOGINS), url], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            lines = [await asyncio.to_thread(child.stdout.readline) for _ in range(answers)]
        finally:
            child.kill()
            rest, _ = await asyncio.to_thread(child.communicate)
        await check(store, {line for line in ("".join(lines) + rest).split("\n") if len(line) == 36})


@pytest.mark.parametrize("answers", [1, 40])
async def test_a_killed_server_has_no_login_without_its_event(answers: int) -> None:
    server = had(MongoDB)
    try:
        answered: set[str] = set()
        enough = asyncio.Event()

        def say(sid: str) -> None:
            answered.add(sid)
            if len(answered) == answers:
                enough.set()

        async with opened(server.url) as store:
            logging_in = asyncio.create_task(log_in_for_ever(store, say))
            await asyncio.wait([asyncio.create_task(enough.wait()), logging_in], return_when="FIRST_COMPLETED")
            assert not logging_in.done()
            await asyncio.to_thread(server.process.kill)
            with pytest.raises((StoreError, AssertionError)):
                await logging_in
        server.process.start()
        async with opened(server.url) as store:
            await check(store, answered)
    finally:
        server.stop()
