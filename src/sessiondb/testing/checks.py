"""What behaviours check with: failures that explain themselves without pytest, and with ``python -O``."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec

from sessiondb.core import codec
from sessiondb.core.change import Applied, Conflict, Gone
from sessiondb.core.record import Record
from sessiondb.stores.base import ChangeResult

Error = TypeVar("Error", bound=BaseException)

_JSON_FIELDS = frozenset({"client_first", "client_last", "auth", "risk", "data"})


class BehaviourBroken(AssertionError):
    """The store does not do what every store does. The message says what was found instead."""


def require(condition: bool, otherwise: str) -> None:
    """Raise ``BehaviourBroken(otherwise)`` unless ``condition``."""
    if not condition:
        raise BehaviourBroken(otherwise)


def equal(found: object, expected: object, what: str) -> None:
    """Raise unless the two are equal."""
    if found != expected:
        raise BehaviourBroken(f"{what}: expected {expected!r:.500}, found {found!r:.500}")


def same_data(found: object, expected: object, what: str) -> None:
    """Raise unless two JSON values are equal, types included: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    equal(_spelled(found), _spelled(expected), what)


def same_record(found: Record | None, expected: Record, what: str) -> None:
    """Raise unless the records are equal field by field; JSON may be spelled in another way."""
    if found is None:
        raise BehaviourBroken(f"{what}: there is no such record")
    for field in Record.__struct_fields__:
        one, other = getattr(found, field), getattr(expected, field)
        if field in _JSON_FIELDS:
            one, other = _decoded(field, one), _decoded(field, other)
            same_data(one, other, f"{what}: {field}")
        else:
            # The values may be digests and salts, so only the field is named.
            require(one == other, f"{what}: {field} is not what was stored")


def is_applied(result: ChangeResult, what: str) -> Applied:
    """The result, which must be ``Applied``."""
    if not isinstance(result, Applied):
        raise BehaviourBroken(f"{what}: expected Applied, found {result!r:.300}")
    return result


def is_gone(result: ChangeResult, reason: str | None, what: str) -> None:
    """The result must be ``Gone`` with that reason."""
    equal(result, Gone(reason), what)


def is_conflict(result: ChangeResult, what: str) -> Record:
    """The record of the result, which must be a ``Conflict``."""
    if not isinstance(result, Conflict):
        raise BehaviourBroken(f"{what}: expected Conflict, found {result!r:.300}")
    return result.record


async def raises(kind: type[Error], call: Awaitable[object], what: str) -> Error:
    """The exception of that ``kind`` which ``call`` must raise."""
    try:
        answer = await call
    except kind as error:
        return error
    except Exception as error:
        raise BehaviourBroken(f"{what}: expected {kind.__name__}, found {error!r:.300}") from error
    raise BehaviourBroken(f"{what}: expected {kind.__name__}, but it answered {answer!r:.300}")


def _decoded(field: str, value: bytes) -> object:
    try:
        return codec.decode_value(value)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BehaviourBroken(f"{field} is not JSON: {value!r:.200}") from None


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        items = sorted(value.items())
        return "{" + ", ".join(f"{json.dumps(name)}: {_spelled(item)}" for name, item in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    return f"{type(value).__name__} {value!r}"
