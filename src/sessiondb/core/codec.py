"""Session data is JSON (RFC 8259): what goes in comes out equal, types included.

Each top-level value is encoded by itself, so that a change carries only the keys it touches. What JSON or one
of the databases cannot hold is refused before anything is stored, with the way to write it instead.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sessiondb.core.errors import SessionDataError

MAX_DEPTH = 24
MAX_BYTES = 64 * 1024
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

_encode = msgspec.json.Encoder().encode
_encode_ordered = msgspec.json.Encoder(order="deterministic").encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode

_HINTS: dict[type, str] = {
    datetime.datetime: "store value.isoformat() or value.timestamp()",
    datetime.date: "store value.isoformat()",
    datetime.time: "store value.isoformat()",
    datetime.timedelta: "store value.total_seconds()",
    uuid.UUID: "store str(value)",
    decimal.Decimal: "store str(value)",
    set: "store sorted(value) or list(value)",
    frozenset: "store sorted(value) or list(value)",
    bytes: "store base64.b64encode(value).decode()",
    bytearray: "store base64.b64encode(value).decode()",
    enum.Enum: "store value.value",
}


class _Unreadable(bytes):
    """Why data cannot be read, in its place. Told by its type, so that no bytes of a database can pass for it."""

    __slots__ = ()


def encode_value(key: str, value: Any) -> bytes:
    """``value`` as JSON bytes.

    Accepted: ``str``, ``bool``, ``None``, ``int`` of 64 signed bits, finite ``float``, ``list``, ``tuple``
    (comes back as a list) and ``dict`` with string keys, nested at most 24 deep, in valid UTF-8 without U+0000.
    Raises ``SessionDataError`` naming ``key`` for anything else.
    """
    if not is_plain(value):
        value = _to_plain(value, (key,), MAX_DEPTH)
    try:
        encoded = _encode(value)
    except UnicodeEncodeError:
        _to_plain(value, (key,), MAX_DEPTH)
        raise
    # An escaped backslash before "u0000" looks the same here, so only the slow look decides.
    if b"\\u0000" in encoded:
        _to_plain(value, (key,), MAX_DEPTH)
    return encoded


def check_encoded(key: str, value: Any, encoded: bytes) -> bytes:
    """``encoded``, which is ``value`` as JSON, after the checks of ``encode_value``."""
    if is_plain(value) and b"\\u0000" not in encoded:
        return encoded
    return encode_value(key, value)


def check_key(key: object) -> None:
    """Raise ``SessionDataError`` unless ``key`` can be a top-level key: valid text without U+0000."""
    if type(key) is str and key.isascii() and "\0" not in key:
        return
    if not isinstance(key, str) or isinstance(key, enum.Enum):
        raise SessionDataError(
            f"A session key must be a string, not {type(key).__name__} ({key!r:.80}); use str(key).", key=None
        )
    _check_text(key, (key,))


def encode_data(values: Mapping[str, Any]) -> bytes:
    """A whole session as one JSON object."""
    return join({key: encode_value(key, value) for key, value in values.items()})


def decode_data(data: bytes) -> dict[str, Any]:
    """The session in ``data``. Raises ``SessionDataError`` if it is not a JSON object."""
    try:
        return _decode_object(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _not_readable(data, error) from None


def unreadable(why: str) -> bytes:
    """Data that nothing decodes: reading it raises ``SessionDataError(why)``."""
    return _Unreadable(b"\0" + why.encode("utf-8", "replace"))  # no JSON begins so


def _not_readable(data: bytes, error: Exception) -> SessionDataError:
    if isinstance(data, _Unreadable):
        return SessionDataError(data[1:].decode())
    return SessionDataError(f"The stored session data is not a JSON object: {error}.")


def decode_value(value: bytes) -> Any:
    """One encoded value."""
    return _decode_any(value)


def is_same(stored: bytes, value: Any) -> bool:
    """Whether ``stored`` is ``value`` as JSON, types included, whatever the spaces and the order of names in it."""
    return _encode_ordered(_decode_any(stored)) == _encode_ordered(value)


def encode_unchecked(values: dict[str, Any]) -> bytes | None:
    """``values`` as JSON without looking at what is refused; ``None`` where that cannot be encoded at all.

    Only good for asking whether anything changed: equal bytes mean that nothing did.
    """
    try:
        return _encode(values)
    except (TypeError, ValueError, RecursionError):
        return None


def split(data: bytes) -> dict[str, msgspec.Raw]:
    """Top-level keys of a session with their values still encoded."""
    try:
        return _decode_raw(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _not_readable(data, error) from None


def join(values: Mapping[str, bytes | msgspec.Raw]) -> bytes:
    """The JSON object of already encoded values: the reverse of ``split``."""
    return _encode({k: v if isinstance(v, msgspec.Raw) else msgspec.Raw(v) for k, v in values.items()})


def merge(data: bytes, put: Mapping[str, bytes], remove: Iterable[str]) -> bytes:
    """``data`` with the keys of ``put`` set and those of ``remove`` gone; all other keys stay as they are."""
    values = split(data)
    for key in remove:
        values.pop(key, None)
    for key, value in put.items():
        values[key] = msgspec.Raw(value)
    return _encode(values)


def check_size(size: int, limit: int, largest: str | None) -> None:
    """Raise ``SessionDataError`` if an encoded session of ``size`` bytes is over ``limit``."""
    if size > limit:
        raise SessionDataError(
            f"The session would take {size:,} bytes, more than the {limit:,} allowed"
            + (f"; the largest changed key is {largest!r}" if largest is not None else "")
            + ". Keep large things elsewhere and their id in the session, or raise "
            "SessionDB(max_session_bytes=...).",
            key=largest,
        )


def check_keys(values: Mapping[str, Any], limit: int) -> None:
    """Raise ``SessionDataError`` if a session with the keys of ``values`` has more than ``limit``."""
    if len(values) > limit:
        newest = next(reversed(list(values)))
        raise SessionDataError(
            f"The session would have {len(values):,} keys, more than the {limit:,} allowed; the newest is "
            f"{newest!r:.100}. Keep many things under one key, or elsewhere and their id in the session, or raise "
            "SessionDB(limits=Limits(max_keys=...)).",
            key=newest if isinstance(newest, str) else None,
        )


def is_plain(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether ``value`` is JSON as it stands, but for characters that no database takes."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        in_range: bool = _INT_MIN <= value <= _INT_MAX
        return in_range
    if kind is float:
        return math.isfinite(value)
    if depth == 0:
        return False
    if kind is list or kind is tuple:
        return all(is_plain(item, depth - 1) for item in value)
    if kind is dict:
        return all(type(name) is str and is_plain(item, depth - 1) for name, item in value.items())
    return False


def _to_plain(value: Any, path: tuple[str | int, ...], depth: int) -> Any:
    """``value`` in exact built-in types, or ``SessionDataError`` saying which part is refused and why."""
    if value is None or type(value) is bool:
        return value
    if isinstance(value, enum.Enum):
        raise _refused(path, value)
    if isinstance(value, str):
        _check_text(value, path)
        return str.__str__(value)
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise SessionDataError(
                f"{_where(path)} is {_brief(value)}, outside the signed 64-bit integers; store str(value).",
                key=str(path[0]),
            )
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SessionDataError(
                f"{_where(path)} is {value!r}; JSON has no such number: store None or a string.",
                key=str(path[0]),
            )
        return float(value)
    if isinstance(value, (list, tuple, dict)):
        if depth == 0:
            raise SessionDataError(
                f"session[{path[0]!r}] is nested more than {MAX_DEPTH} deep (or contains itself); flatten it.",
                key=str(path[0]),
            )
        if isinstance(value, dict):
            return {_check_name(name, path): _to_plain(item, (*path, name), depth - 1) for name, item in value.items()}
        return [_to_plain(item, (*path, index), depth - 1) for index, item in enumerate(value)]
    raise _refused(path, value)


def _check_name(name: object, path: tuple[str | int, ...]) -> str:
    if not isinstance(name, str) or isinstance(name, enum.Enum):
        raise SessionDataError(
            f"{_where(path)} has the key {name!r:.80} of type {type(name).__name__}; JSON objects have string "
            "keys: use str(key).",
            key=str(path[0]),
        )
    _check_text(name, path)
    return str.__str__(name)


def _check_text(text: str, path: tuple[str | int, ...]) -> None:
    if "\0" in text:
        raise SessionDataError(
            f"{_where(path)} has the character U+0000, which PostgreSQL's JSON cannot hold; remove it, or store "
            "base64 text.",
            key=str(path[0]),
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SessionDataError(
            f"{_where(path)} has a lone surrogate at index {error.start}, which is not valid UTF-8; store base64 "
            "text, or text.encode('utf-8', 'replace').decode().",
            key=str(path[0]).encode("utf-8", "replace").decode(),
        ) from None


def _refused(path: tuple[str | int, ...], value: object) -> SessionDataError:
    hint = next((text for kind, text in _HINTS.items() if isinstance(value, kind)), "store plain JSON values")
    return SessionDataError(
        f"{_where(path)} is a {type(value).__name__}, which JSON cannot hold: {hint}, "
        "or use a typed session (SessionOf).",
        key=str(path[0]),
    )


def _where(path: tuple[str | int, ...]) -> str:
    text = "session" + "".join(f"[{part!r}]" for part in path)
    return text if len(text) <= 200 else text[:197] + "..."


def _brief(value: int) -> str:
    return str(value) if value.bit_length() < 128 else f"an integer of {value.bit_length()} bits"
