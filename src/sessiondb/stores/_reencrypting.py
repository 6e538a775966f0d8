"""One bounded step of re-encryption: sessions are written again with the current key, where they are not yet.

Each write is guarded by the revision that was read, so it never puts an older value over a newer one. Several workers
may walk at once: whoever comes second finds nothing to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sessiondb.core import codec
from sessiondb.core.change import Applied, Conflict, Gone, Update, new_change_id
from sessiondb.core.errors import SessionDataError
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores._sealing import Sealer, key_id_of
from sessiondb.stores.base import Store

TRIES = 4
PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """What one pass of re-encryption did.

    * ``examined``: sessions looked at; ``rewritten``: those that are encrypted with the current key by this pass.
    * ``left``: those that others kept writing to, or the database did not answer for; the next pass finds them.
    * ``unreadable``: those that no key of the ring decrypts; only their end removes them.
    * ``keys``: how many of those examined still use each key, by its id, and ``"plain"``.
    * ``next``: the ``after`` of the next pass; ``None`` when this was the last.
    """

    examined: int = 0
    rewritten: int = 0
    left: int = 0
    unreadable: int = 0
    keys: Mapping[str, int] = field(default_factory=dict)
    next: Sid | None = None


async def reencrypt(store: Store, sealer: Sealer, records: Sequence[Record], after: Sid | None) -> Reencrypted:
    """Write what is stale in ``records``, which are as ``store`` (the inner one, of ciphertext) has them."""
    waiting = [record for record in records if record.ended_at is None]
    rewritten = unreadable = 0
    used: Counter[str] = Counter()
    for _ in range(TRIES):
        changes: list[Update] = []
        sources: list[Record] = []
        for record in waiting:
            try:
                put = _stale(sealer, record)
            except SessionDataError:
                unreadable += 1
                used.update(_keys_of(record))
                continue
            if put:
                changes.append(Update(sid=record.sid, id=new_change_id(), put=put, if_rev=record.rev))
                sources.append(record)
            else:
                used.update(_keys_of(record))
        waiting = []
        most = store.batching.changes
        for start in range(0, len(changes), most):
            batch = changes[start : start + most]
            results = await store.apply(batch)
            for change, record, result in zip(batch, sources[start : start + most], results, strict=True):
                if isinstance(result, Applied):
                    rewritten += 1
                    used.update(_keys_of(record, change.put))
                elif isinstance(result, Conflict):
                    # Somebody has written since, maybe other keys: look again, at what they made of it.
                    if result.record.ended_at is None:
                        waiting.append(result.record)
                elif not isinstance(result, Gone):
                    waiting.append(record)
        if not waiting:
            break
    for record in waiting:
        used.update(_keys_of(record))
    return Reencrypted(len(records), rewritten, len(waiting), unreadable, dict(used), after)


def _stale(sealer: Sealer, record: Record) -> dict[str, bytes]:
    """The values of ``record`` that are to be written again, as they are to be stored."""
    put: dict[str, bytes] = {}
    sid = record.sid
    for name, raw in codec.split(record.data).items():
        stored = bytes(raw)
        if sealer.is_stale(sid, name, stored):
            put[name] = sealer.seal(sid, name, sealer.open(sid, name, stored))
    return put


def _keys_of(record: Record, put: Mapping[str, bytes] | None = None) -> set[str]:
    """The ids of the keys that ``record`` (with ``put`` in it) uses, and ``"plain"``."""
    try:
        values = {name: bytes(value) for name, value in codec.split(record.data).items()}
    except SessionDataError:
        return set()
    ids = {key_id_of(value) for value in (values | dict(put or {})).values()}
    return {PLAIN if key_id is None else key_id.decode("ascii", "replace") for key_id in ids}
