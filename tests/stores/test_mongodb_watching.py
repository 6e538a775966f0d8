"""MongoDB: histories, counters and sheets as documents. Who makes one at the same moment, and when each goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from bson.datetime_ms import DatetimeMS
from lossy import lossy
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError
from wire import Meter, wire

from databases import new_prefix, url_of, with_option
from sessiondb import StoreUnavailable, open_store
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.stores._mongodb_url import Collections, parse
from sessiondb.stores.base import HISTORY_ENTRIES, HISTORY_ENTRY_BYTES, Counter, Sheet, Store
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit, together


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


def entry(number: int) -> bytes:
    return number.to_bytes(HISTORY_ENTRY_BYTES, "big")


async def history(store: Store, user_id: str) -> list[int]:
    found = (await store.profile(user_id, [])).history
    return [
        int.from_bytes(found[at : at + HISTORY_ENTRY_BYTES], "big") for at in range(0, len(found), HISTORY_ENTRY_BYTES)
    ]


async def counts(store: Store, bucket: str, *keys: bytes) -> list[int]:
    return list((await store.profile(None, [Counter(bucket, key) for key in keys])).counts)


def is_no_greeting(data: bytes) -> bool:
    """The driver greets on each new connection, and now and then on one of its own."""
    return not any(word in data[:64].lower() for word in (b"hello", b"ismaster"))


# -- histories --------------------------------------------------------------------------------------------


async def test_a_profile_is_one_round_trip(kit: Kit) -> None:
    """History and counters are asked for side by side."""
    parts, meter = urlsplit(url_of("mongodb")), Meter()
    assert parts.port is not None
    async with wire((parts.hostname or "", parts.port), meter, is_no_greeting) as port:
        own = parts._replace(netloc=f"127.0.0.1:{port}").geturl()
        store = open_store(with_option(own, f"directConnection=true&prefix={new_prefix()}"))
        await store.open()
        await store.record_logins([("ann", entry(1))], kit.now + DAY)
        await store.count("b", {b"k": 3}, most=9, expires_at=kit.now + DAY)
        for _ in range(3):
            meter.reset()
            profile = await store.profile("ann", [Counter("b", b"k"), Counter("b", b"other")])
        assert (profile.history, list(profile.counts)) == (entry(1), [3, 0])
        assert (meter.flights, meter.bursts) == (1, 2)
        await store.close()


async def test_more_logins_than_are_kept_in_one_call(kit: Kit) -> None:
    store = await kit.store()
    logins = [(user, entry(n)) for n in range(25) for user in ("ann", "bob")]
    await store.record_logins(logins, kit.now + DAY)
    await store.record_logins([("ann", entry(100)), ("ann", entry(101))], kit.now + DAY)
    assert await history(store, "ann") == [101, 100, *range(24, 24 - HISTORY_ENTRIES + 2, -1)]
    assert await history(store, "bob") == list(range(24, 24 - HISTORY_ENTRIES, -1))
    await store.record_logins([], kit.now + DAY)


async def test_of_two_equal_logins_one_is_dropped(kit: Kit) -> None:
    store = await kit.store()
    await store.record_logins([("ann", entry(n)) for n in (1, 2, 1, 3)], kit.now + DAY)
    assert await store.drop_login("ann", entry(1))
    assert await history(store, "ann") == [3, 2, 1]
    assert [await store.drop_login("ann", entry(n)) for n in (3, 1, 2, 2)] == [True, True, True, False]
    assert await history(store, "ann") == []
    await store.record_logins([("ann", entry(7))], kit.now + DAY)
    assert await history(store, "ann") == [7]


async def test_dropping_beside_logins_loses_none(kit: Kit) -> None:
    """Whatever comes between: the pipeline looks for the entry where it is by then."""
    stores = await kit.stores(2)
    await stores[0].record_logins([("ann", entry(n)) for n in range(5)], kit.now + DAY)
    drops = [stores[n % 2].drop_login("ann", entry(n)) for n in range(5)]
    logins = [stores[n % 2].record_logins([("ann", entry(10 + n))], kit.now + DAY) for n in range(5)]
    dropped, _ = await asyncio.gather(together(drops), together(logins))
    assert dropped == [True] * 5
    assert sorted(await history(stores[0], "ann")) == list(range(10, 15))


async def test_many_who_log_in_for_the_first_time_are_all_kept(kit: Kit) -> None:
    """Both processes make the document at once, again and again: none is refused."""
    stores = await kit.stores(2)
    for user in range(12):
        await together(stores[n % 2].record_logins([(f"u{user}", entry(n))], kit.now + DAY) for n in range(6))
        assert sorted(await history(stores[0], f"u{user}")) == list(range(6))


async def test_a_history_that_people_have_spoilt_keeps_nobody_out(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    for logins in ("text", None, [1, b"short", entry(5), None]):
        await there.histories.replace_one({"_id": "ann"}, {"logins": logins}, upsert=True)
        assert await history(store, "ann") == ([5] if isinstance(logins, list) else [])
    await there.histories.replace_one({"_id": "ann"}, {"note": 1})
    await store.record_logins([("ann", entry(6))], kit.now + DAY)
    assert await history(store, "ann") == [6]


# -- who makes a document at the same moment ------------------------------------------------------------------


class RefusesUpserts:
    """So many times, refuses the upserts at ``at`` of a call as of a document that somebody has just made."""

    def __init__(self, patch: pytest.MonkeyPatch, at: list[int], times: int, code: int = 11000) -> None:
        self.calls: list[int] = []
        real = AsyncCollection.bulk_write

        async def bulk_write(collection: AsyncCollection[Any], requests: Any, **options: Any) -> Any:
            self.calls.append(len(requests))
            if len(self.calls) > times:
                return await real(collection, requests, **options)
            refused = [index for index in at if index < len(requests)]
            others = [request for index, request in enumerate(requests) if index not in refused]
            if others:
                await real(collection, others, **options)
            errors = [{"index": index, "code": code, "errmsg": ""} for index in refused]
            raise BulkWriteError({"writeErrors": errors, "writeConcernErrors": [], "nMatched": len(others)})

        patch.setattr(AsyncCollection, "bulk_write", bulk_write)


async def test_who_was_too_late_to_make_a_document_writes_to_it_then(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server repeats most such upserts by itself; it says which it did not, and those alone are sent again."""
    store = await kit.store()
    refuses = RefusesUpserts(monkeypatch, [0, 2], times=2)
    adds = {bytes([n]): n for n in range(4)}
    await store.count("b", adds, most=100, expires_at=kit.now + HOUR)
    assert refuses.calls == [4, 2, 1]
    assert await counts(store, "b", *adds) == list(adds.values()), "none was added twice"
    refuses.calls.clear()
    await store.record_logins([(f"u{n}", entry(n)) for n in range(4)], kit.now + DAY)
    assert [await history(store, f"u{n}") for n in range(4)] == [[n] for n in range(4)]
    refuses.calls.clear()
    await store.publish([Sheet("usage", n, "w", b"x", kit.now + DAY) for n in range(4)])
    assert len(await store.sheets("usage", 0, 9)) == 4


