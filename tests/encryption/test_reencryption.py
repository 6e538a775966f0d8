"""Rotation of keys: everything stored gets the new key, no write is lost to it, and a killed walk is no loss."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from databases import KINDS, new_url
from sessiondb import ConfigurationError, KeyRing, SessionDB, StoreError, StoreUnavailable, open_store
from sessiondb.core import codec
from sessiondb.core.token import Sid
from sessiondb.ops.commands import app
from sessiondb.reencryption import Reencryption
from sessiondb.stores.base import Query
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import ManualClock
from sessiondb.timers import Timers, Work

HERE = Path(__file__).parent
OLD, NEW = KeyRing.generate(), KeyRing.generate()
[OLD_ID], [NEW_ID] = KeyRing(OLD).ids, KeyRing(NEW).ids


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return new_url(request.param, tmp_path)


@asynccontextmanager
async def database(url: Any, *keys: str, **settings: Any) -> AsyncIterator[SessionDB]:
    async with SessionDB(url, keys=KeyRing(*keys), sweep_every=None, timeout=20, **settings) as db:
        yield db


async def keys_used(url: str) -> dict[str, int]:
    """How many values in the database name each key."""
    store = open_store(url)
    await store.open()
    used: dict[str, int] = {}
    try:
        async with SessionDB(url, sweep_every=None) as db:
            query = Query(now=db.runtime.now(), caps=db.runtime.caps, state="all", limit=10_000)
        for record in (await store.find(query)).records:
            for value in codec.split(record.data).values():
                key_id = bytes(value)[6:14].decode()
                used[key_id] = used.get(key_id, 0) + 1
    finally:
        await store.close()
    return used


async def made(url: str, count: int, key: str = OLD) -> list[str]:
    """The tokens of new sessions."""
    async with database(url, key) as db:
        issued = [await db.create(f"user{n % 7}", {"n": n, "cart": ["tea"]}) for n in range(count)]
        ended = await db.create("gone", {"n": -1})
        await db.revoke(ended.session.sid)
    return [one.token for one in issued]


@pytest.mark.security("K4")
async def test_every_session_gets_the_new_key(url: str) -> None:
    tokens = await made(url, 23)
    async with database(url, NEW, OLD) as db:
        seen, after, passes = 0, None, 0
        while True:
            done = await db.reencrypt(after=after, limit=5)
            assert done.examined <= 5 and done.left == done.unreadable == 0
            seen += done.rewritten
            passes += 1
            after = done.next
            if after is None:
                break
        assert seen == 23 and passes >= 5
        again = await db.reencrypt()
        assert again.rewritten == 0 and dict(again.keys) == {NEW_ID: 23}
    assert await keys_used(url) == {NEW_ID: 46}
    async with database(url, NEW) as db:
        for n, token in enumerate(tokens):
            async with db.session(token) as session:
                assert (session.user_id, session["n"], session["cart"]) == (f"user{n % 7}", n, ["tea"])


@pytest.mark.security("K4", "S1")
async def test_no_write_is_lost_to_it(url: str) -> None:
    """Counters, other keys and removals land as without it, also from a worker that still has the old key first."""
    tokens = await made(url, 4)
    async with database(url, NEW, OLD) as here, database(url, OLD, NEW) as there:
        wanted: asyncio.Queue[SessionDB | None] = asyncio.Queue()

        async def rotate() -> int:
            """As often as somebody has written: were it more often, nobody could ever compare and set."""
            rewritten = 0
            while (db := await wanted.get()) is not None:
                rewritten += (await db.reencrypt()).rewritten
            return rewritten

        async def count(db: SessionDB, token: str) -> None:
            while True:
                try:
                    async with db.session(token) as session:
                        await session.modify(lambda data: data.update(n=data["n"] + 1))
                    return
                except StoreError as error:
                    # On a busy machine others may come first every time; then nothing has been written.
                    if error.outcome != "conflict":
                        raise

        async def use(db: SessionDB, token: str, name: str) -> None:
            for step in range(12):
                await count(db, token)
                # Each wants its own key first, so every pass has all to do again.
                wanted.put_nowait(here if step % 2 else there)
                async with db.session(token) as session:
                    session[f"{name}{step}"] = step
                    session.pop(f"{name}{step - 1}", None)

        rotating = asyncio.create_task(rotate())
        await asyncio.gather(
            *(use(db, token, name) for token in tokens for db, name in ((here, "here"), (there, "there")))
        )
        wanted.put_nowait(None)
        assert await rotating > 10
        for n, token in enumerate(tokens):
            async with here.session(token) as session:
                assert session == {"n": n + 24, "cart": ["tea"], "here11": 11, "there11": 11}


async def test_a_session_that_ends_meanwhile_stays_ended(url: str) -> None:
    tokens = await made(url, 30)
    async with database(url, NEW, OLD) as db:
        await asyncio.gather(db.reencrypt(), *(db.revoke_all(f"user{n}") for n in range(7)))
        for token in tokens:
            async with db.session(token) as session:
                assert session.user_id is None
        assert (await db.stats()).live == 0
    assert await keys_used(url) == {}


async def test_a_killed_walk_is_taken_up_again(url: str) -> None:
    tokens = await made(url, 40)
    command = [sys.executable, str(HERE / "reencrypting.py"), url, NEW, OLD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
        finally:
            process.kill()
    rewritten, after = line.split()
    assert rewritten == "4", "the newest of the five has ended"
    async with database(url, NEW, OLD) as db:
        # From where it was, and from the beginning: both find all the rest, and neither does anything twice.
        on = await db.reencrypt(after=after)
        rest = await db.reencrypt()
        assert rest.rewritten + on.rewritten <= 36
        assert dict((await db.reencrypt()).keys) == {NEW_ID: 40}
        for token in tokens:
            async with db.session(token) as session:
                assert session["cart"] == ["tea"]


async def test_a_walk_tells_what_it_cannot_read(url: str) -> None:
    await made(url, 3)
    lost = KeyRing.generate()
    await made(url, 2, lost)
    async with database(url, NEW, OLD) as db:
        done = await db.reencrypt()
        assert (done.rewritten, done.unreadable) == (3, 2)
        assert dict(done.keys) == {NEW_ID: 3, KeyRing(lost).ids[0]: 2}
    # What cannot be read was not touched: with its key it is all there.
    async with database(url, NEW, lost) as db:
        assert (await db.reencrypt()).rewritten == 2


async def test_without_keys_there_is_nothing_to_do() -> None:
    async with SessionDB("memory://") as db:
        with pytest.raises(ConfigurationError, match="keys=KeyRing"):
            await db.reencrypt()


# -- in the background ------------------------------------------------------------------------------------


class Workers:
    """Several workers on one database, whose background walks run when a test says so."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.writes = 0

    def worker(self, *keys: str, **settings: Any) -> SessionDB:
        return SessionDB(self.store, keys=KeyRing(*keys, **settings), sweep_every=None, clock=self.clock)

    def walker(self, db: SessionDB) -> Reencryption:
        reencryption = db.runtime.reencryption
        assert reencryption is not None
        return reencryption

    async def keys_of(self, sid: str) -> set[str]:
        [record] = await self.store.load([Sid(sid)])
        assert record is not None
        return {bytes(value)[6:14].decode() for value in codec.split(record.data).values()}


