'''The conformance kit: everything that every store does, as tests for the authors of stores.

A store is finished when the kit passes. Say how to make an empty database, and how to open a store on it::

    from contextlib import asynccontextmanager

    from sessiondb.testing import conformance_suite


    @asynccontextmanager
    async def database(clock):
        """One empty database; each call of what it yields is another handle on it, not opened yet."""
        name = await create_database()
        yield lambda: MyStore(name, clock=clock)
        await drop_database(name)


    test_conformance = conformance_suite(database)

A behaviour that needs two worker processes takes two handles. A store that lives in this process yields the same
object each time (``lambda: store``) and counts ``open`` and ``close``. ``clock`` is a ``ManualClock`` for stores whose
clock can be injected; a store that asks its server for the time ignores it.

Without pytest, ``run_behaviour(behaviour, database)`` runs one of ``behaviours()``, and ``behaviours(law=7)`` gives
those that protect one law:

1. Saving never creates: an update of a missing or ended session changes nothing and says so.
2. No acknowledged write is lost, and none is applied twice.
3. Nested changes count, and data comes out equal.
4. Nothing for nobody: an unknown sid is never adopted.
5. Secrets are never at rest.
6. What was answered is seen by everybody.
7. One clock, one deadline.
8. The round-trip budget: what the store answers is enough to go on.
9. Every store is the same store: listing, ending by user, audit.
10. A failure is a decision: one bad change fails alone, and a closed store raises.
11. Login is a border: limits and revokes hold against races.

For apps, ``FaultyStore`` makes any store slow, unreachable or forgetful of its replies, ``CountingStore`` counts its
calls, and ``ManualClock`` moves time without sleeping. ``login(client, "ann")`` signs a test client in.
'''

from __future__ import annotations

from sessiondb.testing.behaviour import Behaviour, run_behaviour
from sessiondb.testing.behaviours import behaviours
from sessiondb.testing.checks import BehaviourBroken
from sessiondb.testing.clients import login
from sessiondb.testing.clock import ManualClock
from sessiondb.testing.counting import CountingStore
from sessiondb.testing.faults import Cancel, Delay, Fail, Fault, FaultyStore, Hang, LoseReply
from sessiondb.testing.kit import Database, Kit, OpenHandle
from sessiondb.testing.suite import conformance_suite
from sessiondb.testing.wrapper import StoreWrapper

__all__ = [
    "Behaviour",
    "BehaviourBroken",
    "Cancel",
    "CountingStore",
    "Database",
    "Delay",
    "Fail",
    "Fault",
    "FaultyStore",
    "Hang",
    "Kit",
    "LoseReply",
    "ManualClock",
    "OpenHandle",
    "StoreWrapper",
    "behaviours",
    "conformance_suite",
    "login",
    "run_behaviour",
]
