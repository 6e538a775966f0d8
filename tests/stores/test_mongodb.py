"""What is MongoDB's own: documents and indexes, settings, odd keys, batches whose changes differ."""

from __future__ import annotations

import datetime
import gc
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ears import Ears
from pymongo.errors import (
    AutoReconnect,
    NotPrimaryError,
    OperationFailure,
    ProtocolError,
    ServerSelectionTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from databases import had, new_prefix, start, url_of, with_option
from provision.mongodb import MongoDB
from sessiondb import ConfigurationError, SessionDB, StoreUnavailable, open_store
from sessiondb.core.change import Applied, Conflict, Gone
from sessiondb.core.errors import SessionDataError, StoreError, WriteOutcome
from sessiondb.core.record import LINK_BYTES, EndReason
from sessiondb.stores._mongodb_errors import translated
from sessiondb.stores._mongodb_rows import sid_value
from sessiondb.stores._mongodb_url import Collections, parse
from sessiondb.stores.base import NotTogether
from sessiondb.stores.mongodb import MongoDBStore
from sessiondb.testing import ManualClock
from sessiondb.testing.kit import Kit
from tls import certificate


@pytest.fixture
def url() -> str:
    return with_option(url_of("mongodb"), f"prefix={new_prefix()}")


@pytest.fixture
async def kit(url: str) -> AsyncIterator[Kit]:
    kit = Kit(lambda: open_store(url), ManualClock())
    yield kit
    await kit.close_all()


@pytest.fixture
async def there(url: str) -> AsyncIterator[Collections]:
    """The collections, as people see them."""
    collections = parse(url).connect()
    yield collections
    await collections.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mongodb:///app", "names no host"),
        ("mongodb://host/a.b", "no name of a database"),
        ("mongodb://host/app?prefix=a$b", "prefix is"),
        ("mongodb://host/app?poolsize=3", "Unknown option"),
        ("mongodb://host/app?maxPoolSize=many", "must be an integer"),
        ("mongodb://host/app?readPreference=secondary", "may not have heard of a logout"),
        ("mongodb+tls://host/app", "mongodb\\+srv://"),
    ],
)
def test_a_url_that_cannot_work_is_told_at_once(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://ann:secret@db1:27017,db2:27018/app?replicaSet=rs0", "db1:27017,db2:27018/app"),
        ("mongodb+srv://ann:secret@cluster.example/app?prefix=x_", "cluster.example/app"),
        ("mongodb://host", "host/sessiondb"),
    ],
)
def test_urls_are_taken_and_show_no_password(url: str, shown: str) -> None:
    assert repr(open_store(url)) == f"MongoDBStore({shown})"


def test_what_the_url_says_goes_before_our_defaults() -> None:
    assert parse("mongodb://host/app").options["w"] == "majority"
    options = parse("mongodb://host/app?w=3&maxpoolsize=5&retryWrites=false").options
    assert not options.keys() & {"w", "maxPoolSize", "retryWrites"}
    assert options["serverSelectionTimeoutMS"] == 1500


async def test_writes_are_for_a_majority_and_reads_from_the_primary(there: Collections) -> None:
    for collection in there.every:
        assert collection.write_concern.document["w"] == "majority"
        assert collection.read_preference.mongos_mode == "primary"
        assert collection.read_concern.level == "majority"


async def test_people_can_query_the_documents(url: str, there: Collections) -> None:
    async with SessionDB(url) as db:
        issued = await db.create("ann", {"theme": "dark", "cart": [{"sku": 7, "n": 2}], "at": {"home": True}})
        await db.create("bob", {"theme": "light"})
    sid = sid_value(issued.session.sid)
    for query in ({"data.theme": "dark"}, {"data.cart.sku": 7}, {"data.at.home": True}, {"user_id": "ann"}):
        assert [found["_id"] async for found in there.sessions.find(query)] == [sid], query
    found = await there.sessions.find_one({"_id": sid})
    assert found is not None
    assert found["data"]["cart"] == [{"sku": 7, "n": 2}]
    # What is not there is left out: no field says null.
    assert not [name for name, value in found.items() if value is None]


