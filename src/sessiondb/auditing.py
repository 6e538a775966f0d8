"""``Audit``: what a ``SessionDB`` does about its audit trail, and the work of an event loop on it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from sessiondb.calling import call
from sessiondb.core.calls import takes
from sessiondb.core.checkpoints import (
    CHECKPOINT_STREAM,
    FULL_EVERY,
    Checkpoint,
    Head,
    advance,
    make_checkpoint,
    parse_checkpoint,
)
from sessiondb.core.errors import ConfigurationError, StoreError
from sessiondb.core.events import Event, EventClass, EventType
from sessiondb.core.policy import SECOND
from sessiondb.core.sealing import GENESIS, digest, seal
from sessiondb.core.signing import Signer
from sessiondb.sinks import Sink
from sessiondb.timers import Timers

if TYPE_CHECKING:
    from sessiondb.runtime import Runtime
    from sessiondb.stores.base import Store

log = logging.getLogger("sessiondb")

Export = Callable[[str], "Awaitable[None] | None"]

_DEFAULT_KEEP: Mapping[EventClass, timedelta | None] = {
    EventClass.LOGIN: timedelta(days=400),
    EventClass.SESSION: timedelta(days=90),
    EventClass.ADMIN: None,
}
EXPORT_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Settings for ``SessionDB(audit=...)``.

    * ``required`` (``False``): a change whose event cannot be written is not made. Otherwise such events are queued,
      bounded and counted. ``audit="required"`` is short for it.
    * ``signer`` (none): an ``Ed25519Signer`` or ``HmacSigner`` for checkpoints and statements. Without one, whoever can
      write to the database can purge and erase without being found out.
    * ``exports`` (none): functions, ``async`` or not, that are given each checkpoint as a line of JSON, and keep it
      where the database's users cannot write: ``append_to("/var/lib/audit/checkpoints.jsonl")``, ``log_checkpoint``.
    * ``sinks`` (none): functions, ``async`` or not, that are given the events once they are written: ``log_events``,
      ``Webhook(url=..., secret=...)``, one of yours.
    * ``checkpoint_every`` (an hour): how often there is one, if there is a ``signer`` or one of the ``exports``;
      ``None``: only ``db.checkpoint()`` makes any.
    * ``keep`` (logins 400 days, sessions 90 days, what administrators do for ever): how long events of each class are
      kept, as ``timedelta``; ``None``: for ever.
    """

    required: bool = False
    signer: Signer | None = field(default=None, repr=False)
    exports: Sequence[Export] = ()
    sinks: Sequence[Sink] = ()
    checkpoint_every: timedelta | float | None = timedelta(hours=1)
    keep: Mapping[str, timedelta | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.required, bool):
            raise ConfigurationError(f"Audit: required is {self.required!r:.100}; use True or False.")
        if self.signer is not None and not isinstance(self.signer, Signer):
            raise ConfigurationError(
                f"Audit: signer is a {type(self.signer).__name__}; use Ed25519Signer(key) or HmacSigner(key)."
            )
        for name, given, what in (("exports", self.exports, "line of text"), ("sinks", self.sinks, "list of events")):
            if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
                raise ConfigurationError(f"Audit: {name} is a {type(given).__name__}; use a list of functions.")
            for one in given:
                if not callable(one) or not takes(one, 1):
                    raise ConfigurationError(f"Audit: {one!r:.100} in {name} cannot be called with one {what}.")
        every = self.checkpoint_seconds
        if every is not None and not 1 <= every <= 30 * 86_400:
            raise ConfigurationError(
                f"Audit: checkpoint_every is {self.checkpoint_every!r}; use a second to 30 days, or None."
            )
        for name, kept in self.keep.items():
            if name not in list(EventClass):
                known = ", ".join(EventClass)
                raise ConfigurationError(f"Audit: keep has {name!r:.100}, which is no class of events; use {known}.")
            if kept is not None and not (isinstance(kept, timedelta) and kept >= timedelta(days=1)):
                raise ConfigurationError(
                    f"Audit: keep[{name!r}] is {kept!r}; use a timedelta of a day or more, or None."
                )

    @property
    def checkpoint_seconds(self) -> float | None:
        """``checkpoint_every`` in seconds."""
        every = self.checkpoint_every
        return every.total_seconds() if isinstance(every, timedelta) else every

    def kept(self, class_: EventClass) -> int | None:
        """How long events of ``class_`` are kept, in microseconds."""
        kept = self.keep[class_] if class_ in self.keep else _DEFAULT_KEEP[class_]
        return None if kept is None else kept // timedelta(microseconds=1)


