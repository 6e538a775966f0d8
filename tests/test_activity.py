"""Who uses a session, from where and how often, as requests show it: counted without a call, written with touches."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from databases import KINDS, new_url
from harness import DAY, MINUTE, Browser, Shop, open_shop, put
from sessiondb import Client, ConfigurationError, Geo, Limits, Policy, Privacy, SessionDB, SessionInfo, UsedFrom
from sessiondb.core.keys import generate_key
from sessiondb.core.presented import recognise
from sessiondb.core.privacy import IpPolicy
from sessiondb.opening import open_session
from sessiondb.state import State, Visitor
from sessiondb.testing import Fail

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 "
    "Mobile/15E148 Safari/604.1"
)
HOME, OFFICE, TRAIN = "203.0.113.7", "198.51.100.9", "2001:db8:1:2::3"


def come_from(shop: Shop, address: str | None) -> None:
    transport: Any = shop.http._transport
    transport.client = None if address is None else (address, 50_000)


async def hit(shop: Shop, browser: Browser, address: str = HOME, times: int = 1, agent: str = FIREFOX) -> None:
    """So many requests that read the session."""
    come_from(shop, address)
    for _ in range(times):
        assert (await browser.do(dict, **{"user-agent": agent})).status == 200


async def made(shop: Shop, address: str = HOME, agent: str = FIREFOX) -> Browser:
    """A browser that has just logged in from there."""
    come_from(shop, address)
    browser = shop.browser()
    assert (await browser.do(lambda session: session.login("ann"), **{"user-agent": agent})).cookie == "set"
    return browser


async def info(shop: Shop, browser: Browser) -> SessionInfo:
    found = await shop.db.get(browser.sid)
    assert found is not None
    return found


async def written(shop: Shop) -> int:
    """How many updates were written since the last time."""
    await shop.flush()
    count = len(shop.store.updates)
    shop.store.reset()
    return count


# -- what is shown --------------------------------------------------------------------------------------------


async def test_people_are_shown_who_it_is() -> None:
    async with open_shop() as shop:
        browser = await made(shop, agent=SAFARI)
        one = await info(shop, browser)
        shown = Client(
            ip=HOME,
            user_agent=SAFARI,
            network="203.0.113.0/24",
            browser="Safari",
            system="iOS",
            device="mobile",
            label="Safari on iPhone",
        )
        assert one.first_client == shown
        at = one.created_at
        place = UsedFrom("203.0.113.0/24", HOME, None, at, at, 1)
        assert one.client == replace(shown, requests=1, places=(place,))
        assert (await browser.do(lambda session: session.client.label)).result == "Safari on iPhone"
        assert (await shop.browser().do(lambda session: session.client.label)).result is None


async def test_requests_are_counted_and_written_with_the_touch() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await written(shop)
        await hit(shop, browser, times=9)
        assert await written(shop) == 0
        assert (await info(shop, browser)).client.requests == 1
        shop.clock.advance(MINUTE)
        await hit(shop, browser, times=5)  # the first of them is the touch
        assert await written(shop) == 1
        shown = (await info(shop, browser)).client
        assert (shown.requests, len(shown.places)) == (11, 1)
        shop.clock.advance(MINUTE)
        await hit(shop, browser)
        assert await written(shop) == 1
        assert (await info(shop, browser)).client.requests == 16


async def test_they_come_along_with_a_write_that_is_made_anyway() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await hit(shop, browser, times=3)
        shop.clock.advance(MINUTE)
        assert (await browser.do(put(a=1), **{"user-agent": FIREFOX})).calls == {"load": 1, "apply": 1}
        assert (await info(shop, browser)).client.requests == 5
        # Those that write before the touch is due are counted as well, and by no other write.
        await browser.do(put(a=2), **{"user-agent": FIREFOX})
        assert (await info(shop, browser)).client.requests == 5
        shop.clock.advance(MINUTE)
        await browser.do(lambda session: session.modify(lambda data: data.update(a=3)), **{"user-agent": FIREFOX})
        # What writes in the middle of a request knows of those before it.
        assert (await info(shop, browser)).client.requests == 6


async def test_a_request_that_does_not_use_its_session_is_not_counted() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await browser.ignore()
        shop.clock.advance(MINUTE)
        await browser.ignore()
        await hit(shop, browser)
        await shop.flush()
        assert (await info(shop, browser)).client.requests == 2


async def test_a_job_is_nobodys_client() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        before = shop.record(browser.sid).client_last
        shop.clock.advance(2 * MINUTE)
        for value in range(3):
            async with shop.db.session(browser.token) as session:
                session["n"] = value
        await shop.flush()
        record = shop.record(browser.sid)
        assert record.last_seen_at == shop.clock.now
        assert record.client_last == before
        assert shop.db.counters["client_changes"] == 0


# -- several at once ------------------------------------------------------------------------------------------


async def test_requests_at_the_same_moment_lose_nothing_in_one_process() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await hit(shop, browser, times=20)
        for minute in range(3):
            shop.clock.advance(MINUTE)
            shop.store.reset()
            writes = [browser.do(put(**{f"k{n}": minute}), **{"user-agent": FIREFOX}) for n in range(6)]
            reads = [browser.do(dict, **{"user-agent": FIREFOX}) for _ in range(6)]
            await asyncio.gather(*writes, *reads)
        shop.clock.advance(MINUTE)
        await hit(shop, browser)
        await shop.flush()
        shown = (await info(shop, browser)).client
        assert shown.requests == 1 + 20 + 3 * 12 + 1
        assert [place.requests for place in shown.places] == [shown.requests]


@pytest.mark.parametrize("kind", ["memory", *KINDS])
async def test_two_processes_add_up(kind: str, tmp_path: Path) -> None:
    """Each adds what it has counted to what it reads; only of two touches at the same moment one is not seen."""
    async with open_shop() as shop:
        url: Any = shop.store if kind == "memory" else new_url(kind, tmp_path)
        clock = shop.clock
        settings: dict[str, Any] = {"timeout": 60.0, "breaker": None, "sweep_every": None, "clock": clock}
        async with SessionDB(url, **settings) as one, SessionDB(url, **settings) as two:
            clock.advance(-DAY)  # no touch is in the future of the database
            token = (await one.create("ann", ip=HOME, user_agent=FIREFOX)).token
            counted = 1
            for minute, db in enumerate([one, two, two, one, two, one]):
                clock.advance(MINUTE)
                for other, address in ((db, (HOME, OFFICE)[minute % 2]), (one, HOME), (two, OFFICE)):
                    for _ in range(minute):
                        await ask(other, token, address)
                        counted += 1
                    await other.runtime.background.flush()
                    clock.advance(1)
            clock.advance(MINUTE)
            for db in (one, two):
                await ask(db, token, HOME)
                counted += 1
                await db.runtime.background.flush()
                clock.advance(MINUTE)
            [shown] = await one.sessions_of("ann")
            assert shown.client.requests == counted
            assert {place.network for place in shown.client.places} == {"203.0.113.0/24", "198.51.100.0/24"}
            assert sum(place.requests for place in shown.client.places) == counted


async def ask(db: SessionDB, token: str, address: str) -> None:
    """One request, as the middleware makes it."""
    presented = recognise(token.encode())
    assert presented is not None
    visitor = Visitor((address, 1), [(b"user-agent", FIREFOX.encode())])
    session = await open_session(State(db.runtime, db.runtime.now(), visitor), [presented])
    session.mark_accessed()
    await session.save()


async def test_a_touch_that_could_not_be_written_loses_no_count() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await hit(shop, browser, times=4)
        shop.clock.advance(MINUTE)
        await hit(shop, browser, times=2)
        shop.faults.next("apply", Fail())
        await shop.flush()
        assert (await info(shop, browser)).client.requests == 1
        shop.clock.advance(MINUTE)
        await hit(shop, browser)
        await shop.flush()
        assert (await info(shop, browser)).client.requests == 8


# -- places ---------------------------------------------------------------------------------------------------


async def test_places_are_remembered_with_what_was_done_there() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        begun = shop.clock.now
        await hit(shop, browser, times=2)
        shop.clock.advance(MINUTE)
        await hit(shop, browser, OFFICE, times=3)
        office = shop.clock.now
        shop.clock.advance(MINUTE)
        await hit(shop, browser, TRAIN, agent=SAFARI)
        await shop.flush()
        one = await info(shop, browser)
        assert one.client.places == (
            UsedFrom("2001:db8:1::/48", TRAIN, None, shop.clock.now, shop.clock.now, 1),
            UsedFrom("198.51.100.0/24", OFFICE, None, office, office, 3),
            UsedFrom("203.0.113.0/24", HOME, None, begun, begun, 3),
        )
        assert (one.client.requests, one.client.label, one.first_client.label) == (
            7,
            "Safari on iPhone",
            "Firefox on Linux",
        )
        stored = shop.record(browser.sid).client_last
        assert len(stored) <= 500
        assert set(json.loads(stored)) == {"ip", "user_agent", "network", "requests", "places"}


async def test_a_typical_record_is_small() -> None:
    async with open_shop() as shop:
        browser = await made(shop, agent=SAFARI)
        shop.clock.advance(MINUTE)
        await hit(shop, browser, OFFICE, agent=SAFARI)
        shop.clock.advance(MINUTE)
        await hit(shop, browser, HOME, times=1000, agent=SAFARI)
        await shop.flush()
        assert len(shop.record(browser.sid).client_last) <= 400


async def test_a_new_network_is_written_at_once() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await written(shop)
        shop.clock.advance(5)
        await hit(shop, browser, OFFICE, times=4)
        assert await written(shop) == 1
        shown = await info(shop, browser)
        assert (shown.client.ip, shown.last_seen_at) == (OFFICE, shop.clock.now)
        assert [place.requests for place in shown.client.places] == [1, 1]
        # Another address of a network that is known is nothing new, nor is a way back.
        await hit(shop, browser, "198.51.100.10")
        await hit(shop, browser, HOME)
        shop.clock.advance(50)
        for _ in range(5):
            await hit(shop, browser, OFFICE)
            await hit(shop, browser, HOME)
        assert await written(shop) == 0
        shop.clock.advance(MINUTE)
        await hit(shop, browser, OFFICE)
        assert await written(shop) == 1
        shown = await info(shop, browser)
        assert shown.client.requests == 18
        assert {place.network: place.requests for place in shown.client.places} == {
            "198.51.100.0/24": 11,
            "203.0.113.0/24": 7,
        }


async def test_at_most_once_a_second() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await written(shop)
        for second in range(5):
            for tenth in range(10):
                await hit(shop, browser, f"203.1.{10 * second + tenth}.7")
                await shop.flush()
                shop.clock.advance(0.1)
        assert 5 <= await written(shop) <= 6
        shown = (await info(shop, browser)).client
        assert len(shown.places) == 8
        assert len(shop.record(browser.sid).client_last) < 1000


async def test_a_new_network_comes_along_with_a_write() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await written(shop)
        shop.clock.advance(5)
        come_from(shop, OFFICE)
        await browser.do(put(a=1), **{"user-agent": FIREFOX})
        assert await written(shop) == 1
        assert (await info(shop, browser)).client.ip == OFFICE


# -- a client that changes ------------------------------------------------------------------------------------


async def test_what_notices_is_told_of_every_change_and_of_every_touch() -> None:
    told: list[tuple[str | None, str | None, str | None, str | None]] = []

    def note(state: State, record: Any, before: Client, now: Client) -> None:
        assert state.record is record
        assert state.visitor.ip == now.ip
        told.append((before.ip, now.ip, before.label, now.label))

    async with open_shop() as shop:
        browser = await made(shop)
        with mock.patch("sessiondb.clients.client_changed", note):
            await hit(shop, browser, times=3)
            assert told == []
            await hit(shop, browser, OFFICE, times=2)
            await hit(shop, browser, HOME, times=2)
            await hit(shop, browser, HOME, agent=SAFARI, times=2)
            linux, phone = "Firefox on Linux", "Safari on iPhone"
            assert told == [
                (HOME, OFFICE, linux, linux),
                (OFFICE, HOME, linux, linux),
                (HOME, HOME, linux, phone),
            ]
            told.clear()
            shop.clock.advance(MINUTE)
            await hit(shop, browser, HOME, agent=SAFARI, times=2)
            assert told == [(OFFICE, HOME, linux, phone)]  # what was written last was the new network
            told.clear()
            shop.clock.advance(MINUTE)
            await shop.flush()
            await hit(shop, browser, OFFICE, agent=SAFARI, times=2)
            assert told == [(HOME, OFFICE, phone, phone)]


async def test_a_change_is_seen_by_a_process_that_knows_nothing_of_the_session() -> None:
    async with open_shop() as shop:
        token = (await shop.db.create("ann", ip=HOME, user_agent=FIREFOX)).token
        async with shop.another_db() as other:
            await ask(other, token, HOME)
            assert other.counters["client_changes"] == 0
        async with shop.another_db() as other:
            await ask(other, token, OFFICE)
            assert other.counters["client_changes"] == 1
            await other.runtime.background.flush()
        assert [one.client.ip for one in await shop.db.sessions_of("ann")] == [OFFICE]


async def test_changes_are_counted() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        for address in (HOME, HOME, OFFICE, OFFICE, HOME):
            await hit(shop, browser, address)
        await hit(shop, browser, HOME, agent=SAFARI, times=2)
        assert shop.db.counters["client_changes"] == 3
        # Where nothing was known, nothing has changed.
        token = (await shop.db.create("ann")).token
        await ask(shop.db, token, HOME)
        assert shop.db.counters["client_changes"] == 3


async def test_clients_without_an_address_or_a_name() -> None:
    async with open_shop() as shop:
        come_from(shop, None)
        browser = shop.browser()
        await browser.do(put(a=1))
        for _ in range(3):
            await browser.do(dict)
        shop.clock.advance(MINUTE)
        await browser.do(dict)
        await shop.flush()
        one = await info(shop, browser)
        assert (one.client.ip, one.client.requests, one.client.places) == (None, 5, ())
        assert shop.db.counters["client_changes"] == 0


# -- when a touch is due --------------------------------------------------------------------------------------


async def test_a_policy_that_is_lowered_makes_touches_due_sooner() -> None:
    async with open_shop() as shop:
        browser = await made(shop)
        await written(shop)
        shop.clock.advance(1)
        await hit(shop, browser, times=2)  # from now on it is known that none is due for a minute
        shop.db.set_policy(Policy(idle=20))
        for _ in range(10):
            shop.clock.advance(5)
            await hit(shop, browser)
            assert await written(shop) == 1
        assert await browser.user() == "ann"


async def test_many_sessions_are_counted_in_bounded_memory() -> None:
    async with open_shop() as shop:
        with mock.patch("sessiondb.clients.REMEMBERED", 50):
            async with shop.another_db() as db:
                tokens = [(await db.create(ip=HOME, user_agent=FIREFOX)).token for _ in range(300)]
                for token in tokens:
                    await ask(db, token, HOME)
                    assert len(db.runtime.clients.entries) <= 100
                assert db.counters["client_changes"] == 0


# -- privacy --------------------------------------------------------------------------------------------------

KEY = generate_key()


def settings(ip: IpPolicy, **more: Any) -> Privacy:
    return Privacy(ip=ip, key=KEY if ip == "hashed" else None, **more)


async def everything(shop: Shop) -> str:
    """All that the database holds, as text."""
    records = [msgspec.structs.asdict(record) for record in shop.memory._table.records.values()]
    return repr(records) + repr(await shop.events())


@pytest.mark.parametrize("ip", ["full", "truncated", "hashed", "none"])
async def test_no_more_is_stored_than_may_be(ip: IpPolicy) -> None:
    async with open_shop(privacy=settings(ip), limits=Limits(anonymous_per_minute=2)) as shop:
        browser = await made(shop)
        shop.clock.advance(MINUTE)
        await hit(shop, browser, OFFICE, times=2)
        come_from(shop, HOME)
        for number in range(4):
            # Limits go by the whole address, whatever is stored of it.
            status = (await shop.browser().do(put(a=number))).status
            assert status == (200 if number < 2 else 429)
        sid = browser.sid
        await shop.flush()
        come_from(shop, OFFICE)
        await browser.do(lambda session: session.logout())
        await shop.flush()
        events = await shop.events()
        held = await everything(shop)
        assert (HOME in held) is (OFFICE in held) is (ip == "full")
        assert ("203.0.113.0" in held) is ("198.51.100.0" in held) is (ip in ("full", "truncated"))
        assert len({event.ip for event in events if event.sid == sid}) == (1 if ip == "none" else 2)
        one = await shop.db.get(sid)
        assert one is not None
        places = {"full": 2, "truncated": 2, "hashed": 2, "none": 0}[ip]
        assert (len(one.client.places), one.client.requests) == (places, 2)


async def test_the_browsers_name_is_kept_only_if_it_may_be() -> None:
    async with open_shop(privacy=Privacy(user_agent=False)) as shop:
        browser = await made(shop)
        shop.clock.advance(MINUTE)
        await hit(shop, browser, agent=SAFARI)
        await shop.flush()
        assert "Firefox" not in await everything(shop)
        assert "Safari" not in await everything(shop)
        one = await info(shop, browser)
        assert (one.client.ip, one.client.user_agent, one.client.label, one.client.requests) == (HOME, None, None, 2)
        with pytest.raises(ValueError, match=r"user_agent is not stored"):
            shop.db.find_sessions(user_agent="Firefox")


async def found(shop: Shop, **criteria: Any) -> set[str]:
    return {one.sid async for one in shop.db.find_sessions(**criteria)}


@pytest.mark.parametrize("ip", ["full", "truncated", "hashed", "none"])
async def test_sessions_are_found_by_what_is_stored_or_it_is_said_why_not(ip: IpPolicy) -> None:
    async with open_shop(privacy=settings(ip)) as shop:
        ann, bob = await made(shop), await made(shop, OFFICE)
        shop.clock.advance(MINUTE)
        await hit(shop, ann, TRAIN)
        shop.clock.advance(MINUTE)
        await hit(shop, ann, "192.0.2.1")
        await shop.flush()

        async def answer(**criteria: Any) -> Any:
            try:
                return await found(shop, **criteria)
            except ValueError as error:
                return str(error)

        neither: set[str] = set()
        by_ip = [await answer(ip=HOME), await answer(ip=TRAIN), await answer(ip="::ffff:198.51.100.9")]
        by_ip.append(await answer(ip="203.0.113.8"))
        networks = ("203.0.113.0/24", "2001:db8:1::/48", "203.0.0.0/16", "203.0.113.0/25", "192.0.0.0/24")
        by_network = [await answer(network=network) for network in networks]
        if ip == "full":
            assert by_ip == [{ann.sid}, {ann.sid}, {bob.sid}, neither]
            assert by_network == [{ann.sid}, {ann.sid}, {ann.sid}, {ann.sid}, neither]
        elif ip == "truncated":
            assert all("Use network='" in one for one in by_ip)
            assert "Use network='203.0.113.0/24'" in by_network.pop(3)
            assert by_network == [{ann.sid}, {ann.sid}, {ann.sid}, neither]
        elif ip == "hashed":
            assert by_ip == [{ann.sid}, {ann.sid}, {bob.sid}, neither]
            assert all("hashes are stored" in one for one in by_network[2:4])
            assert [*by_network[:2], by_network[4]] == [{ann.sid}, {ann.sid}, neither]
        else:
            assert all("no addresses are stored" in one for one in by_ip + by_network)
        assert await shop.db.revoke_where(user_id="ann", **({"ip": HOME} if ip in ("full", "hashed") else {})) >= 1


async def test_a_change_of_settings_is_no_change_of_the_client() -> None:
    async with open_shop() as shop:
        token = (await shop.db.create("ann", ip=HOME, user_agent=FIREFOX)).token
        for ip in ("truncated", "hashed", "none"):
            async with shop.another_db(privacy=settings(ip)) as other:  # type: ignore[arg-type]
                if ip == "hashed":
                    token = (await shop.db.create("ann", ip=HOME, user_agent=FIREFOX)).token
                await ask(other, token, HOME)
                assert other.counters["client_changes"] == 0
                shop.clock.advance(MINUTE)
                await ask(other, token, HOME)
                await other.runtime.background.flush()
                assert other.counters["client_changes"] == 0


async def test_addresses_go_when_they_are_old() -> None:
    policy = Policy(idle=timedelta(days=20), absolute=timedelta(days=60))
    async with open_shop(privacy=Privacy(ip_for=timedelta(days=3)), policy=policy) as shop:
        browser = await made(shop)
        assert (await info(shop, browser)).first_client.ip == HOME
        shop.clock.advance(2 * DAY)
        await hit(shop, browser, OFFICE)
        await shop.flush()
        one = await info(shop, browser)
        assert (one.first_client.ip, len(one.client.places)) == (HOME, 2)
        # The next touch after that drops the place.
        shop.clock.advance(1.5 * DAY)
        assert (await info(shop, browser)).first_client.ip is None
        await hit(shop, browser, OFFICE)
        await shop.flush()
        assert HOME not in repr(msgspec.structs.asdict(shop.record(browser.sid)))
        one = await info(shop, browser)
        assert (one.first_client.ip, one.first_client.label) == (None, "Firefox on Linux")
        assert [place.ip for place in one.client.places] == [OFFICE]
        # Of a session that nobody touches it is not shown any more.
        shop.clock.advance(4 * DAY)
        one = await info(shop, browser)
        assert (one.client.ip, one.client.network, one.client.places, one.client.requests) == (None, None, (), 3)
        assert (await browser.do(lambda session: session.client.ip)).result is None


# -- countries ------------------------------------------------------------------------------------------------


async def test_countries() -> None:
    async with open_shop(geo=Geo(), privacy=Privacy(ip="none")) as shop:
        # Blocks that the registries have given to well-known networks long ago.
        browser = await made(shop, "8.8.8.8")
        shop.clock.advance(MINUTE)
        await hit(shop, browser, "193.0.6.139")
        await shop.flush()
        one = await info(shop, browser)
        assert (one.first_client.country, one.client.country, one.client.ip) == ("US", "NL", None)
        assert [place.country for place in one.client.places] == ["NL", "US"]
        made_by_job = await shop.db.create("ann", ip="193.0.6.139")
        assert made_by_job.session.client.country == "NL"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("privacy", "hashed", r"privacy is 'hashed'; use privacy=Privacy\(\.\.\.\)"),
        ("privacy", None, "privacy is None"),
        ("geo", "GeoLite2-City.mmdb", r"geo is 'GeoLite2-City.mmdb'; use geo=Geo\(\)"),
        ("geo", True, "geo is True"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SessionDB("memory://", **{name: value})
