"""``Session``: what a handler holds. A ``dict`` that knows whose it is and how to log in, rotate and log out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Generator, Iterable
from typing import Any, TypeVar, overload
from uuid import UUID

import msgspec

from sessiondb import commit, ending, impersonation, modify, proofs
from sessiondb.clearing import clear_with_the_response
from sessiondb.core import assurance, codec, token
from sessiondb.core.errors import SessionEnded
from sessiondb.core.policy import OnLimit, check_on_limit
from sessiondb.core.record import (
    Auth,
    Client,
    EndReason,
    Record,
    Risk,
    check_user_id,
    decode_risk,
    is_impersonated,
)
from sessiondb.core.reserved import RISK, check_keep, comes_along
from sessiondb.core.risk import Verdict
from sessiondb.core.token import Sid
from sessiondb.federation import IdP, links_of
from sessiondb.session_dict import SessionDict
from sessiondb.state import StagedLogin, StagedReauthentication, State

Result = TypeVar("Result")

_SPACED = b'": '
_FIRST = 64  # bytes, in which the first key mostly ends; after a longer one, the comparison takes a little more


class Durably:
    """Returned by ``login``, ``step_up``, ``logout`` and ``rotate``: await it to have the change stored now.

    Not awaited, it is stored before the response starts.
    """

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __await__(self) -> Generator[Any, None, None]:
        return commit.save(self._session, state_of(self._session)).__await__()


class LoggingIn:
    """Returned by ``login``: await it to have the login stored now, and to be told what was thought of it.

    Not awaited, it is stored before the response starts.
    """

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __await__(self) -> Generator[Any, None, Verdict]:
        state = state_of(self._session)
        yield from commit.save(self._session, state).__await__()
        return state.verdict


class Session(SessionDict):
    """One browser's session. Keys are strings, values JSON; what is changed, nested values included, is saved.

    Nothing is stored for a visitor who writes nothing. Verbs stage at once, so they work in ``def`` endpoints
    too; ``await`` makes them durable there and then. Copies are plain dictionaries.
    """

    __slots__ = ()

    # -- who and when -------------------------------------------------------------------------------------

    @property
    def sid(self) -> Sid | None:
        """The public id, safe in logs and URLs; ``None`` before the session exists."""
        state = self._state
        if isinstance(state.staged, StagedLogin):
            return state.staged.token.sid
        return state.record.sid if state.record is not None else None

    @property
    def user_id(self) -> str | None:
        """Who is logged in, or ``None``."""
        state = self._state
        if state.staged == "logout":
            return None
        if isinstance(state.staged, StagedLogin):
            return state.staged.user_id
        return state.record.user_id if state.record is not None else None

    @property
    def is_new(self) -> bool:
        """Whether the client held no living session when this request began."""
        state = self._state
        return state.record is None or state.record.created_at >= state.began_at

    @property
    def created_at(self) -> int | None:
        """Microseconds since the epoch, UTC; ``None`` before the session exists."""
        return self._field(lambda record: record.created_at)

    @property
    def last_seen_at(self) -> int | None:
        """When it was last used before this request, in microseconds; coarse: written about once a minute."""
        return self._field(lambda record: record.last_seen_at)

    @property
    def expires_at(self) -> int | None:
        """When it is over if it is not used again, in microseconds."""
        return self._field(self._state.runtime.caps.deadline)

    @property
    def authenticated_at(self) -> int | None:
        """When the user last logged in, in microseconds; ``proved_at`` tells of step-ups too."""
        return self._field(lambda record: record.authenticated_at)

    @property
    def client(self) -> Client:
        """Where the session was last seen, up to the precision of ``last_seen_at``."""
        runtime = self._state.runtime
        return self._field(lambda record: runtime.clients.shown(record, runtime.now())[1]) or Client()

    @property
    def auth(self) -> Auth:
        """How the user proved who they are, by the login and by the step-ups that still count."""
        return proofs.auth_of(self._state)

    @property
    def risk(self) -> Risk:
        """How suspicious the login was."""
        return self._field(lambda record: decode_risk(record.risk)) or Risk()

    @property
    def ended_reason(self) -> str | None:
        """Why the session that this client still holds was ended (an ``EndReason``), or ``None``."""
        return self._state.ended_reason

    def proved_at(self, *, level: int | None = None, methods: Collection[str] = ()) -> int | None:
        """When the user last proved who they are, by login or step-up, in microseconds; ``None``: never.

        Only proofs of at least ``level``, and by one of ``methods`` (RFC 8176) if any are given, count.
        """
        return proofs.proved_at(self._state, level, methods)

    def _field(self, read: Callable[[Record], Result]) -> Result | None:
        record = self._state.record
        return None if record is None else read(record)

    # -- verbs --------------------------------------------------------------------------------------------

    def login(
        self,
        user_id: str | int | UUID,
        remember: bool = False,
        methods: Iterable[str] = (),
        keep: Collection[str] | None = None,
        *,
        level: int | None = None,
        policy: str | None = None,
        idp: IdP | None = None,
        on_limit: OnLimit | None = None,
    ) -> LoggingIn:
        """Sign in ``user_id`` (stored as text, at most 255 bytes) in a new session, and end the old one.

        The anonymous session's data comes along (``keep``: only these keys); another user's never does. Signing in as
        the same user keeps the session, with a new secret. ``methods`` as in RFC 8176; ``level`` (1 to 100) is the
        assurance level that they reach, such as NIST's AAL. ``policy`` names one of ``SessionDB(policies=...)``, or
        ``"normal"`` for the default one; without it ``policy_for`` decides. ``idp`` says where the user has signed
        in, so that a logout there ends this session (``db.revoke_idp``). ``on_limit`` replaces the policy's this
        once. Awaited, it returns the ``Verdict`` on how suspicious the login is, and raises ``LoginRefused`` when the
        limit, a lock, a revoke or the ``RiskPolicy`` forbids it; otherwise the response is a 409. Raises
        ``HeadersSent`` once the response has started, ``ConfigurationError`` for a policy that nobody knows,
        ``SessionDataError`` for a user id, method, level, ``keep`` or ``idp`` that cannot be.
        """
        state = self._use()
        user = check_user_id(user_id)
        self._refuse_after_headers("log in")
        auth = Auth(methods=assurance.check_methods(methods), level=assurance.check_level(level))
        state.runtime.policies.called(policy)
        if on_limit is not None:
            check_on_limit("login", on_limit)
        links = links_of(idp)
        kept = None if keep is None else check_keep(keep)
        record = state.record
        if (
            record is not None
            and record.user_id == user
            and state.staged != "logout"
            and not is_impersonated(record.auth)  # that is somebody else's session, not the user's
        ):
            state.staged = StagedReauthentication(remember, auth, policy, links)
            return LoggingIn(self)
        if self.user_id is not None:
            dict.clear(self)
            state.reread_views()
        elif kept is not None:
            # First what typed views hold: it is narrowed too.
            state.write_back(self)
            for key in [key for key in self if not comes_along(key, kept)]:
                dict.__delitem__(self, key)
            state.reread_views()
        if record is not None:
            # With what this request believes stored: what it saved itself is not news from others.
            state.replaces = msgspec.structs.replace(record, data=state.base)
            state.forget()
        # The header would take the new cookie too.
        state.clear_site_data = None
        issued = token.mint(state.runtime.now())
        state.staged = StagedLogin(user, issued, remember, auth, kept, policy, links, on_limit)
        state.written = True
        return LoggingIn(self)

    def step_up(self, methods: Iterable[str] = (), level: int | None = None) -> Durably:
        """The user has proved once more who they are: with a new secret, the session has ``level`` for a while.

        ``methods`` as in RFC 8176 (``("otp",)``); ``level`` is what they reach together with the login's. It holds for
        ``Policy(step_up=...)``, then the login's own counts again; a new login begins anew. The old secret is dead at
        once. Raises ``SessionEnded`` where nobody is logged in, ``HeadersSent`` once the response has started, and
        ``SessionDataError`` for a method or level that cannot be stored. (OWASP ASVS 7.2.4 and 7.5.3.)
        """
        state = self._use()
        self._refuse_after_headers("step up")
        proofs.stage_step_up(state, self.user_id, methods, level)
        if RISK in self:
            del self[RISK]
        state.owes_proof = False
        return Durably(self)

    def logout(self, *, clear_site_data: Iterable[str] = ()) -> Durably:
        """End this session here and everywhere; what this request wrote into it is dropped with it.

        ``clear_site_data``: what the browser is asked to remove of the whole site, such as ``("cookies", "storage")``
        (the header ``Clear-Site-Data``, W3C; over https). ``"cookies"`` takes those of all apps of the site's domain.
        Raises ``ConfigurationError`` for what the header does not know.
        """
        state = self._use()
        clear_with_the_response(state, clear_site_data)
        if state.record is None:
            state.record, state.replaces = state.replaces, None
        state.staged = "logout"
        state.reread_views()
        dict.clear(self)
        return Durably(self)

    def rotate(self) -> Durably:
        """Give the client a new secret for the same session.

        A no-op where there is no session yet, and where the response tells the client a new secret anyway.
        """
        state = self._use()
        self._refuse_after_headers("rotate")
        if state.staged is None and state.may_rotate:
            state.staged = "rotate"
        return Durably(self)

    @overload
    async def modify(self, change: Callable[[dict[str, Any]], Coroutine[Any, Any, Result]]) -> Result: ...

    @overload
    async def modify(self, change: Callable[[dict[str, Any]], Result]) -> Result: ...

    async def modify(self, change: Callable[[dict[str, Any]], Any]) -> Any:
        """Run ``change`` on the freshest data until its result lands unchallenged (compare-and-set).

        ``change`` gets a plain ``dict``, changes it in place, and may run several times; it may be ``async``. It
        sees what this request has staged. Returns what ``change`` returned. Raises ``SessionEnded``, or
        ``StoreError`` with ``outcome="conflict"`` after 100 tries or the ``timeout`` of the ``SessionDB``, or
        ``"unknown"`` if the reply was lost.
        """
        return await modify.modify(self, self._use(), change)

    async def save(self) -> None:
        """Store what has changed, now. Long sockets and background tasks call it at their own commit points.

        Raises ``SessionEnded`` if the session was ended meanwhile, ``StoreUnavailable``, ``SessionDataError``.
        """
        await commit.save(self, self._use())

    async def revoke_others(self, *, reason: EndReason | str = EndReason.REVOKED) -> int:
        """End all other sessions of this user, and give this one a new secret; returns how many were ended.

        For a changed password: ``await session.revoke_others(reason="password_changed")``. Whoever else holds this
        session's old token is shut out too, and so are logins in flight elsewhere. Raises ``HeadersSent`` once the
        response has started: then ``db.revoke_all(user_id, keep=session.sid)`` ends the others alone. (OWASP ASVS
        7.4.3.)
        """
        state = self._use()
        self._refuse_after_headers("give this session a new secret")
        why = ending.given_reason(reason)
        await commit.save(self, state)
        record = state.record
        if record is None or record.user_id is None:
            raise SessionEnded("Nobody is logged in here, so there are no other sessions to revoke.")
        ended = await ending.revoke_all(state.runtime, record.user_id, why, keep=record.sid)
        if not state.undelivered:
            # Else this very request has made its secret, and nobody else can have it.
            state.staged = "renew"
            await commit.save(self, state)
        return ended

    async def impersonate(self, user_id: str | int | UUID) -> None:
        """Become another user for a while: a new session of ``user_id``, with nothing of this one's data.

        ``session.auth.impersonator`` is who it really is. This session is kept aside, alive, and opened by no token;
        it is used whenever the other one is, ends with it, and takes it along when it ends itself. The other one is
        listed among the user's, ends with ``db.revoke_all`` of that user, and takes no place in their limit. Whether
        somebody may do this is for the app to say. Raises ``LoginRefused`` (reason ``"impersonation"``) for who
        impersonates somebody already, or themselves, and otherwise as a login; ``SessionEnded`` where nobody is
        logged in; and ``HeadersSent`` once the response has started. (OWASP ASVS 7.2.4.)
        """
        state = self._use()
        user = check_user_id(user_id)
        self._refuse_after_headers("impersonate a user")
        await commit.save(self, state)
        await impersonation.impersonate(self, state, user)

    async def stop_impersonating(self) -> bool:
        """End the impersonation and go back to the own session, its data and a new secret; whether there was one.

        Raises ``SessionEnded`` if either session is over already, ``HeadersSent`` once the response has started.
        """
        state = self._use()
        self._refuse_after_headers("go back to the own session")
        await commit.save(self, state)
        return await impersonation.stop(self, state)


def new_session(state: State) -> Session:
    """The ``Session`` of ``state``, with the data of its record decoded.

    Raises ``SessionDataError`` if that cannot be done.
    """
    if state.record is None:
        session = Session()
    else:
        session = Session(codec.decode_data(state.base))
        if state.base.find(_SPACED, 0, _FIRST) >= 0:
            # As jsonb writes it. In our own spelling, a session that nobody changed is seen to be so by one comparison.
            state.base = codec.encode_unchecked(session) or state.base
    session._state = state
    return session


def state_of(session: Session) -> State:
    """What the faces (middleware, dependencies) know of ``session``."""
    return session._state
