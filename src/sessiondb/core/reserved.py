"""The top-level keys of a session that this package keeps for itself. No model may have them as fields."""

from __future__ import annotations

from collections.abc import Collection

from sessiondb.core.errors import SessionDataError

FLASH = "_flash."
"""Begins the key of each flash message."""
VERSION = "_version."
"""Begins the key that says in which version of a model its fields are stored: ``_version.CartData``."""
CSRF = "_csrf"
"""Marks an anonymous session that was made for the sake of a form's token. It is no secret."""

RISK = "_risk"
"""Says that the session looked like somebody else's while it was used, until the user has proved who they are."""


def is_reserved(key: str) -> bool:
    """Whether ``key`` is one of ours."""
    return key.startswith((FLASH, VERSION)) or key in (CSRF, RISK)


def check_keep(keep: Collection[str]) -> frozenset[str]:
    """The keys that a login keeps. Raises ``SessionDataError`` for one text, whose letters would be the keys."""
    if isinstance(keep, str):
        raise SessionDataError(f"keep is the text {keep!r:.60}; use a list of keys: keep=[{keep!r:.60}].")
    return frozenset(keep)


def comes_along(key: str, keep: Collection[str]) -> bool:
    """Whether a login that keeps ``keep`` takes ``key`` along: versions always, or what is kept could not be read."""
    return key in keep or key.startswith(VERSION)
