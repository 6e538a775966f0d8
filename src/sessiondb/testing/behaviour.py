"""One thing that every store does, and how to see whether this one does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sessiondb.testing.checks import BehaviourBroken
from sessiondb.testing.clock import ManualClock
from sessiondb.testing.kit import Database, Kit

TIMEOUT = 60.0


@dataclass(frozen=True)
class Behaviour:
    """A behaviour: the laws (1 to 11) that it protects, and the function that raises where it is broken.

    Its docstring says what is protected.
    """

    laws: tuple[int, ...]
    run: Callable[[Kit], Awaitable[None]]

    @property
    def name(self) -> str:
        """The name of the function: for reports, and for ``conformance_suite(skip=...)``."""
        return getattr(self.run, "__name__", repr(self.run))

    @property
    def protects(self) -> str:
        """What it protects, in words."""
        return " ".join((self.run.__doc__ or "").split())

    def __repr__(self) -> str:
        return f"Behaviour({self.name})"


async def run_behaviour(behaviour: Behaviour, database: Database, *, timeout: float = TIMEOUT) -> None:
    """Run one behaviour on a database of its own.

    Raises ``BehaviourBroken`` where the store does something else, or takes more than ``timeout`` seconds; any other
    exception is the store's own.
    """
    clock = ManualClock()
    async with database(clock) as handle:
        kit = Kit(handle, clock)
        deadline = asyncio.timeout(timeout)
        try:
            async with deadline:
                await behaviour.run(kit)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            broken = BehaviourBroken(f"no answer within {timeout:g} s")
            broken.add_note(_note(behaviour))
            raise broken from error
        except Exception as error:
            error.add_note(_note(behaviour))
            raise
        finally:
            await kit.close_all()


def _note(behaviour: Behaviour) -> str:
    laws = " and ".join(map(str, behaviour.laws))
    return f"Law {laws}, {behaviour.name}: {behaviour.protects}"
