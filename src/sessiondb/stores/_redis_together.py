"""Changes with their events on one server: one script writes all of them, or nothing. For clusters see _redis_calls.

It costs no more round trips than changes alone: places in lists go before it in the same burst, and it looks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import hiredis
import msgspec

from sessiondb.core.change import Change, End
from sessiondb.core.errors import SessionDataError, StoreError, StoreUnavailable
from sessiondb.core.events import Event
from sessiondb.core.token import Sid
from sessiondb.stores import _redis_call_scripts as scripts
from sessiondb.stores import _redis_change_scripts as change_scripts
from sessiondb.stores import _redis_changes as changing
from sessiondb.stores._redis_connection import Argument
from sessiondb.stores._redis_errors import word_of
from sessiondb.stores._redis_events import sealed
from sessiondb.stores._redis_nodes import Keyed, TooFewReplicas, call, plain
from sessiondb.stores._redis_script import Script
from sessiondb.stores._redis_trail import problem_of
from sessiondb.stores.base import ChangeResult, NotTogether

if TYPE_CHECKING:
    from sessiondb.stores.redis import RedisStore

VERBS: dict[Script, str] = {
    change_scripts.CREATE: "CREATE",
    change_scripts.UPDATE: "UPDATE",
    change_scripts.END: "END",
}


class Planned(NamedTuple):
    """A change, its verb and arguments, and what gives it its places in the lists."""

    change: Change
    verb: str
    arguments: list[Argument]
    listings: list[tuple[Sid, Keyed]]

    @property
    def lists(self) -> list[bytes]:
        """The lists that must name its session."""
        return list(dict.fromkeys(key for _, (key, command) in self.listings if command[0] == "ZADD"))


def plan(store: RedisStore, changes: Sequence[Change]) -> list[Planned]:
    """``changes``, to be written with their events. Raises ``SessionDataError``."""
    planned: list[Planned] = []
    for change in changes:
        try:
            script, arguments = changing.call_of(change)
        except msgspec.MsgspecError:
            raise changing.no_object() from None
        planned.append(Planned(change, VERBS[script], arguments, changing.listing(store.keys, change)))
    return planned


def refused(changes: Sequence[Change], error: Exception) -> list[ChangeResult]:
    """The answer to ``changes`` of which none was written, because of ``error``. Raises ``NotTogether``."""
    if len(changes) > 1:
        raise NotTogether("One of the changes cannot be written, so neither they nor their events were.") from error
    if not changes:
        raise error
    return [error if isinstance(error, SessionDataError) else changing.as_result(error)]


def _refused_by_server(store: RedisStore, changes: Sequence[Change], error: hiredis.ReplyError) -> list[ChangeResult]:
    found = store.error(error, "not_applied")
    if word_of(error) == "OOM":
        # Not away: without the event, which needs memory, an end may yet be written.
        return refused(changes, StoreError(str(found)))
    if isinstance(found, StoreUnavailable) and changes:
        raise found
    return refused(changes, found)


async def apply(store: RedisStore, changes: Sequence[Change], events: Sequence[Event]) -> list[ChangeResult]:
    """See ``Store.apply``, with events."""
    try:
        planned = plan(store, changes)
    except SessionDataError as error:
        return refused(changes, error)
    wait = any(map(changing.must_last, changes))
    listings = [one for part in planned for one in part.listings]
    commands = [command for _, command in listings]
    commands.append(_call(store, planned, events))
    commands += [changing.sooner(store.keys, change) for change in changes if isinstance(change, End)]
    # A write that replicas were to confirm is not settled by reading it on the primary.
    replies = await store.try_all(commands, "unconfirmed" if wait and store.waits else "unknown", wait=wait)
    changing.note_listed(store, listings, replies)
    reply = replies[len(listings)]
    if isinstance(reply, hiredis.ReplyError):
        return _refused_by_server(store, changes, reply)
    of_events, *of_changes = plain(reply)
    failure = _why(store, planned, of_events, of_changes, changing.failed(listings, replies))
    if failure is not None:
        return refused(changes, failure)
    await store.bound.keep(store, of_events)
    if isinstance(reply, TooFewReplicas):
        of_changes = [TooFewReplicas(one, reply.had, reply.wanted) for one in of_changes]
    answers: dict[Sid, Any] = {change.sid: one for change, one in zip(changes, of_changes, strict=True)}
    results = {change.sid: changing.result_of(store, change, answers[change.sid]) for change in changes}
    await changing.list_again(store, changes, answers, results)
    return [results[change.sid] for change in changes]


def _call(store: RedisStore, planned: Sequence[Planned], events: Sequence[Event]) -> Keyed:
    keys: list[bytes] = []
    arguments: list[Argument] = [len(planned)]
    for one in planned:
        lists = one.lists
        keys += (store.keys.session(one.change.sid), *lists)
        arguments += (one.change.sid, one.verb, len(lists), len(one.arguments), *one.arguments)
    of_events, values = sealed(store.keys, events, strict=True)
    return call(scripts.TOGETHER, [*keys, *of_events], *arguments, *values)


def _why(
    store: RedisStore, planned: Sequence[Planned], of_events: Any, of_changes: Any, unlisted: dict[Sid, Exception]
) -> Exception | None:
    """Why nothing was written, if that is so."""
    if of_events != b"refused":
        return problem_of(of_events if isinstance(of_events, list) else [of_events, *of_changes])
    for one, why in zip(planned, of_changes, strict=True):
        if why:
            error = hiredis.ReplyError(why.decode())
            return store.error(unlisted.get(one.change.sid, error), "not_applied")
    return None
