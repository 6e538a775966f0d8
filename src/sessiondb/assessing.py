"""Assessing logins: what is asked of the database, what the score and the rules say, and what is learnt from it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sessiondb.attempts import Counting, Found, Source
from sessiondb.core import history as logins
from sessiondb.core.agents import parse_agent
from sessiondb.core.alerts import Circumstances, apart
from sessiondb.core.client import decode_client
from sessiondb.core.countries import name_of, position_of
from sessiondb.core.errors import StoreError
from sessiondb.core.events import Event, EventType
from sessiondb.core.features import Features, Marker, Marks, features_of
from sessiondb.core.history import Entry
from sessiondb.core.networks import levels
from sessiondb.core.policy import SECOND
from sessiondb.core.record import Record
from sessiondb.core.risk import SAFE, Finding, RiskLevel, Rule, Verdict
from sessiondb.core.rules import (
    AFTER_FAILURE,
    AFTER_SUCCESS,
    LoginFacts,
    PastLogin,
    Position,
    findings_of,
)
from sessiondb.core.scoring import Score, score
from sessiondb.geo import NOWHERE, Place
from sessiondb.learning import Learning

if TYPE_CHECKING:
    from sessiondb.risk_policy import RiskPolicy
    from sessiondb.runtime import Runtime

_KEY_NAME = "risk_key"


@dataclass(frozen=True, slots=True)
class Seen:
    """Who asks, as far as it is known: at what time, from where, with what."""

    at: int
    ip: str | None
    user_agent: str | None
    place: Place = NOWHERE


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found about one login, and what is to be learnt if it is accepted."""

    user_id: str
    verdict: Verdict
    marks: Marks
    score: Score
    seen: Circumstances
    position: Position | None
    entry: bytes = field(repr=False)
    source: Source = field(repr=False)
    found: Found = field(repr=False)


class Judge:
    """A policy, and the key by which logins are compared. Pure but for the clock of ``Learning``."""

    def __init__(self, policy: RiskPolicy, key: bytes) -> None:
        self.policy = policy
        self._marker = Marker(key)
        self.key = key

    def source(self, user: str, seen: Seen) -> Source:
        """By what the tries of ``seen`` are counted."""
        where = None if seen.ip is None else levels(seen.ip)
        device = None if seen.ip is None or seen.user_agent is None else f"{seen.ip} {seen.user_agent}"
        return Source(self.key, user, where and where.network, device)

    def marks(self, seen: Seen) -> Marks:
        """The marks of ``seen``."""
        return self._marker(features_of(seen.ip, seen.user_agent, asn=seen.place.asn, country=seen.place.country))

    def login(
        self, user_id: str, seen: Seen, past: Sequence[Entry], found: Found, source: Source, learnt: Learning
    ) -> Assessment:
        """Assess a login whose password was right."""
        marks = self.marks(seen)
        scored = score(marks, past, learnt.frequencies, seen.at)
        facts = self._facts(seen, marks, past, found)
        findings = findings_of(AFTER_SUCCESS, facts)
        level = RiskLevel(learnt.thresholds.level(scored, self.policy.questioned, seen.at))
        if level.rank > RiskLevel.LOW.rank:
            evidence: dict[str, str | int] = {"score": f"{scored.value:.4g}", "logins_compared": scored.compared}
            findings.append(Finding(Rule.UNUSUAL_LOGIN, level, " ".join(scored.why()), evidence))
        entry = self.entry(seen, marks, past, facts.client or 0)
        seen_now = circumstances(seen, past[0] if past else None)
        verdict = self.policy.judge(findings, scored.value if scored.number else None)
        return Assessment(user_id, verdict, marks, scored, seen_now, facts.position, entry, source, found)

    def failure(self, seen: Seen, found: Found) -> Verdict:
        """Assess a login that has failed."""
        return self.policy.judge(findings_of(AFTER_FAILURE, self._facts(seen, self.marks(seen), (), found)))

    def entry(self, seen: Seen, marks: Marks, past: Sequence[Entry], client: int) -> bytes:
        """What the history of the user, so far ``past``, gets of a login that was accepted."""
        place = seen.place
        return logins.encode(
            Entry(
                at=seen.at,
                marks=marks,
                number=logins.next_number(past),
                latitude=place.latitude,
                longitude=place.longitude,
                radius=place.accuracy_km,
                country=place.country,
                client=client,
            )
        )

    def client(self, seen: Seen) -> int:
        """Browser and system without versions, as a number of 16 bits; 0 is what is not known."""
        if seen.user_agent is None:
            return 0
        agent = parse_agent(seen.user_agent)
        mark = self._marker(Features(device=f"{agent.browser}/{agent.system}/{agent.device}"))[-1]
        return mark & 0xFFFF or 1

    def _facts(self, seen: Seen, marks: Marks, past: Sequence[Entry], found: Found) -> LoginFacts:
        return LoginFacts(
            at=seen.at // SECOND,
            network=marks[1] or None,
            region=marks[2] or None,
            client=self.client(seen) or None,
            country=seen.place.country,
            position=_position(seen.place.latitude, seen.place.longitude, seen.place.accuracy_km, seen.place.country),
            label=parse_agent(seen.user_agent).label if seen.user_agent else "an unknown browser",
            past=[
                PastLogin(
                    entry.at // SECOND,
                    entry.marks[1] or None,
                    entry.marks[2] or None,
                    entry.client or None,
                    entry.country,
                    _position(entry.latitude, entry.longitude, entry.radius, entry.country),
                )
                for entry in past
            ],
            attempts=found.attempts,
            settings=self.policy.settings,
        )


