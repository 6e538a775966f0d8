"""Calls of several transactions: each is tried again after a deadlock, and the whole tells whether one has landed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from sessiondb.stores._mysql_connection import Connection
from sessiondb.stores._steps import undecided

_T = TypeVar("_T")


class Again(Protocol):
    """Runs ``work`` on a connection; again where the server rolled it back only because of others."""

    def __call__(self, work: Callable[[Connection], Awaitable[_T]], /) -> Awaitable[_T]: ...


class Parts:
    """``again`` for the parts of one call: after the first, no error says that nothing was written."""

    def __init__(self, again: Again) -> None:
        self._again = again
        self._landed = False

    async def __call__(self, work: Callable[[Connection], Awaitable[_T]], /) -> _T:
        """What ``work`` returns."""
        try:
            answer = await self._again(work)
        except Exception as error:
            if self._landed:
                raise undecided(error) from error.__cause__
            raise
        self._landed = True
        return answer
