"""Another process on an SQLite file, as ``process.py COMMAND PATH SID``: it says on stdout what was acknowledged."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time

from sessiondb.core.change import Applied, Create, Update, new_change_id
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import Lane
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import Builders

WRITERS = 8
COUNT = 50


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def fresh(store: SQLiteStore, sid: str) -> None:
    """Open a file that may not exist yet, at the same moment as others, and store something."""
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    await store.open()
    record = Builders(time.time_ns() // 1000).record("ann")
    [result] = await store.apply([Create(record)])
    assert isinstance(result, Applied)
    say(record.sid)
    await store.close()


async def endless(store: SQLiteStore, sid: str) -> None:
    """Write one key after another into the session ``sid``, until killed."""
    await store.open()

    async def write(writer: int) -> None:
        number = 0
        while True:
            key = f"{writer}-{number}"
            [result] = await store.apply([Update(sid=sid, id=new_change_id(), put={key: b"1"})])
            assert isinstance(result, Applied)
            say(key)
            number += 1

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))


async def some(store: SQLiteStore, sid: str) -> None:
    """Write ``COUNT`` keys into the session ``sid``, many at a time."""
    await store.open()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    changes = [Update(sid=sid, id=new_change_id(), put={f"{os.getpid()}-{n}": b"1"}) for n in range(COUNT)]
    results = await asyncio.gather(*(store.apply([change]) for change in changes))
    assert all(isinstance(result, Applied) for [result] in results)
    await store.close()
    say("done")


async def log_in(store: SQLiteStore, sid: str) -> None:
    """Make sessions, each with its event, in one stream after the other, until killed."""
    await store.open()
    build = Builders(time.time_ns() // 1000)

    async def log_in_for_ever() -> None:
        lane = Lane(EventClass.LOGIN)
        while True:
            records = [build.record("ann") for _ in range(random.randrange(1, 4))]
            events = lane.seal([Event(type=EventType.LOGIN, at=build.now, sid=one.sid) for one in records])
            results = await store.apply([Create(one) for one in records], events)
            assert all(isinstance(result, Applied) for result in results)
            lane.advance(events)
            say(" ".join(one.sid for one in records))

    await asyncio.gather(*(log_in_for_ever() for _ in range(WRITERS)))


async def count(store: SQLiteStore, sid: str) -> None:
    """Count, and note logins, with others on the same keys."""
    await store.open()
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    keys = [bytes([n]) for n in range(20)]
    later = time.time_ns() // 1000 + 10**12
    for n in range(COUNT):
        random.shuffle(keys)
        await store.count("bucket", dict.fromkeys(keys, 1), most=20, expires_at=later)
        if n < 3:
            await store.record_logins([("ann", os.getpid().to_bytes(8, "big") * 6)], later)
    await store.close()
    say("done")


COMMANDS = {"fresh": fresh, "endless": endless, "some": some, "log_in": log_in, "count": count}


def main() -> None:
    command, path, sid = sys.argv[1:]
    store = SQLiteStore(path, busy_timeout=30)
    asyncio.run(COMMANDS[command](store, sid))


if __name__ == "__main__":
    main()
