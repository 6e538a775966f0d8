"""Odd keys, odd values and seeded random JSON: everything that a session may hold and a database may bend."""

from __future__ import annotations

import random
from typing import Any

ODD_KEYS: tuple[str, ...] = (
    "",
    " ",
    "a",
    "A",
    "a ",
    " a",
    "a b",
    'a"b',
    'a""b',
    "a'b",
    "a''b",
    "a`b",
    "a\\b",
    "a\\",
    "\\",
    '\\"',
    "\\u0041",
    "a.b",
    ".",
    "..",
    "$",
    "$a",
    "$.a",
    "$set",
    "a.$.b",
    "%s",
    "%",
    "?",
    ":a",
    "{a}",
    "[0]",
    "0",
    "-1",
    "null",
    "true",
    "data",
    "sid",
    "_id",
    "a/b",
    "a~1b",
    "a;b",
    "--",
    "a\tb",
    "a\nb",
    "\x01",
    "\x7f",
    "\x85",
    "\xa0",
    "é",
    "e\u0301",
    "ß",
    "İ",
    "\u2028",
    "\u200b",
    "\ufeff",
    "\ufffd",
    "😀",
    "👩‍👩‍👧",
    "\U0010ffff",
    "k" * 200,
    "é" * 200,
)

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    -1.0,
    0.0,
    -0.0,
    0.1,
    1.5,
    1e15,
    1e16,
    1e22,
    1e23,
    -1e23,
    1e100,
    1e-7,
    2.0**53,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    9.223372036854776e18,
    5e-324,
    2.2250738585072014e-308,
    1.7976931348623157e308,
    "",
    " ",
    "null",
    "1",
    "1.0",
    '"',
    "\\",
    "\\u0000",
    "\x01\x1f\x7f\x80",
    "😀\u2028\U0010ffff",
    "x" * 3000,
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    {"a": {}},
    [None],
    [1, 1.0, True, "1"],
    {"a": [{"b": [{"c": 1e23}]}]},
    {"a.b": 1, "a": {"b": 2}},
)

_SCALARS = tuple(value for value in ODD_VALUES if not isinstance(value, (list, dict)))
_CHARACTERS = "abcXYZ019 .$\"'\\/%_-é😀\n\x01\u2028"


def random_value(source: random.Random, depth: int = 4) -> Any:
    """Some JSON value, nested at most ``depth`` deep."""
    kind = source.randrange(12 if depth else 9)
    if kind < 3:
        return source.choice(_SCALARS)
    if kind < 5:
        return source.randint(-(2**63), 2**63 - 1) >> source.randrange(64)
    if kind < 7:
        # Any finite double, by its digits and exponent: those are what databases get wrong.
        return source.uniform(-10, 10) * 10.0 ** source.randint(-300, 300)
    if kind < 9:
        return random_key(source)
    if kind < 11:
        return {random_key(source): random_value(source, depth - 1) for _ in range(source.randrange(4))}
    return [random_value(source, depth - 1) for _ in range(source.randrange(4))]


def random_key(source: random.Random) -> str:
    """Some key."""
    if source.random() < 0.5:
        return source.choice(ODD_KEYS)
    return "".join(source.choice(_CHARACTERS) for _ in range(source.randrange(12)))


def random_data(source: random.Random) -> dict[str, Any]:
    """Some session's data."""
    return {random_key(source): random_value(source) for _ in range(source.randrange(6))}