async def test_the_indexes_are_made_used_and_made_again(url: str, there: Collections, kit: Kit) -> None:
    store = await kit.store()
    records = [kit.record(f"user{n % 10}") for n in range(60)]
    await kit.put_in(store, *records, *(kit.record() for _ in range(40)))
    link = b"l" * LINK_BYTES
    await kit.apply(store, kit.create(kit.record("user3"), [link]))

    async def plan(where: dict[str, Any], sort: dict[str, int]) -> str:
        command = {"explain": {"find": there.sessions.name, "filter": where, "sort": sort}, "verbosity": "queryPlanner"}
        return repr((await there.database.command(command))["queryPlanner"]["winningPlan"])

    assert "'indexName': 'user'" in await plan({"user_id": "user3"}, {"_id": -1})
    assert "'indexName': 'check'" in await plan({"check_at": {"$lte": kit.now}}, {"check_at": 1})
    assert "'indexName': 'links'" in await plan({"links": link}, {"_id": -1})
    # A touch writes no indexed field.
    indexed = {field for index in (await there.sessions.index_information()).values() for field, _ in index["key"]}
    assert indexed == {"_id", "user_id", "check_at", "purge_after", "links"}
    await there.sessions.drop_index("user")
    await kit.reopen(store)
    assert "user" in await there.sessions.index_information()
    assert "not_before" in await there.users.index_information()


async def test_the_server_removes_tombstones_alone(there: Collections, kit: Kit) -> None:
    store = await kit.store()
    living, ended, revoked, expired = (kit.record("ann", idle=1_000_000 * (1 if n == 3 else 900)) for n in range(4))
    await kit.put_in(store, living, ended, expired)
    await kit.apply(store, kit.end(ended))
    await kit.put_in(store, revoked)
    await store.end_where(kit.query(sids=[revoked.sid]), EndReason.REVOKED)
    await store.sweep(kit.cutoffs(kit.now + 60_000_000), 10)
    limits = {name: index for name, index in (await there.sessions.index_information()).items() if len(index) > 2}
    assert limits["purge"]["partialFilterExpression"] == {"purge_after": {"$exists": True}}
    assert limits["purge"]["expireAfterSeconds"] == 86_400
    assert [name for name, index in limits.items() if "expireAfterSeconds" in index] == ["purge"]
    with_date = {found["_id"]: found async for found in there.sessions.find({"purge_after": {"$exists": True}})}
    assert with_date.keys() == {sid_value(one.sid) for one in (ended, revoked, expired)}
    for found in with_date.values():
        assert found["purge_after"].as_datetime(), "a Date: the server removes by nothing else"
        assert int(found["purge_after"]) == found["purge_at"] // 1000


async def test_names_are_never_paths(there: Collections, kit: Kit) -> None:
    store = await kit.store()
    odd = {"a.b": 1, "$set": 2, "$$NOW": "$$NOW", "$literal": {"$add": [1, 2]}, "": 3, ".": 4, "a": {"b": 5}, "$": "$a"}
    record = kit.record("ann", {"keep": 1, "a.b": 0})
    await kit.put_in(store, record)
    await kit.apply(store, kit.update(record, odd))
    assert await kit.data_of(store, record.sid) == {"keep": 1, **odd}
    await kit.apply(store, kit.update(record, {}, remove=["a.b", "$set", "", "$"]))
    assert await kit.data_of(store, record.sid) == {"keep": 1} | {
        key: odd[key] for key in ("$$NOW", "$literal", ".", "a")
    }
    many = {f"$key.{n}": n for n in range(500)}
    await kit.apply(store, kit.update(record, many))
    await kit.apply(store, kit.update(record, {}, remove=list(many)[1:]))
    assert (await kit.data_of(store, record.sid))["$key.0"] == 0
    found = await there.sessions.find_one({"_id": sid_value(record.sid)})
    assert found is not None
    assert len(found["data"]) == 6


