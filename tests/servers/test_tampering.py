"""Whoever can write to the database itself cannot bend the audit trail unseen: every kind of tampering is located."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from databases import KINDS, new_url
from sessiondb import Audit, Event, HmacSigner, SessionDB, open_store
from sessiondb.core.checkpoints import CHECKPOINT_STREAM
from sessiondb.core.keys import generate_key
from sessiondb.core.sealing import blanked, digest, seal
from sessiondb.stores.base import Position, Store
from sessiondb.stores.mongodb import MongoDBStore
from sessiondb.stores.mysql import MySQLStore
from sessiondb.stores.postgresql import PostgreSQLStore
from sessiondb.stores.redis import RedisStore
from sessiondb.stores.sqlite import SQLiteStore

SIGNER = HmacSigner(generate_key())
SIZE = 6


async def delete(store: Store, place: Position) -> None:
    """Past the store, as somebody with the password of the database does it."""
    if isinstance(store, SQLiteStore):
        with sqlite3.connect(store.path) as connection:
            connection.execute("DELETE FROM sessiondb_events WHERE stream = ? AND seq = ?", place)
        connection.close()
    elif isinstance(store, PostgreSQLStore):
        async with store._connection() as connection:
            await connection.execute(f"DELETE FROM {store._sql.events} WHERE stream = $1 AND seq = $2", *place)
    elif isinstance(store, MySQLStore):
        statement = f"DELETE FROM {store._sql.events} WHERE stream = '{place.stream}' AND seq = {place.seq}"
        async with store._connection() as connection:
            await connection.transaction([statement])
    elif isinstance(store, MongoDBStore):
        collections = store._collections.current()
        await collections.events.delete_one({"stream": place.stream, "seq": place.seq})
    else:
        assert isinstance(store, RedisStore)
        await overwrite_value(store, place, b"")
        # Whoever knows what they do takes empty ends off the stream's list.
        stream = store.keys.stream(place.stream)
        [length, first] = await store.run(
            [(stream, ("LLEN", stream)), (store.keys.streams, ("HGET", store.keys.streams, place.stream))]
        )
        if place.seq == int(first) + length - 1:
            await store.run([(stream, ("RPOP", stream))])


async def overwrite_value(store: Store, place: Position, value: bytes) -> None:
    from sessiondb.stores._redis_trail_scripts import BLOCK

    assert isinstance(store, RedisStore)
    keys = store.keys
    [number] = await number_of(store, place)
    block = keys.block(int(number) // BLOCK)
    [answer] = await store.run([(block, ("LSET", block, int(number) % BLOCK, value))])
    assert answer == b"OK"


async def number_of(store: RedisStore, place: Position) -> list[bytes]:
    keys = store.keys
    [first] = await store.run([(keys.streams, ("HGET", keys.streams, place.stream))])
    stream = keys.stream(place.stream)
    found: list[bytes] = await store.run([(stream, ("LINDEX", stream, place.seq - int(first)))])
    return found


async def overwrite(store: Store, place: Position, event: Event) -> None:
    """Another event in a place of the trail."""
    event = replace(event, seal=msgspec.structs.replace(event.seal, stream=place.stream, seq=place.seq))
    if isinstance(store, RedisStore):
        from sessiondb.stores._redis_events import to_value

        await overwrite_value(store, place, to_value(event))
    else:
        await delete(store, place)
        await store.append([event])


def reversed_links(events: list[Event]) -> list[Event]:
    """``events`` sealed anew as a chain of their own: all that holds it together is what was exported."""
    chain, head = [], bytes(32)
    for number, event in enumerate(events, 1):
        assert event.seal is not None
        sealed, head = seal(replace(event, seal=None), event.seal.stream, number, head)
        chain.append(sealed)
    return chain


Tamper = Callable[[Store, str, list[Event]], Awaitable[None]]


async def edit(store: Store, stream: str, events: list[Event]) -> None:
    await overwrite(store, Position(stream, 3), replace(events[2], reason="nothing"))


async def edit_person(store: Store, stream: str, events: list[Event]) -> None:
    await overwrite(store, Position(stream, 3), replace(events[2], user_id="mallory"))


async def edit_address(store: Store, stream: str, events: list[Event]) -> None:
    await overwrite(store, Position(stream, 3), replace(events[2], ip="203.0.113.9"))


async def remove(store: Store, stream: str, events: list[Event]) -> None:
    await delete(store, Position(stream, 3))


async def close_the_gap(store: Store, stream: str, events: list[Event]) -> None:
    for seq in range(3, SIZE):
        await overwrite(store, Position(stream, seq), events[seq])
    await delete(store, Position(stream, SIZE))


async def insert(store: Store, stream: str, events: list[Event]) -> None:
    forged, _ = seal(replace(events[0], user_id="mallory", seal=None), stream, 3, digest(events[1], events[1].seal))  # type: ignore[arg-type]
    last = replace(events[-1], seal=msgspec.structs.replace(events[-1].seal, seq=SIZE + 1))
    await store.append([last])
    for seq in range(SIZE, 3, -1):
        await overwrite(store, Position(stream, seq), events[seq - 2])
    await overwrite(store, Position(stream, 3), forged)


async def reorder(store: Store, stream: str, events: list[Event]) -> None:
    await overwrite(store, Position(stream, 3), events[3])
    await overwrite(store, Position(stream, 4), events[2])


async def truncate(store: Store, stream: str, events: list[Event]) -> None:
    for seq in range(SIZE, 3, -1):
        await delete(store, Position(stream, seq))


async def rewrite(store: Store, stream: str, events: list[Event]) -> None:
    for number, event in enumerate(reversed_links([events[0], *events[2:], events[1]]), 1):
        await overwrite(store, Position(stream, number), event)


async def erase(store: Store, stream: str, events: list[Event]) -> None:
    await overwrite(store, Position(stream, 3), blanked(events[2], ["who", "where"]))


# What was done, what is found, and where.
TAMPERINGS: list[tuple[Tamper, str, set[int]]] = [
    (edit, "altered", {3}),
    (edit_person, "altered", {3}),
    (edit_address, "altered", {3}),
    (remove, "missing", {3}),
    (close_the_gap, "altered", {2, 3}),
    (insert, "altered", {3, 4}),
    (reorder, "altered", {2, 3}),
    (truncate, "truncated", {4}),
    (rewrite, "altered", {SIZE}),
    (erase, "erased", {3}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda tampering: tampering[0].__name__)
@pytest.mark.security("A1")
async def test_it_is_found_and_located(kind: str, tampering: tuple[Tamper, str, set[int]], tmp_path: Path) -> None:
    tamper, what, where = tampering
    lines: list[str] = []
    audit = Audit(signer=SIGNER, exports=[lines.append])
    store = open_store(new_url(kind, tmp_path))
    async with SessionDB(store, audit=audit, sweep_every=None) as db:
        for number in range(SIZE):
            await db.create(f"user{number}", ip="192.0.2.1")
        await db.checkpoint()
        [stream] = [one.name for one in await store.streams() if one.name.startswith("l")]
        events = await store.trail(stream, 0, 100)
        assert len(events) == SIZE
        assert (await db.verify_trail(lines)).problems == []
        await tamper(store, stream, events)
        found = (await db.verify_trail(lines)).problems
        assert found
        assert {problem.stream for problem in found} == {stream}
        first = min(found, key=lambda problem: problem.seq)
        assert (first.kind, first.seq in where) == (what, True), [str(problem) for problem in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.security("A1")
async def test_a_whole_stream_and_a_checkpoint_are_missed(kind: str, tmp_path: Path) -> None:
    lines: list[str] = []
    store = open_store(new_url(kind, tmp_path))
    async with SessionDB(store, audit=Audit(signer=SIGNER, exports=[lines.append]), sweep_every=None) as db:
        await db.create("ann")
        await db.checkpoint()
        await db.create("bob")
        await db.checkpoint()
        await delete(store, Position(CHECKPOINT_STREAM, 2))
        [stream] = [one.name for one in await store.streams() if one.name.startswith("l")]
        for seq in (1, 2):
            await delete(store, Position(stream, seq))
        found = {(problem.kind, problem.stream) for problem in (await db.verify_trail(lines)).problems}
        assert found == {("truncated", stream), ("checkpoint", CHECKPOINT_STREAM)}
