"""Verifying the audit trail of a database: every stream, against its statements and checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import pairwise

import msgspec

from sessiondb.core.checkpoints import CHECKPOINT_STREAM, Checkpoint, Head, advance, is_signed, parse_checkpoint
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.sealing import GENESIS, stream_class
from sessiondb.core.signing import Verifier
from sessiondb.core.statements import Vouched
from sessiondb.core.statements import is_signed as is_statement_signed
from sessiondb.core.verifying import Problem, StreamVerifier
from sessiondb.stores.base import Store

PAGE = 1000
_STATEMENTS = (EventType.AUDIT_PURGED, EventType.USER_FORGOTTEN, EventType.AUDIT_AGED)


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What ``verify`` has found. The trail is sound if there are no ``problems``.

    ``checkpoint`` is the one that it was verified against (``None``: there was none, so events may be missing at the
    end of streams), ``behind`` how many events it covers, ``beyond`` how many have come since, which nobody has vouched
    for yet. ``erased`` counts the groups of personal fields that were erased. ``signed``: whether there were keys to
    verify signatures with.
    """

    events: int
    streams: int
    behind: int
    beyond: int
    erased: int
    checkpoint: Checkpoint | None
    exported: bool
    signed: bool
    problems: Sequence[Problem]

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


async def verify(
    store: Store,
    *,
    exported: Iterable[str | Checkpoint] = (),
    verifiers: Sequence[Verifier] = (),
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Verify the audit trail in ``store`` behind the last of the ``exported`` checkpoints (lines, or parsed).

    Without any it is verified behind the last checkpoint in the database, which proves nothing against somebody who can
    write there and sign. With ``verifiers`` every checkpoint and statement must be signed by one of them. ``progress``
    is told how many events have been verified. Raises ``ValueError`` for a line that is no checkpoint, ``StoreError``.
    """
    verifying = _Verifying(store, tuple(verifiers), progress)
    given = [parse_checkpoint(one) if isinstance(one, str) else one for one in exported]
    await verifying.read_checkpoints(given)
    await verifying.read_statements()
    await verifying.walk()
    return verifying.result(bool(given))


class _Verifying:
    def __init__(self, store: Store, verifiers: Sequence[Verifier], progress: Callable[[int], None] | None) -> None:
        self._store = store
        self._verifiers = verifiers
        self._progress = progress
        self._vouched = Vouched()
        self._heads: dict[str, Head] = {}
        self._checkpoint: Checkpoint | None = None
        self._problems: list[Problem] = []
        self._events = self._behind = self._erased = self._streams = 0

    # -- checkpoints --------------------------------------------------------------------------------------

    async def read_checkpoints(self, given: Sequence[Checkpoint]) -> None:
        """Find out where the streams stood at the last checkpoint that counts."""
        stored = await self._stored_checkpoints()
        trusted: dict[int, Checkpoint] = {}
        for one in given:
            if one.number in trusted and trusted[one.number] != one:
                self._checkpoint_problem(one.number, "it comes twice among those that were exported, and differs")
            trusted[one.number] = one
        last = max(trusted, default=None)
        for number, one in stored.items():
            if number in trusted and trusted[number].digest != one.digest:
                self._checkpoint_problem(number, "the one in the database is not the one that was exported")
        if last is not None and last not in stored:
            self._checkpoint_problem(last, "it was exported and is not in the database any more")
        known = {**stored, **trusted}
        if last is None:
            last = max(known, default=None)
        if last is None:
            return
        self._check_signatures([known[number] for number in sorted(known) if number <= last])
        self._replay(known, last)

    async def _stored_checkpoints(self) -> dict[int, Checkpoint]:
        found: dict[int, Checkpoint] = {}
        after = 0
        while events := await self._store.trail(CHECKPOINT_STREAM, after, PAGE):
            for event in events:
                after = event.seal.seq if event.seal is not None else after + 1
                try:
                    one = parse_checkpoint(str(event.details.get("checkpoint")))
                except ValueError:
                    self._checkpoint_problem(after, "it cannot be read in the database")
                    continue
                if one.number != after:
                    self._checkpoint_problem(after, f"in its place is number {one.number}")
                    continue
                found[after] = one
        return found

    def _check_signatures(self, checkpoints: Sequence[Checkpoint]) -> None:
        for one in checkpoints:
            if self._verifiers and not is_signed(one, self._verifiers):
                self._checkpoint_problem(one.number, "it is not signed by any of the keys that were given")
        for before, one in pairwise(checkpoints):
            if one.number == before.number + 1 and one.previous != before.digest:
                self._checkpoint_problem(before.number, "the checkpoint after it has another digest of it")
        if checkpoints and checkpoints[0].number == 1 and checkpoints[0].previous != GENESIS.hex():
            self._checkpoint_problem(1, "it is the first, and names one before it")

    def _replay(self, known: dict[int, Checkpoint], last: int) -> None:
        start = max((number for number, one in known.items() if one.full and number <= last), default=None)
        lacking = [number for number in range(start or 1, last + 1) if number not in known]
        if start is None or lacking:
            number = lacking[0] if lacking else 1
            self._checkpoint_problem(number, f"it is missing, and {last} says nothing of all streams without it")
            return
        heads: dict[str, Head] = {}
        try:
            for number in range(start, last + 1):
                heads = advance(heads, known[number])
        except ValueError as error:
            self._checkpoint_problem(number, str(error))
            return
        self._heads, self._checkpoint = heads, known[last]

    def _checkpoint_problem(self, number: int, text: str) -> None:
        self._problems.append(Problem("checkpoint", CHECKPOINT_STREAM, number, f"checkpoint {number}: {text}"))

    # -- streams ------------------------------------------------------------------------------------------

    async def read_statements(self) -> None:
        """What was taken out of the trail on purpose. Only administrators' streams have statements."""
        self._names = {stream.name for stream in await self._store.streams()}
        for stream in sorted(self._names):
            if stream_class(stream) is not EventClass.ADMIN:
                continue
            async for events in self._pages(stream):
                for event in events:
                    if event.type in _STATEMENTS:
                        self._take_statement(stream, event)

    def _take_statement(self, stream: str, event: Event) -> None:
        seq = event.seal.seq if event.seal is not None else 0
        if self._verifiers and not is_statement_signed(event, self._verifiers):
            text = "the statement is not signed by any of the keys that were given, so it counts for nothing"
            self._problems.append(Problem("statement", stream, seq, text))
            return
        try:
            self._vouched.add(event)
        except ValueError:
            self._problems.append(Problem("statement", stream, seq, "the statement cannot be read"))

    async def walk(self) -> None:
        """Verify every stream that is there, and every one that was."""
        for name in sorted(self._names | self._heads.keys()):
            head = self._heads.get(name)
            begins_after = self._vouched.purged.get(name, 0)
            if name not in self._names:
                if head is not None and begins_after < head.seq:
                    text = f"the whole stream is gone, which had events up to {head.seq} at the checkpoint"
                    self._problems.append(Problem("truncated", name, begins_after + 1, text))
                continue
            self._streams += 1
            verifier = StreamVerifier(name, self._vouched, head, begins_after)
            async for events in self._pages(name):
                verifier.feed(events)
                self._events += len(events)
                if self._progress is not None:
                    self._progress(self._events)
            self._problems += verifier.close()
            self._erased += verifier.erased
            if head is not None:
                self._behind += min(verifier.events, max(0, head.seq - (verifier.last - verifier.events)))

    async def _pages(self, stream: str) -> AsyncIterator[Sequence[Event]]:
        """The events of ``stream``: while one page is looked at, the database gets the next one ready."""
        following = asyncio.ensure_future(self._store.trail(stream, 0, PAGE))
        try:
            while events := await following:
                following = asyncio.ensure_future(self._store.trail(stream, _last_seq(events), PAGE))
                await asyncio.sleep(0)  # it is sent
                yield events
        finally:
            following.cancel()

    def result(self, exported: bool) -> Verification:
        """What was found."""
        return Verification(
            events=self._events,
            streams=self._streams,
            behind=self._behind,
            beyond=self._events - self._behind,
            erased=self._erased,
            checkpoint=self._checkpoint,
            exported=exported,
            signed=bool(self._verifiers),
            problems=self._problems,
        )


def _last_seq(events: Sequence[Event]) -> int:
    """Where the next page begins."""
    seal = events[-1].seal
    if seal is None:
        raise StoreError("The store has given an event without its place in the audit trail, which is a bug in it.")
    return seal.seq