async def test_the_app_does_it_by_itself_and_then_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    async with workers.worker(OLD) as db:
        sids = [(await db.create("ann", {"n": n})).session.sid for n in range(250)]
    looked = 0
    find = workers.store.find

    async def counting(query: Query) -> Any:
        nonlocal looked
        looked += 1
        return await find(query)

    monkeypatch.setattr(workers.store, "find", counting)
    async with workers.worker(NEW, OLD) as db:
        walker = workers.walker(db)
        await walker.in_background()
        assert looked == 3
        assert {key for sid in sids for key in await workers.keys_of(sid)} == {NEW_ID}
        await walker.in_background()  # nothing is left: seen once more, and that was the last time
        assert looked == 6
        await walker.in_background()
        await walker.in_background()
        assert looked == 6
    # A ring of one key has nothing to do at all.
    async with workers.worker(NEW) as db:
        await workers.walker(db).in_background()
        assert looked == 6


async def test_one_worker_at_a_time_has_the_turn_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    async with workers.worker(OLD) as db:
        sids = [(await db.create("ann", {"n": n})).session.sid for n in range(250)]
    async with workers.worker(NEW, OLD) as one, workers.worker(NEW, OLD) as other:
        first, second = workers.walker(one), workers.walker(other)
        passed = asyncio.Event()
        one_pass = first.one_pass

        async def once(*arguments: Any, **more: Any) -> Any:
            if passed.is_set():
                await asyncio.Event().wait()  # as a worker that has died
            passed.set()
            workers.clock.advance(seconds=100)  # so long that it has to say that it is alive
            return await one_pass(*arguments, **more)

        monkeypatch.setattr(first, "one_pass", once)
        task = asyncio.create_task(first.in_background())
        await passed.wait()
        async with asyncio.timeout(60):
            while json.loads(await workers.store.recall("reencryption") or "{}").get("after") is None:
                await asyncio.sleep(0.01)
        done = [sid for sid in sids if await workers.keys_of(sid) == {NEW_ID}]
        assert len(done) == 100
        await second.in_background()
        assert len([sid for sid in sids if await workers.keys_of(sid) == {NEW_ID}]) == 100, "it is not its turn"
        task.cancel()
        workers.clock.advance(seconds=121)
        starts: list[Any] = []
        second_pass = second.one_pass

        async def noting(after: Any = None, *arguments: Any, **more: Any) -> Any:
            starts.append(after)
            return await second_pass(after, *arguments, **more)

        monkeypatch.setattr(second, "one_pass", noting)
        await second.in_background()
        assert starts[0] is not None and len(starts) == 2, "it goes on where the other was"
        assert {key for sid in sids for key in await workers.keys_of(sid)} == {NEW_ID}


