"""After a lifetime was lowered: a walk over all sessions, so that their ends are written in time.

Requests need no walk: a session that is too old for the policy opens nothing from the first moment on. But the sweeper
looks at a session when ``check_at`` says so, and that was set under the longer life. The database remembers for which
lifetimes it is right; whoever has lower ones walks, in small steps, one worker at a time, and any other goes on where
that one stopped. An hour later all is walked once more: workers that still ran under the old policy may have made or
moved sessions meanwhile. Raised lifetimes need no walk, and are only noted.
"""

from __future__ import annotations

import msgspec

from sessiondb.core.policy import SECOND, Caps
from sessiondb.stores.base import Store

TURN = 120 * SECOND
AGAIN_AFTER = 3600 * SECOND
_NAME = "lowering"
_MOST_TEXT = 16_000


class Walk(msgspec.Struct, frozen=True):
    """What the database remembers. The times are microseconds of its clock.

    ``caps`` are the lifetimes that the workers had last, ``floor`` those that are walked for. ``worker`` has the turn
    until ``until``. ``again_at``: when to walk once more, after the end of this one.
    """

    caps: Caps
    floor: Caps
    twice: bool = False
    after: str | None = None
    over: bool = False
    again_at: int | None = None
    worker: str = ""
    until: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Walk).decode


class Lowering:
    """The part of one worker. What it knows to be settled costs no further call of the store."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._settled: Caps | None = None
        self._again_at: int | None = None
        self._untold: Walk | None = None

    async def step(self, store: Store, caps: Caps, now: int) -> bool:
        """One step, if there is one to do and no other worker is at it; whether there is more.

        ``caps`` are the lifetimes that this worker has. Raises ``StoreError``; the next step repeats what that undid.
        """
        walk = await self.note(store, caps, now)
        if walk is None or (walk.worker != self._worker and walk.until > now):
            return False
        after = await store.lower_checks(walk.floor, walk.after, store.batching.sweep)
        over = after is None
        walk = msgspec.structs.replace(
            walk,
            after=after,
            over=over,
            again_at=now + AGAIN_AFTER if over and walk.twice else None,
            worker=self._worker,
            until=0 if over else now + TURN,
        )
        await self._remember(store, walk)
        if over and walk.caps == caps:
            self._settle(walk)
        return not over

    async def note(self, store: Store, caps: Caps, now: int) -> Walk | None:
        """Have the database remember ``caps``; the walk that is to be done, or ``None``."""
        if caps == self._settled and (self._again_at is None or now < self._again_at):
            return None
        walk = self._untold or await recalled(store)
        if walk is None:
            return await self._remember(store, Walk(caps, caps))
        if caps.is_lower_than(walk.caps):
            return await self._remember(store, Walk(caps, caps if walk.over else caps.lesser(walk.floor), twice=True))
        if not walk.over:
            return walk
        if walk.again_at is not None and now >= walk.again_at:
            return await self._remember(store, Walk(walk.caps, walk.floor))
        if caps != walk.caps:
            walk = await self._remember(store, msgspec.structs.replace(walk, caps=caps))
        self._settle(walk)
        return None

    def _settle(self, walk: Walk) -> None:
        self._settled, self._again_at = walk.caps, walk.again_at

    async def _remember(self, store: Store, walk: Walk) -> Walk:
        text = _encode(walk).decode()
        if len(text) <= _MOST_TEXT:
            await store.remember(_NAME, text)
        else:
            # Scores of policies: then each worker walks by itself.
            self._untold = walk
        return walk


async def recalled(store: Store) -> Walk | None:
    """What the database remembers; ``None`` if nothing, or nothing that this version understands."""
    text = await store.recall(_NAME)
    try:
        return None if text is None else _decode(text)
    except msgspec.MsgspecError:
        return None
