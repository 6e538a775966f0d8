"""PostgreSQL: ``kill -9`` of a process that logs people in, and of the server: a login and its events are there or not.

Both die at a moment of their own, after so many logins; what was under way then has landed whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import asyncpg
import pytest
from logging_in import LoggingIn

from databases import drop, new_prefix, start, url_of, with_option
from provision.postgresql import PostgreSQL
from sessiondb import open_store
from sessiondb.core.events import Event, EventType
from sessiondb.core.record import Record
from sessiondb.core.sealing import GENESIS, digest, wrong_groups
from sessiondb.stores.base import Store
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit

PROCESS = Path(__file__).with_name("postgresql_process.py")
LIMIT = 60
LOGINS = [1, 50, 400]


async def all_sessions(kit: Kit, store: Store) -> dict[str, Record]:
    found: dict[str, Record] = {}
    before = None
    while True:
        page = await store.find(kit.query(state="all", before=before, limit=500))
        found |= {record.sid: record for record in page.records}
        before = page.next
        if before is None:
            return found


async def unbroken(store: Store) -> list[Event]:
    """Every event, of streams that are whole from their first on."""
    found: list[Event] = []
    for stream in await store.streams():
        assert stream.first == 1
        previous, after = GENESIS, 0
        while page := await store.trail(stream.name, after, 100):
            for event in page:
                assert event.seal is not None
                assert (event.seal.seq, event.seal.previous) == (after + 1, previous)
                assert wrong_groups(event, event.seal) == []
                previous, after = digest(event, event.seal), event.seal.seq
            found += page
        assert after == (stream.last.seal.seq if stream.last.seal else 0)
    return found


async def check(kit: Kit, answered: list[str]) -> None:
    store = await kit.store()
    sessions, events = await all_sessions(kit, store), await unbroken(store)
    assert set(answered) <= sessions.keys()
    of_type = {type_: Counter(event.sid for event in events if event.type == type_) for type_ in EventType}
    assert of_type[EventType.LOGIN] == Counter([*sessions])
    ended = [sid for sid, record in sessions.items() if record.ended_at is not None]
    assert of_type[EventType.SESSION_ENDED] == Counter(ended)
    assert len(events) == len(sessions) + len(ended)
    assert (await store.stats()).events == len(events)


@pytest.mark.parametrize("logins", LOGINS)
@pytest.mark.security("A2")
async def test_a_process_that_is_killed_leaves_whole_logins(logins: int) -> None:
    prefix = new_prefix()
    url = with_option(url_of("postgresql"), f"prefix={prefix}")
    other = LoggingIn(PROCESS, url)
    await asyncio.to_thread(other.read, logins)
    other.kill()
    await nobody_writes(prefix)
    kit = Kit(lambda: open_store(url), ManualClock())
    await check(kit, other.answered)
    await kit.close_all()
    await drop("postgresql", prefix)


async def nobody_writes(prefix: str) -> None:
    """A statement that had been sent is carried out by the server after its sender's death."""
    connection = await asyncpg.connect(url_of("postgresql"))
    async with asyncio.timeout(LIMIT):
        while await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND pid <> pg_backend_pid()", f"%{prefix}%"
        ):
            await asyncio.sleep(0.02)
    await connection.close()


@pytest.mark.parametrize("logins", LOGINS)
async def test_a_server_that_is_killed_has_whole_logins_after_its_restart(logins: int) -> None:
    server = await asyncio.to_thread(start, "postgresql")
    assert isinstance(server, PostgreSQL)
    try:
        other = LoggingIn(PROCESS, server.url)
        await asyncio.to_thread(other.read, logins)
        server.process.kill()
        assert "PostgreSQL at" in await asyncio.to_thread(other.rest)
        await asyncio.to_thread(server.process.start)
        kit = Kit(lambda: open_store(server.url), ManualClock())
        await check(kit, other.answered)
        await kit.close_all()
    finally:
        await asyncio.to_thread(server.stop)
