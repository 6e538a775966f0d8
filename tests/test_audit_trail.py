"""The audit trail of a database: checkpoints, verification, retention, forgetting, and what is required."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sessiondb import Policy, SessionDB
from sessiondb.auditing import Audit, append_to, log_checkpoint
from sessiondb.core.checkpoints import CHECKPOINT_STREAM, FULL_EVERY, parse_checkpoint
from sessiondb.core.errors import ConfigurationError, StoreError, StoreUnavailable
from sessiondb.core.events import EventType
from sessiondb.core.keys import generate_key
from sessiondb.core.record import EndReason
from sessiondb.core.signing import Ed25519Signer, Ed25519Verifier, HmacSigner
from sessiondb.stores.base import EventQuery, Position
from sessiondb.testing import Fail, Hang, LoseReply
from tests.harness import DAY, HOUR, MINUTE, Shop, open_shop

SIGNER = HmacSigner(generate_key())


@asynccontextmanager
async def audited(**audit: Any) -> AsyncIterator[tuple[Shop, list[str]]]:
    lines: list[str] = []
    settings = {"signer": SIGNER, "exports": [lines.append], **audit}
    async with open_shop(audit=Audit(**settings)) as shop:
        yield shop, lines


class TestCheckpoints:
    async def test_each_is_exported_once_and_says_where_the_trail_stands(self) -> None:
        async with audited() as (shop, lines):
            await shop.logged_in()
            first = await shop.db.checkpoint()
            assert await shop.db.checkpoint() is None  # nothing has happened
            await shop.logged_in()
            second = await shop.db.checkpoint()
            assert first is not None
            assert second is not None
            assert [parse_checkpoint(line) for line in lines] == [first, second]
            assert (second.number, second.previous) == (2, first.digest)
            found = await shop.db.verify_trail(lines)
            assert (found.is_sound, found.checkpoint, found.beyond) == (True, second, 2)  # the checkpoints themselves
            assert found.events == found.behind + 2

    async def test_workers_make_one_row_of_them(self) -> None:
        async with audited() as (shop, lines):
            other = shop.another_db(audit=Audit(signer=SIGNER, exports=[lines.append]))
            async with other:
                for _ in range(5):
                    await asyncio.gather(shop.db.create("ann"), other.create("bob"))
                    await asyncio.gather(shop.db.checkpoint(), other.checkpoint())
                numbers = [parse_checkpoint(line).number for line in lines]
                assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))
                assert len(numbers) >= 5
                assert (await other.verify_trail(lines)).problems == []

    async def test_one_in_sixty_four_is_full_and_a_new_worker_begins_there(self) -> None:
        async with audited() as (shop, lines):
            for _ in range(FULL_EVERY + 3):
                await shop.db.create("ann")
                await shop.db.checkpoint()
            full = [parse_checkpoint(line).number for line in lines if parse_checkpoint(line).full]
            assert full == [1, FULL_EVERY + 1]
            other = shop.another_db(audit=Audit(signer=SIGNER, exports=[lines.append]))
            async with other:
                await other.create("bob")
                made = await other.checkpoint()
                assert made is not None
                assert made.number == FULL_EVERY + 4
                assert (await other.verify_trail(lines[-1:])).problems == []

    async def test_the_timer_makes_them_and_leaves_what_another_worker_has_made(self) -> None:
        async with audited(checkpoint_every=HOUR) as (shop, lines):
            await shop.logged_in()
            auditing = shop.db.runtime.auditing
            await shop.flush()
            await auditing._checkpoint_in_time()
            assert len(lines) == 1
            await shop.logged_in()
            await shop.flush()
            await auditing._checkpoint_in_time()
            assert len(lines) == 1
            shop.clock.advance(HOUR)
            await auditing._checkpoint_in_time()
            assert len(lines) == 2

    @pytest.mark.parametrize(
        ("audit", "makes"),
        [
            (Audit(), False),
            (Audit(signer=SIGNER), True),
            (Audit(exports=[log_checkpoint]), True),
            (Audit(signer=SIGNER, checkpoint_every=None), False),
        ],
        ids=["neither", "signer", "exports", "never"],
    )
    async def test_they_are_made_where_somebody_signs_or_takes_them(self, audit: Audit, makes: bool) -> None:
        async with open_shop(audit=audit, sweep_every=60.0) as shop:
            await shop.db.open()
            assert ("checkpoint" in shop.db.runtime.timers.names) is makes

    async def test_an_export_that_fails_is_made_up_for(self, caplog: pytest.LogCaptureFixture) -> None:
        lines: list[str] = []
        broken = True

        async def export(line: str) -> None:
            if broken:
                raise OSError("the disk is full")
            lines.append(line)

        async with open_shop(audit=Audit(signer=SIGNER, exports=[export])) as shop:
            await shop.logged_in()
            assert await shop.db.checkpoint() is not None
            assert shop.db.counters["failed_exports"] == 1
            assert "tried again" in caplog.text
            broken = False
            await shop.logged_in()
            await shop.db.checkpoint()
            assert [parse_checkpoint(line).number for line in lines] == [1, 2]

    async def test_a_file_and_a_log_take_them(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "sessiondb.audit")
        path = tmp_path / "checkpoints.jsonl"
        async with open_shop(audit=Audit(signer=SIGNER, exports=[append_to(str(path)), log_checkpoint])) as shop:
            for _ in range(2):
                await shop.logged_in()
                await shop.db.checkpoint()
            lines = path.read_text().splitlines()
            assert [json.loads(line)["number"] for line in lines] == [1, 2]
            assert [record.getMessage() for record in caplog.records] == [f"checkpoint {line}" for line in lines]
            assert (await shop.db.verify_trail(lines)).is_sound


class TestVerifying:
    async def test_an_auditor_has_the_public_key_alone(self) -> None:
        signer = Ed25519Signer(generate_key())
        async with audited(signer=signer) as (shop, lines):
            await shop.logged_in()
            await shop.db.checkpoint()
            auditor = Ed25519Verifier(signer.public_key)
            assert (await shop.db.verify_trail(lines, verifiers=[auditor])).is_sound
            found = await shop.db.verify_trail(lines, verifiers=[SIGNER])
            assert [problem.kind for problem in found.problems] == ["checkpoint"]
            assert "not signed" in str(found.problems[0])

    async def test_without_a_checkpoint_it_says_so(self) -> None:
        async with open_shop() as shop:
            await shop.logged_in()
            found = await shop.db.verify_trail()
            assert (found.is_sound, found.checkpoint, found.exported, found.signed) == (True, None, False, False)
            assert (found.behind, found.beyond) == (0, found.events)

    async def test_events_taken_away_behind_the_checkpoint_are_missed(self) -> None:
        async with audited() as (shop, lines):
            for _ in range(4):
                await shop.logged_in()
            await shop.db.checkpoint()
            [stream] = [one for one in await shop.memory.streams() if one.name.startswith("l")]
            await shop.memory.purge_events({stream.name: 2})
            [problem] = (await shop.db.verify_trail(lines)).problems
            assert (problem.kind, problem.stream, problem.seq) == ("missing", stream.name, 1)
            await shop.memory.purge_events({stream.name: 9})
            [problem] = (await shop.db.verify_trail(lines)).problems
            assert (problem.kind, problem.stream, problem.seq) == ("truncated", stream.name, 1)

    async def test_a_checkpoint_taken_away_or_replaced_is_missed(self) -> None:
        async with audited() as (shop, lines):
            for _ in range(3):
                await shop.logged_in()
                await shop.db.checkpoint()
            [last] = await shop.memory.trail(CHECKPOINT_STREAM, 2, 9)
            shop.memory._events._delete(Position(CHECKPOINT_STREAM, 3))
            [problem] = (await shop.db.verify_trail(lines)).problems
            assert (problem.kind, problem.seq) == ("checkpoint", 3)
            forged = parse_checkpoint(lines[1]).line
            await shop.memory.append([replace(last, details={"checkpoint": forged})])
            kinds = {(problem.kind, problem.seq) for problem in (await shop.db.verify_trail(lines)).problems}
            assert ("checkpoint", 3) in kinds

    async def test_what_is_exported_must_be_checkpoints(self) -> None:
        async with audited() as (shop, _):
            with pytest.raises(ValueError, match="no checkpoint"):
                await shop.db.verify_trail(["hello"])

    async def test_a_row_with_a_hole_is_no_proof(self) -> None:
        async with audited() as (shop, lines):
            for _ in range(3):
                await shop.logged_in()
                await shop.db.checkpoint()
            await shop.memory.purge_events({CHECKPOINT_STREAM: 9})
            found = await shop.db.verify_trail([lines[0], lines[2]])
            assert found.checkpoint is None
            assert "checkpoint 2: it is missing" in " ".join(map(str, found.problems))


class TestForgetting:
    @pytest.mark.security("A3")
    async def test_nothing_of_a_person_is_left_and_the_trail_is_sound(self) -> None:
        async with audited() as (shop, lines):
            ann, bob = await shop.logged_in("ann"), await shop.logged_in("bob")
            sid = ann.sid
            await ann.do(lambda session: session.logout())
            await shop.logged_in("ann")
            await shop.flush()
            await shop.db.checkpoint()
            before = [event for event in await shop.events() if event.user_id == "ann"]
            assert len(before) >= 3
            forgotten = await shop.db.forget("ann")
            assert (forgotten.sessions, forgotten.events >= len(before)) == (2, True)
            assert await shop.db.sessions_of("ann", include_ended=True) == []
            assert "ann" not in {event.user_id for event in await shop.events()}
            assert sid not in {event.sid for event in await shop.events()}
            assert (await bob.do(lambda session: session.user_id)).result == "bob"
            await shop.db.checkpoint()
            found = await shop.db.verify_trail(lines)
            assert found.problems == []
            assert found.erased >= forgotten.events
            assert (await shop.db.forget("ann")).events == 0

    async def test_who_has_acted_is_erased_and_whom_it_was_about_stays(self) -> None:
        async with audited() as (shop, lines):
            await shop.logged_in("bob")
            staff = await shop.logged_in("staff")
            await staff.do(lambda session: session.impersonate("bob"))
            await shop.flush()
            await shop.db.checkpoint()
            await shop.db.forget("staff")
            text = " ".join(map(repr, await shop.events()))
            assert "staff" not in text
            assert "'bob'" in text
            assert (await shop.db.verify_trail(lines)).problems == []

    async def test_who_has_erased_is_told_and_a_person_may_do_it_alone(self) -> None:
        async with audited() as (shop, lines):
            await shop.logged_in("ann")
            await shop.logged_in("bob")
            await shop.db.forget("ann", actor="officer")
            await shop.db.forget("bob", actor="bob")
            told = {event.actor for event in await shop.events(EventType.USER_FORGOTTEN)}
            assert told == {"officer", None}
            assert (await shop.db.verify_trail(lines)).problems == []

    async def test_an_erasure_that_nobody_has_stated_is_found(self) -> None:
        async with audited() as (shop, lines):
            await shop.logged_in("ann")
            await shop.db.checkpoint()
            [stream] = [one for one in await shop.memory.streams() if one.name.startswith("l")]
            await shop.memory.blank([Position(stream.name, 1)], {"who"})
            [problem] = (await shop.db.verify_trail(lines)).problems
            assert (problem.kind, problem.stream, problem.seq) == ("erased", stream.name, 1)

    async def test_a_statement_of_somebody_else_counts_for_nothing(self) -> None:
        async with audited() as (shop, lines):
            await shop.logged_in("ann")
            await shop.db.checkpoint()
            forger = shop.another_db(audit=Audit(signer=HmacSigner(generate_key())))
            async with forger:
                await forger.forget("ann")
            kinds = [problem.kind for problem in (await shop.db.verify_trail(lines)).problems]
            assert sorted(set(kinds)) == ["erased", "statement"]

    @pytest.mark.parametrize("method", ["append", "blank", "forget_user"])
    async def test_it_goes_on_where_it_stopped(self, method: str) -> None:
        async with audited() as (shop, lines):
            for _ in range(3):
                await shop.logged_in("ann")
            await shop.db.checkpoint()
            faults = [None, Fail()] if method == "append" else [Fail()]  # what the background writes comes first
            shop.faults.next(method, *faults)
            with pytest.raises(StoreError):
                await shop.db.forget("ann")
            await shop.db.forget("ann")
            assert "ann" not in " ".join(map(repr, await shop.events()))
            assert (await shop.db.verify_trail(lines)).problems == []


class TestRetention:
    async def test_events_go_by_class_and_age_and_the_trail_stays_sound(self) -> None:
        keep = {"login": timedelta(days=30), "session": timedelta(days=7)}
        async with audited(keep=keep) as (shop, lines):
            old = await shop.logged_in("ann")
            await old.do(lambda session: session.logout())
            await shop.db.revoke_all("nobody")
            await shop.flush()
            await shop.db.checkpoint()
            shop.clock.advance(8 * DAY)
            await shop.logged_in("bob")
            keeping = shop.db.runtime.keeping
            await keeping.keep()
            types = [event.type for event in await shop.events()]
            assert EventType.SESSION_ENDED not in types
            assert types.count(EventType.LOGIN) == 2
            assert (await shop.db.verify_trail(lines)).problems == []
            shop.clock.advance(25 * DAY)
            await shop.db.checkpoint()
            await keeping.keep()
            assert [event.user_id for event in await shop.events(EventType.LOGIN)] == ["bob"]
            assert len(await shop.events(EventType.USER_REVOKED)) == 1  # administrators' deeds stay
            await shop.db.checkpoint()
            assert (await shop.db.verify_trail(lines)).problems == []
            await shop.logged_in("eve")
            assert (await shop.db.verify_trail(lines)).problems == []

    async def test_a_purge_that_was_stated_and_interrupted_is_sound(self) -> None:
        async with audited(keep={"login": timedelta(days=1)}) as (shop, lines):
            await shop.logged_in("ann")
            await shop.db.checkpoint()
            shop.clock.advance(2 * DAY)
            shop.faults.next("purge_events", Fail())
            with pytest.raises(StoreError):
                await shop.db.runtime.keeping.keep()
            assert (await shop.db.verify_trail(lines)).problems == []
            await shop.db.runtime.keeping.keep()
            assert await shop.events(EventType.LOGIN) == []
            assert (await shop.db.verify_trail(lines)).problems == []

    async def test_one_worker_at_a_time_looks_after_it(self) -> None:
        async with audited() as (shop, _):
            await shop.db.open()
            other = shop.another_db()
            async with other:
                shop.store.reset()
                await shop.db.runtime.keeping._keep_in_turn()
                assert shop.store.calls["expire"] == 1
                await other.runtime.keeping._keep_in_turn()
                assert shop.store.calls["expire"] == 1
                shop.clock.advance(10 * MINUTE)
                await other.runtime.keeping._keep_in_turn()
                assert shop.store.calls["expire"] == 2


async def told(db: SessionDB) -> None:
    """Until the hooks have run."""
    announcer = db.runtime.announcer
    assert announcer is not None
    assert announcer._task is not None
    await asyncio.wait_for(asyncio.shield(announcer._task), 10)


class TestRequired:
    @pytest.mark.security("A2")
    async def test_a_login_whose_event_cannot_be_written_is_none(self) -> None:
        async with open_shop(audit="required") as shop:
            browser = shop.browser()
            real = shop.memory._events.taken
            shop.memory._events.taken = lambda events: Position("x", 1)  # type: ignore[method-assign]
            reply = await browser.do(lambda session: session.login("ann"))
            assert (reply.status, reply.cookie) == (503, None)
            assert await shop.db.sessions_of("ann") == []
            shop.memory._events.taken = real  # type: ignore[method-assign]
            assert (await browser.do(lambda session: session.login("ann"))).status == 200

    async def test_by_default_the_login_stands_and_its_event_follows(self) -> None:
        async with open_shop() as shop:
            real = shop.memory._events.taken
            shop.memory._events.taken = lambda events: Position("x", 1)  # type: ignore[method-assign]
            await shop.logged_in("ann")
            shop.memory._events.taken = real  # type: ignore[method-assign]
            assert shop.db.counters["unsealed_events"] == 1
            assert [event.user_id for event in await shop.events(EventType.LOGIN)] == ["ann"]
            assert (await shop.db.verify_trail()).is_sound

    @pytest.mark.parametrize("fault", [Fail(), LoseReply(), Hang()], ids=["fail", "lost", "hang"])
    @pytest.mark.security("A2")
    async def test_what_an_administrator_cannot_be_seen_doing_is_not_done(self, fault: Any) -> None:
        async with open_shop(audit="required", timeout=0.5) as shop:
            await shop.logged_in("ann")
            shop.faults.next("append", fault)
            if isinstance(fault, LoseReply):
                # It was written, and nobody knows: it is settled with the next event, and the deed is done.
                assert await shop.db.revoke_all("ann") == 1
            else:
                with pytest.raises(StoreUnavailable):
                    await shop.db.revoke_all("ann")
                assert len(await shop.db.sessions_of("ann")) == 1

    @pytest.mark.security("A2")
    async def test_ends_by_a_query_are_told_at_least_once(self) -> None:
        async with open_shop(audit="required") as shop:
            browsers = [await shop.logged_in("ann") for _ in range(3)]
            shop.faults.always["events"] = Fail()
            assert await shop.db.revoke_all("ann") == 3
            await shop.db.close()
            shop.faults.always.clear()
            # Another process finds what was not announced.
            shop.clock.advance(2 * MINUTE)
            other = shop.another_db(audit="required")
            async with other:
                assert len((await other.sweep()).unannounced) == 3
                await told(other)
                events = (await other.events(type=EventType.SESSION_ENDED)).events
                assert sorted(str(event.sid) for event in events) == sorted(browser.sid for browser in browsers)
                assert {event.reason for event in events} == {EndReason.REVOKED.value}
                assert (await other.verify_trail()).is_sound

    async def test_an_end_is_told_once(self) -> None:
        async with open_shop(audit="required") as shop:
            browser = await shop.logged_in("ann")
            await browser.do(lambda session: session.logout())
            await told(shop.db)
            assert len(await shop.events(EventType.SESSION_ENDED)) == 1
            # All told: there is nothing left to find.
            shop.clock.advance(2 * MINUTE)
            assert not (await shop.db.sweep()).unannounced


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"audit": "always"}, "'required', 'queued' or Audit"),
            ({"audit": None}, "Audit"),
        ],
        ids=str,
    )
    def test_of_the_database(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            Shop(None, None, **settings)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"required": 1}, "required"),
            ({"signer": "secret"}, "Ed25519Signer"),
            ({"exports": "checkpoints.jsonl"}, "list of functions"),
            ({"exports": ["checkpoints.jsonl"]}, "cannot be called"),
            ({"exports": [lambda: None]}, "cannot be called"),
            ({"checkpoint_every": 0.1}, "checkpoint_every"),
            ({"checkpoint_every": timedelta(days=365)}, "checkpoint_every"),
            ({"keep": {"logins": None}}, "login, session, admin"),
            ({"keep": {"login": 30}}, "timedelta"),
            ({"keep": {"login": timedelta(hours=1)}}, "timedelta"),
        ],
        ids=lambda value: value if isinstance(value, str) else next(iter(value)),
    )
    def test_of_the_audit(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            Audit(**settings)


async def test_what_administrators_do_has_their_name() -> None:
    async with open_shop() as shop:
        one, _, _ = [await shop.logged_in("ann") for _ in range(3)]
        await shop.db.revoke(one.sid, actor="root")
        await shop.db.revoke_where(user_id="ann", created_after=0, actor="root")
        await shop.db.revoke_all("ann", actor="root")
        await shop.db.lock_user("ann", actor=7)
        await shop.db.unlock_user("ann", actor="root")
        await shop.db.revoke_everyone(actor="root")
        found = [(event.type, event.actor, event.sid) for event in await shop.events() if event.actor is not None]
        revoked = EventType.SESSIONS_REVOKED
        assert found == [
            (revoked, "root", one.sid),
            (revoked, "root", None),
            (EventType.USER_REVOKED, "root", None),
            (EventType.USER_LOCKED, "7", None),
            (EventType.USER_UNLOCKED, "root", None),
            (revoked, "root", None),
        ]
        assert len((await shop.db.events(actor="root")).events) == 5


async def test_other_lifetimes_are_an_event() -> None:
    async with open_shop() as shop:
        shop.db.set_policy(Policy(idle=timedelta(hours=1)))  # nobody is there to write it yet
        await shop.db.open()
        await asyncio.to_thread(shop.db.set_policy, Policy(idle=timedelta(hours=2)))
        await asyncio.sleep(0)
        [event] = await shop.events(EventType.POLICY_CHANGED)
        assert "7200000000" in str(event.details["lifetimes"])


async def test_the_filters_of_the_trail() -> None:
    async with open_shop() as shop:
        staff = await shop.logged_in("staff")
        await staff.do(lambda session: session.impersonate("ann"))
        await shop.flush()
        assert [event.type for event in (await shop.db.events(actor="staff")).events] == [
            EventType.IMPERSONATION_STARTED
        ]
        assert all(event.seal is None for event in await shop.events())
        assert all(event.seal is not None for event in (await shop.memory.events(EventQuery())).events)
