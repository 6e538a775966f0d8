"""Random requests of several browsers against a small model of what sessions are."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness import DAY, HOUR, Browser, open_shop
from sessiondb import Policy, Session
from sessiondb.core.policy import SECOND

IDLE, ABSOLUTE, PER_USER = int(HOUR * SECOND), int(DAY * SECOND), 2
POLICY = Policy(idle=HOUR, absolute=DAY, per_user=PER_USER, keep_ended=365 * DAY)


@dataclasses.dataclass
class Stored:
    """A session as the model has it."""

    user: str | None
    data: dict[str, Any]
    created: int
    seen: int
    sid: str = ""
    ended: str | None = None

    def reason(self, now: int) -> str | None:
        """Why it is over at ``now``, or ``None``."""
        if self.ended is None and now >= min(self.created + ABSOLUTE, self.seen + IDLE):
            return "expired_absolute" if self.created + ABSOLUTE <= self.seen + IDLE else "expired_idle"
        return self.ended


class Request:
    """One request in the model: the verbs stage, ``commit`` carries out."""

    def __init__(self, all_stored: list[Stored], mine: Stored | None, now: int) -> None:
        self.all = all_stored
        self.now = now
        self.mine = mine
        self.old: Stored | None = None
        self.staged: str | None = None
        self.data: dict[str, Any] = copy.deepcopy(mine.data) if mine is not None else {}
        self.cookie: str | None = None

    @property
    def user(self) -> str | None:
        if self.staged == "logout":
            return None
        if self.staged is not None and self.staged.startswith("login "):
            return self.staged[6:]
        return self.mine.user if self.mine is not None else None

    def login(self, user: str) -> None:
        if self.mine is not None and self.mine.user == user and self.staged != "logout":
            self.staged = "again"
            return
        if self.user is not None:
            self.data.clear()
        if self.mine is not None:
            self.old, self.mine = self.mine, None
        self.staged = f"login {user}"

    def logout(self) -> None:
        if self.mine is None:
            self.mine, self.old = self.old, None
        self.staged = "logout"
        self.data.clear()

    def rotate(self) -> None:
        if self.staged is None and self.mine is not None:
            self.staged = "rotate"

    def commit(self) -> None:
        staged, self.staged = self.staged, None
        if staged == "logout":
            if self.mine is not None:
                self.mine.ended, self.mine.data = "logout", {}
                self.cookie = "deleted"
            self.mine = None
            self.data.clear()
        elif staged is not None and staged.startswith("login "):
            self._new(staged[6:])
            if self.old is not None:
                self.old.ended, self.old.data = "login", {}
                self.old = None
            self._limit(staged[6:])
        elif self.mine is None:
            if self.data:
                self._new(None)
        else:
            self.mine.data = copy.deepcopy(self.data)
            if staged is not None:
                self.cookie = "set"

    def finish(self) -> None:
        self.commit()
        # One that was used is seen, at most once a minute.
        if self.mine is not None and self.now - self.mine.seen >= 60 * SECOND:
            self.mine.seen = self.now

    def _new(self, user: str | None) -> None:
        self.mine = Stored(user, copy.deepcopy(self.data), self.now, self.now)
        self.all.append(self.mine)
        self.cookie = "set"

    def _limit(self, user: str) -> None:
        living = [one for one in self.all if one.user == user and one.reason(self.now) is None]
        for one in living[:-PER_USER]:
            one.ended, one.data = "limit", {}


keys = st.sampled_from("abc")
values = st.one_of(st.integers(0, 3), st.lists(st.integers(0, 1), max_size=2), st.none(), st.text("xé", max_size=2))
users = st.sampled_from(["ann", "bob"])
steps = st.one_of(
    st.tuples(st.just("set"), keys, values),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("append"), keys),
    st.tuples(st.just("clear")),
    st.tuples(st.just("save")),
    st.tuples(st.just("modify"), keys, values),
    st.tuples(st.just("login"), users, st.booleans()),
    st.tuples(st.just("logout"), st.booleans()),
    st.tuples(st.just("rotate"), st.booleans()),
)


def change(data: dict[str, Any], step: tuple[Any, ...]) -> None:
    """The steps that change data, on a session as on a dictionary."""
    match step:
        case ("set", key, value):
            data[key] = copy.deepcopy(value)
        case ("delete", key):
            data.pop(key, None)
        case ("append", key):
            if isinstance(data.get(key), list):
                data[key].append(9)
        case ("clear",):
            data.clear()


async def carry_out(session: Session, step: tuple[Any, ...]) -> None:
    match step:
        case ("save",):
            await session.save()
        case ("modify", key, value):
            await session.modify(lambda data: data.__setitem__(key, value))
        case ("login" | "logout" | "rotate" as verb, *args, wait):
            durably = getattr(session, verb)(*args)
            if wait:
                await durably
        case _:
            change(session, step)


def carry_out_in_model(request: Request, step: tuple[Any, ...]) -> None:
    match step:
        case ("save",):
            request.commit()
        case ("modify", key, value):
            if request.staged is not None:
                request.commit()
            request.data[key] = copy.deepcopy(value)
            request.commit()
        case ("login" | "logout" | "rotate" as verb, *args, wait):
            getattr(request, verb)(*args)
            if wait:
                request.commit()
        case _:
            change(request.data, step)


class Sessions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.opened = open_shop(policy=POLICY)
        self.shop = self.runner.run(self.opened.__aenter__())
        self.browsers: list[Browser] = []
        self.held: list[Stored | None] = []
        self.all: list[Stored] = []

    def teardown(self) -> None:
        self.runner.run(self.opened.__aexit__(None, None, None))
        self.runner.close()

    @initialize()
    def three_browsers(self) -> None:
        self.browsers = [self.shop.browser() for _ in range(3)]
        self.held = [None] * 3

    def _held(self, number: int) -> Stored | None:
        held = self.held[number]
        return held if held is not None and held.reason(self.shop.clock.now) is None else None

    @rule(number=st.integers(0, 2), plan=st.lists(steps, min_size=1, max_size=6))
    def anything(self, number: int, plan: list[tuple[Any, ...]]) -> None:
        self.request(number, plan)

    @rule(number=st.integers(0, 2), user=users, wait=st.booleans())
    def log_in(self, number: int, user: str, wait: bool) -> None:
        self.request(number, [("login", user, wait)])

    @rule(number=st.integers(0, 2), key=keys, value=values)
    def write(self, number: int, key: str, value: Any) -> None:
        self.request(number, [("set", key, value)])

    @rule(number=st.integers(0, 2))
    def forget_the_cookie(self, number: int) -> None:
        self.browsers[number].token = None
        self.held[number] = None

    def request(self, number: int, plan: list[tuple[Any, ...]]) -> None:
        now = self.shop.clock.advance(1)
        model = Request(self.all, self._held(number), now)

        async def endpoint(session: Session) -> list[Any]:
            for step in plan:
                await carry_out(session, step)
            return [session.user_id, dict(session)]

        for step in plan:
            carry_out_in_model(model, step)
        expected = [model.user, copy.deepcopy(model.data)]
        model.finish()
        reply = self.runner.run(self.browsers[number].do(endpoint))
        assert reply.result == expected
        assert reply.cookie == model.cookie
        if model.cookie is not None:
            self.held[number] = model.mine
        if model.mine is not None:
            sid = self.browsers[number].sid
            assert model.mine.sid in ("", sid)
            model.mine.sid = sid
        self.runner.run(self.shop.flush())

    @rule(number=st.integers(0, 2))
    def look(self, number: int) -> None:
        held = self._held(number)
        reply = self.runner.run(self.browsers[number].do(lambda session: [session.user_id, dict(session)]))
        assert reply.result == ([None, {}] if held is None else [held.user, held.data])
        assert reply.cookie is None
        if held is not None and self.shop.clock.now - held.seen >= 60 * SECOND:
            held.seen = self.shop.clock.now
        self.runner.run(self.shop.flush())

    @rule(minutes=st.sampled_from([1, 20, 59, 61, 600]))
    def time_passes(self, minutes: int) -> None:
        self.shop.clock.advance(60 * minutes)

    @rule(number=st.integers(0, 2))
    def revoke(self, number: int) -> None:
        held = self.held[number]
        if held is None:
            return
        living = held.reason(self.shop.clock.now) is None
        assert self.runner.run(self.shop.db.revoke(held.sid)) is living
        self._end([held], "revoked")

    @rule(user=users, keep=st.one_of(st.none(), st.integers(0, 2)))
    def revoke_all(self, user: str, keep: int | None) -> None:
        kept = self.held[keep] if keep is not None else None
        now = self.shop.clock.advance(1)
        living = [one for one in self.all if one.user == user and one.reason(now) is None and one is not kept]
        ended = self.runner.run(self.shop.db.revoke_all(user, keep=kept.sid if kept is not None else None))
        assert ended == len(living)
        self._end(living, "revoked")

    @rule()
    def sweep(self) -> None:
        self.runner.run(self.shop.db.sweep())

    def _end(self, sessions: list[Stored], reason: str) -> None:
        for one in sessions:
            one.ended = one.reason(self.shop.clock.now) or reason
            one.data = {}

    @invariant()
    def the_database_holds_what_the_model_holds(self) -> None:
        now = self.shop.clock.now
        for one in self.all:
            if not one.sid:
                continue  # made and ended within one request
            info = self.runner.run(self.shop.db.get(one.sid))
            assert info is not None
            assert info.end_reason == one.reason(now)
            assert info.user_id == one.user
            if info.end_reason is None:
                assert info.data == one.data
        for user in ("ann", "bob"):
            listed = self.runner.run(self.shop.db.sessions_of(user))
            living = [one.sid for one in self.all if one.user == user and one.reason(now) is None]
            assert sorted(info.sid for info in listed) == sorted(living)
        unended = sum(one.ended is None for one in self.all if one.reason(now) is None)
        assert self.runner.run(self.shop.db.stats()).live >= unended


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
