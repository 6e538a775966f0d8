"""``SessionOf[Model]``: the session's keys as the fields of a model."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from sessiondb.core import codec
from sessiondb.core.errors import ConfigurationError, SessionDataError
from sessiondb.session import Session
from sessiondb.state import State

Model = TypeVar("Model")

_WHERE = re.compile(r"`\$\.([^`.\[]+)").search
_QUOTED = re.compile(r"""(['"]).*\1""")
# What these say of a value may quote it.
_QUOTING = frozenset({"assertion_error", "union_tag_invalid", "value_error"})


class _Shape(Generic[Model]):
    """How a model is read from and written to JSON values. ``fields`` is ``None`` if any key may be one."""

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self.fields: frozenset[str] | None
        self.read: Callable[[dict[str, Any]], Model]
        self.dump: Callable[[Model], dict[str, Any]]
        if not isinstance(model, type):
            raise _not_a_model(model)
        if hasattr(model, "__pydantic_fields__"):
            self._use_pydantic()
        elif dataclasses.is_dataclass(model) or issubclass(model, msgspec.Struct):
            self._use_msgspec()
        else:
            raise _not_a_model(model)

    def _use_pydantic(self) -> None:
        pydantic = importlib.import_module("pydantic")
        if tuple(int(part) for part in pydantic.VERSION.split(".")[:2]) < (2, 11):
            raise ConfigurationError(f"SessionOf needs Pydantic 2.11 or newer, this is {pydantic.VERSION}.")
        if issubclass(self.model, pydantic.RootModel):
            raise _not_a_model(self.model)
        adapter = pydantic.TypeAdapter(self.model)
        allows_any = getattr(self.model, "model_config", {}).get("extra") == "allow"
        self.fields = None if allows_any else frozenset(self.model.__pydantic_fields__)  # type: ignore[attr-defined]
        # As JSON, so that strict models take their own datetimes back; by name, so that no alias parts what is
        # written from what is read.
        self.read = lambda values: adapter.validate_json(msgspec.json.encode(values), by_alias=False, by_name=True)
        self.dump = lambda value: adapter.dump_python(value, mode="json", by_alias=False, warnings=False)

    def _use_msgspec(self) -> None:
        model: Any = self.model
        if dataclasses.is_dataclass(model):
            self.fields = frozenset(field.name for field in dataclasses.fields(model))
        elif model.__struct_config__.array_like:
            raise ConfigurationError(f"SessionOf: {model.__name__} is array_like, and sessions have names; drop that.")
        else:
            self.fields = frozenset(field.encode_name for field in msgspec.structs.fields(model))
        self.read = lambda values: msgspec.convert(values, self.model, str_keys=True)
        self.dump = lambda value: msgspec.to_builtins(value, str_keys=True)

    def of(self, values: dict[str, Any]) -> dict[str, Any]:
        """The part of ``values`` that belongs to the model."""
        fields = self.fields
        return dict(values) if fields is None else {key: value for key, value in values.items() if key in fields}

    def decode(self, values: dict[str, Any]) -> Model:
        """The model in ``values``; keys that are no fields stay untouched. Raises ``SessionDataError``."""
        try:
            return self.read(self.of(values))
        except ValueError as error:
            where, what = _brief(error)
            raise SessionDataError(
                f"The session does not fit {self.model.__name__}: {what}. Give new fields a default, or change what is "
                "stored (the other keys are untouched).",
                key=where,
            ) from None

    def encode(self, value: Model) -> dict[str, Any]:
        """``value`` as JSON values. Raises ``SessionDataError``."""
        try:
            return self.of(self.dump(value))
        except (TypeError, ValueError) as error:
            raise SessionDataError(f"{self.model.__name__} cannot be stored as JSON: {error}") from None


def _not_a_model(given: object) -> ConfigurationError:
    return ConfigurationError(f"SessionOf takes a Pydantic model, a msgspec Struct or a dataclass, not {given!r:.200}.")


def _brief(error: ValueError) -> tuple[str | None, str]:
    """The field, and what is wrong with it, without the values that are stored: they may be private."""
    errors = getattr(error, "errors", None)
    if errors is None:
        found = _WHERE(str(error))
        return found.group(1) if found else None, _QUOTED.sub("...", str(error))
    lines: dict[str, str] = {}
    for one in errors(include_url=False, include_context=False, include_input=False):
        # Deeper parts of the place may be keys of a stored dict.
        lines.setdefault(
            str(one["loc"][0]) if one["loc"] else "", one["type"] if one["type"] in _QUOTING else one["msg"]
        )
    return next(iter(lines)) or None, "; ".join(f"{field}: {text}" if field else text for field, text in lines.items())


class _View(Generic[Model]):
    """The model as handed out, and its fields as they were then. Knows no session: that would be a cycle."""

    __slots__ = ("before", "shape", "value")

    def __init__(self, shape: _Shape[Model]) -> None:
        self.shape = shape
        self.value: Model | None = None
        self.before: dict[str, bytes | None] = {}

    def give(self, session: dict[str, Any]) -> Model:
        if self.value is None:
            self.value = self.shape.decode(session)
            self.before = _encoded(self.shape.encode(self.value))
        return self.value

    def write_back(self, session: dict[str, Any]) -> None:
        """Put the fields that differ from what was handed out into the session."""
        if self.value is None:
            return
        values = self.shape.encode(self.value)
        after, before = _encoded(values), self.before
        changed = {key: values[key] for key, item in after.items() if item is None or item != before.get(key)}
        removed = before.keys() - after.keys()
        if not changed and not removed:
            return
        for key, value in changed.items():
            codec.encode_value(key, value)
        # Models let anything be assigned; what does not fit would be refused by every later request.
        self.shape.decode(values)
        session.update(changed)
        for key in removed:
            session.pop(key, None)
        self.before = after

    def forget(self) -> None:
        """Read the session again when asked."""
        self.value = None


def _encoded(values: dict[str, Any]) -> dict[str, bytes | None]:
    # == would call 1, 1.0 and True equal; their encodings differ, and do not change with what they were made from.
    return {key: codec.encode_unchecked({"": value}) for key, value in values.items()}


class SessionOf(Generic[Model]):
    """A session whose keys are the fields of ``Model``.

    ``.data`` is the model: change it, or assign a new one; what differs is saved, field by field, so that
    concurrent requests which change different fields both land. ``.session`` is the ``Session``, for its verbs.
    Values are stored as JSON (a ``datetime`` as ISO 8601 text) under the names of the fields; a default is not
    stored until it is changed. Keys that are no fields are kept.
    """

    __slots__ = ("_view", "session")

    def __init__(self, session: Session, view: _View[Model]) -> None:
        self.session = session
        self._view = view

    @property
    def data(self) -> Model:
        """The model. Raises ``SessionDataError`` if what is stored does not fit it."""
        return self._view.give(self.session)

    @data.setter
    def data(self, value: Model) -> None:
        shape = self._view.shape
        if not isinstance(value, shape.model):
            raise SessionDataError(f"session.data takes a {shape.model.__name__}, not a {type(value).__name__}.")
        if self._view.value is None:
            self._view.before = _encoded(shape.of(self.session))
        self._view.value = value


def typed_session(model: type[Model]) -> Callable[[Session, State], SessionOf[Model]]:
    """What makes the ``SessionOf[model]`` of a request. Raises ``ConfigurationError`` for another kind of class."""
    shape = _Shape(model)

    def typed(session: Session, state: State) -> SessionOf[Model]:
        view = _View(shape)
        if state.views is None:
            state.views = []
        state.views.append(view)
        return SessionOf(session, view)

    return typed