async def test_each_change_of_a_batch_is_answered_by_itself(kit: Kit) -> None:
    store = await kit.store()
    *records, taken = [kit.record("ann", {"n": 0}) for _ in range(7)]
    await kit.put_in(store, *records, taken)
    ended, missing = records[5], kit.record()
    await kit.apply(store, kit.end(ended))

    def raw(value: bytes) -> Any:
        return msgspec.structs.replace(kit.update(records[1], {"n": 1}), put={"n": value}, whole=b"", seen=None)

    def unlike(data: bytes) -> Any:
        return kit.create(msgspec.structs.replace(kit.record("ann"), data=data))

    changes = [
        kit.update(records[0], {"n": 1}),
        raw(b"18446744073709551615"),
        kit.update(records[2], {"n": 1}, if_rev=99),
        kit.touch(records[3]),
        kit.touch(ended),
        kit.touch(missing),
        kit.end(records[4]),
        unlike(b'{"a\\u0000b": 1}'),
        unlike(b'{"n": 18446744073709551615}'),
        unlike(b"not json"),
        kit.create(kit.record("bob")),
        kit.create(kit.record("mallory", sid=taken.sid)),
    ]
    with pytest.raises(NotTogether):
        await store.apply(changes, [kit.event()])
    assert (await store.stats()).events == 0
    assert (await kit.data_of(store, records[0].sid)) == {"n": 0}, "what could be written was not, without the rest"
    results = await store.apply(changes)
    kinds = [
        Applied,
        SessionDataError,
        Conflict,
        Applied,
        Gone,
        Gone,
        Applied,
        *[SessionDataError] * 3,
        Applied,
        Conflict,
    ]
    assert [type(result) for result in results] == kinds
    assert results[4] == Gone("logout")
    assert results[5] == Gone(None)
    assert (await kit.data_of(store, records[1].sid)) == {"n": 0}


async def test_data_that_people_have_spoilt_is_unreadable_alone(there: Collections, kit: Kit) -> None:
    store = await kit.store()
    spoilt, sound = kit.record("ann", {"a": 1}), kit.record("ann", {"a": 1})
    await kit.put_in(store, spoilt, sound)
    now = datetime.datetime.now(datetime.UTC)
    await there.sessions.update_one({"_id": sid_value(spoilt.sid)}, {"$set": {"data.re": re.compile("x"), "note": now}})
    loaded = await store.load([spoilt.sid, sound.sid])
    assert loaded[1] is not None
    assert loaded[1].data == b'{"a":1}'
    with pytest.raises(SessionDataError):
        await kit.data_of(store, spoilt.sid)
    assert isinstance(await kit.apply(store, kit.end(spoilt)), Applied)


async def test_a_newer_layout_stops_the_start(url: str, there: Collections, kit: Kit) -> None:
    await kit.store()
    await there.meta.update_one({"_id": "schema_version"}, {"$set": {"value": 99}})
    with pytest.raises(ConfigurationError, match="layout version 99"):
        await SessionDB(url).open()


async def test_a_server_that_is_not_there_is_told_before_the_deadline() -> None:
    store = MongoDBStore("mongodb://127.0.0.1:1/app")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/app cannot be reached.*Start it") as caught:
        await SessionDB(store, timeout=2).open()
    assert caught.value.outcome == "not_applied"


@pytest.fixture(scope="module")
def guarded() -> Iterator[MongoDB]:
    """A server that lets in one user alone."""
    server = had(lambda: MongoDB(auth=True))
    gc.collect()  # what the probes have dropped is found here, not by another test
    yield server
    server.stop()


async def test_who_has_the_password_is_let_in(guarded: MongoDB) -> None:
    async with SessionDB(guarded.url) as db:
        await db.create("ann")
        assert await db.revoke_all("ann") == 1


@pytest.mark.parametrize("login", ["sessiondb:not-the-password", "nobody:not-the-password"])
async def test_a_wrong_password_stops_the_start_and_shows_no_password(guarded: MongoDB, login: str) -> None:
    with pytest.raises(ConfigurationError, match="refused user or password") as caught:
        await SessionDB(guarded.url.replace("sessiondb:throw-away", login)).open()
    assert "not-the-password" not in str(caught.value)


async def test_who_gives_no_password_is_told(guarded: MongoDB) -> None:
    with pytest.raises(StoreUnavailable, match="role readWrite"):
        await SessionDB(guarded.url.replace("sessiondb:throw-away@", "")).open()


