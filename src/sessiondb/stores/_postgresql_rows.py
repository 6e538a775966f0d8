"""Changes and records as what PostgreSQL's statements are given, most of it JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import msgspec

from sessiondb.core.change import Change, Create, End, Update
from sessiondb.core.events import Event
from sessiondb.core.record import Record
from sessiondb.stores._numbers import positional
from sessiondb.stores._postgresql_statements import COLUMNS, JSON_COLUMNS

_BLOBS = frozenset({"series_hash", "secret_hash", "last_changes", "previous_hash", "salt"})
_encode = msgspec.json.Encoder().encode


def is_ordinary(change: Change) -> TypeGuard[Update]:
    """Whether ``Statements.update`` or ``put`` can write it: keys that were set and removed, and a touch."""
    return isinstance(change, Update) and not (change.only_touches or change.rotate or change.confirm or change.sign_in)


def update_values(change: Update) -> list[object]:
    """The parameters of ``Statements.put`` where keys are set and that is all, which are four, else of ``update``."""
    touch = change.touch
    values: list[object] = [change.sid, change.id, _put(change).decode(), change.if_rev]
    if change.remove or touch is not None:
        client = None if touch is None or touch.client is None else touch.client.decode()
        values += [list(change.remove), 0 if touch is None else touch.at, client]
    return values


def _put(change: Update) -> bytes:
    return _encode({key: msgspec.Raw(positional(value)) for key, value in change.put.items()})


def touch_columns(changes: Sequence[Update]) -> list[list[Any]]:
    """The parameters of ``Statements.touch``, or of ``touch_with_clients`` where a client is among them: three."""
    found: list[list[Any]] = [
        [change.sid for change in changes],
        [0 if change.touch is None else change.touch.at for change in changes],
    ]
    clients = [change.touch.client if change.touch is not None else None for change in changes]
    if any(clients):
        found.append([None if client is None else client.decode() for client in clients])
    return found


def updates_json(changes: Iterable[Change]) -> str:
    """The updates and ends among ``changes`` as a JSON array for ``Statements.apply``."""
    rows = [
        _end_row(change) if isinstance(change, End) else _update_row(change)
        for change in changes
        if not isinstance(change, Create)
    ]
    return _encode(rows).decode()


def _end_row(change: End) -> dict[str, Any]:
    return {
        "sid": change.sid,
        "id": _hex(change.id),
        "touches": False,
        "if_rev": change.if_rev,
        "ended_at": change.at,
        "end_reason": str(change.reason),
        "purge_at": change.purge_at,
        "announce_at": change.announce_at,
    }


def _update_row(change: Update) -> dict[str, Any]:
    row: dict[str, Any] = {"sid": change.sid, "id": _hex(change.id), "touches": change.only_touches}
    if change.if_rev is not None:
        row["if_rev"] = change.if_rev
    if change.put:
        row["put"] = msgspec.Raw(_put(change))
    if change.remove:
        row["remove"] = list(change.remove)
    if change.touch is not None:
        row["seen_at"] = change.touch.at
        if change.touch.client is not None:
            row["client"] = msgspec.Raw(change.touch.client)
    guards = [part.if_secret for part in (change.rotate, change.confirm) if part is not None]
    if guards:
        # Two guards on one digest: if they differ, nothing can satisfy both.
        row["if_secret"] = _hex(guards[0] if len(set(guards)) == 1 else b"")
    if change.confirm is not None:
        row["confirmed_at"] = change.confirm.at
    if change.rotate is not None:
        row["secret_hash"] = _hex(change.rotate.secret_hash)
        row["salt"] = _hex(change.rotate.salt)
        row["rotated_at"] = change.rotate.at
    sign_in = change.sign_in
    if sign_in is not None:
        row["authenticated_at"] = sign_in.at
        row["auth"] = msgspec.Raw(sign_in.auth)
        row["idle"] = sign_in.idle
        row["absolute"] = sign_in.absolute
        row["lifetime"] = sign_in.lifetime
    return row


def creates_json(creates: Iterable[Create]) -> str:
    """New records as a JSON array."""
    return _encode([_record_row(change.record) for change in creates]).decode()


def _record_row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in COLUMNS:
        value = getattr(record, name)
        if value is None:
            continue
        if name == "data":
            row[name] = msgspec.Raw(positional(value))
        elif name in JSON_COLUMNS:
            row[name] = msgspec.Raw(value)
        else:
            row[name] = _hex(value) if name in _BLOBS else value
    return row


def links_json(changes: Iterable[Change]) -> str:
    """The links that ``changes`` bring as a JSON array; empty, if none brings any."""
    rows = [
        {"link": _hex(link), "sid": change.sid} for change in changes if (links := _links_of(change)) for link in links
    ]
    return _encode(rows).decode() if rows else ""


def _links_of(change: Change) -> tuple[bytes, ...]:
    if isinstance(change, Create):
        return change.links
    return change.sign_in.links if isinstance(change, Update) and change.sign_in is not None else ()


def events_json(events: Iterable[Event]) -> str:
    """Sealed events as a JSON array."""
    return _encode([_event_row(event) for event in events]).decode()


def _event_row(event: Event) -> dict[str, Any]:
    seal = event.seal
    if seal is None:
        raise ValueError("an event without its seal cannot be stored; see sessiondb.core.sealing")
    row: dict[str, Any] = {
        "at": event.at,
        "type": event.type,
        "sid": event.sid,
        "user_id": event.user_id,
        "actor": event.actor,
        "reason": event.reason,
        "ip": event.ip,
        # As texts of their own: inside the array the server would unescape what is in them, and refuse a U+0000.
        "details": _encode(event.details).decode() if event.details else "{}",
        "personal": _encode(event.personal).decode() if event.personal else "{}",
        "stream": seal.stream,
        "seq": seal.seq,
        "previous": _hex(seal.previous),
        "who_commitment": _hex(seal.who),
        "actor_commitment": _hex(seal.actor),
        "where_commitment": _hex(seal.where),
    }
    if seal.who_salt is not None:
        row["who_salt"] = _hex(seal.who_salt)
    if seal.actor_salt is not None:
        row["actor_salt"] = _hex(seal.actor_salt)
    if seal.where_salt is not None:
        row["where_salt"] = _hex(seal.where_salt)
    return row


def _hex(value: bytes) -> str:
    return "\\x" + value.hex()