async def test_the_last_worker_that_gets_the_new_key_sees_to_the_rest() -> None:
    """While a fleet restarts one by one, those with the old key first go on writing with it."""
    workers = Workers()
    async with workers.worker(OLD, NEW) as late:
        early = await late.create("ann", {"n": 1})
        async with workers.worker(NEW, OLD) as first:
            for _ in range(3):
                await workers.walker(first).in_background()
            assert await workers.keys_of(early.session.sid) == {NEW_ID}
            after = await late.create("ann", {"n": 2})
            async with late.session(early.token) as session:
                session["m"] = 1
            assert await workers.keys_of(early.session.sid) == {NEW_ID, OLD_ID}
    workers.clock.advance(seconds=10)
    async with workers.worker(NEW, OLD) as last:
        for _ in range(3):
            await workers.walker(last).in_background()
        for issued in (early, after):
            assert await workers.keys_of(issued.session.sid) == {NEW_ID}


async def test_the_timer_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiondb.reencryption.EVERY", 0.01)
    workers = Workers()
    async with workers.worker(OLD) as db:
        sid = (await db.create("ann", {"n": 1})).session.sid
    async with workers.worker(NEW, OLD):
        async with asyncio.timeout(60):
            while await workers.keys_of(sid) != {NEW_ID}:
                await asyncio.sleep(0.01)


# -- the command ------------------------------------------------------------------------------------------


def run(*arguments: str, keys: str = "") -> Result:
    return CliRunner(env={"SESSIONDB_KEYS": keys}).invoke(app, arguments)


