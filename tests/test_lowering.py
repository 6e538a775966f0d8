"""Law 7: after a lifetime was lowered, ends are written in time, by one worker at a time, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from databases import KINDS, new_url
from harness import DAY, HOUR
from sessiondb import Policy, SessionDB
from sessiondb.core.policy import SECOND, Caps, Lifetimes
from sessiondb.core.record import Record
from sessiondb.lowering import AGAIN_AFTER, TURN, Lowering, recalled
from sessiondb.stores.base import SWEEP_GRACE, Batching, Cutoffs, Store, open_store
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, Fail, FaultyStore, ManualClock
from sessiondb.testing.kit import Kit

LONG = Policy(idle=10 * DAY, absolute=30 * DAY)
SHORT = Policy(idle=HOUR, absolute=30 * DAY)
SHORTER = Policy(idle=HOUR / 2, absolute=30 * DAY)


class Place:
    """One database in memory, and the workers on it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.memory = MemoryStore(clock=self.clock)
        self.store = CountingStore(self.memory)
        self.kit = Kit(lambda: self.memory, self.clock)

    @asynccontextmanager
    async def worker(self, policy: Policy, store: Store | None = None) -> AsyncIterator[SessionDB]:
        async with SessionDB(store or self.store, policy=policy, clock=self.clock, sweep_every=None) as db:
            yield db

    async def checks(self) -> set[int]:
        """When the living sessions are looked at next, in seconds from now."""
        page = await self.memory.find(self.kit.query(state="all", limit=10_000))
        return {round((one.check_at - self.clock()) / SECOND) for one in page.records if one.ended_at is None}


async def sweep(db: SessionDB, most: int = 100) -> int:
    """Sweep until there is no more; how many ended."""
    ended = 0
    for _ in range(most):
        swept = await db.sweep()
        ended += len(swept.ended)
        if not swept.more:
            return ended
    raise AssertionError("sweeping comes to no end")


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    await place.memory.open()
    yield place
    await place.memory.close()


GRACE = SWEEP_GRACE // SECOND
STEP = Batching().sweep


@pytest.mark.parametrize("at_run_time", [False, True], ids=["restarted", "at run time"])
async def test_sessions_end_in_time_under_a_lowered_lifetime(place: Place, at_run_time: bool) -> None:
    async with place.worker(LONG) as db:
        for _ in range(3):
            await db.create("ann")
        assert await sweep(db) == 0
        if at_run_time:
            db.set_policy(SHORT)
            await sweep(db)
    if not at_run_time:
        async with place.worker(SHORT) as db:
            await sweep(db)
    assert await place.checks() == {HOUR + GRACE}
    async with place.worker(SHORT) as db:
        place.clock.advance(HOUR + GRACE)
        assert await sweep(db) == 3


async def test_with_nothing_lowered_a_sweep_asks_once_whether_to_walk(place: Place) -> None:
    async with place.worker(LONG) as db:
        await db.create("ann")
        await sweep(db)
    async with place.worker(LONG) as db:
        place.store.reset()
        for _ in range(3):
            await sweep(db)
        # The other one asks whether there is usage to merge.
        assert place.store.calls == {"sweep": 3, "recall": 2}


async def test_raising_walks_nowhere_and_lowering_after_it_walks_again(place: Place) -> None:
    async with place.worker(SHORT) as db:
        await db.create("ann")
        await sweep(db)
        db.set_policy(LONG)
        place.store.reset()
        await sweep(db)
        assert not place.store.calls["lower_checks"]
        await db.create("ann")
        assert await place.checks() == {HOUR, 10 * DAY}
        db.set_policy(SHORT)
        await sweep(db)
        assert await place.checks() == {HOUR, HOUR + GRACE}


