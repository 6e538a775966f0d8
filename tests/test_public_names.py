"""What users can name: everything that they are given."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sessiondb
from sessiondb import Session, SessionDB

GIVEN: list[Callable[..., Any]] = [
    *(getattr(SessionDB, verb) for verb in ("create", "get", "sessions_of", "revoke", "revoke_all")),
    *(getattr(SessionDB, verb) for verb in ("find_sessions", "sweep", "stats", "usage", "events")),
    *(getattr(SessionDB, verb) for verb in ("checkpoint", "verify_trail", "forget", "login_failed", "replay_risk")),
    sessiondb.flashes,
    *(getattr(Session, name).fget for name in ("client", "auth", "risk", "expires_at", "user_id")),
]


def ours_in(hint: object) -> Iterator[type]:
    """The classes of ours in ``hint``, and in the fields of these."""
    for part in typing.get_args(hint):
        yield from ours_in(part)
    if isinstance(hint, type) and hint.__module__.startswith("sessiondb."):
        yield hint
        fields = dataclasses.is_dataclass(hint) or hasattr(hint, "__struct_fields__") or hasattr(hint, "_fields")
        for field in typing.get_type_hints(hint).values() if fields else ():
            yield from ours_in(field)


@pytest.mark.parametrize("verb", GIVEN, ids=lambda verb: verb.__qualname__)
def test_what_is_given_has_a_public_name(verb: Callable[..., Any]) -> None:
    for given in ours_in(typing.get_type_hints(verb)["return"]):
        assert getattr(sessiondb, given.__name__) is given
        assert given.__name__ in sessiondb.__all__


def test_the_shell_completes_every_name() -> None:
    # Those that need FastAPI too, which are imported when they are asked for.
    assert set(sessiondb.__all__) <= set(dir(sessiondb))
    for name in sessiondb.__all__:
        assert getattr(sessiondb, name) is not None
