"""Who has which sessions at a given size, and filling a database with them, so many at a time."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from typing import TextIO

import msgspec

from benchmarks.variants import PROFILE
from sessiondb.core import codec
from sessiondb.core.change import Applied, Change
from sessiondb.core.record import EndReason
from sessiondb.core.token import Sid
from sessiondb.stores.base import Store
from sessiondb.testing.builders import DAY, HOUR, MINUTE, Builders

BATCH = 500
IN_FLIGHT = 3
USERS_OF_SIX = (0, 1, 1, 2, 2, 2)  # six sessions: a user with one, one with two, one with three
OLDEST = 13 * DAY  # none is past its idle lifetime of 14 days, so that nothing is due but what is made so
ENDED_ONE_IN = 10
LEAVING_ONE_IN = 4  # of the users: those whose sessions are revoked, while the others' are read and written
SAMPLE = 50_000

_CLIENT = b'{"ip":"192.0.2.7","user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}'
_AUTH = b'{"methods":["pwd"]}'
_DATA = codec.encode_data({key: value for key, value in PROFILE.items() if key != "seen"})[:-1]


def user_of(number: int) -> str:
    """Whose session ``number`` is: users have one, two or three."""
    six, place = divmod(number, 6)
    return f"user{six * 3 + USERS_OF_SIX[place]:08}"


def leaves(number: int) -> bool:
    """Whether the user of session ``number`` is one of those whose sessions are revoked."""
    return number // 6 % LEAVING_ONE_IN == 0


def has_ended(number: int) -> bool:
    """Whether session ``number`` has been logged out."""
    return number % ENDED_ONE_IN == 3


class Reservoir:
    """An even sample of what it was shown (Vitter's algorithm R), which is never more than ``size``."""

    def __init__(self, size: int, seed: int) -> None:
        self.kept: list[tuple[Sid, str]] = []
        self._size = size
        self._seen = 0
        self._random = random.Random(seed)

    def show(self, sid: Sid, user_id: str) -> None:
        """One session."""
        self._seen += 1
        if len(self.kept) < self._size:
            self.kept.append((sid, user_id))
        elif (at := self._random.randrange(self._seen)) < self._size:
            self.kept[at] = (sid, user_id)


class Population:
    """The sessions of one database, numbered from 0. It grows: what is there stays.

    ``last``: how many there will be at most. They were created one after the other over the last 13 days, so that
    their sids (UUIDv7) come in order, as they do in life.
    """

    def __init__(self, now: int, last: int, seed: int = 7) -> None:
        self.size = 0
        self.now = now
        self.staying = Reservoir(SAMPLE, seed)
        self.leaving = Reservoir(SAMPLE, seed + 1)
        self._last = last

    def changes(self, start: int, stop: int) -> tuple[list[Change], list[Change]]:
        """What creates the sessions from ``start`` to ``stop``, and what ends those of them that have ended."""
        build = Builders(self.now)
        creates: list[Change] = []
        ends: list[Change] = []
        for number in range(start, stop):
            age = OLDEST - OLDEST * number // self._last
            user_id = user_of(number)
            record = build.record(
                user_id,
                age=age,
                unseen=age - min(age, number * 37 % 1000 * MINUTE),
                authenticated_at=self.now - age,
                client_first=_CLIENT,
                client_last=_CLIENT,
                auth=_AUTH,
            )
            # Encoded once for all, which the builder would do for each.
            record = msgspec.structs.replace(record, data=b'%s,"seen":%d}' % (_DATA, number))
            creates.append(build.create(record))
            if has_ended(number):
                ended_at = record.created_at + min(age, HOUR)
                ends.append(build.end(record, EndReason.LOGOUT, at=ended_at, purge_after=OLDEST + DAY))
            elif leaves(number):
                self.leaving.show(record.sid, user_id)
            else:
                self.staying.show(record.sid, user_id)
        return creates, ends

    async def grow(self, store: Store, size: int, progress: Progress) -> None:
        """Add sessions to those there are until there are ``size``."""
        parts = _parts(self.size, size)

        async def fill() -> None:
            for start, stop in parts:
                creates, ends = self.changes(start, stop)
                for changes in (creates, ends):
                    results = await store.apply(changes)
                    if not all(isinstance(result, Applied) for result in results):
                        raise RuntimeError(f"a session could not be written: {results}")
                progress.advance(stop - start)

        await asyncio.gather(*(fill() for _ in range(IN_FLIGHT)))
        self.size = size
        progress.finish()


def _parts(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, BATCH):
        yield first, min(first + BATCH, stop)


class Progress:
    """A bar with the rate and the time left: redrawn on a terminal, a line now and then elsewhere."""

    WIDTH = 30

    def __init__(self, title: str, start: int, goal: int, out: TextIO = sys.stderr) -> None:
        self._title = title
        self._start = self._done = start
        self._goal = goal
        self._out = out
        self._live = out.isatty()
        self._began_at = self._shown_at = time.monotonic()

    def advance(self, count: int) -> None:
        """``count`` more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._shown_at >= (0.2 if self._live else 30.0):
            self._shown_at = now
            self._show()

    def finish(self) -> None:
        """All are done."""
        self._show()
        if self._live:
            self._out.write("\n")

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began_at

    @property
    def rate(self) -> float:
        """A second, so far."""
        return (self._done - self._start) / max(self.seconds, 1e-9)

    def text(self) -> str:
        """As it is shown."""
        share = self._done / self._goal
        bar = "█" * int(share * self.WIDTH)
        left = (self._goal - self._done) / max(self.rate, 1e-9)
        return (
            f"{self._title} {bar:░<{self.WIDTH}} {share:4.0%}  {self._done:,} of {self._goal:,}  "
            f"{self.rate:,.0f}/s  {left:.0f} s left"
        )

    def _show(self) -> None:
        self._out.write(f"\r{self.text()}\x1b[K" if self._live else f"{self.text()}\n")
        self._out.flush()