async def test_a_walk_goes_on_where_the_worker_that_died_has_stopped(place: Place) -> None:
    """Another takes over when the turn is over, not before, and begins no second walk."""
    await _many(place, 3 * STEP)
    caps, now = SHORT.caps, place.clock()
    one, other = Lowering("one"), Lowering("other")
    assert await one.step(place.store, LONG.caps, now)
    while await one.step(place.store, LONG.caps, now):
        pass
    place.store.reset()
    assert await one.step(place.store, caps, now)
    assert not await other.step(place.store, caps, now + TURN - 1)
    assert place.store.calls["lower_checks"] == 1
    while await other.step(place.store, caps, now + TURN):
        pass
    assert place.store.calls["lower_checks"] == 3
    assert await place.checks() == {HOUR + GRACE}


async def test_a_step_that_fails_is_repeated(place: Place) -> None:
    await _many(place, 2 * STEP)
    faulty = FaultyStore(place.memory)
    async with place.worker(LONG) as db:
        await sweep(db)
    async with place.worker(SHORT, faulty) as db:
        faulty.next("lower_checks", Fail(), None, Fail())
        faulty.next("remember", None, None, Fail())
        for _ in range(4):
            await sweep(db)
        assert len(faulty.injected) == 3
    assert await place.checks() == {HOUR + GRACE}


