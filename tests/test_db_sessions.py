"""Sessions outside requests: making, finding, listing and ending them; counts and the audit stream."""

from __future__ import annotations

from typing import Any

import pytest

from harness import DAY, HOUR, MINUTE, open_shop, put
from sessiondb import EventType, Issued, Policy, Session, SessionDataError
from sessiondb.core.record import EndReason

# -- create ---------------------------------------------------------------------------------------------------


async def test_a_session_made_outside_a_request_opens_in_one() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create("ann", {"cart": ["tea"]}, methods=["pwd"], ip="192.0.2.1", user_agent="Job/1")
        browser = shop.browser(issued.token)

        def tell(session: Session) -> list[Any]:
            return [
                session.sid,
                session.user_id,
                dict(session),
                session.auth.methods,
                session.client.ip,
                session.is_new,
            ]

        reply = await browser.do(tell)
        assert reply.result == [issued.session.sid, "ann", {"cart": ["tea"]}, ["pwd"], "192.0.2.1", True]
        assert issued.session.client.user_agent == "Job/1"
        assert issued.session.authenticated_at == shop.clock.now
        assert issued.session.data == {"cart": ["tea"]}


async def test_an_anonymous_session_can_be_made_too() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create()
        assert (issued.session.user_id, issued.session.authenticated_at, issued.session.data) == (None, None, {})
        async with shop.db.session(issued.token) as session:
            assert session.sid == issued.session.sid


async def test_the_repr_of_what_was_issued_has_no_token() -> None:
    async with open_shop() as shop:
        issued = await shop.db.create("ann")
        assert isinstance(issued, Issued)
        assert issued.session.sid in repr(issued)
        for part in issued.token.split("."):
            assert part not in repr(issued)
        for part in issued.token.split(".")[1:]:
            assert part not in repr(issued.session)


@pytest.mark.parametrize(
    ("user", "data"), [("", {}), ("ann", {"a": b"bytes"}), ("ann", {1: 2}), ("ann", {"nul\0": 1}), (object(), {})]
)
async def test_what_cannot_be_stored_is_refused_before_anything_is(user: Any, data: Any) -> None:
    async with open_shop() as shop:
        with pytest.raises(SessionDataError):
            await shop.db.create(user, data)
        assert shop.stored == 0


async def test_created_sessions_count_for_the_limit() -> None:
    async with open_shop(policy=Policy(per_user=2)) as shop:
        made = []
        for _ in range(3):
            made.append(await shop.db.create("ann"))
            shop.clock.advance(1)
        assert [one.sid for one in await shop.db.sessions_of("ann")] == [one.session.sid for one in reversed(made[1:])]
        first = await shop.db.get(made[0].session.sid)
        assert first is not None
        assert first.end_reason == EndReason.LIMIT


async def test_remembered_sessions_get_the_remembered_lifetime() -> None:
    async with open_shop(policy=Policy(remember=100 * DAY)) as shop:
        issued = await shop.db.create("ann", remember=True)
        assert issued.session.remembered
        assert issued.session.expires_at == shop.clock.now + int(100 * DAY * 1e6)


# -- session(token) -------------------------------------------------------------------------------------------


async def test_a_block_saves_when_it_ends_and_drops_everything_when_it_raises() -> None:
    async with open_shop() as shop:
        token = (await shop.db.create(data={"a": 1})).token
        async with shop.db.session(token) as session:
            session["a"] = 2
        with pytest.raises(LookupError):
            async with shop.db.session(token) as session:
                session["a"] = 3
                session.logout()
                raise LookupError
        async with shop.db.session(token) as session:
            assert session == {"a": 2}


@pytest.mark.parametrize("token", [None, "", "nonsense", "é" * 89, "a.b.c"])
async def test_a_block_without_a_token_that_opens_something_is_anonymous(token: str | None) -> None:
    async with open_shop() as shop, shop.db.session(token) as session:
        assert (session.user_id, session.sid, session.created_at, dict(session)) == (None, None, None, {})
        assert shop.store.total == 0


async def test_a_block_keeps_a_session_alive() -> None:
    async with open_shop(policy=Policy(idle=HOUR)) as shop:
        issued = await shop.db.create("ann")
        for _ in range(5):
            shop.clock.advance(HOUR / 2)
            async with shop.db.session(issued.token) as session:
                assert session.user_id == "ann"
            await shop.flush()