@pytest.mark.parametrize(("code", "times"), [(11000, 100), (121, 1)])
async def test_what_cannot_be_written_is_told(kit: Kit, monkeypatch: pytest.MonkeyPatch, code: int, times: int) -> None:
    store = await kit.store()
    RefusesUpserts(monkeypatch, [0], times, code)
    with pytest.raises(StoreUnavailable) as caught:
        await store.record_logins([("ann", entry(1)), ("bob", entry(2))], kit.now + DAY)
    assert caught.value.outcome == "unknown", "one of both was written"
    monkeypatch.undo()
    RefusesUpserts(monkeypatch, [0], times, code)
    with pytest.raises(StoreUnavailable) as caught:
        await store.record_logins([("cyd", entry(1))], kit.now + DAY)
    assert caught.value.outcome == "not_applied"


async def test_counters_that_two_processes_begin_at_once(kit: Kit) -> None:
    stores = await kit.stores(2)
    keys = [bytes([n]) for n in range(40)]
    await together(
        stores[n % 2].count("b", dict.fromkeys(keys[n % 3 :: 1 + n % 2], 1), most=100, expires_at=kit.now + HOUR)
        for n in range(12)
    )
    expected = [sum(key in keys[n % 3 :: 1 + n % 2] for n in range(12)) for key in keys]
    assert await counts(stores[0], "b", *keys) == expected


