"""Stores that write wrongly: laws 1, 2, 3, 5 and 8."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace
from planting import BOUNDLESS, Rewriting, Showing, altered, blank_record

from sessiondb.core import codec
from sessiondb.core.change import Applied, Change, Conflict, Create, End, Update, new_change_id
from sessiondb.core.errors import SessionDataError
from sessiondb.core.events import Event
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import ChangeResult, Query, Store
from sessiondb.testing import StoreWrapper


def _values(data: bytes) -> dict[str, bytes]:
    return {key: bytes(value) for key, value in codec.split(data).items()}


# -- law 1 ---------------------------------------------------------------------------------------------------


class UpsertingUpdate(StoreWrapper):
    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        records = await self.store.load([change.sid for change in changes])
        now = await self.store.clock()
        await self.store.apply(
            [
                Create(blank_record(change.sid, now))
                for change, record in zip(changes, records, strict=True)
                if isinstance(change, Update) and record is None
            ]
        )
        return await super().apply(changes, events)


class RevivingTouch(Showing):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._revived: set[Sid] = set()

    def shown(self, record: Record) -> Record:
        return replace(record, ended_at=None, end_reason=None) if record.sid in self._revived else record

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        records = await self.store.load([change.sid for change in changes])
        for change, record in zip(changes, records, strict=True):
            if isinstance(change, Update) and change.touch is not None and record is not None and record.ended_at:
                self._revived.add(change.sid)
        results = await super().apply(changes, events)
        return [
            Applied(1) if change.sid in self._revived else one for change, one in zip(changes, results, strict=True)
        ]


class OverwritingCreate(Rewriting):
    def before(self, record: Record | None, change: Change) -> Change:
        if not isinstance(change, Create) or record is None:
            return change
        put = _values(change.record.data)
        return Update(sid=change.sid, id=new_change_id(), put=put, remove=_values(record.data).keys() - put.keys())


# -- law 2 ---------------------------------------------------------------------------------------------------


class TrustsTheHint(Rewriting):
    """Writes the data that a change was expected to make, whatever has been written since."""

    def before(self, record: Record | None, change: Change) -> Change:
        if not isinstance(change, Update) or change.seen is None or record is None:
            return change
        put = _values(change.whole)
        return altered(change, put=put, remove=frozenset(_values(record.data).keys() - put.keys()))


class WholeDictionary(Rewriting):
    """Reads, waits, and writes everything back: the classic lost update."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._turn = asyncio.Lock()

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        seen = await self.store.load([change.sid for change in changes])
        await asyncio.sleep(0)
        async with self._turn:  # what was written since it was read is known now, and overwritten
            self._seen = {record.sid: record for record in seen if record is not None}
            return await super().apply(changes, events)

    def before(self, record: Record | None, change: Change) -> Change:
        seen = self._seen.get(change.sid)
        if not isinstance(change, Update) or seen is None or record is None or not (change.put or change.remove):
            return change
        data = _values(codec.merge(seen.data, change.put, change.remove))
        return altered(change, put=data, remove=frozenset(_values(record.data).keys() - data.keys()))


class LostGuard(Rewriting):
    def before(self, record: Record | None, change: Change) -> Change:
        return altered(change, if_rev=None) if isinstance(change, Update) else change


class AppliedTwice(Rewriting):
    """Does not know a change again that it has applied before."""

    def before(self, record: Record | None, change: Change) -> Change:
        return replace(change, id=new_change_id()) if isinstance(change, Update) else change


class ForgottenOnClose(StoreWrapper):
    async def close(self) -> None:
        query = Query(now=await self.store.clock(), caps=BOUNDLESS, purge_at=1)
        await self.store.end_where(query, EndReason.EXPIRED_IDLE)
        await super().close()


# -- law 3 ---------------------------------------------------------------------------------------------------


class ShallowComparison(Rewriting):
    """A container under the same key is taken to be the same container."""

    def before(self, record: Record | None, change: Change) -> Change:
        if not isinstance(change, Update) or record is None:
            return change
        stored = codec.decode_data(record.data) if record.data[:1] == b"{" else {}
        put = {
            key: value
            for key, value in change.put.items()
            if not (isinstance(stored.get(key), (dict, list)) and value[:1] in (b"{", b"["))
        }
        return altered(change, put=put)