# -- get and sessions_of --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sid", ["", "x", "00000000-0000-0000-0000-000000000000", "3398b145-d844-492f-a9a2-ed6bdb3b262f", "' OR 1=1 --"]
)
async def test_what_is_no_sid_finds_nothing_and_asks_nobody(sid: str) -> None:
    async with open_shop() as shop:
        assert await shop.db.get(sid) is None
        assert await shop.db.revoke(sid) is False
        assert shop.store.total == 0


async def test_get_shows_ended_and_expired_sessions_with_their_reason() -> None:
    async with open_shop(policy=Policy(idle=HOUR)) as shop:
        ended, expired = [(await shop.db.create("ann")).session.sid for _ in range(2)]
        await shop.db.revoke(ended)
        info = await shop.db.get(ended)
        assert info is not None
        assert (info.end_reason, info.ended_at) == (EndReason.REVOKED, shop.clock.now)
        deadline = shop.clock.now + int(HOUR * 1e6)
        shop.clock.advance(2 * HOUR)
        info = await shop.db.get(expired)
        assert info is not None
        assert (info.end_reason, info.ended_at) == (EndReason.EXPIRED_IDLE, deadline)


async def test_sessions_of_lists_the_living_newest_first_and_of_that_user_only() -> None:
    async with open_shop(policy=Policy(idle=HOUR)) as shop:
        sids = []
        for user in ("ann", "Ann", "ann", "ann ", "ann"):
            issued = await shop.db.create(user)
            if user == "ann":
                sids.append(issued.session.sid)
            shop.clock.advance(1)
        await shop.db.revoke(sids[1])
        assert [info.sid for info in await shop.db.sessions_of("ann")] == [sids[2], sids[0]]
        assert [info.sid for info in await shop.db.sessions_of("ann", include_ended=True)] == sids[::-1]
        assert [info.sid for info in await shop.db.sessions_of("ann", limit=1)] == [sids[2]]
        shop.clock.advance(HOUR)
        assert await shop.db.sessions_of("ann") == []
        assert len(await shop.db.sessions_of("ann", include_ended=True)) == 3


# -- revoke ---------------------------------------------------------------------------------------------------


async def test_revoke_ends_one_session_once() -> None:
    async with open_shop() as shop:
        browser, other = await shop.logged_in(), await shop.logged_in()
        assert await shop.db.revoke(browser.sid) is True
        assert await shop.db.revoke(browser.sid) is False
        assert (await browser.user(), await other.user()) == (None, "ann")
        [event] = await shop.events("session_ended")
        assert (event.sid, event.user_id, event.reason) == (browser.sid, "ann", EndReason.REVOKED)


async def test_a_request_in_flight_does_not_undo_a_revoke() -> None:
    async with open_shop() as shop:
        browser = await shop.logged_in()

        async def slow(session: Session) -> None:
            await shop.db.revoke(browser.sid)
            session["late"] = 1

        reply = await browser.do(slow)
        assert (reply.status, reply.cookie) == (200, None)
        assert await browser.user() is None
        assert shop.record(browser.sid).data == b"{}"
        [event] = await shop.events("write_after_end")
        assert (event.sid, event.reason) == (browser.sid, "revoked")


async def test_revoke_all_spares_the_one_that_is_kept_and_says_how_many_ended() -> None:
    async with open_shop() as shop:
        kept, *others = [await shop.logged_in() for _ in range(4)]
        bob = await shop.logged_in("bob")
        await shop.db.revoke(others[0].sid)
        shop.clock.advance(1)
        assert await shop.db.revoke_all("ann", keep=kept.sid) == 2
        assert await shop.db.revoke_all("ann", keep=kept.sid) == 0
        assert [await one.user() for one in (kept, bob, *others)] == ["ann", "bob", None, None, None]
        assert await kept.do(put(a=1))
        assert [event.details for event in await shop.events("user_revoked")] == [{"ended": 2}, {"ended": 0}]


async def test_a_user_can_log_in_again_after_all_was_revoked() -> None:
    async with open_shop() as shop:
        await shop.logged_in()
        await shop.db.revoke_all("ann")
        assert await (await shop.logged_in()).user() == "ann"


async def test_revoke_others_needs_somebody_logged_in() -> None:
    async with open_shop() as shop:
        first, second = await shop.logged_in(), await shop.logged_in()

        async def others(session: Session) -> Any:
            session["a"] = 1
            return await session.revoke_others()

        assert (await first.do(others)).result == 1
        assert [await first.user(), await second.user()] == ["ann", None]
        assert await first.read() == {"a": 1}
        assert (await shop.browser().do(lambda session: session.revoke_others())).status == 401


# -- sweep ----------------------------------------------------------------------------------------------------