def test_the_command_says_which_key_may_go(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    asyncio.run(made(url, 12))
    done = run("reencrypt", url, keys=f"{NEW} {OLD}")
    assert done.exit_code == 0, done.output
    assert "12 written again" in done.output
    assert f"key {NEW_ID}: 12 sessions; new values are written so" in done.output
    assert f"key {OLD_ID}: not used any more; take it out" in done.output
    again = json.loads(run("reencrypt", url, "--json", keys=f"{NEW},{OLD}").stdout)
    assert again["rewritten"] == 0
    assert [(use["key"], use["sessions"]) for use in again["keys"]] == [(NEW_ID, 12), (OLD_ID, 0)]
    without = run("reencrypt", url, keys=KeyRing.generate())
    assert without.exit_code == 1
    assert f"key {NEW_ID}: 12 sessions; it is not in the ring" in without.output
    assert asyncio.run(keys_used(url)) == {NEW_ID: 24}


def test_the_command_turns_encryption_on_and_off(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"

    async def plain() -> None:
        async with SessionDB(url, sweep_every=None) as db:
            await db.create("ann", {"cart": "needle"})

    asyncio.run(plain())
    path = tmp_path / "keys"
    path.write_text(NEW)
    path.chmod(0o600)
    assert run("reencrypt", url, "--keys", str(path)).exit_code == 1
    on = run("reencrypt", url, "--keys", str(path), "--plain", "accept")
    assert on.exit_code == 0 and "not encrypted: none any more" in on.output
    assert asyncio.run(keys_used(url)) == {NEW_ID: 1}
    off = run("reencrypt", url, "--keys", str(path), "--plain", "write")
    assert off.exit_code == 0 and f"key {NEW_ID}: not used any more" in off.output

    async def data() -> dict[str, Any]:
        async with SessionDB(url, sweep_every=None) as db:
            return (await db.sessions_of("ann"))[0].data

    assert asyncio.run(data()) == {"cart": "needle"}


def test_the_command_makes_and_names_keys(tmp_path: Path) -> None:
    made_ = run("keys", "generate").output.strip()
    assert run("keys", "list", keys=f"{made_} {OLD}").output.split() == [*KeyRing(made_, OLD).ids]
    for arguments, keys in ((("keys", "list"), ""), (("keys", "list"), "changeme"), (("reencrypt",), "")):
        refused = run(*arguments, keys=keys)
        assert refused.exit_code == 2
        assert "sessiondb keys generate" in refused.output
    assert run("reencrypt", "--plain", "maybe", keys=OLD).exit_code == 2


def test_the_other_commands_need_no_key(tmp_path: Path) -> None:
    """They show nothing of what is encrypted, and work for people who may not read it."""
    url = f"sqlite:///{tmp_path}/sessions.db"
    asyncio.run(made(url, 3))
    listed = run("list", "--user", "user0", "--url", url)
    assert listed.exit_code == 0 and "sdb1." not in listed.output
    [one] = json.loads(run("list", "--user", "user0", "--url", url, "--json").stdout)
    assert one["user_id"] == "user0"
    assert run("stats", url).exit_code == 0
    assert run("sweep", url).exit_code == 0
    assert run("doctor", url).exit_code == 0
    assert run("revoke", "--user", "user0", "--url", url).exit_code == 0


@pytest.mark.security("K4")
async def test_a_background_walk_on_every_database(url: str) -> None:
    tokens = await made(url, 130)
    async with database(url, NEW, OLD) as db:
        reencryption = db.runtime.reencryption
        assert reencryption is not None
        await reencryption.in_background()
        assert await keys_used(url) == {NEW_ID: 260}
        async with db.session(tokens[0]) as session:
            assert session["n"] == 0


async def test_keys_are_fetched_when_the_database_opens() -> None:
    """A key service that is away is as a database that is away; what it says wrongly stops the start."""
    answer: Any = RuntimeError("the service is away")

    async def fetch() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    db = SessionDB("memory://", keys=KeyRing.from_callable(fetch), sweep_every=None)
    with pytest.raises(StoreUnavailable, match="RuntimeError"):
        await db.open()
    await db.close()
    answer = ["changeme"]
    with pytest.raises(ConfigurationError):
        await SessionDB("memory://", keys=KeyRing.from_callable(fetch), sweep_every=None).open()
    answer = [NEW]
    async with SessionDB("memory://", keys=KeyRing.from_callable(fetch), sweep_every=None) as db:
        issued = await db.create("ann", {"n": 1})
        async with db.session(issued.token) as session:
            assert session["n"] == 1


async def test_keys_are_read_again_on_a_schedule(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(OLD)
    path.chmod(0o600)
    ring = KeyRing.from_file(path, refresh_every=1)
    started: dict[str, Any] = {}

    class Noting(Timers):
        def every(self, name: str, pause: Callable[[], float], work: Work) -> None:
            started[name] = (pause(), work)

    async with SessionDB("memory://", keys=ring, sweep_every=None) as db:
        reencryption = db.runtime.reencryption
        assert reencryption is not None
        reencryption.schedule(Noting(lambda error: None))
        every, refresh = started["keys"]
        assert every == 1
        path.write_text(f"{NEW}\n{OLD}")
        await refresh()
        assert ring.ids == (NEW_ID, OLD_ID)
        path.write_text("half a k")
        await refresh()  # told in the log, and the keys stay
        assert ring.ids == (NEW_ID, OLD_ID)
