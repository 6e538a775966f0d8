"""The contract that every store keeps, and ``open_store(url)``.

A store moves records and changes, in batches. It knows no cookie, policy or token format. Times are int64
microseconds UTC.

Rules:

* Each change is atomic on its own session and is answered by itself: one change that fails (its outcome is then
  the ``StoreError`` or ``SessionDataError``) never fails its neighbours.
* The sids in one ``apply`` are unique.
* ``apply`` answers as ``sessiondb.core.change.apply`` does; nothing but ``Create`` makes a session.
* Lone touches come many in a call (``Batching.touches``), beside other calls that may write to the same sessions. One
  whose session is gone, or held by somebody else's transaction, neither fails the others nor has them wait for it long.
* ``Update.seen`` and ``Update.whole`` are a hint, never a guard: a store may write ``whole`` if the session is still at
  ``seen.rev``, and merges ``put`` and ``remove`` into what is stored otherwise. A store may ignore both.
* What has been answered is as durable as the database is configured to be, and seen by every later ``load``.
* A call of ``apply`` with events is one: they are written with the changes, or neither are. Events are sealed (see
  ``sessiondb.core.sealing``), and have one place in the trail each, however often they are written.
* A call whose outcome is not known raises ``StoreError(outcome="unknown")``; one that did nothing because the
  database is away raises ``StoreUnavailable``. No call is repeated by the driver.
* A store that waits for replicas answers a login or an end that they have not confirmed with
  ``StoreError(outcome="unconfirmed")``. No reading settles that: the call is repeated, or its failure told.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable
from urllib.parse import urlsplit

import msgspec

from sessiondb.core.change import Change, Outcome
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.policy import SECOND, Caps, OnLimit
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid

ChangeResult = Outcome | StoreError | SessionDataError
State = Literal["live", "ended", "all"]

SWEEP_GRACE = 30 * SECOND
HISTORY_ENTRY_BYTES = 48
HISTORY_ENTRIES = 10


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A login whose session has just been written and now asks to stay.

    ``also`` are further names (of an identity provider's session, say) whose ``not_before`` counts as the user's does.
    Sessions that somebody has by impersonating the user take no place in the limit.
    """

    sid: Sid
    user_id: str
    began_at: int
    now: int
    caps: Caps
    per_user: int | None = None
    on_limit: OnLimit = "end_oldest"
    purge_at: int
    announce_at: int | None = None
    also: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that this call has ended. Each end is reported once, by the call that wrote it."""

    sid: Sid
    user_id: str | None
    reason: str
    at: int


class Admission(msgspec.Struct, frozen=True):
    """Whether a login may stay. If not, its session has been ended and ``refused`` is why.

    ``not_before`` is the latest one that is after ``began_at``, where that is why.
    """

    refused: Literal["revoked", "limit"] | None = None
    ended: Sequence[Ended] = ()
    not_before: int | None = None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions. ``live`` means neither ended nor past the deadline that ``caps`` gives at ``now``.

    ``user_id`` is matched byte by byte. ``before`` pages: only sids that sort before it. ``keep`` spares one sid. For
    ``end_where`` with a user, ``not_before`` is written first, so that logins in flight end too; the latest one
    stays, with ``lift`` the earliest (a lock that lasts into the future is lifted so). ``link`` finds the sessions
    that were created or signed in with it. ``announce_at`` is as in ``End``.
    """

    now: int
    caps: Caps
    user_id: str | None = None
    sids: Sequence[Sid] | None = None
    state: State = "live"
    before: Sid | None = None
    limit: int = 100
    keep: Sid | None = None
    not_before: int | None = None
    purge_at: int = 0
    link: bytes | None = None
    announce_at: int | None = None
    lift: bool = False


class Page(msgspec.Struct, frozen=True):
    """Records, newest first (by sid). ``next`` is the ``before`` of the next page, or ``None``."""

    records: Sequence[Record]
    next: Sid | None = None


