"""``async with db.session(token)``: what a script or job changes, and what becomes of it when it is not alone."""

from __future__ import annotations

import asyncio

import pytest

from harness import HOUR, open_shop
from sessiondb import SessionEnded
from sessiondb.testing import LoseReply


async def test_blocks_and_requests_of_one_session_all_land() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        async def work(number: int) -> None:
            async with shop.db.session(browser.token) as session:
                await asyncio.sleep(0)
                session[f"job{number}"] = number

        await asyncio.gather(*(work(number) for number in range(20)), browser.do(lambda s: s.update(page=1)))
        assert await browser.read() == {f"job{number}": number for number in range(20)} | {"page": 1}


async def test_counting_in_blocks_loses_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        async def count() -> None:
            async with shop.db.session(browser.token) as session:
                await session.modify(lambda data: data.update(n=data.get("n", 0) + 1))

        await asyncio.gather(*(count() for _ in range(30)))
        assert (await browser.read())["n"] == 30


@pytest.mark.security("L7")
@pytest.mark.parametrize("how", ["logout", "revoke", "revoke all", "expiry"])
async def test_a_block_whose_session_ends_meanwhile_raises_and_writes_nothing(how: str) -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        sid = browser.sid
        with pytest.raises(SessionEnded):
            async with shop.db.session(browser.token) as session:
                session["late"] = True
                if how == "logout":
                    await browser.twin().do(lambda s: s.logout())
                elif how == "revoke":
                    await shop.db.revoke(sid)
                elif how == "revoke all":
                    await shop.db.revoke_all("ann")
                else:
                    shop.clock.advance(31 * 24 * HOUR)
                    await shop.db.sweep()
        info = await shop.db.get(sid)
        assert info is None or (info.end_reason is not None and "late" not in info.data)


async def test_a_block_that_only_reads_does_not_mind() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        async with shop.db.session(browser.token) as session:
            await shop.db.revoke(browser.sid)
            assert session.user_id == "ann"
        # Long work asks again when it matters.
        with pytest.raises(SessionEnded):
            async with shop.db.session((await shop.logged_in("bob")).token) as session:
                await shop.db.revoke_all("bob")
                session["checked"] = True
                await session.save()


async def test_a_block_that_is_cancelled_drops_what_it_had_not_saved() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        started = asyncio.Event()

        async def work() -> None:
            async with shop.db.session(browser.token) as session:
                session["saved"] = 1
                await session.save()
                session["staged"] = 2
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await browser.read() == {"saved": 1}
        # The session itself is well.
        async with shop.db.session(browser.token) as session:
            session["next"] = 3
        assert await browser.read() == {"saved": 1, "next": 3}


async def test_a_block_that_raises_drops_its_verbs_too() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        with pytest.raises(KeyError):
            async with shop.db.session(browser.token) as session:
                session.logout()
                raise KeyError("the job failed")
        assert await browser.user() == "ann"


async def test_a_lost_reply_at_the_end_of_a_block_is_found_out() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        shop.faults.next("apply", LoseReply())
        async with shop.db.session(browser.token) as session:
            session["n"] = 1
        assert await browser.read() == {"n": 1}


@pytest.mark.security("L6")
async def test_a_block_can_log_out_and_the_browser_is_out() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        async with shop.db.session(browser.token) as session:
            session.logout()
        assert await browser.user() is None
