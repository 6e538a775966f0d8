"""What event loops hand to a thread, and how they are answered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

Work = Callable[[sqlite3.Connection], Any]


class Job:
    """One piece of work, and who waits for it on which loop."""

    __slots__ = ("alone", "future", "loop", "outside", "work")

    def __init__(self, work: Work, alone: Work | None, outside: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.alone = alone
        self.outside = outside
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()


def answer(jobs: Sequence[Job], results: Sequence[Any]) -> None:
    """Wake each loop once, whatever the number of its callers."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, result))
    for loop, answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, answers)
        except RuntimeError:
            pass  # the loop has been closed, and nobody waits there any more


def _resolve(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in answers:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
