"""What one request knows about its session, and the verbs it has staged. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from sessiondb.core import codec
from sessiondb.core.policy import OnLimit
from sessiondb.core.presented import Presented
from sessiondb.core.record import Auth, Record
from sessiondb.core.risk import SAFE, Verdict
from sessiondb.core.token import Token

if TYPE_CHECKING:
    import asyncio

    from sessiondb.runtime import Runtime

Header = tuple[bytes, bytes]
Headers = Iterable[Header]


class StagedLogin(msgspec.Struct, frozen=True):
    """A login that waits for its commit. ``token`` is the new session's; ``keep`` narrows what comes along.

    ``policy`` is the name of the one that was asked for.
    """

    user_id: str
    token: Token
    remember: bool
    auth: Auth
    keep: frozenset[str] | None
    policy: str | None = None
    links: tuple[bytes, ...] = ()
    on_limit: OnLimit | None = None


class StagedReauthentication(msgspec.Struct, frozen=True):
    """The same user signs in again: the session stays, its secret changes."""

    remember: bool
    auth: Auth
    policy: str | None = None
    links: tuple[bytes, ...] = ()


class StagedStepUp(msgspec.Struct, frozen=True):
    """One more proof of who the user is: the session stays, its secret changes."""

    methods: tuple[str, ...]
    level: int | None


# "renew" is a rotation that leaves nothing of the old secret.
Staged = StagedLogin | StagedReauthentication | StagedStepUp | Literal["rotate", "renew", "logout"] | None


class View(Protocol):
    """A typed picture of the session that is written back before a commit."""

    def write_back(self, session: dict[str, Any]) -> None:
        """Put what has changed into ``session``."""
        ...

    def forget(self) -> None:
        """The session has other data now: read it again when asked."""
        ...


class Delta(msgspec.Struct, frozen=True, gc=False):
    """Top-level keys set, as JSON bytes, and keys removed; ``whole`` is all of the session after it, as JSON."""

    put: Mapping[str, bytes]
    remove: frozenset[str]
    whole: bytes

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)

    @property
    def largest(self) -> str | None:
        """The key that sets the most bytes."""
        return max(self.put, key=lambda key: len(self.put[key]), default=None)


class Visitor(msgspec.Struct, frozen=True, gc=False):
    """Who asks: the raw address and headers, looked at only when something is written."""

    address: Sequence[Any] | None = None
    headers: Headers = ()

    @property
    def ip(self) -> str | None:
        """The peer's address as the server saw it."""
        return str(self.address[0]) if self.address else None

    @property
    def agent(self) -> Header | None:
        """The header that tells the client's program."""
        return next((header for header in self.headers if header[0] == b"user-agent"), None)

    @property
    def is_nobody(self) -> bool:
        """Whether this is no request, but a job."""
        return self is NOBODY


NOBODY = Visitor()


