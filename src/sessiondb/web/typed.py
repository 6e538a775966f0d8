"""``SessionOf[Model]``: the session's keys as the fields of a model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar

from sessiondb.core import codec
from sessiondb.core.errors import ConfigurationError, SessionDataError
from sessiondb.session import Session
from sessiondb.state import State
from sessiondb.web import unknown_fields
from sessiondb.web.shapes import Shape
from sessiondb.web.unknown_fields import Unknown
from sessiondb.web.versions import Migrate, Versions, versions

log = logging.getLogger("sessiondb")

Model = TypeVar("Model")
OnInvalid = Literal["error", "default"]

DEFAULTED = "session_data_defaulted"
_CURE = (
    "The other keys are untouched. Bring what is stored up to date with session_of(version=..., migrate=...), read the "
    "default in its place with on_invalid='default', or delete the key."
)
_NEWER = (
    "It was written by version {stored} of the model, and this process has version {version}: serve it with the newer "
    "one, or let both read what the newer one writes."
)
_ASSIGNED = "What this request has assigned was not stored."


class _Plan(Generic[Model]):
    """The settings of one ``session_of``. ``told``: the fields whose misfit has been logged."""

    __slots__ = ("defaults", "shape", "told", "versions")

    def __init__(self, shape: Shape[Model], versions: Versions | None, defaults: bool) -> None:
        self.shape = shape
        self.versions = versions
        self.defaults = defaults
        self.told: set[str] = set()

    def cure(self, session: dict[str, Any]) -> str:
        versions = self.versions
        if versions is not None and versions.stored(session) > versions.version:
            return _NEWER.format(stored=versions.stored(session), version=versions.version)
        return _CURE

    def read(self, session: dict[str, Any], values: dict[str, Any], counters: Counter[str]) -> tuple[Model, list[str]]:
        """The model in ``values``, and the fields that are defaults because what is stored does not fit."""
        shape = self.shape
        try:
            return shape.decode(values, self.cure(session)), []
        except SessionDataError as error:
            if not self.defaults:
                raise
            misfits = shape.misfits(values)
            value = shape.decode({key: item for key, item in values.items() if key not in misfits}, _CURE)
            counters[DEFAULTED] += 1
            if not self.told.issuperset(misfits):
                self.told.update(misfits)
                log.warning("Defaults are read in place of what is stored, which stays as it is. %s", error)
            return value, misfits


class _View(Generic[Model]):
    """The model as handed out, and its fields as they were then. Knows no session: that would be a cycle.

    ``before``: each field as JSON. ``misfits``: fields that are defaults in place of what is stored. ``whole``: the
    app has assigned all of it.
    """

    __slots__ = ("before", "counters", "misfits", "plan", "unknown", "value", "whole")

    def __init__(self, plan: _Plan[Model], counters: Counter[str]) -> None:
        self.plan = plan
        self.counters = counters
        self.value: Model | None = None
        self.before: dict[str, bytes | None] = {}
        self.misfits: list[str] = []
        self.unknown: Unknown = {}
        self.whole = False

    def give(self, session: dict[str, Any]) -> Model:
        if self.value is None:
            plan = self.plan
            upgrade = None if plan.versions is None else plan.versions.upgrade(session)
            values = session if upgrade is None else upgrade.on(session)
            value, self.misfits = plan.read(session, values, self.counters)
            dumped = plan.shape.encode(value)
            if upgrade is not None:
                # Only now that it is known to fit.
                for key in upgrade.remove:
                    session.pop(key, None)
                session.update(upgrade.put)
            self.before = _encoded(dumped)
            self.unknown = unknown_fields.find(value, values, dumped)
            self.value = value
        return self.value

    def assign(self, session: dict[str, Any], value: Model) -> None:
        """``value`` takes the place of all fields, also of those that did not fit."""
        if self.value is None:
            self.before = _encoded(self.plan.shape.of(session))
        for key in self.misfits:
            self.before.pop(key, None)
        self.value = value
        self.misfits = []
        self.whole = True

    def write_back(self, session: dict[str, Any]) -> None:
        """Put the fields that differ from what was handed out into the session."""
        value, plan = self.value, self.plan
        if value is None:
            return
        values = plan.shape.encode(value)
        after, before = _encoded(values), self.before
        changed = {key: values[key] for key, item in after.items() if item is None or item != before.get(key)}
        removed = before.keys() - after.keys()
        if not (changed or removed or self.whole):
            return
        if self.unknown:
            values = unknown_fields.graft(value, values, self.unknown)
            changed = {key: values[key] for key in changed}
        for key, item in changed.items():
            codec.encode_value(key, item)
        # Models let anything be assigned; what does not fit would be refused by every later request.
        plan.shape.decode(values, _ASSIGNED, "What is to be stored")
        session.update(changed)
        for key in removed:
            session.pop(key, None)
        if plan.versions is not None:
            plan.versions.mark(session)
        self.before = after
        self.whole = False

    def forget(self) -> None:
        """Read the session again when asked."""
        self.value = None
        self.misfits = []
        self.unknown = {}
        self.whole = False


def _encoded(values: dict[str, Any]) -> dict[str, bytes | None]:
    # == would call 1, 1.0 and True equal; their encodings differ, and do not change with what they were made from.
    return {key: codec.encode_unchecked({"": value}) for key, value in values.items()}


class SessionOf(Generic[Model]):
    """A session whose keys are the fields of ``Model``.

    ``.data`` is the model: change it, or assign a new one; what differs is saved, field by field, so that
    concurrent requests which change different fields both land. ``.session`` is the ``Session``, for its verbs.
    Values are stored as JSON (a ``datetime`` as ISO 8601 text) under the names of the fields; a default is not
    stored until it is changed. Keys that are no fields are kept, and so is what a part of the model does not know of.
    """

    __slots__ = ("_view", "session")

    def __init__(self, session: Session, view: _View[Model]) -> None:
        self.session = session
        self._view = view

    @property
    def data(self) -> Model:
        """The model. Raises ``SessionDataError``, with the ``key``, if what is stored does not fit it."""
        return self._view.give(self.session)

    @data.setter
    def data(self, value: Model) -> None:
        model = self._view.plan.shape.model
        if not isinstance(value, model):
            raise SessionDataError(f"session.data takes a {model.__name__}, not a {type(value).__name__}.")
        self._view.assign(self.session, value)


def typed_session(
    model: type[Model],
    version: int | None = None,
    migrate: Migrate | None = None,
    on_invalid: OnInvalid = "error",
    name: str | None = None,
) -> Callable[[Session, State], SessionOf[Model]]:
    """What makes the ``SessionOf[model]`` of a request. Raises ``ConfigurationError``."""
    shape = Shape(model)
    given: object = name
    if given is not None and not (isinstance(given, str) and given.isprintable() and 0 < len(given) <= 64):
        raise ConfigurationError(
            f"session_of: name is {given!r:.100}; use a short text: the version of the model is stored under it."
        )
    if on_invalid not in ("error", "default"):
        raise ConfigurationError(f"session_of: on_invalid is {on_invalid!r:.100}; use 'error' or 'default'.")
    plan = _Plan(shape, versions(name or model.__name__, version, migrate), on_invalid == "default")

    def typed(session: Session, state: State) -> SessionOf[Model]:
        view = _View(plan, state.runtime.counters)
        if state.views is None:
            state.views = []
        state.views.append(view)
        return SessionOf(session, view)

    return typed
