"""Encrypted sessions in real databases: what is stored, what tampering comes to, and what requests notice: nothing."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from databases import KINDS, new_url
from harness import Shop, open_shop, put
from sessiondb import EventType, KeyRing, SessionDB, open_store
from sessiondb.core import codec
from sessiondb.core.change import Applied, Update, new_change_id
from sessiondb.core.record import Record
from sessiondb.core.token import Sid
from sessiondb.stores.base import Store

NEEDLE = "a-needle-in-the-dump"


@asynccontextmanager
async def raw_store(url: str) -> AsyncIterator[Store]:
    """The database as its administrator sees it."""
    store = open_store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def stored(store: Store, sid: str) -> dict[str, bytes]:
    [record] = await store.load([Sid(sid)])
    assert record is not None
    return {name: bytes(value) for name, value in codec.split(record.data).items()}


async def write_raw(store: Store, sid: str, **values: bytes) -> None:
    [result] = await store.apply([Update(sid=Sid(sid), id=new_change_id(), put=values)])
    assert isinstance(result, Applied)


def database(url: str, *keys: str, **settings: Any) -> SessionDB:
    return SessionDB(url, keys=KeyRing(*keys, **settings), sweep_every=None, timeout=20)


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_url(request.param, tmp_path)


# -- what is stored ---------------------------------------------------------------------------------------


async def test_every_database_holds_envelopes_alone(url: str) -> None:
    key = KeyRing.generate()
    async with database(url, key) as db:
        issued = await db.create("ann", {"cart": [NEEDLE], "n": 1, NEEDLE[:8]: None})
        async with db.session(issued.token) as session:
            assert session == {"cart": [NEEDLE], "n": 1, NEEDLE[:8]: None}
            session["cart"].append(NEEDLE * 2)
            session["new"] = {"deep": NEEDLE}
            del session["n"]
        async with db.session(issued.token) as session:
            await session.modify(lambda data: data.update(note=NEEDLE))
        async with raw_store(url) as raw:
            values = await stored(raw, issued.session.sid)
        assert set(values) == {"cart", NEEDLE[:8], "new", "note"}, "the names of the keys are stored as they are"
        for value in values.values():
            assert value.startswith(b'"sdb1.' + KeyRing(key).ids[0].encode() + b".")
        found = await db.get(issued.session.sid)
        assert found is not None
        assert found.data["cart"] == [NEEDLE, NEEDLE * 2] and found.data["note"] == NEEDLE
        [listed] = await db.sessions_of("ann")
        assert listed.data == found.data


@pytest.mark.security("K2")
async def test_no_file_of_sqlite_holds_what_users_wrote(tmp_path: Path) -> None:
    """The database, its write-ahead log and its shared memory are searched, while it is open and after it."""

    def search() -> None:
        files = [path for path in tmp_path.iterdir() if path.is_file()]
        assert any(path.name.endswith("-wal") for path in files) or checked
        for path in files:
            assert NEEDLE.encode() not in path.read_bytes(), path

    checked = False
    async with database(f"sqlite:///{tmp_path}/sessions.db", KeyRing.generate()) as db:
        for number in range(50):
            issued = await db.create(f"user{number}", {"secret": f"{NEEDLE} {number}"})
            async with db.session(issued.token) as session:
                session["more"] = [NEEDLE] * 20
        search()
    checked = True
    search()
    # The search would find it: so it is found where nothing is encrypted.
    async with SessionDB(f"sqlite:///{tmp_path}/plain.db", sweep_every=None) as db:
        await db.create("ann", {"secret": NEEDLE})
        with pytest.raises(AssertionError):
            search()


# -- tampering --------------------------------------------------------------------------------------------

Tamper = Callable[[dict[str, bytes], dict[str, bytes]], dict[str, bytes]]


def _flip(value: bytes) -> bytes:
    return value[:30] + (b"A" if value[30:31] != b"A" else b"B") + value[31:]


TAMPERING: dict[str, Tamper] = {
    "another row": lambda mine, theirs: {"role": theirs["role"]},
    "another key": lambda mine, theirs: {"role": mine["name"]},
    "a new key": lambda mine, theirs: {"admin": mine["name"]},
    "a flipped character": lambda mine, theirs: {"role": _flip(mine["role"])},
    "cut": lambda mine, theirs: {"role": mine["role"][:-8] + b'"'},
    "plain text": lambda mine, theirs: {"role": b'"admin"'},
    "plain null": lambda mine, theirs: {"role": b"null"},
    "an object around it": lambda mine, theirs: {"role": b'{"value":' + mine["role"] + b"}"},
    "an unknown key of the ring": lambda mine, theirs: {"role": b'"sdb1.AAAAAAAA.' + mine["role"][15:]},
    "an empty envelope": lambda mine, theirs: {"role": mine["role"][:15] + b'"'},
}


@pytest.mark.security("K2", "K3")
async def test_tampering_is_refused_on_every_database(url: str) -> None:
    """Nobody is let in with what somebody put into the database; the record is quarantined, and nothing raises."""
    async with database(url, KeyRing.generate()) as db, raw_store(url) as raw:
        for name, tamper in TAMPERING.items():
            ann = await db.create("ann", {"role": "user", "name": "Ann"})
            bob = await db.create("bob", {"role": "admin", "name": "Bob"})
            mine, theirs = await stored(raw, ann.session.sid), await stored(raw, bob.session.sid)
            await write_raw(raw, ann.session.sid, **tamper(mine, theirs))
            async with db.session(ann.token) as session:
                assert (dict(session), session.user_id) == ({}, None), name
            events = await db.events(sid=ann.session.sid, type=EventType.SESSION_QUARANTINED)
            assert len(events.events) == 1, name
            found = await db.get(ann.session.sid)
            assert found is not None and found.data == {} and found.user_id == "ann"
            assert ann.session.sid in [one.sid for one in await db.sessions_of("ann")]
            # Its neighbours are served, and it can be ended.
            async with db.session(bob.token) as session:
                assert session["role"] == "admin"
            assert await db.revoke(ann.session.sid)


@pytest.mark.security("K3", "K4")
async def test_a_retired_key_signs_its_users_out_and_an_older_one_does_not(url: str) -> None:
    old, new = KeyRing.generate(), KeyRing.generate()
    async with database(url, old) as db:
        issued = await db.create("ann", {"cart": ["tea"]})
    async with database(url, new, old) as db:
        async with db.session(issued.token) as session:
            assert session == {"cart": ["tea"]}
            session["more"] = 1
        async with raw_store(url) as raw:
            values = await stored(raw, issued.session.sid)
        assert [value[6:14].decode() for value in (values["cart"], values["more"])] == [*KeyRing(old, new).ids]
    async with database(url, new) as db:
        async with db.session(issued.token) as session:
            assert session.user_id is None
        [event] = (await db.events(type=EventType.SESSION_QUARANTINED)).events
        assert KeyRing(old).ids[0] in event.details["error"]  # type: ignore[operator]
        assert (await db.get(issued.session.sid)).data == {}  # type: ignore[union-attr]


async def test_plain_sessions_are_refused_unless_told_otherwise(url: str) -> None:
    key = KeyRing.generate()
    async with SessionDB(url, sweep_every=None, timeout=20) as db:
        issued = await db.create("ann", {"cart": ["tea"], "n": 1})
    async with database(url, key) as db:
        async with db.session(issued.token) as session:
            assert session.user_id is None
        [event] = (await db.events(type=EventType.SESSION_QUARANTINED)).events
        assert "not encrypted" in str(event.details["error"])
    async with database(url, key, plain="accept") as db, raw_store(url) as raw:
        async with db.session(issued.token) as session:
            assert session == {"cart": ["tea"], "n": 1}
            session["n"] = 2
        values = await stored(raw, issued.session.sid)
        assert values["n"].startswith(b'"sdb1.') and codec.decode_value(values["cart"]) == ["tea"]
        done = await db.reencrypt()
        assert (done.rewritten, done.left, done.unreadable, done.next) == (1, 0, 0, None)
    async with database(url, key) as db:
        async with db.session(issued.token) as session:
            assert session == {"cart": ["tea"], "n": 2}
    # And back: encryption is turned off, and the database can be read without keys.
    async with database(url, key, plain="write") as db:
        async with db.session(issued.token) as session:
            session["n"] = 3
        assert (await db.reencrypt()).rewritten == 1
        assert dict((await db.reencrypt()).keys) == {"plain": 1}
    async with SessionDB(url, sweep_every=None, timeout=20) as db:
        async with db.session(issued.token) as session:
            assert session == {"cart": ["tea"], "n": 3}


# -- what requests notice ---------------------------------------------------------------------------------


@asynccontextmanager
async def shop(*keys: str, **settings: Any) -> AsyncIterator[Shop]:
    async with open_shop(keys=KeyRing(*(keys or (KeyRing.generate(),))), **settings) as opened:
        yield opened


async def test_a_shop_with_encryption_keeps_the_round_trip_budget() -> None:
    async with shop() as opened:
        browser = await opened.with_cart(cart=["tea"], n=0)
        assert (await browser.do(dict)).calls == {"load": 1}
        assert (await browser.do(put(n=1))).calls == {"load": 1, "apply": 1}
        assert (await browser.do(lambda session: session.modify(lambda data: data.update(n=2)))).calls == {
            "load": 1,
            "apply": 1,
        }
        assert await browser.read() == {"cart": ["tea"], "n": 2}
        # A store that may write the whole of the data gets the whole as it is to be stored.
        update = opened.store.updates[-2]
        assert update.whole and b"tea" not in update.whole and set(codec.split(update.whole)) == {"cart", "n"}


async def test_counters_lose_nothing() -> None:
    async with shop() as opened:
        browser = await opened.with_cart(n=0)

        def increment(data: dict[str, Any]) -> None:
            data["n"] += 1

        answers = await asyncio.gather(*(browser.twin().do(lambda s: s.modify(increment)) for _ in range(40)))
        assert {answer.status for answer in answers} == {200}
        assert await browser.read() == {"n": 40}


async def test_writers_of_different_keys_both_land() -> None:
    async with shop() as opened:
        browser = await opened.with_cart(start=1)
        await asyncio.gather(*(browser.twin().do(put(**{f"k{number}": number})) for number in range(30)))
        assert await browser.read() == {"start": 1, **{f"k{number}": number for number in range(30)}}


async def test_a_login_carries_the_cart_over() -> None:
    async with shop() as opened:
        browser = await opened.with_cart(cart=["tea"])
        twin = browser.twin()

        async def log_in(session: Any) -> None:
            await twin.do(put(late="written after the login has loaded"))
            await session.login("ann")

        before = browser.sid
        await browser.do(log_in)
        assert browser.sid != before
        assert await browser.read() == {"cart": ["tea"], "late": "written after the login has loaded"}
        assert await browser.user() == "ann"
        for value in codec.split(opened.record(browser.sid).data).values():
            assert bytes(value).startswith(b'"sdb1.'), "encrypted anew: a value is bound to its session"


async def test_a_session_that_cannot_be_decrypted_is_quarantined_over_http() -> None:
    """Its holder is anonymous, never a 500; a new session takes its place, and the others go on."""
    async with shop() as opened:
        ann, bob = await opened.logged_in("ann"), await opened.logged_in("bob")
        await ann.do(put(cart=["tea"]))
        record = opened.record(ann.sid)
        opened.put_record(msgspec.structs.replace(record, data=record.data.replace(b"sdb1.", b"sdb1.x")))
        for _ in range(3):
            reply = await ann.do(lambda session: [session.user_id, dict(session)])
            assert reply.result == [None, {}]
        for verb in ("login", "modify"):
            twin = ann.twin()
            action = {
                "login": lambda session: session.login("ann"),
                "modify": lambda session: session.modify(lambda data: data.update(a=1)),
            }[verb]
            reply = await twin.do(action)
            assert (reply.status, reply.cookie) == (200, "set")
            assert twin.sid != ann.sid
        await opened.flush()
        assert {event.sid for event in await opened.events(EventType.SESSION_QUARANTINED)} == {ann.sid}
        assert await bob.user() == "bob"


async def test_sizes_are_those_of_what_the_app_wrote() -> None:
    """``max_session_bytes`` counts plain bytes, though the database sees more."""
    async with shop(max_session_bytes=1000) as opened:
        browser = await opened.with_cart(text="x" * 985)
        assert len(opened.record(browser.sid).data) > 1300
        assert (await browser.do(put(more=1))).status == 500
        assert await browser.read() == {"text": "x" * 985}


@pytest.mark.security("K6")
async def test_events_and_messages_hold_no_value() -> None:
    async with shop() as opened:
        browser = await opened.with_cart(cart=NEEDLE)
        record = opened.record(browser.sid)
        opened.put_record(msgspec.structs.replace(record, data=b'{"cart":"' + NEEDLE.encode() + b'"}'))
        assert (await browser.do(dict)).result == {}
        await opened.flush()
        events = await opened.events(EventType.SESSION_QUARANTINED)
        assert events and NEEDLE not in repr(events)


def test_the_record_that_was_decrypted_shows_nothing() -> None:
    from sessiondb.stores._sealing import Sealer
    from sessiondb.testing.builders import Builders

    record = Builders(1_800_000_000_000_000).record("ann", {"cart": NEEDLE})
    sealer = Sealer(KeyRing(KeyRing.generate()))
    opened = sealer.open_record(msgspec.structs.replace(record, data=sealer.seal_data(record.sid, record.data)))
    assert isinstance(opened, Record) and NEEDLE.encode() in opened.data
    assert NEEDLE not in repr(opened)


def test_sqlite_can_be_asked_with_sql(tmp_path: Path) -> None:
    """What the columns hold beside the values is plain, as the documentation says."""

    async def write() -> None:
        async with database(f"sqlite:///{tmp_path}/s.db", KeyRing.generate()) as db:
            await db.create("ann", {"cart": NEEDLE}, ip="192.0.2.1")

    asyncio.run(write())
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        user, client, data = connection.execute("SELECT user_id, client_first, data FROM sessiondb_sessions").fetchone()
    assert user == "ann" and json.loads(client) == {"ip": "192.0.2.1", "network": "192.0.2.0/24"}
    assert list(json.loads(data)) == ["cart"]
