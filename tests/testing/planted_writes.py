"""Stores that write wrongly: laws 1, 2, 3, 5 and 8."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from sessiondb.core import codec
from sessiondb.core.change import Applied, Change, Conflict, Create, End, Update
from sessiondb.core.errors import SessionDataError
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import (
    ChangeResult,
)
from sessiondb.stores.memory import MemoryStore


class Rewriting(MemoryStore):
    """Changes the record that a change is applied to, or what is written: where most bugs sit."""

    def before(self, record: Record | None, change: Change) -> Change:
        return change

    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        return written

    def _apply(self, change: Change, now: int) -> ChangeResult:
        record = self._table.records.get(change.sid)
        result = super()._apply(self.before(record, change), now)
        written = self._table.records.get(change.sid)
        if written is not None and written is not record:
            self._table.put(self.after(record, written, change))
        return result


# -- law 1 ---------------------------------------------------------------------------------------------------


class UpsertingUpdate(MemoryStore):
    def _apply(self, change: Change, now: int) -> ChangeResult:
        if isinstance(change, Update) and change.sid not in self._table.records:
            blank = {"series_hash": b"", "secret_hash": b"", "idle": 10**12, "absolute": 10**12}
            times = {"created_at": now, "last_seen_at": now, "check_at": now + 10**12}
            self._table.put(Record(sid=change.sid, **blank, **times))  # type: ignore[arg-type]
        return super()._apply(change, now)


class RevivingTouch(MemoryStore):
    def _apply(self, change: Change, now: int) -> ChangeResult:
        record = self._table.records.get(change.sid)
        if isinstance(change, Update) and change.touch is not None and record is not None and record.ended_at:
            self._table.put(replace(record, ended_at=None, end_reason=None))
        return super()._apply(change, now)


class OverwritingCreate(MemoryStore):
    def _apply(self, change: Change, now: int) -> ChangeResult:
        if isinstance(change, Create) and change.sid in self._table.records:
            self._table.put(change.record)
            return Applied(change.record.rev)
        return super()._apply(change, now)


# -- law 2 ---------------------------------------------------------------------------------------------------


class TrustsTheHint(Rewriting):
    """Writes the data that a change was expected to make, whatever has been written since."""

    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        if isinstance(change, Update) and change.seen is not None:
            return replace(written, data=change.whole)
        return written


class WholeDictionary(MemoryStore):
    """Reads, waits, and writes everything back: the classic lost update."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        seen = await self.load([change.sid for change in changes])
        await asyncio.sleep(0)
        whole: list[Change] = []
        for change, record in zip(changes, seen, strict=True):
            if isinstance(change, Update) and record is not None and (change.put or change.remove):
                data = codec.split(codec.merge(record.data, change.put, change.remove))
                now = self._table.records[change.sid].data
                lost = frozenset(codec.split(now)) - data.keys()
                whole.append(replace(change, put={k: bytes(v) for k, v in data.items()}, remove=lost))
            else:
                whole.append(change)
        return await super().apply(whole, events)


class LostGuard(Rewriting):
    def before(self, record: Record | None, change: Change) -> Change:
        return replace(change, if_rev=None) if isinstance(change, Update) else change


class AppliedTwice(Rewriting):
    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        return replace(written, last_changes=b"")


class ForgottenOnClose(MemoryStore):
    async def close(self) -> None:
        await super().close()
        self._table.__init__()  # type: ignore[misc]


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
        return replace(change, put=put)


class RereadNumbers(Rewriting):
    """What ``jsonb`` does to numbers: 1.0 and 1e23 come back as integers."""

    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        try:
            return replace(written, data=codec.encode_data(_whole(codec.decode_data(written.data))))
        except SessionDataError:
            return written


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
            return replace(change, put=put)
        return change


class DottedKeys(Rewriting):
    """What a path does: the key ``a.b`` is written as ``b`` of ``a``."""

    def before(self, record: Record | None, change: Change) -> Change:
        if isinstance(change, Update):
            return replace(change, put={key.split(".")[0]: value for key, value in change.put.items()})
        return change


# -- law 5 ---------------------------------------------------------------------------------------------------


class KeptSalt(Rewriting):
    """Old secret and salt give the current secret, for as long as the session lives."""

    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        confirms = isinstance(change, Update) and change.confirm is not None and change.rotate is None
        return replace(written, salt=record.salt) if confirms and record is not None else written


class KeptData(Rewriting):
    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        return replace(written, data=record.data) if isinstance(change, End) and record is not None else written


class UnguardedRotation(Rewriting):
    def before(self, record: Record | None, change: Change) -> Change:
        if isinstance(change, Update) and change.rotate is not None and record is not None:
            return replace(change, rotate=replace(change.rotate, if_secret=record.secret_hash))
        return change


# -- law 8 ---------------------------------------------------------------------------------------------------


class TouchBumpsRev(Rewriting):
    """Every touch makes the guarded writers of the moment read again."""

    def after(self, record: Record | None, written: Record, change: Change) -> Record:
        is_touch = isinstance(change, Update) and change.only_touches
        return replace(written, rev=written.rev + 1) if is_touch else written


class OldRevision(MemoryStore):
    """Answers with the revision before the write, so that the next guard fails."""

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        results = await super().apply(changes, events)
        return [Applied(max(1, one.rev - 1)) if isinstance(one, Applied) else one for one in results]


class FalseConflicts(MemoryStore):
    """Every second guarded write conflicts with nobody."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._turn_of: dict[Sid, int] = {}

    def _apply(self, change: Change, now: int) -> ChangeResult:
        record = self._table.records.get(change.sid)
        if isinstance(change, Update) and change.if_rev is not None and record is not None:
            self._turn_of[change.sid] = self._turn_of.get(change.sid, 0) + 1
            if self._turn_of[change.sid] % 2:
                return Conflict(record)
        return super()._apply(change, now)


class BusyRows(MemoryStore):
    """Optimistic underneath: of two writers at once, one is told that there was a conflict, guarded or not."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._busy: set[Sid] = set()

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        sids = {change.sid for change in changes} - self._busy
        self._busy |= sids
        await asyncio.sleep(0)
        self._busy -= sids
        results = await super().apply([change for change in changes if change.sid in sids], events)
        given = iter(results)
        return [next(given) if change.sid in sids else Conflict(self._table.records[change.sid]) for change in changes]
