"""Ending sessions, each for its own reason: who was ended by this call, and by nobody else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from pymongo import UpdateOne

from sessiondb.core.change import new_change_id
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores._mongodb_rows import LIVING, NO_DATA, Document, end_update, readable, sid_of, sid_value
from sessiondb.stores._mongodb_url import Collection
from sessiondb.stores._steps import Writes
from sessiondb.stores.base import Cutoffs, Ended, Login, Query


async def fetch(sessions: Collection, where: Document) -> list[Document]:
    """The documents of the sessions that ``where`` finds, without their data."""
    # The whole answer at once: the default first batch is 101.
    return await sessions.find(where, dict(NO_DATA), batch_size=1000).to_list()


def all_readable(documents: Iterable[Document]) -> list[Record]:
    """The records that can be read."""
    return [record for record in map(readable, documents) if record is not None]


class Ending(msgspec.Struct, frozen=True):
    """How one session ends. ``if_unmoved``: only if it was neither seen nor written since it was read."""

    sid: Sid
    user_id: str | None
    reason: EndReason
    at: int
    if_unmoved: Record | None = None

    @property
    def report(self) -> Ended:
        """What is told of it."""
        return Ended(self.sid, self.user_id, self.reason.value, self.at)


def expiry(record: Record, caps: Caps) -> Ending:
    """How ``record``, which is over, ends."""
    return Ending(record.sid, record.user_id, caps.expiry_reason(record), caps.deadline(record), record)


async def end_all(
    sessions: Collection, writes: Writes, endings: Sequence[Ending], terms: Login | Query | Cutoffs
) -> list[Ending]:
    """Those of ``endings`` that this call has written; one round trip, two if somebody else was faster somewhere."""
    if not endings:
        return []
    # One id for all: it marks what was ended here.
    change_id = new_change_id()
    purge_at = terms.now + terms.keep_ended if isinstance(terms, Cutoffs) else terms.purge_at
    updates = []
    for one in endings:
        guard: Document = {}
        if one.if_unmoved is not None:
            # A touch leaves the revision, and signing in leaves last_seen_at: it gives another life.
            guard = {"last_seen_at": one.if_unmoved.last_seen_at, "rev": one.if_unmoved.rev}
        where = {"_id": sid_value(one.sid), **LIVING, **guard}
        updates.append(UpdateOne(where, end_update(change_id, one.reason, one.at, purge_at, terms.announce_at)))
    result = await writes(sessions.bulk_write(updates, ordered=False))
    if result.matched_count == len(endings):
        return list(endings)
    where = {"_id": any_of(one.sid for one in endings), "last_changes": change_id}
    ours = {sid_of(document) async for document in sessions.find(where, {"_id": True})}
    return [one for one in endings if one.sid in ours]


def any_of(sids: Iterable[str]) -> Document:
    """A condition on ``_id``."""
    return {"$in": [sid_value(sid) for sid in sids]}