class Auditing:
    """The part that one event loop takes in looking after the trail. Any worker may do any of it at any time."""

    def __init__(self, runtime: Runtime, audit: Audit) -> None:
        self.audit = audit
        self._runtime = runtime
        self._last: Event | None = None
        self._checkpoint: Checkpoint | None = None
        self._heads: Mapping[str, Head] = {}

    def schedule(self, timers: Timers) -> None:
        """Make checkpoints now and then."""
        every = self.audit.checkpoint_seconds
        if every is not None and (self.audit.signer is not None or self.audit.exports):
            # Jitter keeps the workers apart, and who comes first makes it for all.
            timers.every("checkpoint", lambda: every * (0.9 + secrets.randbelow(200) / 1000), self._checkpoint_in_time)

    async def checkpoint(self) -> Checkpoint | None:
        """The next checkpoint, made and exported; ``None`` if nothing has moved. Raises ``StoreError``."""
        runtime = self._runtime
        await runtime.background.flush()
        async with runtime.using_store() as store:
            made = await self._make(store)
            await self._export(store)
        return made

    async def _checkpoint_in_time(self) -> None:
        runtime = self._runtime
        every = self.audit.checkpoint_seconds or 0
        async with runtime.using_store() as store:
            await self._catch_up(store)
            last = self._checkpoint
            if last is None or runtime.now() - last.at >= every * SECOND / 2:
                await self._make(store)
            await self._export(store)

    async def _make(self, store: Store) -> Checkpoint | None:
        while True:
            await self._catch_up(store)
            now = {
                stream.name: Head(stream.name, stream.last.seal.seq, digest(stream.last, stream.last.seal).hex())
                for stream in await store.streams()
                if stream.name != CHECKPOINT_STREAM and stream.last.seal is not None
            }
            made = make_checkpoint(self._checkpoint, self._heads, now, self._runtime.now(), self.audit.signer)
            if made is None:
                return None
            event = Event(type=EventType.AUDIT_CHECKPOINT, at=made.at, details={"checkpoint": made.line})
            last = self._last
            previous = GENESIS if last is None or last.seal is None else digest(last, last.seal)
            sealed, _ = seal(event, CHECKPOINT_STREAM, made.number, previous)
            await store.append([sealed])
            await self._catch_up(store)
            if self._checkpoint is not None and self._checkpoint.number >= made.number:
                # Somebody else may have been first, and has said the same or less: then there is another to make.
                if self._checkpoint == made:
                    return made
            else:
                raise StoreError("A checkpoint of the audit trail was written, and is not in the database.")

    async def _catch_up(self, store: Store) -> None:
        """Read the checkpoints that others have made."""
        if self._checkpoint is None:
            start = await self._last_full(store)
        else:
            start = self._checkpoint.number
        while events := await store.trail(CHECKPOINT_STREAM, start, FULL_EVERY):
            for event in events:
                try:
                    found = parse_checkpoint(str(event.details.get("checkpoint")))
                    heads = advance(self._heads, found)
                except ValueError as error:
                    raise StoreError(
                        f"Checkpoint {start + 1} of the audit trail in the database cannot be continued: {error}. "
                        "Run sessiondb audit verify."
                    ) from None
                self._last, self._checkpoint, self._heads = event, found, heads
                start = found.number

    async def _last_full(self, store: Store) -> int:
        """The number before that of the last full checkpoint."""
        last = next((one.last for one in await store.streams() if one.name == CHECKPOINT_STREAM), None)
        if last is None or last.seal is None:
            return 0
        return (last.seal.seq - 1) // FULL_EVERY * FULL_EVERY

    # -- exporting ----------------------------------------------------------------------------------------

    async def _export(self, store: Store) -> None:
        """Give the ``exports`` what they have not had. What fails is tried again with the next checkpoint."""
        last = self._checkpoint
        if last is None or not self.audit.exports:
            return
        done = int(await store.recall("audit_exported") or 0)
        for event in await store.trail(CHECKPOINT_STREAM, done, last.number - done) if last.number > done else ():
            for export in self.audit.exports:
                try:
                    async with asyncio.timeout(EXPORT_TIMEOUT):
                        await call(export, str(event.details["checkpoint"]))
                except Exception:
                    self._runtime.counters["failed_exports"] += 1
                    log.exception(
                        "%s failed for a checkpoint of the audit trail; it is tried again.",
                        getattr(export, "__qualname__", repr(export)),
                    )
                    return
            await store.remember("audit_exported", str(event.seal.seq if event.seal is not None else done))


def append_to(path: str) -> Export:
    """An export that appends each checkpoint to the file ``path``, and has it on the disk before it returns."""

    def append(line: str) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    return append


def log_checkpoint(line: str) -> None:
    """An export that logs each checkpoint (logger ``sessiondb.audit``, level INFO)."""
    logging.getLogger("sessiondb.audit").info("checkpoint %s", line)