def circumstances(seen: Seen, last: Entry | None = None) -> Circumstances:
    """What people are told of who asks, and of the user's login before. The address is as it came."""
    country = seen.place.country
    device = parse_agent(seen.user_agent).label if seen.user_agent else None
    if last is None:
        return Circumstances(at=seen.at, device=device, country=country, ip=seen.ip)
    here = _position(seen.place.latitude, seen.place.longitude, 0, country)
    there = _position(last.latitude, last.longitude, 0, last.country)
    km = apart(here, there) if country != last.country else None
    return Circumstances(
        at=seen.at, device=device, country=country, ip=seen.ip, last_at=last.at, last_country=last.country, km=km
    )


def _position(
    latitude: float | None, longitude: float | None, accuracy_km: float | None, country: str | None
) -> Position | None:
    if latitude is None or longitude is None:
        return position_of(country)
    return Position(latitude, longitude, accuracy_km or 0.0, name_of(country))


class Assessing:
    """The part of one event loop. While the database does not answer, logins are not assessed, and not held up."""

    def __init__(self, runtime: Runtime, policy: RiskPolicy | None) -> None:
        self._runtime = runtime
        self.policy = policy
        self.learning = Learning(runtime.now)
        self.counting = Counting(runtime.store, runtime.now, self._lost)
        self._judge: Judge | None = None
        # Asked for each guarded page.
        self.enforces = policy is not None and policy.enforces

    async def open(self) -> None:
        """Find out by which key values are hashed. What fails is tried again with the first login."""
        with suppress(StoreError):
            if await self.judge() is not None:
                await self.learning.read(self._runtime.store)

    async def close(self) -> None:
        """Write what was counted and learnt. Raises nothing."""
        if self._judge is not None:
            await self.counting.flush()
            with suppress(StoreError):
                await self.learning.publish(self._runtime.store)

    async def judge(self) -> Judge | None:
        """The judge, once its key is known; ``None`` if nothing is assessed. Raises ``StoreError``."""
        if self._judge is None and self.policy is not None:
            key = self.policy.secret()
            if key is None:
                store = self._runtime.store
                text = await store.recall(_KEY_NAME)
                if text is None:
                    # Of two workers at once the last one wins, so both read again.
                    await store.remember(_KEY_NAME, secrets.token_hex(32))
                    text = await store.recall(_KEY_NAME)
                key = bytes.fromhex(text or "")
            self._judge = Judge(self.policy, key)
        return self._judge

    @property
    def known_key(self) -> bytes | None:
        """By which values are hashed; ``None`` until something was assessed."""
        return None if self._judge is None else self._judge.key

    def seen(self, ip: str | None, user_agent: str | None) -> Seen:
        """Who asks now."""
        geo = self._runtime.clients.geo
        return Seen(self._runtime.now(), ip, user_agent, NOWHERE if geo is None else geo.place(ip))

    async def login(self, user_id: str, seen: Seen) -> Assessment | None:
        """Assess a login whose password was right, in one round trip; ``None``: it was not assessed."""
        try:
            judge = await self.judge()
            if judge is None:
                return None
            source = judge.source(user_id, seen)
            wanted = self.counting.wanted(source)
            profile = await self._runtime.store.profile(user_id, wanted)
        except StoreError:
            # A login that works is worth more than a suspicion; what it needs next will say that the database is away.
            self._runtime.counters["logins_not_assessed"] += 1
            return None
        found = self.counting.found(source, wanted, profile.counts)
        past = logins.decode(profile.history)
        return judge.login(user_id, seen, past, found, source, self.learning)

    def accepted(self, assessment: Assessment) -> None:
        """Learn from a login that was accepted, in the background."""
        runtime = self._runtime
        self.counting.succeeded(assessment.source, assessment.found)
        self.learning.accepted(assessment.marks, assessment.score)
        assert self.policy is not None
        runtime.background.login(assessment.user_id, assessment.entry, runtime.now() + self.policy.keep_micros)

    async def failed(self, user_hint: str, seen: Seen) -> Verdict:
        """Count a login that has failed, and say what that looks like."""
        try:
            judge = await self.judge()
            if judge is None:
                return SAFE
            source = judge.source(user_hint, seen)
            wanted = self.counting.wanted(source)
            profile = await self._runtime.store.profile(None, wanted)
        except StoreError:
            self._runtime.counters["logins_not_assessed"] += 1
            return SAFE
        before = self.counting.found(source, wanted, profile.counts)
        self.counting.failed(source, before)
        return judge.failure(seen, self.counting.found(source, wanted, profile.counts))

    def _lost(self, count: int) -> None:
        self._runtime.counters["lost_login_counts"] += count


