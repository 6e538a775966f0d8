"""``db.lifespan``: opens the database with the app, alone or around the app's own lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from sessiondb.core.errors import StoreUnavailable

log = logging.getLogger("sessiondb")

App = TypeVar("App")
AppState = TypeVar("AppState")


class Opens(Protocol):
    """What can be opened and closed."""

    async def open(self) -> None:
        """Open it."""
        ...

    async def close(self) -> None:
        """Close it."""
        ...


class Lifespan:
    """``FastAPI(lifespan=db.lifespan)``, or ``FastAPI(lifespan=db.lifespan.wrap(mine))``.

    Bad configuration stops the app from starting. A database that is only away does not: pages that need no
    session are served, and the database is opened when it is back.
    """

    def __init__(self, db: Opens) -> None:
        self._db = db

    def __call__(self, app: Any) -> AbstractAsyncContextManager[None]:
        """The lifespan of ``app``."""
        return self._opened()

    def wrap(
        self, lifespan: Callable[[App], AbstractAsyncContextManager[AppState]]
    ) -> Callable[[App], AbstractAsyncContextManager[AppState]]:
        """``lifespan`` inside this one: the database opens before it and closes after it."""

        @asynccontextmanager
        async def both(app: App) -> AsyncIterator[AppState]:
            async with self._opened(), lifespan(app) as state:
                yield state

        return both

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        try:
            await self._db.open()
        except StoreUnavailable as error:
            log.error("The session database is away at start-up; it is opened when it is back. %s", error)
        try:
            yield
        finally:
            await self._db.close()
