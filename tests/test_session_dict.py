"""A session is a dictionary wherever a dictionary is expected, and its copies are nothing but dictionaries."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest
from starlette.requests import Request

from harness import open_shop
from sessiondb import Session, SessionDataError
from sessiondb.session import state_of


async def test_a_session_is_a_dict_for_everything_that_takes_one() -> None:
    async with open_shop() as shop, shop.db.session() as session:
        session["cart"] = ["tea"]
        session["n"] = 1
        assert isinstance(session, Session)
        assert isinstance(session, dict)
        assert isinstance(session, MutableMapping)
        assert session == {"cart": ["tea"], "n": 1}
        assert list(session) == ["cart", "n"]
        assert "cart" in session
        assert len(session) == 2
        assert json.loads(json.dumps(session)) == {"cart": ["tea"], "n": 1}
        assert msgspec.json.decode(msgspec.json.encode(session)) == {"cart": ["tea"], "n": 1}
        assert {**session} == session
        match session:
            case {"n": number}:
                assert number == 1
            case _:
                pytest.fail("a mapping pattern did not match")


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        dict,
        lambda session: session.copy(),
        lambda session: pickle.loads(pickle.dumps(session)),
    ],
    ids=["copy.copy", "copy.deepcopy", "dict", "dict.copy", "pickle"],
)
async def test_copies_are_plain_dictionaries_that_save_nothing(duplicate: Any) -> None:
    async with open_shop() as shop:
        token = (await shop.db.create(data={"cart": ["tea"]})).token
        async with shop.db.session(token) as session:
            copied = duplicate(session)
            assert type(copied) is dict
            copied["mine"] = True
        async with shop.db.session(token) as session:
            assert session == {"cart": ["tea"]}


async def test_a_deep_copy_shares_nothing_and_is_remembered_within_one_copy() -> None:
    async with open_shop() as shop, shop.db.session() as session:
        session["cart"] = ["tea"]
        both = copy.deepcopy([session, session])
        assert both[0]["cart"] is not session["cart"]
        assert both[0]["cart"] == both[1]["cart"] == ["tea"]


async def test_the_union_of_a_session_and_a_dict_is_a_plain_dict() -> None:
    async with open_shop() as shop, shop.db.session() as session:
        session["a"] = 1
        assert session | {"b": 2} == {"a": 1, "b": 2}
        assert {"b": 2} | session == {"b": 2, "a": 1}
        assert type(session | {"b": 2}) is dict
        assert type({"b": 2} | session) is dict
        assert session == {"a": 1}


async def test_an_in_place_union_keeps_the_session_and_is_saved() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=1)

        def merge(session: Session) -> bool:
            same = session
            session |= {"b": 2}
            session |= [("c", 3)]
            return session is same

        assert (await browser.do(merge)).result is True
        assert await browser.read() == {"a": 1, "b": 2, "c": 3}


async def test_setdefault_and_pop_and_popitem_answer_as_a_dict_does() -> None:
    async with open_shop() as shop, shop.db.session() as session:
        cart = session.setdefault("cart", [])
        cart.append("tea")
        assert session.setdefault("cart", ["other"]) is cart
        assert session["cart"] == ["tea"]
        assert session.setdefault("nothing") is None
        assert session.pop("nothing", "default") is None
        assert session.pop("nothing", "default") == "default"
        with pytest.raises(KeyError):
            session.pop("nothing")
        with pytest.raises(KeyError):
            del session["nothing"]
        assert session.popitem() == ("cart", ["tea"])
        with pytest.raises(KeyError):
            session.popitem()
        session.update({"a": 1}, b=2)
        session.update([("c", 3)])
        assert session == {"a": 1, "b": 2, "c": 3}
        session.clear()
        assert session == {}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda s: s.__setitem__("x", 1), {"a": 1, "b": [2], "x": 1}),
        (lambda s: s.__delitem__("a"), {"b": [2]}),
        (lambda s: s.update(x=1), {"a": 1, "b": [2], "x": 1}),
        (lambda s: s.update({"a": 9}), {"a": 9, "b": [2]}),
        (lambda s: s.setdefault("x", {"y": 1}), {"a": 1, "b": [2], "x": {"y": 1}}),
        (lambda s: s.setdefault("b", []).append(3), {"a": 1, "b": [2, 3]}),
        (lambda s: s.pop("a"), {"b": [2]}),
        (lambda s: s.pop("b", None), {"a": 1}),
        (lambda s: list(s.popitem()), {"a": 1}),
        (lambda s: s.clear(), {}),
        (lambda s: s["b"].append(3), {"a": 1, "b": [2, 3]}),
    ],
    ids=[
        "set", "del", "update", "overwrite", "setdefault", "nested in setdefault", "pop", "pop with default", "popitem",
        "clear", "nested",
    ],
)  # fmt: skip
async def test_every_way_to_change_a_dict_is_saved(change: Any, left: dict[str, Any]) -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=1, b=[2])
        reply = await browser.do(change)
        assert (reply.status, reply.calls) == (200, {"load": 1, "apply": 1})
        assert await browser.read() == left


async def test_what_is_set_then_taken_back_is_no_write() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=1)

        def there_and_back(session: Session) -> None:
            session["x"] = 1
            del session["x"]
            session["a"] = session.pop("a")

        assert (await browser.do(there_and_back)).calls == {"load": 1}


async def test_a_session_refuses_keys_that_are_no_text_at_once() -> None:
    async with open_shop() as shop, shop.db.session() as session:
        for key in (1, None, ("a",), b"a"):
            with pytest.raises(SessionDataError, match="must be a string"):
                session[key] = 1  # type: ignore[index]
        assert session == {}


async def test_the_repr_of_a_session_shows_its_data_and_no_secret() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=1)
        parsed = browser.parsed

        def shown(session: Session) -> str:
            return repr(session) + repr(state_of(session).token) + repr(state_of(session).record)

        text = (await browser.do(shown)).result
        assert "{'a': 1}" in text
        for part in (parsed.secret, parsed.series):
            assert part.hex() not in text
            assert repr(part) not in text
        assert str(browser.token) not in text


async def test_the_session_of_starlette_requests_is_the_same_object() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart(a=1)

        def same(session: Session) -> bool:
            scope = {"type": "http", "session": session}
            return Request(scope).session is session  # type: ignore[comparison-overlap]

        assert (await browser.do(same)).result is True
