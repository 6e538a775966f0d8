"""Sessions in Redis 6.2 or newer and Valkey: a hash per session, alone, behind Sentinels or in a cluster.

Every write is one guarded script on one key. Lists of users and of what is to be swept are indexes beside it: they are
written before the session, they may name too much but never too little, and whoever reads them looks at the sessions.
What was answered is as durable as the server's ``appendonly`` and ``appendfsync`` say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import hiredis
import msgspec

from sessiondb.core.change import Applied, Change, Conflict, Create, End, Gone, Update
from sessiondb.core.errors import ConfigurationError, SessionDataError, StoreError, WriteOutcome
from sessiondb.core.events import Event
from sessiondb.core.record import EndReason, Record
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_rows as rows
from sessiondb.stores import _redis_scripts as scripts
from sessiondb.stores import _redis_sets as sets
from sessiondb.stores._per_loop import PerLoop
from sessiondb.stores._redis_connection import ConnectionLost
from sessiondb.stores._redis_errors import translated
from sessiondb.stores._redis_nodes import Cluster, Keyed, SingleServer, call
from sessiondb.stores._redis_slots import slot_of
from sessiondb.stores._redis_url import parse
from sessiondb.stores.base import (
    Admission,
    Batching,
    ChangeResult,
    Cutoffs,
    Ended,
    EventPage,
    EventQuery,
    Login,
    Page,
    Query,
    Stats,
    Swept,
)

SCHEMA_VERSION = b"1"
DUE_LISTS = 16
MOST_EVENTS = 100_000


class Keys:
    """The names of the keys with one prefix. What belongs to one user is in one slot."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.meta = f"{prefix}meta".encode()
        self.events = f"{prefix}events".encode()
        self.turn = f"{prefix}sweeper".encode()
        self.due_lists = [f"{prefix}due:{number}".encode() for number in range(DUE_LISTS)]
        self._session = f"{prefix}session:"

    def session(self, sid: str) -> bytes:
        """The hash of one session."""
        return (self._session + sid).encode()

    def sid(self, session: bytes) -> Sid:
        """Whose hash that is."""
        return Sid(session[len(self._session) :].decode())

    def due(self, sid: str) -> bytes:
        """The list in which the sweeper finds the session."""
        return self.due_lists[slot_of(sid.encode()) % DUE_LISTS]

    def user(self, user_id: str) -> bytes:
        """All sessions of a user but those known to have ended, scored by their hard end."""
        return self._of_user(user_id, "sessions")

    def ended(self, user_id: str) -> bytes:
        """The user's sessions that have ended, scored by the time of their purge."""
        return self._of_user(user_id, "ended")

    def not_before(self, user_id: str) -> bytes:
        """The user's ``not_before``."""
        return self._of_user(user_id, "not_before")

    def _of_user(self, user_id: str, what: str) -> bytes:
        return f"{self.prefix}user:{{{quote(user_id, safe='')}}}:{what}".encode()


