"""Mending the audit trail after a loss of data: where its streams begin, and which blocks there are.

What was lost itself stays lost, and is found by verifying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessiondb.stores import _redis_erasing_scripts as scripts
from sessiondb.stores._redis_events import fetch, seal_of, to_event
from sessiondb.stores._redis_nodes import call

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

_SIZES = 100


async def mend(store: RedisStore) -> None:
    """Part of ``RedisStore.repair``. May run while events are written; only their count is about right then."""
    await _mend_blocks(store)
    [known] = await store.run([(store.keys.streams, ("HKEYS", store.keys.streams))])
    names = {name.decode() for name in known}
    prefix = store.keys.stream_prefix
    async for keys in store.all_keys(prefix + b"*"):
        names |= {key[len(prefix) :].decode() for key in keys}
    for name in sorted(names):
        await _mend_stream(store, name)


async def _mend_blocks(store: RedisStore) -> None:
    keys = store.keys
    [before] = await store.run([(keys.trail_state, ("HGET", keys.trail_state, "count"))])
    blocks: set[int] = set()
    async for found in store.all_keys(keys.block_prefix + b"*"):
        blocks |= {int(key[len(keys.block_prefix) :]) for key in found}
    counted = 0
    for start in range(0, len(blocks), _SIZES):
        part = [keys.block(block) for block in sorted(blocks)[start : start + _SIZES]]
        for values in await store.run([(key, ("LRANGE", key, 0, -1)) for key in part]):
            counted += sum(map(bool, values))
    if blocks or before:
        state = [keys.trail_state, keys.blocks]
        await store.run([call(scripts.MEND_BLOCKS, state, counted, int(before or 0), *sorted(blocks))], "unknown")


async def _mend_stream(store: RedisStore, name: str) -> None:
    keys = store.keys
    listed = keys.stream(name)
    [numbers] = await store.run([(listed, ("LRANGE", listed, 0, -1))])
    base = ""
    places = {int(number): at for at, number in enumerate(numbers) if number}
    for number, value in (await fetch(store, list(places)[:_SIZES])).items():
        seal = seal_of(to_event(value))
        if seal.stream == name:
            base = str(seal.seq - places[number])
            break
    state = [keys.trail_state, keys.blocks, keys.streams, listed]
    await store.run([call(scripts.MEND_STREAM, state, name, base)], "unknown")
