"""What looks at many sessions does as the store in memory does: one deadline, one order, one limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from secrets import token_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from databases import KINDS, new_url
from sessiondb import open_store
from sessiondb.core.change import Create, End, new_change_id
from sessiondb.core.policy import Caps, Lifetimes
from sessiondb.core.record import LINK_BYTES, EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import SWEEP_GRACE, Admission, Cutoffs, Ended, Login, OnLimit, Query, Store
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY
from sessiondb.testing.kit import Kit

# Small numbers around each other and around the grace of the sweeper, so that many things happen at the same moment.
PASSES = 100
MOMENTS = [0, 1, 2, 3, SWEEP_GRACE, SWEEP_GRACE + 1, SWEEP_GRACE + 2]
moments = st.sampled_from(MOMENTS)
lives = st.sampled_from([1, 2, 3, SWEEP_GRACE + 1, DAY])
lifetimes = st.builds(Lifetimes, lives, lives)
# Names that a database may take for one, or for a part of its own language.
NAMES = ["normal", "remembered", "staff", "staff ", "Staff", "it's", "$1"]
names = st.sampled_from(NAMES)
caps = st.builds(Caps, lifetimes, lifetimes, st.dictionaries(st.sampled_from(NAMES[2:]), lifetimes, max_size=3))
links = st.one_of(st.none(), st.integers(0, 1))
announcements = st.one_of(st.none(), st.sampled_from([1, 2, SWEEP_GRACE, DAY]))
sessions = st.tuples(moments, moments, lives, lives, names, st.booleans(), st.frozensets(st.integers(0, 1)))
steps = st.one_of(
    st.tuples(st.just("find"), st.sampled_from(["live", "ended", "all"]), st.integers(1, 4), links),
    st.tuples(
        st.just("admit"), st.integers(0, 9), st.integers(1, 4), st.sampled_from(["end_oldest", "refuse"]), announcements
    ),
    st.tuples(st.just("end"), st.booleans(), st.one_of(st.none(), st.integers(0, 9)), links, announcements),
    st.tuples(st.just("sweep"), st.integers(1, 9), announcements),
    st.tuples(st.just("announced"), st.frozensets(st.integers(0, 9), max_size=4)),
    st.tuples(st.just("lower"), caps, st.integers(1, 4)),
    st.tuples(st.just("wait"), moments),
)
Made = tuple[int, int, int, int, str, bool, frozenset[int]]


@pytest.fixture(params=KINDS, scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_url(request.param, tmp_path_factory.mktemp("sets"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(sessions, min_size=1, max_size=10), caps, st.lists(steps, min_size=1, max_size=8))
def test_every_store_is_a_twin_of_the_one_in_memory(
    url: str, made: list[Made], caps: Caps, steps: list[tuple[object, ...]]
) -> None:
    asyncio.run(_compare(url, made, caps, steps))


async def _compare(url: str, made: list[Made], caps: Caps, steps: list[tuple[object, ...]]) -> None:
    store = open_store(url)
    await store.open()
    start = await store.clock() - DAY
    try:
        kit = Kit(lambda: store, ManualClock())
        kit.now = start
        twin = MemoryStore(clock=lambda: start + DAY)
        await twin.open()
        records = [_record(kit, start, *one) for one in made]
        # Each example has links of its own: what is left of another one is found by others.
        own = [token_bytes(LINK_BYTES) for _ in range(2)]
        for both in (store, twin):
            creates = [
                Create(record, tuple(own[at] for at in linked))
                for record, (*_, linked) in zip(records, made, strict=True)
            ]
            await both.apply(creates)
            gone = [record for record, (*_, is_ended, _) in zip(records, made, strict=True) if is_ended]
            await both.apply(
                [End(record.sid, new_change_id(), EndReason.LOGOUT, start, start + SWEEP_GRACE) for record in gone]
            )
        now = start
        for step in steps:
            if step[0] == "wait":
                now += int(str(step[1]))
                continue
            answers = [await _step(both, step, records, own, caps, now) for both in (store, twin)]
            assert answers[0] == answers[1], step
            found = [await both.load([record.sid for record in records]) for both in (store, twin)]
            for one, other in zip(*found, strict=True):
                assert _shown(one) == _shown(other), step
    finally:
        # Also after a failure: the next example has the same database.
        await _clear(store, start + 10 * DAY, caps)
        await store.close()


def _record(
    kit: Kit, start: int, created: int, seen: int, idle: int, absolute: int, lifetime: str, *_: object
) -> Record:
    return kit.record(
        "ann",
        created_at=start - created,
        last_seen_at=start - min(created, seen),
        idle=idle,
        absolute=absolute,
        lifetime=lifetime,
        check_at=start - created + min(idle, absolute),
    )


async def _step(
    store: Store, step: tuple[object, ...], records: list[Record], own: list[bytes], caps: Caps, now: int
) -> object:
    match step:
        case ("find", str() as state, int() as limit, at):
            link = own[at] if isinstance(at, int) else None
            pages: list[list[Sid]] = []
            before: Sid | None = None
            while True:
                page = await store.find(
                    Query(
                        now=now,
                        caps=caps,
                        # By link alone, whoever's the sessions are.
                        user_id="ann" if link is None else None,
                        link=link,
                        state=state,  # type: ignore[arg-type]
                        limit=limit,
                        before=before,
                    )
                )
                pages.append([record.sid for record in page.records])
                before = page.next
                if before is None:
                    return pages
        case ("admit", int() as at, int() as most, ("end_oldest" | "refuse") as on_limit, again):
            record = records[at % len(records)]
            if caps.deadline(record) <= now:
                return None  # nobody asks for a session that is over: it has just been written
            return _plain(await store.admit(_login(record, caps, now, most, on_limit, _later(now, again))))
        case ("end", bool() as forbids, keep, at, again):
            kept = records[keep % len(records)].sid if isinstance(keep, int) else None
            query = Query(
                now=now,
                caps=caps,
                user_id="ann",
                keep=kept,
                # Before all logins: it ends who is there, and refuses nobody later.
                not_before=1 if forbids else None,
                purge_at=now + SWEEP_GRACE,
                link=own[at] if isinstance(at, int) else None,
                announce_at=_later(now, again),
            )
            return _sorted(await store.end_where(query, EndReason.REVOKED))
        case ("announced", frozenset() as which):
            await store.announced([records[at % len(records)].sid for at in {at % len(records) for at in which}])
            return None
        case ("lower", Caps() as lowered, int() as limit):
            after: str | None = None
            for _ in range(PASSES):
                after = await store.lower_checks(lowered, after, limit)
                if after is None:
                    return None
            raise AssertionError("walking comes to no end")
        case ("sweep", int() as limit, again):
            # Which of those that are due at the same moment comes first is not said: all of them, then.
            swept: list[Ended] = []
            unannounced: list[Ended] = []
            purged = 0
            cutoffs = Cutoffs(now=now, caps=caps, keep_ended=SWEEP_GRACE, announce_at=_later(now, again))
            for _ in range(PASSES):
                done = await store.sweep(cutoffs, limit)
                swept += done.ended
                unannounced += done.unannounced
                purged += done.purged
                if not done.more:
                    return _sorted(swept), _sorted(unannounced), purged
            raise AssertionError("sweeping comes to no end")
    raise AssertionError(step)


def _later(now: int, pause: object) -> int | None:
    return now + pause if isinstance(pause, int) else None


def _login(record: Record, caps: Caps, now: int, most: int, on_limit: OnLimit, announce_at: int | None) -> Login:
    return Login(
        sid=record.sid,
        user_id="ann",
        began_at=now,
        now=now,
        caps=caps,
        per_user=most,
        on_limit=on_limit,
        purge_at=now + SWEEP_GRACE,
        announce_at=announce_at,
    )


def _plain(admission: Admission) -> object:
    return admission.refused, _sorted(admission.ended)


def _sorted(ended: Sequence[Ended]) -> list[Ended]:
    return sorted(ended, key=lambda one: one.sid)


def _shown(record: Record | None) -> object:
    if record is None:
        return None
    # Ids of changes that a store draws itself are its own.
    return record.ended_at, record.end_reason, record.check_at, record.purge_at, record.rev, record.last_seen_at


async def _clear(store: Store, now: int, caps: Caps) -> None:
    await store.end_where(Query(now=now, caps=caps, user_id="ann", purge_at=now), EndReason.REVOKED)
    assert not (await store.sweep(Cutoffs(now=now + DAY, caps=caps, keep_ended=0), 1000)).more
