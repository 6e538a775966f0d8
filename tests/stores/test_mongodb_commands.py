"""What is sent to MongoDB: nothing that ``mongod`` refuses, though the server of the tests takes it; nothing slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from databases import new_prefix, url_of, with_option
from sessiondb import open_store
from sessiondb.core.change import Applied, Confirm, Gone, SignIn, Touch
from sessiondb.core.policy import OnLimit
from sessiondb.core.record import EndReason
from sessiondb.stores._mongodb_schema import indexes
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, Counter, EventQuery, Position, Sheet, State, Store
from sessiondb.stores.mongodb import MongoDBStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit

ON_LIMIT: tuple[OnLimit, ...] = ("end_oldest", "refuse")
STATES: tuple[State, ...] = ("live", "ended", "all")
STAGES = {"$addFields", "$set", "$project", "$unset", "$replaceRoot", "$replaceWith"}  # of an update
IN_UPDATES = {"$set", "$unset", "$inc", "$max", "$min", "$push"}
NEVER_EMPTY = {"$set", "$unset", "$inc", "$max", "$push", "$or", "$and", "$nor", "updates", "deletes", "documents"}
IN_PARTIAL_INDEXES = {"$exists", "$gt", "$gte", "$lt", "$lte", "$eq", "$type", "$and"}


class Commands(CommandListener):
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
async def kit(commands: Commands) -> AsyncIterator[Kit]:
    url = with_option(url_of("mongodb"), f"prefix={new_prefix()}")

    def handle() -> MongoDBStore:
        store = open_store(url)
        assert isinstance(store, MongoDBStore)
        store._settings.options["event_listeners"] = [commands]
        return store

    kit = Kit(handle, ManualClock())
    yield kit
    await kit.close_all()


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """All names and their values in a command, but in what is taken as it is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            if name != "$literal":
                yield from parts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from parts(inner)


def updates(command: dict[str, Any]) -> Iterator[Any]:
    if "update" in command and command.get("findAndModify"):
        yield command["update"]
    yield from (one["u"] for one in command.get("updates", []))


async def test_no_command_holds_what_mongod_refuses(kit: Kit, commands: Commands) -> None:
    store = await kit.store()
    await store.apply([])
    await store.append([])
    assert await store.load([]) == []
    records = [kit.record("ann", {"$a": 1, "b.c": 2}, age=n * HOUR) for n in range(4)]
    await kit.put_in(store, *records, kit.record("ann", age=31 * DAY), kit.record("ann", age=DAY, check_at=1))
    one, other, _third, last = records
    rotate, _ = kit.rotation(one)
    client = b'{"ip":"$a.b"}'
    for change in (
        kit.update(one),
        kit.update(kit.record("ann")),
        kit.touch(one, client=client),
        kit.update(one, {"$set": 1, "x.y": {}}, touch=Touch(kit.now, client)),
        kit.update(one, {}, remove=["$set"]),
        kit.update(one, {}, if_rev=3),
        kit.update(one, {"": {}}, remove=["x.y"], rotate=rotate),
        kit.update(one, confirm=Confirm(rotate.secret_hash, kit.now)),
        kit.update(other, sign_in=SignIn(kit.now, b"{}", HOUR, DAY, "normal")),
        kit.end(last),
        kit.end(last),
    ):
        await store.apply([change], [kit.event(user_id="ann")])
    for on_limit in ON_LIMIT:
        await store.admit(kit.login(other, per_user=1, on_limit=on_limit))
    for state in STATES:
        await store.find(kit.query("ann", state=state, sids=[one.sid], before=one.sid))
        await store.find(kit.query(state=state))
    await store.events(EventQuery())
    await store.events(EventQuery(user_id="ann", since=1, until=kit.now, after=7))
    await store.end_where(kit.query("ann", sids=[]), EndReason.REVOKED)
    await store.sweep(kit.cutoffs(worker="me"), 100)
    await store.end_where(kit.query("ann", not_before=kit.now), EndReason.REVOKED)
    await store.sweep(kit.cutoffs(kit.now + 90 * DAY), 100)
    await store.stats()
    await do_the_rest(kit, store)
    kinds = {next(iter(command)) for command in commands.sent}
    assert {"findAndModify", "update", "delete", "insert", "find", "aggregate", "createIndexes"} <= kinds
    for command in commands.sent:
        for name, value in parts({key: value for key, value in command.items() if key != "documents"}):
            assert value not in ({}, []) or name not in NEVER_EMPTY, command
            if name == "partialFilterExpression":
                assert {inner for inner, _ in parts(value) if inner[0] == "$"} <= IN_PARTIAL_INDEXES
        for update in updates(command):
            if isinstance(update, dict) and any(name[:1] == "$" for name in update):
                assert update.keys() <= IN_UPDATES
            for stage in update if isinstance(update, list) else []:
                [(name, fields)] = stage.items()
                assert name in STAGES
                for field, value in fields.items():
                    assert "." not in field and not field.startswith("$"), "a name that would be a path"
                    # An object that is no expression would be merged into what is there.
                    assert not isinstance(value, dict) or [key[0] for key in value] == ["$"], (field, value)
        fields = command.get("fields", command.get("projection", {}))
        assert len({bool(shown) for shown in fields.values()}) <= 1, "a projection includes or excludes"


