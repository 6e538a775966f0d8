"""Pages served from a near cache: what it may answer, and what the database is asked all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from rotations import HOUR, Simulation, Visit
from sessiondb import ConfigurationError, Cookie, NearCache, Policy, Session, SessionDB, SessionMiddleware
from sessiondb.core.presented import Presented
from sessiondb.opening import _judge
from sessiondb.session import new_session
from sessiondb.state import State
from sessiondb.stores.memory import MemoryStore
from sessiondb.testing import CountingStore, Fail, FaultyStore, ManualClock
from sessiondb.web.assurance import RequireLevel


class Worker:
    """One process on the shared database. Its near cache goes by the clock of the test."""

    def __init__(self, store: Any, clock: ManualClock, **settings: Any) -> None:
        self.faults = FaultyStore(store)
        self.calls = CountingStore(self.faults)
        settings = {"near_cache": NearCache(staleness=1.0), **settings}
        self.db = SessionDB(self.calls, clock=clock, sweep_every=None, timeout=60, breaker=None, **settings)
        self.clock = clock
        self.action: Callable[[Session], Any] = lambda session: [session.user_id, dict(session)]
        self.app = SessionMiddleware(self._app, self.db, cookie=Cookie(secure=False))

    async def open(self) -> None:
        await self.db.open()
        if self.db.runtime.near is not None:
            self.db.runtime.near.monotonic = lambda: self.clock.now / 1e6

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        session: Any = Request(scope).session
        result = self.action(session)
        if asyncio.iscoroutine(result):
            result = await result
        await JSONResponse(result)(scope, receive, send)

    async def ask(self, browser: Browser, action: Callable[[Session], Any] | None = None, method: str = "GET") -> Any:
        """What ``action`` returns, or the data; the browser keeps the cookie that comes back."""
        import json

        self.action = action or (lambda session: [session.user_id, dict(session)])
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"shop.test")] + [(b"cookie", f"sid={value}".encode()) for value in browser.tokens]
        scope = {"type": "http", "method": method, "path": "/", "headers": headers, "scheme": "https"}
        await self.app({**scope, "query_string": b""}, None, send)  # type: ignore[arg-type]
        for name, value in sent[0]["headers"]:
            if name == b"set-cookie":
                browser.tokens = [value.decode().partition(";")[0].removeprefix("sid=")]
        assert sent[0]["status"] == 200, sent
        return json.loads(sent[1]["body"])

    def loads(self) -> int:
        return self.calls.calls["load"]

    @property
    def hits(self) -> int:
        return self.db.counters["near_hits"]


class Browser:
    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)


@asynccontextmanager
async def workers(count: int = 2, **settings: Any) -> AsyncIterator[tuple[list[Worker], ManualClock]]:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    made = [Worker(store, clock, **settings) for _ in range(count)]
    with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
        for one in made:
            await one.open()
        try:
            yield made, clock
        finally:
            for one in made:
                await one.db.close()


async def test_a_page_is_served_without_the_database() -> None:
    async with workers(1) as ([worker], clock):
        browser = Browser((await worker.db.create("ann", {"n": 1})).token)
        assert await worker.ask(browser) == ["ann", {"n": 1}]
        before = worker.loads()
        worker.faults.down = True
        for _ in range(3):
            assert await worker.ask(browser) == ["ann", {"n": 1}]
        worker.faults.down = False
        assert worker.loads() == before
        assert worker.hits == 3
        clock.advance(1.001)
        await worker.ask(browser)
        assert worker.loads() == before + 1


async def test_who_is_about_to_write_sees_what_is_stored() -> None:
    """Else what was made of an old value would take the place of a newer one, which nobody was racing with."""
    async with workers() as ([one, other], _):
        browser = Browser((await one.db.create("ann", {"cart": []})).token)
        add: Callable[[str], Any] = lambda what: lambda session: session["cart"].append(what)  # noqa: E731
        for item in ("tea", "jug", "cup", "pot"):
            for worker in (one, other):
                await worker.ask(browser)
                assert worker.db.runtime.near is not None
                assert worker.db.runtime.near.entries == 1
            await one.ask(browser, add(item), "POST")
            await other.ask(browser, add(f"{item} too"), "POST")
        expected = [what for item in ("tea", "jug", "cup", "pot") for what in (item, f"{item} too")]
        assert (await other.ask(browser, method="POST"))[1]["cart"] == expected


async def test_modify_reads_again_what_came_from_the_cache() -> None:
    async with workers() as ([one, other], _):
        browser = Browser((await one.db.create("ann", {"n": 0})).token)

        async def count(session: Session) -> int:
            await session.modify(lambda data: data.update(n=data["n"] + 1))
            return int(session["n"])

        for expected in range(1, 9, 2):
            await one.ask(browser)
            await other.ask(browser)
            assert await one.ask(browser, count) == expected
            assert await other.ask(browser, count) == expected + 1
        assert one.hits + other.hits > 4


async def test_a_page_that_writes_other_keys_loses_nobodys() -> None:
    async with workers() as ([one, other], clock):
        browser = Browser((await one.db.create("ann", {})).token)
        await one.ask(browser)
        await other.ask(browser)
        await one.ask(browser, lambda session: session.update(a=1))
        await other.ask(browser, lambda session: session.update(b=2))
        clock.advance(2)
        assert await one.ask(browser) == ["ann", {"a": 1, "b": 2}]


async def test_what_this_process_has_ended_is_not_served() -> None:
    async with workers(1) as ([worker], _):
        db = worker.db
        for end in (
            lambda sid: db.revoke(sid),
            lambda sid: db.revoke_all("ann"),
            lambda sid: db.lock_user("ann"),
            lambda sid: db.revoke_where(user_id="ann"),
        ):
            issued = await db.create("ann")
            browser = Browser(issued.token)
            await worker.ask(browser)
            assert await worker.ask(browser) == ["ann", {}]
            await end(issued.session.sid)
            assert await worker.ask(browser) == [None, {}]
            await db.unlock_user("ann")


async def test_another_event_loop_of_this_process_forgets_it_too() -> None:
    async with workers(1) as ([worker], _):
        issued = await worker.db.create("ann")
        browser = Browser(issued.token)

        def elsewhere() -> None:
            async def revoke() -> None:
                await worker.db.revoke(issued.session.sid)
                await worker.db.close()

            asyncio.run(revoke())

        await worker.ask(browser)
        assert await worker.ask(browser) == ["ann", {}]
        await asyncio.to_thread(elsewhere)
        assert await worker.ask(browser) == [None, {}]


async def test_an_old_record_refuses_nobody() -> None:
    """A session that was signed in to again, stepped up or rotated elsewhere is looked up for its new token."""
    verbs: list[Callable[[Session], Any]] = [
        lambda session: session.rotate() and None,
        lambda session: session.step_up(("otp",), level=2) and None,
        lambda session: session.login("ann", methods=("pwd",)) and None,
    ]
    for verb in verbs:
        async with workers() as ([one, other], _):
            browser = Browser((await one.db.create("ann")).token)
            await one.ask(browser)
            await other.ask(browser)
            old = Browser(*browser.tokens)
            await one.ask(browser, verb, "POST")
            assert browser.tokens != old.tokens
            assert (await other.ask(browser))[0] == "ann"
            assert other.db.counters["near_doubted"] == 1
            await other.db.runtime.background.flush()
            assert (await one.ask(browser))[0] == "ann"
            assert one.db.counters["authn_token_reuse"] == other.db.counters["authn_token_reuse"] == 0


async def test_a_level_that_was_proved_at_another_worker_counts_at_once() -> None:
    required = RequireLevel(2)
    async with workers() as ([one, other], _):
        browser = Browser((await one.db.create("ann", level=1)).token)
        await other.ask(browser)
        await one.ask(browser, lambda session: session.step_up(("otp",), level=2) and None, "POST")
        assert await other.ask(browser, lambda session: required._check(session, None)) is None  # type: ignore[arg-type]


async def test_a_session_that_others_use_does_not_expire_here() -> None:
    async with workers(policy=Policy(idle=100), near_cache=NearCache(staleness=60)) as ([one, other], clock):
        issued = await one.db.create("ann")
        browser = Browser(issued.token)
        clock.advance(50)
        await other.ask(browser)  # held from now on, last seen 50 s ago
        await one.ask(browser)
        await one.db.runtime.background.flush()
        clock.advance(55)
        assert (await other.ask(browser))[0] == "ann"
        await other.db.runtime.background.flush()
        info = await one.db.get(issued.session.sid)
        assert info is not None
        assert info.ended_at is None
        assert other.db.counters["session_ended"] == 0


async def test_a_hit_is_use_of_the_session() -> None:
    async with workers(1, near_cache=NearCache(staleness=60)) as ([worker], clock):
        issued = await worker.db.create("ann")
        browser = Browser(issued.token)
        await worker.ask(browser)
        clock.advance(59)
        await worker.ask(browser)
        clock.advance(2)  # the touch is due
        await worker.ask(browser)
        await worker.ask(browser)
        assert worker.db.runtime.background.waiting.touches == 1
        await worker.db.runtime.background.flush()
        info = await worker.db.get(issued.session.sid)
        assert info is not None
        assert info.last_seen_at == clock.now
        for _ in range(3):
            await worker.ask(browser)
        assert worker.db.runtime.background.waiting.touches == 0


async def test_somebody_who_impersonates_is_looked_up() -> None:
    async with workers() as ([one, other], _):
        admin = await one.db.create("root")
        browser = Browser(admin.token)

        async def impersonate(session: Session) -> None:
            await session.impersonate("bob")

        await one.ask(browser, impersonate, "POST")
        for worker in (one, other):
            await worker.ask(browser)
            assert (await worker.ask(browser))[0] == "bob"
        await one.db.revoke(admin.session.sid)
        assert (await other.ask(browser))[0] is None


async def test_two_cookies_are_looked_up() -> None:
    async with workers(1) as ([worker], _):
        first, second = [(await worker.db.create(user)).token for user in ("ann", "bob")]
        for token in (first, second):
            await worker.ask(Browser(token))
        before = worker.loads()
        assert (await worker.ask(Browser(first, second)))[0] is None
        assert worker.loads() == before + 1


async def test_a_load_that_fails_leaves_nothing() -> None:
    async with workers(1) as ([worker], _):
        browser = Browser((await worker.db.create("ann")).token)
        worker.faults.next("load", Fail())
        with pytest.raises(AssertionError, match="503"):
            await worker.ask(browser)
        assert (await worker.ask(browser))[0] == "ann"


async def test_without_staleness_nothing_is_kept() -> None:
    async with workers(1, near_cache=NearCache(staleness=0)) as ([worker], _):
        browser = Browser((await worker.db.create("ann")).token)
        before = worker.loads()
        for _ in range(3):
            await worker.ask(browser)
        assert worker.loads() == before + 3
        assert worker.db.runtime.near is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_entries": 0}, "max_entries"),
        ({"max_entries": 1.5}, "max_entries"),
        ({"max_entries": True}, "max_entries"),
        ({"max_bytes": 100}, "max_bytes"),
        ({"staleness": -1}, "staleness"),
        ({"staleness": 0.001}, "staleness"),
        ({"staleness": 61}, "staleness"),
        ({"staleness": float("nan")}, "staleness"),
        ({"staleness": "1"}, "staleness"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_stop_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        NearCache(**settings)


def test_the_setting_is_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"near_cache=NearCache\(\.\.\.\)"):
        SessionDB("memory://", near_cache=True)  # type: ignore[arg-type]


# -- rotation ---------------------------------------------------------------------------------------------------


class TwoWorkers(Simulation):
    """Each request goes to one of the workers, by chance."""

    def __init__(self, made: list[Worker], clock: ManualClock, token: str, seed: int) -> None:
        super().__init__(made[0].db, clock, token, seed)
        apps = [SessionMiddleware(self._page, worker.db, cookie=Cookie(secure=False)) for worker in made]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self.random.choice(apps)(scope, receive, send)

        self._app = app  # type: ignore[assignment]
        self.workers = made


async def browse_for_hours(seed: int) -> TwoWorkers:
    settings = {"policy": Policy(rotate_every=600), "near_cache": NearCache(staleness=10)}
    async with workers(**settings) as (made, clock):
        token = (await made[0].db.create("ann")).token
        simulated = TwoWorkers(made, clock, token, seed)
        # Often enough within the bound.
        simulated.pauses = [(1_000_000, 8_000_000)] * 6 + simulated.pauses

        def check(visit: Visit) -> None:
            assert visit.user == "ann", "somebody honest was thrown out"

        simulated.on_visit = check
        simulated.browse(tabs=2)
        await simulated.run(HOUR)
        for worker in made:
            await worker.db.runtime.background.flush()
        events = (await made[0].db.events(limit=10_000)).events
        assert [event.type for event in events if event.type == "authn_token_reuse"] == [], "somebody honest is a thief"
        [info] = await made[0].db.sessions_of("ann", include_ended=True)
        assert info.ended_at is None, "somebody honest was thrown out"
        return simulated


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_honest_is_thrown_out_by_what_a_worker_has_held(seed: int) -> None:
    simulated = await browse_for_hours(seed)
    counters = [worker.db.counters for worker in simulated.workers]
    assert sum(one["session_renewed"] for one in counters) == simulated.seen["rotations"]
    assert simulated.seen["rotations"] >= 3
    for one in counters:
        assert one["near_hits"] > 100
        assert one["near_doubted"] > 0


def believing(state: State, presented: Presented) -> Session | None:
    """A bug: what an old record says is what is so."""
    near = state.runtime.near
    record = None if near is None else near.cached(presented.sid)
    if record is None:
        return None
    if _judge(state, record, presented) is None:
        return new_session(state)
    state.adopt(record, presented)
    return new_session(state)


@contextmanager
def a_bug() -> Iterator[None]:
    with mock.patch("sessiondb.web.middleware.open_near", believing):
        yield


async def test_a_cache_whose_records_decide_is_found_out() -> None:
    with a_bug(), pytest.raises(AssertionError):
        await test_an_old_record_refuses_nobody()
    with a_bug(), pytest.raises(AssertionError):
        await test_a_session_that_others_use_does_not_expire_here()