async def test_what_workers_of_the_old_policy_made_is_walked_an_hour_later(place: Place) -> None:
    async with place.worker(LONG) as old, place.worker(SHORT) as new:
        await sweep(old)
        await sweep(new)
        await old.create("ann")
        await sweep(new)
        assert await place.checks() == {10 * DAY}
        place.clock.advance(AGAIN_AFTER // SECOND)
        await sweep(new)
        assert await place.checks() == {HOUR + GRACE - AGAIN_AFTER // SECOND}
        place.store.reset()
        place.clock.advance(AGAIN_AFTER // SECOND)
        await sweep(new)
        assert not place.store.calls["lower_checks"], "twice is enough"


async def test_a_lifetime_lowered_during_a_walk_is_walked_from_the_start(place: Place) -> None:
    await _many(place, 2 * STEP)
    async with place.worker(LONG) as db:
        await sweep(db)
        db.set_policy(SHORT)
        assert (await db.sweep()).more
        db.set_policy(SHORTER)
        await sweep(db)
    assert await place.checks() == {HOUR / 2 + GRACE}


async def test_a_worker_with_another_policy_goes_on_with_the_walk_of_others(place: Place) -> None:
    """And what it allows longer is lowered all the same: to look too early does no harm, to look too late does."""
    await _many(place, 2 * STEP)
    async with place.worker(LONG) as db:
        await sweep(db)
    async with place.worker(SHORT) as db:
        assert (await db.sweep()).more
    place.clock.advance(TURN // SECOND)
    async with place.worker(Policy(idle=10 * DAY, absolute=20 * DAY)) as db:
        await sweep(db)
    assert await place.checks() == {HOUR + GRACE - TURN // SECOND}


async def test_something_else_under_its_name_in_the_database_is_no_obstacle(place: Place) -> None:
    async with place.worker(LONG) as db:
        await db.create("ann")
    for text in ("", "null", "{}", '{"caps": 1}'):
        await place.memory.remember("lowering", text)
        assert await recalled(place.memory) is None
    async with place.worker(SHORT) as db:
        await sweep(db)
    assert await place.checks() == {HOUR + GRACE}


async def test_more_policies_than_the_database_remembers_are_walked_by_each_worker(place: Place) -> None:
    await _many(place, 2 * STEP)
    many = {f"policy-of-department-number-{number:04}": SHORT for number in range(200)}
    async with SessionDB(place.store, policy=SHORT, policies=many, clock=place.clock, sweep_every=None) as db:
        await sweep(db)
        assert await place.checks() == {HOUR + GRACE}
        place.store.reset()
        await sweep(db)
        assert not place.store.calls["lower_checks"]


async def test_the_command_line_sweeps_by_the_lifetimes_of_the_app(place: Place) -> None:
    """And does not have the app walk for its own."""
    async with place.worker(LONG) as db:
        await db.create("ann")
        await sweep(db)
        db.set_policy(SHORT)
        await sweep(db)
    place.clock.advance(HOUR + GRACE)
    ages = timedelta(days=3650)
    async with place.worker(Policy(idle=ages, absolute=ages, remember=ages)) as db:
        await db.runtime.sweeping.judge_as_the_app_does()
        assert await sweep(db) == 1
    walk = await recalled(place.memory)
    assert walk is not None
    assert walk.caps == SHORT.caps


async def test_an_app_that_leaves_sweeping_to_others_tells_its_lifetimes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, soon after it has started; the command line, which makes no sessions of its own, tells none."""
    monkeypatch.setattr("sessiondb.sweeping.NOTE_EVERY", 0.001)
    async with SessionDB(place.store, clock=place.clock, sweep_every=None, announce=True) as command:
        assert "lifetimes" not in command.runtime.timers.names
    async with place.worker(SHORT), asyncio.timeout(20):
        while (walk := await recalled(place.memory)) is None:
            await asyncio.sleep(0.001)
    assert walk.caps == SHORT.caps


async def test_the_command_line_leaves_a_database_that_no_app_has_used_alone(place: Place) -> None:
    async with place.worker(LONG) as db:
        await db.create("ann")
        await db.runtime.sweeping.judge_as_the_app_does()
        assert await sweep(db) == 0
    assert await place.memory.recall("lowering") is None


@pytest.mark.security("L12")
@pytest.mark.parametrize("kind", KINDS)
async def test_no_living_session_is_missed_on_any_database(kind: str, tmp_path: Path) -> None:
    """While others are made, used and ended, two workers walk; all that were there are swept when they are over."""
    store = open_store(new_url(kind, tmp_path))
    await store.open()
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    records = [kit.record("ann") for _ in range(STEP + 300)]
    await kit.put_in(store, *records)
    caps = SHORT.caps
    workers = [Lowering("one"), Lowering("other")]
    for worker in workers:
        await worker.note(store, LONG.caps, kit.now)
    used, gone = records[::7], set(records[3::7])

    async def walk(worker: Lowering) -> None:
        while await worker.step(store, caps, kit.now):
            await asyncio.sleep(0)

    async def use() -> None:
        for record in used:
            await store.apply([kit.update(record, {"a": 1})])

    async def end() -> None:
        for record in gone:
            await store.apply([kit.end(record)])

    await asyncio.gather(*(walk(worker) for worker in workers), use(), end())
    later = kit.now + HOUR * SECOND + SWEEP_GRACE
    cutoffs = Cutoffs(now=round(later), caps=caps, keep_ended=round(DAY * SECOND))
    ended: list[str] = []
    while (swept := await store.sweep(cutoffs, 500)).ended or swept.more:
        ended += [one.sid for one in swept.ended]
    expected = {record.sid for record in records} - {record.sid for record in gone}
    assert len(ended) == len(set(ended))
    assert set(ended) == expected
    await store.close()


lives = st.builds(Lifetimes, st.integers(1, 4), st.integers(1, 4))
every_caps = st.builds(Caps, lives, lives, st.dictionaries(st.sampled_from(["a", "b", "c"]), lives))


@given(every_caps, every_caps, st.sampled_from(["normal", "remembered", "a", "b", "c", "gone"]))
def test_the_lesser_of_two_caps_is_lower_for_everyone(one: Caps, two: Caps, name: str) -> None:
    lesser = one.lesser(two)
    assert not one.is_lower_than(lesser)
    assert not two.is_lower_than(lesser)
    assert lesser.of(name).idle == min(one.of(name).idle, two.of(name).idle)
    assert lesser.of(name).absolute == min(one.of(name).absolute, two.of(name).absolute)
    assert lesser.is_lower_than(one) == two.is_lower_than(one)


async def _many(place: Place, count: int) -> list[Record]:
    place.kit.now = place.clock()
    records = [place.kit.record("ann", idle=round(10 * DAY * SECOND)) for _ in range(count)]
    await place.kit.put_in(place.memory, *records)
    return records
