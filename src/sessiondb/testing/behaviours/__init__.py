"""All behaviours, by theme. ``behaviours()`` gives them as one list."""

from __future__ import annotations

from sessiondb.testing.behaviour import Behaviour
from sessiondb.testing.behaviours import (
    announcing,
    auditing,
    budget,
    creating,
    data,
    failing,
    forgetting,
    linking,
    locks,
    logins,
    lowering,
    reading,
    rotating,
    session_logins,
    sessions,
    sweeping,
    touching,
    trail,
    users,
    watching,
    writing,
)

_THEMES = (
    creating,
    writing,
    data,
    reading,
    rotating,
    touching,
    sweeping,
    announcing,
    lowering,
    budget,
    users,
    linking,
    auditing,
    trail,
    forgetting,
    watching,
    failing,
    logins,
    locks,
    sessions,
    session_logins,
)


def behaviours(law: int | None = None) -> list[Behaviour]:
    """Every behaviour, or those that protect one law (1 to 11)."""
    known = [behaviour for theme in _THEMES for behaviour in theme.BEHAVIOURS]
    return known if law is None else [behaviour for behaviour in known if law in behaviour.laws]
