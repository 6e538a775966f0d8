"""What counts as a write, what is sent for it, and what is refused before anything is stored."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import math
import uuid
from typing import Any

import pytest

from harness import open_shop, put
from sessiondb import Session, SessionDataError


class Colour(enum.StrEnum):
    RED = "red"


async def test_a_change_deep_inside_a_value_is_saved() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart={"lines": [{"item": "tea", "n": 1}]}, other=1)
        shop.store.reset()

        def deep(session: Session) -> None:
            session["cart"]["lines"][0]["n"] += 1

        await browser.do(deep)
        assert await browser.read() == {"cart": {"lines": [{"item": "tea", "n": 2}]}, "other": 1}
        assert [set(update.put) for update in shop.store.updates] == [{"cart"}]


async def test_a_value_set_to_what_it_was_is_no_write() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=1, b={"x": [1, 2], "y": None})
        for equal in (
            put(a=1),
            put(b={"x": [1, 2], "y": None}),
            put(b={"y": None, "x": (1, 2)}),
            lambda s: s.pop("no", 0),
        ):
            reply = await browser.do(equal)
            assert (reply.calls, reply.cookie) == ({"load": 1}, None)


@pytest.mark.parametrize(("was", "now"), [(1, 1.0), (1, True), (0, False), ("1", 1), (None, False), ([], {})])
async def test_values_of_another_type_are_writes_even_where_python_calls_them_equal(was: Any, now: Any) -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=was)
        assert (await browser.do(put(a=now))).calls == {"load": 1, "apply": 1}
        stored = (await browser.read())["a"]
        assert (type(stored), repr(stored)) == (type(now), repr(now))


async def test_only_the_keys_that_changed_are_sent() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=1, b=2, c=3)
        shop.store.reset()

        def change(session: Session) -> None:
            session["a"] = 10
            del session["b"]
            session["d"] = 4
            session["c"] = 3

        await browser.do(change)
        [update] = shop.store.updates
        assert update.put == {"a": b"10", "d": b"4"}
        assert update.remove == {"b"}
        assert update.if_rev is None


async def test_requests_that_change_different_keys_at_once_both_land() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(start=0)
        both = asyncio.Barrier(2)

        def later(**data: Any) -> Any:
            async def change(session: Session) -> None:
                await both.wait()
                session.update(data)

            return change

        await asyncio.gather(browser.do(later(a=1)), browser.twin().do(later(b=2)))
        assert await browser.read() == {"start": 0, "a": 1, "b": 2}


async def test_of_two_writers_of_one_key_the_last_one_wins_and_takes_nothing_else() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=0, b=0)
        loaded, go = asyncio.Event(), asyncio.Event()

        async def slow(session: Session) -> None:
            loaded.set()
            await go.wait()
            session["a"] = "slow"

        task = asyncio.create_task(browser.twin().do(slow))
        await loaded.wait()
        await browser.do(put(a="quick", b="quick"))
        go.set()
        await task
        assert await browser.read() == {"a": "slow", "b": "quick"}


async def test_tuples_come_back_as_lists() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=(1, (2, 3)))
        assert await browser.read() == {"a": [1, [2, 3]]}


_CYCLE: list[Any] = []
_CYCLE.append(_CYCLE)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (datetime.datetime.now(datetime.UTC), "isoformat"),
        (datetime.date(2026, 1, 2), "isoformat"),
        (datetime.timedelta(1), "total_seconds"),
        (uuid.uuid4(), "str"),
        (decimal.Decimal("1.5"), "str"),
        ({1, 2}, "sorted"),
        (b"bytes", "base64"),
        (Colour.RED, "value.value"),
        (math.nan, "None"),
        (math.inf, "None"),
        (2**63, "str"),
        (-(2**63) - 1, "str"),
        ("nul\0", "U\\+0000"),
        ("\ud800", "surrogate"),
        (object(), "plain JSON"),
        ([[datetime.date(2026, 1, 2)]], "isoformat"),
        ({"in": {"side": {1}}}, "sorted"),
        ({1: "key"}, "str"),
        (_CYCLE, "deep"),
    ],
)
async def test_what_json_cannot_hold_is_refused_with_the_way_to_write_it(value: Any, hint: str) -> None:
    async with open_shop() as shop:
        issued = await shop.db.create(data={"a": 1})
        shop.store.reset()
        with pytest.raises(SessionDataError, match=hint) as refused:
            async with shop.db.session(issued.token) as session:
                session["fine"] = 1
                session["wrong"] = value
        assert refused.value.key == "wrong"
        assert "wrong" in str(refused.value)
        assert shop.store.changes == []
        async with shop.db.session(issued.token) as session:
            assert session == {"a": 1}


async def test_a_nested_value_that_cannot_be_stored_is_refused_at_the_commit_before_anything_is_stored() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create(data={"cart": [], "a": 1})
        shop.store.reset()
        with pytest.raises(SessionDataError) as refused:
            async with shop.db.session(issued.token) as session:
                session["a"] = 2
                session["cart"].append(object())
        assert refused.value.key == "cart"
        assert shop.store.changes == []


async def test_a_refused_value_in_a_request_is_an_error_of_the_app_and_stores_nothing() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(cart=[])
        reply = await browser.do(lambda session: session["cart"].append(b"bytes"))
        assert (reply.status, reply.cookie, reply.calls) == (500, None, {"load": 1})
        assert await browser.read() == {"cart": []}


async def test_integers_at_the_ends_of_64_bits_come_back_equal() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(least=-(2**63), most=2**63 - 1, tiny=5e-324, big=1.7976931348623157e308)
        assert await browser.read() == {
            "least": -(2**63),
            "most": 2**63 - 1,
            "tiny": 5e-324,
            "big": 1.7976931348623157e308,
        }


@pytest.mark.security("D2")
async def test_a_session_over_the_limit_is_refused_and_names_the_largest_key() -> None:
    async with open_shop(max_session_bytes=1000) as shop:
        issued = await shop.db.create(data={"small": "x" * 100})
        shop.store.reset()
        with pytest.raises(SessionDataError, match="1,000") as refused:
            async with shop.db.session(issued.token) as session:
                session["little"] = 1
                session["big"] = "x" * 1000
        assert refused.value.key == "big"
        assert shop.store.changes == []


async def test_the_limit_is_exact() -> None:
    async with open_shop(max_session_bytes=1000) as shop:
        issued = await shop.db.create(data={"a": "x" * (1000 - len('{"a":""}'))})
        async with shop.db.session(issued.token) as session:
            session["a"] = session["a"][:-1] + "y"
        with pytest.raises(SessionDataError):
            await shop.db.create(data={"a": "x" * (1001 - len('{"a":""}'))})
        with pytest.raises(SessionDataError):
            async with shop.db.session(issued.token) as session:
                session["a"] += "x"


@pytest.mark.security("D2")
@pytest.mark.parametrize("face", ["new", "login", "modify"])
async def test_the_limit_holds_wherever_data_is_written(face: str) -> None:
    async with open_shop(max_session_bytes=1000) as shop:
        token = (await shop.db.create(data={"a": 1})).token if face == "modify" else None
        shop.store.reset()
        with pytest.raises(SessionDataError, match="1,000"):
            async with shop.db.session(token) as session:
                if face == "modify":
                    await session.modify(lambda data: data.update(big="x" * 1000))
                session["big"] = "x" * 1000
                if face == "login":
                    session.login("ann")
        assert shop.store.changes == []


async def test_a_session_that_is_over_a_lowered_limit_can_still_lose_keys() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create(data={"big": "x" * 2000, "more": "y" * 2000, "a": 1})
        strict = shop.another_db(max_session_bytes=1000)
        async with strict.session(issued.token) as session:
            del session["big"]
        async with strict.session(issued.token) as session:
            assert set(session) == {"more", "a"}
            session["unchanged"] = 1
            del session["unchanged"]
        with pytest.raises(SessionDataError):
            async with strict.session(issued.token) as session:
                session["a"] = 2
        await strict.close()
