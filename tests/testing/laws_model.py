"""Rounds of concurrent requests by a few browsers to two workers on one database, and what the laws say of each.

Within a round everything races, so the model does not foretell: it says which ends, values and counts are possible,
and which are certain. After the round the database is asked, and what it holds is what the next round begins with.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from sessiondb import Cookie, Policy, Session, SessionDB, SessionInfo, SessionMiddleware, Store, StoreError
from sessiondb.core.token import parse
from sessiondb.testing import Delay, FaultyStore, LoseReply

IDLE, ABSOLUTE, PER_USER = 3600, 86_400, 3
POLICY = Policy(idle=IDLE, absolute=ABSOLUTE, remember=None, per_user=PER_USER)
FAULTS: dict[Any, float] = {LoseReply(): 0.06, Delay(0): 0.3, Delay(0.003): 0.1}


@dataclass(frozen=True)
class Step:
    """One request. ``lost``: its response never arrives; ``cancelled``: the client goes away after so many turns."""

    browser: int
    worker: int
    verb: str
    argument: Any = None
    lost: bool = False
    cancelled: int | None = None


@dataclass
class Done:
    """What became of a step: which session served it, and whether the client knows that it succeeded."""

    step: Step
    before: str | None = None
    after: str | None = None
    known: bool = False
    value: int = 0


@dataclass
class Answer:
    """A response."""

    status: int = 500
    cookies: list[str] = field(default_factory=list)
    body: bytes = b""


@dataclass
class Browser:
    """Holds one cookie; all its tabs show the same."""

    token: str | None = None

    @property
    def sid(self) -> str | None:
        parsed = parse(self.token.encode()) if self.token else None
        return None if parsed is None else str(parsed.sid)


class Worker:
    """One process: a ``SessionDB`` of its own, and an app that does as it is told."""

    def __init__(self, store: Store, seed: int, clock: Callable[[], int]) -> None:
        self.skew = 0
        faulty = FaultyStore(store, rates=FAULTS, seed=seed, methods=frozenset({"apply"}))
        self.db = SessionDB(
            faulty, policy=POLICY, sweep_every=None, timeout=30.0, clock=lambda: clock() + self.skew, breaker=None
        )
        self.actions: dict[str, Callable[[Session], Any]] = {}
        self.app = SessionMiddleware(self._app, self.db, cookie=Cookie(secure=False))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        session = HTTPConnection(scope).session
        assert isinstance(session, Session)
        before = session.sid
        try:
            await self.actions.pop(scope["path"])(session)
        except HTTPException as error:  # as Starlette does: one that the app has handled
            if isinstance(error, StoreError):
                raise
            await Response(status_code=error.status_code)(scope, receive, send)
            return
        await JSONResponse([before, session.sid])(scope, receive, send)

    async def request(self, key: str, token: str | None, action: Callable[[Session], Any]) -> Answer:
        """One request, straight to the app: what a server between would add is not what races here."""
        self.actions[key] = action
        headers = [(b"host", b"shop.test")] + ([(b"cookie", f"sid={token}".encode())] if token else [])
        scope = {
            "type": "http",
            "method": "POST",
            "path": key,
            "headers": headers,
            "scheme": "https",
            "query_string": b"",
        }
        answer = Answer()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.cookies = [value.decode() for name, value in message["headers"] if name == b"set-cookie"]
            else:
                answer.body += message.get("body", b"")

        await self.app(scope, receive, send)
        return answer


@dataclass
class Stored:
    """A living session as the database had it after the last round."""

    user: str | None
    data: dict[str, Any]
    created: int


@dataclass
class World:
    """Browsers, workers and what is known."""

    workers: list[Worker]
    observer: SessionDB
    now: Callable[[], int]
    browsers: list[Browser] = field(default_factory=lambda: [Browser() for _ in range(4)])
    living: dict[str, Stored] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    numbers: Any = field(default_factory=itertools.count)
    rounds: int = 0
    requests: int = 0

    # -- a round ------------------------------------------------------------------------------------------

    async def round(self, steps: list[Step]) -> None:
        """Make all requests of ``steps`` at once, then look at what they have left."""
        tokens = [browser.token for browser in self.browsers]
        done = await asyncio.gather(*(self._step(step, tokens[step.browser]) for step in steps))
        for worker in self.workers:
            await worker.db.runtime.background.flush()
        await self._judge(done)
        self.rounds += 1
        self.requests += len(steps)

    async def _step(self, step: Step, token: str | None) -> Done:
        done = Done(step, value=next(self.numbers))
        worker, browser = self.workers[step.worker], self.browsers[step.browser]
        if step.verb in ("revoke", "revoke_all", "sweep"):
            await self._manage(worker, done)
            return done
        request = asyncio.ensure_future(worker.request(str(done.value), token, _action(step, done.value)))
        if step.cancelled is not None:
            for _ in range(step.cancelled):
                await asyncio.sleep(0)
            request.cancel()
        try:
            response = await request
        except asyncio.CancelledError:
            # What the server then still does has to be over before anybody looks.
            await asyncio.sleep(0.05)
            return done
        assert response.status in (200, 401, 409, 503), (step, response)
        if step.lost:
            return done
        for cookie in response.cookies:
            browser.token = cookie.partition(";")[0].partition("=")[2] or None
            done.after = browser.sid
        if response.status == 200:
            done.before, after = json.loads(response.body)
            done.after = done.after or after  # a session that the first write made is not there before the commit
            done.known = True
        return done

    async def _manage(self, worker: Worker, done: Done) -> None:
        verb, argument = done.step.verb, done.step.argument
        if verb == "sweep":
            await worker.db.sweep()
        elif verb == "revoke_all":
            await worker.db.revoke_all(argument)
        elif (sid := self.browsers[done.step.browser].sid) is not None:
            done.before = sid
            await worker.db.revoke(sid)
        done.known = True

    # -- what the laws say --------------------------------------------------------------------------------

    async def _judge(self, done: list[Done]) -> None:
        infos = {sid: await self.observer.get(sid) for sid in (*self.living, *_made(done))}
        for sid, stored in self.living.items():
            info = infos[sid]
            assert info is not None, f"{sid} has vanished"
            assert info.end_reason != "reuse", f"{sid} was taken for stolen"
            self._judge_end(sid, stored, info, done)
            if info.end_reason is None:
                _judge_data(stored, info, [one for one in done if _wrote(one, sid)])
        for one in done:
            self._judge_login(one, infos, done)
        before, self.living = self.living, {}
        for sid, info in infos.items():
            if info is not None and info.end_reason is None:
                assert sid not in self.dead, f"{sid} was ended, and lives"
                self.living[sid] = Stored(info.user_id, info.data, info.created_at)
        self.dead |= before.keys() - self.living.keys()
        await self._judge_limits()
        await self._judge_browsers(done)

    def _judge_end(self, sid: str, stored: Stored, info: SessionInfo, done: list[Done]) -> None:
        certain = [one for one in done if one.known and _ends(one, sid, stored)]
        if certain:
            assert info.end_reason is not None, f"{sid} outlived {[one.step for one in certain]}"
        possible = [one for one in done if _may_end(one, sid, stored, self.browsers)]
        if not possible:
            over = {"expired_idle", "expired_absolute", None}
            assert info.end_reason in over, f"{sid} was ended by nobody: {info.end_reason}"

    def _judge_login(self, one: Done, infos: dict[str, SessionInfo | None], done: list[Done]) -> None:
        if one.step.verb != "login" or not one.known or one.after is None or one.after in self.living:
            return
        info = infos[one.after]
        assert info is not None
        assert info.user_id == one.step.argument
        old = self.living.get(one.before) if one.before is not None else None
        if info.end_reason is None and old is not None:
            if old.user is not None:
                assert info.data == {}, "another user's data came along"
            else:
                # What others deleted just before it is not carried over.
                deleted = {other.step.argument for other in done if other.step.verb == "delete"}
                for key, value in old.data.items():
                    if key in deleted and key not in info.data:
                        continue
                    assert key in info.data, f"{key} of the anonymous session was lost"
                    assert type(info.data[key]) is type(value)

    async def _judge_limits(self) -> None:
        for user in ("ann", "bob"):
            living = await self.observer.sessions_of(user)
            assert len(living) <= PER_USER, f"{user} has {len(living)} sessions"
            assert {info.sid for info in living} >= {sid for sid, s in self.living.items() if s.user == user}

    async def _judge_browsers(self, done: list[Done]) -> None:
        """Whoever holds the token of a living session is served by it, by every worker."""
        for number, browser in enumerate(self.browsers):
            if browser.token is None:
                continue
            for worker in self.workers:
                look = await self._step(Step(number, self.workers.index(worker), "look"), browser.token)
                if look.before is None and _signed_in_beside_others(number, done):
                    browser.token = None
                    break
                if look.known:
                    expected = browser.sid if browser.sid in self.living else None
                    assert look.before == expected, f"browser {number} holds {expected} and is served {look.before}"
        for worker in self.workers:
            await worker.db.runtime.background.flush()

    # -- time ---------------------------------------------------------------------------------------------

    async def everything_is_over(self) -> None:
        """More than the absolute lifetime has passed."""
        for sid in self.living:
            info = await self.observer.get(sid)
            assert info is not None
            assert info.end_reason in ("expired_idle", "expired_absolute")
        self.dead |= self.living.keys()
        self.living.clear()
        for browser in self.browsers:
            browser.token = None

    async def measure_clocks(self) -> None:
        for worker in self.workers:
            await worker.db.runtime._measure_clock()


def _action(step: Step, value: int) -> Callable[[Session], Any]:
    async def act(session: Session) -> Any:
        match step.verb:
            case "set":
                session[step.argument] = value
            case "delete":
                session.pop(step.argument, None)
            case "count":
                with contextlib.suppress(LookupError):
                    await session.modify(lambda data: data.__setitem__("n", data.get("n", 0) + 1))
            case "login":
                await session.login(step.argument)
            case "logout":
                await session.logout()
            case "rotate":
                await session.rotate()
        return value

    return act


def _made(done: list[Done]) -> list[str]:
    return [one.after for one in done if one.after is not None]


def _wrote(one: Done, sid: str) -> bool:
    if one.step.verb not in ("set", "delete", "count"):
        return False
    # Whoever was not answered may have written into whatever session its browser held.
    return one.before == sid if one.known else True


def _ends(one: Done, sid: str, stored: Stored) -> bool:
    match one.step.verb:
        case "logout":
            return one.before == sid
        case "revoke":
            return one.before == sid
        case "revoke_all":
            return one.step.argument == stored.user
        case "login":
            return one.before == sid and one.after != sid
    return False


def _may_end(one: Done, sid: str, stored: Stored, browsers: list[Browser]) -> bool:
    if _ends(one, sid, stored):
        return True
    if one.step.verb == "login":
        # By the limit; or an unanswered login in the browser that held it.
        return one.step.argument == stored.user or not one.known
    return one.step.verb == "logout" and not one.known


def _judge_data(stored: Stored, info: SessionInfo, writes: list[Done]) -> None:
    keys = stored.data.keys() | info.data.keys() | {one.step.argument for one in writes if one.step.verb != "count"}
    for key in keys - {"n"}:
        on_key = [one for one in writes if one.step.argument == key]
        possible: list[Any] = [one.value if one.step.verb == "set" else None for one in on_key]
        if not any(one.known for one in on_key):
            possible.append(stored.data.get(key))
        assert info.data.get(key) in possible, f"{info.sid}: {key} is {info.data.get(key)!r}, not of {possible}"
    counts = [one for one in writes if one.step.verb == "count"]
    known = sum(one.known for one in counts)
    gained = info.data.get("n", 0) - stored.data.get("n", 0)
    assert known <= gained <= len(counts), f"{info.sid}: {gained} counted, {known} to {len(counts)} asked"


def _signed_in_beside_others(browser: int, done: list[Done]) -> bool:
    """Signing in again shuts the older secrets out, and which answer a browser keeps is chance, or none has come."""
    own = [one for one in done if one.step.browser == browser]
    logins = [one for one in own if one.step.verb == "login"]
    return bool(logins) and (len(own) > 1 or not logins[0].known)