def risk_event(
    runtime: Runtime,
    verdict: Verdict,
    user_id: str | None,
    sid: str | None,
    ip: str | None,
    user_agent: str | None = None,
) -> Event:
    """The event of a verdict. What it goes by is personal; levels and rules are not."""
    privacy = runtime.clients.privacy
    details: dict[str, str | int] = {
        "level": verdict.level.value,
        "action": verdict.action.value,
        "rules": " ".join(verdict.rules),
    }
    if verdict.dry_run:
        details["dry_run"] = 1
    personal: dict[str, str | int] = {"reasons": "; ".join(verdict.reasons)}
    if user_agent is not None and privacy.user_agent:
        personal["user_agent"] = user_agent
    for finding in verdict.findings:
        personal.update((f"{finding.rule}.{name}", value) for name, value in finding.evidence.items())
    runtime.counters[EventType.RISK_FOUND.value] += 1
    return Event(
        type=EventType.RISK_FOUND,
        at=runtime.now(),
        sid=sid,
        user_id=user_id,
        ip=privacy.stored(ip).ip,
        reason=verdict.level.value,
        details=details,
        personal=privacy.personal(personal, ip),
    )


def seen_with(client: bytes, replaced: Record | None = None) -> dict[str, str | int]:
    """What the event of a login says of the ``client`` JSON, and of the session that it has replaced."""
    known = decode_client(client)
    sid = None if replaced is None else str(replaced.sid)
    told = {"user_agent": known.user_agent, "country": known.country, "replaces": sid}
    return {name: value for name, value in told.items() if value is not None}
