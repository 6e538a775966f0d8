"""Re-encryption of what is stored, in the background and on request, after a new key was put first."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from sessiondb.core.errors import ConfigurationError, StoreUnavailable
from sessiondb.core.policy import Caps
from sessiondb.core.token import Sid
from sessiondb.keyring import KeyRing
from sessiondb.stores.base import Query, Store
from sessiondb.stores.encrypting import EncryptingStore, Reencrypted

log = logging.getLogger("sessiondb")

EVERY = 60.0
PASS = 100
SHARE = 4  # times as long as a pass took, the background rests after it


@runtime_checkable
class ListsSids(Protocol):
    """A store that lists all its sessions in parts, where paging by sid would read the whole list for each page."""

    def all_sids(self) -> AsyncIterator[list[Sid]]:
        """Every sid, in no order; one may come twice."""
        ...


class Reencryption:
    """Walks the sessions of ``raw``, which ``store`` encrypts. ``timeout`` (seconds) is for one pass."""

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
        self._done_for: object = None

    def schedule(self, later: Callable[[str, float, Callable[[], Awaitable[object]]], None]) -> None:
        """Have ``later(name, every, work)`` do what is to be done in the background."""
        # Jitter: the workers of a fleet that was started at once do not walk in step.
        later("reencrypt", EVERY * (0.5 + secrets.randbelow(1000) / 1000), self.in_background)
        if self._keys.refresh_every is not None:
            later("keys", self._keys.refresh_every, self._refresh)

    async def _refresh(self) -> None:
        try:
            await self._keys.refresh()
        except (ConfigurationError, StoreUnavailable) as error:
            log.error("The encryption keys could not be read again; those that are here stay. %s", error)

    async def one_pass(
        self, after: Sid | None = None, limit: int = PASS, *, sids: Sequence[Sid] | None = None
    ) -> Reencrypted:
        """Look at ``limit`` sessions, the newest first, from ``after`` on; or at ``sids``. Raises ``StoreError``."""
        # With those that have expired: until they are swept, they hold data too.
        query = Query(now=self._now(), caps=self._caps(), state="all", before=after, limit=limit, sids=sids)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._store.reencrypt(query)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"{self._raw.name}: the database did not answer within {self._timeout:g} s while sessions were "
                "re-encrypted.",
                outcome="unknown",
            ) from error

    async def walk(self) -> AsyncIterator[Reencrypted]:
        """Passes over all sessions. Whoever is killed in the middle begins again, and writes nothing twice."""
        if isinstance(self._raw, ListsSids):
            async for sids in self._raw.all_sids():
                for start in range(0, len(sids), PASS):
                    yield await self.one_pass(sids=sids[start : start + PASS])
            return
        after: Sid | None = None
        while True:
            done = await self.one_pass(after)
            yield done
            if done.next is None:
                return
            after = done.next

    async def in_background(self) -> None:
        """Walk, unless a walk with these keys has found nothing to do. Raises ``StoreError``."""
        ring = (self._keys.ids, self._keys.plain)
        if ring == self._done_for or (len(self._keys.ids) < 2 and self._keys.plain == "refuse"):
            return
        rewritten = left = unreadable = 0
        began = time.perf_counter()
        async for done in self.walk():
            rewritten += done.rewritten
            left += done.left
            unreadable += done.unreadable
            # The requests come first.
            await asyncio.sleep(max(0.05, SHARE * (time.perf_counter() - began)))
            began = time.perf_counter()
        if rewritten:
            log.info("Re-encryption: %d sessions were written with the key %s.", rewritten, self._keys.ids[0])
        if unreadable:
            log.warning("Re-encryption: %d sessions cannot be decrypted with the keys %s.", unreadable, self._keys.ids)
        if not (rewritten or left):
            # The walk before this one has left nothing, and nobody has written with another key since.
            self._done_for = ring
