"""Lists of URL paths in settings: a path stands for itself and all below it."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

from sessiondb.core.errors import ConfigurationError


def paths(setting: str, given: Iterable[str]) -> tuple[str, ...]:
    """``given``, checked and without trailing slashes. Raises ``ConfigurationError`` naming ``setting``."""
    if isinstance(given, str):
        raise ConfigurationError(f"{setting} is a string; use a list of paths, such as [{given!r}].")
    if not isinstance(given, Iterable):
        raise ConfigurationError(f"{setting} is {given!r:.100}; use a list of paths, such as ['/static'].")
    checked = []
    for path in given:
        if not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError(f"{setting}: {path!r:.100} must be a string that starts with '/'.")
        checked.append(path.rstrip("/"))
    return tuple(checked)


def path_of(scope: Scope) -> str:
    """The path that the app's routes see: without what a proxy or an outer app has mounted it under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) and path[len(root) :][:1] in ("", "/") else path


def matches_path(path: str, listed: tuple[str, ...]) -> bool:
    """Whether ``path`` is one of ``listed`` or below it; ``/static`` covers ``/static/a`` and not ``/statics``."""
    return any(path == one or path.startswith(one + "/") for one in listed)
