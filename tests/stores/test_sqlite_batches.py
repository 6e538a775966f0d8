"""Whatever way a batch is written, SQLite does what the reference does to each record."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiondb.core import codec
from sessiondb.core.change import Applied, Change, Conflict, Gone, Touch
from sessiondb.core.errors import SessionDataError
from sessiondb.core.record import EndReason, Record
from sessiondb.stores.memory import MemoryStore
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import DAY, HOUR, Builders
from sessiondb.testing.clock import ManualClock

KEYS = ["a", "b", 'c"', "d.e", "$f", "", "\u2028"]
VALUES = [1, 1.0, True, None, -0.0, 1e23, "é\u0301", "\\u0000", [{}], {"x": ["'"]}, 2**63 - 1, -(2**63)]
PLACES = 4  # sessions that a run plays with

deltas = st.fixed_dictionaries(
    {
        "kind": st.just("update"),
        "put": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3),
        "remove": st.lists(st.sampled_from(KEYS), max_size=2),
        "touch": st.none() | st.integers(-HOUR, HOUR),
        "client": st.none() | st.sampled_from([b'{"ip":"192.0.2.1"}', b"{}"]),
        # How old the knowledge is that the change was made of, in batches; None: of nothing.
        "seen": st.none() | st.integers(0, 3),
        "guarded": st.booleans(),
        "rotate": st.booleans(),
    }
)
actions = st.one_of(
    deltas,
    deltas,
    deltas,
    st.fixed_dictionaries({"kind": st.sampled_from(["create", "end", "end_if", "again", "touch"])}),
)
batches = st.lists(
    st.tuples(st.dictionaries(st.integers(0, PLACES - 1), actions, min_size=1, max_size=PLACES), st.booleans()),
    max_size=8,
)


class Pair:
    """A memory store, whose every change the reference computes, and an SQLite store beside it."""

    def __init__(self, folder: str) -> None:
        clock = ManualClock()
        self.build = Builders(clock.now)
        self.reference = MemoryStore(clock=clock)
        self.sqlite = SQLiteStore(f"{folder}/x.db", synchronous="NORMAL", clock=clock)
        self.records = [self.build.record("ann" if place % 2 else None, {"a": place}) for place in range(PLACES)]
        self.past: list[list[Record | None]] = []
        self.sent: dict[int, Change] = {}

    async def look(self) -> list[Record | None]:
        """The records now, equal in both."""
        sids = [one.sid for one in self.records]
        expected, found = await self.reference.load(sids), await self.sqlite.load(sids)
        assert found == expected
        return expected

    async def do(self, changes: Sequence[Change], with_event: bool) -> None:
        events = [self.build.event()] if with_event else []
        expected = await self.reference.apply(changes, events)
        results = await self.sqlite.apply(changes, events)
        assert [_plain(one) for one in results] == [_plain(one) for one in expected]
        self.past.append(await self.look())

    def change(self, place: int, action: dict[str, Any]) -> Change:
        build, kind = self.build, action["kind"]
        record = self.past[-1][place] or self.records[place] if self.past else self.records[place]
        if kind == "again" and place in self.sent:
            return self.sent[place]
        if kind in ("create", "again"):
            return build.create(self.records[place])
        if kind == "touch":
            return build.touch(record, build.now - place)
        if kind in ("end", "end_if"):
            return build.end(record, if_rev=record.rev if kind == "end_if" else None)
        seen = None
        if action["seen"] is not None and self.past:
            seen = self.past[-1 - min(action["seen"], len(self.past) - 1)][place]
        touch = None if action["touch"] is None else Touch(build.now + action["touch"], action["client"])
        put = {key: codec.encode_value(key, value) for key, value in action["put"].items()}
        remove = frozenset(action["remove"]) - put.keys()
        based = seen if seen is not None and seen.ended_at is None else None
        change = build.update(record, touch=touch, if_rev=record.rev if action["guarded"] else None)
        return msgspec.structs.replace(
            change,
            put=put,
            remove=remove,
            rotate=build.rotation(record)[0] if action["rotate"] else None,
            seen=based,
            whole=codec.merge(based.data, put, remove) if based is not None else b"",
        )


def _plain(result: Any) -> Any:
    """What a caller can rely on."""
    if isinstance(result, Applied):
        # The revision after a touch is nobody's business.
        return "applied"
    return result


@settings(max_examples=150, deadline=None)
@given(batches)
def test_batches_do_what_the_reference_does(plan: list[tuple[dict[int, dict[str, Any]], bool]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            pair = Pair(folder)
            await pair.reference.open()
            await pair.sqlite.open()
            try:
                for actions_by_place, with_event in plan:
                    changes = [pair.change(place, action) for place, action in actions_by_place.items()]
                    await pair.do(changes, with_event)
                    pair.sent.update(zip(actions_by_place, changes, strict=True))
            finally:
                await pair.sqlite.close()
                await pair.reference.close()

    asyncio.run(run())


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(str(tmp_path))
    await pair.reference.open()
    await pair.sqlite.open()
    yield pair
    await pair.sqlite.close()


@pytest.fixture
def store(pair: Pair) -> SQLiteStore:
    return pair.sqlite


@pytest.fixture
def build(pair: Pair) -> Builders:
    return pair.build


@pytest.mark.parametrize("with_event", [False, True])
async def test_of_many_ordinary_changes_those_that_met_others_are_merged(pair: Pair, with_event: bool) -> None:
    await pair.do([pair.build.create(one) for one in pair.records], False)
    seen = list(pair.records)
    await pair.do([pair.build.update(seen[1], {"other": "was first"}), pair.build.end(seen[2])], False)
    changes = [pair.build.update(one, {"mine": 1}, seen=True) for one in seen]
    expected = await pair.reference.apply(changes)
    results = await pair.sqlite.apply(changes, [pair.build.event()] if with_event else [])
    assert [type(one) for one in results] == [type(one) for one in expected] == [Applied, Applied, Gone, Applied]
    now = await pair.look()
    assert [codec.decode_data(one.data) for one in now if one] == [
        {"a": 0, "mine": 1},
        {"a": 1, "other": "was first", "mine": 1},
        {},
        {"a": 3, "mine": 1},
    ]


@pytest.mark.parametrize("with_event", [False, True])
async def test_a_guarded_change_made_of_what_has_moved_is_a_conflict(pair: Pair, with_event: bool) -> None:
    await pair.do([pair.build.create(one) for one in pair.records], False)
    first, second = pair.records[:2]
    await pair.do([pair.build.update(first, {"other": 1})], False)
    events = [pair.build.event()] if with_event else []
    results = await pair.sqlite.apply(
        [
            pair.build.update(first, {"mine": 1}, if_rev=first.rev, seen=True),
            pair.build.update(second, {"mine": 1}, if_rev=second.rev, seen=True),
        ],
        events,
    )
    assert isinstance(results[0], Conflict)
    assert results[1] == Applied(2)


@pytest.mark.parametrize("with_event", [False, True])
async def test_a_touch_that_knows_its_record_moves_no_revision(pair: Pair, with_event: bool) -> None:
    await pair.do([pair.build.create(one) for one in pair.records], False)
    touch = Touch(pair.build.now, None)
    changes = [
        msgspec.structs.replace(pair.build.touch(pair.records[0], pair.build.now), seen=pair.records[0]),
        msgspec.structs.replace(pair.build.update(pair.records[1], {}, touch=touch), seen=pair.records[1]),
        msgspec.structs.replace(pair.build.update(pair.records[2], {}), seen=pair.records[2]),
    ]
    await pair.do(changes, with_event)
    assert [one.rev for one in await pair.look() if one is not None] == [1, 1, 1, 1]


@pytest.mark.parametrize("with_event", [False, True])
async def test_a_change_that_is_sent_again_lands_once(pair: Pair, with_event: bool) -> None:
    await pair.do([pair.build.create(one) for one in pair.records], False)
    change = pair.build.update(pair.records[0], {"n": 1}, seen=True)
    other = pair.build.update(pair.records[1], {"n": 1}, seen=True)
    first_event, second_event = ([pair.build.event()] if with_event else [] for _ in range(2))
    assert await pair.sqlite.apply([change], first_event) == [Applied(2)]
    assert await pair.sqlite.apply([change, other], second_event) == [Applied(2), Applied(2)]
    [first, second] = await pair.sqlite.load([change.sid, other.sid])
    assert first is not None
    assert second is not None
    assert (first.rev, second.rev) == (2, 2)


async def test_batches_beyond_what_one_statement_may_hold(store: SQLiteStore, build: Builders) -> None:
    records = [build.record("ann", {"n": n}) for n in range(1203)]
    assert await store.apply([build.create(one) for one in records]) == [Applied(1)] * 1203
    seen = [build.update(one, {"m": n}, seen=True) for n, one in enumerate(records)]
    assert await store.apply(seen) == [Applied(2)] * 1203
    found = await store.load([one.sid for one in records])
    assert [codec.decode_data(one.data) for one in found if one] == [{"n": n, "m": n} for n in range(1203)]
    touches = [build.touch(one) for one in records]
    assert all(isinstance(one, Applied) for one in await store.apply(touches))
    ends = [build.end(one) for one in records]
    assert await store.apply(ends, [build.event() for _ in range(1203)]) == [Applied(3)] * 1203
    assert (await store.stats()).events == 1203


async def test_a_row_that_somebody_has_damaged_harms_no_other(store: SQLiteStore, build: Builders) -> None:
    good, cut, binary = (build.record("ann", {"n": n}) for n in range(3))
    await store.apply([build.create(one) for one in (good, cut, binary)])
    with sqlite3.connect(store.path) as other:
        other.execute("UPDATE sessiondb_sessions SET data = '{\"n\":' WHERE sid = ?", (cut.sid,))
        other.execute("UPDATE sessiondb_sessions SET data = x'ff00fe' WHERE sid = ?", (binary.sid,))
    other.close()
    found = await store.load([good.sid, cut.sid, binary.sid])
    assert found[0] == good
    assert [one is not None and one.data for one in found[1:]] == [b'{"n":', b"\xff\x00\xfe"]
    results = await store.apply([build.update(one, {"m": 1}) for one in (good, cut, binary)])
    assert results[0] == Applied(2)
    for result in results[1:]:
        assert isinstance(result, SessionDataError)
    # They can still be ended, which is what an administrator would do.
    assert await store.apply([build.end(cut), build.end(binary)]) == [Applied(2), Applied(2)]


async def test_data_that_was_edited_by_hand_is_read_and_merged(store: SQLiteStore, build: Builders) -> None:
    record = build.record("ann", {"cart": ["tea"]})
    await store.apply([build.create(record)])
    with sqlite3.connect(store.path) as other:
        other.execute(
            "UPDATE sessiondb_sessions SET data = json_set(data, '$.gift', json('true')), rev = rev + 1 WHERE sid = ?",
            (record.sid,),
        )
    other.close()
    assert await store.apply([build.update(record, {"n": 1}, seen=True)]) == [Applied(3)]
    [after] = await store.load([record.sid])
    assert after is not None
    assert codec.decode_data(after.data) == {"cart": ["tea"], "gift": True, "n": 1}


async def test_every_question_by_sid_user_or_time_uses_an_index(store: SQLiteStore, build: Builders) -> None:
    rows = store._rows
    seen: list[str] = []

    def watch(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(seen.append)

    await store.writer.run(watch)
    await store._reader.run(watch)
    records = [build.record("ann") for _ in range(3)]
    await store.apply([build.create(one) for one in records])
    await store.apply([build.update(one, {"a": 1}, seen=True) for one in records])
    await store.apply([build.update(one, {"b": 1}) for one in records])
    await store.apply([build.touch(one) for one in records])
    await store.load([one.sid for one in records])
    await store.admit(build.login(records[0], per_user=1))
    await store.find(build.query("ann"))
    await store.find(build.query(sids=[one.sid for one in records]))
    await store.end_where(build.query("ann", not_before=build.now), EndReason.REVOKED)
    await store.sweep(build.cutoffs(build.now + 60 * DAY, worker="me"), 10)
    statements = {one for one in seen if one.startswith(("SELECT", "UPDATE", "DELETE")) and rows.sessions in one}
    assert len(statements) >= 6
    with sqlite3.connect(store.path) as other:
        for statement in statements:
            plan = [row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [step for step in plan if step.startswith("SCAN") and "sessiondb" in step], (statement, plan)
    other.close()
