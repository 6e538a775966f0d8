"""The kit finds every planted bug, and finds none in an honest store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from planted import PLANTED, Planted

from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import Behaviour, BehaviourBroken, Database, ManualClock, OpenHandle, behaviours, run_behaviour

LAWS = range(1, 12)


def database_of(kind: type[MemoryStore]) -> Database:
    @asynccontextmanager
    async def database(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        store = kind(clock=clock)
        yield lambda: store

    return database


async def broken(kind: type[MemoryStore], tried: list[Behaviour]) -> dict[str, Exception]:
    found: dict[str, Exception] = {}
    for behaviour in tried:
        try:
            await run_behaviour(behaviour, database_of(kind), timeout=10)
        except Exception as error:
            found[behaviour.name] = error
    return found


@pytest.mark.parametrize("planted", PLANTED, ids=[f"law {one.law}: {one.store.__name__}" for one in PLANTED])
async def test_a_planted_bug_is_found(planted: Planted) -> None:
    found = await broken(planted.store, behaviours(planted.law))
    assert any(isinstance(error, BehaviourBroken) for error in found.values()), found
    named = next(error for error in found.values() if isinstance(error, BehaviourBroken))
    assert any("Law" in note for note in named.__notes__)


@pytest.mark.parametrize("law", LAWS)
async def test_an_honest_store_keeps_every_law(law: int) -> None:
    assert await broken(MemoryStore, behaviours(law)) == {}


def test_every_law_has_behaviours_and_a_planted_bug() -> None:
    assert {law for behaviour in behaviours() for law in behaviour.laws} == set(LAWS)
    assert {one.law for one in PLANTED} == set(LAWS)
    for law in LAWS:
        assert len(behaviours(law)) >= 3, law


def test_behaviours_have_names_of_their_own_and_say_what_they_protect() -> None:
    names = [behaviour.name for behaviour in behaviours()]
    assert len(names) == len(set(names))
    assert all(len(behaviour.protects) > 30 for behaviour in behaviours())
