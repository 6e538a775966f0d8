"""Calls that go on when their caller is cancelled, for drivers that do not bear to be cut off in the middle."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

Args = ParamSpec("Args")
Answer = TypeVar("Answer")

_abandoned: set[asyncio.Future[Any]] = set()


def uncancelled(
    method: Callable[Args, Coroutine[Any, Any, Answer]],
) -> Callable[Args, Coroutine[Any, Any, Answer]]:
    """``method``, whose caller may be cancelled while the call itself runs to its end, unheard."""

    @functools.wraps(method)
    async def call(*args: Args.args, **kwargs: Args.kwargs) -> Answer:
        running = asyncio.get_running_loop().create_task(method(*args, **kwargs))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            if not running.done():
                _abandoned.add(running)
                running.add_done_callback(_forget)
            raise

    return call


def _forget(call: asyncio.Future[Any]) -> None:
    _abandoned.discard(call)
    if not call.cancelled():
        call.exception()  # nobody waits for it any more, so nobody is to be told
