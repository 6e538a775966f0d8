"""JSON comes back from every database equal, types included, whatever people put into a session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from databases import KINDS, new_url
from sessiondb import open_store
from sessiondb.core import codec
from sessiondb.core.change import Applied, Create, Update, new_change_id
from sessiondb.testing import ManualClock
from sessiondb.testing.checks import same_data
from sessiondb.testing.kit import Kit
from strategies import data


@pytest.fixture(params=KINDS, scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_url(request.param, tmp_path_factory.mktemp("fidelity"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(data, data), min_size=8, max_size=20))
def test_what_goes_in_comes_out(url: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Created whole, then changed key by key."""
    asyncio.run(_there_and_back(url, pairs))


async def _there_and_back(url: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    store = open_store(url)
    await store.open()
    try:
        kit = Kit(lambda: store, ManualClock())
        kit.now = await store.clock()
        records = [kit.record("ann", first) for first, _ in pairs]
        for result in await store.apply([Create(record) for record in records]):
            assert isinstance(result, Applied), result
        for found, (first, _) in zip(await store.load([record.sid for record in records]), pairs, strict=True):
            assert found is not None
            same_data(codec.decode_data(found.data), first, "as created")
        changes = [
            Update(
                sid=record.sid,
                id=new_change_id(),
                put={key: codec.encode_value(key, value) for key, value in second.items()},
                remove=frozenset(list(first)[::2]) - second.keys(),
            )
            for record, (first, second) in zip(records, pairs, strict=True)
        ]
        for result in await store.apply(changes):
            assert isinstance(result, Applied), result
        for found, (first, second) in zip(await store.load([record.sid for record in records]), pairs, strict=True):
            assert found is not None
            kept = {key: value for at, (key, value) in enumerate(first.items()) if at % 2}
            same_data(codec.decode_data(found.data), kept | second, "as changed")
    finally:
        await store.close()