async def test_tls_and_a_certificate_of_nobody_we_trust(tmp_path: Path) -> None:
    certificate_file, key_file = certificate(tmp_path)
    server = had(lambda: MongoDB(tls=(certificate_file, key_file)))
    try:
        async with SessionDB(f"{server.url}?tls=true&tlsCAFile={certificate_file}") as db:
            await db.create("ann")
        with pytest.raises(StoreUnavailable, match=r"no TLS that can be trusted.*tlsCAFile"):
            await SessionDB(f"{server.url}?tls=true").open()
    finally:
        server.stop()
        gc.collect()


async def test_a_server_that_is_no_replica_set_is_refused() -> None:
    server = had(lambda: MongoDB(alone=True))
    try:
        with pytest.raises(ConfigurationError, match=r"runs alone.*--replSet"):
            await SessionDB(server.url).open()
        store = open_store(server.url)
        assert isinstance(store, MongoDBStore)
        feed = store.feed()
        assert feed is not None
        with pytest.raises(ConfigurationError, match=r"no change streams.*--replSet"):
            await feed.listen(Ears(), 5.0)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("error", "cure", "outcome"),
    [
        (NotPrimaryError("stepped down", {"code": 189}), "is no primary", "unknown"),
        (NotPrimaryError("not primary"), "Name all members", "unknown"),
        (OperationFailure("", 13435), "is no primary", "not_applied"),
        (OperationFailure("", 14031), "full disk", "not_applied"),
        (OperationFailure("", 13), "role readWrite", "not_applied"),
        (OperationFailure("", 20), "rs.initiate", "not_applied"),
        (WTimeoutError("waiting", 64), "majority of its members", "unknown"),
        (OperationFailure("secret of ann", 4242), r"OperationFailure \(4242\)", "not_applied"),
        (
            ServerSelectionTimeoutError("No replica set members match selector Primary()"),
            "has no primary",
            "not_applied",
        ),
        (ServerSelectionTimeoutError("SSL handshake failed: certificate"), "tlsCAFile", "not_applied"),
        (AutoReconnect("connection closed"), "was lost", "unknown"),
        (ProtocolError("an answer to somebody else"), "ProtocolError", "unknown"),
    ],
)
def test_errors_say_what_is_wrong_and_how_to_mend_it(error: Exception, cure: str, outcome: str) -> None:
    found = translated(error, "db:27017/app", "unknown")
    assert isinstance(found, StoreError)
    assert re.search(cure, str(found))
    assert "db:27017/app" in str(found)
    assert "secret of ann" not in str(found)
    assert found.outcome == outcome


@pytest.mark.parametrize("code", [6, 7, 50, 64, 89, 91, 189, 262, 9001, 10107, 11600, 11601, 11602])
def test_a_write_that_may_have_landed_is_not_called_undone(code: int) -> None:
    """Answers of a mongos that has lost its shard, or of a primary that steps down: no test can bring them about."""
    assert outcome_of(OperationFailure("", code)) == "unknown"
    # A read has nothing that could have landed.
    assert outcome_of(OperationFailure("", code), "not_applied") == "not_applied"


@pytest.mark.parametrize(
    "error",
    [
        OperationFailure("", 13436, {"errorLabels": ["RetryableWriteError"]}),
        OperationFailure("", 4242, {"errorLabels": ["RetryableWriteError"]}),
        WriteConcernError("no such tag", 79),
        WriteConcernError("too few members", 100),
    ],
)
def test_the_label_and_the_kind_of_an_error_tell_more_than_its_code(error: OperationFailure) -> None:
    assert outcome_of(error) == "unknown"
    assert outcome_of(OperationFailure("", error.code)) == "not_applied"


def outcome_of(error: Exception, asked: WriteOutcome = "unknown") -> str:
    found = translated(error, "here", asked)
    assert isinstance(found, StoreError)
    return found.outcome


def test_a_server_can_be_had() -> None:
    """Where it cannot, everything here is skipped, and with CI=true this fails."""
    start("mongodb").stop()
