"""``modify``: compare-and-set that loses nothing, sees what was staged, and says so when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from harness import open_shop, put
from sessiondb import Session, SessionDataError, SessionEnded, StoreError, StoreUnavailable
from sessiondb.modify import MODIFY_TRIES
from sessiondb.testing import Fail, LoseReply


def increment(data: dict[str, Any]) -> int:
    data["n"] = data.get("n", 0) + 1
    count: int = data["n"]
    return count


async def test_fifty_increments_at_once_are_fifty() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=0)
        replies = await asyncio.gather(*(browser.twin().do(lambda s: s.modify(increment)) for _ in range(50)))
        assert sorted(reply.result for reply in replies) == list(range(1, 51))
        assert await browser.read() == {"n": 50}


async def test_increments_of_several_processes_lose_nothing() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create(data={"n": 0})
        others = [shop.another_db() for _ in range(4)]

        async def work(db: Any) -> None:
            for _ in range(10):
                async with db.session(issued.token) as session:
                    await session.modify(increment)

        await asyncio.gather(*(work(db) for db in [shop.db, *others]))
        async with shop.db.session(issued.token) as session:
            assert session == {"n": 50}
        for db in others:
            await db.close()


async def test_it_sees_and_keeps_what_was_staged_and_what_others_wrote() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=["tea"])

        async def change(session: Session) -> dict[str, Any]:
            session["mine"] = 1
            await browser.twin().do(put(theirs=2, cart=["tea", "cup"]))
            seen = await session.modify(lambda data: dict(data) | {"cart": data["cart"].append("pot")})
            assert session == {"cart": ["tea", "cup", "pot"], "mine": 1, "theirs": 2}
            return seen

        seen = (await browser.do(change)).result
        assert seen == {"mine": 1, "theirs": 2, "cart": None}
        assert await browser.read() == {"cart": ["tea", "cup", "pot"], "mine": 1, "theirs": 2}


async def test_it_starts_a_session_where_there_is_none() -> None:
    async with open_shop() as shop:
        browser = shop.browser()
        reply = await browser.do(lambda session: session.modify(increment))
        assert (reply.result, reply.cookie, reply.calls) == (1, "set", {"apply": 1})
        assert await browser.read() == {"n": 1}


async def test_it_may_be_async_and_return_anything() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=1)

        async def slowly(data: dict[str, Any]) -> str:
            await asyncio.sleep(0)
            data["n"] += 1
            return "done"

        assert (await browser.do(lambda session: session.modify(slowly))).result == "done"
        assert await browser.read() == {"n": 2}


async def test_a_function_that_changes_nothing_writes_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=1)
        reply = await browser.do(lambda session: session.modify(lambda data: data["n"]))
        assert (reply.result, reply.calls) == (1, {"load": 1})


async def test_a_function_that_raises_changes_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=1)

        def fail(data: dict[str, Any]) -> None:
            data["n"] = 100
            raise LookupError

        async def change(session: Session) -> dict[str, Any]:
            with contextlib.suppress(LookupError):
                await session.modify(fail)
            return dict(session)

        assert (await browser.do(change)).result == {"n": 1}
        assert await browser.read() == {"n": 1}


async def test_one_modification_after_another_in_one_request_reads_again() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=0)

        async def change(session: Session) -> list[int]:
            first = await session.modify(increment)
            await browser.twin().do(lambda other: other.modify(increment))
            session["mine"] = True
            await session.save()
            return [first, await session.modify(increment)]

        assert (await browser.do(change)).result == [1, 3]
        assert await browser.read() == {"n": 3, "mine": True}


async def test_it_raises_when_the_session_was_ended_and_leaves_an_anonymous_one() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()
        sid = browser.sid

        async def change(session: Session) -> list[Any]:
            await shop.db.revoke(sid)
            with pytest.raises(SessionEnded, match="revoked") as ended:
                await session.modify(increment)
            return [ended.value.reason, session.user_id, dict(session), session.ended_reason]

        reply = await browser.do(change)
        assert reply.result == ["revoked", None, {}, "revoked"]
        assert reply.cookie is None
        assert [event.type for event in await shop.events("write_after_end")] == ["write_after_end"]


async def test_it_gives_way_a_bounded_number_of_times_and_says_conflict() -> None:
    async with open_shop(timeout=60) as shop:
        issued = await shop.db.create(data={"n": 0})
        other = shop.another_db()
        runs = 0

        async def never_first(data: dict[str, Any]) -> None:
            nonlocal runs
            runs += 1
            async with other.session(issued.token) as session:
                session["theirs"] = runs
            data["n"] = 1

        with pytest.raises(StoreError, match=f"{MODIFY_TRIES} times") as conflict:
            async with shop.db.session(issued.token) as session:
                await session.modify(never_first)
        assert (conflict.value.outcome, runs) == ("conflict", MODIFY_TRIES)
        async with shop.db.session(issued.token) as session:
            assert session == {"n": 0, "theirs": runs}
        assert shop.db.runtime.modifying == {}
        await other.close()


async def test_a_lost_reply_applies_it_once() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=0)
        shop.faults.next("apply", LoseReply())
        assert (await browser.do(lambda session: session.modify(increment))).result == 1
        assert await browser.read() == {"n": 1}


async def test_a_database_that_is_away_raises_and_nothing_changes() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=0)

        async def change(session: Session) -> Any:
            with pytest.raises(StoreUnavailable) as away:
                await session.modify(increment)
            return [away.value.outcome, dict(session)]

        shop.faults.next("apply", Fail())
        assert (await browser.do(change)).result == ["not_applied", {"n": 0}]
        assert await browser.read() == {"n": 0}


async def test_nested_values_that_others_hold_are_not_shared_between_tries() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create(data={"cart": []})
        other = shop.another_db()
        tries = 0

        async def add(data: dict[str, Any]) -> None:
            nonlocal tries
            tries += 1
            data["cart"].append("mine")
            if tries < 3:
                async with other.session(issued.token) as session:
                    session["cart"].append(tries)

        async with shop.db.session(issued.token) as session:
            await session.modify(add)
            assert session == {"cart": [1, 2, "mine"]}
        await other.close()


@pytest.mark.parametrize("key", [1, None, "nul\0", "\ud800"])
async def test_keys_that_cannot_be_stored_are_refused_before_anything_is(key: Any) -> None:
    async with open_shop() as shop:
        issued = await shop.db.create(data={"n": 0})
        shop.store.reset()
        with pytest.raises(SessionDataError):
            async with shop.db.session(issued.token) as session:
                await session.modify(lambda data: data.__setitem__(key, 1))
        assert shop.store.changes == []


async def test_a_value_that_cannot_be_stored_is_refused_and_the_session_shows_what_is_stored() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(n=0)

        async def change(session: Session) -> Any:
            with pytest.raises(SessionDataError) as refused:
                await session.modify(lambda data: data.update(n=1, wrong=b"bytes"))
            return [refused.value.key, dict(session)]

        assert (await browser.do(change)).result == ["wrong", {"n": 0}]
