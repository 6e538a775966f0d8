"""Another process on an SQLite file, as ``process.py COMMAND PATH SID``: it says on stdout what was acknowledged."""

from __future__ import annotations

import asyncio
import os
import sys
import time

from sessiondb.core.change import Applied, Create, Update, new_change_id
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


def main() -> None:
    command, path, sid = sys.argv[1:]
    store = SQLiteStore(path, busy_timeout=30)
    asyncio.run({"fresh": fresh, "endless": endless, "some": some}[command](store, sid))


if __name__ == "__main__":
    main()
