"""The audit trail: streams of sealed events, and their listing in the order in which they came.

An event is one value in a list of some dozens, where it is overwritten when it is blanked. It is found by its place (a
list of numbers for each stream), by what it is about (some hundred lists of numbers, each of many users and sessions),
and from the newest on. In a cluster all of it is on one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event
from sessiondb.stores import _redis_trail_scripts as scripts
from sessiondb.stores._redis_connection import Argument
from sessiondb.stores._redis_events import fetch, is_wanted, packed, sealed, to_event
from sessiondb.stores._redis_nodes import call, plain
from sessiondb.stores._steps import undecided
from sessiondb.stores.base import EventPage, EventQuery, Position, Stream, place_taken

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

AT_ONCE = 500  # events of one script, which nobody else's command interrupts
_BLOCKS = 32
_NAMED = 512


# -- writing ------------------------------------------------------------------------------------------------


async def append(store: RedisStore, events: Sequence[Event]) -> None:
    """See ``Store.append``."""
    for start in range(0, len(events), AT_ONCE):
        keys, arguments = sealed(store.keys, events[start : start + AT_ONCE], strict=False)
        try:
            [answer] = await store.run([call(scripts.APPEND, keys, *arguments)], "unknown")
            problem = problem_of(answer)
            if problem is not None:
                raise problem
        except StoreError as error:
            raise (undecided(error) if start else error) from error.__cause__
        await store.bound.keep(store, answer)


def problem_of(answer: Sequence[Any]) -> StoreError | None:
    """Why events were not written, where ``SEALED`` has answered so."""
    answer = plain(answer)
    kind = answer[0]
    if kind == b"ok":
        return None
    if kind == b"taken":
        return StoreError(place_taken(Position(answer[1].decode(), int(answer[2]))))
    if kind == b"far":
        return StoreError(
            f"Event {int(answer[2])} of stream {answer[1].decode()} of the audit trail is more than "
            f"{scripts.MOST_AHEAD:,} places from the others of its stream, so it is none of ours."
        )
    return StoreError(
        "A part of the audit trail in Redis is missing, or on its way to another node of the cluster. If that goes on: "
        "sessiondb repair URL."
    )


# -- reading ------------------------------------------------------------------------------------------------


async def trail(store: RedisStore, stream: str, after: int, limit: int) -> list[Event]:
    """See ``Store.trail``."""
    keys = [store.keys.streams, store.keys.stream(stream)]
    [values] = await store.run([call(scripts.TRAIL, keys, stream, after, limit, store.keys.block_prefix)])
    if all(values):
        return list(map(to_event, values))
    # Something is missing, or on its way to another node: one after the other.
    [found] = await store.run([call(scripts.RANGE, keys, stream, after, limit)])
    numbers = list(map(int, found))
    by_number = await fetch(store, numbers)
    return [to_event(by_number[number]) for number in numbers if number in by_number]


async def streams(store: RedisStore) -> list[Stream]:
    """See ``Store.streams``."""
    [flat] = await store.run([(store.keys.streams, ("HGETALL", store.keys.streams))])
    first = {name.decode(): int(seq) for name, seq in zip(flat[::2], flat[1::2], strict=True)}
    lists = [store.keys.stream(name) for name in first]
    lasts = await store.run([(key, ("LINDEX", key, -1)) for key in lists])
    numbers = {name: int(last) for name, last in zip(first, lasts, strict=True) if last}
    values = await fetch(store, sorted(numbers.values()))
    return [
        Stream(name, first[name], to_event(values[number]))
        for name, number in sorted(numbers.items())
        if number in values
    ]


async def events(store: RedisStore, query: EventQuery) -> EventPage:
    """See ``Store.events``."""
    names = [name for name in (query.sid, query.actor, query.user_id) if name is not None]
    texts = [packed(text) for text in (*names, query.type) if text is not None]
    found: list[tuple[int, Event]] = []
    below = query.after
    while len(found) <= query.limit:
        if names:
            part, below = await _named(store, names[0], texts, below)
        else:
            part, below = await _newest(store, query, texts, below)
        found += ((number, event) for number, event in part if is_wanted(event, query))
        if below is None:
            break
    shown = found[: query.limit]
    return EventPage([event for _, event in shown], shown[-1][0] if len(found) > len(shown) > 0 else None)


_Part = tuple[list[tuple[int, Event]], int | None]
"""Events with their numbers, newest first, and below which number there may be more."""


async def _named(store: RedisStore, name: str, texts: Sequence[bytes], below: int | None) -> _Part:
    bound: Argument = "" if below is None else below
    [found] = await store.run([call(scripts.NAMED, [store.keys.names(name)], bound, _NAMED)])
    # Each once, whatever a call that was refused in the middle has left there.
    numbers = sorted(set(map(int, found)), reverse=True)
    values = await fetch(store, numbers, texts)
    part = [(number, to_event(values[number])) for number in numbers if number in values]
    return part, numbers[-1] if len(found) == _NAMED else None


async def _newest(store: RedisStore, query: EventQuery, texts: Sequence[bytes], below: int | None) -> _Part:
    is_plain = not texts and query.since is None and query.until is None
    count = min(_BLOCKS, query.limit // scripts.BLOCK + 2) if is_plain else _BLOCKS
    highest: Argument = "+inf" if below is None else (below - 1) // scripts.BLOCK
    [blocks] = await store.run(
        [(store.keys.blocks, ("ZREVRANGEBYSCORE", store.keys.blocks, highest, "-inf", "LIMIT", 0, count))]
    )
    if not blocks:
        return [], None
    most = query.limit + 1
    bounds = ["" if bound is None else bound for bound in (below, query.since, query.until)]
    keys = [store.keys.block(int(block)) for block in blocks]
    [flat] = await store.run([call(scripts.SCAN, keys, *bounds, most, len(texts), *texts, *blocks)])
    part = [(int(number), to_event(value)) for number, value in zip(flat[::2], flat[1::2], strict=True)]
    # Cut off in the middle, or at the end of the last block; the last blocks of all end it.
    if len(part) == most:
        return part, part[-1][0]
    return part, int(blocks[-1]) * scripts.BLOCK if len(blocks) == count else None
