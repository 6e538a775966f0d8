"""Who counts when a login at the limit per user asks to stay, for the stores that decide on what they have read."""

from __future__ import annotations

from collections.abc import Iterable

from sessiondb.core.record import Record
from sessiondb.stores.base import Login


def rivals_of(login: Login, most: int, unended: Iterable[Record]) -> tuple[list[Record], int]:
    """The sessions among which ``login`` asks for a place, with the first to go first, and how many of them may stay.

    A session that has idled out must not push a living one out, so the real deadlines count. The one that asks counts
    as the newest: sids of one millisecond are in no order. It is among them even if it is over, and takes no place
    then.
    """
    rivals: list[Record] = []
    for record in unended:
        is_living = login.caps.deadline(record) > login.now
        if is_living or record.sid == login.sid:
            rivals.append(record)
            most += not is_living
    return sorted(rivals, key=lambda record: (record.sid == login.sid, record.sid)), most