class Cutoffs(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep goes by. A session is ended ``SWEEP_GRACE`` after its deadline, a tombstone purged at its time.

    With ``worker``, the sweep does nothing while another worker has the turn (``turn``: for how long to take it).
    With ``announce_at``, the ends that this sweep writes have to be announced, and those that nobody has announced yet
    though they are due are reported as ``unannounced`` and due again then. Without it these go to their ``purge_at``.
    """

    now: int
    caps: Caps
    keep_ended: int
    worker: str | None = None
    turn: int = 0
    announce_at: int | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did. ``more``: it stopped at its limit, and there is more to do.

    ``unannounced`` were ended before, by somebody who may have died before telling anyone: announce them.
    """

    ended: Sequence[Ended] = ()
    purged: int = 0
    more: bool = False
    unannounced: Sequence[Ended] = ()


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events. ``after`` pages: the ``next`` of the page before."""

    user_id: str | None = None
    sid: str | None = None
    actor: str | None = None
    type: str | None = None
    since: int | None = None
    until: int | None = None
    after: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, newest first."""

    events: Sequence[Event]
    next: int | None = None


class Position(NamedTuple):
    """A place in the audit trail."""

    stream: str
    seq: int


class Stream(msgspec.Struct, frozen=True):
    """A stream of the audit trail: ``first`` is the lowest ``seq`` that is there, ``last`` the event of the highest."""

    name: str
    first: int
    last: Event


class Counter(NamedTuple):
    """One number among those of ``bucket`` (at most 48 ASCII characters). ``key`` has at most 32 bytes."""

    bucket: str
    key: bytes


class Profile(msgspec.Struct, frozen=True):
    """What is known for a login: the user's latest logins (``record_logins``), and the counters that were asked for."""

    history: bytes
    counts: Sequence[int]


class Sheet(msgspec.Struct, frozen=True):
    """What one ``writer`` has gathered about ``bucket`` (a number, such as an hour) of one ``kind``.

    ``kind`` has at most 16 lower-case letters and ``_``, ``writer`` at most 32 ASCII characters, ``data`` at most
    65,536 bytes. It goes after ``expires_at``.
    """

    kind: str
    bucket: int
    writer: str
    data: bytes
    expires_at: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts; ``live`` may include sessions past their deadline that the sweeper has not ended yet."""

    live: int
    ended: int
    users: int
    events: int
    size_bytes: int | None = None


class Batching(msgspec.Struct, frozen=True):
    """How a store likes its batches: the most sids or changes in one call, and calls under way at once.

    ``sweep``: how many sessions one sweep should look at, so that nobody waits for it long. ``touches``: the most
    changes in one call where all are lone touches (``all_touch``); ``None``: as many as other changes. ``together``:
    ``apply`` with events costs no more round trips than without; else they go beside the changes where they may.
    """

    loads: int = 128
    changes: int = 32
    in_flight: int = 4
    sweep: int = 500
    touches: int | None = None
    together: bool = True

    @property
    def most_touches(self) -> int:
        """How many lone touches to send in one call."""
        return self.changes if self.touches is None else self.touches


class NotTogether(StoreError):
    """Raised by ``apply`` with events: one of several changes cannot be written, so nothing was.

    Written alone, each is answered by itself.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, outcome="not_applied")


def place_taken(place: Position) -> str:
    """The message of the error that answers an event whose place in the trail is another's."""
    return (
        f"Place {place.seq} of stream {place.stream} in the audit trail is taken by an event that this process has not "
        "written: the trail has been tampered with. Run sessiondb audit verify."
    )


class PartlyLoaded(StoreUnavailable):
    """Raised by ``load`` where one part of the database is away (a node of a cluster) and others have answered.

    ``records`` is what ``load`` would return, with an error (``partial=True``) in the place of what was not found out.
    """

    def __init__(self, message: str, records: Sequence[Record | StoreUnavailable | None]) -> None:
        super().__init__(message, partial=True)
        self.records = records


