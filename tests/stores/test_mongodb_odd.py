"""Documents in MongoDB that somebody has spoilt by hand, or that are no sessions: each harms itself alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import Int64, ObjectId

from databases import new_prefix, url_of, with_option
from sessiondb import open_store
from sessiondb.core.change import Applied
from sessiondb.core.errors import SessionDataError
from sessiondb.core.record import EndReason
from sessiondb.stores._mongodb_rows import sid_value
from sessiondb.stores._mongodb_url import Collections, parse
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, HOUR
from sessiondb.testing.kit import Kit

DAMAGES: list[dict[str, Any]] = [
    {"$unset": {"created_at": ""}},
    {"$unset": {"series_hash": "", "secret_hash": "", "last_changes": ""}},
    {"$set": {"created_at": "long ago"}},
    {"$set": {"last_seen_at": {"$literal": "yesterday"}}},
    {"$set": {"idle": None}},
    {"$set": {"absolute": 1.5}},
    {"$set": {"rev": "one"}},
    {"$set": {"last_changes": 7}},
    {"$set": {"secret_hash": "not bytes"}},
]
odd = pytest.mark.parametrize("damage", DAMAGES, ids=str)


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
    collections = parse(url).connect()
    yield collections
    await collections.close()


@odd
async def test_a_spoilt_session_stops_nobody(kit: Kit, there: Collections, damage: dict[str, Any]) -> None:
    """Not the sweeper, not a login at the limit, not a list, not a revoke; only its own load fails."""
    store = await kit.store()
    spoilt, expired, old, new = (kit.record("ann", age=age) for age in (31 * DAY, 31 * DAY, HOUR, 0))
    await kit.put_in(store, spoilt, expired, old, new)
    await there.sessions.update_one({"_id": sid_value(spoilt.sid)}, damage)
    with pytest.raises(SessionDataError):
        await store.load([spoilt.sid])
    assert await kit.living(store, "ann") == [new.sid, old.sid]
    swept = await store.sweep(kit.cutoffs(), 100)
    assert [one.sid for one in swept.ended] == [expired.sid]
    # It is put off, so that as many as one sweep looks at cannot hold up all others.
    assert not (await store.sweep(kit.cutoffs(), 1)).more
    # Of a batch, the others are written.
    results = await store.apply([kit.update(spoilt, {"n": 1}, if_rev=99), kit.update(old, {"n": 1})])
    assert isinstance(results[0], SessionDataError)
    assert results[1] == Applied(2)
    admission = await store.admit(kit.login(new, per_user=1))
    assert [one.sid for one in admission.ended] == [old.sid]
    ended = await store.end_where(kit.query("ann", not_before=kit.now), EndReason.REVOKED)
    assert {one.sid for one in ended} == {new.sid, spoilt.sid}
    found = await there.sessions.find_one({"_id": sid_value(spoilt.sid)})
    assert found is not None
    assert (found["end_reason"], found["data"]) == ("revoked", {})


@odd
async def test_a_spoilt_session_can_be_ended_alone_and_is_purged(
    kit: Kit, there: Collections, damage: dict[str, Any]
) -> None:
    store = await kit.store()
    spoilt = kit.record("ann", {"a": 1})
    await kit.put_in(store, spoilt)
    await there.sessions.update_one({"_id": sid_value(spoilt.sid)}, damage)
    assert isinstance(await kit.apply(store, kit.end(spoilt)), Applied)
    assert (await store.sweep(kit.cutoffs(kit.now + 30 * DAY), 10)).purged == 1
    assert await kit.find_record(store, spoilt.sid) is None


async def test_pages_go_on_behind_spoilt_sessions(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    records = [kit.record("ann", age=n * HOUR) for n in range(8)]
    await kit.put_in(store, *records)
    for record in records[2:6]:
        await there.sessions.update_one({"_id": sid_value(record.sid)}, {"$set": {"secret_hash": 0}})
    seen = []
    before = None
    for _ in range(8):
        page = await store.find(kit.query("ann", limit=2, before=before))
        seen += [record.sid for record in page.records]
        if (before := page.next) is None:
            break
    assert seen == [record.sid for record in (*records[:2], *records[6:])]


async def test_documents_with_another_id_are_no_sessions(kit: Kit, there: Collections) -> None:
    store = await kit.store()
    record = kit.record("ann")
    await kit.put_in(store, record)
    document = await there.sessions.find_one({"_id": sid_value(record.sid)})
    assert document is not None
    others = [ObjectId(), "text", 1]
    await there.sessions.insert_many([{**document, "_id": other, "check_at": 1} for other in others])
    assert (await store.find(kit.query("ann", limit=2))).records == [record]
    assert await store.end_where(kit.query("ann", not_before=kit.now, keep=record.sid), EndReason.REVOKED) == []
    assert (await store.admit(kit.login(record, per_user=1))).refused is None
    assert not (await store.sweep(kit.cutoffs(), 100)).ended
    assert not (await store.sweep(kit.cutoffs(), 1)).more


async def test_numbers_as_shells_write_them_are_no_damage(kit: Kit, there: Collections) -> None:
    """A whole number may be a double or of 32 bits; what has no value may say null."""
    store = await kit.store()
    record = kit.record("ann", age=31 * DAY)
    await kit.put_in(store, record)
    values = {"rev": 1.0, "idle": float(record.idle), "created_at": Int64(record.created_at), "ended_at": None}
    await there.sessions.update_one({"_id": sid_value(record.sid)}, {"$set": values})
    assert await store.load([record.sid]) == [record]
    assert [one.sid for one in (await store.sweep(kit.cutoffs(), 1)).ended] == [record.sid]
