"""Links: for each a list of the sessions that are found by it, scored by their hard end; a session keeps its own.

As users' lists they may name too much and never too little. What a session is really found by, its field ``links``
says: each in hexadecimal, with spaces between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sessiondb.core.change import Create, SignIn
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_list_scripts as scripts
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_nodes import Keyed, call


def listings(keys: Keys, sid: Sid, change: Create | SignIn) -> list[Keyed]:
    """Has the session found by the links of ``change``; to be done before it."""
    if isinstance(change, Create):
        made_at = change.record.created_at
        return _listed(keys, sid, map(bytes.hex, change.links), made_at + change.record.absolute, made_at)
    # The hard end is not known yet. This is no earlier: nobody signs in to a session before it was made.
    return _listed(keys, sid, map(bytes.hex, change.links), change.at + change.absolute, change.at)


def healed(keys: Keys, record: Record, links: bytes) -> list[Keyed]:
    """Has the session found by ``links``, which is its field."""
    until = record.created_at + record.absolute
    if record.ended_at is not None:
        until = max(until, rows.purged_at(record))
    return moved(keys, record.sid, links, until, record.created_at)


def moved(keys: Keys, sid: Sid, links: bytes, until: int, now: int) -> list[Keyed]:
    """Has the session found by ``links``, which is its field, until then at least."""
    return _listed(keys, sid, _names(links), until, now)


def removed(keys: Keys, sid: Sid, links: bytes) -> list[Keyed]:
    """Takes the session out of the lists of ``links``, which is its field."""
    return [(key, ("ZREM", key, sid)) for key in map(keys.link, _names(links))]


def _listed(keys: Keys, sid: Sid, names: Iterable[str], until: int, now: int) -> list[Keyed]:
    commands: list[Keyed] = []
    for key in map(keys.link, names):
        # A command, not a script: it would be done after what follows it, were it not known yet.
        commands += [(key, ("ZADD", key, "GT", until, sid)), call(scripts.TEND, [key], now)]
    return commands


def _names(links: bytes) -> Sequence[str]:
    return links.decode("ascii", "replace").split()
