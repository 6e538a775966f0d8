"""What was erased is nowhere: neither in the file, nor in its log, nor in its free pages."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sessiondb.core.errors import StoreUnavailable
from sessiondb.core.events import EventType
from sessiondb.core.record import LINK_BYTES, EndReason, Record
from sessiondb.core.sealing import GROUPS
from sessiondb.stores import _sqlite_erasing
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, Position
from sessiondb.stores.sqlite import SQLiteStore
from sessiondb.testing.builders import DAY, Builders

USER, ADDRESS, AGENT = "canary@example.org", "198.51.100.77", "CanaryBrowser/9"
LOGIN = b"canary login".ljust(HISTORY_ENTRY_BYTES, b".")
LINK = b"canary link".ljust(LINK_BYTES, b".")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "x.db", synchronous="NORMAL", busy_timeout=0.2)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def build() -> Builders:
    return Builders(time.time_ns() // 1000)


def canaries(folder: Path, *others: str) -> list[str]:
    """What of the user is in any file."""
    wanted = {USER, ADDRESS, AGENT, LOGIN.decode(), LINK.decode(), *others}
    return sorted(one for one in wanted if any(one.encode() in file.read_bytes() for file in folder.iterdir()))


class Life:
    """Users who come, do something and go, one of them the canary; in an order that ``seed`` gives."""

    def __init__(self, store: SQLiteStore, build: Builders, seed: int) -> None:
        self.store = store
        self.build = build
        self.chance = random.Random(seed)
        self.records: list[Record] = []
        self.places: list[Position] = []
        self.sids: list[str] = []

    async def live(self, rounds: int, canary: float = 0.1) -> None:
        for number in range(rounds):
            is_canary = self.chance.random() < canary
            what = self.chance.random()
            if what < 0.6 or not self.records:
                await self.come(number, is_canary)
            elif what < 0.8:
                one = self.chance.choice(self.records)
                seen = "canary" if one.user_id == USER else "x"
                client = f'{{"ip":"{ADDRESS}"}}'.encode() if one.user_id == USER else None
                put = {"n": (seen + " " + ADDRESS if client else seen) * self.chance.choice([1, 5, 20, 300])}
                await self.store.apply([self.build.update(one, put)])
            else:
                one = self.records.pop(self.chance.randrange(len(self.records)))
                await self.store.apply([self.build.end(one)], [self.event(one, EventType.SESSION_ENDED)])
        await self.store.end_where(self.build.query(USER, not_before=self.build.now, sids=[]), EndReason.REVOKED)
        await self.store.record_logins([(USER, LOGIN)] * 3, self.build.now + DAY)

    async def come(self, number: int, is_canary: bool) -> None:
        user = USER if is_canary else f"user{self.chance.randrange(200)}" + "x" * self.chance.randrange(20)
        client = f'{{"ip":"{ADDRESS}","user_agent":"{AGENT}"}}'.encode() if is_canary else b"{}"
        one = self.build.record(user, {"n": number}, client_first=client, client_last=client)
        self.records.append(one)
        if is_canary:
            self.sids.append(one.sid)
        event = self.event(one, EventType.LOGIN)
        await self.store.apply([self.build.create(one, [LINK] if is_canary else [])], [event])

    def event(self, one: Record, type_: EventType) -> object:
        is_canary = one.user_id == USER
        event = self.build.event(
            type_,
            sid=one.sid,
            user_id=one.user_id,
            actor=USER if is_canary and self.chance.random() < 0.3 else None,
            ip=ADDRESS if is_canary else "192.0.2.1",
            personal={"user_agent": AGENT * self.chance.choice([1, 2, 8])} if is_canary else {},
        )
        if is_canary:
            self.places.append(self.build.place(event))
        return event

    async def forget(self) -> None:
        assert await self.store.blank(self.places, set(GROUPS)) == len(self.places)
        await self.store.forget_user(USER)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.security("A3")
async def test_a_forgotten_user_is_in_no_file(store: SQLiteStore, build: Builders, tmp_path: Path, seed: int) -> None:
    """So many rows that pages are split and joined, which leaves copies that no secure_delete knows of."""
    life = Life(store, build, seed)
    await life.live(1200, canary=0.3)
    assert canaries(tmp_path, *life.sids) == sorted({USER, ADDRESS, AGENT, LOGIN.decode(), LINK.decode(), *life.sids})
    await life.forget()
    assert canaries(tmp_path, *life.sids) == []
    assert (await store.stats()).events > 100
    with sqlite3.connect(store.path) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()


async def test_in_a_file_that_is_not_written_anew_what_is_deleted_is_overwritten(
    store: SQLiteStore,
    build: Builders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(_sqlite_erasing, "SMALL", 0)
    life = Life(store, build, 1)
    await life.live(20, canary=0.5)
    assert len(canaries(tmp_path, *life.sids)) == 5 + len(life.sids)
    await life.forget()
    assert canaries(tmp_path, *life.sids) == []
    assert f"sqlite3 {store.path} VACUUM" in caplog.text


async def test_blanking_alone_leaves_none_of_its_groups(store: SQLiteStore, build: Builders, tmp_path: Path) -> None:
    events = [build.event(user_id=USER, ip=ADDRESS, personal={"agent": AGENT}) for _ in range(3)]
    await store.append(events)
    assert await store.blank([build.place(one) for one in events], {"where"}) == 3
    assert canaries(tmp_path) == [USER]
    salts = [one.seal.where_salt for one in events if one.seal is not None]
    assert not any(salt in file.read_bytes() for file in tmp_path.iterdir() for salt in salts if salt)
    assert await store.blank([build.place(one) for one in events], {"who"}) == 3
    assert canaries(tmp_path) == []


async def test_pages_that_were_freed_long_ago_hold_nothing(
    store: SQLiteStore, build: Builders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_erasing, "SMALL", 0)
    large = build.record(USER, {"n": (ADDRESS + AGENT) * 3000})
    await store.apply([build.create(large)])
    await store.apply([build.end(large, purge_after=0)])
    await store.sweep(build.cutoffs(build.now + DAY), 10)
    assert await store.load([large.sid]) == [None]
    assert canaries(tmp_path) != []
    assert await store.forget_user(USER) == 0
    assert canaries(tmp_path) == []


async def test_many_sessions_are_forgotten_in_steps(
    store: SQLiteStore, build: Builders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_erasing, "AT_ONCE", 7)
    records = [build.record("ann") for _ in range(21)]
    await store.apply([build.create(one, [LINK]) for one in records])
    other = build.record("bob")
    await store.apply([build.create(other, [LINK])])
    groups = store.writer.groups
    assert await store.forget_user("ann") == 21
    assert store.writer.groups >= groups + 4
    assert await store.load([one.sid for one in records]) == [None] * 21
    assert [one.sid for one in (await store.find(build.query(link=LINK))).records] == [other.sid]


# -- others at the file ---------------------------------------------------------------------------------------


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """Another program, in the middle of a transaction that reads."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sessiondb_events").fetchone()
    try:
        yield connection
    finally:
        connection.close()


