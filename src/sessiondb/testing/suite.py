"""The kit as a pytest test. The only module here that needs pytest, and only when it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from sessiondb.testing.behaviour import TIMEOUT, Behaviour, run_behaviour
from sessiondb.testing.behaviours import behaviours
from sessiondb.testing.kit import Database


def conformance_suite(
    database: Database, *, skip: Collection[str] = (), timeout: float = TIMEOUT
) -> Callable[[Behaviour], None]:
    """A pytest test of every behaviour, each on a database of its own.

    Bind it to a name that pytest collects: ``test_conformance = conformance_suite(database)``. The test runs its own
    event loop, so it needs no plugin. ``skip`` names behaviours to leave out, ``timeout`` (seconds) is for each.
    Raises ``ValueError`` for a name that is no behaviour.
    """
    import pytest

    known = behaviours()
    unknown = set(skip) - {behaviour.name for behaviour in known}
    if unknown:
        raise ValueError(f"skip names what is no behaviour: {', '.join(sorted(unknown))}")
    chosen = [behaviour for behaviour in known if behaviour.name not in skip]

    @pytest.mark.parametrize("behaviour", chosen, ids=[behaviour.name for behaviour in chosen])
    def test(behaviour: Behaviour) -> None:
        asyncio.run(run_behaviour(behaviour, database, timeout=timeout))

    return test
