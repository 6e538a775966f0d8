"""A store whose session data is encrypted: what the inner store, its database and its backups hold is ciphertext."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from sessiondb.core import codec
from sessiondb.core.change import Change, Conflict, Create, End
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores._reencrypting import Reencrypted, reencrypt
from sessiondb.stores._sealing import Keys, Opened, Sealer, UnknownKey
from sessiondb.stores.base import (
    ChangeResult,
    Page,
    PartlyLoaded,
    Query,
    Store,
)
from sessiondb.stores.delegating import DelegatingStore

__all__ = ["EncryptingStore", "Reencrypted", "Ring"]

log = logging.getLogger("sessiondb")

ASK_EVERY = 10.0
ASK_FOR = 1.0
_EMPTY = b"{}"


class Ring(Keys, Protocol):
    """A key ring that may get its keys from elsewhere, and get them again."""

    @property
    def refreshes(self) -> bool:
        """Whether ``refresh`` can find other keys."""
        ...

    async def prepare(self) -> None:
        """Get the keys if there are none yet. Raises ``ConfigurationError`` or ``StoreUnavailable``."""
        ...

    async def refresh(self) -> None:
        """Get the keys again, and keep those that there are if that fails. Raises as ``prepare`` does."""
        ...


class EncryptingStore(DelegatingStore):
    """``store``, with each value of the sessions' data encrypted by itself (see ``_sealing``).

    Everything else stays in plain text, for the database to work with: the names of the top-level keys, ``user_id``,
    times, ``client``, ``auth``, ``risk`` and the events. Values that were removed, or replaced by what the same key of
    the same session held before, are not noticed.

    A record that cannot be decrypted is answered with data that nothing decodes, so that it fails alone: whoever reads
    it gets a ``SessionDataError`` that says why. If a value names a key that is not in the ring, and the ring can get
    keys from elsewhere, it is asked again: every ten seconds at most, and for ``patience`` seconds at most, which must
    be less than a call of the store may take.

    Compose it as ``CoalescingStore(EncryptingStore(RecoveringStore(store), ring))``: then what is merged is encrypted
    once, and a repeated write is the same bytes.
    """

    __slots__ = ("_asked_at", "_asking", "_patience", "_ring", "_sealer")

    def __init__(self, store: Store, ring: Ring, *, patience: float = ASK_FOR) -> None:
        super().__init__(store)
        self._patience = patience
        self._ring = ring
        self._sealer = Sealer(ring)
        self._asking = asyncio.Lock()
        self._asked_at = -ASK_EVERY

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """As the inner store, decrypted."""
        try:
            return await self._opened(await self._store.load(sids))
        except PartlyLoaded as error:
            found = [one if isinstance(one, Record) else None for one in error.records]
            opened = await self._opened(found)
            records = [one if isinstance(one, StoreUnavailable) else opened[at] for at, one in enumerate(error.records)]
            raise PartlyLoaded(str(error), records) from error

    async def find(self, query: Query) -> Page:
        """As the inner store, decrypted."""
        page = await self._store.find(query)
        records = await self._opened(page.records)
        return Page([record for record in records if record is not None], page.next)

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """As the inner store, encrypted. Data that is no JSON object is answered ``SessionDataError``."""
        sealed: list[Change] = []
        refused: dict[int, SessionDataError] = {}
        for at, change in enumerate(changes):
            try:
                sealed.append(self._seal(change))
            except SessionDataError as error:
                refused[at] = error
        results = await self._store.apply(sealed, events) if sealed or events else []
        conflicts = [at for at, result in enumerate(results) if isinstance(result, Conflict)]
        if conflicts:
            records = await self._opened([result.record for result in results if isinstance(result, Conflict)])
            for at, record in zip(conflicts, records, strict=True):
                if record is not None:
                    results[at] = Conflict(record)
        if not refused:
            return results
        answers = iter(results)
        return [refused[at] if at in refused else next(answers) for at in range(len(changes))]

    async def reencrypt(self, query: Query) -> Reencrypted:
        """Write the sessions of ``query`` again with the current key, where they are not yet; see ``Reencrypted``."""
        page = await self._store.find(query)
        return await reencrypt(self._store, self._sealer, page.records, page.next)

    async def open(self) -> None:
        """Get the keys, then as the inner store."""
        await self._ring.prepare()
        await self._store.open()

    def _seal(self, change: Change) -> Change:
        if isinstance(change, End):
            return change
        if isinstance(change, Create):
            record = change.record
            data = self._sealer.seal_data(record.sid, record.data)
            return msgspec.structs.replace(change, record=msgspec.structs.replace(record, data=data))
        if not change.put and change.seen is None:
            return change
        put = {name: self._sealer.seal(change.sid, name, value) for name, value in change.put.items()}
        seen, whole = change.seen, b""
        before = None if seen is None else _sealed_data(seen)
        if before is None:
            seen = None  # its other values are not at hand as they are stored: the store has to merge
        else:
            whole = codec.merge(before, put, change.remove)
        return msgspec.structs.replace(change, put=put, seen=seen, whole=whole)

    async def _opened(self, records: Sequence[Record | None]) -> list[Record | None]:
        opened: list[Record | None] = []
        unknown: list[int] = []
        for at, record in enumerate(records):
            if record is not None:
                try:
                    record = self._sealer.open_record(record)
                except UnknownKey as error:
                    unknown.append(at)
                    record = _unreadable(record, error)
                except SessionDataError as error:
                    record = _unreadable(record, error)
            opened.append(record)
        if unknown and self._ring.refreshes and await self._ask_again():
            for at in unknown:
                again = records[at]
                if again is not None:
                    opened[at] = self._open(again)
        return opened

    def _open(self, record: Record) -> Record:
        try:
            return self._sealer.open_record(record)
        except SessionDataError as error:
            return _unreadable(record, error)

    async def _ask_again(self) -> bool:
        """Whether the ring may have other keys now."""
        asked_at = self._asked_at
        async with self._asking:
            if self._asked_at != asked_at:
                return True  # somebody else has asked meanwhile
            # Whoever can write to the database could make every request ask.
            if time.monotonic() - asked_at < ASK_EVERY:
                return False
            try:
                async with asyncio.timeout(self._patience):
                    await self._ring.refresh()
            except (ConfigurationError, StoreError, TimeoutError) as error:
                log.error(
                    "A session names an encryption key that is not here, and the ring could not be read: %s", error
                )
            finally:
                self._asked_at = time.monotonic()
            return True


def _sealed_data(record: Record) -> bytes | None:
    """The data of ``record`` as it is stored, where that is known."""
    if record.data == _EMPTY:
        return _EMPTY
    return record.sealed if isinstance(record, Opened) and record.data is record.opened else None


def _unreadable(record: Record, error: SessionDataError) -> Record:
    return msgspec.structs.replace(record, data=codec.unreadable(str(error)))
