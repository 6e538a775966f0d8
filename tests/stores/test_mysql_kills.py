"""MySQL: ``kill -9`` of a process that logs people in, and of the server: logins and events are there together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from logging_in import LoggingIn

from databases import drop, had, new_prefix, url_of, with_option
from provision.mariadb import MariaDB
from sessiondb import open_store
from sessiondb.core.record import EndReason
from sessiondb.core.sealing import GENESIS, digest, wrong_groups
from sessiondb.stores._mysql_connection import connect
from sessiondb.stores._mysql_url import parse
from sessiondb.stores.base import Store
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit

PROCESS = Path(__file__).with_name("mysql_process.py")
LIMIT = 60


async def check(kit: Kit, store: Store, answered: list[str]) -> None:
    """Every login is there with its two events and the end of the one before, or is not there at all."""
    sids: dict[str, str | None] = {}
    before = None
    while True:
        page = await store.find(kit.query(state="all", before=before, limit=500))
        sids |= {record.sid: record.end_reason for record in page.records}
        before = page.next
        if before is None:
            break
    assert set(answered) <= sids.keys()
    for class_ in ("l", "s"):
        seen: list[str | None] = []
        for stream in await store.streams():
            if not stream.name.startswith(class_):
                continue
            events = await store.trail(stream.name, 0, 100_000)
            previous = GENESIS
            for number, event in enumerate(events, 1):
                assert event.seal is not None
                assert (event.seal.seq, event.seal.previous) == (number, previous)
                assert wrong_groups(event, event.seal) == []
                previous = digest(event, event.seal)
            seen += [event.sid for event in events]
            # All but the last of each writer were ended by the next.
            reasons = [sids[event.sid or ""] for event in events]
            assert reasons == [EndReason.LOGOUT] * (len(events) - 1) + [None]
        assert sorted(map(str, seen)) == sorted(sids)
    assert (await store.stats()).events == 2 * len(sids)


@pytest.mark.parametrize("logins", [1, 40, 300])
@pytest.mark.security("A2")
async def test_a_process_that_is_killed_leaves_whole_logins(logins: int) -> None:
    prefix = new_prefix()
    url = with_option(url_of("mysql"), f"prefix={prefix}")
    kit = Kit(lambda: open_store(url), ManualClock())
    store = await kit.store()
    other = LoggingIn(PROCESS, url)
    await asyncio.to_thread(other.read, logins)
    other.kill()
    await nobody_writes(prefix)
    await check(kit, store, other.answered)
    await kit.close_all()
    await drop("mysql", prefix)


async def nobody_writes(prefix: str) -> None:
    """A packet that had been sent whole is carried out by the server after its sender's death."""
    connection = await connect(parse(url_of("mysql")).arguments, 5)
    async with asyncio.timeout(LIMIT):
        while True:
            [found] = await connection.run(
                [
                    "SELECT (SELECT count(*) FROM information_schema.innodb_trx) + (SELECT count(*) FROM "
                    f"information_schema.processlist WHERE info LIKE '%{prefix}%' AND id <> CONNECTION_ID())"
                ]
            )
            if found.rows == ((0,),):
                break
            await asyncio.sleep(0.02)
    await connection.close()


@pytest.mark.parametrize("logins", [1, 40, 300])
async def test_a_server_that_is_killed_has_whole_logins_after_its_restart(logins: int) -> None:
    server = await asyncio.to_thread(had, MariaDB)
    try:
        url = with_option(server.url, f"prefix={new_prefix()}")
        other = LoggingIn(PROCESS, url)
        await asyncio.to_thread(other.read, logins)
        server.process.kill()
        assert "MySQL at" in await asyncio.to_thread(other.rest)
        await asyncio.to_thread(server.process.start)
        kit = Kit(lambda: open_store(url), ManualClock())
        store = await kit.store()
        await check(kit, store, other.answered)
        await kit.close_all()
    finally:
        await asyncio.to_thread(server.stop)