class RedisStore:
    """The store for one server, primary or cluster; see ``Settings`` for the URL and its options.

    Usable from several event loops, each with connections of its own. Raises ``ConfigurationError``.
    """

    name = "redis"
    batching = Batching(loads=128, changes=64, in_flight=4)

    def __init__(self, url: str) -> None:
        self._settings = parse(url)
        self.keys = Keys(self._settings.prefix)
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

    async def run(self, commands: Sequence[Keyed], outcome: WriteOutcome = "not_applied") -> list[Any]:
        """The replies to ``commands``, all of which must succeed. Raises ``StoreUnavailable`` with ``outcome``."""
        replies = await self.try_all(commands, outcome)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.error(reply, outcome)
        return replies

    async def try_all(self, commands: Sequence[Keyed], outcome: WriteOutcome) -> list[Any]:
        """The replies to ``commands``, errors among them. Raises only where the server itself cannot be asked."""
        nodes = self._nodes.current()
        if not commands:
            return []
        async with self._errors(outcome):
            replies = await nodes.run(commands)
        if any(isinstance(reply, hiredis.ReplyError) and str(reply).startswith("READONLY") for reply in replies):
            nodes.drop_idle()  # after a failover: whoever is the primary now is found by the next call
        return replies

    def error(self, reply: Exception, outcome: WriteOutcome) -> Exception:
        """An error reply as one of ours."""
        return translated(reply, self._settings.where, outcome)

    @property
    def is_cluster(self) -> bool:
        """Whether what is sent at once may be done in any order."""
        return self._nodes.current().is_cluster

    async def clock(self) -> int:
        """The server's clock."""
        [(seconds, micros)] = await self.run([(self.keys.meta, ("TIME",))])
        return int(seconds) * 1_000_000 + int(micros)

    # -- one by one ---------------------------------------------------------------------------------------

    async def load(self, sids: Sequence[Sid]) -> list[Record | None]:
        """See ``Store.load``."""
        keys = [self.keys.session(sid) for sid in sids]
        try:
            return [rows.to_record(flat) for flat in await self.run([(key, ("HGETALL", key)) for key in keys])]
        except (ValueError, TypeError) as error:
            raise SessionDataError(
                f"A session in Redis at {self._settings.where} has fields that sessiondb does not write: {error}."
            ) from None

    async def apply(self, changes: Sequence[Change], events: Sequence[Event] = ()) -> list[ChangeResult]:
        """See ``Store.apply``; the events follow the changes in the same burst."""
        if len({change.sid for change in changes}) != len(changes):
            raise ValueError("the sids of the changes in one call must be unique")
        results: dict[Sid, ChangeResult] = {}
        calls: list[Keyed] = []
        called: list[Change] = []
        for change in changes:
            try:
                calls.append(self._call(change))
            except msgspec.MsgspecError:
                results[change.sid] = SessionDataError("The data of this session is not a JSON object.")
            else:
                called.append(change)
        indexed = self._index_first(called)
        rest = calls + [self._index_sooner(change) for change in called if isinstance(change, End)]
        rest += self._event_commands(events)
        if indexed and self.is_cluster:
            # Nodes answer in any order, and a session must never be there before its place in the lists.
            await self.run(indexed)
            replies = await self.try_all(rest, "unknown")
        else:
            replies = await self.try_all(indexed + rest, "unknown")
            await self._undo_unlisted(called, replies[: len(indexed)])
            replies = replies[len(indexed) :]
        for change, reply in zip(called, replies, strict=False):
            results[change.sid] = self._result(reply)
        for reply in replies[len(calls) :]:
            if isinstance(reply, Exception) and not changes:
                raise self.error(reply, "unknown")
        await self._index_again(called, replies)
        return [results[change.sid] for change in changes]

    def _call(self, change: Change) -> Keyed:
        key = self.keys.session(change.sid)
        if isinstance(change, Create):
            return call(scripts.CREATE, [key], *rows.create_arguments(change))
        if isinstance(change, End):
            return call(scripts.END, [key], *rows.end_arguments(change))
        return call(scripts.UPDATE, [key], *rows.update_arguments(change))

    def _index_first(self, changes: Sequence[Change]) -> list[Keyed]:
        commands: list[Keyed] = []
        for change in changes:
            if isinstance(change, Create):
                record = change.record
                due = self.keys.due(record.sid)
                commands.append((due, ("ZADD", due, record.check_at, record.sid)))
                if record.user_id is not None:
                    listed = self.keys.user(record.user_id)
                    commands.append((listed, ("ZADD", listed, record.created_at + record.absolute, record.sid)))
        return commands

    def _index_sooner(self, change: End) -> Keyed:
        # A lower bound, as all of them: the sweeper looks, and finds out.
        due = self.keys.due(change.sid)
        return due, ("ZADD", due, "LT", change.purge_at, change.sid)

    async def _undo_unlisted(self, changes: Sequence[Change], replies: Sequence[Any]) -> None:
        """A session that could not be listed must not stay: nobody could revoke it."""
        if not any(isinstance(reply, Exception) for reply in replies):
            return
        keys = [self.keys.session(change.sid) for change in changes if isinstance(change, Create)]
        await self.try_all([(key, ("UNLINK", key)) for key in keys], "unknown")
        raise self.error(next(reply for reply in replies if isinstance(reply, Exception)), "not_applied")

    async def _index_again(self, changes: Sequence[Change], replies: Sequence[Any]) -> None:
        """A sign-in gives a session another life, which is known only now."""
        commands: list[Keyed] = []
        for change, reply in zip(changes, replies, strict=False):
            if not isinstance(change, Update) or change.sign_in is None or not isinstance(reply, list) or reply[0] != 2:
                continue
            _, _, check_at, user_id, hard_end = reply
            if hard_end:
                due = self.keys.due(change.sid)
                commands.append((due, ("ZADD", due, "LT", check_at, change.sid)))
                if user_id:
                    listed = self.keys.user(user_id.decode())
                    commands.append((listed, ("ZADD", listed, hard_end, change.sid)))
        await self.run(commands, "unknown")

    def _result(self, reply: Any) -> ChangeResult:
        if isinstance(reply, Exception):
            error = self.error(reply, "unknown")
            return error if isinstance(error, StoreError) else StoreError(str(error))
        kind, first = reply[0], reply[1]
        if kind == 2:
            return Applied(int(first))
        if kind == 0:
            return Gone(first.decode() or None)
        record = rows.to_record(first)
        return Gone(None) if record is None else Conflict(record)

    def _event_commands(self, events: Sequence[Event]) -> list[Keyed]:
        key = self.keys.events
        return [(key, ("XADD", key, "MAXLEN", "~", MOST_EVENTS, "*", *rows.event_fields(event))) for event in events]

    # -- by user, sweeping, events, counts ----------------------------------------------------------------

    async def admit(self, login: Login) -> Admission:
        """See ``Store.admit``; one round trip below the limit, up to three more at it."""
        return await sets.admit(self, login)

    async def find(self, query: Query) -> Page:
        """See ``Store.find``; without user and sids it reads the list of all sessions, which is for small databases."""
        return await sets.find(self, query)

    async def end_where(self, query: Query, reason: EndReason) -> list[Ended]:
        """See ``Store.end_where``; ``not_before`` is written before the list is read."""
        return await sets.end_where(self, query, reason)

    async def sweep(self, cutoffs: Cutoffs, limit: int) -> Swept:
        """See ``Store.sweep``."""
        return await sets.sweep(self, cutoffs, limit)

    async def append(self, events: Sequence[Event]) -> None:
        """See ``Store.append``."""
        await self.run(self._event_commands(events), "unknown")

    async def events(self, query: EventQuery) -> EventPage:
        """See ``Store.events``; looks through the stream, newest first."""
        return await sets.events(self, query)

    async def stats(self) -> Stats:
        """See ``Store.stats``; above some thousands of sessions from a sample."""
        return await sets.stats(self)

    async def repair(self) -> int:
        """List every session anew, by looking at all keys; for after a loss of data, never in a request.

        Returns how many sessions there are.
        """
        return await sets.repair(self)

    async def all_sids(self) -> AsyncIterator[list[Sid]]:
        """Every session that has a key, in parts; a sid may come twice."""
        pattern = self.keys.session("*")
        async with self._errors("not_applied"):
            async for keys in self._nodes.current().scan(pattern):
                yield [self.keys.sid(key) for key in keys]


def redis_from_url(url: str) -> RedisStore:
    """The store of ``redis://``, ``rediss://``, ``redis+cluster://`` or ``redis+sentinel://``, see ``Settings``."""
    return RedisStore(url)