class RereadNumbers(Rewriting):
    """What ``jsonb`` does to numbers: 1.0 and 1e23 come back as integers."""

    def before(self, record: Record | None, change: Change) -> Change:
        with suppress(SessionDataError):
            if isinstance(change, Create):
                data = codec.encode_data(_whole(codec.decode_data(change.record.data)))
                return Create(replace(change.record, data=data))
            if isinstance(change, Update):
                put = {
                    key: codec.encode_value(key, _whole(codec.decode_value(value))) for key, value in change.put.items()
                }
                return altered(change, put=put)
        return change


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


class MergedObjects(Rewriting):
    """What ``JSON_MERGE_PATCH`` does: an object set over another is merged into it."""

    def before(self, record: Record | None, change: Change) -> Change:
        if not isinstance(change, Update) or record is None or record.data[:1] != b"{":
            return change
        with suppress(SessionDataError):
            stored = codec.decode_data(record.data)
            put = {}
            for key, value in change.put.items():
                new = codec.decode_value(value)
                old = stored.get(key)
                merged = {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new
                put[key] = codec.encode_value(key, merged)
            return altered(change, put=put)
        return change


class DottedKeys(Rewriting):
    """What a path does: the key ``a.b`` is written as ``b`` of ``a``."""

    def before(self, record: Record | None, change: Change) -> Change:
        if isinstance(change, Update):
            return altered(change, put={key.split(".")[0]: value for key, value in change.put.items()})
        return change


# -- law 5 ---------------------------------------------------------------------------------------------------


class KeptSalt(Showing):
    """Old secret and salt give the current secret, for as long as the session lives."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._salts: dict[Sid, bytes] = {}

    def shown(self, record: Record) -> Record:
        return replace(record, salt=record.salt or self._salts.get(record.sid))

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        for change in changes:
            if isinstance(change, Update) and change.rotate is not None:
                self._salts[change.sid] = change.rotate.salt
        return await super().apply(changes, events)


class KeptData(Showing):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._data: dict[Sid, bytes] = {}

    def shown(self, record: Record) -> Record:
        return replace(record, data=self._data.get(record.sid, record.data)) if record.ended_at else record

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        for record in await self.store.load([change.sid for change in changes if isinstance(change, End)]):
            if record is not None and record.ended_at is None:
                self._data[record.sid] = record.data
        return await super().apply(changes, events)


class UnguardedRotation(Rewriting):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._turn = asyncio.Lock()

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        async with self._turn:  # or the store's own guard would refuse what was looked at a moment too early
            return await super().apply(changes, events)

    def before(self, record: Record | None, change: Change) -> Change:
        if isinstance(change, Update) and change.rotate is not None and record is not None:
            return replace(change, rotate=replace(change.rotate, if_secret=record.secret_hash))
        return change


# -- law 8 ---------------------------------------------------------------------------------------------------


class TouchBumpsRev(Rewriting):
    """Every touch makes the guarded writers of the moment read again."""

    def before(self, record: Record | None, change: Change) -> Change:
        is_touch = isinstance(change, Update) and change.only_touches
        return altered(change, remove=frozenset({"no such key"})) if is_touch else change  # type: ignore[arg-type]


class OldRevision(StoreWrapper):
    """Answers with the revision before the write, so that the next guard fails."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        results = await super().apply(changes, events)
        return [Applied(max(1, one.rev - 1)) if isinstance(one, Applied) else one for one in results]


class FalseConflicts(StoreWrapper):
    """Every second guarded write conflicts with nobody."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._turn_of: dict[Sid, int] = {}

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        guarded = [change.sid for change in changes if isinstance(change, Update) and change.if_rev is not None]
        false: dict[Sid, ChangeResult] = {}
        for sid, record in zip(guarded, await self.store.load(guarded), strict=True):
            self._turn_of[sid] = self._turn_of.get(sid, 0) + 1
            if self._turn_of[sid] % 2 and record is not None:
                false[sid] = Conflict(record)
        true = iter(await super().apply([change for change in changes if change.sid not in false], events))
        return [false[change.sid] if change.sid in false else next(true) for change in changes]


class BusyRows(StoreWrapper):
    """Optimistic underneath: of two writers at once, one is told that there was a conflict, guarded or not."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._busy: set[Sid] = set()

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        sids = {change.sid for change in changes} - self._busy
        self._busy |= sids
        await asyncio.sleep(0)
        self._busy -= sids
        given = iter(await super().apply([change for change in changes if change.sid in sids], events))
        records = iter(await self.store.load([change.sid for change in changes if change.sid not in sids]))
        results: list[ChangeResult] = []
        for change in changes:
            if change.sid in sids:
                results.append(next(given))
            else:
                record = next(records)
                assert record is not None
                results.append(Conflict(record))
        return results