async def test_a_lost_answer_is_told_as_such() -> None:
    async with lossy() as (proxy, kit):
        store = await kit.store()
        proxy.command = b"\x02update\x00"
        with pytest.raises(StoreUnavailable) as caught:
            await store.count("b", {b"k": 1}, most=9, expires_at=kit.now + DAY)
        assert caught.value.outcome == "not_applied", "the time of the bucket may be moved twice"
        proxy.command = b"$inc"
        with pytest.raises(StoreUnavailable) as caught:
            await store.count("b", {b"k": 1}, most=9, expires_at=kit.now + DAY)
        assert caught.value.outcome == "unknown"
        assert await counts(store, "b", b"k") == [1], "it was counted"
        proxy.command = b"\x02update\x00"
        for call in (
            store.record_logins([("ann", entry(1))], kit.now + DAY),
            store.publish([Sheet("usage", 1, "w", b"x", kit.now + DAY)]),
            store.drop_login("ann", entry(1)),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                await call
            assert caught.value.outcome == "unknown"
        proxy.command = b"\x02delete\x00"
        with pytest.raises(StoreUnavailable) as caught:
            await store.forget_user("ann")
        assert caught.value.outcome == "unknown"


# -- when each goes -------------------------------------------------------------------------------------------


async def test_the_server_removes_them_alone(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    at = kit.now + DAY + 1
    await store.record_logins([("ann", entry(1))], at)
    await store.count("b", {b"k": 1}, most=9, expires_at=at)
    await store.publish([Sheet("usage", 1, "w", b"x", at)])
    for collection in (there.histories, there.counters, there.sheets):
        found = await collection.find_one({})
        assert found is not None
        assert found["expires"].as_datetime(), "a Date: the server removes by nothing else"
        assert (found["expires_at"], int(found["expires"])) == (at, at // 1000)
        index = (await collection.index_information())["expiry"]
        assert index["key"] == [("expires", 1)]
        assert index["expireAfterSeconds"] == 86_400


async def test_each_goes_at_its_microsecond(kit: Kit) -> None:
    store = await kit.store()
    now = kit.now + SECOND - kit.now % 1000 + 500
    for at in (now - 1, now, now + 1, now + 499):
        await store.record_logins([(f"u{at}", entry(1))], at)
        await store.count(f"b{at}", {b"k": 1}, most=9, expires_at=at)
        await store.publish([Sheet("usage", at - now + 10, "w", b"x", at)])
    assert await store.expire(now, 100) == 6
    assert [await history(store, f"u{at}") for at in (now - 1, now, now + 1, now + 499)] == [[], [], [1], [1]]
    assert [sheet.expires_at for sheet in await store.sheets("usage", 0, 1000)] == [now + 1, now + 499]
    assert await store.expire(now, 100) == 0


async def test_no_more_than_so_many_of_each_are_removed_at_once(kit: Kit) -> None:
    store = await kit.store()
    past = kit.now - HOUR
    await store.record_logins([(f"u{n}", entry(1)) for n in range(7)], past)
    await store.count("b", {bytes([n]): 1 for n in range(4)}, most=9, expires_at=past)
    await store.publish([Sheet("usage", n, "w", b"x", past) for n in range(5)])
    assert [await store.expire(kit.now, 3) for _ in range(4)] == [9, 6, 1, 0]


async def test_what_is_used_again_meanwhile_stays(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = await kit.stores(2)
    await store.record_logins([("ann", entry(1)), ("bob", entry(1))], kit.now - HOUR)
    real = AsyncCollection.delete_many

    async def delete_many(collection: AsyncCollection[Any], *arguments: Any, **options: Any) -> Any:
        await other.record_logins([("ann", entry(2))], kit.now + DAY)
        return await real(collection, *arguments, **options)

    monkeypatch.setattr(AsyncCollection, "delete_many", delete_many)
    assert await store.expire(kit.now, 100) == 1
    assert await history(store, "ann") == [2, 1]


async def test_a_bucket_goes_as_a_whole_at_the_time_of_its_latest_call(kit: Kit) -> None:
    store = await kit.store()
    for latest, left in ((kit.now + DAY, [1, 1]), (kit.now - HOUR, [0, 0])):
        bucket = f"b{latest}"
        await store.count(bucket, {b"a": 1}, most=9, expires_at=kit.now + HOUR)
        await store.count(bucket, {b"b": 1}, most=9, expires_at=latest)
        await store.count(f"{bucket}-not", {b"a": 1}, most=9, expires_at=kit.now + 9 * DAY)
        await store.expire(kit.now + 2 * HOUR, 100)
        assert await counts(store, bucket, b"a", b"b") == left
        assert await counts(store, f"{bucket}-not", b"a") == [1]
    await store.count("empty", {}, most=9, expires_at=kit.now)


# -- counters and sheets --------------------------------------------------------------------------------------


async def test_a_full_bucket_takes_the_first_of_the_new_keys(kit: Kit) -> None:
    store = await kit.store()
    await store.count("b", {b"a": 1}, most=3, expires_at=kit.now + HOUR)
    await store.count("b", {b"z": 1, b"y": 1, b"x": 1, b"a": 1}, most=3, expires_at=kit.now + HOUR)
    assert await counts(store, "b", b"a", b"z", b"y", b"x") == [2, 1, 1, 0]
    await store.count("b", {b"a": 2**40, b"x": 1}, most=0, expires_at=kit.now + HOUR)
    assert await counts(store, "b", b"a", b"x") == [2 + 2**40, 0]
    assert type((await counts(store, "b", b"a"))[0]) is int


async def test_every_question_has_its_index(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    for n in range(5):
        await store.count(f"b{n}", {bytes([k]): 1 for k in range(50)}, most=100, expires_at=kit.now + HOUR)

    async def plan(collection: Any, where: dict[str, Any]) -> str:
        command = {"explain": {"find": collection.name, "filter": where}, "verbosity": "queryPlanner"}
        return repr((await there.database.command(command))["queryPlanner"]["winningPlan"])

    assert "'indexName': 'bucket'" in await plan(there.counters, {"_id.bucket": "b3"})
    assert "'indexName': 'place'" in await plan(there.sheets, {"_id.kind": "k", "_id.bucket": {"$gte": 1, "$lt": 3}})
    assert "'indexName': 'expiry'" in await plan(there.sheets, {"expires": {"$lte": DatetimeMS(1)}})


async def test_of_two_sheets_for_one_place_in_one_call_the_last_one_stays(kit: Kit) -> None:
    store = await kit.store()
    old, new = (Sheet("usage", 2**40, "w", data, kit.now + DAY) for data in (b"old", b"new"))
    await store.publish([old, new])
    assert await store.sheets("usage", 2**40, 2**40 + 1) == [new]
    await store.publish([])
    await store.withdraw([])
    assert await store.sheets("usage", 0, 2**41) == [new]


# -- forgetting ---------------------------------------------------------------------------------------------


async def test_forgetting_again_finds_what_came_between(kit: Kit, there: Collections) -> None:
    """The call may be repeated, and takes what a login that was under way has left."""
    store, other = await kit.stores(2)
    await kit.put_in(store, *(kit.record("ann") for _ in range(3)))
    await store.end_where(kit.query("ann", not_before=kit.now + DAY, sids=[]), EndReason.REVOKED)
    await store.record_logins([("ann", entry(1))], kit.now + DAY)
    late = kit.record("ann")
    forgotten, _ = await asyncio.gather(store.forget_user("ann"), kit.put_in(other, late))
    assert forgotten in (3, 4)
    assert await other.forget_user("ann") == 4 - forgotten
    for collection in (there.sessions, there.users, there.histories):
        assert await collection.count_documents({}) == 0
