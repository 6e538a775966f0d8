"""Redis and Valkey: of a person who is erased no key and no value tells any more, and neither does the server's log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace

from databases import had, new_prefix, url_of, with_option
from provision.valkey import Valkey, ask, wait_until
from sessiondb.core.change import Touch
from sessiondb.core.events import EventType
from sessiondb.core.record import LINK_BYTES, EndReason
from sessiondb.core.sealing import GROUPS
from sessiondb.core.token import Sid
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, EventQuery, Position
from sessiondb.stores.redis import RedisStore
from sessiondb.testing import ManualClock
from sessiondb.testing.builders import DAY, MINUTE, PURGE_AFTER
from sessiondb.testing.kit import Kit, together

USER, ADDRESS, AGENT, NAME = "canary@7f3a", "203.0.113.77", "CanaryAgent/9.9", "Carla Canary"
ENTRY = b"CanaryEntry-".ljust(HISTORY_ENTRY_BYTES, b"\xff")
LINK = b"l" * LINK_BYTES
READS: dict[bytes, tuple[Any, ...]] = {
    b"hash": ("HGETALL",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"string": ("GET",),
    b"list": ("LRANGE", 0, -1),
}


@pytest.fixture(params=["redis", "redis_cluster"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
    store = RedisStore(with_option(url_of(request.param), f"prefix={new_prefix()}"))
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def kit(store: RedisStore) -> Kit:
    return await kit_of(store)


async def kit_of(store: RedisStore) -> Kit:
    kit = Kit(lambda: store, ManualClock())
    kit.now = await store.clock()
    return kit


async def raw(store: RedisStore, name: str, key: bytes, *arguments: Any) -> Any:
    [reply] = await store.run([(key, (name, key, *arguments))])
    return reply


async def everything(store: RedisStore) -> bytes:
    """All keys and values of one prefix."""
    found: list[bytes] = []
    async for keys in store.all_keys(store.keys.prefix.encode() + b"*"):
        for key in keys:
            verb, *rest = READS[await raw(store, "TYPE", key)]
            reply = await raw(store, verb, key, *rest)
            found += (key, *(reply if isinstance(reply, list) else [reply or b""]))
    return b"\n".join(found)


def told(text: bytes, *sids: str) -> set[str]:
    """What of the person is found in ``text``."""
    canaries = (USER, quote(USER, safe=""), ADDRESS, AGENT, NAME, "CanaryEntry", LINK.decode(), LINK.hex(), *sids)
    return {canary for canary in canaries if canary.encode() in text}


async def live(kit: Kit, store: RedisStore) -> tuple[list[Position], list[Sid]]:
    """Somebody uses the app in every way; where their events are, and which sessions were theirs."""
    living, ended, pushed = (kit.record(USER, {"name": NAME}) for _ in range(3))
    client = f'{{"ip":"{ADDRESS}","user_agent":"{AGENT}"}}'.encode()
    events = [
        kit.event(sid=living.sid, user_id=USER, ip=ADDRESS, personal={"user_agent": AGENT, "name": NAME}),
        kit.event(EventType.SESSION_ENDED, sid=ended.sid, user_id=USER),
        kit.event(EventType.POLICY_CHANGED, actor=USER, ip=ADDRESS),
    ]
    await store.apply([kit.create(replace(living, client_first=client), [LINK])], events[:1])
    await kit.put_in(store, ended, pushed)
    await store.apply([kit.update(living, {"name": NAME}, touch=Touch(kit.now, client))])
    await store.apply([kit.end(ended)], events[1:2])
    await store.append(events[2:])
    await store.admit(kit.login(living, per_user=1))
    await store.end_where(kit.query(USER, not_before=kit.now + DAY, sids=[]), EndReason.REVOKED)
    await store.record_logins([(USER, ENTRY)], kit.now + DAY)
    await kit.living(store, USER)
    return [kit.place(event) for event in events], [living.sid, ended.sid, pushed.sid]


async def test_of_who_is_erased_nothing_is_told_any_more(store: RedisStore, kit: Kit) -> None:
    other = kit.record("somebody", {"n": 1})
    await kit.put_in(store, other)
    await store.append([kit.event(sid=other.sid, user_id="somebody", ip="192.0.2.1")])
    places, sids = await live(kit, store)
    before = told(await everything(store), *sids)
    assert before >= {quote(USER, safe=""), USER, ADDRESS, AGENT, NAME, "CanaryEntry", LINK.hex(), *sids}
    assert await store.blank(places, set(GROUPS)) == 3
    assert await store.forget_user(USER) == 3
    after = await everything(store)
    assert told(after, *sids) == set()
    assert b"somebody" in after and b"192.0.2.1" in after and other.sid.encode() in after
    assert await store.forget_user(USER) == 0


async def test_the_log_of_the_server_forgets_when_it_is_rewritten() -> None:
    """As the guide says."""
    server = had(lambda: Valkey("--auto-aof-rewrite-percentage", "0"))
    try:
        store = RedisStore(server.url)
        await store.open()
        kit = await kit_of(store)
        places, sids = await live(kit, store)

        def on_disk() -> set[str]:
            files = [path for path in server.process.folder.rglob("*") if path.is_file() and path.suffix != ".log"]
            return told(b"\n".join(path.read_bytes() for path in files), *sids)

        ask(server.port, "CONFIG", "SET", "appendfsync", "always")
        assert on_disk() >= {USER, ADDRESS, AGENT, NAME, *sids}
        await store.blank(places, set(GROUPS))
        await store.forget_user(USER)
        assert on_disk() >= {USER, ADDRESS}
        ask(server.port, "BGREWRITEAOF")
        await asyncio.to_thread(
            wait_until,
            lambda: all(
                f"{name}:0" in ask(server.port, "INFO", "persistence")
                for name in ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
            ),
        )
        # The old files are deleted in the background.
        await asyncio.to_thread(wait_until, lambda: not on_disk())
        await store.close()
    finally:
        server.stop()


async def test_two_who_blank_at_once_erase_what_each_was_asked_for(store: RedisStore, kit: Kit) -> None:
    """An event is overwritten as a whole: nobody puts back what the other has erased."""
    events = [kit.event(sid=f"s{n}", user_id="ann", actor="bob", ip="192.0.2.1") for n in range(100)]
    await store.append(events)
    places = [kit.place(event) for event in events]
    counts = await together(store.blank(places, {group}) for group in GROUPS)
    assert counts == [100, 100, 100]
    for event in await store.trail(places[0].stream, 0, 1000):
        assert (event.user_id, event.sid, event.actor, event.ip) == (None, None, None, None)
        assert event.seal is not None
        assert (event.seal.who_salt, event.seal.actor_salt, event.seal.where_salt) == (None, None, None)
    for query in (EventQuery(user_id="ann"), EventQuery(actor="bob"), EventQuery(sid="s7")):
        assert (await store.events(query)).events == []
    lengths = [key async for part in store.all_keys(store.keys.prefix.encode() + b"*:names:*") for key in part]
    assert lengths == []


async def test_who_has_two_parts_in_an_event_is_found_by_the_other(store: RedisStore, kit: Kit) -> None:
    """The same list has both, and keeps the event for the one that stays."""
    event = kit.event(user_id="ann", actor="ann", sid="ann")
    await store.append([event])
    await store.blank([kit.place(event)], {"who"})
    assert (await store.events(EventQuery(user_id="ann"))).events == []
    [found] = (await store.events(EventQuery(actor="ann"))).events
    assert (found.actor, found.user_id) == ("ann", None)
    await store.blank([kit.place(event)], {"actor"})
    assert (await store.events(EventQuery(actor="ann"))).events == []


async def test_blanking_while_others_write_and_purge(store: RedisStore, kit: Kit) -> None:
    events = [kit.event(user_id="ann", ip="192.0.2.1", details={"n": n}) for n in range(600)]
    await store.append(events[:300])
    places = [kit.place(event) for event in events]
    name = places[0].stream

    async def append() -> int:
        for start in range(300, 600, 10):
            await store.append(events[start : start + 10])
        return 0

    async def purge() -> int:
        return sum([await store.purge_events({name: last}) for last in range(0, 101, 10)])

    _, purged, blanked = await together([append(), purge(), store.blank(places[:300], {"who", "where"})])
    assert purged == 100
    assert 200 <= blanked <= 300
    trail = await store.trail(name, 0, 1000)
    assert [one.details["n"] for one in trail] == list(range(100, 600))
    assert [one.user_id for one in trail] == [None] * 200 + ["ann"] * 300
    assert len((await store.events(EventQuery(user_id="ann", limit=1000))).events) == 300


# -- users --------------------------------------------------------------------------------------------------


async def test_a_login_that_is_under_way_keeps_its_place_in_the_list(store: RedisStore, kit: Kit) -> None:
    """It comes before its session: without it nobody could revoke what comes then. One of long ago goes."""
    young, old = kit.record("ann"), kit.record("ann", age=5 * MINUTE)
    for record in (young, old):
        await raw(store, "ZADD", store.keys.user("ann"), record.created_at + record.absolute, record.sid)
    assert await store.forget_user("ann") == 0
    assert await raw(store, "ZRANGE", store.keys.user("ann"), 0, -1) == [young.sid.encode()]
    await kit.put_in(store, young)
    assert await kit.living(store, "ann") == [young.sid]
    assert await store.forget_user("ann") == 1
    assert await raw(store, "EXISTS", store.keys.user("ann")) == 0


async def test_who_is_in_a_users_list_by_mistake_stays(store: RedisStore, kit: Kit) -> None:
    other = kit.record("bob")
    await kit.put_in(store, other)
    await raw(store, "ZADD", store.keys.user("ann"), other.created_at + other.absolute, other.sid)
    assert await store.forget_user("ann") == 0
    assert await kit.living(store, "bob") == [other.sid]
    assert await raw(store, "EXISTS", store.keys.user("ann")) == 0


async def test_users_with_many_sessions_are_forgotten(store: RedisStore, kit: Kit) -> None:
    records = [kit.record("ann", {"n": n}) for n in range(700)]
    await kit.put_in(store, *records)
    for record in records[:50]:
        await kit.apply(store, kit.end(record))
    assert await kit.living(store, "ann")
    assert await store.forget_user("ann") == 700
    assert told(await everything(store)) == set()
    due = sum([await raw(store, "ZCARD", key) for key in store.keys.due_lists])
    assert due == 0
    swept = await store.sweep(kit.cutoffs(kit.now + PURGE_AFTER + 60 * DAY), 1000)
    assert (list(swept.ended), swept.purged) == ([], 0)
