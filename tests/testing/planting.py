"""What planted bugs are made of: stores around an honest store, on whatever database that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from sessiondb.core.change import Change, Update
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import ChangeResult, Page, Query
from sessiondb.testing import StoreWrapper

BOUNDLESS = Caps(Lifetimes(10**15, 10**15), Lifetimes(10**15, 10**15))


def altered(change: Update, **fields: Any) -> Update:
    """``change`` with other fields; its hint, which is of the change as it was, is dropped."""
    return replace(change, seen=None, whole=b"", **fields)


def blank_record(sid: Sid, now: int) -> Record:
    """A living session of nobody."""
    life = 10**12
    hashes = {"series_hash": bytes(32), "secret_hash": bytes(32)}
    times = {"created_at": now, "last_seen_at": now, "check_at": now + life}
    return Record(sid=sid, idle=life, absolute=life, **hashes, **times)  # type: ignore[arg-type]


class Rewriting(StoreWrapper):
    """Makes another change of each, knowing what it meets."""

    def before(self, record: Record | None, change: Change) -> Change:
        raise NotImplementedError

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        records = await self.store.load([change.sid for change in changes])
        return await super().apply([self.before(*pair) for pair in zip(records, changes, strict=True)], events)


class Showing(StoreWrapper):
    """Shows other records than are stored: for whoever asks, what it shows is what is stored."""

    def shown(self, record: Record) -> Record:
        raise NotImplementedError

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        return [None if record is None else self.shown(record) for record in await super().load(sids)]

    async def find(self, query: Query) -> Page:
        page = await super().find(query)
        return replace(page, records=[self.shown(record) for record in page.records])
