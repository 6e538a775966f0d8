"""How a model is read from JSON values and written to them: Pydantic, msgspec ``Struct`` or dataclass."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from sessiondb.core.errors import ConfigurationError, SessionDataError
from sessiondb.core.reserved import is_reserved
from sessiondb.web.unknown_fields import fields_of

Model = TypeVar("Model")

_WHERE = re.compile(r"`\$\.([^`.\[]+)").search
_QUOTED = re.compile(r"""(['"]).*\1""")
# What Pydantic says of these may quote the value. msgspec's own messages begin so; others are the model's, and may too.
_QUOTING = frozenset({"assertion_error", "union_tag_invalid", "value_error"})
_OF_MSGSPEC = ("Expected ", "Invalid ", "Object ", "Unsupported ")
_MASK = "**********"


class Shape(Generic[Model]):
    """One model. ``fields``: the stored name of each field, with its type.

    ``is_open``: any key may be a field (Pydantic's ``extra="allow"``). Raises ``ConfigurationError`` for a class that
    is no model, and for one that an empty session does not fit: every new visitor has one.
    """

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self.is_open = False
        self.fields: dict[str, Any] = {}
        self._required: list[str] = []
        self._masks = False
        self.read: Callable[[dict[str, Any]], Model]
        self._dump: Callable[[Model], dict[str, Any]]
        if not isinstance(model, type):
            raise _not_a_model(model)
        if hasattr(model, "__pydantic_fields__"):
            self._use_pydantic()
        elif dataclasses.is_dataclass(model) or issubclass(model, msgspec.Struct):
            self._use_msgspec()
        else:
            raise _not_a_model(model)
        self._check()

    def _use_pydantic(self) -> None:
        pydantic = importlib.import_module("pydantic")
        if tuple(int(part) for part in pydantic.VERSION.split(".")[:2]) < (2, 11):
            raise ConfigurationError(f"SessionOf needs Pydantic 2.11 or newer, this is {pydantic.VERSION}.")
        model: Any = self.model
        if issubclass(model, pydantic.RootModel):
            raise _not_a_model(model)
        try:
            adapter = pydantic.TypeAdapter(model)
            adapter.rebuild()
        except (pydantic.errors.PydanticUserError, NameError) as error:
            raise _unresolved(model, error) from None
        self.is_open = getattr(model, "model_config", {}).get("extra") == "allow"
        self.fields = {name: field.annotation for name, field in model.__pydantic_fields__.items()}
        self._required = [name for name, field in model.__pydantic_fields__.items() if field.is_required()]
        secret = (pydantic.SecretStr, pydantic.SecretBytes, pydantic.Secret)
        self._masks = any(_mentions(annotation, secret, set()) for annotation in self.fields.values())
        # As JSON, so that strict models take their own datetimes back; by name, so that no alias parts what is
        # written from what is read; as a round trip, so that what is computed is not stored.
        self.read = lambda values: adapter.validate_json(msgspec.json.encode(values), by_alias=False, by_name=True)
        self._dump = lambda value: adapter.dump_python(
            value, mode="json", by_alias=False, warnings=False, round_trip=True
        )

    def _use_msgspec(self) -> None:
        model: Any = self.model
        try:
            if dataclasses.is_dataclass(model):
                hints = typing.get_type_hints(model)
                fields = [field for field in dataclasses.fields(model) if field.init]
                missing = dataclasses.MISSING
                self.fields = {name: hints[name] for name in fields_of(self.model)}
                self._required = [
                    field.name for field in fields if field.default is missing and field.default_factory is missing
                ]
            elif model.__struct_config__.array_like:
                raise ConfigurationError(
                    f"SessionOf: {model.__name__} is array_like, and sessions have names; drop that."
                )
            else:
                self.fields = {field.encode_name: field.type for field in msgspec.structs.fields(model)}
                self._required = [field.encode_name for field in msgspec.structs.fields(model) if field.required]
            msgspec.inspect.type_info(model)
        except (NameError, TypeError) as error:
            raise _unresolved(model, error) from None
        self.read = lambda values: msgspec.convert(values, self.model, str_keys=True)
        if dataclasses.is_dataclass(model):
            # By name: a default that msgspec leaves to the class is no attribute of the object, which is all it dumps.
            self._dump = lambda value: {
                name: msgspec.to_builtins(getattr(value, name), str_keys=True) for name in self.fields
            }
        else:
            self._dump = lambda value: msgspec.to_builtins(value, str_keys=True)

    def _check(self) -> None:
        name = self.model.__name__
        if self._required:
            raise ConfigurationError(
                f"SessionOf: {name}.{self._required[0]} has no default, so the empty session of a new visitor would "
                f"not fit. Give new fields a default, such as `{self._required[0]}: "
                f"{self.expected(self._required[0])} | None = None`."
            )
        for field in filter(is_reserved, self.fields):
            raise ConfigurationError(f"SessionOf: sessiondb keeps the key {field!r} for itself; rename {name}.{field}.")

    def expected(self, field: str) -> str:
        """The type of ``field``, as one would write it."""
        return (
            inspect.formatannotation(self.fields[field], self.model.__module__) if field in self.fields else "a value"
        )

    def of(self, values: dict[str, Any]) -> dict[str, Any]:
        """The part of ``values`` that belongs to the model."""
        if self.is_open:
            return {key: value for key, value in values.items() if not is_reserved(key)}
        fields = self.fields
        return {key: value for key, value in values.items() if key in fields}

    def decode(self, values: dict[str, Any], cure: str, what: str = "The session") -> Model:
        """The model in ``values``, whose other keys do not matter. Raises ``SessionDataError``, ending in ``cure``."""
        try:
            return self.read(self.of(values))
        except ValueError as error:
            problems = _problems(error)
            told = "; ".join(self._tell(field, text) for field, text in problems.items())
            raise SessionDataError(
                f"{what} does not fit {self.model.__name__}: {told}. {cure}", key=next(iter(problems)) or None
            ) from None

    def _tell(self, field: str, text: str) -> str:
        if field not in self.fields:
            return f"session[{field!r}]: {text}" if field else text
        return f"session[{field!r}] is not {self.expected(field)}: {text}"

    def misfits(self, values: dict[str, Any]) -> list[str]:
        """The fields without which ``values`` fits; all of them if none is wrong by itself."""
        given = self.of(values)
        alone = [name for name in given if not self._fits({name: given[name]})]
        return alone if self._fits({name: given[name] for name in given if name not in alone}) else list(given)

    def _fits(self, values: dict[str, Any]) -> bool:
        try:
            self.read(values)
        except ValueError:
            return False
        return True

    def encode(self, value: Model) -> dict[str, Any]:
        """``value`` as JSON values. Raises ``SessionDataError``."""
        try:
            dumped = self.of(self._dump(value))
        except UnicodeError as error:
            raise SessionDataError(
                f"{self.model.__name__} cannot be stored as JSON: {error}. For bytes, set "
                "model_config = ConfigDict(ser_json_bytes='base64', val_json_bytes='base64').",
            ) from None
        except (TypeError, ValueError) as error:
            raise SessionDataError(f"{self.model.__name__} cannot be stored as JSON: {error}") from None
        if self._masks and _MASK in str(dumped):
            raise SessionDataError(
                f"{self.model.__name__} has a secret that Pydantic dumps as asterisks, so it would be lost. Keep "
                "secrets out of sessions, or give the field a @field_serializer.",
            )
        return dumped


def _mentions(annotation: Any, kinds: tuple[type, ...], seen: set[int]) -> bool:
    """Whether one of ``kinds`` is in ``annotation``, or in the fields of a model that is."""
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if isinstance(annotation, type) and issubclass(annotation, kinds):
        return True
    fields: dict[str, Any] = getattr(annotation, "__pydantic_fields__", None) or {}
    inner: Iterable[Any] = (*typing.get_args(annotation), *(field.annotation for field in fields.values()))
    return any(_mentions(one, kinds, seen) for one in inner)


def _not_a_model(given: object) -> ConfigurationError:
    return ConfigurationError(f"SessionOf takes a Pydantic model, a msgspec Struct or a dataclass, not {given!r:.200}.")


def _unresolved(model: type, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"SessionOf: the fields of {model.__name__} cannot be read: {error}. Define what they name before session_of()."
    )


def _problems(error: ValueError) -> dict[str, str]:
    """What is wrong with which field, without the values that are stored: they may be private."""
    errors = getattr(error, "errors", None)
    if errors is None:
        text = str(error)
        found = _WHERE(text)
        what = _QUOTED.sub("...", text) if text.startswith(_OF_MSGSPEC) else "value_error"
        return {found.group(1) if found else "": what}
    lines: dict[str, str] = {}
    for one in errors(include_url=False, include_context=False, include_input=False):
        # Deeper parts of the place may be keys of a stored dict.
        lines.setdefault(
            str(one["loc"][0]) if one["loc"] else "", one["type"] if one["type"] in _QUOTING else one["msg"]
        )
    return lines
