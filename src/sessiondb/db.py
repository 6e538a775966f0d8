"""``SessionDB``: one object for requests, scripts, jobs and admin pages."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Literal, Unpack
from uuid import UUID

import msgspec

from sessiondb import ending, federation, listing
from sessiondb.abuse import Abuse
from sessiondb.assessing import seen_with
from sessiondb.auditing import Audit
from sessiondb.choosing import lifetime_for
from sessiondb.core import assurance, codec, token
from sessiondb.core.breaker import CircuitBreaker
from sessiondb.core.change import Create
from sessiondb.core.errors import ConfigurationError
from sessiondb.core.events import EventType
from sessiondb.core.limits import Limits
from sessiondb.core.near_cache import NearCache
from sessiondb.core.policies import Policies
from sessiondb.core.policy import Policy
from sessiondb.core.presented import recognise
from sessiondb.core.privacy import Privacy
from sessiondb.core.record import (
    Auth,
    EndReason,
    SessionInfo,
    check_user_id,
)
from sessiondb.core.token import Sid
from sessiondb.federation import IdP, links_of
from sessiondb.geo import Geo
from sessiondb.hooks import HookFunction, Hooks
from sessiondb.keyring import KeyRing
from sessiondb.lifespan import Lifespan
from sessiondb.listing import Criteria, Selection, session_info
from sessiondb.login import admit
from sessiondb.looking import Looking
from sessiondb.opening import open_session
from sessiondb.probing import Readiness
from sessiondb.risk_policy import RiskPolicy
from sessiondb.runtime import Runtime
from sessiondb.session import Session
from sessiondb.settings import OnLoadError, PolicyFor, Settings, check_settings, system_clock, usage_micros
from sessiondb.source import store_from
from sessiondb.state import State
from sessiondb.stores._near_siblings import Siblings
from sessiondb.stores.base import Query, Store, Swept
from sessiondb.stores.encrypting import Reencrypted
from sessiondb.suspicions import RiskHooks
from sessiondb.watching import Ends
from sessiondb.writes import applied, never_delivered, new_record, whole

DEFAULT_URL = "sqlite:///sessions.db"
UserId = str | int | UUID


class Issued(msgspec.Struct, frozen=True):
    """A session made outside a request. ``token`` is the secret for its client; the ``repr`` leaves it out."""

    token: str
    session: SessionInfo

    def __repr__(self) -> str:
        return f"Issued(sid={self.session.sid!r})"


class SessionDB(Looking):
    """The session database.

    * ``url`` (``$SESSIONDB_URL``, else ``sqlite:///sessions.db``): a URL, a ``Store``, or an SQLAlchemy engine
      (its URL is used).
    * ``policy`` (``Policy()``): lifetimes and limits.
    * ``policies`` (none): further policies by name, for some users or logins: ``{"staff": Policy.nist_aal2()}``.
    * ``policy_for`` (``None``): a function, ``async`` or not, from a user id to the name of the policy that a login of
      that user gets, or ``None`` for the default one. ``login(policy=...)`` comes before it.
    * ``timeout`` (2 s): the longest that one operation on the database may take.
    * ``breaker`` (``CircuitBreaker()``): when to stop asking a database that is away; ``None``: never.
    * ``on_load_error`` (``"error"``): what a request with a token gets while the database is away: HTTP 503, or
      ``"anonymous"``.
    * ``max_session_bytes`` (65,536): the most that one session's data may take, encoded.
    * ``keys`` (``None``: nothing is encrypted): a ``KeyRing``; the values in the database are encrypted with it.
    * ``limits`` (``Limits()``): keys per session, and what one network may do.
    * ``privacy`` (``Privacy()``: all of it): what is kept of clients' addresses and browsers.
    * ``geo`` (``None``): ``Geo()`` tells the countries of addresses.
    * ``near_cache`` (``None``): keep sessions in this process, so that pages need no call of the database:
      ``NearCache(staleness=1.0)``. See docs/near-cache.md for what that means for others' writes.
    * ``audit`` (``Audit()``): how the audit trail is kept, signed and exported; ``"required"``: no change without its
      event.
    * ``keep_usage`` (400 days): for how long the numbers of ``usage()`` are kept, a ``timedelta`` or seconds;
      ``None``: nothing is counted.
    * ``risk`` (``RiskPolicy()``): what is looked for in logins and sessions, and what is done about it; ``None``:
      nothing.
    * ``announce`` (``False``): have hooks of other processes told of the ends that this one writes, though it has none
      of its own (see ``on_end``).
    * ``sweep_every`` (60 s): how often this worker offers to sweep; ``None``: only ``sweep()`` does.
    * ``clock``: microseconds since the epoch; for tests. The store's own clock decides, so give it the same one.

    It opens with the app (``FastAPI(lifespan=db.lifespan)``), as ``async with db:``, or on first use, and keeps
    what it needs per event loop. Raises ``ConfigurationError`` for settings that cannot work. Every verb raises
    ``StoreUnavailable`` while the database is away.
    """

    def __init__(
        self,
        url: object = None,
        *,
        policy: Policy | None = None,
        policies: Mapping[str, Policy] | None = None,
        policy_for: PolicyFor | None = None,
        timeout: float = 2.0,
        breaker: CircuitBreaker | None = CircuitBreaker(),  # noqa: B008  frozen
        on_load_error: OnLoadError = "error",
        max_session_bytes: int = codec.MAX_BYTES,
        keys: KeyRing | None = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
        privacy: Privacy = Privacy(),  # noqa: B008  frozen
        geo: Geo | None = None,
        audit: Audit | Literal["required", "queued"] = "queued",
        keep_usage: timedelta | float | None = timedelta(days=400),
        risk: RiskPolicy | None = RiskPolicy(),  # noqa: B008  frozen
        announce: bool = False,
        near_cache: NearCache | None = None,
        sweep_every: float | None = 60.0,
        clock: Callable[[], int] = system_clock,
    ) -> None:
        check_settings(
            on_load_error=on_load_error,
            timeout=timeout,
            max_session_bytes=max_session_bytes,
            sweep_every=sweep_every,
            policy_for=policy_for,
            breaker=breaker,
            keys=keys,
            limits=limits,
            privacy=privacy,
            geo=geo,
            near_cache=near_cache,
            audit=audit,
            risk=risk,
            keep_usage=keep_usage,
            clock=clock,
        )
        if url is None:
            url = os.environ.get("SESSIONDB_URL") or DEFAULT_URL
        self._policies = Policies(policy, policies)
        self._policies_lock = threading.Lock()
        self.on_load_error: OnLoadError = on_load_error
        self.counters: Counter[str] = Counter()
        self._store: Store = store_from(url)
        self._abuse = Abuse(limits)
        self._hooks = Hooks()
        self._risk_hooks = RiskHooks()
        self._settings = Settings(
            self._policies,
            timeout,
            max_session_bytes,
            sweep_every,
            clock,
            policy_for,
            breaker,
            self._abuse,
            privacy,
            geo,
            keys=keys,
            hooks=self._hooks,
            announce=announce,
            near_cache=near_cache,
            near_siblings=Siblings(),
            audit=audit if isinstance(audit, Audit) else Audit(required=audit == "required"),
            risk=risk,
            risk_hooks=self._risk_hooks,
            keep_usage=usage_micros(keep_usage),
        )
        self._runtimes: dict[asyncio.AbstractEventLoop, Runtime] = {}
        self._ends = Ends()
        self.lifespan = Lifespan(self)

    def __repr__(self) -> str:
        return f"SessionDB({self._store.name})"

    # -- opening ------------------------------------------------------------------------------------------

    @property
    def runtime(self) -> Runtime:
        """What this database keeps for the running event loop."""
        loop = asyncio.get_running_loop()
        runtime = self._runtimes.get(loop)
        if runtime is None:
            # Other threads have loops too, and do the same.
            for closed in [other for other in list(self._runtimes) if other.is_closed()]:
                self._runtimes.pop(closed, None)
            runtime = self._runtimes[loop] = Runtime(self._store, self._settings, self.counters, self._ends)
            with self._policies_lock:
                runtime.use(self._policies)
        return runtime

    async def open(self) -> None:
        """Connect, and create or check the schema. Raises ``ConfigurationError`` or ``StoreUnavailable``."""
        await self.runtime.ready()

    async def ready(self) -> Readiness:
        """Whether sessions can be read now, for a load balancer; see ``readiness`` for an endpoint.

        Asks the database at most once a second, takes no longer than ``timeout``, and raises nothing.
        """
        return await self.runtime.prober.ask()

    async def close(self) -> None:
        """Flush what waits in the background, and release what this event loop holds."""
        runtime = self._runtimes.pop(asyncio.get_running_loop(), None)
        if runtime is not None:
            await runtime.close()

    async def __aenter__(self) -> SessionDB:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- policies -----------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The default policy."""
        return self._policies.default

    @property
    def policies(self) -> Mapping[str, Policy]:
        """The other policies, by name."""
        return self._policies.named

    def set_policy(self, policy: Policy | None = None, policies: Mapping[str, Policy] | None = None) -> None:
        """Go by other policies from now on, at once in every event loop of this process; what is left out stays.

        Lowering ends the sessions that are older than it allows, raising neither revives nor extends any. Other
        processes have their own: tell each of them. Raises ``ConfigurationError`` as at the start, and then changes
        nothing.
        """
        with self._policies_lock:
            before = self._policies
            changed = Policies(
                before.default if policy is None else policy, before.named if policies is None else policies
            )
            self._policies = changed
            for runtime in list(self._runtimes.values()):
                runtime.use(changed)
            self._tell_policies(changed)

    def _tell_policies(self, policies: Policies) -> None:
        """One event loop of this process writes it down, whichever thread this is."""
        for loop, runtime in list(self._runtimes.items()):
            if not loop.is_closed():
                details = {"lifetimes": msgspec.json.encode(policies.caps).decode()}
                event = runtime.event(EventType.POLICY_CHANGED, details=details)
                loop.call_soon_threadsafe(runtime.background.event, event)
                return

    # -- sessions -----------------------------------------------------------------------------------------

    async def create(
        self,
        user_id: str | int | UUID | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        remember: bool = False,
        methods: Iterable[str] = (),
        level: int | None = None,
        policy: str | None = None,
        idp: IdP | None = None,
        ip: str | None = None,
        user_agent: str | None = None,
    ) -> Issued:
        """A new session made outside a request, and the token for its client.

        ``methods``, ``level``, ``policy`` and ``idp`` are as in ``session.login``. Raises ``LoginRefused`` where the
        limit per user forbids it, ``ConfigurationError`` for a policy that nobody knows, ``SessionDataError``,
        ``StoreError``.
        """
        runtime = self.runtime
        await runtime.ready()
        began_at = runtime.now()
        user = None if user_id is None else check_user_id(user_id)
        links = links_of(idp)
        auth = Auth(methods=assurance.check_methods(methods), level=assurance.check_level(level))
        if user is None:
            lifetime = runtime.policies.lifetime(policy, remember)
        else:
            lifetime = await lifetime_for(runtime, user, policy, remember)
        record, issued = new_record(
            runtime,
            data=whole(dict(data or {}), runtime),
            client=runtime.clients.encoded(ip, user_agent.encode() if user_agent is not None else None),
            user_id=user,
            lifetime=lifetime,
            auth=auth,
        )
        type_ = EventType.SESSION_CREATED if user is None else EventType.LOGIN
        event = runtime.event(type_, record=record, ip=ip, personal=seen_with(record.client_last))
        with never_delivered(runtime, record):
            applied(await runtime.apply_one(Create(record, links), event))
            refused = await admit(runtime, record, began_at, links) if user is not None else None
        if refused is not None:
            raise refused
        return Issued(issued.encode(), session_info(runtime, record))

    @asynccontextmanager
    async def session(self, presented: str | None = None) -> AsyncIterator[Session]:
        """The session of a token, outside a request: ``async with db.session(token) as session: ...``.

        What has changed is stored when the block ends, and dropped when it raises. Without a token, or with one
        that opens nothing, the session is anonymous; ``db.create`` makes one with a token to hand out.
        """
        found = recognise(presented.encode("ascii", "replace")) if presented is not None else None
        runtime = self.runtime
        session = await open_session(State(runtime, runtime.now()), [found] if found is not None else [])
        session.mark_accessed()
        yield session
        await session.save()

    async def get(self, sid: str) -> SessionInfo | None:
        """One session by its public id, living or ended; ``None`` if there is none, or it was purged."""
        if not token.is_sid(sid):
            return None
        runtime = self.runtime
        record = (await runtime.load([Sid(sid)]))[0]
        return None if record is None else session_info(runtime, record)

    async def sessions_of(
        self, user_id: str | int | UUID, include_ended: bool = False, limit: int = 100
    ) -> list[SessionInfo]:
        """The sessions of a user, newest first."""
        runtime = self.runtime
        query = Query(
            now=runtime.now(),
            caps=runtime.caps,
            user_id=check_user_id(user_id),
            state="all" if include_ended else "live",
            limit=limit,
        )
        async with runtime.using_store() as store:
            page = await store.find(query)
        return [session_info(runtime, record) for record in page.records]

    def _select(self, criteria: Criteria) -> Selection:
        return listing.select(criteria, self._settings.privacy)

    def find_sessions(self, *, include_ended: bool = False, **criteria: Unpack[Criteria]) -> AsyncIterator[SessionInfo]:
        """The sessions that meet all of the ``Criteria``, newest first: ``async for one in db.find_sessions(ip=...)``.

        The living ones; with ``include_ended`` those that have ended too. All sessions are looked through, page by
        page, but for those of other users where ``user_id`` is given. Raises ``ValueError`` for no criterion, or one
        that cannot be meant.
        """
        return listing.find_sessions(self.runtime, self._select(criteria), include_ended=include_ended)

    # -- ending -------------------------------------------------------------------------------------------

    # Every ``reason`` is an ``EndReason`` that somebody may give, or its value; others raise ``ValueError``.
    # ``actor`` is the id of whoever does it to others, for the audit trail.

    async def revoke(
        self,
        sid: str,
        *,
        user_id: UserId | None = None,
        reason: EndReason | str = EndReason.REVOKED,
        actor: UserId | None = None,
    ) -> bool:
        """End one session; whether it was living. A request of it that is in flight cannot undo this.

        With ``user_id`` only if it is that user's: what a page of one's own devices must pass.
        """
        why = ending.given_reason(reason)
        user = None if user_id is None else check_user_id(user_id)
        by = None if actor is None else check_user_id(actor)
        return token.is_sid(sid) and await ending.revoke_one(self.runtime, Sid(sid), why, user, by)

    async def revoke_all(
        self,
        user_id: UserId,
        keep: str | None = None,
        *,
        reason: EndReason | str = EndReason.REVOKED,
        actor: UserId | None = None,
    ) -> int:
        """End all sessions of a user but ``keep`` (a sid), and every login under way; how many were living.

        The one to keep keeps its secret too; ``session.revoke_others()`` replaces that.
        """
        kept = Sid(keep) if keep is not None else None
        by = None if actor is None else check_user_id(actor)
        return await ending.revoke_all(self.runtime, check_user_id(user_id), ending.given_reason(reason), kept, by)

    async def revoke_where(
        self,
        *,
        reason: EndReason | str = EndReason.REVOKED,
        dry_run: bool = False,
        actor: UserId | None = None,
        **criteria: Unpack[Criteria],
    ) -> int:
        """End the living sessions that meet all of the ``Criteria``; how many. ``dry_run``: only count them.

        Done page by page: should it raise half-way, call it again. Logins under way are not refused; ``revoke_all`` and
        ``lock_user`` do that. Raises ``ValueError`` for no criterion, or one that cannot be meant.
        """
        why = ending.given_reason(reason)
        by = None if actor is None else check_user_id(actor)
        return await ending.revoke_where(self.runtime, self._select(criteria), why, dry_run=dry_run, actor=by)

    async def revoke_everyone(
        self, *, reason: EndReason | str = EndReason.REVOKED, dry_run: bool = False, actor: UserId | None = None
    ) -> int:
        """End every session that there is when this is called, whoever's; how many. As ``revoke_where``."""
        by = None if actor is None else check_user_id(actor)
        return await ending.revoke_everyone(self.runtime, ending.given_reason(reason), dry_run=dry_run, actor=by)

    async def lock_user(
        self,
        user_id: UserId,
        until: datetime | int | None = None,
        *,
        reason: EndReason | str = EndReason.LOCKED,
        actor: UserId | None = None,
    ) -> int:
        """End all sessions of a user, and refuse their logins until ``until`` or ``unlock_user``; how many were ended.

        A ``datetime`` with a zone, or microseconds; ``None``: for good. Logins under way are refused too, in every
        process. The later of two locks stands. A refused login raises ``LoginRefused`` with ``reason="locked"``.
        Raises ``ValueError`` for a time that is past.
        """
        by = None if actor is None else check_user_id(actor)
        return await ending.lock_user(self.runtime, check_user_id(user_id), until, ending.given_reason(reason), by)

    async def unlock_user(self, user_id: UserId, *, actor: UserId | None = None) -> None:
        """Let a user log in again. A login whose request began before is still refused."""
        by = None if actor is None else check_user_id(actor)
        await ending.unlock_user(self.runtime, check_user_id(user_id), by)

    async def revoke_idp(
        self,
        issuer: str,
        *,
        sid: str | None = None,
        sub: str | None = None,
        reason: EndReason | str = EndReason.IDP_LOGOUT,
    ) -> int:
        """End what ``login(idp=IdP(...))`` has begun: by ``sid``, or all of the user ``sub`` there; how many.

        With both, the session ``sid``, and those of ``sub`` of which the provider had told no ``sid``. Logins under
        way from there are refused. (OpenID Connect Back-Channel Logout 1.0; ``sessiondb.web.backchannel`` has its
        endpoint.)
        """
        idp = IdP(issuer=issuer, sid=sid, sub=sub)
        return await federation.revoke_idp(self.runtime, idp, ending.given_reason(reason))

    def on_end(self, function: HookFunction) -> HookFunction:
        """Have ``function`` called with the ``Ended`` of every session, at least once: ``@db.on_end``.

        An ``async`` function runs on the event loop, another one in a thread; 20 seconds at most. Whoever wrote the
        end runs it, in the background; what failed, and ends of processes that died or have no hooks
        (``announce=True``, the command line), are announced by a sweep, a minute later. One that fails is called
        again until the tombstone goes (``Policy(keep_ended=...)``). Raises ``ConfigurationError`` once the database
        is in use.
        """
        return self._hooks.add(function)

    # -- looking after it ---------------------------------------------------------------------------------

    async def sweep(self, limit: int | None = None) -> Swept:
        """One bounded pass over what is due: the expired are ended, old tombstones deleted."""
        swept = await self.runtime.sweeping.sweep(limit=limit)
        if not swept.more:
            await self.runtime.merging.merge_after_sweep()
        return swept

    async def reencrypt(self, *, after: str | None = None, limit: int = 500) -> Reencrypted:
        """One bounded pass of re-encryption with the current key; ``after`` is the ``next`` of the pass before.

        The app does this by itself while its ring has older keys, and ``sessiondb reencrypt`` at once. Raises
        ``ConfigurationError`` without ``keys``.
        """
        reencryption = self.runtime.reencryption
        if reencryption is None:
            raise ConfigurationError("SessionDB.reencrypt: there are no keys; use SessionDB(keys=KeyRing.from_env()).")
        await self.runtime.ready()
        return await reencryption.one_pass(Sid(after) if after is not None else None, limit)
