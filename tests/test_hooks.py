"""Hooks are told of every end, at least once, whoever wrote it; exactly once when nothing fails."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from harness import DAY, HOUR, MINUTE, Shop, open_shop
from sessiondb import ConfigurationError, Ended, LoginRefused, Policy, Session, SessionDB
from sessiondb.core.policy import SECOND
from sessiondb.testing import Fail

SWEPT_AFTER = 61.0


class Heard:
    """A hook that remembers, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.ends: list[Ended] = []
        self.failures = failures

    async def __call__(self, ended: Ended) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the hook fails")
        self.ends.append(ended)

    def reasons(self, sid: str) -> list[str]:
        return [one.reason for one in self.ends if one.sid == sid]


async def settle(db: SessionDB) -> None:
    """Write what waits, and let the hooks run."""
    await db.runtime.background.flush()
    announcer = db.runtime.announcer
    while announcer is not None and announcer._task is not None and not announcer._task.done():
        await asyncio.wait([announcer._task])


def listening(shop: Shop, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    shop.db.on_end(heard)
    return heard


# -- every end ------------------------------------------------------------------------------------------------


async def logged_out(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    sid = browser.sid
    await browser.do(lambda session: session.logout())
    return sid


async def logged_in_over(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    before = browser.sid
    await browser.do(lambda session: session.login("bob"))
    return before


async def revoked(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    await shop.db.revoke(browser.sid, reason="admin")
    return browser.sid


async def revoked_with_all(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    await shop.db.revoke_all("ann")
    return browser.sid


async def pushed_out(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    for _ in range(2):
        shop.clock.advance(1)
        await shop.logged_in("ann")
    return browser.sid


async def refused(shop: Shop) -> str:
    sids: list[str | None] = []

    async def late(session: Session) -> None:
        shop.clock.advance(1)
        await shop.db.revoke_all("ann")
        with pytest.raises(LoginRefused):
            session.login("ann")
            sids.append(session.sid)
            await session.save()

    await shop.browser().do(late)
    return str(sids[0])


async def swept(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    shop.clock.advance(20 * DAY)
    assert len((await shop.db.sweep()).ended) == 1
    return browser.sid


async def seen_expired(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    shop.clock.advance(20 * DAY)
    assert await browser.user() is None
    return browser.sid


async def reused(shop: Shop) -> str:
    browser = await shop.logged_in("ann")
    stolen = browser.twin()
    for _ in range(2):
        await browser.do(lambda session: session.rotate())
        await browser.read()
        shop.clock.advance(HOUR)
    await stolen.read()
    return browser.sid


async def undelivered(shop: Shop) -> str:
    sids: list[str | None] = []

    async def fails(session: Session) -> None:
        await session.login("ann")
        sids.append(session.sid)
        raise RuntimeError

    await shop.browser().do(fails)
    return str(sids[0])


WAYS: dict[str, tuple[Callable[[Shop], Awaitable[str]], str]] = {
    "logout": (logged_out, "logout"),
    "login": (logged_in_over, "login"),
    "revoke": (revoked, "admin"),
    "revoke_all": (revoked_with_all, "revoked"),
    "limit": (pushed_out, "limit"),
    "refused": (refused, "refused"),
    "sweep": (swept, "expired_idle"),
    "load": (seen_expired, "expired_idle"),
    "reuse": (reused, "reuse"),
    "undelivered": (undelivered, "undelivered"),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_hook_is_told_of_every_end_once(way: str) -> None:
    end, reason = WAYS[way]
    async with open_shop(policy=Policy(per_user=2)) as shop:
        heard = listening(shop)
        sid = await end(shop)
        await settle(shop.db)
        record = shop.record(sid)
        assert record.ended_at is not None and record.user_id == "ann"
        told = [one for one in heard.ends if one.sid == sid]
        assert told == [Ended(record.sid, "ann", reason, record.ended_at)]
        # Told and acknowledged: no sweep brings it again.
        for _ in range(3):
            shop.clock.advance(SWEPT_AFTER)
            await shop.db.sweep()
            await settle(shop.db)
        assert heard.reasons(sid) == [reason]
        record = shop.record(sid)
        assert record.check_at == record.purge_at


async def test_sync_and_async_functions_and_objects_are_hooks() -> None:
    told: list[tuple[str, str, bool]] = []
    main = threading.current_thread()
    async with open_shop() as shop:

        @shop.db.on_end
        def plain(ended: Ended) -> None:
            told.append(("plain", ended.sid, threading.current_thread() is main))

        @shop.db.on_end
        async def coroutine(ended: Ended) -> None:
            told.append(("async", ended.sid, threading.current_thread() is main))

        def with_more(name: str, ended: Ended) -> None:
            told.append((name, ended.sid, threading.current_thread() is main))

        shop.db.on_end(partial(with_more, "partial"))
        heard = listening(shop)
        sid = await logged_out(shop)
        await settle(shop.db)
        # In the order in which they were registered; what is not async runs in a thread.
        assert told == [("plain", sid, False), ("async", sid, True), ("partial", sid, False)]
        assert heard.reasons(sid) == ["logout"]
        assert callable(plain) and callable(coroutine)


def takes_nothing() -> None: ...


async def takes_too_much(ended: Ended, mailer: Any) -> None: ...


@pytest.mark.parametrize("wrong", [None, "name", 7, takes_nothing, takes_too_much])
async def test_what_cannot_be_called_is_no_hook(wrong: Any) -> None:
    async with open_shop() as shop:
        with pytest.raises(ConfigurationError, match="cannot be called"):
            shop.db.on_end(wrong)


async def test_a_hook_that_comes_too_late_is_refused() -> None:
    async with open_shop() as shop:
        await shop.db.open()
        with pytest.raises(ConfigurationError, match="in use already"):
            shop.db.on_end(print)


# -- what costs what ------------------------------------------------------------------------------------------


async def test_hooks_cost_the_request_no_further_call() -> None:
    async with open_shop() as shop:
        gate = asyncio.Event()
        began: list[str] = []

        @shop.db.on_end
        async def slow(ended: Ended) -> None:
            began.append(ended.sid)
            await gate.wait()

        browser = await shop.logged_in("ann")
        reply = await browser.do(lambda session: session.logout())
        assert (reply.status, reply.cookie) == (200, "deleted")
        while not began:
            await asyncio.sleep(0)
        calls = dict(shop.store.traffic())
        assert calls.get("announced") is None
        gate.set()
        await settle(shop.db)
        assert shop.store.traffic()["announced"] == 1


async def test_many_ends_are_acknowledged_in_few_calls_and_no_more_than_eight_run_at_once() -> None:
    async with open_shop() as shop:
        running = most = 0

        @shop.db.on_end
        async def hook(ended: Ended) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

        for n in range(200):
            await shop.db.create(f"user{n}")
        assert await shop.db.revoke_everyone() == 200
        await settle(shop.db)
        assert most == 8
        assert shop.store.traffic()["announced"] == 2


async def test_without_hooks_an_end_is_written_as_ever() -> None:
    async with open_shop() as shop:
        await logged_out(shop)
        assert [end.announce_at for end in shop.store.ends] == [None]
        assert shop.db.runtime.announcer is None


# -- what fails -----------------------------------------------------------------------------------------------


async def test_a_hook_that_fails_is_called_again_by_a_sweep(caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop() as shop:
        heard = listening(shop, Heard(failures=3))
        with caplog.at_level(logging.ERROR, "sessiondb"):
            sid = await logged_out(shop)
            for _ in range(4):
                await settle(shop.db)
                assert heard.reasons(sid) == []
                shop.clock.advance(SWEPT_AFTER)
                await shop.db.sweep()
                if not heard.failures:
                    break
            await settle(shop.db)
        assert heard.reasons(sid) == ["logout"]
        assert shop.db.counters["failed_hooks"] == 3
        # Once a minute of real time, with the traceback.
        assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["the hook fails"]


async def test_a_hook_that_fails_for_ever_is_given_up_with_the_tombstone(caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop(policy=Policy(keep_ended=HOUR)) as shop:
        heard = listening(shop, Heard(failures=10**6))
        sid = await logged_out(shop)
        for _ in range(70):
            await settle(shop.db)
            shop.clock.advance(SWEPT_AFTER)
            await shop.db.sweep()
        await settle(shop.db)
        assert sid not in shop.memory._table.records
        assert heard.ends == []
        assert [record.message for record in caplog.records if "given up" in record.message]


async def test_when_the_acknowledgement_is_lost_the_same_process_repeats_nothing() -> None:
    async with open_shop() as shop:
        heard = listening(shop)
        shop.faults.next("announced", Fail(), Fail(), Fail())
        sid = await logged_out(shop)
        await settle(shop.db)
        shop.clock.advance(SWEPT_AFTER)
        await shop.db.sweep()
        await settle(shop.db)
        assert heard.reasons(sid) == ["logout"]
        assert shop.record(sid).check_at == shop.record(sid).purge_at


async def test_one_hook_that_fails_does_not_keep_other_ends_from_being_told() -> None:
    async with open_shop() as shop:
        told = []

        @shop.db.on_end
        async def picky(ended: Ended) -> None:
            if ended.user_id == "bad":
                raise ValueError("not this one")
            told.append(ended.user_id)

        for user in ("ann", "bad", "bob"):
            await shop.db.create(user)
        await shop.db.revoke_everyone()
        await settle(shop.db)
        assert sorted(told) == ["ann", "bob"]


async def test_a_hook_that_hangs_is_cut_off_and_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.hooks.HOOK_TIMEOUT", 0.01)
    async with open_shop() as shop:
        calls = []

        @shop.db.on_end
        async def hangs_once(ended: Ended) -> None:
            calls.append(ended.sid)
            if len(calls) == 1:
                await asyncio.Event().wait()

        sid = await logged_out(shop)
        await settle(shop.db)
        shop.clock.advance(SWEPT_AFTER)
        await shop.db.sweep()
        await settle(shop.db)
        assert calls == [sid, sid]


async def test_what_waits_too_long_is_left_to_the_next_sweep() -> None:
    async with open_shop() as shop:
        told = []

        @shop.db.on_end
        async def slow(ended: Ended) -> None:
            told.append(ended.sid)
            # Nine of them in company: the last one waits for a minute.
            shop.clock.advance(MINUTE)

        sids = [(await shop.db.create(f"user{n}")).session.sid for n in range(20)]
        await shop.db.revoke_everyone()
        await settle(shop.db)
        assert 0 < len(told) < 20
        postponed = shop.db.counters["postponed_hooks"]
        assert postponed == 20 - len(told)
        for _ in range(40):
            shop.clock.advance(SWEPT_AFTER)
            await shop.db.sweep()
            await settle(shop.db)
        assert sorted(told) == sorted(sids)


# -- other processes ------------------------------------------------------------------------------------------


async def test_the_end_of_a_process_that_died_is_told_by_another() -> None:
    async with open_shop() as shop:
        heard = listening(shop)
        other = shop.another_db()

        @other.on_end
        async def dies(ended: Ended) -> None:
            await asyncio.Event().wait()

        sid = (await shop.db.create("ann")).session.sid
        async with other:
            assert await other.revoke(sid)
            await asyncio.sleep(0)
            await other.runtime.announcer.drain(0)  # type: ignore[union-attr]
        await settle(shop.db)
        shop.clock.advance(30)
        await shop.db.sweep()
        await settle(shop.db)
        assert heard.ends == []  # not yet: it may still be at it
        shop.clock.advance(31)
        assert len((await shop.db.sweep()).unannounced) == 1
        await settle(shop.db)
        assert heard.reasons(sid) == ["revoked"]


async def test_a_process_without_hooks_that_announces_leaves_its_ends_and_those_of_others_to_those_with() -> None:
    async with open_shop() as shop:
        heard = listening(shop)
        sids = [(await shop.db.create("ann")).session.sid for _ in range(2)]
        async with shop.another_db(announce=True, sweep_every=60.0) as script:
            assert script.runtime.timers.names == {"clock", "usage"}  # it takes no turn at sweeping
            assert await script.revoke(sids[0])
            shop.clock.advance(SWEPT_AFTER)
            assert len((await script.sweep()).unannounced) == 1  # a sweep that it was asked for loses nothing
        shop.clock.advance(SWEPT_AFTER)
        await shop.db.sweep()
        await settle(shop.db)
        assert [one.sid for one in heard.ends] == [sids[0]]


async def test_of_two_processes_with_hooks_one_tells_of_each_end() -> None:
    async with open_shop() as shop:
        heard = listening(shop)
        other = shop.another_db()
        heard_there = Heard()
        other.on_end(heard_there)
        async with other:
            sids = [(await shop.db.create(f"user{n}")).session.sid for n in range(10)]
            for n, sid in enumerate(sids):
                assert await (other if n % 2 else shop.db).revoke(sid)
            for _ in range(3):
                await asyncio.gather(settle(shop.db), settle(other))
                shop.clock.advance(SWEPT_AFTER)
                await asyncio.gather(shop.db.sweep(), other.sweep())
            await asyncio.gather(settle(shop.db), settle(other))
        assert [one.sid for one in heard.ends] == sids[::2]
        assert [one.sid for one in heard_there.ends] == sids[1::2]


# -- closing --------------------------------------------------------------------------------------------------


async def test_closing_waits_for_hooks_but_not_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop() as shop:
        done = []

        @shop.db.on_end
        async def takes_its_time(ended: Ended) -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            done.append(ended.sid)

        sid = await logged_out(shop)
        await shop.db.close()
        assert done == [sid]

    async with open_shop(timeout=0.05) as shop:

        @shop.db.on_end
        async def never(ended: Ended) -> None:
            await asyncio.Event().wait()

        sid = await logged_out(shop)
        await shop.db.close()
        assert "a later sweep does it" in caplog.text
        record = shop.record(sid)
        assert record.check_at == (record.ended_at or 0) + 60 * SECOND


async def test_ends_that_wait_in_the_background_are_told_before_closing() -> None:
    async with open_shop() as shop:
        heard = listening(shop)
        sid = await seen_expired(shop)
        await shop.db.close()
        assert heard.reasons(sid) == ["expired_idle"]


async def test_a_hook_whose_own_work_was_cancelled_has_failed_and_stops_no_other() -> None:
    async with open_shop() as shop:
        heard = Heard()
        calls = 0

        @shop.db.on_end
        async def gives_up(ended: Ended) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise asyncio.CancelledError

        listening(shop, heard)
        browsers = [await shop.logged_in("ann") for _ in range(20)]
        await shop.db.revoke_all("ann")
        await settle(shop.db)
        assert len(heard.ends) == 19
        assert shop.db.counters["failed_hooks"] == 1
        shop.clock.advance(SWEPT_AFTER)
        await shop.db.sweep()
        await settle(shop.db)
        assert {one.sid for one in heard.ends} == {browser.sid for browser in browsers}
