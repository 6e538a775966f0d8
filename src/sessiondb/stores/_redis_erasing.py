"""Erasing persons: their fields in events, and all that is kept by their name."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from sessiondb.core.errors import StoreError
from sessiondb.core.sealing import Group, blanked
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_erasing_scripts as scripts
from sessiondb.stores import _redis_links as links
from sessiondb.stores import _redis_list_scripts as list_scripts
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores._redis_events import fetch, lists_of, to_event, to_value
from sessiondb.stores._redis_nodes import Keyed, call
from sessiondb.stores._redis_trail_scripts import BLOCK, PLACES
from sessiondb.stores._steps import undecided
from sessiondb.stores.base import Position

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

AT_ONCE = 256
_UNDER_WAY_MS = 60_000  # how old a sid is at most whose login may still be under way


# -- events -------------------------------------------------------------------------------------------------


async def blank(store: RedisStore, places: Sequence[Position], groups: Collection[Group]) -> int:
    """See ``Store.blank``."""
    unique = list(dict.fromkeys(places))
    done = 0
    try:
        for start in range(0, len(unique), AT_ONCE):
            left = await _numbers(store, unique[start : start + AT_ONCE])
            while left:
                values = await fetch(store, sorted(left))
                calls = [_blanking(store, number, value, groups) for number, value in values.items()]
                answers = await store.run(calls, "unknown")
                # Those that somebody else has overwritten meanwhile are read again.
                left = [number for number, answer in zip(values, answers, strict=True) if not answer]
                done += len(answers) - len(left)
    except StoreError as error:
        raise (undecided(error) if done else error) from error.__cause__
    return done


async def _numbers(store: RedisStore, places: Iterable[Position]) -> list[int]:
    by_stream: dict[str, list[int]] = {}
    for stream, seq in places:
        by_stream.setdefault(stream, []).append(seq)
    calls = [
        call(PLACES, [store.keys.streams, store.keys.stream(stream)], stream, *seqs)
        for stream, seqs in by_stream.items()
    ]
    return [int(number) for found in await store.run(calls) for number in found if number]


def _blanking(store: RedisStore, number: int, value: bytes, groups: Collection[Group]) -> Keyed:
    event = to_event(value)
    less = blanked(event, groups)
    kept = lists_of(store.keys, less)
    left = [key for key in lists_of(store.keys, event) if key not in kept]
    block, place = divmod(number, BLOCK)
    return call(scripts.REPLACE, [store.keys.block(block), *left], place, value, to_value(less), number)


# -- users --------------------------------------------------------------------------------------------------


async def forget_user(store: RedisStore, user_id: str) -> int:
    """See ``Store.forget_user``."""
    keys = store.keys
    living, ended = keys.user(user_id), keys.ended(user_id)
    lists = (living, ended)
    [[seconds, _], *members] = await store.run([(living, ("TIME",)), *((key, ("ZRANGE", key, 0, -1)) for key in lists)])
    sids = list(dict.fromkeys(sid for part in members for sid in rows.sids_of(part)))
    forgotten = 0
    try:
        for start in range(0, len(sids), AT_ONCE):
            part = sids[start : start + AT_ONCE]
            answers = await store.run(
                [call(list_scripts.FORGET, [keys.session(sid)], user_id) for sid in part], "unknown"
            )
            commands: list[Keyed] = []
            for sid, answer in zip(part, answers, strict=True):
                if answer:
                    forgotten += 1
                    commands += links.removed(keys, sid, answer[0])
                    commands.append((due := keys.due(sid), ("ZREM", due, sid)))
                # A login writes its place in the list first: who is not there may be about to come.
                if answer or answer is None or _is_old(sid, int(seconds) * 1000):
                    commands += ((key, ("ZREM", key, sid)) for key in lists)
            await store.run(commands, "unknown")
        own = (keys.not_before(user_id), keys.logins(user_id))
        # Calls of other processes name their sessions until the next call or sweep.
        await store.run([*((key, ("DEL", key)) for key in own), *store.calls.take_over(keys)], "unknown")
    except StoreError as error:
        raise (undecided(error) if forgotten else error) from error.__cause__
    return forgotten


def _is_old(sid: Sid, now: int) -> bool:
    """Whether ``sid`` was minted long ago. Its first 48 bits are milliseconds (RFC 9562, version 7)."""
    try:
        return uuid.UUID(sid).int >> 80 < now - _UNDER_WAY_MS
    except ValueError:
        return True
