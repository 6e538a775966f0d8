"""The kit finds every planted bug on every database, and finds none in an honest store."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from planted import PLANTED, Planted
from test_conformance import memory, sqlite

from databases import KINDS, database
from sessiondb.testing import Behaviour, BehaviourBroken, Database, ManualClock, OpenHandle, behaviours, run_behaviour
from summary import note

LAWS = range(1, 12)
TABLE = "Planted bugs that the kit finds: found/planted"

found_on: Counter[tuple[str, int]] = Counter()
planted_for = Counter(one.law for one in PLANTED)


def planted_in(planted: Planted, inner: Database) -> Database:
    @asynccontextmanager
    async def make(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        async with inner(clock) as handle:
            yield lambda: planted.store(handle())

    return make


async def broken(inner: Database, tried: list[Behaviour], timeout: float = 10) -> dict[str, Exception]:
    found: dict[str, Exception] = {}
    for behaviour in tried:
        try:
            await run_behaviour(behaviour, inner, timeout=timeout)
        except Exception as error:
            found[behaviour.name] = error
    return found


def note_found(kind: str, law: int, count: int = 1) -> None:
    found_on[kind, law] += count
    note(TABLE, f"law {law}", kind, f"{found_on[kind, law]}/{planted_for[law]}")


@pytest.mark.parametrize("planted", PLANTED, ids=str)
async def test_a_planted_bug_is_found(planted: Planted) -> None:
    note_found("memory", planted.law, 0)
    found = await broken(planted_in(planted, memory), behaviours(planted.law))
    error = found.get(planted.found_by)
    assert isinstance(error, BehaviourBroken), found
    assert any("Law" in note for note in error.__notes__)
    note_found("memory", planted.law)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("planted", PLANTED, ids=str)
async def test_a_planted_bug_is_found_on_every_database(kind: str, planted: Planted) -> None:
    """By the one behaviour that must find it: all others are run on the honest store."""
    note_found(kind, planted.law, 0)
    inner = sqlite if kind == "sqlite" else database(kind)
    [behaviour] = [one for one in behaviours(planted.law) if one.name == planted.found_by]
    with pytest.raises(BehaviourBroken):
        await run_behaviour(behaviour, planted_in(planted, inner))
    note_found(kind, planted.law)


@pytest.mark.parametrize("law", LAWS)
async def test_an_honest_store_keeps_every_law(law: int) -> None:
    assert await broken(memory, behaviours(law)) == {}


def test_every_law_has_behaviours_and_a_planted_bug() -> None:
    assert {law for behaviour in behaviours() for law in behaviour.laws} == set(LAWS)
    assert {one.law for one in PLANTED} == set(LAWS)
    for law in LAWS:
        assert len(behaviours(law)) >= 3, law


def test_behaviours_have_names_of_their_own_and_say_what_they_protect() -> None:
    names = [behaviour.name for behaviour in behaviours()]
    assert len(names) == len(set(names))
    assert all(len(behaviour.protects) > 30 for behaviour in behaviours())
