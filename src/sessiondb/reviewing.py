"""What was thought of logins, looked at again: what somebody says of one, and what another policy would have done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sessiondb.assessing import Seen
from sessiondb.core import history as logins
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import Event, EventType
from sessiondb.core.features import Marks
from sessiondb.core.policies import Policies
from sessiondb.core.policy import SECOND
from sessiondb.core.record import EndReason
from sessiondb.core.risk import RiskAction, RiskLevel, Verdict
from sessiondb.core.token import Sid, is_sid
from sessiondb.ending import end_sids
from sessiondb.geo import NOWHERE, Place
from sessiondb.settings import Settings
from sessiondb.stores.base import HISTORY_ENTRY_BYTES, EventQuery, open_store
from sessiondb.watching import Ends

if TYPE_CHECKING:
    from sessiondb.risk_policy import RiskPolicy
    from sessiondb.runtime import Runtime

PAGE = 1000
SHOWN = 1000
_SAME = 2 * SECOND

Said = Literal["legitimate", "attack"]
_OF_LOGINS = (EventType.LOGIN, EventType.LOGIN_REFUSED, EventType.RISK_FOUND)


async def feedback(runtime: Runtime, event: Event, said: Said) -> None:
    """See ``SessionDB.feedback``."""
    if said not in ("legitimate", "attack"):
        raise ValueError(f"said is {said!r:.60}; use 'legitimate' or 'attack'.")
    if event.type not in _OF_LOGINS or event.user_id is None:
        raise ValueError(f"an event of type {event.type} is no login of a user; use one of {', '.join(_OF_LOGINS)}.")
    judge = await runtime.assessing.judge()
    if judge is None:
        raise ConfigurationError("SessionDB.feedback: nothing is assessed here; use SessionDB(risk=RiskPolicy()).")
    async with runtime.using_store() as store:
        history = (await store.profile(event.user_id, [])).history
        seen = _seen(runtime, event)
        marks = judge.marks(seen)
        entry = _entry_of(history, event.at, marks, exactly=said == "legitimate")
        if said == "attack":
            if entry is not None:
                await store.drop_login(event.user_id, entry)
            if event.sid is not None and is_sid(event.sid):
                await end_sids(runtime, [Sid(event.sid)], EndReason.RISK)
        elif entry is None:
            # A login that was refused: the next one from there is no stranger's.
            taught = judge.entry(seen, marks, logins.decode(history), judge.client(seen))
            await store.record_logins([(event.user_id, taught)], runtime.now() + judge.policy.keep_micros)
    runtime.counters[EventType.RISK_FEEDBACK.value] += 1
    runtime.background.event(
        Event(
            type=EventType.RISK_FEEDBACK,
            at=runtime.now(),
            user_id=event.user_id,
            sid=event.sid,
            reason=said,
            details={"of": str(event.type), "at": event.at},
        )
    )


def _entry_of(history: bytes, at: int, marks: Marks, *, exactly: bool) -> bytes | None:
    """The entry of the login at that time with those ``marks``, or, if not ``exactly``, with the most of them."""
    best: tuple[int, bytes] | None = None
    for start in range(0, len(history), HISTORY_ENTRY_BYTES):
        raw = history[start : start + HISTORY_ENTRY_BYTES]
        for entry in logins.decode(raw):
            alike = sum(one == other for one, other in zip(entry.marks, marks, strict=True))
            if (
                abs(entry.at - at) <= _SAME
                and (not exactly or alike == len(marks))
                and (best is None or alike > best[0])
            ):
                best = alike, raw
    return None if best is None else best[1]


def _seen(runtime: Runtime, event: Event) -> Seen:
    agent, country = event.personal.get("user_agent"), event.personal.get("country")
    geo = runtime.clients.geo
    place = NOWHERE if geo is None else geo.place(event.ip)
    if place.country is None and country is not None:
        place = Place(country=str(country))
    return Seen(event.at, event.ip, None if agent is None else str(agent), place)


@dataclass(frozen=True, slots=True)
class Replay:
    """What a policy would have said of the logins that the trail has.

    ``logins`` and ``failures`` count what was looked at; ``levels`` and ``actions`` what verdicts on logins came to;
    ``found`` are the newest 1,000 of them that had something to say, oldest first, with their events.
    """

    logins: int
    failures: int
    levels: Mapping[RiskLevel, int]
    actions: Mapping[RiskAction, int]
    found: Sequence[tuple[Event, Verdict]]


async def replay(
    runtime: Runtime,
    policy: RiskPolicy,
    since: int | None,
    until: int | None,
    limit: int,
) -> Replay:
    """See ``SessionDB.replay_risk``."""
    events = await _logins(runtime, since, until, limit)
    now = 0
    scratch = _scratch(runtime, policy, lambda: now)
    await scratch.ready()
    assessing = scratch.assessing
    levels: Counter[RiskLevel] = Counter()
    actions: Counter[RiskAction] = Counter()
    found: list[tuple[Event, Verdict]] = []
    failures = 0
    try:
        for event in events:
            now = event.at
            seen = _seen(runtime, event)
            if event.type == EventType.LOGIN_FAILED:
                failures += 1
                hint = event.user_id or f"\x1f{event.personal.get('hint', '')}"
                verdict = await assessing.failed(hint, seen)
            else:
                assert event.user_id is not None
                assessment = await assessing.login(event.user_id, seen)
                if assessment is None:
                    continue
                assessing.accepted(assessment)
                verdict = assessment.verdict
                levels[verdict.level] += 1
                actions[verdict.action] += 1
            await assessing.counting.flush()
            await scratch.background.flush()
            if verdict.findings:
                found.append((event, verdict))
    finally:
        await scratch.close()
    return Replay(sum(levels.values()), failures, levels, actions, found[-SHOWN:])


async def _logins(runtime: Runtime, since: int | None, until: int | None, limit: int) -> list[Event]:
    """Logins and failed ones, oldest first: the newest ``limit`` of each."""
    await runtime.ready()
    await runtime.background.flush()
    events: list[Event] = []
    async with runtime.using_store() as store:
        for type_ in (EventType.LOGIN, EventType.LOGIN_FAILED):
            after: int | None = None
            left = limit
            while left > 0:
                query = EventQuery(type=type_, since=since, until=until, after=after, limit=min(PAGE, left))
                page = await store.events(query)
                events += [event for event in page.events if event.user_id is not None or type_ != EventType.LOGIN]
                left -= len(page.events)
                after = page.next
                if after is None:
                    break
    return sorted(events, key=lambda event: event.at)


def _scratch(runtime: Runtime, policy: RiskPolicy, clock: Callable[[], int]) -> Runtime:
    """A runtime in memory, in which the past is gone through once more."""
    from sessiondb.runtime import Runtime  # which stands on all that stands on this

    settings = Settings(Policies(None, None), 60.0, 65_536, None, clock, risk=policy)
    return Runtime(open_store("memory://"), settings, Counter(), Ends())
