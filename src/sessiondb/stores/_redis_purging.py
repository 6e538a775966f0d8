"""Deleting events: up to a number of their streams, or the oldest of all where there are more than there may be."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event
from sessiondb.stores import _redis_erasing_scripts as scripts
from sessiondb.stores._redis_connection import Argument
from sessiondb.stores._redis_events import Indexed, fetch, lists_of, seal_of, to_event
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_nodes import Keyed, call, plain
from sessiondb.stores._redis_trail_scripts import BLOCK, RANGE
from sessiondb.stores._steps import undecided

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

log = logging.getLogger("sessiondb")

AT_ONCE = 256  # events of one script, which nobody else's command interrupts
_TELL_EVERY = 60.0


class Bound:
    """The most events that there may be, so that they never fill the memory. Above it the oldest are dropped, and it
    is told.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.dropped = 0
        self._is_busy = False
        self._told_at = -_TELL_EVERY

    async def keep(self, store: RedisStore, answer: Sequence[Any]) -> None:
        """After an ``answer`` of ``SEALED``. Raises nothing: the events have been written."""
        if plain(answer)[2] <= self.most or self._is_busy:
            return
        self._is_busy = True
        try:
            dropped = await self._drop_oldest(store)
        except StoreError as error:
            log.warning("redis: the audit trail is above max_events=%d, and could not be cut. %s", self.most, error)
            return
        finally:
            self._is_busy = False
        self.dropped += dropped
        now = time.monotonic()
        if dropped and now >= self._told_at + _TELL_EVERY:
            self._told_at = now
            log.error(
                "redis: the audit trail has reached max_events=%d: its oldest events were dropped, %d by this process "
                "so far, and verifying will miss them. Keep events for a shorter time, or raise ?max_events=.",
                self.most,
                self.dropped,
            )

    async def _drop_oldest(self, store: RedisStore) -> int:
        """Delete whole blocks of the oldest events, until there are no more than there may be; how many events."""
        dropped, before = 0, -1
        state, blocks_key = store.keys.trail_state, store.keys.blocks
        while True:
            # Others drop, too.
            count, blocks = await store.run(
                [(state, ("HGET", state, "count")), (blocks_key, ("ZRANGE", blocks_key, 0, 0))]
            )
            if int(count or 0) <= self.most or not blocks:
                return dropped
            block = int(blocks[0])
            if block == before:
                return dropped  # the count is wrong: see repair
            before = block
            key = store.keys.block(block)
            [values] = await store.run([(key, ("LRANGE", key, 0, -1))])
            by_stream: dict[str, list[tuple[int, Event]]] = {}
            for at, value in enumerate(values):
                if value:
                    event = to_event(value)
                    by_stream.setdefault(seal_of(event).stream, []).append((block * BLOCK + at, event))
            calls = [_deletion(store.keys, stream, own, for_room=True) for stream, own in by_stream.items()]
            # One that was emptied while the next event was to come there has stayed.
            calls.append(call(scripts.TIDY, [state, blocks_key, key], block))
            *answers, _ = await store.run(calls, "unknown")
            gone = sum(map(int, answers))
            dropped += gone
            if by_stream and not gone:
                return dropped  # somebody else has just done it


async def purge(store: RedisStore, through: Mapping[str, int]) -> int:
    """See ``Store.purge_events``."""
    purged = 0
    try:
        for stream, last in through.items():
            purged += await _purge_stream(store, stream, last)
    except StoreError as error:
        raise (undecided(error) if purged else error) from error.__cause__
    return purged


async def _purge_stream(store: RedisStore, stream: str, last: int) -> int:
    purged, after = 0, 0
    keys = [store.keys.streams, store.keys.stream(stream)]
    while True:
        [found] = await store.run([call(RANGE, keys, stream, after, AT_ONCE)])
        values = await fetch(store, list(map(int, found)))
        events = [(number, to_event(value)) for number, value in values.items()]
        doomed = [(number, event) for number, event in events if seal_of(event).seq <= last]
        if doomed:
            [gone] = await store.run([_deletion(store.keys, stream, doomed)], "unknown")
            purged += gone
            after = max(seal_of(event).seq for _, event in doomed)
        if len(found) < AT_ONCE or len(doomed) < len(events) or not doomed:
            return purged


def _deletion(keys: Keys, stream: str, doomed: Sequence[tuple[int, Event]], *, for_room: bool = False) -> Keyed:
    """Deletes events of one stream, which are given with their numbers."""
    blocks, names = Indexed(), Indexed()
    block_numbers: dict[int, None] = {}
    written: list[Argument] = []
    for number, event in doomed:
        block = number // BLOCK
        block_numbers[block] = None
        at = blocks.at(keys.block(block))
        written += (seal_of(event).seq, number, at, *names.three(lists_of(keys, event)))
    return call(
        scripts.DELETE,
        [keys.trail_state, keys.blocks, keys.streams, keys.stream(stream), *blocks.keys, *names.keys],
        stream,
        int(for_room),
        len(block_numbers),
        *block_numbers,
        *written,
    )
