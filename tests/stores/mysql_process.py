"""Another process that logs people in at a MySQL server, as ``mysql_process.py URL``, until it is killed or fails.

It says on stdout the sid of each login that was answered.
"""

from __future__ import annotations

import asyncio
import sys

from sessiondb import open_store
from sessiondb.core.change import Applied, Create
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import Lane
from sessiondb.stores.base import Store
from sessiondb.testing.builders import Builders

WRITERS = 6


async def log_in(store: Store, number: int) -> None:
    """Login after login, each of which ends the one before, with events of two streams."""
    build = Builders(await store.clock())
    logins, sessions = Lane(EventClass.LOGIN), Lane(EventClass.SESSION)
    before = None
    while True:
        record = build.record(f"user{number}")
        login = logins.seal([Event(type=EventType.LOGIN, at=build.now, sid=record.sid, user_id=record.user_id)])
        made = sessions.seal([Event(type=EventType.SESSION_CREATED, at=build.now, sid=record.sid)])
        changes = [Create(record)] if before is None else [Create(record), build.end(before)]
        results = await store.apply(changes, [*login, *made])
        assert all(isinstance(result, Applied) for result in results)
        logins.advance(login)
        sessions.advance(made)
        before = record
        sys.stdout.write(f"{record.sid}\n")
        sys.stdout.flush()


async def main(url: str) -> None:
    store = open_store(url)
    await store.open()
    writers = [asyncio.create_task(log_in(store, number)) for number in range(WRITERS)]
    try:
        await asyncio.gather(*writers)
    except StoreError as error:
        # The server was killed: what is under way is not known to have landed, and is not repeated.
        sys.stderr.write(f"{error}\n")
    finally:
        await asyncio.wait(writers)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
