"""Records as hashes: fields, and the arguments of the scripts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import add, itemgetter
from typing import Any

import msgspec

from sessiondb.core.change import Create, End, Update
from sessiondb.core.policy import Caps
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Login, Query

_COLUMNS = Record.__struct_fields__
_FIELDS = tuple(name.encode() for name in _COLUMNS if name != "data")
_KEY = b"d:"
_EMPTY = b"{}"
_encode = msgspec.json.Encoder().encode


class _Shape:
    """Where the fields of a hash stand. Sessions of one app have the same few, so this is worked out once for many."""

    __slots__ = ("data_of", "keys", "record_of")

    def __init__(self, names: tuple[bytes, ...]) -> None:
        at = {name: place for place, name in enumerate(names)}
        data = [name for name in names if name.startswith(_KEY)]
        # What a hash has not is found in the last place, where nothing is.
        self.record_of = itemgetter(*(at.get(name, len(names)) for name in _FIELDS))
        self.keys = [_named(name) for name in data]
        # Twice, since of one place alone no tuple would be made; no key goes with either.
        self.data_of = itemgetter(*(at[name] for name in data), len(names), len(names))


_shape = lru_cache(1024)(_Shape)


def to_record(flat: list[bytes]) -> Record | None:
    """The record in the flat answer of ``HGETALL``; ``None`` if there is none, or only part of one."""
    names = tuple(flat[::2])
    shape = _shape(names)
    values: list[Any] = flat[1::2]
    values.append(None)
    (
        sid,
        series_hash,
        secret_hash,
        created_at,
        last_seen_at,
        idle,
        absolute,
        check_at,
        user_id,
        rev,
        last_changes,
        previous_hash,
        salt,
        rotated_at,
        confirmed_at,
        lifetime,
        authenticated_at,
        ended_at,
        end_reason,
        purge_at,
        client_first,
        client_last,
        auth,
        risk,
    ) = shape.record_of(values)
    if rev is None:
        return None
    if sid is None or series_hash is None or secret_hash is None:
        raise ValueError("a session has not all fields that it needs")
    return Record(
        Sid(sid.decode()),
        series_hash,
        secret_hash,
        int(created_at),
        int(last_seen_at),
        int(idle),
        int(absolute),
        int(check_at),
        None if user_id is None else user_id.decode(),
        int(rev),
        b"" if last_changes is None else last_changes,
        previous_hash,
        salt,
        None if rotated_at is None else int(rotated_at),
        None if confirmed_at is None else int(confirmed_at),
        "normal" if lifetime is None else lifetime.decode(),
        None if authenticated_at is None else int(authenticated_at),
        None if ended_at is None else int(ended_at),
        None if end_reason is None else end_reason.decode(),
        None if purge_at is None else int(purge_at),
        _EMPTY if client_first is None else client_first,
        _EMPTY if client_last is None else client_last,
        _EMPTY if auth is None else auth,
        _EMPTY if risk is None else risk,
        b"{%b}" % b",".join(map(add, shape.keys, shape.data_of(values))),
    )


@lru_cache(4096)
def _named(field: bytes) -> bytes:
    """How the key of ``field`` begins its entry in a JSON object. An app uses the same few, over and over."""
    return _encode(field[len(_KEY) :].decode()) + b":"


def readable(flat: list[bytes]) -> Record | None:
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
    guard: bytes | str = ""
    if confirm is not None:
        guard = confirm.if_secret
    if rotate is not None:
        # Two guards on one digest: if they differ, nothing can satisfy both.
        guard = rotate.if_secret if guard in ("", rotate.if_secret) else "never"
    arguments: list[bytes | str | int] = [
        change.id,
        "1" if change.only_touches else "0",
        "" if change.if_rev is None else change.if_rev,
        guard,
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
