"""What a store holds for one event loop goes with that loop, also where nobody has closed the store in it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from databases import NETWORK, new_prefix, url_of, with_option
from sessiondb import open_store
from sessiondb.core.token import mint

LOOPS = 5


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", [*NETWORK, "redis_cluster"])
def test_loops_that_have_ended_take_their_connections_along(kind: str) -> None:
    """Test clients make a loop for each test, and many close nothing: the server would soon have no connection left."""
    store = open_store(with_option(url_of(kind), f"prefix={new_prefix()}"))
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def use(*, closes: bool = False) -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await store.open()
        await store.load([mint(0).sid])
        if closes:
            await store.close()

    for _ in range(LOOPS):
        asyncio.run(use())
    asyncio.run(use(closes=True))
    gc.collect()
    assert [loop() for loop in loops] == [None] * len(loops)