@pytest.mark.security("L12")
async def test_a_sweep_ends_what_is_over_and_purges_old_tombstones() -> None:
    async with open_shop(policy=Policy(idle=HOUR, keep_ended=DAY)) as shop:
        for _ in range(3):
            await shop.db.create("ann")
        shop.clock.advance(HOUR + 29)
        assert (await shop.db.sweep()).ended == []
        shop.clock.advance(2)
        living = await shop.logged_in()
        swept = await shop.db.sweep()
        assert [one.reason for one in swept.ended] == [EndReason.EXPIRED_IDLE] * 3
        assert (await shop.db.sweep()).ended == []
        assert await living.user() == "ann"
        assert len(await shop.events("session_ended")) == 3
        shop.clock.advance(DAY + 31)
        await living.do(dict)
        swept = await shop.db.sweep()
        assert swept.purged == 3


async def test_a_sweep_is_bounded_and_says_that_there_is_more() -> None:
    async with open_shop(policy=Policy(idle=HOUR)) as shop:
        for _ in range(5):
            await shop.db.create()
        shop.clock.advance(2 * HOUR)
        swept = await shop.db.sweep(limit=3)
        assert (len(swept.ended), swept.more) == (3, True)
        swept = await shop.db.sweep(limit=3)
        assert (len(swept.ended), swept.more) == (2, False)


@pytest.mark.security("L12")
async def test_a_touched_session_survives_the_sweep() -> None:
    async with open_shop(policy=Policy(idle=HOUR)) as shop:
        browser = await shop.logged_in()
        for _ in range(6):
            shop.clock.advance(50 * MINUTE)
            assert await browser.user() == "ann"
            await shop.flush()
            assert (await shop.db.sweep()).ended == []
        shop.clock.advance(HOUR + 31)
        assert len((await shop.db.sweep()).ended) == 1


# -- stats and events -----------------------------------------------------------------------------------------


async def test_stats_count_sessions_and_users() -> None:
    async with open_shop() as shop:
        await shop.db.create()
        for user in ("ann", "ann", "bob"):
            await shop.db.create(user)
        await shop.db.revoke_all("bob")
        stats = await shop.db.stats()
        assert (stats.live, stats.ended, stats.users) == (3, 1, 1)


async def test_the_audit_stream_tells_the_life_of_a_session_without_its_secrets() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        anonymous = browser.sid
        secrets = [browser.token]
        shop.clock.advance(1)
        await browser.do(lambda session: session.login("ann"))
        secrets.append(browser.token)
        shop.clock.advance(1)
        await browser.do(lambda session: session.rotate())
        secrets.append(browser.token)
        shop.clock.advance(1)
        await browser.do(lambda session: session.logout())
        # A rotation that took place is told with the next batch; each event has its own time.
        events = sorted(await shop.events(), key=lambda event: event.at)
        assert [(event.type, event.sid == anonymous, event.user_id, event.reason) for event in events] == [
            (EventType.SESSION_CREATED, True, None, None),
            (EventType.LOGIN, False, "ann", None),
            (EventType.SESSION_RENEWED, False, "ann", None),
            (EventType.SESSION_ENDED, False, "ann", "logout"),
        ]
        assert events[1].personal["replaces"] == anonymous
        assert [event.ip for event in events] == ["127.0.0.1"] * 4
        for token in secrets:
            for part in str(token).split(".")[1:]:
                assert part not in repr(events)


async def test_events_are_paged_and_filtered() -> None:
    async with open_shop() as shop:
        start = shop.clock.now
        for user in ("ann", "bob", "ann"):
            await shop.db.create(user)
            shop.clock.advance(1)
        page = await shop.db.events(limit=2)
        assert [event.user_id for event in page.events] == ["ann", "bob"]
        rest = await shop.db.events(limit=2, after=page.next)
        assert [event.user_id for event in rest.events] == ["ann"]
        assert rest.next is None
        assert len((await shop.db.events(user_id="ann")).events) == 2
        assert len((await shop.db.events(type="authn_login_success")).events) == 3
        assert len((await shop.db.events(since=start + 1_000_000, until=start + 2_000_000)).events) == 1
        sid = page.events[0].sid
        assert [event.sid for event in (await shop.db.events(sid=sid)).events] == [sid]


async def test_counters_say_what_this_process_has_seen() -> None:
    async with open_shop() as shop:
        browser = await shop.with_cart()
        await browser.do(lambda session: session.login("ann"))
        await browser.do(lambda session: session.logout())
        await browser.twin().do(dict)
        assert shop.db.counters["session_created"] == 1
        assert shop.db.counters["authn_login_success"] == 1
        assert shop.db.counters["session_ended"] == 1
