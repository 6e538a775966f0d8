"""Functions of the app are looked at when they are given, not when they are first called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sessiondb.core.calls import takes


def one(first: object) -> None: ...


def one_or_two(first: object, second: object = None) -> None: ...


def keyword_only(first: object, *, second: object) -> None: ...


class Callable2:
    def __call__(self, first: object, second: object) -> None: ...


class Silent:
    """What it takes cannot be found out, as of some builtins."""

    __signature__ = "?"

    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "counts"),
    [
        (one, {1}),
        (one_or_two, {1, 2}),
        (keyword_only, set()),
        (partial(one_or_two, None), {0, 1}),
        (Callable2(), {2}),
        ([].append, {1}),
        (lambda *_: None, {0, 1, 2}),
        (Silent(), {0, 1, 2}),
    ],
)
def test_whether_it_can_be_called_with_so_many(function: Callable[..., Any], counts: set[int]) -> None:
    assert {count for count in range(3) if takes(function, count)} == counts
