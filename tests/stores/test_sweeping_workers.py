"""Many workers sweep one database at once, while requests run and workers die: no end is lost and none is repeated."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from databases import kit_on
from sessiondb.core import codec
from sessiondb.core.change import Applied, Gone
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Cutoffs, Ended, Store, Swept
from sessiondb.testing.builders import DAY, HOUR, MINUTE, PURGE_AFTER
from sessiondb.testing.kit import Kit, together

# How many are expired, and how many of them a sweep takes. The server that stands in for MongoDB's takes tens of
# milliseconds for each of a batch while others write, and is given a batch that it answers well within a timeout.
EXPIRED = {"redis": (10_000, 250), "redis_cluster": (10_000, 250), "mongodb": (80, 20)}
# Nor does it always answer the driver's monitor within the usual 1.5 s, which drops all connections then.
OPTIONS = {"mongodb": ("connectTimeoutMS=20000",)}
WORKERS = 3
LIVING = 5


@pytest.fixture(params=EXPIRED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def kit(kind: str) -> AsyncIterator[Kit]:
    async with kit_on(kind, *OPTIONS.get(kind, ())) as kit:
        yield kit


def all_of(found: list[Swept], which: Callable[[Swept], object]) -> list[Ended]:
    return [one for swept in found for one in which(swept)]  # type: ignore[attr-defined]


async def sweep_up(store: Store, cutoffs: Cutoffs, at_once: int = 250) -> list[Swept]:
    """What one worker does until there is nothing more."""
    done = [await store.sweep(cutoffs, at_once)]
    while done[-1].more:
        done.append(await store.sweep(cutoffs, at_once))
    return done


async def test_workers_sweep_while_requests_run(kind: str, kit: Kit) -> None:
    """Each end is reported once and announced once though nobody says so at first; who is used lives on; each
    tombstone is purged once, and nothing is left of them.
    """
    expired_sessions, at_once = EXPIRED[kind]
    stores = [await kit.store() for _ in range(WORKERS + 1)]
    requests = stores.pop()
    living = [kit.record("ann", {"n": 0}, age=2 * HOUR, unseen=0, check_at=kit.now - 1) for _ in range(LIVING)]
    expired = [kit.record(f"user{n % 500}", {"a": 1}, age=2 * HOUR, idle=HOUR) for n in range(expired_sessions)]
    await kit.put_in(requests, *living, *expired)
    sids = sorted(record.sid for record in expired)
    swept_up = asyncio.Event()

    async def use(record: Record) -> int:
        times = 0
        while not swept_up.is_set():
            assert isinstance(await kit.apply(requests, kit.update(record, {"n": times + 1})), Applied)
            times += 1
        return times

    async def by_all(cutoffs: Cutoffs) -> list[Swept]:
        done = await together(sweep_up(store, cutoffs, at_once) for store in stores)
        return [swept for found in done for swept in found]

    using = [asyncio.create_task(use(record)) for record in living]
    again_at = kit.now + MINUTE
    found = await by_all(kit.cutoffs(announce_at=again_at))
    assert sorted(one.sid for one in all_of(found, lambda swept: swept.ended)) == sids
    assert not all_of(found, lambda swept: swept.unannounced)
    # They died before they told anyone.
    found = await by_all(kit.cutoffs(again_at, announce_at=again_at + MINUTE))
    unannounced = all_of(found, lambda swept: swept.unannounced)
    assert sorted(one.sid for one in unannounced) == sids
    assert {(one.reason, one.at) for one in unannounced} == {("expired_idle", kit.now - HOUR)}
    assert not all_of(found, lambda swept: swept.ended)
    for start in range(0, len(sids), 1000):
        await requests.announced(sids[start : start + 1000])
    found = await by_all(kit.cutoffs(again_at + HOUR, announce_at=again_at + 2 * HOUR))
    assert not all_of(found, lambda swept: (*swept.ended, *swept.unannounced))
    found = await by_all(kit.cutoffs(kit.now + PURGE_AFTER))
    purged = sum(swept.purged for swept in found)
    # MongoDB purges by itself too, once a minute, and tells nobody.
    assert purged <= len(sids) if kind == "mongodb" else purged == len(sids)
    assert [record for sid in sids[:: len(sids) // 10] if (record := (await requests.load([sid]))[0])] == []
    assert not all_of(found, lambda swept: (*swept.ended, *swept.unannounced))
    swept_up.set()
    for record, task in zip(living, using, strict=True):
        times = await task
        assert times > 0
        assert codec.decode_data((await kit.record_of(requests, record.sid)).data) == {"n": times}
    stats = await requests.stats()
    assert (stats.live, stats.ended, stats.users) == (LIVING, 0, 1)


async def test_workers_that_die_lose_no_end(kit: Kit) -> None:
    """Sweeps are cut off wherever they are: each end is told at least once, by whoever wrote it or by a later sweep."""
    store = await kit.store()
    expired = [kit.record("ann", age=2 * HOUR, idle=HOUR) for _ in range(200)]
    await kit.put_in(store, *expired)
    told: Counter[Sid] = Counter()

    def tell(swept: Swept) -> None:
        told.update(one.sid for one in (*swept.ended, *swept.unannounced))

    again_at = kit.now + MINUTE
    for turns in range(40):
        worker = await kit.store()
        sweeping = asyncio.create_task(worker.sweep(kit.cutoffs(announce_at=again_at), 30))
        for _ in range(turns):
            await asyncio.sleep(0)
        sweeping.cancel()
        try:
            tell(await sweeping)
        except asyncio.CancelledError:
            pass
        await kit.close(worker)
    for at in (kit.now, again_at):
        for swept in await sweep_up(store, kit.cutoffs(at, announce_at=again_at + MINUTE)):
            tell(swept)
    assert told.keys() == {record.sid for record in expired}
    assert {(await kit.record_of(store, record.sid)).end_reason for record in expired} == {"expired_idle"}


async def test_a_session_that_is_used_at_its_last_moment_is_ended_or_used(kit: Kit) -> None:
    """Touches race the sweeper: whoever is told that the touch landed is not ended by a sweep of that moment."""
    stores = await kit.stores(3)
    expired = [kit.record("ann", {"n": 0}, age=2 * HOUR, idle=HOUR) for _ in range(200)]
    await kit.put_in(stores[0], *expired)

    async def touch(records: list[Record]) -> dict[Sid, bool]:
        landed = {}
        for record in records:
            result = await kit.apply(stores[0], kit.touch(record))
            assert isinstance(result, Applied) or result == Gone("expired_idle")
            landed[record.sid] = isinstance(result, Applied)
        return landed

    landed, *found = await asyncio.gather(touch(expired), *(sweep_up(store, kit.cutoffs()) for store in stores[1:]))
    ended = [one.sid for swept in found for one in all_of(swept, lambda one: one.ended)]
    assert sorted(ended) == sorted(sid for sid, is_used in landed.items() if not is_used)
    for sid, is_used in landed.items():
        assert ((await kit.record_of(stores[0], sid)).ended_at is None) == is_used
    swept_later = await sweep_up(stores[1], kit.cutoffs(kit.now + DAY))
    assert sorted(one.sid for one in all_of(swept_later, lambda one: one.ended)) == sorted(
        sid for sid, is_used in landed.items() if is_used
    )
