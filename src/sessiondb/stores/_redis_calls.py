"""Changes with their events in a cluster, where a session and the audit trail are on different nodes.

A call is laid down before it counts: its name among those that have begun, then each change beside its session. One
script writes the events and moves the name to the calls that count; from then on all changes are made, by whoever
called or by the sweeper. A call that has begun and does not count is given up by the sweeper, after a while. So whoever
is killed, and whenever: changes and events are all there in the end, or none of them are.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hiredis

from sessiondb.core.change import Applied, Change, Create, End
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.policy import SECOND
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_call_scripts as scripts
from sessiondb.stores import _redis_changes as changing
from sessiondb.stores._redis_events import sealed
from sessiondb.stores._redis_keys import Keys
from sessiondb.stores._redis_nodes import Keyed, TooFewReplicas, call, plain
from sessiondb.stores._redis_together import Planned, plan, refused
from sessiondb.stores._redis_trail import problem_of
from sessiondb.stores._steps import undecided
from sessiondb.stores.base import ChangeResult

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

log = logging.getLogger("sessiondb")

PATIENCE = 30 * SECOND
_AT_ONCE = 100  # calls that one sweep settles
_MOST_UNSETTLED = 1000
_GIVEN_UP, _COUNTS = 1, 2
_NOTHING_THERE = 3


@dataclass(frozen=True, slots=True)
class Call:
    """A call by its name, which says where its changes are laid down."""

    name: str

    @classmethod
    def new(cls, sids: Iterable[Sid]) -> Call:
        """A new one."""
        return cls(" ".join((secrets.token_hex(8), *sids)))

    @property
    def sids(self) -> list[Sid]:
        """Whose sessions it changes."""
        return [Sid(sid) for sid in self.name.split(" ")[1:]]

    def keys_of(self, keys: Keys, sid: Sid) -> list[bytes]:
        """The session, and where the change to it is laid down."""
        return [keys.session(sid), keys.prepared(sid, self.name.partition(" ")[0])]


class Calls:
    """What is still to be done about the calls of this process."""

    def __init__(self) -> None:
        self._over: list[Call] = []
        self._unsettled: dict[bytes, Call] = {}

    def is_over(self, one: Call) -> None:
        """Nothing is left to do for it; its name goes with the next call."""
        self._over.append(one)

    def take_over(self, keys: Keys) -> list[Keyed]:
        """Removes the names of those that are over."""
        over, self._over = self._over, []
        names = [one.name for one in over]
        return [(keys.counting_calls, ("ZREM", keys.counting_calls, *names))] if names else []

    def is_unsettled(self, one: Call, changes: Iterable[Change]) -> None:
        """Nobody knows what becomes of ``changes`` before ``one`` is settled."""
        self._unsettled.update((_id(change), one) for change in changes)
        while len(self._unsettled) > _MOST_UNSETTLED:
            del self._unsettled[next(iter(self._unsettled))]  # the sweeper settles it

    def is_settled(self, one: Call) -> None:
        """Its changes may be sent again."""
        self._unsettled = {id_: other for id_, other in self._unsettled.items() if other != one}

    @property
    def any_unsettled(self) -> bool:
        """Whether there is a call to be settled."""
        return bool(self._unsettled)

    def unsettled(self, changes: Sequence[Change]) -> list[Call]:
        """The unsettled calls that ``changes`` were in."""
        found = (self._unsettled.get(_id(change)) for change in changes)
        return list(dict.fromkeys(one for one in found if one is not None))


def _id(change: Change) -> bytes:
    return change.record.last_changes if isinstance(change, Create) else change.id


async def apply(store: RedisStore, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
    """See ``Store.apply``, with events; four round trips."""
    try:
        planned = plan(store, changes)
    except SessionDataError as error:
        return refused(changes, error)
    one = Call.new(change.sid for change in changes)
    wait = any(map(changing.must_last, changes))
    reply: Any = await _begin(store, one, planned, wait) or await _prepare(store, one, planned)
    if reply is None:
        reply = await _commit(store, one, planned, events, wait)
    if isinstance(reply, Exception) and not isinstance(reply, TooFewReplicas):
        await _discard(store, one)
        return refused(changes, reply)
    results = await _finish(store, one, changes, wait)
    await store.bound.keep(store, reply)
    if not isinstance(reply, TooFewReplicas):
        return results
    unconfirmed = changing.as_result(store.error(reply, "unconfirmed"))
    return [
        unconfirmed if isinstance(result, Applied) and changing.must_last(change) else result
        for change, result in zip(changes, results, strict=True)
    ]


async def _begin(store: RedisStore, one: Call, planned: Sequence[Planned], wait: bool) -> Exception | None:
    """The name, and places in the lists, come before anything that they name."""
    keys = store.keys
    listings = [listing for part in planned for listing in part.listings]
    commands = [call(scripts.BEGIN, [keys.begun_calls], one.name, PATIENCE)]
    commands += [command for _, command in listings]
    needed = len(commands)
    commands += [changing.sooner(keys, part.change) for part in planned if isinstance(part.change, End)]
    commands += store.calls.take_over(keys)
    replies = await store.try_all(commands, "not_applied", wait=wait)
    begun, *listed = replies[:needed]
    changing.note_listed(store, listings, listed)
    # Should a failover lose the name, the call never counts.
    return _first_error(store, [begun]) or _first_error(store, listed, wait=wait)


async def _prepare(store: RedisStore, one: Call, planned: Sequence[Planned]) -> Exception | None:
    keys = store.keys
    calls = [call(scripts.PREPARE, one.keys_of(keys, part.change.sid), part.verb, *part.arguments) for part in planned]
    return _first_error(store, await store.try_all(calls, "not_applied"))


def _first_error(store: RedisStore, replies: Sequence[Any], *, wait: bool = False) -> Exception | None:
    """The first, of what counts only after the events: so nothing has been written for it."""
    for reply in replies:
        if isinstance(reply if wait else plain(reply), Exception):
            return store.error(reply, "not_applied")
    return None


async def _commit(store: RedisStore, one: Call, planned: Sequence[Planned], events: Sequence[Event], wait: bool) -> Any:
    """Write the events, and have the call count: the reply. Any other error than ``TooFewReplicas``: it never will.

    Raises where nothing is known.
    """
    keys, arguments = sealed(store.keys, events, strict=True)
    names = [store.keys.begun_calls, store.keys.counting_calls]
    commit = call(scripts.COMMIT, [*names, *keys], one.name, PATIENCE, *arguments)
    try:
        [reply] = await store.try_all([commit], "unknown", wait=wait)
    except StoreError as error:
        reply = error
    answer = plain(reply)
    if isinstance(answer, Exception):
        lost = store.error(answer, "unknown")
        if isinstance(answer, hiredis.ReplyError):
            return lost
        try:
            state = await _give_up(store, one)
        except StoreError:
            store.calls.is_unsettled(one, [part.change for part in planned])
            raise undecided(lost) from lost.__cause__
        if state == _COUNTS:
            return [b"ok", 0, 0]
        if state == _GIVEN_UP:
            return StoreUnavailable(str(lost))
        raise undecided(lost) from lost.__cause__
    if answer[0] == b"late":
        return StoreError("The call took so long that another process has given it up. Nothing was written.")
    return problem_of(answer) or reply


async def _finish(store: RedisStore, one: Call, changes: Sequence[Change], wait: bool) -> list[ChangeResult]:
    keys = store.keys
    calls = [call(scripts.FINISH, one.keys_of(keys, change.sid)) for change in changes]
    try:
        replies = await store.try_all(calls, "unknown", wait=wait)
    except StoreError as error:
        replies = [error] * len(changes)
    answers: dict[Sid, Any] = {}
    results: dict[Sid, ChangeResult] = {}
    open_: list[Change] = []
    for change, reply in zip(changes, replies, strict=True):
        answer = plain(reply)
        if isinstance(answer, Exception):
            open_.append(change)
            results[change.sid] = changing.as_result(undecided(store.error(answer, "unknown")))
        elif answer[0] == _NOTHING_THERE:
            text = "Another process has made this change meanwhile; read the session to see what became of it."
            results[change.sid] = StoreError(text, outcome="unknown")
        else:
            answers[change.sid] = reply
            results[change.sid] = changing.result_of(store, change, reply)
    if open_:
        store.calls.is_unsettled(one, open_)
    else:
        store.calls.is_over(one)
    await changing.list_again(store, [change for change in changes if change.sid in answers], answers, results)
    return [results[change.sid] for change in changes]


# -- settling -----------------------------------------------------------------------------------------------


async def settle_before(store: RedisStore, changes: Sequence[Change]) -> None:
    """``changes`` may be sent again: what is left of a call that they were in would be made once more. Raises."""
    for one in store.calls.unsettled(changes):
        try:
            if await _give_up(store, one) == _COUNTS:
                await _make(store, one)
            else:
                await _discard(store, one)
        except StoreError as error:
            raise undecided(error) from error.__cause__
        store.calls.is_settled(one)


async def settle_due(store: RedisStore, now: int) -> None:
    """Settle what killed processes have left: part of a sweep. Others' errors stop nobody."""
    keys = store.keys
    begun, counting = await store.run(
        [
            (key, ("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, _AT_ONCE))
            for key in (keys.begun_calls, keys.counting_calls)
        ]
    )
    due = [Call(name.decode()) for name in counting]
    for name in begun:
        one = Call(name.decode())
        state = await _give_up(store, one)
        if state == _GIVEN_UP:
            await _discard(store, one)
        elif state == _COUNTS:
            due.append(one)
    for one in due:
        try:
            await _make(store, one)
        except StoreError as error:
            log.warning("redis: changes whose events are written could not be made yet; a later sweep does. %s", error)
            continue
        # Whatever else is to be done for these sessions, the sweeper does when it looks at them.
        looks = [(key := keys.due(sid), ("ZADD", key, "LT", now, sid)) for sid in one.sids]
        await store.run([*looks, (keys.counting_calls, ("ZREM", keys.counting_calls, one.name))], "unknown")


async def _give_up(store: RedisStore, one: Call) -> int:
    keys = [store.keys.begun_calls, store.keys.counting_calls]
    [state] = await store.run([call(scripts.GIVE_UP, keys, one.name)], "unknown")
    return int(state)


async def _make(store: RedisStore, one: Call) -> None:
    await store.run([call(scripts.FINISH, one.keys_of(store.keys, sid)) for sid in one.sids], "unknown")


async def _discard(store: RedisStore, one: Call) -> None:
    """Take away what never counts. What stays is collected by its expiry, and does nothing."""
    begun = store.keys.begun_calls
    commands: list[Keyed] = [(begun, ("ZREM", begun, one.name))]
    commands += [((key := one.keys_of(store.keys, sid)[1]), ("UNLINK", key)) for sid in one.sids]
    try:
        await store.try_all(commands, "unknown")
    except StoreError:
        pass
