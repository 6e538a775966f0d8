"""What the guide says of failures, row by row, on each database: who is told what, and that nothing is half done."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from lines import Line, line_to

from databases import KINDS
from harness import MINUTE, Action, Browser, Reply, Shop, put, unawaited
from sessiondb import EndReason, Policy, Session, SessionInfo, StoreError, StoreUnavailable, open_store
from sessiondb.core.token import Sid
from sessiondb.testing import ManualClock


class Site:
    """A shop whose database is behind a line."""

    def __init__(self, kind: str, shop: Shop, line: Line) -> None:
        self.kind = kind
        self.shop = shop
        self.line = line
        self.db = shop.db

    async def info(self, browser: Browser) -> SessionInfo:
        found = await self.db.get(browser.sid)
        assert found is not None
        return found

    async def lose(self, browser: Browser) -> None:
        """Cut, and wait until it is noticed: SQLite looks now and then whether its file is still there."""
        self.line.cut()

        async def fails() -> bool:
            return (await browser.twin().do(dict)).status == 503

        await self.until(fails)

    async def mended(self, works: Callable[[], Awaitable[bool]]) -> None:
        """Mend, and wait until it works by itself."""
        self.line.mend()
        await self.until(works)

    async def until(self, works: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await works():
                await asyncio.sleep(0.02)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@asynccontextmanager
async def open_site(kind: str, folder: Path, *, patience: float = 0.2, **settings: Any) -> AsyncIterator[Site]:
    settings = {"timeout": 5.0, **settings}
    async with line_to(kind, folder, patience) as line:
        shop = Shop(ManualClock(), open_store(line.url), **settings)  # type: ignore[arg-type]
        # The background is written when a test says so.
        with mock.patch("sessiondb.background.FLUSH_EVERY", 3600.0):
            async with shop.http:
                await shop.db.open()
                try:
                    yield Site(kind, shop, line)
                finally:
                    line.mend()
                    await shop.db.close()
    gc.collect()  # what a driver has dropped is found here, not by another test


def is_unavailable(reply: Reply) -> bool:
    return (
        reply.status == 503
        and int(reply.headers["retry-after"]) >= 1
        and reply.headers["cache-control"] == "no-store"
        and reply.cookie is None
    )


# -- load fails -----------------------------------------------------------------------------------------------


@pytest.mark.security("S5")
async def test_a_load_that_fails_is_a_503_and_whoever_needs_no_session_is_served(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site(kind, tmp_path) as site:
        shop = site.shop
        browser = await shop.logged_in()
        with caplog.at_level(logging.INFO, "sessiondb"):
            await site.lose(browser)
            for action in (dict, put(a=1), unawaited(lambda s: s.login("ann")), unawaited(lambda s: s.logout())):
                assert is_unavailable(await browser.do(action))
            for reply in (
                await browser.ignore(),
                await shop.browser().do(dict),
                await shop.browser("no.tok.en").do(dict),
            ):
                assert (reply.status, reply.cookie) == (200, None)
            told = Counter(record.getMessage() for record in caplog.records)
            assert max(told.values()) == 1, told

            async def works() -> bool:
                return (await browser.do(dict)).status == 200

            await site.mended(works)
        assert await browser.user() == "ann"
        assert any("works again" in record.getMessage() for record in caplog.records)


@pytest.mark.security("S5")
async def test_a_load_that_fails_can_be_answered_anonymously_and_never_with_what_was(kind: str, tmp_path: Path) -> None:
    async with open_site(kind, tmp_path, on_load_error="anonymous") as site:
        browser = await site.shop.logged_in()
        await browser.do(put(cart=["tea"]))
        site.line.cut()

        async def anonymous() -> bool:
            reply = await browser.do(lambda session: [session.user_id, dict(session)])
            assert reply.cookie is None
            return bool(reply.result == [None, {}])

        await site.until(anonymous)
        assert is_unavailable(await browser.do(put(a=1)))

        async def works() -> bool:
            return await browser.user() == "ann"

        await site.mended(works)
        assert await browser.read() == {"cart": ["tea"]}


# -- commit fails ---------------------------------------------------------------------------------------------

COMMITS: dict[str, Action] = {
    "keys": put(cart=["milk"], more=1),
    "clear": lambda session: session.clear(),
    "rotate": unawaited(lambda session: session.rotate()),
    "logout": unawaited(lambda session: session.logout()),
    "login again": unawaited(lambda session: session.login("ann")),
    "login as another": unawaited(lambda session: session.login("bob")),
}


@pytest.mark.security("S5", "S6")
async def test_a_commit_that_fails_is_a_503_before_the_first_byte_and_nothing_is_half_written(
    kind: str, tmp_path: Path
) -> None:
    async with open_site(kind, tmp_path) as site:
        shop = site.shop
        for name, action in COMMITS.items():
            browser = await shop.logged_in()
            await browser.do(put(cart=["tea"]))
            before = await site.info(browser)

            def and_lose(session: Session, action: Action = action) -> None:
                action(session)
                site.line.stop_writes()

            assert is_unavailable(await browser.do(and_lose)), name

            async def works(browser: Browser = browser) -> bool:
                return (await browser.do(dict)).status == 200

            await site.mended(works)
            await shop.flush()
            after = await site.info(browser)
            assert (after.user_id, after.ended_at, after.data) == ("ann", None, {"cart": ["tea"]}), name
            assert after.authenticated_at == before.authenticated_at, name
            assert await browser.user() == "ann", name
            # Nobody holds the token of what may have been begun.
            assert await site.db.sessions_of("bob") == [], name
            await site.db.revoke_all("ann")


@pytest.mark.security("S5")
async def test_a_new_session_that_cannot_be_stored_sets_no_cookie_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    async with open_site(kind, tmp_path) as site:
        known = await site.shop.logged_in("carl")
        site.line.stop_writes()
        visitor = site.shop.browser()
        for action in (put(a=1), unawaited(lambda session: session.login("ann"))):
            assert is_unavailable(await visitor.do(action))
        assert visitor.token is None

        async def works() -> bool:
            return (await known.do(dict)).status == 200

        await site.mended(works)
        await site.shop.flush()
        assert await site.db.sessions_of("ann") == []
        assert (await visitor.do(put(a=1))).cookie == "set"


# -- touch fails ----------------------------------------------------------------------------------------------


async def test_a_touch_that_fails_is_counted_and_written_with_a_later_batch(kind: str, tmp_path: Path) -> None:
    async with open_site(kind, tmp_path) as site:
        shop = site.shop
        browser = await shop.logged_in()
        before = await site.info(browser)
        shop.clock.advance(2 * MINUTE)
        assert (await browser.do(dict)).status == 200
        background = site.db.runtime.background
        site.line.stop_writes()
        await shop.flush()
        assert shop.db.counters["background_write_failures"] >= 1
        assert background.waiting.touches == 1

        async def works() -> bool:
            await shop.flush()
            return background.waiting.touches == 0

        await site.mended(works)
        found = await site.db.get(browser.sid)
        assert found is not None
        # Not by two minutes: the store's own clock has the last word.
        assert found.last_seen_at > before.last_seen_at
        assert shop.db.counters["dropped_touches"] == 0


# -- revoke or limit fails ------------------------------------------------------------------------------------


@pytest.mark.security("S5")
async def test_a_revoke_that_fails_is_raised_and_lands_when_it_is_repeated(kind: str, tmp_path: Path) -> None:
    async with open_site(kind, tmp_path) as site:
        browser = await site.shop.logged_in()
        site.line.stop_writes()
        for revoke in (
            lambda: site.db.revoke(browser.sid),
            lambda: site.db.revoke_all("ann"),
            lambda: site.db.sweep(),
        ):
            with pytest.raises(StoreUnavailable):
                await revoke()  # type: ignore[no-untyped-call]

        async def works() -> bool:
            try:
                return await site.db.revoke(browser.sid)
            except StoreUnavailable:
                return False

        await site.mended(works)
        assert await browser.user() is None


@pytest.mark.security("S5", "L9")
async def test_a_limit_that_cannot_be_enforced_admits_nobody(kind: str, tmp_path: Path) -> None:
    async with open_site(kind, tmp_path, policy=Policy(per_user=1, on_limit="refuse")) as site:
        shop, store = site.shop, site.shop.memory
        first = await shop.logged_in()
        admit = type(store).admit

        async def too_late(*arguments: Any) -> Any:
            # The session is written; before it is admitted the database goes.
            site.line.stop_writes()
            return await admit(*arguments)

        with mock.patch.object(type(store), "admit", too_late):
            assert is_unavailable(await shop.browser().do(unawaited(lambda session: session.login("ann"))))

        async def works() -> bool:
            return (await first.do(dict)).status == 200

        await site.mended(works)

        async def only_the_first() -> bool:
            await shop.flush()
            return [one.sid for one in await site.db.sessions_of("ann")] == [first.sid]

        # Nobody was given its token; its end was written down and lands with the next batch.
        await site.until(only_the_first)


# -- a record that cannot be decoded --------------------------------------------------------------------------


async def spoil(site: Site, sid: Sid) -> None:
    """What a person, a script or a failing disk may do to the data of a session."""
    store: Any = site.shop.memory
    if site.kind == "sqlite":
        connection = sqlite3.connect(store.path)
        connection.execute("UPDATE sessiondb_sessions SET data = '[1]'")
        connection.commit()
        connection.close()
    elif site.kind == "postgresql":
        async with store._connection() as connection:
            await connection.execute(f"UPDATE {store._sql.sessions} SET data = '[1]'")
    elif site.kind == "mysql":
        async with store._connection() as connection:
            await connection.run([f"UPDATE {store._sql.sessions} SET data = '[1]'"])
    elif site.kind == "mongodb":
        await store._collections.current().sessions.update_many({}, {"$set": {"data": "no document"}})
    else:
        key = store.keys.session(sid)
        await store.run([(key, ("HSET", key, "d:cart", "{broken"))])


async def test_a_session_whose_data_cannot_be_read_is_quarantined_and_its_holder_anonymous(
    kind: str, tmp_path: Path
) -> None:
    async with open_site(kind, tmp_path) as site:
        browser = await site.shop.logged_in()
        await browser.do(put(cart=["tea"]))
        sid = browser.sid
        await spoil(site, sid)
        for _ in range(2):
            reply = await browser.do(lambda session: [session.user_id, dict(session)])
            assert (reply.result, reply.cookie) == ([None, {}], None)
        [_, event] = (await site.db.events(type="session_quarantined")).events
        assert event.sid == sid
        # Its owner can see it and end it.
        assert [one.sid for one in await site.db.sessions_of("ann")] == [sid]
        assert await site.db.revoke(sid)
        assert (await site.info(site.shop.browser(browser.token))).end_reason == EndReason.REVOKED


# -- the database is slow -------------------------------------------------------------------------------------


@pytest.mark.security("S5")
async def test_a_database_that_does_not_answer_is_a_503_in_time_and_is_used_again(kind: str, tmp_path: Path) -> None:
    async with open_site(kind, tmp_path, timeout=0.5, patience=20) as site:
        browser = await site.shop.with_cart(a=0)
        site.line.stall()
        # Awaiting them would hang the test if the deadline did not hold.
        replies = await asyncio.gather(*(browser.twin().do(put(a=number)) for number in range(1, 20)))
        assert all(is_unavailable(reply) for reply in replies)
        assert (await browser.ignore()).status == 200
        with pytest.raises(StoreError):
            await site.db.revoke(browser.sid)

        # The writes that were given up may still land, and the revoke with them; whoever comes back is told.
        async def answered() -> bool:
            return (await browser.do(dict)).status == 200

        await site.mended(answered)
        fresh = await site.shop.with_cart(b=1)
        assert await fresh.read() == {"b": 1}


# -- shutdown -------------------------------------------------------------------------------------------------


async def test_closing_writes_the_touches_and_events_that_wait(kind: str, tmp_path: Path) -> None:
    async with open_site(kind, tmp_path) as site:
        shop = site.shop
        browser = await shop.logged_in()
        await site.db.revoke_all("somebody")
        shop.clock.advance(2 * MINUTE)
        await browser.do(dict)
        assert shop.db.runtime.background.waiting == (1, 0, 1)
        await site.db.close()
        assert [event.user_id for event in (await site.db.events(type="user_revoked")).events] == ["somebody"]
        assert shop.db.counters["lost_events"] == 0


async def test_closing_without_a_database_is_bounded_and_tells_what_is_lost(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site(kind, tmp_path, timeout=0.5) as site:
        shop = site.shop
        browser = await shop.logged_in()
        await site.db.revoke_all("somebody")
        shop.clock.advance(2 * MINUTE)
        await browser.do(dict)
        site.line.stop_writes()
        async with asyncio.timeout(20):
            await site.db.close()
        assert (shop.db.counters["lost_touches"], shop.db.counters["lost_events"]) == (1, 1)
        assert "closed before 1 touches, 0 ends and 1 events" in caplog.text
