"""``kill -9`` of a process that logs users in, and of servers: no session without its events, nor they without it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from endless_logins import log_in_for_ever

from databases import had, new_prefix, url_of, with_option
from provision.process import ServerProcess
from provision.valkey import Valkey, ValkeyCluster, ask
from sessiondb.core.errors import StoreError
from sessiondb.core.events import EventType
from sessiondb.core.sealing import GENESIS, digest, wrong_groups
from sessiondb.stores.base import EventQuery
from sessiondb.stores.redis import RedisStore
from sessiondb.testing.builders import MINUTE, Builders

LOGINS = Path(__file__).with_name("endless_logins.py")
WRITERS = 6
# With "everysec" a killed server may lose what it has answered: it does not write while the disk is being synced.
ALWAYS = ("--appendfsync", "always")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url)
    async with asyncio.timeout(60):
        while True:
            try:
                await store.open()
                break
            except StoreError:
                await asyncio.sleep(0.05)  # a cluster takes its time to know that a node is back
    try:
        yield store
    finally:
        await store.close()


async def said_and_there(store: RedisStore, build: Builders) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """By type of event, the sessions that have one; and those that should. After a sweep, some time later."""
    await store.sweep(build.cutoffs(build.now + 2 * MINUTE), 1000)
    said: dict[str, set[str]] = {EventType.LOGIN.value: set(), EventType.SESSION_ENDED.value: set()}
    for event in (await store.events(EventQuery(limit=100_000))).events:
        assert event.sid is not None
        assert event.sid not in said[event.type], "an event that is there twice"
        said[event.type].add(event.sid)
    records = (await store.find(build.query(state="all", limit=100_000))).records
    ended = {record.sid for record in records if record.ended_at is not None}
    return said, {EventType.LOGIN.value: {record.sid for record in records}, EventType.SESSION_ENDED.value: ended}


async def check(store: RedisStore, answered: set[str]) -> None:
    """Every session has its events and the other way round, no stream has a gap, and what was answered is there."""
    build = Builders(await store.clock())
    async with asyncio.timeout(30):
        # What the killed one had sent may still be under way.
        while True:
            said, there = await said_and_there(store, build)
            if said == there:
                break
            await asyncio.sleep(0.05)
    sids, ended = there[EventType.LOGIN.value], there[EventType.SESSION_ENDED.value]
    assert answered <= sids
    # One more of each writer, at most, was not answered.
    assert len(sids - answered) <= WRITERS
    owners = {one.sid: one.user_id for one in (await store.find(build.query(state="all", limit=100_000))).records}
    for number in range(WRITERS):
        user = f"user{number}"
        listed = (await store.find(build.query(user, limit=1000))).records
        assert {record.sid for record in listed} == {sid for sid in sids - ended if owners[sid] == user}
    count = 0
    for stream in await store.streams():
        previous = GENESIS
        trail = await store.trail(stream.name, 0, 100_000)
        for seq, event in enumerate(trail, 1):
            assert event.seal is not None
            assert (event.seal.seq, event.seal.previous) == (seq, previous)
            assert wrong_groups(event, event.seal) == []
            previous = digest(event, event.seal)
        assert (stream.first, stream.last) == (1, trail[-1])
        count += len(trail)
    assert count == (await store.stats()).events == sum(map(len, said.values()))


@pytest.mark.parametrize("answers", [1, 13, 150, 400])
@pytest.mark.parametrize("kind", ["redis", "redis_cluster"])
@pytest.mark.security("A2")
async def test_a_killed_process_leaves_no_login_without_its_event(kind: str, answers: int) -> None:
    url = with_option(url_of(kind), f"prefix={new_prefix()}")
    async with opened(url) as store:
        child = subprocess.Popen([sys.executable, str(LOGINS), url], stdout=subprocess.PIPE, text=True)
        try:
            assert child.stdout is not None
            lines = [await asyncio.to_thread(child.stdout.readline) for _ in range(answers)]
        finally:
            child.kill()
            rest, _ = await asyncio.to_thread(child.communicate)
        await check(store, {line for line in ("".join(lines) + rest).split("\n") if len(line) == 36})


async def log_in_until_it_dies(url: str, process: ServerProcess, answers: int) -> set[str]:
    """The sessions of the logins that were answered before ``process`` was killed."""
    answered: set[str] = set()
    enough = asyncio.Event()

    def say(sid: str) -> None:
        answered.add(sid)
        if len(answered) == answers:
            enough.set()

    async with opened(url) as store:
        before = asyncio.all_tasks()
        logging_in = asyncio.create_task(log_in_for_ever(store, say))
        waiting = asyncio.create_task(enough.wait())
        await asyncio.wait([waiting, logging_in], return_when="FIRST_COMPLETED")
        assert not logging_in.done()
        await asyncio.to_thread(process.kill)
        with pytest.raises((StoreError, AssertionError)):
            await logging_in
        # The other writers.
        others = asyncio.all_tasks() - before
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    return answered


@pytest.mark.parametrize("answers", [1, 40, 400])
async def test_a_killed_server_has_no_login_without_its_event(answers: int) -> None:
    """Its log has all or nothing of a script."""
    server = had(lambda: Valkey(*ALWAYS))
    try:
        answered = await log_in_until_it_dies(server.url, server.process, answers)
        server.process.start()
        async with opened(server.url) as store:
            await check(store, answered)
    finally:
        server.stop()


@pytest.mark.parametrize("node", [0, 1, 2])
async def test_a_killed_node_of_a_cluster_has_no_login_without_its_event(node: int) -> None:
    servers = had(ValkeyCluster)
    try:
        process, _ = servers.nodes[node]
        for _, port in servers.nodes:
            assert ask(port, "CONFIG", "SET", "appendfsync", "always").startswith("+OK")
        answered = await log_in_until_it_dies(servers.url, process, 60)
        await asyncio.to_thread(process.start)
        async with asyncio.timeout(60):
            while any("cluster_state:ok" not in ask(at, "CLUSTER", "INFO") for _, at in servers.nodes):
                await asyncio.sleep(0.05)
        async with opened(servers.url) as store:
            await check(store, answered)
    finally:
        servers.stop()
