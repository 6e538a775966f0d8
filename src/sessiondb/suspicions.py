"""``@db.on_risk``: the app's functions that are told of every verdict that has found something."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from sessiondb.calling import call
from sessiondb.core.alerts import Alert, Circumstances, alert, headline_of
from sessiondb.core.calls import takes
from sessiondb.core.errors import ConfigurationError, StoreError
from sessiondb.core.risk import Verdict

log = logging.getLogger("sessiondb")

MOST_WAITING = 1000
HOOK_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A verdict, and whom it is about: the user, and the session (``None``: there is none, or not any more).

    ``seen``: with what, from where, and where before, as far as that is known.
    """

    verdict: Verdict
    user_id: str | None
    sid: str | None
    seen: Circumstances | None = None

    @property
    def headline(self) -> str:
        """One line for people: ``"New sign-in from Firefox on Linux, Brazil; last seen in Poland 40 minutes ago"``."""
        return headline_of(self.verdict, self.seen)

    def alert(self, *, app: str = "your account", url: str | None = None) -> Alert:
        """A mail to the user: subject, text and HTML. ``app`` names the service, ``url`` is the page of their devices.

        Raises ``ConfigurationError`` for a ``url`` that is no ``https://`` or ``http://`` address.
        """
        return alert(self.verdict, self.seen, app=app, url=url)


RiskHook = Callable[[Suspicion], "Awaitable[None] | None"]
RiskHookFunction = TypeVar("RiskHookFunction", bound=Callable[[Suspicion], Any])


class RiskHooks:
    """The functions of one ``SessionDB``."""

    def __init__(self) -> None:
        self.functions: list[RiskHook] = []

    def add(self, function: RiskHookFunction) -> RiskHookFunction:
        """Register ``function``. Raises ``ConfigurationError`` if it cannot be one."""
        if not callable(function) or not takes(function, 1):
            name = getattr(function, "__name__", "hook")
            raise ConfigurationError(f"on_risk: write the function as: def {name}(suspicion: Suspicion).")
        self.functions.append(function)
        return function


class Suspicions:
    """Tells the hooks of one event loop, in the background and in order; the event in the trail is there before.

    ``counters`` has ``failed_risk_hooks`` and ``dropped_suspicions``.
    """

    def __init__(self, hooks: RiskHooks | None, counters: Counter[str]) -> None:
        self._hooks = hooks
        self._counters = counters
        self._waiting: list[Suspicion] = []
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, suspicion: Suspicion) -> None:
        """Tell of it, if it is one."""
        if self._hooks is None or not self._hooks.functions or not suspicion.verdict.findings:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._counters["dropped_suspicions"] += 1
            return
        self._waiting.append(suspicion)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def do(self, work: Coroutine[Any, Any, object]) -> None:
        """Do ``work`` that no request waits for; what fails is logged."""
        task = asyncio.get_running_loop().create_task(self._done(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _done(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except StoreError as error:
            log.error("What was to be done about a suspicion has failed: %s", error)

    async def close(self, timeout: float) -> None:
        """Tell what waits, for ``timeout`` seconds at most."""
        running = [task for task in (self._task, *self._tasks) if task is not None and not task.done()]
        if running:
            await asyncio.wait(running, timeout=timeout)
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def _run(self) -> None:
        while self._waiting and self._hooks is not None:
            suspicion = self._waiting.pop(0)
            for hook in self._hooks.functions:
                try:
                    async with asyncio.timeout(HOOK_TIMEOUT):
                        await call(hook, suspicion)
                except Exception:
                    self._counters["failed_risk_hooks"] += 1
                    log.exception("The hook %s failed for a suspicion.", getattr(hook, "__qualname__", repr(hook)))
