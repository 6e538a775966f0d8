"""Logins without end, where audit is required, as ``endless_logins.py URL``: it says which were answered."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

from sessiondb import open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventType
from sessiondb.core.record import Record
from sessiondb.stores.base import Store
from sessiondb.stores.chaining import ChainingStore
from sessiondb.testing.builders import Builders

WRITERS = 6


async def log_in_for_ever(store: Store, say: Callable[[str], None]) -> None:
    """Each login ends the one before, in one call with the events of both; until an error."""
    chaining = ChainingStore(store, later=lambda event: sys.exit("an event was put off"), required=True)

    async def log_in(writer: int) -> None:
        build = Builders(time.time_ns() // 1000)
        before: Record | None = None
        while True:
            new = build.record(f"user{writer}")
            changes, events = [build.create(new)], [_event(EventType.LOGIN, build.now, new)]
            if before is not None:
                results = await chaining.apply(
                    [*changes, build.end(before)], [*events, _event(EventType.SESSION_ENDED, build.now, before)]
                )
            else:
                results = await chaining.apply(changes, events)
            assert all(isinstance(result, Applied) for result in results), results
            say(new.sid)
            before = new

    # All have ended then: none goes on while the test does.
    *_, error = await asyncio.gather(*(log_in(writer) for writer in range(WRITERS)), return_exceptions=True)
    assert isinstance(error, BaseException)
    raise error


def _event(type_: EventType, at: int, record: Record) -> Event:
    return Event(type=type_, at=at, sid=record.sid, user_id=record.user_id, ip="192.0.2.1")


async def main(url: str) -> None:
    store = open_store(url)
    await store.open()

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    try:
        await log_in_for_ever(store, say)
    except StoreError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