@runtime_checkable
class Store(Protocol):
    """One database. See the module's rules; ``sessiondb.testing`` checks them."""

    @property
    def name(self) -> str:
        """The kind of database, as in its URL's scheme: for messages and metrics."""
        ...

    @property
    def batching(self) -> Batching:
        """The batches it likes."""
        ...

    async def open(self) -> None:
        """Connect; create the schema if absent, else check its version. Called once per event loop."""
        ...

    async def close(self) -> None:
        """Release everything this event loop holds. What was answered stays."""
        ...

    async def clock(self) -> int:
        """The database's time."""
        ...

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """The records of ``sids`` in that order, living or ended; ``None`` where there is none."""
        ...

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """Write ``changes`` and ``events``, which are written together or not at all.

        Also where the process or the server is killed meanwhile. A change that is answered (``Gone``, ``Conflict``)
        keeps no event from being written. One that is an error does: then, if there are several changes,
        ``NotTogether`` is raised and nothing is written; if there is one, its error is its answer. An event whose place
        in the trail is taken by another is such an error.
        """
        ...

    async def admit(self, login: Login) -> Admission:
        """Enforce ``not_before`` and the limit per user on a session that has been written before."""
        ...

    async def find(self, query: Query) -> Page:
        """Sessions by query."""
        ...

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """End every living session of ``query`` (its ``limit`` and ``before`` do not count)."""
        ...

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """Look at no more than ``limit`` sessions that are due: end the expired, purge old tombstones."""
        ...

    async def announced(self, sids: Sequence[Sid]) -> None:
        """The ends of ``sids`` have been announced: look at their tombstones next at ``purge_at``."""
        ...

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """One step of a walk over all sessions, after a lifetime was lowered: look at ``limit`` of them.

        A living one is to be looked at no later than ``SWEEP_GRACE`` after the deadline that ``caps`` gives it; its
        ``check_at`` is lowered to that, never raised, and nothing else of it changes. ``after`` is what the step before
        has returned, from whatever process (``None``: begin): a sid, or whatever the store walks by. ``None`` is
        returned at the end. Who exists throughout a walk is looked at; who is made or moved meanwhile may be missed.
        """
        ...

    async def recall(self, name: str) -> str | None:
        """What ``remember`` has kept under ``name``, or ``None``."""
        ...

    async def remember(self, name: str, text: str) -> None:
        """Keep ``text`` (at most 16,000 characters) under ``name``, for all who share this database; the last one wins.

        ``name`` is of lower-case letters and ``_``, 32 at most. For what few ask and seldom change.
        """
        ...

    async def append(self, events: Sequence[Event]) -> None:
        """Write events; those whose place (stream and ``seq``) is taken already are left as they are."""
        ...

    async def events(self, query: EventQuery) -> EventPage:
        """Read events, in the order in which they came to the database, newest first."""
        ...

    async def streams(self) -> list[Stream]:
        """Every stream of the audit trail, by name."""
        ...

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """The events of ``stream`` whose ``seq`` is above ``after``, lowest first, no more than ``limit``."""
        ...

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """Delete the events of each stream up to and with that ``seq``; how many there were."""
        ...

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """Erase the personal fields of ``groups`` from the events at ``places``, as ``sealing.blanked`` says; how many.

        With their salts, from every index and every other place where the store has them. Events that are not there do
        not count. Where the database keeps what was overwritten (free pages), it is overwritten there too, or the
        store's documentation says how.
        """
        ...

    async def forget_user(self, user_id: str) -> int:
        """Delete every session of ``user_id``, living or ended, and all else that is kept by that name; how many.

        With links, ``not_before`` and the history of logins. Events are not touched. As in ``blank``, nothing stays.
        """
        ...

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """The user's history of logins (``b""``: none) and the ``counters`` (0: never counted), in one round trip."""
        ...

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """Put each entry (``HISTORY_ENTRY_BYTES``) before the user's history, of which the newest ten stay.

        Atomic for each user: of logins at the same time none is lost. A user may come several times, oldest first. The
        history goes after ``expires_at``.
        """
        ...

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """Take ``entry`` out of the user's history; whether it was there."""
        ...

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """Add to the counters of ``bucket``, which all go after ``expires_at`` (that of the latest call).

        Atomic for each. Where the bucket has ``most`` keys, new ones are left out; those at the same moment may pass.
        """
        ...

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """Keep each sheet in the place of the one of the same kind, bucket and writer."""
        ...

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """The sheets of ``kind`` whose bucket is ``since`` or later and before ``until``, by bucket and writer."""
        ...

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """Delete the sheets of these kinds, buckets and writers."""
        ...

    async def expire(self, now: int, limit: int) -> int:
        """Delete histories, counters and sheets whose ``expires_at`` is ``now`` or earlier; about how many.

        No more than about ``limit`` of each. A database that expires by itself has nothing to do.
        """
        ...

    async def stats(self) -> Stats:
        """Counts; estimates where exact ones are slow."""
        ...


