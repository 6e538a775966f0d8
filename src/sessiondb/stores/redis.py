"""Sessions in Redis 6.2 or newer and Valkey: a hash per session, alone, behind Sentinels or in a cluster.

Every write is one guarded script on one key. Lists of users and of what is to be swept are indexes beside it: they are
written before the session, they may name too much but never too little, and whoever reads them looks at the sessions.
Changes that bring events are one script on one server; in a cluster they are laid down before they count.
What was answered is as durable as the server's ``appendonly`` and ``appendfsync`` say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import hiredis

from sessiondb.core.change import Change
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreUnavailable, WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.policy import Caps
from sessiondb.core.record import EndReason, Record
from sessiondb.core.sealing import Group
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_calls as calling
from sessiondb.stores import _redis_changes as changing
from sessiondb.stores import _redis_counting as counting
from sessiondb.stores import _redis_erasing as erasing
from sessiondb.stores import _redis_mending as mending
from sessiondb.stores import _redis_purging as purging
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores import _redis_sweeping as sweeping
from sessiondb.stores import _redis_together as together
from sessiondb.stores import _redis_trail as trails
from sessiondb.stores import _redis_users as users
from sessiondb.stores import _redis_watching as watching
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._redis_cluster import Cluster
from sessiondb.stores._redis_connection import ConnectionLost
from sessiondb.stores._redis_errors import translated, word_of
from sessiondb.stores._redis_feed import RedisFeed
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_nodes import Keyed, SingleServer, may_have_failed
from sessiondb.stores._redis_url import parse
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Counter,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    PartlyLoaded,
    Position,
    Profile,
    Query,
    Sheet,
    Stats,
    Stream,
    Swept,
)

SCHEMA_VERSION = b"1"


class RedisStore:
    """The store for one server, primary or cluster; see ``Settings`` for the URL and its options.

    Usable from several event loops, each with connections of its own. Raises ``ConfigurationError``.
    """

    name = "redis"

    def __init__(self, url: str) -> None:
        self._settings = parse(url)
        # Events are on another node of a cluster than the session: together they take four round trips. A pass of the
        # sweeper is many commands, and a server does what one connection has sent before it turns to the next.
        self.batching = Batching(
            loads=128, changes=64, in_flight=4, sweep=100, touches=128, together=not self._settings.of_cluster
        )
        self.keys = Keys(self._settings.prefix)
        self.met = users.Met()
        self.bound = purging.Bound(self._settings.max_events)
        self.calls = calling.Calls()
        self._nodes: PerLoop[SingleServer | Cluster] = PerLoop("Redis", self._settings.make)

    def __repr__(self) -> str:
        return f"RedisStore({self._settings.where})"

    # -- opening ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``Store.open``. Raises ``ConfigurationError`` for a wrong password or a newer layout."""
        self._nodes.open()
        try:
            meta = self.keys.meta
            _, found = await self.run(
                [
                    (meta, ("HSETNX", meta, "schema_version", SCHEMA_VERSION)),
                    (meta, ("HGET", meta, "schema_version")),
                ]
            )
            if found != SCHEMA_VERSION:
                raise ConfigurationError(
                    f"The keys {self.keys.prefix}* have layout version {found.decode()}, and this sessiondb knows "
                    f"version {SCHEMA_VERSION.decode()}. Install the sessiondb that made them, or name "
                    "another ?prefix=."
                )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Store.close``."""
        nodes = self._nodes.close()
        if nodes is not None:
            await nodes.close()

    @asynccontextmanager
    async def _errors(self, outcome: WriteOutcome) -> AsyncIterator[None]:
        try:
            yield
        except (OSError, ConnectionLost, hiredis.ReplyError) as error:
            raise translated(error, self._settings.where, outcome) from error

    async def run(
        self, commands: Sequence[Keyed], outcome: WriteOutcome = "not_applied", *, wait: bool = False
    ) -> list[Any]:
        """The replies to ``commands``, all of which must succeed. Raises ``StoreUnavailable`` with ``outcome``."""
        replies = await self.try_all(commands, outcome, wait=wait)
        if may_have_failed(replies):
            for reply in replies:
                if isinstance(reply, Exception):
                    raise self.error(reply, outcome)
        return replies

    async def try_all(self, commands: Sequence[Keyed], outcome: WriteOutcome, *, wait: bool = False) -> list[Any]:
        """The replies to ``commands``, errors among them. Raises only where the server itself cannot be asked.

        ``wait``: for the replicas that ``?wait_replicas=`` asks for; without them, replies are ``TooFewReplicas``.
        """
        nodes = self._nodes.current()
        if not commands:
            return []
        async with self._errors(outcome):
            replies = await nodes.run(commands, self._settings.wait if wait else None)
        if may_have_failed(replies) and any(
            isinstance(one, Exception) and word_of(one) == "READONLY" for one in replies
        ):
            nodes.drop_idle()  # after a failover: whoever is the primary now is found by the next call
        return replies

    def error(self, reply: Exception, outcome: WriteOutcome) -> Exception:
        """An error reply as one of ours."""
        return translated(reply, self._settings.where, outcome)

    @property
    def waits(self) -> bool:
        """Whether logins and ends are to be confirmed by replicas."""
        return self._settings.wait is not None

    @property
    def is_cluster(self) -> bool:
        """Whether what is sent at once may be done in any order."""
        return self._nodes.current().is_cluster

    async def clock(self) -> int:
        """The server's clock."""
        [(seconds, micros)] = await self.run([(self.keys.meta, ("TIME",))])
        return int(seconds) * 1_000_000 + int(micros)

    def feed(self) -> RedisFeed:
        """What others write, as the server tells it (client-side caching); for an open store."""
        return RedisFeed(self._nodes.current, self.keys, self._settings.where)

    # -- one by one ---------------------------------------------------------------------------------------

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        keys = [self.keys.session(sid) for sid in sids]
        commands: list[Keyed] = [(key, ("HGETALL", key)) for key in keys]
        try:
            if not self.is_cluster:
                return [rows.to_record(flat) for flat in await self.run(commands)]
            return self._of_nodes(await self.try_all(commands, "not_applied"))
        except (ValueError, TypeError) as error:
            raise SessionDataError(
                f"A session in Redis at {self._settings.where} has fields that sessiondb does not write: {error}."
            ) from None

    def _of_nodes(self, replies: Sequence[Any]) -> list[Record | None]:
        """Records; where a node is away, what the others have answered is told all the same."""
        found: list[Record | StoreUnavailable | None] = []
        failure: StoreUnavailable | None = None
        for reply in replies:
            if not isinstance(reply, Exception):
                found.append(rows.to_record(reply))
                continue
            error = self.error(reply, "not_applied")
            if not isinstance(error, StoreUnavailable):
                raise error
            failure = StoreUnavailable(str(error), partial=True)
            failure.__cause__ = error.__cause__
            found.append(failure)
        if failure is not None:
            raise PartlyLoaded(str(failure), found)
        return cast("list[Record | None]", found)

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``.

        With ``?wait_replicas=`` a login or an end that too few replicas have confirmed in time has been written, and
        is answered ``StoreUnavailable(outcome="unconfirmed")``.
        """
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        if self.calls.any_unsettled:
            await calling.settle_before(self, changes)
        if not events:
            return await changing.apply(self, changes)
        if changes and self.is_cluster:
            return await calling.apply(self, changes, events)
        return await together.apply(self, changes, events)

    # -- by user, sweeping, events, counts ----------------------------------------------------------------

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``; one round trip below the limit, two or three more at it."""
        return await users.admit(self, login)

    async def find(self, query: Query) -> Page:
        """See ``Store.find``; without user and sids it reads the list of all sessions, which is for small databases."""
        return await users.find(self, query)

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``; ``not_before`` is written before the list is read."""
        return await users.end_where(self, query, reason)

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``."""
        return await sweeping.sweep(self, cutoffs, limit)

    async def announced(self, sids: Sequence[Sid]) -> None:
        """See ``Store.announced``."""
        await sweeping.announced(self, sids)

    async def lower_checks(self, caps: Caps, after: str | None, limit: int) -> str | None:
        """See ``Store.lower_checks``; of small lists it looks at more than ``limit``."""
        return await sweeping.lower_checks(self, caps, after, limit)

    async def recall(self, name: str) -> str | None:
        """See ``Store.recall``."""
        [text] = await self.run([(self.keys.meta, ("HGET", self.keys.meta, f"note:{name}"))])
        return None if text is None else str(text.decode())

    async def remember(self, name: str, text: str) -> None:
        """See ``Store.remember``."""
        await self.run([(self.keys.meta, ("HSET", self.keys.meta, f"note:{name}", text))], "unknown")

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        await trails.append(self, events)

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``; by type and time alone it looks through all that are newer than what it finds."""
        return await trails.events(self, query)

    async def streams(self) -> list[Stream]:
        """See ``Store.streams``."""
        return await trails.streams(self)

    async def trail(self, stream: str, after: int, limit: int) -> list[Event]:
        """See ``Store.trail``."""
        return await trails.trail(self, stream, after, limit)

    async def purge_events(self, through: Mapping[str, int]) -> int:
        """See ``Store.purge_events``."""
        return await purging.purge(self, through)

    # -- persons, and what is kept about logins -----------------------------------------------------------

    async def blank(self, places: Sequence[Position], groups: Collection[Group]) -> int:
        """See ``Store.blank``."""
        return await erasing.blank(self, places, groups)

    async def forget_user(self, user_id: str) -> int:
        """See ``Store.forget_user``."""
        return await erasing.forget_user(self, user_id)

    async def profile(self, user_id: str | None, counters: Sequence[Counter]) -> Profile:
        """See ``Store.profile``."""
        return await watching.profile(self, user_id, counters)

    async def record_logins(self, logins: Sequence[tuple[str, bytes]], expires_at: int) -> None:
        """See ``Store.record_logins``."""
        await watching.record_logins(self, logins, expires_at)

    async def drop_login(self, user_id: str, entry: bytes) -> bool:
        """See ``Store.drop_login``."""
        return await watching.drop_login(self, user_id, entry)

    async def count(self, bucket: str, adds: Mapping[bytes, int], *, most: int, expires_at: int) -> None:
        """See ``Store.count``."""
        await watching.count(self, bucket, adds, most, expires_at)

    async def publish(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.publish``."""
        await watching.publish(self, sheets)

    async def sheets(self, kind: str, since: int, until: int) -> list[Sheet]:
        """See ``Store.sheets``."""
        return await watching.sheets(self, kind, since, until)

    async def withdraw(self, sheets: Sequence[Sheet]) -> None:
        """See ``Store.withdraw``."""
        await watching.withdraw(self, sheets)

    async def expire(self, now: int, limit: int) -> int:
        """Nothing: the server expires by itself."""
        return 0

    # -- counts, and mending ------------------------------------------------------------------------------

    async def stats(self) -> Stats:
        """See ``Store.stats``; above some thousands of sessions from a sample."""
        return await counting.stats(self)

    async def repair(self) -> int:
        """List every session anew and mend the audit trail, by looking at all keys; for after a loss of data.

        Never in a request. May run while sessions are written: it adds to the lists, and moves nobody to where they
        would not be found. Returns how many sessions it has seen.
        """
        count = await sweeping.repair(self)
        await mending.mend(self)
        return count

    async def all_sids(self) -> AsyncIterator[list[Sid]]:
        """Every session that has a key, in parts; a sid may come twice."""
        async for keys in self.all_keys(self.keys.session("*")):
            yield [self.keys.sid(key) for key in keys]

    async def all_keys(self, pattern: bytes) -> AsyncIterator[list[bytes]]:
        """Every key like ``pattern``, in parts; a key may come twice. Never in a request."""
        async with self._errors("not_applied"):
            async for keys in self._nodes.current().scan(pattern):
                yield keys


def redis_from_url(url: str) -> RedisStore:
    """The store of ``redis://``, ``rediss://``, ``redis+cluster://`` or ``redis+sentinel://``, see ``Settings``."""
    return RedisStore(url)
