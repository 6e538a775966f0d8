"""The verbs of a ``SessionDB`` that look: counts, the audit trail, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from starlette.requests import HTTPConnection

from sessiondb import failing, forgetting, reviewing, usage_reading, verifying
from sessiondb.abuse import Abuse
from sessiondb.core.checkpoints import Checkpoint
from sessiondb.core.events import Event
from sessiondb.core.limits import SuspiciousNetwork
from sessiondb.core.record import check_user_id
from sessiondb.core.risk import Verdict
from sessiondb.core.signing import Verifier
from sessiondb.core.usage_series import Usage
from sessiondb.forgetting import Forgotten
from sessiondb.listing import moment
from sessiondb.reviewing import Replay
from sessiondb.risk_policy import RiskPolicy
from sessiondb.runtime import Runtime
from sessiondb.stores.base import EventPage, EventQuery, Stats
from sessiondb.suspicions import RiskHookFunction, RiskHooks
from sessiondb.verifying import Verification


class Looking:
    """The half of ``SessionDB`` that looks at what has happened."""

    _abuse: Abuse
    _risk_hooks: RiskHooks

    @property
    def runtime(self) -> Runtime:
        """What this database keeps for the running event loop."""
        raise NotImplementedError

    async def stats(self) -> Stats:
        """Counts of sessions, users and events; ``db.counters`` has what this process has seen."""
        async with self.runtime.using_store() as store:
            return await store.stats()

    async def usage(
        self,
        since: datetime | int | None = None,
        until: datetime | int | None = None,
        *,
        by: Literal["hour", "day", "week", "month"] = "day",
    ) -> Usage:
        """How the app was used, as time series: active users, logins, sessions, how long they last and how they end.

        ``by``: hours (those of the last two days), days, weeks of ISO 8601 or months, in UTC. ``since`` and ``until``
        are a ``datetime`` with a zone or microseconds; whole periods are counted. Without ``since`` 48 hours, 30 days,
        26 weeks or 12 months. What other workers have seen comes a minute late. Raises ``ValueError`` for what cannot
        be meant, and for more than 2,000 periods.
        """
        begin, end = (None if at is None else moment(name, at) for name, at in (("since", since), ("until", until)))
        return await usage_reading.read(self.runtime, begin, end, by)

    def suspicious_networks(self, limit: int = 20) -> list[SuspiciousNetwork]:
        """The networks from which most tokens came that open nothing, worst first, as this process has seen them."""
        return self._abuse.worst(limit)

    # -- risk ---------------------------------------------------------------------------------------------

    def on_risk(self, function: RiskHookFunction) -> RiskHookFunction:
        """Register ``function`` to be told of every ``Suspicion``: a verdict that has found something, about whom.

        ``@db.on_risk``, ``async`` or not; in the background, after the event has been written or queued. Raises
        ``ConfigurationError``.
        """
        return self._risk_hooks.add(function)

    async def login_failed(
        self,
        user_hint: str | int | UUID,
        request: HTTPConnection | None = None,
        *,
        user_id: str | int | UUID | None = None,
    ) -> Verdict:
        """Say that a login has failed, as soon as the password was found wrong; what that looks like.

        ``user_hint`` is what was typed in as the name: it is kept by a keyed hash alone, because people type passwords
        there, and it is what ``session.login`` has to be given too for failures to count against its success. Where the
        user is known, pass ``user_id`` as well: the event is theirs then, and both are counted. ``request`` tells the
        address and the browser. Raises nothing while the database is away: the verdict says nothing then.
        """
        return await failing.login_failed(self.runtime, user_hint, request, user_id)

    async def feedback(self, event: Event, said: Literal["legitimate", "attack"]) -> None:
        """Say what a login was, as the user or an administrator knows by now. ``event`` is the one that ``events`` has.

        ``"attack"``: its session is ended, and what it taught about the user is forgotten. ``"legitimate"``: where
        it was refused, the next login from there is known. Written into the trail. Raises ``ValueError`` for an event
        that is no login, ``StoreError``.
        """
        await self.runtime.ready()
        await reviewing.feedback(self.runtime, event, said)

    async def replay_risk(
        self, policy: RiskPolicy, *, since: int | None = None, until: int | None = None, limit: int = 100_000
    ) -> Replay:
        """What another policy would have said of the logins in the trail: nothing is done, and nobody is told.

        Times in microseconds; ``limit``: the newest so many logins, and as many failed ones. Where ``Privacy`` has kept
        less of addresses or browsers, it has less to go by. Raises ``StoreError``.
        """
        return await reviewing.replay(self.runtime, policy, since, until, limit)

    # -- the audit trail ----------------------------------------------------------------------------------

    async def events(
        self,
        *,
        user_id: str | None = None,
        sid: str | None = None,
        actor: str | None = None,
        type: str | None = None,
        since: int | None = None,
        until: int | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> EventPage:
        """The audit trail, newest first. Times in microseconds; ``after`` is the ``next`` of the page before.

        ``user_id`` is whom the events are about, ``actor`` who has done them, where that is somebody else.
        """
        query = EventQuery(
            user_id=user_id, sid=sid, actor=actor, type=type, since=since, until=until, after=after, limit=limit
        )
        runtime = self.runtime
        await runtime.ready()
        await runtime.background.flush()
        async with runtime.using_store() as store:
            page = await store.events(query)
        # Without seals, which are bytes: an endpoint may return what people are shown.
        return EventPage([replace(event, seal=None) for event in page.events], page.next)

    async def checkpoint(self) -> Checkpoint | None:
        """Sign where the audit trail stands now, and export it; ``None`` if nothing has happened since the last one.

        With ``Audit(signer=...)`` it is made every hour anyway. Raises ``StoreError``.
        """
        return await self.runtime.auditing.checkpoint()

    async def verify_trail(
        self,
        exported: Iterable[str | Checkpoint] = (),
        *,
        verifiers: Sequence[Verifier] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Verification:
        """Whether the audit trail is what was written, behind the last of the ``exported`` checkpoints.

        ``verifiers``: keys that checkpoints and statements must be signed by (that of ``Audit(signer=...)``). See
        ``sessiondb.verifying.verify``. Raises ``ValueError`` for a line that is no checkpoint, ``StoreError``.
        """
        runtime = self.runtime
        await runtime.ready()
        await runtime.background.flush()
        if verifiers is None:
            signer = runtime.auditing.audit.signer
            verifiers = () if signer is None else (signer,)
        async with runtime.using_store() as store:
            return await verifying.verify(store, exported=exported, verifiers=verifiers, progress=progress)

    async def forget(self, user_id: str | int | UUID, *, actor: str | int | UUID | None = None) -> Forgotten:
        """Erase a person: their sessions, living or ended, what is known of their logins, and their name, addresses and
        user agents in the audit trail, which stays as sound as it was. Events say that somebody was forgotten, not who.

        What other workers have seen in the last second may come after it: lock the user before, or call it again.
        ``actor`` is whoever does it. Raises ``StoreError``; calling it again goes on where it stopped.
        """
        by = None if actor is None else check_user_id(actor)
        return await forgetting.forget(self.runtime, check_user_id(user_id), by)
