"""Another process that logs people in at a PostgreSQL server, as ``postgresql_process.py URL``, until it is killed.

It says on stdout the sid of each login that was answered, and ends by itself when the server does not answer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from sessiondb import open_store
from sessiondb.core.change import Applied, Change, Create
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventType
from sessiondb.stores.base import Store
from sessiondb.stores.chaining import ChainingStore
from sessiondb.testing.builders import Builders

WRITERS = 6


async def log_in(store: Store, number: int) -> None:
    """Login after login, each of which ends the one before."""
    build = Builders(await store.clock())
    user, before = f"user{number}", None
    while True:
        record = build.record(user)
        changes: Sequence[Change] = [Create(record)]
        events = [Event(type=EventType.LOGIN, at=build.now, sid=record.sid, user_id=user, ip="192.0.2.1")]
        if before is not None:
            changes = [*changes, build.end(before)]
            events.append(Event(type=EventType.SESSION_ENDED, at=build.now, sid=before.sid, user_id=user))
        for result in await store.apply(changes, events):
            assert isinstance(result, Applied)
        before = record
        sys.stdout.write(f"{record.sid}\n")
        sys.stdout.flush()


def lose(event: Event) -> None:
    raise AssertionError(f"{event} was put off")


async def main(url: str) -> None:
    store = ChainingStore(open_store(url), later=lose, required=True)
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