async def test_while_another_program_reads_it_is_said_what_stays_and_how_to_end_that(
    store: SQLiteStore, build: Builders, tmp_path: Path
) -> None:
    event = build.event(user_id=USER)
    await store.append([event])
    with reading(store.path):
        for call in (store.blank([build.place(event)], {"who"}), store.forget_user(USER)):
            with pytest.raises(StoreUnavailable, match=r"x\.db-wal still has it.*lsof.*repeat this call") as caught:
                await call
            assert caught.value.outcome == "unknown"
        # Nobody else has to wait for that.
        await store.apply([build.create(build.record("ann"))])
    assert await store.forget_user(USER) == 0
    assert canaries(tmp_path) == []


async def test_one_that_reads_for_a_moment_is_waited_for(tmp_path: Path, build: Builders) -> None:
    store = SQLiteStore(tmp_path / "x.db", busy_timeout=30)
    await store.open()
    event = build.event(user_id=USER)
    await store.append([event])
    with reading(store.path) as other:
        task = asyncio.ensure_future(store.blank([build.place(event)], {"who"}))
        await asyncio.to_thread(store.writer._in_use.acquire)  # it is at work or has been
        store.writer._in_use.release()
        other.execute("COMMIT")
        assert await task == 1
    assert canaries(tmp_path) == []
    await store.close()


async def test_two_stores_at_work_keep_nobody_from_forgetting(tmp_path: Path, build: Builders) -> None:
    one, other = (SQLiteStore(tmp_path / "x.db", synchronous="NORMAL", busy_timeout=20) for _ in range(2))
    for store in (one, other):
        await store.open()
    records = [build.record(f"user{n}") for n in range(40)]
    await one.apply([build.create(record) for record in records])
    going_on = True

    async def work(store: SQLiteStore) -> None:
        while going_on:
            record = build.record("ann")
            await store.apply([build.create(record)], [Builders(0).event(user_id="ann")])
            await store.load([record.sid])

    workers = [asyncio.ensure_future(work(store)) for store in (one, other)]
    for n in range(0, 40, 2):
        assert await one.forget_user(f"user{n}") == 1
        assert await other.forget_user(f"user{n + 1}") == 1
    going_on = False
    await asyncio.gather(*workers)
    assert not any(b"user1" in file.read_bytes() for file in tmp_path.iterdir())
    for store in (one, other):
        await store.close()


async def test_a_file_with_other_peoples_tables_is_not_written_anew(
    store: SQLiteStore, build: Builders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their row ids could be others then."""
    with sqlite3.connect(store.path) as other:
        other.execute("CREATE TABLE notes (text TEXT)")
        other.executemany("INSERT INTO notes VALUES (?)", [("a",), ("b",), ("c",)])
        other.execute("DELETE FROM notes WHERE text = 'a'")
    other.close()
    life = Life(store, build, 2)
    await life.live(20, canary=0.5)
    await life.forget()
    assert canaries(tmp_path, *life.sids) == []
    assert "has tables that are not sessiondb's" in caplog.text
    with sqlite3.connect(store.path) as other:
        assert other.execute("SELECT rowid, text FROM notes").fetchall() == [(2, "b"), (3, "c")]
    other.close()


async def test_every_connection_overwrites_what_it_deletes(store: SQLiteStore) -> None:
    """SQLite does so by default in some builds and not in others."""
    for worker in (store.writer, store._reader):
        assert await worker.run(lambda connection: connection.execute("PRAGMA secure_delete").fetchone()) == (1,)
