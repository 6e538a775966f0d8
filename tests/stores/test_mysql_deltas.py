"""MySQL: most writes of a batch are one statement, of which each lands or does not as if it had come alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from asyncmy.errors import OperationalError

from databases import kit_on
from sessiondb.core.change import Applied, Change, Conflict, Gone, Touch
from sessiondb.core.errors import SessionDataError, StoreUnavailable
from sessiondb.core.record import Record
from sessiondb.stores._mysql_connection import Connection, Result
from sessiondb.stores.base import Store
from sessiondb.testing.kit import Kit

MANY = 32


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    async with kit_on("mysql") as kit:
        yield kit


@pytest.fixture
async def store(kit: Kit) -> Store:
    return await kit.store()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that were sent."""
    statements: list[str] = []
    run = Connection.run

    async def noted(connection: Connection, some: Sequence[str]) -> list[Result]:
        statements.extend(some)
        return await run(connection, some)

    monkeypatch.setattr(Connection, "run", noted)
    return statements


async def made(kit: Kit, store: Store, *datas: dict[str, object]) -> list[Record]:
    records = [kit.record("ann", data) for data in datas]
    await kit.put_in(store, *records)
    return records


async def test_many_are_one_statement_and_no_transaction(kit: Kit, store: Store, sent: list[str]) -> None:
    records = await made(kit, store, *({"n": number, "text": "é😀'\\"} for number in range(MANY)))
    sent.clear()
    results = await store.apply([kit.update(record, {"m": n}, ["n"], seen=True) for n, record in enumerate(records)])
    assert results == [Applied(2)] * MANY
    assert [statement.split()[0] for statement in sent] == ["UPDATE"]
    for number, record in enumerate(records):
        assert await kit.data_of(store, record.sid) == {"text": "é😀'\\", "m": number}


async def test_what_something_stands_against_is_settled_and_the_others_land_once(kit: Kit, store: Store) -> None:
    records = await made(kit, store, *({"n": number} for number in range(8)))
    fresh, moved, outrun, ended, repeated, touched, large, last = records
    absent = kit.record("ann", {"n": 8})
    again = kit.update(repeated, {"mine": 1}, seen=True)
    await store.apply([kit.update(moved, {"other": 1}), kit.update(outrun, {"other": 1}), kit.end(ended), again])
    assert isinstance(await kit.apply(store, kit.update(repeated, {"later": 1})), Applied)
    created = kit.record("bob", {"n": 9})
    changes: list[Change] = [
        *(kit.update(record, {"mine": 1}, seen=True) for record in (fresh, moved, ended, absent, last)),
        kit.update(outrun, {"mine": 1}, if_rev=outrun.rev, seen=True),
        again,
        kit.update(touched, {"mine": 1}, seen=True, touch=Touch(kit.now)),
        kit.update(large, {"mine": "x" * 5000}, seen=True),
        kit.create(created),
    ]
    results = await store.apply(changes)
    assert results[:5] == [Applied(2), Applied(3), Gone("logout"), Gone(None), Applied(2)]
    assert isinstance(results[5], Conflict)
    assert results[6:] == [Applied(3), Applied(2), Applied(2), Applied(1)]
    expected = [
        (fresh, {"n": 0, "mine": 1}),
        (moved, {"n": 1, "other": 1, "mine": 1}),
        (outrun, {"n": 2, "other": 1}),
        (repeated, {"n": 4, "mine": 1, "later": 1}),
        (touched, {"n": 5, "mine": 1}),
        (large, {"n": 6, "mine": "x" * 5000}),
        (last, {"n": 7, "mine": 1}),
        (created, {"n": 9}),
    ]
    for record, data in expected:
        assert await kit.data_of(store, record.sid) == data


async def test_a_lost_connection_before_it_is_known_which_have_landed(
    kit: Kit, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is unknown, and what is sent again lands once."""
    records = await made(kit, store, *({"n": number} for number in range(5)))
    await kit.apply(store, kit.update(records[0], {"other": 1}))
    changes = [kit.update(record, {"mine": 1}, seen=True) for record in records]
    run = Connection.run

    async def lost(connection: Connection, statements: Sequence[str]) -> list[Result]:
        if statements[0].startswith("SELECT"):
            monkeypatch.setattr(Connection, "run", run)
            raise OperationalError(2013, "Lost connection to MySQL server during query")
        return await run(connection, statements)

    monkeypatch.setattr(Connection, "run", lost)
    with pytest.raises(StoreUnavailable) as unknown:
        await store.apply(changes)
    assert unknown.value.outcome == "unknown"
    assert [(await kit.record_of(store, record.sid)).rev for record in records] == [2, 2, 2, 2, 2]
    assert await store.apply(changes) == [Applied(3), *[Applied(2)] * 4]
    assert [(await kit.record_of(store, record.sid)).rev for record in records] == [3, 2, 2, 2, 2]


async def test_one_that_cannot_be_stored_keeps_no_other_from_landing(kit: Kit, store: Store) -> None:
    records = await made(kit, store, *({"n": number} for number in range(4)))
    changes = [kit.update(record, {"mine": 1}, seen=True) for record in records]
    results = await store.apply([*changes[:2], msgspec.structs.replace(changes[2], whole=b'{"n":'), changes[3]])
    assert results[:2] == [Applied(2)] * 2
    assert isinstance(results[2], SessionDataError)
    assert results[3] == Applied(2)
    assert [(await kit.record_of(store, record.sid)).rev for record in records] == [2, 2, 1, 2]
