"""In which version of a model its fields are stored, and how older ones are brought up to date."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from sessiondb.core import codec
from sessiondb.core.calls import takes
from sessiondb.core.errors import ConfigurationError, SessionDataError
from sessiondb.core.reserved import VERSION, is_reserved

Migrate = Callable[[int, dict[str, Any]], dict[str, Any]]


class Upgrade(NamedTuple):
    """What a migration makes of a session: keys set, keys removed."""

    put: dict[str, Any]
    remove: list[str]

    def on(self, session: dict[str, Any]) -> dict[str, Any]:
        """A copy of ``session`` with it."""
        return {key: value for key, value in session.items() if key not in self.remove} | self.put


class Versions:
    """The version of one model, kept in the session under ``_version.<name>`` as a number."""

    def __init__(self, name: str, version: int, migrate: Migrate) -> None:
        self.name = name
        self.version = version
        self.migrate = migrate
        self.key = VERSION + name

    def upgrade(self, session: dict[str, Any]) -> Upgrade | None:
        """What has to change in ``session``, or ``None``. A newer version is left as it is.

        Raises ``SessionDataError`` if ``migrate`` fails.
        """
        stored = self.stored(session)
        if stored >= self.version:
            return None
        values = {key: value for key, value in session.items() if not is_reserved(key)}
        if not values:
            return None
        left = copy.deepcopy(values)
        try:
            migrated = self.migrate(stored, left)
        except Exception as error:
            raise self._failed(stored, f"raised {type(error).__name__}") from error
        if not isinstance(migrated, dict):
            raise self._failed(stored, f"returned a {type(migrated).__name__}; return the dictionary")
        for key in migrated:
            codec.check_key(key)
            if is_reserved(key):
                raise self._failed(stored, f"set {key!r}, which sessiondb keeps for itself")
        put = {key: value for key, value in migrated.items() if not _is_same(values, key, value)}
        # What it took out is removed. What a new dictionary merely lacks may be somebody else's.
        remove = [key for key in values if key not in left and key not in migrated]
        if not put and not remove:
            return None
        for key, value in put.items():
            codec.encode_value(key, value)
        return Upgrade({**put, self.key: self.version}, remove)

    def mark(self, session: dict[str, Any]) -> None:
        """Say that the fields in ``session`` are of this version, unless a newer one has written them."""
        if self.stored(session) < self.version:
            session[self.key] = self.version

    def stored(self, session: dict[str, Any]) -> int:
        """The version in ``session``; 0 if none is stored."""
        stored = session.get(self.key, 0)
        if type(stored) is not int:
            raise SessionDataError(f"session[{self.key!r}] is not a number; delete that key.", key=self.key)
        return stored

    def _failed(self, stored: int, what: str) -> SessionDataError:
        return SessionDataError(
            f"migrate of {self.name} from version {stored} to {self.version} {what}. Nothing was changed; it must take "
            "every session that was ever stored, also one in which keys are missing.",
            key=None,
        )


def versions(name: str, version: int | None, migrate: Migrate | None) -> Versions | None:
    """The settings of ``session_of``, checked. Raises ``ConfigurationError``."""
    if version is None and migrate is None:
        return None
    if version is None or migrate is None:
        lacks = "version" if version is None else "migrate"
        raise ConfigurationError(
            f"session_of: {lacks} is missing; version=3 and migrate=fn go together, where fn(old_version, raw) returns "
            "the data as version 3 has it."
        )
    if type(version) is not int or version < 1:
        raise ConfigurationError(f"session_of: version is {version!r:.100}; use an integer from 1 on.")
    if not callable(migrate) or inspect.iscoroutinefunction(migrate):
        raise ConfigurationError(
            f"session_of: migrate is {migrate!r:.100}; use a plain function of the old version and the stored data, "
            "not an async one: it runs where .data is read."
        )
    if not takes(migrate, 2):
        raise ConfigurationError(
            f"session_of: migrate is {migrate!r:.100}; it is called with two arguments: migrate(old_version, raw)."
        )
    return Versions(name, version, migrate)


def _is_same(values: dict[str, Any], key: str, value: Any) -> bool:
    if key not in values:
        return False
    encoded = codec.encode_unchecked({"": value})
    return encoded is not None and encoded == codec.encode_unchecked({"": values[key]})