class StoreKind(msgspec.Struct, frozen=True):
    """Where the store of a URL scheme is, and what it needs."""

    module: str
    factory: str
    requires: str | None = None
    extra: str | None = None


_KINDS: dict[str, StoreKind] = {
    "memory": StoreKind("sessiondb.stores.memory", "memory_from_url"),
    "sqlite": StoreKind("sessiondb.stores.sqlite", "sqlite_from_url"),
    "postgresql": StoreKind("sessiondb.stores.postgresql", "postgresql_from_url", "asyncpg", "postgresql"),
    "mysql": StoreKind("sessiondb.stores.mysql", "mysql_from_url", "asyncmy", "mysql"),
    "mariadb": StoreKind("sessiondb.stores.mysql", "mysql_from_url", "asyncmy", "mysql"),
    "redis": StoreKind("sessiondb.stores.redis", "redis_from_url", "hiredis", "redis"),
    "rediss": StoreKind("sessiondb.stores.redis", "redis_from_url", "hiredis", "redis"),
    "mongodb": StoreKind("sessiondb.stores.mongodb", "mongodb_from_url", "pymongo", "mongodb"),
    "mongodb+srv": StoreKind("sessiondb.stores.mongodb", "mongodb_from_url", "pymongo", "mongodb"),
}

_ALIASES = {"postgres": "postgresql", "valkey": "redis", "valkeys": "rediss"}


def open_store(url: str) -> Store:
    """The store that ``url`` names, not yet connected.

    ``memory://`` · ``sqlite:///relative.db`` · ``sqlite:////absolute.db`` ·
    ``postgresql://user:password@host:5432/database`` · ``mysql://`` or ``mariadb://user:password@host:3306/database`` ·
    ``redis://host:6379/0``, ``rediss://``,
    ``redis+cluster://host1,host2``, ``redis+sentinel://host1,host2/primary-name`` ·
    ``mongodb://host1,host2/database``, ``mongodb+srv://host/database``. Raises ``ConfigurationError`` for an unknown
    scheme, a missing extra or an option that the store does not know.
    """
    scheme = urlsplit(url).scheme if "://" in url else ""
    # SQLAlchemy names its driver in the scheme: postgresql+asyncpg.
    base = scheme.partition("+")[0]
    kind = _KINDS.get(scheme) or _KINDS.get(_ALIASES.get(base, base))
    if kind is None:
        known = ", ".join(f"{name}://" for name in (*_KINDS, "redis+cluster", "redis+sentinel"))
        shown = f"{scheme}://..." if scheme else "no scheme (the part before '://')"
        close = difflib.get_close_matches(base, _KINDS, 1)
        hint = f"Is it {close[0]}:// that you mean?" if close else "For example: SessionDB('sqlite:///sessions.db')."
        raise ConfigurationError(f"The session database URL has {shown}; this version knows {known}. {hint}")
    factory: Callable[[str], Store] = getattr(_load(scheme, kind), kind.factory)
    return factory(url)


def _load(scheme: str, kind: StoreKind) -> object:
    try:
        return importlib.import_module(kind.module)
    except ModuleNotFoundError:
        # Not by the name of what was missed: a driver may bring several packages, as PyMongo brings bson.
        if kind.requires is None or importlib.util.find_spec(kind.requires) is not None:
            raise
        raise ConfigurationError(
            f"{scheme}:// needs {kind.requires}, which is not installed: pip install 'sessiondb[{kind.extra}]'."
        ) from None
