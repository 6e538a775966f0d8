"""What goes into a session comes out equal, types included; what cannot is refused with a cure."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core import codec
from sessiondb.core.errors import SessionDataError
from strategies import ODD_KEYS, ODD_VALUES, data, encoded, spelled, values


class Colour(enum.Enum):
    RED = "red"


class Text(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


class MyStr(str):
    pass


class MyInt(int):
    pass


class MyFloat(float):
    pass


class MyDict(dict[str, Any]):
    pass


class MyList(list[Any]):
    pass


@given(data)
def test_data_comes_out_equal_with_its_types(stored: dict[str, Any]) -> None:
    whole = codec.encode_data(stored)
    assert spelled(codec.decode_data(whole)) == spelled(stored)
    assert spelled(codec.decode_data(codec.join(codec.split(whole)))) == spelled(stored)
    assert spelled(codec.decode_data(codec.merge(b"{}", encoded(stored), ()))) == spelled(stored)


@given(values)
def test_a_value_comes_out_equal_whatever_the_spacing(value: Any) -> None:
    plain = codec.encode_value("k", value)
    assert spelled(codec.decode_value(plain)) == spelled(value)
    assert codec.is_same(msgspec.json.format(plain), value)
    plain.decode("utf-8")


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: f"{type(value).__name__}-{value!r:.30}")
def test_odd_values_at_the_top_and_nested(value: Any) -> None:
    for wrapped in (value, [value], {"k": value}, [{"k": [value]}]):
        assert spelled(codec.decode_value(codec.encode_value("k", wrapped))) == spelled(wrapped)


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key)[:40])
def test_odd_keys(key: str) -> None:
    codec.check_key(key)
    stored = {key: 1, "other": {key: [key]}}
    whole = codec.encode_data(stored)
    assert codec.decode_data(whole) == stored
    assert codec.decode_data(codec.merge(whole, {key: b"2"}, ())) == {**stored, key: 2}
    assert codec.decode_data(codec.merge(whole, {}, {key})) == {"other": stored["other"]}


def test_numbers_and_booleans_that_compare_equal_stay_apart() -> None:
    values = (1, 1.0, True, "1", None, [1], 0.0, -0.0)
    for one in values:
        same = [codec.is_same(codec.encode_value("k", one), other) for other in values]
        assert same.count(True) == 1
    assert codec.is_same(b'{ "b":1, "a" : [ ] }', {"a": [], "b": 1})
    assert codec.is_same(b"100000000000000000000000.0", 1e23)


def test_tuples_become_lists_and_subclasses_plain_types() -> None:
    given_values = {"t": (1, (2,)), "s": MyStr("x"), "i": MyInt(7), "f": MyFloat(1.5), "d": MyDict(a=MyList([1]))}
    found = codec.decode_data(codec.encode_data(given_values))
    assert spelled(found) == spelled({"t": [1, [2]], "s": "x", "i": 7, "f": 1.5, "d": {"a": [1]}})
    assert codec.decode_value(codec.encode_value("k", {MyStr("name"): 1})) == {"name": 1}
    assert codec.decode_data(codec.encode_data({MyStr("name"): 1})) == {"name": 1}
    codec.check_key(MyStr("name"))


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


def test_depth_24_is_the_most() -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: (inner,)):
        assert codec.encode_value("k", nested(24, wrap))
        with pytest.raises(SessionDataError, match=r"session\['cart'\].*24 deep.*flatten"):
            codec.encode_value("cart", nested(25, wrap))


def test_cycles_are_refused_at_once() -> None:
    a_list: list[Any] = []
    a_list += [a_list] * 50
    a_dict: dict[str, Any] = {}
    a_dict.update({str(number): a_dict for number in range(50)})
    for cycle in (a_list, a_dict, {"k": a_list}):
        with pytest.raises(SessionDataError, match=r"session\['cart'\].*contains itself"):
            codec.encode_value("cart", cycle)


REFUSED = [
    (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "isoformat"),
    (datetime.date(2026, 1, 1), "isoformat"),
    (datetime.time(1), "isoformat"),
    (datetime.timedelta(1), "total_seconds"),
    (uuid.UUID(int=1), r"str\(value\)"),
    (decimal.Decimal("1.1"), r"str\(value\)"),
    ({1}, r"sorted\(value\)"),
    (frozenset({1}), r"sorted\(value\)"),
    (b"x", "base64"),
    (bytearray(b"x"), "base64"),
    (memoryview(b"x"), "plain JSON"),
    (float("inf"), "None or a string"),
    (float("-inf"), "None or a string"),
    (float("nan"), "None or a string"),
    (MyFloat("nan"), "None or a string"),
    (2**63, r"64-bit.*str\(value\)"),
    (-(2**63) - 1, r"64-bit.*str\(value\)"),
    (10**5000, r"64-bit.*str\(value\)"),
    (MyInt(2**63), r"64-bit.*str\(value\)"),
    ("a\0b", r"U\+0000.*base64"),
    (MyStr("\0"), r"U\+0000.*base64"),
    ("\ud800", "lone surrogate.*base64"),
    ("x\udfffx", "lone surrogate.*base64"),
    (Colour.RED, "value.value"),
    (Text.A, "value.value"),
    (Number.ONE, "value.value"),
    (object(), "plain JSON"),
    (1j, "plain JSON"),
    (msgspec.Raw(b"1"), "plain JSON"),
    (range(3), "plain JSON"),
    (Ellipsis, "plain JSON"),
]
REFUSED_NAMES = [
    (1, r"str\(key\)"),
    (None, r"str\(key\)"),
    (True, r"str\(key\)"),
    ((1,), r"str\(key\)"),
    (b"a", r"str\(key\)"),
    (Text.A, r"str\(key\)"),
    (Number.ONE, r"str\(key\)"),
    ("\0", r"U\+0000"),
    ("\udc00", "surrogate"),
]


@pytest.mark.parametrize(("value", "cure"), REFUSED, ids=lambda part: f"{type(part).__name__}")
def test_what_json_cannot_hold_is_refused_with_key_and_cure(value: Any, cure: str) -> None:
    for wrapped in (value, [0, value], {"k": value}, ({"k": [value]},)):
        for encode in (
            lambda wrapped: codec.encode_value("cart", wrapped),
            lambda wrapped: codec.encode_data({"a": 1, "cart": wrapped}),
        ):
            with pytest.raises(SessionDataError, match=rf"(?s)session\['cart'\].*{cure}") as caught:
                encode(wrapped)
            assert caught.value.key == "cart"
            assert len(str(caught.value)) < 500
            str(caught.value).encode()


@pytest.mark.parametrize(("name", "cure"), REFUSED_NAMES, ids=lambda part: ascii(part)[:20])
def test_keys_are_clean_text(name: Any, cure: str) -> None:
    with pytest.raises(SessionDataError, match=cure) as caught:
        codec.check_key(name)
    str(caught.value).encode()
    for wrapped in ({name: 1}, [{"k": {name: 1}}]):
        with pytest.raises(SessionDataError, match=cure) as caught:
            codec.encode_value("cart", wrapped)
        assert caught.value.key == "cart"
        str(caught.value).encode()


@given(st.text(min_size=1))
def test_any_text_is_either_kept_or_refused(text: str) -> None:
    clean = "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
    for use in (lambda: codec.encode_value("k", text), lambda: codec.encode_value("k", {text: text})):
        if clean:
            use()
        else:
            with pytest.raises(SessionDataError):
                use()
    if clean:
        codec.check_key(text)
        assert codec.decode_data(codec.encode_data({text: text})) == {text: text}
    else:
        with pytest.raises(SessionDataError):
            codec.check_key(text)


@given(st.binary(max_size=60) | st.sampled_from([b"", b"[]", b"1", b"null", b'{"a":', b'{"a":\xff}', b"[" * 100_000]))
def test_foreign_bytes_never_raise_anything_but_a_data_error(raw: bytes) -> None:
    for read in (codec.decode_data, codec.split):
        try:
            read(raw)
        except SessionDataError as error:
            assert "not a JSON object" in str(error)  # noqa: PT017  both answers are right


@given(st.text())
def test_data_that_cannot_be_read_says_why_and_its_bytes_alone_say_nothing(why: str) -> None:
    marked = codec.unreadable(why)
    for read in (codec.decode_data, codec.split):
        with pytest.raises(SessionDataError) as told:
            read(marked)
        assert str(told.value) == why.encode("utf-8", "replace").decode()
        # Whoever writes them to a database puts no words into our mouth.
        with pytest.raises(SessionDataError, match="not a JSON object"):
            read(bytes(marked))


def test_size_names_the_limit_the_largest_key_and_the_setting() -> None:
    codec.check_size(10, 10, "a")
    with pytest.raises(SessionDataError, match=r"11 bytes.*10 allowed.*'a'.*max_session_bytes"):
        codec.check_size(11, 10, "a")


def test_unchecked_encoding_answers_none_instead_of_raising() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (object(), "\ud800", cycle):
        assert codec.encode_unchecked({"k": value}) is None
    assert codec.encode_unchecked({"k": [1]}) == codec.encode_data({"k": [1]})
