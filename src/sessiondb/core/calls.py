"""Whether a function of the app can be called as it will be: better asked at the start than at its first call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Whether ``function`` can be called with so many positional arguments. ``True`` where it does not say."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True