async def do_the_rest(kit: Kit, store: Store) -> None:
    """The trail, histories, counters and sheets; and transactions of every kind of change."""
    later, entry = kit.now + DAY, b"e" * HISTORY_ENTRY_BYTES
    one, new = kit.record("ann", {"a": 1}), kit.record("ann")
    await kit.put_in(store, one)
    event = kit.event(sid=one.sid, user_id="ann", actor="bob", ip="::1", details={"a.b": "$c"}, personal={"$set": "x"})
    await store.apply([kit.create(new), kit.update(one, {"$set": {}}, if_rev=9)], [event])
    await store.apply([kit.update(one, {"$b": 1}), kit.touch(new), kit.create(kit.record())], [kit.event()])
    await store.apply([kit.end(one), kit.create(new)], [kit.event()])
    await store.append([kit.event(), event])
    await store.events(EventQuery(actor="bob", type="x"))
    for stream in await store.streams():
        await store.trail(stream.name, 0, 2)
        await store.blank([Position(stream.name, 1), Position(stream.name, 2)], {"who", "actor", "where"})
        await store.purge_events({stream.name: 1, "other": 1})
    await store.record_logins([("ann", entry), ("bob", entry), ("ann", entry)], later)
    await store.drop_login("ann", entry)
    await store.count("bucket", {b"": 1, b"k": 2**40}, most=5, expires_at=later)
    await store.count("bucket", {b"k": 1, b"l": 1}, most=2, expires_at=later + 1)
    await store.profile("ann", [Counter("bucket", b"k")])
    await store.profile(None, [])
    await store.publish([Sheet("usage", 1, "w", b"x", later)])
    await store.sheets("usage", 0, 9)
    await store.withdraw([Sheet("usage", 1, "w", b"", 0)])
    await store.expire(later + HOUR, 1)
    await store.forget_user("ann")


def is_in_transaction(command: dict[str, Any]) -> bool:
    return command.get("autocommit") is False


async def test_a_transaction_is_what_mongod_takes(kit: Kit, commands: Commands) -> None:
    """Its concerns stand where they may and are the store's; nothing in it waits for another command of it."""
    store = await kit.store()
    records = [kit.record("ann") for _ in range(9)]
    await kit.put_in(store, *records)
    commands.sent.clear()
    changes = [*(kit.update(record, {"n": 1}) for record in records), kit.create(kit.record("ann"))]
    await store.apply(changes, [kit.event() for _ in range(5)])
    await store.apply([kit.create(kit.record("ann"))], [kit.event()])
    inside = [command for command in commands.sent if is_in_transaction(command)]
    assert inside == commands.sent, "nothing is done beside it"
    kinds = [next(iter(command)) for command in inside]
    # As many for ten changes as for two; a new session alone is not looked for.
    assert kinds == ["find", "insert", "insert", "update", "commitTransaction", "insert", "insert", "commitTransaction"]
    collections = [
        command[kind].rpartition("_")[2] for command, kind in zip(inside, kinds, strict=True) if kind[0] != "c"
    ]
    assert collections == ["sessions", "events", "sessions", "sessions", "events", "sessions"]
    for at, command in enumerate(inside):
        begins = at in (0, 5)
        assert ("startTransaction" in command) == begins
        assert command.get("readConcern", {}).get("level") == ("majority" if begins else None)
        is_commit = kinds[at] == "commitTransaction"
        assert command.get("writeConcern", {}).get("w") == ("majority" if is_commit else None)
    assert len({(bytes(command["lsid"]["id"]), int(command["txnNumber"])) for command in inside}) == 2


async def test_streams_are_asked_for_so_that_the_index_is_jumped_through(kit: Kit, commands: Commands) -> None:
    """What DISTINCT_SCAN asks for: the index's own order or its reverse, one group key, only $first."""
    store = await kit.store()
    await store.append([kit.event()])
    commands.sent.clear()
    await store.streams()
    assert [command["aggregate"].rpartition("_")[2] for command in commands.sent] == ["events"] * 2
    [place] = [index.document for index in indexes()["events"] if index.document["name"] == "place"]
    assert "partialFilterExpression" not in place
    key = dict(place["key"])
    for command in commands.sent:
        sort, group = command["pipeline"]
        assert sort["$sort"] in (key, {name: -direction for name, direction in key.items()})
        assert list(sort["$sort"]) == list(key)
        assert group["$group"].pop("_id") == f"${next(iter(key))}"
        assert [next(iter(accumulator)) for accumulator in group["$group"].values()] == ["$first"]


async def test_an_update_that_changes_nothing_is_answered_as_any_other(kit: Kit) -> None:
    store = await kit.store()
    record, ended = kit.record("ann", {"a": 1}), kit.record("ann")
    await kit.put_in(store, record, ended)
    await kit.apply(store, kit.end(ended))
    applied, *gone = await store.apply([kit.update(one) for one in (record, ended, kit.record("ann"))])
    assert isinstance(applied, Applied)
    assert gone == [Gone("logout"), Gone(None)]
    assert await kit.record_of(store, record.sid) == record


async def test_thousands_of_keys_are_removed_in_time(kit: Kit) -> None:
    """The time grows with the number of keys, not with its square: that took minutes."""
    store = await kit.store()
    keys = [f"$key.{n}" for n in range(10_000)]
    record = kit.record("ann", dict.fromkeys(keys, "value"))
    await kit.put_in(store, record)
    async with asyncio.timeout(30):
        await kit.apply(store, kit.update(record, {"new": 1}, remove=[*keys[500:], "not there"]))
    assert await kit.data_of(store, record.sid) == {**dict.fromkeys(keys[:500], "value"), "new": 1}
