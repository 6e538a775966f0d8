"""Many lone touches in one call, where rows are locked: nobody waits for a row that somebody else holds, until all
others are done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sessiondb.core.change import Applied, Gone, Update
from sessiondb.core.errors import StoreError
from sessiondb.core.token import Sid
from sessiondb.stores.base import ChangeResult

Results = dict[Sid, ChangeResult]
Touching = Callable[[Sequence[Update]], Awaitable[Results]]

_SHORTLY = 0.02  # seconds in which whoever holds a row for a request's write is done with it


async def touch_all(changes: Sequence[Update], free: Touching, held: Touching) -> list[ChangeResult]:
    """The results of ``changes``. Raises ``StoreError`` only where the first call does.

    ``free`` touches those that nobody holds and answers for all but those that are held; ``held`` waits for these.
    """
    results = await free(changes)
    if len(results) < len(changes):
        left = [change for change in changes if change.sid not in results]
        await asyncio.sleep(_SHORTLY)
        try:
            results |= await free(left)
            left = [change for change in left if change.sid not in results]
            if left:
                results |= await held(left)
        except StoreError as error:
            for change in left:
                results.setdefault(change.sid, error)
    return [results[change.sid] for change in changes]


def settled(changes: Sequence[Update], touched: set[Sid], reasons: dict[Sid, str | None], living: set[Sid]) -> Results:
    """What is certain: who was touched, and who is gone, for one of ``reasons`` or without a trace.

    Those that are ``living`` and were not touched are held by somebody.
    """
    return {
        change.sid: Applied(0) if change.sid in touched else Gone(reasons.get(change.sid))
        for change in changes
        if change.sid in touched or change.sid not in living
    }
