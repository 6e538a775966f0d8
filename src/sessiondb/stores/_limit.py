"""Who counts when a login at the limit per user asks to stay, for the stores that decide on what they have read."""

from __future__ import annotations

from collections.abc import Iterable

from sessiondb.core.record import EndReason, Record, is_impersonated
from sessiondb.stores.base import Admission, Login


def not_before_of(login: Login, found: Iterable[int | None]) -> int | None:
    """The latest ``not_before`` among ``found`` that forbids ``login``, or ``None``."""
    latest = max((one for one in found if one is not None), default=0)
    return latest if latest > login.began_at else None


def too_late(own: Record | None, forbidden: int | None) -> Admission:
    """The answer to a login whose session is over before it asks."""
    if own is not None and own.end_reason == EndReason.LIMIT:
        return Admission("limit")
    return Admission("revoked", (), forbidden)


def takes_place(record: Record) -> bool:
    """Whether a living session counts against its user's limit: somebody else's use of the account does not."""
    return not is_impersonated(record.auth)


def rivals_of(login: Login, most: int, unended: Iterable[Record]) -> tuple[list[Record], int]:
    """The sessions among which ``login`` asks for a place, with the first to go first, and how many of them may stay.

    A session that has idled out must not push a living one out, so the real deadlines count. The one that asks counts
    as the newest: sids of one millisecond are in no order. It is among them even if it is over, and takes no place
    then.
    """
    rivals: list[Record] = []
    for record in unended:
        if not takes_place(record):
            continue
        is_living = login.caps.deadline(record) > login.now
        if is_living or record.sid == login.sid:
            rivals.append(record)
            most += not is_living
    return sorted(rivals, key=lambda record: (record.sid == login.sid, record.sid)), most
