"""How the app's functions are called, whether they are ``async`` or not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Argument = TypeVar("Argument")


async def call(function: Callable[[Argument], Any], argument: Argument) -> None:
    """Call ``function``: an ``async`` one here, another one in a thread, so that it may wait."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        await function(argument)
        return
    result = await asyncio.to_thread(function, argument)
    if inspect.isawaitable(result):  # a lambda or an object that has called something async
        await result
