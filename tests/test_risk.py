"""Logins and sessions that look like somebody else's: what is said, told and done about them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from sessiondb import SessionDB
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import EventType
from sessiondb.core.frequencies import Frequencies
from sessiondb.core.risk import RiskAction, RiskLevel, Rule, Verdict
from sessiondb.noticing import owes_proof
from sessiondb.risk_policy import RiskPolicy
from sessiondb.session import state_of
from sessiondb.suspicions import Suspicion
from sessiondb.testing import Fail
from sessiondb.web.dependencies import require_login
from sessiondb.web.middleware import SCOPE_KEY
from tests.harness import DAY, MINUTE, Browser, Shop, open_shop

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
NEWER = FIREFOX.replace("128", "129")
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)


@asynccontextmanager
async def watched(**policy: Any) -> AsyncIterator[tuple[Shop, list[Suspicion]]]:
    told: list[Suspicion] = []
    async with open_shop(risk=RiskPolicy(**policy)) as shop:
        shop.db.on_risk(told.append)
        yield shop, told


async def log_in(shop: Shop, user: str = "ann", agent: str = FIREFOX) -> tuple[Browser, Verdict]:
    """A login by a browser of its own, and what was thought of it; all that follows from it is written."""
    verdicts: list[Verdict] = []

    async def act(session: Any) -> None:
        verdicts.append(await session.login(user))

    browser = shop.browser()
    reply = await browser.do(act, **{"user-agent": agent})
    assert (reply.status, reply.cookie) == (200, "set")
    await settle(shop)
    return browser, verdicts[0]


async def settle(shop: Shop) -> None:
    """Until hooks have run and all is written."""
    runtime = shop.db.runtime
    running = [task for task in (runtime.suspicions._task, *runtime.suspicions._tasks) if task is not None]
    if running:
        await asyncio.wait(running, timeout=20)
    await runtime.assessing.counting.flush()
    await shop.flush()


class TestLogins:
    async def test_the_first_and_the_usual_login_are_no_matter(self) -> None:
        async with watched() as (shop, told):
            for _ in range(3):
                _, verdict = await log_in(shop)
                assert (verdict.level, verdict.action, verdict.rules) == (RiskLevel.NONE, RiskAction.ALLOW, ())
                shop.clock.advance(DAY)
            assert told == []
            assert await shop.events(EventType.RISK_FOUND) == []

    async def test_a_new_device_is_said_recorded_and_told(self) -> None:
        async with watched() as (shop, told):
            await log_in(shop)
            shop.clock.advance(DAY)
            browser, verdict = await log_in(shop, agent=CHROME)
            assert Rule.NEW_DEVICE in verdict.rules
            assert "first login with Chrome on Windows" in " ".join(verdict.reasons)
            [suspicion] = told
            assert (suspicion.verdict, suspicion.user_id, suspicion.sid) == (verdict, "ann", browser.sid)
            [event] = await shop.events(EventType.RISK_FOUND)
            assert (event.user_id, event.sid, event.reason) == ("ann", browser.sid, verdict.level.value)
            assert "new_device" in str(event.details["rules"])
            assert event.personal["new_device.device"] == "Chrome on Windows"
            info = await shop.db.get(browser.sid)
            assert info is not None
            assert (info.risk.level, "new_device" in info.risk.reasons) == (verdict.level.value, True)
            # The next time it is known.
            _, verdict = await log_in(shop, agent=CHROME)
            assert Rule.NEW_DEVICE not in verdict.rules

    async def test_a_browsers_update_is_no_new_device(self) -> None:
        async with watched() as (shop, _):
            await log_in(shop)
            _, verdict = await log_in(shop, agent=NEWER)
            assert Rule.NEW_DEVICE not in verdict.rules

    async def test_a_login_costs_one_call_more_and_the_rest_is_done_later(self) -> None:
        async with watched() as (shop, _):
            await log_in(shop)
            shop.store.reset()
            await shop.browser().do(lambda session: session.login("ann"), **{"user-agent": FIREFOX})
            assert shop.store.traffic() == {"profile": 1, "apply": 1, "admit": 1}

    async def test_without_a_policy_nothing_is_looked_at(self) -> None:
        async with open_shop(risk=None) as shop:
            reply = await shop.browser().do(lambda session: session.login("ann"))
            assert reply.result == "none"
            await shop.flush()
            assert {"profile", "record_logins"}.isdisjoint(shop.store.calls)

    async def test_while_the_database_does_not_tell_logins_are_not_held_up(self) -> None:
        async with watched() as (shop, told):
            await log_in(shop)
            shop.faults.always["profile"] = Fail()
            _, verdict = await log_in(shop, agent=CHROME)
            assert (verdict.rules, told) == ((), [])
            assert shop.db.counters["logins_not_assessed"] == 1

    async def test_a_login_that_was_not_accepted_teaches_nothing(self) -> None:
        async with watched() as (shop, _):
            await log_in(shop)
            shop.faults.next("apply", Fail())
            assert (await shop.browser().do(lambda s: s.login("ann"), **{"user-agent": CHROME})).status == 503
            await settle(shop)
            _, verdict = await log_in(shop, agent=CHROME)
            assert Rule.NEW_DEVICE in verdict.rules

    async def test_workers_learn_from_each_other(self) -> None:
        async with watched() as (shop, _):
            await log_in(shop)
            other = shop.another_db(risk=RiskPolicy())
            async with other:
                for runtime in (shop.db.runtime, other.runtime):
                    await runtime.assessing.learning.read(runtime.store)
                assert other.runtime.assessing.learning.frequencies.logins(shop.clock.now) == pytest.approx(1, abs=0.1)
                key = (await shop.db.runtime.assessing.judge()).key  # type: ignore[union-attr]
                assert (await other.runtime.assessing.judge()).key == key  # type: ignore[union-attr]

    async def test_old_days_are_folded_into_one_sheet(self) -> None:
        async with watched() as (shop, _):
            learning = shop.db.runtime.assessing.learning
            for _ in range(4):
                await log_in(shop)
                await learning.publish(shop.memory)
                shop.clock.advance(DAY)
            await learning.fold(shop.memory)
            buckets = [sheet.bucket for sheet in await shop.memory.sheets("risk_values", 0, 10**9)]
            assert buckets[0] == 0
            assert len(buckets) == 2
            await learning.read(shop.memory)
            assert learning.frequencies.logins(shop.clock.now) == pytest.approx(4 * 0.95, abs=0.3)

    @pytest.mark.parametrize("verb", ["read", "fold"])
    async def test_the_loop_goes_on_while_the_sheets_of_many_are_read(
        self, verb: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with watched() as (shop, _):
            learning = shop.db.runtime.assessing.learning
            await log_in(shop)
            await learning.publish(shop.memory)
            shop.clock.advance(3 * DAY)
            gone_on, decode = threading.Event(), Frequencies.decode

            def slowly(data: bytes) -> Frequencies:
                assert gone_on.wait(10), "the loop waits for this"
                return decode(data)

            monkeypatch.setattr(Frequencies, "decode", slowly)
            reading = asyncio.create_task(getattr(learning, verb)(shop.memory))
            for _ in range(20):
                await asyncio.sleep(0)
            gone_on.set()
            await reading


class TestActions:
    ALL_HIGH = dict.fromkeys((Rule.NEW_DEVICE,), "high")

    async def test_refuse(self) -> None:
        async with watched(rules=self.ALL_HIGH, actions={"high": "refuse"}) as (shop, told):
            known, _ = await log_in(shop)
            reply = await shop.browser().do(lambda session: session.login("ann"), **{"user-agent": CHROME})
            assert (reply.status, reply.cookie) == (409, None)
            await settle(shop)
            assert [one.sid for one in await shop.db.sessions_of("ann")] == [known.sid]
            assert [suspicion.sid for suspicion in told] == [None]
            [refused] = await shop.events(EventType.LOGIN_REFUSED)
            assert (refused.user_id, refused.reason) == ("ann", "risk")
            # It taught nothing: the next one is refused too.
            assert (await shop.browser().do(lambda s: s.login("ann"), **{"user-agent": CHROME})).status == 409

    async def test_a_refused_visitor_keeps_the_cart(self) -> None:
        async with watched(rules=self.ALL_HIGH, actions={"high": "refuse"}) as (shop, _):
            await log_in(shop)
            browser = await shop.with_cart(cart=["tea"])

            async def act(session: Any) -> Any:
                try:
                    await session.login("ann")
                except Exception as error:
                    return [type(error).__name__, getattr(error, "reason", None), session.user_id, dict(session)]

            reply = await browser.do(act, **{"user-agent": CHROME})
            assert reply.result == ["LoginRefused", "risk", None, {"cart": ["tea"]}]
            assert await browser.read() == {"cart": ["tea"]}

    async def test_revoke_user(self) -> None:
        async with watched(rules=self.ALL_HIGH, actions={"high": "revoke_user"}) as (shop, _):
            await log_in(shop)
            assert (await shop.browser().do(lambda s: s.login("ann"), **{"user-agent": CHROME})).status == 409
            await settle(shop)
            assert await shop.db.sessions_of("ann") == []
            [ended] = await shop.events(EventType.SESSION_ENDED)
            assert ended.reason == "risk"

    async def test_a_dry_run_says_it_and_does_nothing(self) -> None:
        async with watched(rules=self.ALL_HIGH, actions={"high": "refuse"}, dry_run=True) as (shop, told):
            await log_in(shop)
            browser, verdict = await log_in(shop, agent=CHROME)
            assert (verdict.level, verdict.action, verdict.dry_run) == (RiskLevel.HIGH, RiskAction.REFUSE, True)
            assert len(told) == 1
            [event] = await shop.events(EventType.RISK_FOUND)
            assert (event.details["action"], event.details["dry_run"]) == ("refuse", 1)
            assert (await browser.do(lambda session: session.user_id)).result == "ann"

    async def test_a_rule_that_is_off_is_off(self) -> None:
        async with watched(rules={"new_device": None, "unusual_login": None}) as (shop, told):
            await log_in(shop)
            _, verdict = await log_in(shop, agent=CHROME)
            assert (verdict.level, told) == (RiskLevel.NONE, [])

    async def test_a_hook_that_fails_holds_nobody_up(self, caplog: pytest.LogCaptureFixture) -> None:
        async with watched() as (shop, told):

            async def broken(suspicion: Suspicion) -> None:
                raise RuntimeError("no mail server")

            shop.db._risk_hooks.functions.insert(0, broken)
            await log_in(shop)
            await log_in(shop, agent=CHROME)
            assert len(told) == 1
            assert shop.db.counters["failed_risk_hooks"] == 1
            assert "no mail server" in caplog.text


class TestFailedLogins:
    async def test_success_after_failures(self) -> None:
        async with watched() as (shop, _):
            await log_in(shop)
            for _ in range(6):
                await shop.db.login_failed("ann")
                shop.clock.advance(MINUTE)
            await settle(shop)
            _, verdict = await log_in(shop)
            assert Rule.SUCCESS_AFTER_FAILURES in verdict.rules
            # Forgiven.
            _, verdict = await log_in(shop)
            assert Rule.SUCCESS_AFTER_FAILURES not in verdict.rules

    @pytest.mark.security("A7")
    async def test_failures_of_other_workers_and_of_the_last_second_count(self) -> None:
        async with watched() as (shop, _):
            other = shop.another_db()
            async with other:
                for number in range(10):
                    db = shop.db if number % 2 else other
                    verdict = await db.login_failed("ann")
                    if not number % 2:
                        await other.runtime.assessing.counting.flush()
                assert verdict.rules == (Rule.BRUTE_FORCE,)
                assert "10 failed logins of this user" in verdict.reasons[0]

    async def test_after_an_hour_they_are_forgotten(self) -> None:
        async with watched() as (shop, _):
            for _ in range(12):
                await shop.db.login_failed("ann")
            await settle(shop)
            shop.clock.advance(61 * MINUTE)
            assert (await shop.db.login_failed("ann")).rules == ()

    async def test_what_was_typed_is_nowhere(self) -> None:
        async with watched() as (shop, _):
            await shop.db.login_failed("hunter2-my-password")
            await shop.db.login_failed("ann@example.org", user_id="ann")
            await settle(shop)
            first, second = await shop.events(EventType.LOGIN_FAILED)
            assert (first.user_id, second.user_id) == (None, "ann")
            stored = repr([vars(shop.memory), vars(shop.memory._watched), await shop.events()])
            assert "hunter2" not in stored
            assert "ann@example" not in stored

    async def test_a_network_that_tries_many_users(self) -> None:
        async with watched() as (shop, told):
            for number in range(16):
                scope = {"type": "http", "headers": [(b"user-agent", b"x")], "client": ("203.0.113.9", 1)}
                verdict = await shop.db.login_failed(f"user{number}", Request(scope))
                await settle(shop)
            assert Rule.PASSWORD_SPRAYING in verdict.rules
            assert told[-1].user_id is None

    async def test_while_the_database_is_away_it_is_counted_and_nothing_raises(self) -> None:
        async with watched() as (shop, _):
            await shop.db.login_failed("ann")
            shop.faults.always["profile"] = Fail()
            assert (await shop.db.login_failed("ann")).rules == ()
            assert shop.db.counters["logins_not_assessed"] == 1


class TestSessionsInUse:
    @pytest.mark.security("A6")
    async def test_another_browser_is_told_and_by_default_nothing_else(self) -> None:
        async with watched() as (shop, told):
            browser, _ = await log_in(shop)
            reply = await browser.do(lambda session: session.user_id, **{"user-agent": CHROME})
            assert reply.result == "ann"
            await settle(shop)
            assert [suspicion.verdict.rules for suspicion in told] == [(Rule.SESSION_HIJACK,)]
            [event] = await shop.events(EventType.RISK_FOUND)
            assert (event.sid, event.details["rules"]) == (browser.sid, "session_hijack")
            # Told once, not with every request of the other browser.
            await browser.do(dict, **{"user-agent": CHROME})
            await settle(shop)
            assert len(told) == 1

    @pytest.mark.parametrize("agent", [FIREFOX, NEWER])
    async def test_the_same_browser_and_its_update_are_not(self, agent: str) -> None:
        async with watched() as (shop, told):
            browser, _ = await log_in(shop)
            await browser.do(dict, **{"user-agent": FIREFOX})
            await browser.do(dict, **{"user-agent": agent})
            await settle(shop)
            assert told == []

    @pytest.mark.security("A6")
    async def test_where_the_policy_ends_it_the_thief_sees_nothing(self) -> None:
        async with watched(actions={"high": "revoke_session"}) as (shop, told):
            browser, _ = await log_in(shop)
            thief = browser.twin()
            reply = await thief.do(lambda session: [session.user_id, session.ended_reason], **{"user-agent": CHROME})
            assert reply.result == [None, "risk"]
            await settle(shop)
            assert len(told) == 1
            assert (await browser.do(lambda session: session.user_id, **{"user-agent": FIREFOX})).result is None
            assert shop.record(told[0].sid).end_reason == "risk"

    async def test_where_the_policy_ends_all_of_the_user(self) -> None:
        async with watched(actions={"high": "revoke_user"}) as (shop, _):
            browser, _ = await log_in(shop)
            await log_in(shop)
            await browser.do(dict, **{"user-agent": CHROME})
            await settle(shop)
            assert await shop.db.sessions_of("ann") == []

    async def test_another_worker_sees_it_too(self) -> None:
        async with watched(actions={"high": "revoke_session"}) as (shop, _):
            browser, _ = await log_in(shop)
            # A new event loop's worth of memory: what it knows of the session is what is stored.
            await shop.db.close()
            reply = await browser.do(lambda session: session.user_id, **{"user-agent": CHROME})
            assert reply.result is None


class TestStepUp:
    async def test_a_suspicious_login_owes_a_proof_until_it_is_given(self) -> None:
        policy = {"rules": {"new_device": "high"}, "actions": {"high": "step_up"}}
        async with watched(**policy) as (shop, _):
            await log_in(shop)
            browser, verdict = await log_in(shop, agent=CHROME)
            assert verdict.action is RiskAction.STEP_UP

            async def asked(browser: Browser) -> int:
                async def act(session: Any) -> int:
                    try:
                        await require_login()(session_connection(session))
                    except HTTPException as error:
                        return error.status_code
                    return 200

                result: int = (await browser.do(act, **{"user-agent": CHROME})).result
                return result

            assert await asked(browser) == 401
            await browser.do(lambda session: session.step_up(("otp",)), **{"user-agent": CHROME})
            assert await asked(browser) == 200

    async def test_a_session_in_other_hands_owes_one_too(self) -> None:
        async with watched(actions={"high": "step_up"}) as (shop, _):
            browser, _ = await log_in(shop)

            async def owes(session: Any) -> bool:
                state = state_of(session)
                return state.owes_proof or owes_proof(state, session)

            assert not (await browser.do(owes, **{"user-agent": FIREFOX})).result
            assert (await browser.do(owes, **{"user-agent": CHROME})).result
            await settle(shop)
            assert (await browser.do(owes, **{"user-agent": FIREFOX})).result  # who that is has to be proved
            await browser.do(lambda session: session.step_up(("otp",)), **{"user-agent": FIREFOX})
            assert not (await browser.do(owes, **{"user-agent": FIREFOX})).result


def session_connection(session: Any) -> HTTPConnection:
    """A connection with ``session``, as the middleware makes it."""
    return HTTPConnection({"type": "http", "headers": [], SCOPE_KEY: {"sid": session}, "session": session, "path": "/"})


class TestReviewing:
    async def test_an_attack_is_unlearnt_and_its_session_ended(self) -> None:
        async with watched() as (shop, _):
            await log_in(shop)
            shop.clock.advance(DAY)
            thief, _ = await log_in(shop, agent=CHROME)
            [event] = [one for one in await shop.events(EventType.LOGIN) if one.sid == thief.sid]
            await shop.db.feedback(event, "attack")
            assert (await thief.do(lambda session: session.user_id)).result is None
            _, verdict = await log_in(shop, agent=CHROME)
            assert Rule.NEW_DEVICE in verdict.rules
            [said] = await shop.events(EventType.RISK_FEEDBACK)
            assert (said.user_id, said.reason) == ("ann", "attack")

    async def test_a_refused_login_that_was_the_user_is_learnt(self) -> None:
        async with watched(rules={"new_device": "high"}, actions={"high": "refuse"}) as (shop, _):
            await log_in(shop)
            assert (await shop.browser().do(lambda s: s.login("ann"), **{"user-agent": CHROME})).status == 409
            await settle(shop)
            [refused] = await shop.events(EventType.RISK_FOUND)
            await shop.db.feedback(refused, "legitimate")
            _, verdict = await log_in(shop, agent=CHROME)
            assert Rule.NEW_DEVICE not in verdict.rules

    async def test_feedback_is_about_logins(self) -> None:
        async with watched() as (shop, _):
            browser, _ = await log_in(shop)
            await browser.do(lambda session: session.logout())
            [ended] = await shop.events(EventType.SESSION_ENDED)
            with pytest.raises(ValueError, match="no login"):
                await shop.db.feedback(ended, "attack")
            [login] = await shop.events(EventType.LOGIN)
            with pytest.raises(ValueError, match="legitimate"):
                await shop.db.feedback(login, "fine")  # type: ignore[arg-type]

    async def test_another_policy_is_tried_on_what_has_happened(self) -> None:
        async with watched() as (shop, told):
            for agent in (FIREFOX, FIREFOX, CHROME, CHROME):
                await log_in(shop, agent=agent)
                shop.clock.advance(DAY)
            for _ in range(11):
                await shop.db.login_failed("bob@example.org", user_id="bob")
            await settle(shop)
            said = len(told)
            shop.store.reset()
            policy = RiskPolicy(rules={"new_device": "high", "unusual_login": None}, actions={"high": "refuse"})
            found = await shop.db.replay_risk(policy)
            assert (found.logins, found.failures) == (4, 11)
            assert found.levels[RiskLevel.HIGH] == 1
            assert found.actions[RiskAction.REFUSE] == 1
            events = {event.type for event, verdict in found.found if Rule.BRUTE_FORCE in verdict.rules}
            assert events == {EventType.LOGIN_FAILED}
            assert len(told) == said
            assert {"apply", "count", "record_logins"}.isdisjoint(shop.store.calls)
            assert (await shop.db.replay_risk(policy, until=1)).logins == 0


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"actions": {"severe": "notify"}}, "low, medium, high"),
            ({"actions": {"none": "notify"}}, "low, medium, high"),
            ({"actions": {"high": "explode"}}, "revoke_user"),
            ({"rules": {"new_phone": "high"}}, "new_device"),
            ({"rules": {"new_device": "severe"}}, "low, medium, high"),
            ({"questioned": 0.1}, "Questioned"),
            ({"settings": {}}, "RuleSettings"),
            ({"dry_run": 1}, "dry_run"),
            ({"key": "secret"}, "key"),
            ({"keep": 30}, "timedelta"),
        ],
        ids=str,
    )
    def test_that_cannot_work(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            RiskPolicy(**settings)

    def test_of_the_database(self) -> None:
        with pytest.raises(ConfigurationError, match="RiskPolicy"):
            SessionDB("memory://", risk="high")  # type: ignore[arg-type]

    def test_a_hook_must_take_the_suspicion(self) -> None:
        with pytest.raises(ConfigurationError, match="suspicion"):
            SessionDB("memory://").on_risk(lambda: None)  # type: ignore[arg-type, misc]
