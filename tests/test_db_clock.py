"""The store's clock counts: this machine's is corrected by it, and a large difference is told."""

from __future__ import annotations

import logging

import pytest

from harness import DAY, HOUR, MINUTE, Shop, open_shop
from sessiondb import Policy, StoreUnavailable
from sessiondb.runtime import Runtime
from sessiondb.testing import Fail


def runtime_of(shop: Shop) -> Runtime:
    return shop.db.runtime


@pytest.mark.security("S7")
@pytest.mark.parametrize("skew", [-DAY, -HOUR, 1.5, HOUR, 400 * DAY])
async def test_time_is_the_stores_however_wrong_this_machines_is(skew: float) -> None:
    async with open_shop(policy=Policy(idle=HOUR)) as shop:
        shop.memory._clock = lambda: shop.clock.now + round(skew * 1e6)
        browser = await shop.logged_in()
        [info] = await shop.db.sessions_of("ann")
        assert info.created_at == shop.clock.now + round(skew * 1e6)
        assert runtime_of(shop).now() == info.created_at
        created = await shop.db.create("bob")
        assert created.session.created_at == info.created_at
        shop.clock.advance(HOUR - 1)
        assert await browser.user() == "ann"
        shop.clock.advance(HOUR + MINUTE)
        assert await browser.user() is None


@pytest.mark.parametrize(
    ("skew", "said"), [(3600.0, "3600.0 s behind"), (-90.0, "90.0 s ahead of"), (2.5, "2.5 s behind")]
)
async def test_a_clock_more_than_two_seconds_off_is_told_with_the_cure(
    skew: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_shop() as shop:
        shop.faults.skew = skew
        with caplog.at_level(logging.WARNING, "sessiondb"):
            await shop.db.open()
        [record] = caplog.records
        assert said in record.getMessage()
        assert "NTP" in record.getMessage()


@pytest.mark.parametrize("skew", [0.0, 0.0005, 1.9, -1.9])
async def test_a_small_difference_is_not_worth_a_word(skew: float, caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop() as shop:
        shop.faults.skew = skew
        with caplog.at_level(logging.WARNING, "sessiondb"):
            await shop.db.open()
        assert caplog.records == []


async def test_a_difference_within_the_round_trip_is_none() -> None:
    async with open_shop() as shop:
        shop.faults.skew = 0.0005
        await shop.db.open()
        assert runtime_of(shop).now() == shop.clock.now


async def test_the_clock_is_measured_again_while_the_app_runs() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        runtime = runtime_of(shop)
        assert "clock" in runtime.timers.names
        shop.faults.skew = HOUR
        await runtime.timers._run("clock", lambda: 3600.0, runtime._measure_clock)
        assert runtime.now() == shop.clock.now + round(HOUR * 1e6)
        assert "clock" in runtime.timers.names
        shop.faults.next("clock", Fail())
        await runtime.timers._run("clock", lambda: 3600.0, runtime._measure_clock)
        assert runtime.now() == shop.clock.now + round(HOUR * 1e6)
        assert "clock" in runtime.timers.names


async def test_a_database_whose_clock_cannot_be_read_is_not_open_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.runtime.REOPEN_PAUSE", 0.0)
    async with open_shop(sweep_every=60.0) as shop:
        shop.faults.skew = HOUR
        shop.faults.next("clock", Fail())
        with pytest.raises(StoreUnavailable):
            await shop.db.create()
        assert (shop.store.calls["open"], shop.store.calls["close"]) == (1, 1)
        assert runtime_of(shop).timers.names == set()
        await shop.db.create()
        assert runtime_of(shop).now() == shop.clock.now + round(HOUR * 1e6)
        assert runtime_of(shop).timers.names >= {"clock", "sweep", "keeping"}
