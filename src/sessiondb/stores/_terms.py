"""What the terms of a sweep, a query or a login mean for one session, where a store works on what it has read."""

from __future__ import annotations

from sessiondb.core.change import End, new_change_id
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.stores.base import Cutoffs, Login, Query

FORGOTTEN_AT_ONCE = 100


def end_of(record: Record, reason: EndReason, at: int, terms: Login | Query | Cutoffs) -> End:
    """The change that ends ``record``."""
    purge_at = terms.now + terms.keep_ended if isinstance(terms, Cutoffs) else terms.purge_at
    return End(record.sid, new_change_id(), reason, at, purge_at, None, terms.announce_at)


def is_in_state(record: Record, query: Query) -> bool:
    """Whether ``record`` is in the state that ``query`` asks for."""
    if query.state == "all":
        return True
    is_live = record.ended_at is None and query.caps.deadline(record) > query.now
    return is_live == (query.state == "live")


def is_to_be_purged(record: Record, cutoffs: Cutoffs) -> bool:
    """Whether ``record``, a tombstone that is due, has to go. One without a time of its own goes when it is due."""
    return record.purge_at is None or record.purge_at <= cutoffs.now


def next_announcement(record: Record, cutoffs: Cutoffs) -> int:
    """When to look next at ``record``, a tombstone that is due before its purge."""
    purge_at = record.purge_at or 0
    return purge_at if cutoffs.announce_at is None else min(cutoffs.announce_at, purge_at)


def forgotten_before(cutoffs: Cutoffs) -> int:
    """Which ``not_before`` say nothing any more: a login that began so long ago is over, whatever became of it."""
    return cutoffs.now - longest(cutoffs.caps)


def longest(caps: Caps) -> int:
    """The longest that a session may live, in microseconds."""
    return max(caps.normal.absolute, *(cap.absolute for cap in caps.named.values()))
