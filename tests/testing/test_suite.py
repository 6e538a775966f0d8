"""What an author of a store meets: the suite as a test, reports that explain, no pytest needed to import."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import (
    Behaviour,
    BehaviourBroken,
    Kit,
    ManualClock,
    OpenHandle,
    behaviours,
    conformance_suite,
    run_behaviour,
)
from sessiondb.testing.checks import equal, raises, require, same_data


@asynccontextmanager
async def memory(clock: ManualClock) -> AsyncIterator[OpenHandle]:
    store = MemoryStore(clock=clock)
    yield lambda: store


def test_the_kit_is_imported_without_pytest_and_hypothesis() -> None:
    code = "import sys, sessiondb.testing; print({'pytest', 'hypothesis', '_pytest'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_checks_work_without_assertions() -> None:
    code = (
        "from sessiondb.testing.checks import equal, BehaviourBroken\n"
        "try:\n    equal(1, 2, 'x')\nexcept BehaviourBroken as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "x: expected 2, found 1"


def test_a_suite_leaves_out_what_it_is_told_to_and_knows_the_names() -> None:
    name = behaviours()[0].name
    test = conformance_suite(memory, skip={name})
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    assert mark.args[0] == "behaviour"
    assert [behaviour.name for behaviour in mark.args[1]] == [behaviour.name for behaviour in behaviours()[1:]]
    with pytest.raises(ValueError, match="no behaviour: no_such_thing"):
        conformance_suite(memory, skip={"no_such_thing"})


async def test_a_failure_says_which_law_and_what_was_protected() -> None:
    async def some_behaviour(kit: Kit) -> None:
        """Something that every store does."""
        require(False, "it did not")

    with pytest.raises(BehaviourBroken, match="it did not") as caught:
        await run_behaviour(Behaviour((7, 2), some_behaviour), memory)
    assert caught.value.__notes__ == ["Law 7 and 2, some_behaviour: Something that every store does."]


async def test_a_store_that_hangs_is_broken_and_closed() -> None:
    async def waits(kit: Kit) -> None:
        """Never ends."""
        await kit.store()
        await asyncio.get_running_loop().create_future()

    store = MemoryStore()

    @asynccontextmanager
    async def database(clock: ManualClock) -> AsyncIterator[OpenHandle]:
        yield lambda: store

    with pytest.raises(BehaviourBroken, match=r"no answer within 0.01 s"):
        await run_behaviour(Behaviour((10,), waits), database, timeout=0.01)
    assert store._opened == 0


async def test_a_timeout_of_the_store_itself_is_not_taken_for_ours() -> None:
    async def times_out(kit: Kit) -> None:
        raise TimeoutError("the driver's")

    with pytest.raises(TimeoutError, match="the driver's"):
        await run_behaviour(Behaviour((10,), times_out), memory)


async def test_checks_tell_types_apart() -> None:
    same_data({"b": [1, 1.0], "a": None}, {"a": None, "b": [1, 1.0]}, "equal data")
    for one, other in ((1, 1.0), (1, True), (0.0, -0.0), ([], {}), ("1", 1), ({"a": 1}, {"a": 1, "b": None})):
        with pytest.raises(BehaviourBroken, match="data: expected"):
            same_data(one, other, "data")
    equal(1, 1, "one")

    async def fails() -> None:
        raise KeyError("x")

    assert isinstance(await raises(LookupError, fails(), "a call"), KeyError)
    with pytest.raises(BehaviourBroken, match="expected ValueError, found KeyError"):
        await raises(ValueError, fails(), "a call")
    with pytest.raises(BehaviourBroken, match="expected ValueError, but it answered None"):
        await raises(ValueError, asyncio.sleep(0), "a call")


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5_000_000)
    assert clock() == clock() == 5_000_000
    assert clock.advance(1.5) == clock() == 6_500_000
    assert clock.advance(-2) == 4_500_000
