"""A memory store whose calls can be watched, held back and made to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sessiondb.core import token
from sessiondb.core.change import Change, Create, End, Rotate, Touch, Update, new_change_id
from sessiondb.core.events import Event
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Batching, ChangeResult
from sessiondb.stores.memory import MemoryStore

NOW = 1_800_000_000 * SECOND
DAY = 86_400 * SECOND

Hook = Callable[[], Awaitable[None]]


class Gate:
    """Open, until it is shut."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def __call__(self) -> None:
        await self._open.wait()


class HeldStore(MemoryStore):
    """Checks on every call what no caller may do: a sid twice, or in two calls of ``apply`` at once.

    ``question`` is passed before the store does its work and ``reply`` after it, for loads and writes each.
    """

    def __init__(self, *, loads: int = 128, changes: int = 32, in_flight: int = 4) -> None:
        super().__init__(clock=lambda: NOW)
        self.batching = Batching(loads, changes, in_flight)
        self.loads: list[list[Sid]] = []
        self.applies: list[list[Change]] = []
        self.written: list[Event] = []
        self.load_question, self.load_reply = Gate(), Gate()
        self.apply_question, self.apply_reply = Gate(), Gate()
        self.on_load: Callable[[list[Record | None]], list[Record | None]] = lambda records: records
        self.on_apply: Callable[[Sequence[Change], list[ChangeResult]], list[ChangeResult]] = lambda _, results: results
        self.most_at_once = {"load": 0, "apply": 0}
        self.cancelled = 0
        self._at_once = {"load": 0, "apply": 0}
        self._writing: set[Sid] = set()

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        assert len(set(sids)) == len(sids) <= self.batching.loads
        self.loads.append(list(sids))
        self._enter("load")
        try:
            await self.load_question()
            records = self.on_load(await super().load(sids))
            await self.load_reply()
            return records
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._at_once["load"] -= 1

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        sids = {change.sid for change in changes}
        assert len(sids) == len(changes)
        assert not sids & self._writing, "one session in two calls at once"
        self.applies.append(list(changes))
        self._writing |= sids
        self._enter("apply")
        try:
            await self.apply_question()
            results = self.on_apply(changes, await super().apply(changes, events))
            self.written.extend(events)
            await self.apply_reply()
            return results
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._writing -= sids
            self._at_once["apply"] -= 1

    def _enter(self, what: str) -> None:
        self._at_once[what] += 1
        self.most_at_once[what] = max(self.most_at_once[what], self._at_once[what])

    async def add(self, *records: Record) -> None:
        """Put ``records`` in, past all hooks."""
        await super().apply([Create(one) for one in records])

    async def peek(self, sid: Sid) -> Record | None:
        """The record, past all hooks."""
        return self._table.records.get(sid)


def record(**fields: object) -> Record:
    """A living session."""
    issued = token.mint(NOW)
    settings: dict[str, object] = {
        "sid": issued.sid,
        "series_hash": token.digest(issued.series),
        "secret_hash": token.digest(issued.secret),
        "created_at": NOW - DAY,
        "last_seen_at": NOW - DAY,
        "idle": 14 * DAY,
        "absolute": 30 * DAY,
        "check_at": NOW + 13 * DAY,
        "last_changes": new_change_id(),
    }
    return Record(**{**settings, **fields})  # type: ignore[arg-type]


def put(sid: Sid, *, if_rev: int | None = None, **values: int) -> Update:
    """A delta."""
    return Update(sid=sid, id=new_change_id(), put={k: str(v).encode() for k, v in values.items()}, if_rev=if_rev)


def touch(sid: Sid, at: int = NOW) -> Update:
    """A touch."""
    return Update(sid=sid, id=new_change_id(), touch=Touch(at))


def end(sid: Sid, *, if_rev: int | None = None) -> End:
    """A logout."""
    return End(sid, new_change_id(), EndReason.LOGOUT, NOW, NOW + DAY, if_rev)


def rotate(current: Record | Update, **values: int) -> Update:
    """A rotation of what ``current`` holds, or of what it rotated to."""
    secret = current.secret_hash if isinstance(current, Record) else current.rotate.secret_hash  # type: ignore[union-attr]
    return Update(
        sid=current.sid,
        id=new_change_id(),
        put={k: str(v).encode() for k, v in values.items()},
        rotate=Rotate(secret, token.digest(new_change_id()), token.new_salt(), NOW),
    )


async def turns(count: int = 10) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)
