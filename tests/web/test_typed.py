"""``SessionOf[Model]``: the session's keys as the fields of a Pydantic model, a msgspec ``Struct`` or a dataclass."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from fastapi import Depends, FastAPI
from typed_shop import Shop, WatchedStore, setting

from sessiondb import (
    ConfigurationError,
    CurrentSession,
    Session,
    SessionDataError,
    SessionDB,
    SessionOf,
    session_of,
)
from sessiondb.core.token import parse
from sessiondb.testing import login


class PydanticLine(pydantic.BaseModel):
    sku: str
    count: int = 1


class PydanticCart(pydantic.BaseModel):
    lines: list[PydanticLine] = []
    note: str = ""
    paid: float | None = None


class StructLine(msgspec.Struct):
    sku: str
    count: int = 1


class StructCart(msgspec.Struct):
    lines: list[StructLine] = []
    note: str = ""
    paid: float | None = None


@dataclasses.dataclass
class DataclassLine:
    sku: str
    count: int = 1


@dataclasses.dataclass
class DataclassCart:
    lines: list[DataclassLine] = dataclasses.field(default_factory=list)
    note: str = ""
    paid: float | None = None


@pydantic.dataclasses.dataclass
class CheckedCart:
    lines: list[PydanticLine] = dataclasses.field(default_factory=list)
    note: str = ""
    paid: float | None = None


CARTS = [
    (PydanticCart, PydanticLine),
    (StructCart, StructLine),
    (DataclassCart, DataclassLine),
    (CheckedCart, PydanticLine),
]


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
async def shop(store: WatchedStore) -> AsyncIterator[Shop]:
    async with SessionDB(store, sweep_every=None) as db:
        shop = Shop(db, store)
        async with shop.http:
            yield shop


# -- reading ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_a_model_of_defaults_is_read_and_nothing_is_made(shop: Shop, cart: type, line: type) -> None:
    def read(typed: SessionOf[Any]) -> list[Any]:
        assert isinstance(typed, SessionOf)
        assert isinstance(typed.session, Session)
        assert type(typed.data) is cart
        assert typed.data is typed.data
        return [typed.data.lines, typed.data.note, typed.data.paid, typed.session.sid]

    assert await shop.do(cart, read) == [[], "", None, None]
    assert not shop.http.cookies
    assert (await shop.db.stats()).live == 0
    assert shop.store.changes == []


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_what_was_written_is_read(shop: Shop, cart: type, line: type) -> None:
    await shop.do(
        cart,
        lambda typed: typed.data.lines.append(line("a", 2) if line is not PydanticLine else line(sku="a", count=2)),
    )
    await shop.do(cart, setting(paid=1.5))

    def read(typed: SessionOf[Any]) -> list[Any]:
        (first,) = typed.data.lines
        assert type(first) is line
        return [first.sku, first.count, typed.data.note, typed.data.paid]

    assert await shop.do(cart, read) == ["a", 2, "", 1.5]
    assert await shop.raw() == {"lines": [{"sku": "a", "count": 2}], "paid": 1.5}


async def test_the_three_kinds_store_alike(shop: Shop) -> None:
    await shop.do(PydanticCart, lambda typed: typed.data.lines.append(PydanticLine(sku="a")))
    await shop.do(StructCart, lambda typed: typed.data.lines.append(StructLine("b")))
    await shop.do(DataclassCart, lambda typed: typed.data.lines.append(DataclassLine("c")))
    assert [one["sku"] for one in (await shop.raw())["lines"]] == ["a", "b", "c"]


async def test_the_dependency_is_typed_in_an_annotation(shop: Shop) -> None:
    @shop.app.get("/annotated")
    async def annotated(cart: AnnotatedCart, session: CurrentSession) -> bool:
        cart.data.note = "hello"
        return cart.session is session

    assert (await shop.http.get("/annotated")).json() is True
    assert await shop.raw() == {"note": "hello"}


AnnotatedCart = Annotated[SessionOf[PydanticCart], Depends(session_of(PydanticCart))]


# -- writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_only_what_changed_is_written(shop: Shop, cart: type, line: type) -> None:
    await shop.do(cart, setting(note="hello"))
    assert shop.store.written() == [{"note": "hello"}]
    await shop.do(cart, setting(paid=2.0))
    assert shop.store.written() == [{"paid": 2.0}]
    await shop.do(cart, setting(paid=2.0, note="hello"))
    assert shop.store.written() == [], "set to what it was"
    await shop.do(cart, setting(note=""))
    assert shop.store.written() == [{"note": ""}], "a default that replaces something is stored"


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_nested_changes_count(shop: Shop, cart: type, line: type) -> None:
    def first(typed: SessionOf[Any]) -> None:
        typed.data.lines.append(line(sku="a"))

    def more(typed: SessionOf[Any]) -> None:
        typed.data.lines[0].count += 4

    await shop.do(cart, first)
    await shop.do(cart, more)
    assert await shop.raw() == {"lines": [{"sku": "a", "count": 5}]}


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_a_whole_model_can_be_assigned(shop: Shop, cart: type, line: type) -> None:
    await shop.do(cart, setting(note="old", paid=1.0))
    shop.store.written()

    def assign(typed: SessionOf[Any]) -> list[Any]:
        typed.data = cart(note="new", paid=1.0)
        return [typed.data.note, typed.data.lines]

    assert await shop.do(cart, assign) == ["new", []]
    assert shop.store.written() == [{"note": "new", "lines": []}]
    assert await shop.raw() == {"note": "new", "paid": 1.0, "lines": []}


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_a_model_that_was_read_can_be_replaced(shop: Shop, cart: type, line: type) -> None:
    await shop.do(cart, setting(note="old", paid=1.0))

    def assign(typed: SessionOf[Any]) -> None:
        assert typed.data.note == "old"
        typed.data = cart(note="new")

    await shop.do(cart, assign)
    assert (await shop.raw())["note"] == "new"
    assert (await shop.raw())["paid"] is None


@pytest.mark.parametrize("value", [{"note": "x"}, None, StructLine("a"), PydanticCart])
async def test_only_the_model_can_be_assigned(shop: Shop, value: Any) -> None:
    def assign(typed: SessionOf[Any]) -> None:
        with pytest.raises(SessionDataError, match=r"session\.data takes a PydanticCart, not a "):
            typed.data = value

    await shop.do(PydanticCart, assign)
    assert await shop.raw() == {}


async def test_concurrent_requests_on_different_fields_both_land(shop: Shop) -> None:
    await shop.do(PydanticCart, setting(note="start"))

    async def while_another_writes(typed: SessionOf[Any]) -> None:
        typed.data.paid = 3.0
        async with shop.db.session(shop.http.cookies["sid"]) as other:
            other["note"] = "from elsewhere"

    await shop.do(PydanticCart, while_another_writes)
    assert await shop.raw() == {"note": "from elsewhere", "paid": 3.0}


async def test_frozen_models_are_replaced(shop: Shop) -> None:
    class Frozen(msgspec.Struct, frozen=True):
        n: int = 0

    def increment(typed: SessionOf[Any]) -> None:
        typed.data = msgspec.structs.replace(typed.data, n=typed.data.n + 1)

    await shop.do(Frozen, increment)
    await shop.do(Frozen, increment)
    assert await shop.raw() == {"n": 2}


async def test_values_that_a_struct_omits_are_removed(shop: Shop) -> None:
    class Sparse(msgspec.Struct, omit_defaults=True):
        note: str = ""
        n: int = 0

    await shop.do(Sparse, setting(note="x", n=1))
    assert await shop.raw() == {"note": "x", "n": 1}
    await shop.do(Sparse, setting(note=""))
    assert shop.store.written()[-1] == ({}, ["note"])
    assert await shop.raw() == {"n": 1}


async def test_what_is_written_while_the_response_streams_is_stored(shop: Shop) -> None:
    from starlette.responses import StreamingResponse

    @shop.app.get("/stream")
    async def stream(cart: AnnotatedCart) -> StreamingResponse:
        cart.data.note = "before"

        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            cart.data.note = "during"
            yield b"b"

        return StreamingResponse(body())

    assert (await shop.http.get("/stream")).text == "ab"
    assert await shop.raw() == {"note": "during"}


# -- other keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_keys_that_are_no_fields_are_kept(shop: Shop, cart: type, line: type) -> None:
    def both(typed: SessionOf[Any]) -> None:
        typed.session["theme"] = "dark"
        typed.data.note = "x"

    await shop.do(cart, both)
    await shop.do(cart, setting(note="y"))
    await shop.do(cart, lambda typed: setattr(typed, "data", cart()))
    assert await shop.raw() == {"theme": "dark", "note": "", "lines": [], "paid": None}


async def test_strict_models_do_not_mind_other_keys(shop: Shop) -> None:
    class Strict(pydantic.BaseModel, extra="forbid"):
        n: int = 0

    class Closed(msgspec.Struct, forbid_unknown_fields=True):
        m: int = 0

    await shop.do(Strict, setting(n=1))
    await shop.do(Closed, setting(m=2))
    assert await shop.do(Strict, lambda typed: typed.data.n) == 1
    assert await shop.raw() == {"n": 1, "m": 2}


async def test_an_open_model_has_all_keys(shop: Shop) -> None:
    class Open(pydantic.BaseModel, extra="allow"):
        n: int = 0

    def extend(typed: SessionOf[Any]) -> None:
        typed.data.colour = "red"

    def look(typed: SessionOf[Any]) -> str:
        colour: str = typed.data.colour
        del typed.data.colour
        return colour

    await shop.do(Open, extend)
    assert await shop.raw() == {"colour": "red"}
    assert await shop.do(Open, look) == "red"
    assert await shop.raw() == {}


async def test_two_models_share_a_session(shop: Shop) -> None:
    class Prefs(msgspec.Struct):
        theme: str = "light"
        note: str = ""

    dependency = Depends(session_of(Prefs))

    @shop.app.post("/two")
    async def two(cart: AnnotatedCart, prefs: Any = dependency) -> None:
        cart.data.lines.append(PydanticLine(sku="a"))
        prefs.data.theme = "dark"
        assert cart.data.note == prefs.data.note == ""
        prefs.data.note = "by prefs"

    await shop.http.post("/two")
    assert await shop.raw() == {"lines": [{"sku": "a", "count": 1}], "theme": "dark", "note": "by prefs"}


async def test_a_key_written_directly_is_not_undone_by_the_model(shop: Shop) -> None:
    async def mixed(typed: SessionOf[Any]) -> None:
        typed.data.lines.append(PydanticLine(sku="a"))
        await typed.session.save()
        typed.session["lines"].append({"sku": "b", "count": 1})
        typed.session["note"] = "direct"
        typed.data.paid = 1.0

    await shop.do(PydanticCart, mixed)
    assert [one["sku"] for one in (await shop.raw())["lines"]] == ["a", "b"]
    assert (await shop.raw())["note"] == "direct"


# -- kinds of values --------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


WHEN = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
RICH = {
    "when": WHEN,
    "day": dt.date(2026, 1, 2),
    "span": dt.timedelta(minutes=90),
    "who": uuid.UUID(int=7),
    "price": Decimal("1.10"),
    "tags": {"a", "b"},
    "pair": (1, "x"),
    "colour": Colour.BLUE,
    "blob": b"bytes",
    "by_number": {1: "one", 20: "twenty"},
}


class PydanticRich(pydantic.BaseModel):
    when: dt.datetime | None = None
    day: dt.date | None = None
    span: dt.timedelta | None = None
    who: uuid.UUID | None = None
    price: Decimal | None = None
    tags: set[str] = set()
    pair: tuple[int, str] | None = None
    colour: Colour | None = None
    blob: bytes = b""
    by_number: dict[int, str] = {}


class StrictRich(PydanticRich, strict=True):
    pass


class StructRich(msgspec.Struct):
    when: dt.datetime | None = None
    day: dt.date | None = None
    span: dt.timedelta | None = None
    who: uuid.UUID | None = None
    price: Decimal | None = None
    tags: set[str] = msgspec.field(default_factory=set)
    pair: tuple[int, str] | None = None
    colour: Colour | None = None
    blob: bytes = b""
    by_number: dict[int, str] = msgspec.field(default_factory=dict)


@dataclasses.dataclass
class DataclassRich:
    when: dt.datetime | None = None
    day: dt.date | None = None
    span: dt.timedelta | None = None
    who: uuid.UUID | None = None
    price: Decimal | None = None
    tags: set[str] = dataclasses.field(default_factory=set)
    pair: tuple[int, str] | None = None
    colour: Colour | None = None
    blob: bytes = b""
    by_number: dict[int, str] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize("model", [PydanticRich, StrictRich, StructRich, DataclassRich])
async def test_what_json_has_no_word_for_comes_back_as_it_was(shop: Shop, model: type) -> None:
    await shop.do(model, setting(**RICH))
    shop.store.written()

    def read(typed: SessionOf[Any]) -> None:
        for name, value in RICH.items():
            found = getattr(typed.data, name)
            assert (found, type(found)) == (value, type(value)), name

    await shop.do(model, read)
    assert shop.store.written() == [], "reading writes nothing back"


@pytest.mark.parametrize(
    "model",
    [
        pydantic.create_model("Aliased", item_list=(list[str], pydantic.Field([], alias="itemList"))),
        pydantic.create_model("ReadOnly", item_list=(list[str], pydantic.Field([], validation_alias="itemList"))),
        pydantic.create_model("WriteOnly", item_list=(list[str], pydantic.Field([], serialization_alias="itemList"))),
    ],
)
async def test_aliases_do_not_matter(shop: Shop, model: type) -> None:
    await shop.do(model, lambda typed: typed.data.item_list.append("a"))
    await shop.do(model, lambda typed: typed.data.item_list.append("b"))
    assert await shop.raw() == {"item_list": ["a", "b"]}


async def test_a_struct_may_rename_its_fields(shop: Shop) -> None:
    class Camel(msgspec.Struct, rename="camel"):
        item_list: list[str] = []

    await shop.do(Camel, lambda typed: typed.data.item_list.append("a"))
    await shop.do(Camel, lambda typed: typed.data.item_list.append("b"))
    assert await shop.raw() == {"itemList": ["a", "b"]}


async def test_what_a_model_adds_is_not_stored(shop: Shop) -> None:
    class Computing(pydantic.BaseModel):
        n: int = 0

        @pydantic.computed_field
        def double(self) -> int:
            return self.n * 2

    class Tagged(msgspec.Struct, tag="tagged"):
        m: int = 0

    await shop.do(Computing, setting(n=2))
    await shop.do(Tagged, lambda typed: setattr(typed, "data", Tagged(3)))
    assert await shop.raw() == {"n": 2, "m": 3}
    assert await shop.do(Tagged, lambda typed: typed.data.m) == 3


# -- what does not fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_a_misfit_names_the_field_and_hides_the_value(shop: Shop, cart: type, line: type) -> None:
    def store_misfit(typed: SessionOf[Any]) -> None:
        typed.session["note"] = ["private"]
        typed.session["theme"] = "dark"

    def read(typed: SessionOf[Any]) -> None:
        with pytest.raises(SessionDataError, match="note") as caught:
            typed.data  # noqa: B018
        assert cart.__name__ in str(caught.value)
        assert caught.value.key == "note"
        assert "private" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert typed.session["theme"] == "dark", "the other keys are untouched"

    await shop.do(cart, store_misfit)
    shop.store.written()
    await shop.do(cart, read)
    assert shop.store.written() == []


class PydanticPicky(pydantic.BaseModel):
    colour: Literal["red", "blue"] = "red"
    odd: int = 1
    limits: dict[str, int] = {}

    @pydantic.field_validator("odd")
    @classmethod
    def _is_odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"{value} is even")
        return value


class StructPicky(msgspec.Struct):
    colour: Literal["red", "blue"] = "red"
    odd: Annotated[int, msgspec.Meta(lt=7777)] = 1
    limits: dict[str, int] = {}


@pytest.mark.parametrize("model", [PydanticPicky, StructPicky])
@pytest.mark.parametrize(
    ("key", "value", "hidden"),
    [
        ("colour", "private's", "private"),
        ("odd", 7778, "7778"),
        ("limits", {"private": "value"}, "private"),
    ],
)
async def test_no_message_quotes_what_is_stored(shop: Shop, model: type, key: str, value: Any, hidden: str) -> None:
    def misfit(typed: SessionOf[Any]) -> None:
        typed.session[key] = value
        with pytest.raises(SessionDataError) as caught:
            typed.data  # noqa: B018
        assert f"{key}" in str(caught.value)
        assert caught.value.key == key
        assert hidden not in str(caught.value)
        typed.session.clear()

    await shop.do(model, misfit)


@pytest.mark.parametrize(("cart", "line"), CARTS)
async def test_what_does_not_fit_the_model_is_never_stored(shop: Shop, cart: type, line: type) -> None:
    # It would be refused by every later request of this visitor.
    await shop.do(cart, setting(note="good"))
    shop.store.written()

    async def misfit(typed: SessionOf[Any]) -> None:
        typed.data.note = ["private"]
        with pytest.raises(SessionDataError, match="note") as caught:
            await typed.session.save()
        assert "private" not in str(caught.value)
        typed.data.note = "better"

    await shop.do(cart, misfit)
    assert shop.store.written() == [{"note": "better"}]

    with pytest.raises(SessionDataError, match="note"):
        await shop.do(cart, setting(note=5))
    assert shop.store.written() == []
    assert await shop.raw() == {"note": "better"}


async def test_what_json_cannot_hold_is_refused(shop: Shop) -> None:
    class Loose(msgspec.Struct):
        thing: Any = ""
        other: Any = ""

    async def refused(value: Any, text: str) -> None:
        with pytest.raises(SessionDataError, match=text):
            await shop.do(Loose, setting(thing=value, other="fine"))
        assert shop.store.written() == []

    await refused(float("nan"), r"session\['thing'\]")
    await refused(2**70, r"session\['thing'\]")
    await refused("\ud800", "thing|Loose")
    await refused(object(), "Loose cannot be stored as JSON")


@pytest.mark.parametrize(
    "model",
    [
        pydantic.create_model("Later", note=(str, ""), since=(int | None, ...)),
        msgspec.defstruct("Later", [("note", str, ""), ("since", int | None)], kw_only=True),
        dataclasses.make_dataclass("Later", [("since", int | None), ("note", str, "")]),
    ],
)
def test_a_field_without_a_default_is_refused_when_declared(model: type) -> None:
    # The session of a new visitor is empty, so every one of them would meet the error.
    with pytest.raises(ConfigurationError, match=r"Later\.since has no default.*`since: int \| None"):
        session_of(model)


def test_a_session_of_something_else_is_refused() -> None:
    class Pair(msgspec.Struct, array_like=True):
        a: int = 0

    wrong: list[Any] = [int, dict, "Cart", None, PydanticCart(), StructCart(), DataclassCart(), pydantic.RootModel[int]]
    for model in wrong:
        with pytest.raises(
            ConfigurationError, match="SessionOf takes a Pydantic model, a msgspec Struct or a dataclass"
        ):
            session_of(model)
    with pytest.raises(ConfigurationError, match="array_like"):
        session_of(Pair)


# -- verbs, with a model handed out -----------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [True, False])
async def test_the_anonymous_model_comes_along_at_login(shop: Shop, awaited: bool) -> None:
    async def enter(typed: SessionOf[Any]) -> None:
        typed.data.note = "from before"
        staged = typed.session.login("ann")
        if awaited:
            await staged
        typed.data.paid = 1.0

    await shop.do(PydanticCart, setting(note="older", lines=[PydanticLine(sku="a")]))
    await shop.do(PydanticCart, enter)
    data = await shop.raw()
    assert (data["note"], data["paid"], len(data["lines"])) == ("from before", 1.0, 1)
    assert [one.data for one in await shop.db.sessions_of("ann")] == [data]


@pytest.mark.parametrize("awaited", [True, False])
async def test_keep_narrows_what_the_model_held(shop: Shop, awaited: bool) -> None:
    async def enter(typed: SessionOf[Any]) -> list[Any]:
        typed.data.note = "private"
        typed.data.paid = 1.0
        staged = typed.session.login("ann", keep=["paid"])
        if awaited:
            await staged
        return [typed.data.note, typed.data.paid]

    await shop.do(PydanticCart, setting(note="older"))
    assert await shop.do(PydanticCart, enter) == ["", 1.0]
    assert await shop.raw() == {"paid": 1.0}


@pytest.mark.parametrize("awaited", [True, False])
async def test_another_users_model_never_comes_along(shop: Shop, awaited: bool) -> None:
    async def switch(typed: SessionOf[Any]) -> str:
        assert typed.data.note == "ann's"
        typed.data.note = "ann's still"
        staged = typed.session.login("bob")
        if awaited:
            await staged
        note: str = typed.data.note
        typed.data.paid = 1.0
        return note

    await login(shop.http, "ann", data={"note": "ann's"})
    assert await shop.do(PydanticCart, switch) == ""
    assert await shop.raw() == {"paid": 1.0}


@pytest.mark.parametrize("awaited", [True, False])
async def test_after_the_logout_the_model_is_empty(shop: Shop, awaited: bool) -> None:
    async def leave(typed: SessionOf[Any]) -> str:
        typed.data.note = "dropped"
        staged = typed.session.logout()
        if awaited:
            await staged
        note: str = typed.data.note
        return note

    await login(shop.http, "ann", data={"note": "ann's"})
    assert await shop.do(PydanticCart, leave) == ""
    assert await shop.raw() == {}
    assert "sid" not in shop.http.cookies


async def test_modify_sees_what_the_model_has_staged_and_the_model_what_modify_did(shop: Shop) -> None:
    async def mixed(typed: SessionOf[Any]) -> list[Any]:
        typed.data.note = "staged"

        def change(data: dict[str, Any]) -> str:
            data["paid"] = 2.0
            return str(data["note"])

        seen = await typed.session.modify(change)
        return [seen, typed.data.note, typed.data.paid]

    await shop.do(PydanticCart, setting(note="older"))
    assert await shop.do(PydanticCart, mixed) == ["staged", "staged", 2.0]
    assert await shop.raw() == {"note": "staged", "paid": 2.0}


async def test_rotation_and_signing_in_again_keep_the_model(shop: Shop) -> None:
    await login(shop.http, "ann", data={"note": "ann's"})

    async def again(typed: SessionOf[Any]) -> str:
        data = typed.data
        data.paid = 1.0
        await typed.session.login("ann")
        data.paid = 2.0
        await typed.session.rotate()
        data.paid = 3.0
        note: str = data.note
        return note

    assert await shop.do(PydanticCart, again) == "ann's"
    assert await shop.raw() == {"note": "ann's", "paid": 3.0}


async def test_an_error_in_the_endpoint_drops_what_the_model_held(shop: Shop) -> None:
    def fail(typed: SessionOf[Any]) -> None:
        typed.data.note = "dropped"
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await shop.do(PydanticCart, fail)
    assert await shop.raw() == {}
    assert shop.store.changes == []


async def test_a_session_that_ended_meanwhile_stays_ended(shop: Shop) -> None:
    info = await login(shop.http, "ann", data={"note": "ann's"})
    token = parse(shop.http.cookies["sid"].encode())
    assert token is not None
    assert token.sid == info.sid

    async def revoked(typed: SessionOf[Any]) -> None:
        typed.data.note = "late"
        await shop.db.revoke(info.sid)

    await shop.do(PydanticCart, revoked)
    ended = await shop.db.get(info.sid)
    assert ended is not None
    assert ended.end_reason == "revoked"
    assert "late" not in str(ended.data)
    assert await shop.raw() == {}


async def test_def_endpoints_have_models_too(shop: Shop) -> None:
    app: FastAPI = shop.app

    @app.post("/sync/{sku}")
    def add(sku: str, cart: AnnotatedCart) -> int:
        cart.data.lines.append(PydanticLine(sku=sku))
        return len(cart.data.lines)

    assert (await shop.http.post("/sync/a")).json() == 1
    assert (await shop.http.post("/sync/b")).json() == 2
