"""Fields inside a model's parts that this version of the model does not know: written by a newer one, kept by us.

An object keeps them as long as it is the same object: changed in place, moved within a list, or taken along by a copy
of what is around it. A new object has none, for nobody knows whether they would be true of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import msgspec

# By the id of the object, with the object itself, so that no other can get the same id.
Unknown = dict[int, tuple[object, dict[str, Any]]]


def fields_of(kind: type) -> dict[str, str]:
    """The names under which the fields of a model class are stored, with the names of their attributes."""
    names = getattr(kind, "__pydantic_fields__", None)
    if names is not None:
        return {name: name for name in names}
    if dataclasses.is_dataclass(kind):
        # msgspec takes those with an underscore for private.
        return {field.name: field.name for field in dataclasses.fields(kind) if not field.name.startswith("_")}
    if issubclass(kind, msgspec.Struct) and not kind.__struct_config__.array_like:
        return {field.encode_name: field.name for field in msgspec.structs.fields(kind)}
    return {}


def find(model: object, stored: dict[str, Any], dumped: dict[str, Any]) -> Unknown:
    """What ``stored`` has inside the fields of ``model``, and ``dumped``, which is ``model`` as JSON, has not."""
    found: Unknown = {}
    for name, part in _parts(model):
        raw, known = stored.get(name), dumped.get(name)
        # Mostly they are equal, and comparing them takes no Python.
        if isinstance(raw, (dict, list)) and raw != known:
            _collect(part, raw, known, found)
    return found


def graft(value: object, dumped: Any, unknown: Unknown) -> Any:
    """``dumped``, which is ``value`` as JSON, with what is ``unknown`` put back in place."""
    for name, part in _parts(value):
        has = name in dumped if isinstance(dumped, dict) else isinstance(dumped, list) and name in range(len(dumped))
        if has:
            dumped[name] = graft(part, dumped[name], unknown)
    kept = unknown.get(id(value))
    if kept is not None and isinstance(dumped, dict):
        return {**kept[1], **dumped}
    return dumped


def _collect(value: object, raw: Any, dumped: Any, found: Unknown) -> None:
    if isinstance(raw, dict) and isinstance(dumped, dict):
        names = fields_of(type(value))
        if names:
            more = {name: item for name, item in raw.items() if name not in dumped and name not in names}
            if more:
                found[id(value)] = value, more
        for name, part in _parts(value):
            if name in raw and name in dumped:
                _collect(part, raw[name], dumped[name], found)
    elif isinstance(raw, list) and isinstance(dumped, list):
        for (_, part), one, known in zip(_parts(value), raw, dumped, strict=False):
            _collect(part, one, known, found)


def _parts(value: object) -> Iterator[tuple[Any, object]]:
    """What ``value`` consists of, by the name or place that it has as JSON."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (str(key) if type(key) is int else key), part
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    else:
        for name, attribute in fields_of(type(value)).items():
            yield name, getattr(value, attribute, None)
