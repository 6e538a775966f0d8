"""Records as hashes: fields, and the arguments of the scripts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from sessiondb.core.change import Create, End, Update
from sessiondb.core.policy import Caps
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Login, Query

_COLUMNS = Record.__struct_fields__
_KEY = b"d:"
_COLON = ord(":")
_EMPTY = b"{}"
_encode = msgspec.json.Encoder().encode


def to_record(flat: Sequence[bytes]) -> Record | None:
    """The record in the flat answer of ``HGETALL``; ``None`` if there is none, or only part of one."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if b"rev" not in fields:
        return None
    get = fields.get
    try:
        data = [_named(field) + value for field, value in fields.items() if field[1] == _COLON and field[:2] == _KEY]
        # Spelt out, in the order of the record: a loop takes half as long again, in the busiest call of a request.
        return Record(
            Sid(fields[b"sid"].decode()),
            fields[b"series_hash"],
            fields[b"secret_hash"],
            int(fields[b"created_at"]),
            int(fields[b"last_seen_at"]),
            int(fields[b"idle"]),
            int(fields[b"absolute"]),
            int(fields[b"check_at"]),
            None if (user_id := get(b"user_id")) is None else user_id.decode(),
            int(fields[b"rev"]),
            get(b"last_changes", b""),
            get(b"previous_hash"),
            get(b"salt"),
            None if (rotated_at := get(b"rotated_at")) is None else int(rotated_at),
            None if (confirmed_at := get(b"confirmed_at")) is None else int(confirmed_at),
            get(b"lifetime", b"normal").decode(),
            None if (authenticated_at := get(b"authenticated_at")) is None else int(authenticated_at),
            None if (ended_at := get(b"ended_at")) is None else int(ended_at),
            None if (end_reason := get(b"end_reason")) is None else end_reason.decode(),
            None if (purge_at := get(b"purge_at")) is None else int(purge_at),
            get(b"client_first", _EMPTY),
            get(b"client_last", _EMPTY),
            get(b"auth", _EMPTY),
            get(b"risk", _EMPTY),
            b"{%b}" % b",".join(data),
        )
    except LookupError as error:
        raise ValueError(f"a session has an odd field, or none that it needs: {error}") from None


@lru_cache(4096)
def _named(field: bytes) -> bytes:
    """How the key of ``field`` begins its entry in a JSON object. An app uses the same few, over and over."""
    return _encode(field[len(_KEY) :].decode()) + b":"


def readable(flat: Sequence[bytes]) -> Record | None:
    """As ``to_record``, and ``None`` for a hash that somebody has damaged: who looks at many is not stopped by one."""
    try:
        return to_record(flat)
    except (ValueError, TypeError):
        return None


def create_arguments(change: Create) -> list[bytes | str | int]:
    """The arguments of ``CREATE``."""
    record = change.record
    arguments: list[bytes | str | int] = [
        record.created_at + record.absolute,
        record.last_changes,
        record.secret_hash,
    ]
    for name in _COLUMNS:
        value = getattr(record, name)
        if name != "data" and value is not None:
            arguments += (name, value)
    if change.links:
        arguments += ("links", _links(change.links))
    for key, encoded in msgspec.json.decode(record.data, type=dict[str, msgspec.Raw]).items():
        arguments += (_KEY + key.encode(), bytes(encoded))
    return arguments


def update_arguments(change: Update) -> list[bytes | str | int]:
    """The arguments of ``UPDATE``."""
    touch, rotate, confirm, sign_in = change.touch, change.rotate, change.confirm, change.sign_in
    guards = {part.if_secret for part in (rotate, confirm) if part is not None}
    arguments: list[bytes | str | int] = [
        change.id,
        "1" if change.only_touches else "0",
        "" if change.if_rev is None else change.if_rev,
        # Two guards on one digest: if they differ, nothing can satisfy both.
        "" if not guards else guards.pop() if len(guards) == 1 else "never",
        "" if touch is None else touch.at,
        "" if touch is None or touch.client is None else touch.client,
        "" if confirm is None else confirm.at,
    ]
    arguments += ("", "", "") if rotate is None else (rotate.secret_hash, b"+" + rotate.salt, rotate.at)
    arguments += (
        ("", "", "", "", "", "")
        if sign_in is None
        else (sign_in.at, sign_in.auth, sign_in.idle, sign_in.absolute, sign_in.lifetime, _links(sign_in.links))
    )
    arguments.append(len(change.put))
    for key, value in change.put.items():
        arguments += (_KEY + key.encode(), value)
    arguments += (_KEY + key.encode() for key in change.remove if key not in change.put)
    return arguments


def touch_arguments(changes: Sequence[Update]) -> list[bytes | str | int]:
    """The arguments of ``TOUCH``."""
    arguments: list[bytes | str | int] = []
    for change in changes:
        touch = change.touch
        arguments += (0, "") if touch is None else (touch.at, touch.client or "")
    return arguments


def has_link(flat: Sequence[bytes], link: bytes) -> bool:
    """Whether the session in the flat answer of ``HGETALL`` is found by ``link``."""
    pairs = iter(flat)
    return any(
        field == b"links" and link.hex().encode() in value.split() for field, value in zip(pairs, pairs, strict=True)
    )


def _links(links: Sequence[bytes]) -> str:
    return " ".join(dict.fromkeys(map(bytes.hex, links)))


def next_look(terms: End | Login | Query) -> int:
    """When a sweeper looks at the tombstone: to announce the end, or to purge it."""
    return terms.purge_at if terms.announce_at is None else min(terms.announce_at, terms.purge_at)


def end_arguments(change: End) -> list[bytes | str | int]:
    """The arguments of ``END``."""
    if_rev = "" if change.if_rev is None else change.if_rev
    return [change.id, if_rev, change.at, str(change.reason), change.purge_at, next_look(change)]


def cap_arguments(caps: Caps) -> list[str | int]:
    """The caps among the arguments of ``END``."""
    arguments: list[str | int] = [caps.normal.idle, caps.normal.absolute]
    for name, cap in caps.named.items():
        arguments += (name, cap.idle, cap.absolute)
    return arguments


def purged_at(tombstone: Record) -> int:
    """When it goes. Those of older versions have only one time."""
    return tombstone.check_at if tombstone.purge_at is None else tombstone.purge_at


def sids_of(members: Sequence[bytes]) -> list[Sid]:
    """Members of a list, as sids."""
    return [Sid(member.decode()) for member in members]