class State:
    """One request's knowledge of its session.

    ``record`` is the living session as last seen, ``base`` the data of it that this request believes stored.
    ``stale`` says that others may have written since, so that compare-and-set must read again. ``noted`` says that
    this use of the session has been noted (touched, rotated when due). ``outgoing`` is what the response has to tell
    the client: a token, or ``False`` to forget the one it has. ``via`` is the request header that carries the token,
    if no cookie does; ``untold`` says that such a client is never told a token (and ``headers_sent`` is true from the
    start). ``encoded`` hands what ``is_settled`` has encoded to ``delta``, if that is asked at once. ``promised`` is
    the token that the session will have if it is made, and ``parked`` is the own session of whoever has just begun to
    impersonate a user. ``stands_in``: the session that is made takes the place of one that a refused login has ended.
    ``proving``: the token of a proof of identity that was begun and not heard of. ``signs_in_at`` when a staged sign-in
    will be dated: something is bound to them already. ``touch_due``: a touch is due at once, however old the last one
    is, ``rests``: none is; ``client_noticed``: ``client_changed`` has been called. ``verdict``:
    what was thought of this request's login. ``guarded``: whether the client was looked at before the session was
    handed out; ``owes_proof``: the user has to prove once more who they are.
    """

    # Defaults of the class cost a request nothing; most requests change few of them.
    record: Record | None = None
    held: Presented | Token | None = None
    base: bytes = b"{}"
    stale: bool = False
    staged: Staged = None
    replaces: Record | None = None
    handed_out: bool = False
    written: bool = False
    noted: bool = False
    headers_sent: bool = False
    via: str | None = None
    untold: bool = False
    clear_site_data: bytes | None = None
    outgoing: Token | Literal[False] | None = None
    undelivered: bool = False
    parked: Record | None = None
    promised: Token | None = None
    stands_in: bool = False
    proving: Token | None = None
    signs_in_at: int | None = None
    touch_due: bool = False
    rests: bool = False
    client_noticed: bool = False
    verdict: Verdict = SAFE
    guarded: bool = False
    owes_proof: bool = False
    ended_reason: str | None = None
    block: Callable[[], None] | None = None
    committing: bool = False
    waiting: list[asyncio.Future[None]] | None = None
    views: list[View] | None = None
    encoded: bytes | None = None

    def __init__(self, runtime: Runtime, began_at: int, visitor: Visitor = NOBODY) -> None:
        self.runtime = runtime
        self.began_at = began_at
        self.visitor = visitor

    def client(self) -> bytes:
        """The client JSON of a session that begins with this request."""
        agent = self.visitor.agent
        return self.runtime.clients.encoded(self.visitor.ip, agent[1] if agent is not None else None)

    @property
    def may_rotate(self) -> bool:
        """Whether there is a session whose current secret its client has seen.

        A second rotation before the first was told would retire the one secret that the client is sure to hold; if
        the response is lost, it would then look like a thief.
        """
        return self.record is not None and not isinstance(self.outgoing, Token)

    @property
    def token(self) -> Token | None:
        """The token that opens the session. Taken apart for those alone who derive another one from it."""
        held = self.held
        return held.token() if isinstance(held, Presented) else held

    def adopt(self, record: Record, held: Presented | Token | None) -> None:
        """From now on this request's session is ``record``, which ``held`` opens."""
        self.record = record
        self.held = held
        self.base = record.data
        self.stale = False

    def forget(self) -> None:
        """From now on this request has no session."""
        self.record = None
        self.held = None
        self.base = b"{}"
        self.stale = False

    def write_back(self, session: dict[str, Any]) -> None:
        """Bring what typed views have changed into ``session``."""
        if self.views is not None:
            for view in self.views:
                view.write_back(session)

    def reread_views(self) -> None:
        """The session has other data now."""
        if self.views is not None:
            for view in self.views:
                view.forget()

    def delta(self, session: dict[str, Any]) -> Delta | None:
        """What ``session`` has that the store has not, nested changes included; ``None`` if nothing.

        Raises ``SessionDataError`` for a value that cannot be stored, before anything is.
        """
        if self.views is not None:
            self.write_back(session)
        if not (self.handed_out or self.written):
            return None
        encoded, self.encoded = self.encoded, None
        if encoded is None:
            encoded = codec.encode_unchecked(session)
        if encoded == self.base:
            return None
        delta = difference(self.base, session, encoded)
        if delta.put:
            if len(delta.whole) > self.runtime.max_session_bytes:
                codec.check_size(len(delta.whole), self.runtime.max_session_bytes, delta.largest)
            if len(session) > self.runtime.max_keys:
                codec.check_keys(session, self.runtime.max_keys)
        if delta.put or delta.remove:
            return delta
        self.base = encoded if encoded is not None else self.base  # the same, as the next look will spell it
        return None


def difference(base: bytes, values: Mapping[str, Any], encoded: bytes | None = None) -> Delta:
    """The delta that makes ``base`` (a JSON object) equal to ``values``, by comparing encodings.

    ``encoded`` is ``values`` as JSON if that is known. What has changed is checked, and refused with
    ``SessionDataError`` if it cannot be stored.
    """
    stored = codec.split(base)
    if encoded is None:
        for key in values:
            codec.check_key(key)
    whole = encoded if encoded is not None else codec.encode_data(values)
    put: dict[str, bytes] = {}
    for key, raw in codec.split(whole).items():
        before = stored.pop(key, None)
        if before == raw:
            continue
        # A database may have rewritten the JSON (spaces, order inside objects), so unequal bytes prove nothing yet.
        value = values[key]
        if before is None or type(value) is int or not codec.is_same(bytes(before), value):
            put[key] = codec.check_encoded(key, value, bytes(raw))
    return Delta(put, frozenset(stored), whole)
