"""Calls of several commands: what is known of the whole when one of them fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sessiondb.core.errors import StoreError, StoreUnavailable

_T = TypeVar("_T")


def undecided(error: Exception) -> Exception:
    """``error`` of a call that may have written something before: it must not say that nothing was."""
    if not isinstance(error, StoreError) or error.outcome != "not_applied":
        return error
    found: StoreError
    if isinstance(error, StoreUnavailable):
        found = StoreUnavailable(str(error), outcome="unknown", retry_after=error.retry_after, partial=error.partial)
    else:
        found = StoreError(str(error), outcome="unknown")
    found.__cause__ = error.__cause__
    return found


class Writes:
    """The writes of one call, each awaited through it. ``is_undone`` tells of an error that nothing was written."""

    __slots__ = ("_is_undone", "_sent")

    def __init__(self, is_undone: Callable[[Exception], bool]) -> None:
        self._is_undone = is_undone
        self._sent = 0

    async def __call__(self, write: Awaitable[_T]) -> _T:
        """Await ``write``."""
        self._sent += 1
        try:
            return await write
        except Exception as error:
            if self._is_undone(error):
                self._sent -= 1
            raise

    @property
    def may_have_landed(self) -> bool:
        """Whether something was written, or is being written still."""
        return self._sent > 0
