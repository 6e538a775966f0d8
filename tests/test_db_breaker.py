"""The circuit breaker seen from a request: what is refused, what goes on, what is told, and what it costs."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from harness import MINUTE, Shop, open_shop, put, unawaited
from sessiondb import CircuitBreaker, StoreUnavailable
from sessiondb.core import token
from sessiondb.core.breaker import Circuit
from sessiondb.stores.base import Batching
from sessiondb.stores.coalescing import CoalescingStore
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, Fail, FaultyStore, Hang, LoseReply
from sessiondb.testing.clock import START

# Opens at once, and lets nobody through before the test says so.
AT_ONCE = CircuitBreaker(failures=3, window=0.0, first_pause=300.0, longest_pause=300.0)


def circuits(shop: Shop) -> tuple[Circuit, Circuit]:
    runtime = shop.db.runtime
    return runtime.read_circuit, runtime.write_circuit


@pytest.mark.security("S5")
async def test_a_dead_database_is_not_asked_for_every_request_and_is_found_to_be_back() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.logged_in()
        shop.faults.down = True
        for _ in range(3):
            assert (await browser.do(dict)).status == 503
        shop.store.reset()
        replies = await asyncio.gather(*(browser.twin().do(dict) for _ in range(100)))
        assert {(reply.status, reply.cookie) for reply in replies} == {(503, None)}
        assert shop.store.calls["load"] == 0
        assert shop.db.counters["breaker_refused"] == 100
        reads, _ = circuits(shop)
        # One of all that come is the probe.
        reads.probe_now()
        await asyncio.gather(*(browser.twin().do(dict) for _ in range(100)))
        assert shop.store.calls["load"] == 1
        shop.faults.down = False
        assert (await browser.do(dict)).status == 503
        reads.probe_now()
        assert await browser.user() == "ann"
        assert [await twin.user() for twin in [browser.twin() for _ in range(5)]] == ["ann"] * 5


async def test_the_503_says_when_the_database_is_asked_again() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.logged_in()
        shop.faults.down = True
        for _ in range(3):
            assert (await browser.do(dict)).headers["retry-after"] == "1"
        assert 150 <= int((await browser.do(dict)).headers["retry-after"]) <= 300
        for _ in range(3):
            assert (await shop.browser().do(put(a=1))).headers["retry-after"] == "1"
        reply = await shop.browser().do(put(a=1))
        assert (reply.status, reply.cookie) == (503, None)
        assert 150 <= int(reply.headers["retry-after"]) <= 300
        # A page that asks for the session twice is told the same twice.
        shop.faults.down = False


async def test_a_database_that_cannot_be_written_is_still_read_and_the_other_way_round() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.with_cart(cart=["tea"])
        shop.faults.always["apply"] = Fail()
        for _ in range(5):
            assert (await browser.do(put(a=1))).status == 503
        assert [circuit.is_open for circuit in circuits(shop)] == [False, True]
        assert await browser.read() == {"cart": ["tea"]}
        shop.faults.always.clear()
        _, writes = circuits(shop)
        writes.probe_now()
        assert (await browser.do(put(a=1))).status == 200
        shop.faults.always["load"] = Fail()
        for _ in range(5):
            assert (await browser.do(dict)).status == 503
        assert [circuit.is_open for circuit in circuits(shop)] == [True, False]
        assert (await shop.browser().do(put(a=1))).cookie == "set"


async def test_every_verb_outside_a_request_fails_at_once_and_says_why() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        issued = await shop.db.create("ann")
        shop.faults.down = True
        for _ in range(3):
            for call in (lambda: shop.db.get(issued.session.sid), lambda: shop.db.revoke(issued.session.sid)):
                with pytest.raises(StoreUnavailable, match="planned outage"):
                    await call()  # type: ignore[no-untyped-call]
        shop.faults.down = False
        shop.store.reset()
        for call in (
            lambda: shop.db.create(),
            lambda: shop.db.create("ann"),
            lambda: shop.db.get(issued.session.sid),
            lambda: shop.db.sessions_of("ann"),
            lambda: shop.db.revoke(issued.session.sid),
            lambda: shop.db.revoke_all("ann"),
            lambda: shop.db.sweep(),
            lambda: shop.db.stats(),
        ):
            with pytest.raises(StoreUnavailable, match=r"circuit breaker is open.*planned outage") as refused:
                await call()  # type: ignore[no-untyped-call]
            assert refused.value.retry_after is not None
            assert refused.value.outcome == "not_applied"
        assert shop.store.total == 0
        _, writes = circuits(shop)
        writes.probe_now()
        assert await shop.db.revoke_all("ann") == 1
        # Writing works, so reading is tried at once.
        assert await shop.db.get(issued.session.sid) is not None


async def test_conflicts_and_refused_values_are_no_outage() -> None:
    async with open_shop(breaker=CircuitBreaker(failures=1, window=0.0)) as shop:
        browser = await shop.with_cart()
        for _ in range(5):
            assert (await browser.do(put(a=object()))).status == 500
        assert (await browser.do(put(a=1))).status == 200
        # A lost reply that is found to have landed is a success.
        for number in range(5):
            shop.faults.next("apply", LoseReply())
            assert (await browser.do(put(a=number + 2))).status == 200
        assert shop.db.counters["breaker_opened"] == 0


async def test_calls_that_are_not_answered_in_time_open_it_and_those_behind_them_wait_no_longer() -> None:
    async with open_shop(breaker=AT_ONCE, timeout=0.2) as shop:
        browser = await shop.with_cart()
        shop.faults.always["load"] = Hang()
        for _ in range(3):
            assert (await browser.do(dict)).status == 503
        shop.store.reset()
        replies = await asyncio.gather(*(browser.twin().do(dict) for _ in range(50)))
        assert {reply.status for reply in replies} == {503}
        assert shop.store.calls["load"] == 0
        shop.faults.always.clear()
        circuits(shop)[0].probe_now()
        assert (await browser.do(dict)).status == 200


class OneByOne(FaultyStore):
    """One call at a time, of one session."""

    batching = Batching(loads=1, changes=1, in_flight=1)


async def test_what_is_queued_when_it_opens_fails_with_it() -> None:
    store = OneByOne(MemoryStore())
    counted = CountingStore(store)
    circuit = Circuit("memory, reading", CircuitBreaker(failures=1, window=0.0), clock=time.monotonic)
    coalescing = CoalescingStore(counted, reads=circuit)
    await coalescing.open()
    store.always["load"] = Fail()
    sids = [token.mint(START).sid for _ in range(20)]
    failed = await asyncio.gather(*(coalescing.load([sid]) for sid in sids), return_exceptions=True)
    assert counted.calls["load"] == 1
    assert all(isinstance(error, StoreUnavailable) for error in failed)
    assert ["circuit breaker is open" in str(error) for error in failed] == [False] + [True] * 19
    await coalescing.close()


async def test_touches_wait_while_it_is_open_and_are_written_when_it_closes() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(2 * MINUTE)
        await browser.do(dict)
        shop.faults.always["apply"] = Fail()
        for _ in range(5):
            await shop.flush()
        assert circuits(shop)[1].is_open
        shop.faults.always.clear()
        shop.store.reset()
        await shop.flush()
        assert shop.store.calls["apply"] == 0
        circuits(shop)[1].probe_now()
        await shop.flush()
        assert shop.record(browser.sid).last_seen_at == shop.clock.now


async def test_closing_tries_once_more_even_while_it_is_open() -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.logged_in()
        shop.clock.advance(2 * MINUTE)
        await browser.do(dict)
        shop.faults.always["apply"] = Fail()
        for _ in range(5):
            await shop.flush()
        shop.faults.always.clear()
        await shop.db.close()
        assert shop.record(browser.sid).last_seen_at == shop.clock.now


async def test_an_outage_is_two_lines_when_it_begins_and_one_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop(breaker=AT_ONCE) as shop:
        browser = await shop.logged_in()
        with caplog.at_level(logging.INFO, "sessiondb"):
            shop.faults.down = True
            for _ in range(50):
                await browser.do(dict)
            shop.faults.down = False
            circuits(shop)[0].probe_now()
            for _ in range(5):
                assert (await browser.do(dict)).status == 200
        first, second, third = [record.getMessage() for record in caplog.records]
        assert first == "memory, reading: The database is away (a planned outage)."
        assert second.startswith("memory, reading: 3 calls in a row have failed")
        assert third == "memory, reading: works again after 50 failed calls."


async def test_anonymous_on_load_error_goes_on_while_it_is_open() -> None:
    async with open_shop(breaker=AT_ONCE, on_load_error="anonymous") as shop:
        browser = await shop.logged_in()
        shop.faults.always["load"] = Fail()
        for _ in range(10):
            reply = await browser.do(lambda session: session.user_id)
            assert (reply.result, reply.cookie) == (None, None)
        assert circuits(shop)[0].is_open


async def test_without_a_breaker_every_request_asks() -> None:
    async with open_shop(breaker=None) as shop:
        browser = await shop.logged_in()
        shop.faults.down = True
        shop.store.reset()
        for _ in range(20):
            assert (await browser.do(unawaited(lambda session: session.logout()))).status == 503
        assert shop.store.calls["load"] == 20
        shop.faults.down = False
        assert await browser.user() == "ann"
