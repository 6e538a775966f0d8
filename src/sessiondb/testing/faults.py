"""A store that fails on purpose: slow, away, its replies lost, its caller cancelled, its clock wrong."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sessiondb.core.errors import StoreError, StoreUnavailable
from sessiondb.core.policy import SECOND
from sessiondb.stores.base import Store
from sessiondb.testing.wrapper import StoreWrapper

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Delay:
    """Call after ``seconds``. 0 lets everything else that is ready run first."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Fail:
    """Do not call; raise ``error`` (``StoreUnavailable``): nothing was applied."""

    error: Exception | None = None


@dataclass(frozen=True)
class LoseReply:
    """Call, then raise ``error`` (``StoreError(outcome="unknown")``): it was applied, and nobody knows."""

    error: Exception | None = None


@dataclass(frozen=True)
class Hang:
    """Never answer, until the caller is cancelled. ``applied``: the call was made before."""

    applied: bool = False


@dataclass(frozen=True)
class Cancel:
    """Cancel the calling task, as a client that goes away does. ``applied``: the call was made before."""

    applied: bool = False


Fault = Delay | Fail | LoseReply | Hang | Cancel
"""What can happen to one call."""

METHODS = (
    "load",
    "apply",
    "admit",
    "find",
    "end_where",
    "sweep",
    "announced",
    "lower_checks",
    "recall",
    "remember",
    "append",
    "events",
    "streams",
    "trail",
    "purge_events",
    "blank",
    "forget_user",
    "profile",
    "record_logins",
    "drop_login",
    "count",
    "publish",
    "sheets",
    "withdraw",
    "expire",
    "stats",
    "clock",
    "open",
)


class FaultyStore(StoreWrapper):
    """``store``, with faults: first those of ``script``, then ``always``, then random ones.

    ``faults.next("apply", LoseReply())`` plans the next call of a method, ``faults.always["load"] = Delay(0.1)``
    all of them. ``rates`` maps faults to their probability in each call (``{Fail(): 0.1}``); ``seed`` makes them
    repeatable. ``down = True`` is an outage: every call but ``close`` raises ``StoreUnavailable``. ``skew`` seconds
    are added to what ``clock()`` answers. ``injected`` lists what happened, in order.
    """

    def __init__(
        self,
        store: Store,
        *,
        rates: Mapping[Fault, float] | None = None,
        seed: int = 0,
        methods: frozenset[str] | None = None,
        skew: float = 0.0,
    ) -> None:
        super().__init__(store)
        self.down = False
        self.skew = skew
        self.always: dict[str, Fault] = {}
        self.injected: list[tuple[str, Fault]] = []
        self._rates = dict(rates or {})
        if not 0.0 <= sum(self._rates.values()) <= 1.0:
            raise ValueError("the rates are probabilities of one call: from 0 to 1 together")
        self._methods = methods if methods is not None else frozenset({"load", "apply"})
        self._random = random.Random(seed)  # noqa: S311  repeatable, not secret
        self._script: dict[str, deque[Fault | None]] = defaultdict(deque)

    def next(self, method: str, *faults: Fault | None) -> None:
        """Plan what happens to the next calls of ``method``, one each; ``None``: nothing."""
        if method not in METHODS:
            raise ValueError(f"{method!r} is no method of a store that can fail; use one of {', '.join(METHODS)}")
        self._script[method].extend(faults)

    async def clock(self) -> int:
        """The inner store's time, ``skew`` seconds off."""
        return await super().clock() + round(self.skew * SECOND)

    async def around(self, method: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Make the call, with what is planned for it."""
        if self.down and method != "close":
            raise StoreUnavailable("The database is away (a planned outage).")
        fault = self._fault(method)
        if fault is None:
            return await call()
        self.injected.append((method, fault))
        match fault:
            case Delay(seconds):
                await asyncio.sleep(seconds)
                return await call()
            case Fail(error):
                raise error or StoreUnavailable("The database did not take the call (a planned fault).")
            case LoseReply(error):
                await call()
                raise error or StoreError("The reply was lost (a planned fault).", outcome="unknown")
            case Hang(applied):
                if applied:
                    await call()
                await asyncio.get_running_loop().create_future()
            case Cancel(applied):
                if applied:
                    await call()
                _cancel_caller()
                await asyncio.sleep(0)
        raise AssertionError("a call that should never answer has answered")

    def _fault(self, method: str) -> Fault | None:
        planned = self._script[method]
        if planned:
            return planned.popleft()
        if method in self.always:
            return self.always[method]
        if not self._rates or method not in self._methods:
            return None
        drawn = self._random.random()
        for fault, rate in self._rates.items():
            drawn -= rate
            if drawn < 0:
                return fault
        return None


def _cancel_caller() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
