"""A database that tells its clients what others write: what a near cache needs to hold records for longer.

A store that has such a feed has a method ``feed() -> Feed | None``; ``None`` means: not in this configuration, and why
is logged once. Other stores have no such method.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from sessiondb.core.token import Sid


class Listener(Protocol):
    """Who is told. Called on the event loop that called ``Feed.listen``; returns at once and never raises."""

    def changed(self, sids: Iterable[Sid]) -> None:
        """These sessions have, or may have, changed or gone; whoever holds their records drops them."""
        ...

    def everything_changed(self) -> None:
        """More may have changed than the feed can name."""
        ...

    def alive(self, since: float) -> None:
        """Whatever was committed before ``since`` (``loop.time()`` here) has been told by now.

        ``since`` is when the question was sent whose answer has just arrived, so it errs on the safe side.
        """
        ...


@runtime_checkable
class Feed(Protocol):
    """What others write, told as it is committed."""

    async def listen(self, listener: Listener, every: float) -> None:
        """Connect and tell ``listener``, until the connection is lost, which raises ``StoreUnavailable``.

        ``alive`` is called first when nothing committed from then on will be missed, and then about each ``every``
        seconds: the database is asked, and silence for longer than ``every`` counts as a lost connection. Whatever
        is open is closed on the way out, also when the caller is cancelled. Raises ``ConfigurationError`` where the
        database, asked for it, has no feed for us: that is no outage, and records are served by their age.
        """
        ...


@runtime_checkable
class HasFeed(Protocol):
    """A store whose database may have a feed."""

    def feed(self) -> Feed | None:
        """The feed, not yet connected."""
        ...
