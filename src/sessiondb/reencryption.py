"""Re-encryption of what is stored, in the background and on request, after a new key was put first."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.core.policy import SECOND, Caps
from sessiondb.core.token import Sid
from sessiondb.keyring import KeyRing
from sessiondb.stores.base import Query, Store
from sessiondb.stores.encrypting import EncryptingStore, Reencrypted
from sessiondb.timers import Timers

log = logging.getLogger("sessiondb")

EVERY = 60.0
PASS = 100
SHARE = 4  # times as long as a pass took, the background rests after it
TURN = 120 * SECOND
_NAME = "reencryption"

Answer = TypeVar("Answer")


class Walk(msgspec.Struct, frozen=True):
    """How far the workers have come, as the database remembers it. The times are microseconds of the store's clock.

    ``ring`` is what they walk for: the ids of the keys, and ``plain``. ``worker`` has the turn until ``until``.
    ``clean``: nothing was written and nothing left so far. ``over``: it has seen all.
    """

    ring: tuple[str, ...]
    began_at: int
    worker: str
    until: int
    after: str | None = None
    clean: bool = True
    over: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Walk).decode


@runtime_checkable
class ListsSids(Protocol):
    """A store that lists all its sessions in parts, where paging by sid would read the whole list for each page."""

    def all_sids(self) -> AsyncIterator[list[Sid]]:
        """Every sid, in no order; one may come twice."""
        ...


class Reencryption:
    """Walks the sessions of ``raw``, which ``store`` encrypts. ``timeout`` (seconds) is for one pass.

    In the background one worker at a time has the turn; whoever takes it up, after a crash too, goes on where the one
    before was. Were two to walk at once, the second would find nothing to do: each write is guarded by the revision.
    """

    def __init__(
        self,
        raw: Store,
        store: EncryptingStore,
        keys: KeyRing,
        *,
        caps: Callable[[], Caps],
        now: Callable[[], int],
        timeout: float,
    ) -> None:
        self._raw = raw
        self._store = store
        self._keys = keys
        self._caps = caps
        self._now = now
        self._timeout = timeout
        self._worker = secrets.token_hex(8)
        self._since: tuple[tuple[str, ...], int] | None = None
        self._done_for: tuple[str, ...] | None = None

    def schedule(self, timers: Timers) -> None:
        """Have ``timers`` do what is to be done in the background."""
        # Jitter: the workers of a fleet that was started at once do not ask in step.
        timers.every("reencrypt", lambda: EVERY * (0.5 + secrets.randbelow(1000) / 1000), self.in_background)
        refresh_every = self._keys.refresh_every
        if refresh_every is not None:
            timers.every("keys", lambda: refresh_every, self._refresh)

    async def _refresh(self) -> None:
        try:
            await self._keys.refresh()
        except (ConfigurationError, StoreUnavailable) as error:
            log.error("The encryption keys could not be read again; those that are here stay. %s", error)

    # -- walking ------------------------------------------------------------------------------------------

    async def one_pass(
        self, after: Sid | None = None, limit: int = PASS, *, sids: Sequence[Sid] | None = None
    ) -> Reencrypted:
        """Look at ``limit`` sessions, the newest first, from ``after`` on; or at ``sids``. Raises ``StoreError``."""
        # With those that have expired: until they are swept, they hold data too.
        query = Query(now=self._now(), caps=self._caps(), state="all", before=after, limit=limit, sids=sids)
        return await self._in_time(self._store.reencrypt(query))

    async def walk(self, after: Sid | None = None) -> AsyncIterator[Reencrypted]:
        """Passes over all sessions, or those from ``after`` on. Raises ``StoreError``."""
        if isinstance(self._raw, ListsSids):
            async for sids in self._raw.all_sids():
                for start in range(0, len(sids), PASS):
                    yield await self.one_pass(sids=sids[start : start + PASS])
            return
        while True:
            done = await self.one_pass(after)
            yield done
            if done.next is None:
                return
            after = done.next

    async def in_background(self) -> None:
        """Take the turn and walk, unless there is nothing to do. Raises ``StoreError``.

        There is something to do while the ring has other keys than the current one, until a walk that began after this
        worker had its keys has found nothing: so the last worker of a fleet that gets a new key sees to it that nothing
        is left of what the others have written with the old one.
        """
        ring = (*self._keys.ids, self._keys.plain)
        if ring == self._done_for or (len(self._keys.ids) < 2 and self._keys.plain == "refuse"):
            return
        if self._since is None or self._since[0] != ring:
            self._since = (ring, self._now())
        walk = await self._recall(ring)
        if walk is not None and walk.over and walk.clean and walk.began_at >= self._since[1]:
            self._done_for = ring
            return
        if walk is not None and not walk.over and walk.worker != self._worker and walk.until > self._now():
            return
        if walk is None or walk.over:
            walk = Walk(ring, self._now(), self._worker, 0)
        await self._go_on(walk)

    async def _go_on(self, walk: Walk) -> None:
        rewritten = unreadable = 0
        walk = await self._remember(walk)
        began = time.perf_counter()
        async for done in self.walk(None if walk.after is None else Sid(walk.after)):
            rewritten += done.rewritten
            unreadable += done.unreadable
            clean = walk.clean and not (done.rewritten or done.left)
            walk = msgspec.structs.replace(walk, after=done.next, clean=clean)
            if walk.until - self._now() < TURN // 2:
                walk = await self._remember(walk)
            # The requests come first.
            await asyncio.sleep(max(0.05, SHARE * (time.perf_counter() - began)))
            began = time.perf_counter()
        await self._remember(msgspec.structs.replace(walk, over=True))
        if rewritten:
            log.info("Re-encryption: %d sessions were written with the key %s.", rewritten, walk.ring[0])
        if unreadable:
            log.warning("Re-encryption: %d sessions cannot be decrypted with the keys of the ring.", unreadable)

    async def _recall(self, ring: tuple[str, ...]) -> Walk | None:
        text = await self._in_time(self._raw.recall(_NAME))
        if text is None:
            return None
        try:
            walk = _decode(text.encode())
        except (msgspec.MsgspecError, UnicodeError):
            return None
        return walk if walk.ring == ring else None

    async def _remember(self, walk: Walk) -> Walk:
        walk = msgspec.structs.replace(walk, worker=self._worker, until=self._now() + TURN)
        await self._in_time(self._raw.remember(_NAME, _encode(walk).decode()))
        return walk

    async def _in_time(self, call: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                return await call
        except TimeoutError as error:
            raise StoreUnavailable(
                f"{self._raw.name}: the database did not answer within {self._timeout:g} s while sessions were "
                "re-encrypted.",
                outcome="unknown",
            ) from error
