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
from sessiondb.stores.base import EventQuery, State
from sessiondb.stores.mongodb import MongoDBStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit

ON_LIMIT: tuple[OnLimit, ...] = ("end_oldest", "refuse")
STATES: tuple[State, ...] = ("live", "ended", "all")
STAGES = {"$addFields", "$set", "$project", "$unset", "$replaceRoot", "$replaceWith"}  # of an update
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
    kinds = {next(iter(command)) for command in commands.sent}
    assert {"findAndModify", "update", "delete", "insert", "find", "aggregate", "createIndexes"} <= kinds
    for command in commands.sent:
        for name, value in parts({key: value for key, value in command.items() if key != "documents"}):
            assert value not in ({}, []) or name not in NEVER_EMPTY, command
            if name == "partialFilterExpression":
                assert {inner for inner, _ in parts(value) if inner[0] == "$"} <= IN_PARTIAL_INDEXES
        for update in updates(command):
            for stage in update if isinstance(update, list) else []:
                [(name, fields)] = stage.items()
                assert name in STAGES
                for field, value in fields.items():
                    assert "." not in field and not field.startswith("$"), "a name that would be a path"
                    # An object that is no expression would be merged into what is there.
                    assert not isinstance(value, dict) or [key[0] for key in value] == ["$"], (field, value)
        fields = command.get("fields", command.get("projection", {}))
        assert len({bool(shown) for shown in fields.values()}) <= 1, "a projection includes or excludes"


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
