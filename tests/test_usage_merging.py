"""Sheets of many workers become one of each hour, and later one of each day; whoever reads meanwhile reads the same."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from harness import DAY, MINUTE, Shop, open_shop
from sessiondb import SessionDB
from sessiondb.core.hyperloglog import hash_of
from sessiondb.core.policy import SECOND
from sessiondb.core.usage import DAYS, HOURS, Tally
from sessiondb.core.usage_series import Usage
from sessiondb.stores.base import Sheet, StoreUnavailable
from sessiondb.testing import Cancel, Fail, LoseReply
from sessiondb.usage_merging import FINAL_HOURS

HOUR_MICROS = 3600 * SECOND


async def workers_saw(shop: Shop, hours: int, workers: int = 3, *, users: int = 4) -> int:
    """Have so many workers publish, for each of the last ``hours``; returns how many logins there were."""
    this = shop.clock.now // HOUR_MICROS
    logins = 0
    for hour in range(this - hours, this):
        for worker in range(workers):
            tally = Tally()
            for user in range(users):
                tally.active(hash_of(f"user{user}"), hash_of(f"session{user} of {worker}"))
                tally.logged_in("desktop", f"Browser {worker % 9}", "DE")
                logins += 1
            tally.ended("logout", (worker + 1) * SECOND)
            expires_at = (hour + 1) * HOUR_MICROS + 400 * 24 * HOUR_MICROS
            await shop.memory.publish([Sheet(HOURS, hour, f"worker{worker}", tally.encode(), expires_at)])
    return logins


async def turn(shop: Shop, db: SessionDB | None = None) -> None:
    """Ten minutes later, one worker has the turn."""
    shop.clock.advance(10 * MINUTE)
    await (db or shop.db).runtime.merging.merge_in_turn()


async def counted(shop: Shop, sheets: str = HOURS) -> dict[int, int]:
    found: dict[int, int] = {}
    for sheet in await shop.memory.sheets(sheets, 0, 2**40):
        found[sheet.bucket] = found.get(sheet.bucket, 0) + 1
    return found


def numbers(usage: Usage) -> list[Any]:
    """What must stay the same whatever is merged; what lives is looked at each turn."""
    points = [*usage.points, replace(usage.total, start=0, end=0)]
    return [replace(point, live_sessions=None, live_users=None) for point in points if point.logins]


async def test_hours_become_one_sheet_each_when_they_are_final() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        await workers_saw(shop, 10)
        before = numbers(await shop.db.usage(by="hour"))
        await turn(shop)
        found = await counted(shop)
        this = shop.clock.now // HOUR_MICROS
        final = range(this - 10, this - FINAL_HOURS)
        assert [found[hour] for hour in final] == [4] * len(final), "the merged one, and its parts still"
        await turn(shop)
        found = await counted(shop)
        assert [found[hour] for hour in final] == [1] * len(final)
        assert [found[hour] for hour in range(this - FINAL_HOURS, this)] == [3] * FINAL_HOURS
        assert numbers(await shop.db.usage(by="hour")) == before


async def test_hours_become_days_after_two_days() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        logins, began_at = await workers_saw(shop, 24 * 5), shop.clock.now
        days = numbers(await shop.db.usage(by="day"))
        weeks = numbers(await shop.db.usage(by="week"))
        for _ in range(8):
            await turn(shop)
            assert numbers(await shop.db.usage(by="day")) == days
        assert numbers(await shop.db.usage(by="week")) == weeks
        assert (await shop.db.usage(by="day")).total.logins == logins
        first = shop.clock.now // DAY_MICROS - 5
        merged = await counted(shop, DAYS)
        assert merged == {first + number: 1 for number in range(len(merged))}
        assert len(merged) in (3, 4)
        assert min(await counted(shop)) == 24 * (first + len(merged))
        # Of the merged days no hour can be told, and none is shown as if nothing had been.
        hours = await shop.db.usage(shop.clock.now - 6 * DAY_MICROS, by="hour")
        left = range(24 * (first + len(merged)), began_at // HOUR_MICROS)
        assert [point.start for point in hours.points if point.logins] == [hour * HOUR_MICROS for hour in left]
        assert not {point.start // DAY_MICROS for point in hours.points} & merged.keys()


DAY_MICROS = 24 * HOUR_MICROS


@pytest.mark.parametrize("method", ["publish", "withdraw", "remember", "recall", "sheets", "stats"])
@pytest.mark.parametrize("fault", [Fail(), LoseReply(), Cancel(), Cancel(applied=True)], ids=["f", "l", "c", "ca"])
async def test_one_that_fails_half_way_breaks_nothing(method: str, fault: Any) -> None:
    async with open_shop() as shop:
        await shop.db.open()
        await workers_saw(shop, 24 * 4, 2)
        days = numbers(await shop.db.usage(by="day"))
        for number in range(12):
            shop.clock.advance(10 * MINUTE)
            shop.faults.next(method, *([None] * (number // 2)), fault)
            try:
                await asyncio.create_task(shop.db.runtime.merging.merge_in_turn())
            except (Exception, asyncio.CancelledError):
                pass
            shop.faults._script.clear()
            assert numbers(await shop.db.usage(by="day")) == days
        for _ in range(8):
            await turn(shop)
        assert numbers(await shop.db.usage(by="day")) == days
        assert set((await counted(shop, DAYS)).values()) == {1}
        assert len(await counted(shop, DAYS)) >= 2


async def test_two_at_once_count_nothing_twice() -> None:
    async with open_shop() as shop, shop.another_db() as other:
        await shop.db.open()
        await workers_saw(shop, 24 * 4)
        days = numbers(await shop.db.usage(by="day"))
        for number in range(6):
            shop.clock.advance(10 * MINUTE)
            if number % 2:
                # As if each had not known of the other.
                await shop.memory.remember("usage_merging", "{}")
            await asyncio.gather(shop.db.runtime.merging.merge_in_turn(), other.runtime.merging.merge_in_turn())
            assert numbers(await shop.db.usage(by="day")) == days
        for _ in range(4):
            await turn(shop)
        assert numbers(await shop.db.usage(by="day")) == days
        assert set((await counted(shop, DAYS)).values()) == {1}


async def test_one_worker_at_a_time_has_the_turn() -> None:
    async with open_shop() as shop, shop.another_db() as other:
        await turn(shop)
        calls = shop.store.calls["stats"]
        await other.runtime.merging.merge_in_turn()
        assert shop.store.calls["stats"] == calls
        await turn(shop, other)
        assert shop.store.calls["stats"] == calls + 1


async def test_a_sweep_by_hand_merges_too_and_is_not_undone_by_it() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        await workers_saw(shop, 10)
        shop.faults.next("recall", None, Fail())
        await shop.db.sweep()
        for _ in range(2):
            shop.clock.advance(10 * MINUTE)
            await shop.db.sweep()
        assert (await counted(shop))[shop.clock.now // HOUR_MICROS - 9] == 1


async def test_what_was_noted_and_cannot_be_read_begins_anew() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        await workers_saw(shop, 10)
        for _ in range(3):
            await turn(shop)
            await shop.memory.remember("usage_merging", "no JSON")
        assert (await counted(shop))[shop.clock.now // HOUR_MICROS - 9] == 1


async def test_very_many_workers_are_merged_in_several_turns() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        await workers_saw(shop, FINAL_HOURS + 1, 600, users=1)
        before = numbers(await shop.db.usage(by="hour"))
        hour = min(await counted(shop))
        counts = []
        for _ in range(6):
            await turn(shop)
            counts.append((await counted(shop))[hour])
            assert numbers(await shop.db.usage(by="hour")) == before
        assert counts[-1] == 1
        assert max(counts) <= 602


async def test_numbers_go_after_their_time() -> None:
    async with open_shop(keep_usage=10 * DAY) as shop:
        await shop.logged_in()
        await shop.db.usage()
        for _ in range(8):
            shop.clock.advance(DAY / 2)
            await turn(shop)
            await turn(shop)
        assert (await shop.db.usage()).total.logins == 1
        [sheet] = await shop.memory.sheets(DAYS, 0, 2**40)
        assert abs(sheet.expires_at - shop.clock.now) < 11 * DAY_MICROS
        await shop.memory.expire(shop.clock.now, 1000)
        assert (await shop.db.usage()).total.logins == 1
        shop.clock.advance(11 * DAY)
        await shop.memory.expire(shop.clock.now, 1000)
        assert (await shop.db.usage()).total.logins == 0


async def test_reading_takes_bounded_memory_and_lets_others_run() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        today = shop.clock.now // DAY_MICROS
        for day in range(today - 400, today):
            full = Tally()
            for number in range(1000):
                full.active(hash_of(f"user{day + number}"), hash_of(f"session{day + number}"))
            data = full.encode()
            await shop.memory.publish([Sheet(DAYS, day, "m", data, 2**60)])
        longest = 0.0
        done = asyncio.Event()

        async def watch() -> None:
            nonlocal longest
            loop = asyncio.get_running_loop()
            while not done.is_set():
                before = loop.time()
                await asyncio.sleep(0)
                longest = max(longest, loop.time() - before)

        watching = asyncio.create_task(watch())
        tracemalloc.start()
        usage = await shop.db.usage(shop.clock.now - 400 * DAY_MICROS, by="day")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        done.set()
        await watching
        assert len(usage.points) == 401
        assert usage.total.active_users == pytest.approx(1399, rel=0.05)
        assert 400 * len(data) > 6_000_000
        assert peak < 6_000_000
        assert shop.store.calls["sheets"] < 300
        assert longest < 1.0


# -- forgetting -----------------------------------------------------------------------------------------------


async def test_a_user_who_is_forgotten_is_in_no_sheet() -> None:
    async with open_shop() as shop, shop.another_db() as other:
        await shop.db.open()
        await workers_saw(shop, 24 * 4, 2)
        for _ in range(6):
            await turn(shop)
        await shop.db.create("user1")
        await other.create("user1")
        await other.usage()
        name = hash_of("user1").to_bytes(8, "big")
        kinds = (HOURS, DAYS)
        assert all([[name in one.data for one in await shop.memory.sheets(kind, 0, 2**40)] for kind in kinds])
        await shop.db.forget("user1")
        this = shop.clock.now // HOUR_MICROS
        for kind in kinds:
            for sheet in await shop.memory.sheets(kind, 0, 2**40):
                # What others have counted in these hours is theirs to publish.
                assert name not in sheet.data or sheet.bucket >= this - 3
        # The other one has it still, and publishes it again.
        await other.create("somebody")
        await other.usage()
        for _ in range(60):
            await turn(shop)
        for kind in (*kinds, "usage_gone"):
            for sheet in await shop.memory.sheets(kind, 0, 2**40):
                assert name not in sheet.data
        usage = await shop.db.usage(shop.clock.now - 6 * DAY_MICROS, by="day")
        assert usage.total.active_users == 4
        assert usage.total.logins == 24 * 4 * 2 * 4 + 3


async def test_forgetting_fails_if_the_database_is_away_and_can_be_done_again() -> None:
    async with open_shop() as shop:
        await shop.logged_in("ann")
        await shop.db.usage()
        shop.faults.next("publish", Fail())
        with pytest.raises(StoreUnavailable):
            await shop.db.forget("ann")
        await shop.db.forget("ann")
        assert (await shop.db.usage()).total.active_users == 0
        assert (await shop.db.usage()).total.logins == 1
