"""Typed sessions whose models change over time: versions, what no longer fits, what is not known."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pydantic
import pytest
from fastapi import Depends, Request
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st
from typed_shop import Shop, WatchedStore, setting

from sessiondb import ConfigurationError, SessionDataError, SessionDB, SessionOf, session_of
from sessiondb.testing import login
from sessiondb.web import typed, unknown_fields, versions
from sessiondb.web.shapes import Shape

Raw = dict[str, Any]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    store = WatchedStore()
    async with SessionDB(store, sweep_every=None) as db:
        shop = Shop(db, store)
        async with shop.http:
            yield shop


class Cart(pydantic.BaseModel):
    """Version 3: "items" became "lines", then got counts."""

    lines: dict[str, int] = {}
    note: str = ""


class CartStruct(msgspec.Struct):
    lines: dict[str, int] = {}
    note: str = ""


@dataclasses.dataclass
class CartDataclass:
    lines: dict[str, int] = dataclasses.field(default_factory=dict)
    note: str = ""


CARTS = [Cart, CartStruct, CartDataclass]


def migrate(old: int, raw: Raw) -> Raw:
    if old < 2:
        raw["lines"] = raw.pop("items", [])
    if old < 3:
        raw["lines"] = {sku: raw["lines"].count(sku) for sku in raw["lines"]}
    return raw


async def stored(shop: Shop, **data: Any) -> None:
    """The session of the browser has ``data``."""
    await login(shop.http, "ann", data=data)
    shop.store.written()


def lines(typed: SessionOf[Any]) -> Any:
    return typed.data.lines


# -- versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CARTS)
@pytest.mark.parametrize(
    ("old", "data"),
    [
        (0, {"items": ["tea", "jug", "tea"], "theme": "dark"}),
        (2, {"lines": ["tea", "jug", "tea"], "theme": "dark"}),
    ],
)
async def test_what_an_older_version_has_stored_is_brought_up_to_date(
    shop: Shop, model: type, old: int, data: Raw
) -> None:
    key = f"_version.{model.__name__}"
    await stored(shop, **data, **({key: old} if old else {}))
    settings: Raw = {"version": 3, "migrate": migrate}
    assert await shop.do(model, lines, **settings) == {"tea": 2, "jug": 1}
    assert await shop.raw() == {"lines": {"tea": 2, "jug": 1}, "theme": "dark", key: 3}
    shop.store.written()
    assert await shop.do(model, lines, **settings) == {"tea": 2, "jug": 1}
    assert shop.store.written() == [], "it is done once"


async def test_a_new_visitor_is_not_migrated_and_gets_no_session(shop: Shop) -> None:
    def never(old: int, raw: Raw) -> Raw:
        raise AssertionError("called")

    assert await shop.do(Cart, lines, version=3, migrate=never) == {}
    assert not shop.http.cookies
    await shop.do(Cart, setting(note="x"), version=3, migrate=never)
    assert await shop.raw() == {"note": "x", "_version.Cart": 3}
    assert await shop.do(Cart, lines, version=3, migrate=never) == {}


async def test_the_version_is_written_only_along_with_something(shop: Shop) -> None:
    calls: list[int] = []

    def look(old: int, raw: Raw) -> Raw:
        calls.append(old)
        return raw

    await stored(shop, lines={"tea": 1})
    for _ in range(2):
        assert await shop.do(Cart, lines, version=1, migrate=look) == {"tea": 1}
    assert (calls, shop.store.written()) == ([0, 0], [])
    await shop.do(Cart, setting(note="x"), version=1, migrate=look)
    assert shop.store.written() == [{"note": "x", "_version.Cart": 1}]
    await shop.do(Cart, lines, version=1, migrate=look)
    assert calls == [0, 0, 0]


async def test_keys_of_others_survive_a_migration_that_returns_its_own_alone(shop: Shop) -> None:
    await stored(shop, items=["tea"], theme="dark", drop="x")

    def fresh(old: int, raw: Raw) -> Raw:
        del raw["drop"]
        return {"lines": dict.fromkeys(raw["items"], 1)}

    assert await shop.do(Cart, lines, version=1, migrate=fresh) == {"tea": 1}
    # What was taken out of raw is gone; what the result merely lacks may be another model's.
    assert await shop.raw() == {"lines": {"tea": 1}, "items": ["tea"], "theme": "dark", "_version.Cart": 1}


async def test_migrate_sees_neither_flash_messages_nor_versions(shop: Shop) -> None:
    await stored(shop, **{"items": ["tea"], "_flash.1": ["info", "x"], "_version.Other": 7, "_csrf": 1})
    seen: list[Raw] = []

    def look(old: int, raw: Raw) -> Raw:
        seen.append(dict(raw))
        raw.clear()
        return raw

    await shop.do(Cart, lines, version=1, migrate=look)
    assert seen == [{"items": ["tea"]}]
    assert await shop.raw() == {"_flash.1": ["info", "x"], "_version.Other": 7, "_csrf": 1, "_version.Cart": 1}


@pytest.mark.parametrize("model", CARTS)
async def test_a_newer_version_is_read_and_never_marked_down(shop: Shop, model: type) -> None:
    # A rolling deploy, or a roll-back: the older process meets what the newer one has written.
    key = f"_version.{model.__name__}"
    await stored(shop, **{"lines": {"tea": 1}, "gift": True, key: 9})
    settings: Raw = {"version": 3, "migrate": migrate}
    await shop.do(model, setting(note="old process"), **settings)
    assert shop.store.written() == [{"note": "old process"}]
    await shop.do(model, lambda typed: setattr(typed, "data", model(note="whole")), **settings)
    assert await shop.raw() == {"lines": {}, "note": "whole", "gift": True, key: 9}


async def test_a_newer_version_that_does_not_fit_is_named(shop: Shop) -> None:
    await stored(shop, **{"lines": {"tea": {"count": 1}}, "_version.Cart": 4})

    def read(typed: SessionOf[Any]) -> None:
        with pytest.raises(SessionDataError, match=r"version 4 of the model.*version 3") as caught:
            typed.data  # noqa: B018
        assert caught.value.key == "lines"

    await shop.do(Cart, read, version=3, migrate=migrate)
    assert shop.store.written() == []


async def test_two_models_have_a_version_each(shop: Shop) -> None:
    class Prefs(msgspec.Struct):
        theme: str = "light"

    def rename(old: int, raw: Raw) -> Raw:
        if "colours" in raw:
            raw["theme"] = raw.pop("colours")
        return raw

    await stored(shop, items=["tea"], colours="dark")
    cart = Depends(session_of(Cart, version=3, migrate=migrate))
    prefs = Depends(session_of(Prefs, version=2, migrate=rename))

    @shop.app.get("/both")
    async def both(one: Any = cart, other: Any = prefs) -> list[Any]:
        return [one.data.lines, other.data.theme]

    assert (await shop.http.get("/both")).json() == [{"tea": 1}, "dark"]
    assert await shop.raw() == {
        "lines": {"tea": 1},
        "theme": "dark",
        "_version.Cart": 3,
        "_version.Prefs": 2,
    }


async def test_a_class_may_be_renamed_if_its_name_stays(shop: Shop) -> None:
    await stored(shop, **{"lines": {"tea": 1}, "_version.Basket": 3})
    assert await shop.do(Cart, lines, version=3, migrate=migrate, name="Basket") == {"tea": 1}
    assert shop.store.written() == []


async def test_a_model_that_is_assigned_whole_is_of_this_version(shop: Shop) -> None:
    # Equal to what is stored, too: or the next read would migrate it.
    await stored(shop, **{"lines": {"tea": 1}, "note": "", "_version.Cart": 2})
    await shop.do(Cart, lambda typed: setattr(typed, "data", Cart(lines={"tea": 1})), version=3, migrate=migrate)
    assert shop.store.written() == [{"_version.Cart": 3}]
    assert await shop.do(Cart, lines, version=3, migrate=migrate) == {"tea": 1}


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_login_that_narrows_keeps_the_version(shop: Shop, awaited: bool) -> None:
    async def enter(typed: SessionOf[Any]) -> None:
        typed.data.lines["tea"] = 2
        staged = typed.session.login("bob", keep=["lines"])
        if awaited:
            await staged

    settings: Raw = {"version": 3, "migrate": migrate}
    await shop.do(Cart, setting(note="dropped"), **settings)
    await shop.do(Cart, enter, **settings)
    assert await shop.raw() == {"lines": {"tea": 2}, "_version.Cart": 3}
    assert await shop.do(Cart, lines, **settings) == {"tea": 2}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda old, raw: raw["missing"], r"raised KeyError"),
        (lambda old, raw: raw["items"].append("half") or raw["missing"], r"raised KeyError"),
        (lambda old, raw: None, r"returned a NoneType"),
        (lambda old, raw: raw.update(x=1), r"returned a NoneType"),
        (lambda old, raw: {"_version.Cart": 5}, r"set '_version.Cart', which sessiondb keeps"),
        (lambda old, raw: {"lines": {"tea": object()}}, r"session\['lines'\]"),
        (lambda old, raw: {1: 2}, r"key must be a string"),
        (lambda old, raw: {"lines": "text"}, r"session\['lines'\] is not dict\[str, int\]"),
    ],
)
async def test_a_migration_that_fails_changes_nothing(shop: Shop, wrong: Callable[[int, Raw], Any], text: str) -> None:
    await stored(shop, items=["tea"], private="x")

    def read(typed: SessionOf[Any]) -> None:
        with pytest.raises(SessionDataError, match=text):
            typed.data  # noqa: B018

    await shop.do(Cart, read, version=3, migrate=wrong)
    assert shop.store.written() == []
    assert await shop.raw() == {"items": ["tea"], "private": "x"}
    assert await shop.do(Cart, lines, version=3, migrate=migrate) == {"tea": 1}


async def test_a_version_that_is_no_number_is_refused(shop: Shop) -> None:
    await stored(shop, **{"lines": {"tea": 1}, "_version.Cart": "3"})
    with pytest.raises(SessionDataError, match=r"session\['_version.Cart'\] is not a number"):
        await shop.do(Cart, lines, version=3, migrate=migrate)


# -- what does not fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CARTS)
async def test_the_default_can_be_read_in_place_of_what_does_not_fit(
    shop: Shop, model: type, caplog: pytest.LogCaptureFixture
) -> None:
    await stored(shop, lines=["private"], note="fits")
    settings: Raw = {"on_invalid": "default"}

    def read(typed: SessionOf[Any]) -> list[Any]:
        return [typed.data.lines, typed.data.note]

    with caplog.at_level(logging.WARNING, "sessiondb"):
        for _ in range(3):
            assert await shop.do(model, read, **settings) == [{}, "fits"]
    assert shop.db.counters["session_data_defaulted"] == 3
    [logged] = [one.getMessage() for one in caplog.records]
    assert "session['lines'] is not dict[str, int]" in logged and "private" not in logged
    # What is stored stays as it is, until the app assigns that field.
    await shop.do(model, setting(note="new"), **settings)
    assert await shop.raw() == {"lines": ["private"], "note": "new"}
    await shop.do(model, setting(lines={"tea": 1}), **settings)
    assert await shop.raw() == {"lines": {"tea": 1}, "note": "new"}
    assert await shop.do(model, read, **settings) == [{"tea": 1}, "new"]


@pytest.mark.parametrize("read_first", [True, False])
async def test_a_model_that_is_assigned_whole_replaces_what_does_not_fit(shop: Shop, read_first: bool) -> None:
    await stored(shop, lines=["private"], note="fits")

    def assign(typed: SessionOf[Any]) -> None:
        if read_first:
            assert typed.data.lines == {}
        typed.data = Cart()

    await shop.do(Cart, assign, on_invalid="default")
    assert await shop.raw() == {"lines": {}, "note": ""}


async def test_when_only_the_whole_does_not_fit_all_of_it_is_default(shop: Shop) -> None:
    class Span(pydantic.BaseModel):
        start: int = 0
        end: int = 10

        @pydantic.model_validator(mode="after")
        def _in_order(self) -> Span:
            if self.start > self.end:
                raise ValueError(f"{self.start} is after {self.end}")
            return self

    await stored(shop, start=7, end=5)
    assert await shop.do(Span, lambda typed: [typed.data.start, typed.data.end], on_invalid="default") == [0, 10]

    def read(typed: SessionOf[Any]) -> None:
        with pytest.raises(SessionDataError, match="Span") as caught:
            typed.data  # noqa: B018
        assert caught.value.key is None
        assert "7" not in str(caught.value)

    await shop.do(Span, read)


async def test_no_message_quotes_what_a_struct_says_of_its_values(shop: Shop) -> None:
    class Even(msgspec.Struct):
        n: int = 0

        def __post_init__(self) -> None:
            if self.n % 2:
                raise ValueError(f"{self.n} is odd")

    await stored(shop, n=7331)

    def read(typed: SessionOf[Any]) -> None:
        with pytest.raises(SessionDataError) as caught:
            typed.data  # noqa: B018
        assert "7331" not in str(caught.value)

    await shop.do(Even, read)


@pytest.mark.parametrize("model", CARTS)
async def test_every_field_that_does_not_fit_names_its_type(shop: Shop, model: type) -> None:
    await stored(shop, lines=3)

    def read(typed: SessionOf[Any]) -> None:
        with pytest.raises(
            SessionDataError, match=rf"does not fit {model.__name__}: session\['lines'\] is not dict\[str, int\]: "
        ):
            typed.data  # noqa: B018

    await shop.do(model, read)


async def test_an_app_may_answer_for_what_does_not_fit(shop: Shop) -> None:
    @shop.app.exception_handler(SessionDataError)
    async def start_over(request: Request, error: SessionDataError) -> JSONResponse:
        if error.key is not None:
            del request.session[error.key]
        return JSONResponse({"dropped": error.key}, 409)

    await stored(shop, lines=3, note="kept")
    cart = Depends(session_of(Cart))

    @shop.app.get("/cart")
    async def read(typed: Any = cart) -> Any:
        return typed.data.lines

    answer = await shop.http.get("/cart")
    assert (answer.status_code, answer.json()) == (409, {"dropped": "lines"})
    assert (await shop.http.get("/cart")).json() == {}
    assert await shop.raw() == {"note": "kept"}


# -- what is not known ----------------------------------------------------------------------------------------


class Line(pydantic.BaseModel):
    sku: str = ""
    count: int = 1


class Basket(pydantic.BaseModel):
    lines: list[Line] = []
    main: Line | None = None
    by_name: dict[str, list[Line]] = {}


class LineStruct(msgspec.Struct):
    sku: str = ""
    count: int = 1


class BasketStruct(msgspec.Struct):
    lines: list[LineStruct] = []
    main: LineStruct | None = None
    by_name: dict[str, list[LineStruct]] = {}


@dataclasses.dataclass
class LineDataclass:
    sku: str = ""
    count: int = 1


@dataclasses.dataclass
class BasketDataclass:
    lines: list[LineDataclass] = dataclasses.field(default_factory=list)
    main: LineDataclass | None = None
    by_name: dict[str, list[LineDataclass]] = dataclasses.field(default_factory=dict)


BASKETS = [(Basket, Line), (BasketStruct, LineStruct), (BasketDataclass, LineDataclass)]


def a(**more: Any) -> Raw:
    return {"sku": "a", "count": 1, **more}


@pytest.mark.parametrize(("basket", "line"), BASKETS)
async def test_parts_keep_the_fields_that_this_version_does_not_know(shop: Shop, basket: type, line: type) -> None:
    gift = {"gift": {"text": "x"}}
    await stored(
        shop,
        lines=[{"sku": "a", "count": 1, **gift}, {"sku": "b", "count": 1, "size": 3}],
        main={"sku": "c", **gift},
        by_name={"x": [{"sku": "d", **gift}]},
    )

    def change(typed: SessionOf[Any]) -> None:
        first, second = typed.data.lines
        first.count += 1
        typed.data.lines[:] = [second, line(sku="new"), first]
        typed.data.main.count = 5
        typed.data.by_name["x"][0].count = 6

    await shop.do(basket, change)
    assert await shop.raw() == {
        "lines": [
            {"sku": "b", "count": 1, "size": 3},
            {"sku": "new", "count": 1},
            {"sku": "a", "count": 2, **gift},
        ],
        "main": {"sku": "c", "count": 5, **gift},
        "by_name": {"x": [{"sku": "d", "count": 6, **gift}]},
    }


@pytest.mark.parametrize(("basket", "line"), BASKETS)
async def test_a_new_part_has_none_of_them(shop: Shop, basket: type, line: type) -> None:
    await stored(shop, main=a(gift="for a"), lines=[a(gift="for a")])

    def change(typed: SessionOf[Any]) -> None:
        typed.data.main = line(sku="b")
        typed.data.lines[0] = line(sku="b")

    await shop.do(basket, change)
    assert await shop.raw() == {"main": {"sku": "b", "count": 1}, "lines": [{"sku": "b", "count": 1}]}


async def test_copies_of_the_model_around_them_take_them_along(shop: Shop) -> None:
    await stored(shop, lines=[a(gift="for a")])

    def copy(typed: SessionOf[Any]) -> None:
        typed.data = typed.data.model_copy(update={"main": Line(sku="m")})
        typed.data.lines[0].count = 2

    await shop.do(Basket, copy)
    assert (await shop.raw())["lines"] == [a(gift="for a", count=2)]


@pytest.mark.parametrize(("basket", "line"), BASKETS)
async def test_reading_and_changing_other_fields_leave_them_alone(shop: Shop, basket: type, line: type) -> None:
    await stored(shop, lines=[a(gift=1)], main=a(gift=2))
    await shop.do(basket, lambda typed: typed.data.lines[0].sku)
    assert shop.store.written() == []
    await shop.do(basket, lambda typed: setattr(typed.data.main, "count", 2))
    assert shop.store.written() == [{"main": a(gift=2, count=2)}]


LINES = st.lists(st.dictionaries(st.sampled_from(["sku", "count", "x", "y"]), st.just(0)), max_size=4)


@given(raw=LINES, data=st.data())
def test_whatever_is_moved_keeps_what_is_its_own(raw: list[Raw], data: st.DataObject) -> None:
    for entry in raw:
        if "sku" in entry:
            entry["sku"] = "s"
    shape = Shape(BasketStruct)
    model = shape.decode({"lines": raw}, "")
    found = unknown_fields.find(model, {"lines": raw}, shape.encode(model))
    more = {
        id(line): {k: v for k, v in entry.items() if k in "xy"} for line, entry in zip(model.lines, raw, strict=True)
    }
    kept = data.draw(st.permutations(model.lines))[: data.draw(st.integers(0, 4))]
    model.lines = [*kept, LineStruct("new")]
    dumped = unknown_fields.graft(model, shape.encode(model), found)
    assert [{k: v for k, v in one.items() if k in "xy"} for one in dumped["lines"]] == [
        *(more[id(line)] for line in kept),
        {},
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
FIELDS = st.fixed_dictionaries({}, optional={"lines": st.dictionaries(TEXT, st.integers(0, 9)), "note": TEXT})


@pytest.mark.parametrize("model", CARTS)
@given(
    others=st.dictionaries(st.text("xyz_", min_size=1, max_size=3), JSON, max_size=4),
    fields=FIELDS,
    changed=FIELDS,
    mark=st.none() | st.integers(3, 5),
)
def test_a_write_changes_what_was_changed_and_nothing_else(
    model: type, others: Raw, fields: Raw, changed: Raw, mark: int | None
) -> None:
    key = f"_version.{model.__name__}"
    session = {**others, **fields, **({} if mark is None else {key: mark})}
    before = copy.deepcopy(session)
    plan = typed._Plan(Shape(model), versions.versions(model.__name__, 3, lambda old, raw: raw), False)
    view = typed._View(plan, Counter())
    value = view.give(session)
    for name, item in changed.items():
        setattr(value, name, item)
    view.write_back(session)
    differs = {name: item for name, item in changed.items() if item != fields.get(name, {} if name == "lines" else "")}
    assert session == {**before, **differs, **({key: mark or 3} if differs else {})}
    view.write_back(session)
    view.forget()
    assert all(getattr(view.give(session), name) == item for name, item in changed.items())


# -- mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"version": 2}, "migrate is missing"),
        ({"migrate": migrate}, "version is missing"),
        ({"version": 0, "migrate": migrate}, "version is 0"),
        ({"version": True, "migrate": migrate}, "version is True"),
        ({"version": "3", "migrate": migrate}, "version is '3'"),
        ({"version": 3, "migrate": "migrate"}, "migrate is 'migrate'"),
        ({"version": 3, "migrate": lambda raw: raw}, "migrate is .*; it is called with two arguments"),
        ({"on_invalid": "ignore"}, "on_invalid is 'ignore'"),
        ({"name": ""}, "name is ''"),
        ({"name": 3}, "name is 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Raw, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"session_of: {text}"):
        session_of(Cart, **settings)


def test_an_async_migration_is_refused() -> None:
    async def migrate(old: int, raw: Raw) -> Raw:
        return raw

    with pytest.raises(ConfigurationError, match="not an async one"):
        session_of(Cart, version=1, migrate=migrate)  # type: ignore[arg-type]


def test_keys_of_ours_are_no_fields() -> None:
    wrong = msgspec.defstruct("Wrong", [("token", str, msgspec.field(default="", name="_csrf"))])
    with pytest.raises(ConfigurationError, match="keeps the key '_csrf' for itself"):
        session_of(wrong)


def test_fields_that_name_nothing_are_found_when_declared() -> None:
    class Later(pydantic.BaseModel):
        thing: Missing | None = None  # type: ignore[name-defined]  # noqa: F821

    @dataclasses.dataclass
    class Data:
        thing: Missing | None = None  # type: ignore[name-defined]  # noqa: F821

    for model in (Later, Data):
        with pytest.raises(ConfigurationError, match=r"the fields of .* cannot be read"):
            session_of(model)


async def test_an_open_model_has_none_of_our_keys(shop: Shop) -> None:
    class Open(pydantic.BaseModel, extra="allow"):
        n: int = 0

    ours = {"_flash.1": ["info", "x"], "_version.Cart": 3, "_csrf": 1}
    await stored(shop, **ours, colour="red")
    assert await shop.do(Open, lambda typed: typed.data.model_extra) == {"colour": "red"}
    await shop.do(Open, lambda typed: setattr(typed, "data", Open()))
    assert await shop.raw() == {**ours, "n": 0}


@pytest.mark.security("K6")
async def test_a_secret_that_would_be_stored_as_asterisks_is_refused(shop: Shop) -> None:
    class Inner(pydantic.BaseModel):
        key: pydantic.SecretStr | None = None

    class Holder(pydantic.BaseModel):
        inner: list[Inner] = []
        note: str = ""

    await shop.do(Holder, setting(note="x"))
    with pytest.raises(SessionDataError, match="dumps as asterisks"):
        await shop.do(Holder, lambda typed: typed.data.inner.append(Inner(key=pydantic.SecretStr("hunter2"))))
    assert await shop.raw() == {"note": "x"}


async def test_bytes_that_are_no_text_say_how_to_be_stored(shop: Shop) -> None:
    class Blob(pydantic.BaseModel):
        blob: bytes = b""

    class Encoded(Blob):
        model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    with pytest.raises(SessionDataError, match="ser_json_bytes='base64'"):
        await shop.do(Blob, setting(blob=b"\xff"))
    await shop.do(Encoded, setting(blob=b"\xff"))
    assert await shop.do(Encoded, lambda typed: typed.data.blob == b"\xff")


async def test_computed_fields_aliases_and_frozen_parts_within(shop: Shop) -> None:
    class Part(pydantic.BaseModel, frozen=True, extra="forbid"):
        item_list: list[str] = pydantic.Field(default_factory=list, alias="itemList")

        @pydantic.computed_field
        def size(self) -> int:
            return len(self.item_list)

    class Whole(pydantic.BaseModel):
        part: Part = Part()
        either: int | list[str] | None = None

    await shop.do(Whole, lambda typed: setattr(typed.data, "part", Part(itemList=["a"])))
    await shop.do(Whole, setting(either=["x"]))
    assert await shop.raw() == {"part": {"item_list": ["a"]}, "either": ["x"]}
    assert await shop.do(Whole, lambda typed: [typed.data.part.size, typed.data.either]) == [1, ["x"]]
