"""What a behaviour is given: an empty database, handles on it, a clock, and builders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from sessiondb.core import codec
from sessiondb.core.change import Change, Create
from sessiondb.core.policy import Policy
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.db import SessionDB
from sessiondb.stores.base import ChangeResult, Store
from sessiondb.testing.builders import Builders
from sessiondb.testing.checks import BehaviourBroken, is_applied
from sessiondb.testing.clock import ManualClock

Answer = TypeVar("Answer")

OpenHandle = Callable[[], Store]
"""Each call gives a store, not opened yet, on the same database: as another worker process would have."""

Database = Callable[[ManualClock], AbstractAsyncContextManager[OpenHandle]]
"""Makes an empty database for one behaviour, and removes it afterwards. A store whose clock can be injected gets
the one given; a store that has a clock of its own ignores it."""


class Kit(Builders):
    """One behaviour's database. ``now`` is the store's time when its first handle was opened."""

    def __init__(self, handle: OpenHandle, clock: ManualClock) -> None:
        super().__init__(clock.now)
        self.clock = clock
        self.new_handle = handle
        self._open: list[Store] = []
        self._databases: list[SessionDB] = []
        self._is_first = True

    async def store(self) -> Store:
        """An opened store on this database. A second call gives another handle on the same database."""
        store = self.new_handle()
        await store.open()
        self._open.append(store)
        if self._is_first:
            self.now = await store.clock()
            self._is_first = False
        return store

    async def stores(self, count: int) -> list[Store]:
        """Several handles, opened one after the other."""
        return [await self.store() for _ in range(count)]

    async def close(self, store: Store) -> None:
        """Close one handle, at most once."""
        # By identity: two handles may be one object that counts its users.
        at = next((at for at, one in enumerate(self._open) if one is store), None)
        if at is not None:
            del self._open[at]
            await store.close()

    async def session_db(self, store: Store | None = None, *, policy: Policy | None = None) -> SessionDB:
        """An opened ``SessionDB`` on ``store`` (another handle on this database), as another worker has. It sweeps
        only when told to.
        """
        if self._is_first:
            await self.store()
        source = self.new_handle() if store is None else store
        database = SessionDB(source, policy=policy, clock=self.clock, sweep_every=None)
        await database.open()
        self._databases.append(database)
        return database

    async def close_all(self) -> None:
        """Close everything that is still open."""
        while self._databases:
            await self._databases.pop().close()
        while self._open:
            await self._open.pop().close()

    async def reopen(self, store: Store) -> Store:
        """Close ``store`` and open another handle on the same database, as a restart does."""
        await self.close(store)
        return await self.store()

    # -- a step and its usual check, in one ---------------------------------------------------------------

    async def put_in(self, store: Store, *records: Record) -> None:
        """Store ``records``, in batches that the store likes."""
        size = store.batching.changes
        for start in range(0, len(records), size):
            batch = records[start : start + size]
            for result in await store.apply([Create(record) for record in batch]):
                is_applied(result, "storing a new session")

    async def apply(self, store: Store, change: Change) -> ChangeResult:
        """The result of one change. Raises if there is not exactly one."""
        results = await store.apply([change])
        if len(results) != 1:
            raise BehaviourBroken(f"one change was answered by {len(results)} results")
        return results[0]

    async def find_record(self, store: Store, sid: Sid) -> Record | None:
        """The record of ``sid``, or ``None``."""
        found = await store.load([sid])
        if len(found) != 1:
            raise BehaviourBroken(f"one sid was answered by {len(found)} records")
        return found[0]

    async def record_of(self, store: Store, sid: Sid) -> Record:
        """The record of ``sid``, which must be there."""
        record = await self.find_record(store, sid)
        if record is None:
            raise BehaviourBroken("a session that was stored cannot be loaded")
        return record

    async def data_of(self, store: Store, sid: Sid) -> dict[str, Any]:
        """The decoded data of ``sid``, which must be there."""
        return codec.decode_data((await self.record_of(store, sid)).data)

    async def living(self, store: Store, user_id: str) -> list[Sid]:
        """The sids of a user's living sessions, newest first."""
        return [record.sid for record in (await store.find(self.query(user_id))).records]


async def together(calls: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Run all at once; the answers in order. The first exception is raised when all have ended."""
    answers: Sequence[Answer | BaseException] = await asyncio.gather(*calls, return_exceptions=True)
    done: list[Answer] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        done.append(answer)
    return done
